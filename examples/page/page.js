// The page: pictures of a webcam or a file -> keypoints (movenet.js) -> bodies (kinlmr.js) on a floor (world.js) -> canvas,
// GLB, BVH.

import { bvh, glb, take } from "./export.js";
import { convert, recover } from "./kinlmr.js";
import { pose } from "./body.js";
import { COLORS, overVideo, paint, Stage } from "./draw.js";
import { movenet } from "./movenet.js";
import { fileFrames, webcamFrames } from "./sources.js";
import { levelled, toWorld } from "./world.js";

const PEOPLE = 4; // at most
const MOST = 8; // steps to catch up with a late frame
const FIRM = 0.12; // seconds in succession that make somebody a person
const NOBODY = Array.from({ length: 17 }, () => [0, 0, 0]);
const SHOWN = 0.3, PATIENCE = 1; // seconds without keypoints: how long a body is drawn, and followed
const KEPT = 600, PATH = 10; // seconds that are kept for the files, and that the side view shows of the way
const LARGEST = 1280, OPACITY = 0.85; // of pictures, the longer side in pixels

const $ = (id) => document.getElementById(id);
const video = $("video"), front = $("front"), side = $("side");
const picture = document.createElement("canvas"), overlay = document.createElement("canvas");
let running = null; // { stopped } of the source that is shown
let recorded = []; // of each person { number, last, world, frames: as toWorld has them, with the time }

function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("wrong", wrong);
}

// ---------------------------------------------------------------------------------------------------------- the models

async function fetched(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name} is missing: run python serve.py in examples/page`);
  return answer;
}

/** onnxruntime on the graphics card, where the browser has one, else on the processor: { ort, card }. */
async function findRuntime() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  const card = Boolean(adapter) && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter);
  const ort = await import(card ? "./ort.webgpu.min.mjs" : "./ort.wasm.min.mjs");
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, 4) : 1;
  ort.env.wasm.wasmPaths = new URL("wasm/", location.href).href;
  return { ort, card };
}

/** A function that promises the numbers of a MoveNet's people for a picture. It is loaded when it is first wanted. */
function looking({ ort, card }, name) {
  let session = null;
  const create = async () => {
    const data = new Uint8Array(await (await fetched(`movenet-${name}.onnx`)).arrayBuffer());
    const on = (...executionProviders) => ort.InferenceSession.create(data, { executionProviders });
    return card ? on("webgpu", "wasm").catch(() => on("wasm")) : on("wasm");
  };
  return async (data, height, width) => {
    const ready = await (session ??= create());
    const found = await ready.run({ [ready.inputNames[0]]: new ort.Tensor("uint8", data, [1, height, width, 3]) });
    return found[ready.outputNames[0]].data;
  };
}

async function load() {
  const json = (name) => fetched(name).then((answer) => answer.json());
  const [facts, body, world, network, runtime] = await Promise.all([
    json("model.json"), json("body.json"), json("world.json"),
    fetched("step.onnx").then((answer) => answer.arrayBuffer()),
    findRuntime(),
  ]);
  const { ort } = runtime;
  const session = await ort.InferenceSession.create(new Uint8Array(network), { executionProviders: ["wasm"] });
  const tensor = (numbers, shape) => new ort.Tensor("float32", Float32Array.from(numbers), [1, ...shape]);
  const step = async (features, memory) => {
    const inputs = { frame: tensor(features, facts.features), memory: tensor(memory, facts.memory) };
    const { rotations, shape, camera, memory_after } = await session.run(inputs);
    return { rotations: rotations.data, shape: shape?.data ?? [], camera: camera?.data, memory: memory_after.data };
  };
  const memory = facts.memory.reduce((a, b) => a * b);
  const networks = Object.fromEntries(["multipose", "thunder", "lightning"].map((name) => [name, looking(runtime, name)]));
  const model = { body, world, step, memory, fps: facts.fps, confidence: facts.confidence };
  return { facts, networks, model, card: runtime.card, threads: ort.env.wasm.numThreads };
}

// ------------------------------------------------------------------------------------------------------------- the work

/** Pictures of a source until it ends or another is started. */
async function show({ facts, networks, model }, frames, run) {
  const detector = movenet(networks, PEOPLE, $("fast").checked), people = new Map();
  const stage = new Stage(model.world.constants.stage);
  let before = null, count = 0, begun = null;
  recorded = [];
  for await (const { time, label } of frames) {
    if (run.stopped) break;
    const passed = before === null ? 1 / facts.fps : time - before, t0 = performance.now();
    begun ??= t0;
    before = time;
    const view = look(), found = await detector.detect(view.pixels), t1 = performance.now();
    follow(people, found, time, passed);
    for (const person of people.values()) await move(person, model, facts, time, passed);
    stand([...people.values()].filter(({ ticks }) => ticks), model, facts, view, time);
    const t2 = performance.now(), here = [...people.values()].filter(({ number }) => number !== null);
    draw(model.body, here, view, stage);
    const t3 = performance.now(), ms = (a, b) => `${Math.round(b - a)} ms`;
    count += 1;
    say(
      `${label}, people: ${here.length}; ${((1000 * count) / (t3 - begun)).toFixed(1)} frames a second ` +
        `(keypoints ${ms(t0, t1)}, bodies ${ms(t1, t2)}, drawing ${ms(t2, t3)})`,
    );
    const told = here.map(({ number, points, seen, frames }) => ({ number, points, seen, world: frames.at(-1) }));
    document.dispatchEvent(new CustomEvent("recovered", { detail: { time, people: told } }));
    await new Promise((done) => setTimeout(done)); // lets the browser show it
  }
}

/** The video's frame on the canvas `picture`: its pixels for the detector, and the sizes. */
function look() {
  const { videoWidth: width, videoHeight: height } = video, shrink = Math.min(1, LARGEST / Math.max(width, height));
  const zoom = LARGEST / Math.max(width, height) / shrink; // of the canvas that is shown
  [picture.width, picture.height] = [Math.round(width * shrink), Math.round(height * shrink)];
  for (const canvas of [overlay, front]) [canvas.width, canvas.height] = [picture.width * zoom, picture.height * zoom];
  side.width = side.height = front.height;
  const context = picture.getContext("2d", { willReadFrequently: true });
  context.drawImage(video, 0, 0, picture.width, picture.height);
  return { zoom, size: [picture.width, picture.height], pixels: context.getImageData(0, 0, picture.width, picture.height) };
}

/** Who is who: whom the detector follows, until they were away for a second. */
function follow(people, found, time, passed) {
  for (const [id, person] of people) {
    const now = found.find((one) => one.person.id === id)?.keypoints;
    Object.assign(person, { found: now ?? NOBODY, away: now ? 0 : person.away + passed });
    if (person.away > (person.number === null ? 0 : PATIENCE)) people.delete(id);
  }
  for (const { person, keypoints } of found)
    if (!people.has(person.id))
      people.set(person.id, { number: null, since: time, state: null, seen: null, found: keypoints, away: 0 });
}

/** The body of a person in this frame, and at the clock's ticks since the last one. */
async function move(person, model, facts, time, passed) {
  if (person.number === null) {
    if (time - person.since < FIRM) return;
    Object.assign(person, { number: recorded.length, frames: [], world: null });
    recorded.push(person);
  }
  const ticks = Math.min(passed * facts.fps, MOST);
  person.points = convert(person.found, facts.detected, facts.wanted);
  const found = await recover(model, person.points, ticks, person.state);
  Object.assign(person, { seen: found.seen, state: found.state, ticks: found.ticks.filter(({ box }) => box[2] > 0) });
  if (person.away === 0) person.last = time;
}

/** People on one floor, tick by tick, remembered for the files. */
function stand(people, { body, world, fps }, facts, { size }, time) {
  for (let k = 0; people.some(({ ticks }) => k < ticks.length); k++) {
    const here = people.filter(({ ticks, world }) => k < ticks.length || world);
    const rows = here.map(({ ticks, world: state }) => {
      const seen = ticks[k] ?? null;
      return { state, seen, points: seen && convert(seen.points, facts.wanted, facts.detected) };
    });
    const found = toWorld({ body, world, fps }, rows, size, Math.hypot(...size));
    found.forEach(({ state, ...frame }, i) => {
      const { ticks, frames, state: { phase } } = here[i];
      here[i].world = state;
      if (!rows[i].seen) return;
      const moment = time - (phase + ticks.length - 1 - k) / fps;
      frames.push({ ...frame, time: moment, rotations: Float32Array.from(frame.rotations) });
      while (frames[0].time < time - KEPT) frames.shift();
    });
  }
}

function draw(body, people, { zoom }, stage) {
  const context = front.getContext("2d"), over = overlay.getContext("2d");
  context.drawImage(picture, 0, 0, front.width, front.height);
  const shown = people.filter(({ seen, away }) => seen?.box[2] > 0 && away <= SHOWN);
  const layer = over.createImageData(front.width, front.height), colorOf = ({ number }) => COLORS[number % COLORS.length];
  const nearest = (one, two) => one.seen.camera[0] * one.seen.box[2] - two.seen.camera[0] * two.seen.box[2]; // is painted last
  for (const person of [...shown].sort(nearest)) {
    const { rotations, shape, camera, box } = person.seen, { vertices } = pose(body, rotations, shape, { vertices: true });
    paint(layer, overVideo(vertices, camera, box, zoom), body.mesh.faces, colorOf(person));
  }
  over.putImageData(layer, 0, 0);
  drawWorld(body, shown.filter(({ frames }) => frames.length), colorOf, stage);
  context.globalAlpha = OPACITY;
  context.drawImage(overlay, 0, 0);
  context.globalAlpha = 1;
  context.fillStyle = "#e8593c"; // the keypoints that were found
  for (const { points } of shown)
    for (const [u, v, sure] of points) if (sure > 0.3) context.fillRect(zoom * u - 2, zoom * v - 2, 4, 4);
}

/** People on their floor, from the side, with the ways that they took. */
function drawWorld(body, people, colorOf, stage) {
  for (const { frames } of people) stage.hold(frames.at(-1).root);
  if (!Number.isFinite(stage.ground[0])) return;
  const context = side.getContext("2d", { willReadFrequently: true }), now = ({ frames }) => frames.at(-1);
  const placed = stage.lens(people.map((person) => now(person).root), side), depth = (person) => placed(now(person).root)[2];
  const paths = people.map((person) => {
    const lately = person.frames.filter(({ time }) => time > now(person).time - PATH);
    return { rows: lately.map(({ root }) => root), color: colorOf(person) };
  });
  stage.floor(context, placed, paths);
  const picture = context.getImageData(0, 0, side.width, side.height);
  for (const person of [...people].sort((one, two) => depth(two) - depth(one))) {
    const { rotations, shape, translation } = now(person), { vertices } = pose(body, rotations, shape, { vertices: true });
    const flat = new Float64Array(vertices.length);
    for (let i = 0; i < flat.length; i += 3) flat.set(placed(translation.map((x, k) => x + vertices[i + k])), i);
    paint(picture, flat, body.mesh.faces, colorOf(person));
  }
  context.putImageData(picture, 0, 0);
}

// ----------------------------------------------------------------------------------------------------------- the buttons

/** Everybody who was seen, until they were last seen, as takes of the model's clock. */
function takes({ model }) {
  const begun = recorded.filter(({ frames, last }) => frames.some(({ time }) => time <= last));
  const people = begun.map(({ frames, last, world }) => {
    return { ups: world.evidence.ups, frames: frames.filter(({ time }) => time <= last) };
  });
  return people.length ? levelled(model, people).map((frames) => take(model.body, frames, model.fps)) : [];
}

function save(name, content, type) {
  const link = document.createElement("a");
  Object.assign(link, { href: URL.createObjectURL(new Blob([content], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function start(loaded, frames, mirrored) {
  if (running) running.stopped = true;
  const run = (running = { stopped: false });
  const busy = (now) => {
    for (const id of ["webcam", "file", "clip", "fast"]) $(id).disabled = now;
    $("stop").disabled = !now;
    $("glb").disabled = $("bvh").disabled = now || !recorded.some((person) => person.frames.length);
  };
  busy(true);
  front.classList.toggle("mirrored", mirrored);
  try {
    await show(loaded, frames(run), run);
  } catch (error) {
    say(`Sorry: ${error.message}.`, true);
  }
  busy(false);
}

say("Loading the models…");
try {
  const loaded = await load(), { body } = loaded.model;
  say(`Ready, on ${loaded.card ? "the graphics card" : `the processor, threads: ${loaded.threads}`}.`);
  $("webcam").onclick = () => start(loaded, (run) => webcamFrames(video, run), true);
  const clip = async function* (run) {
    yield* fileFrames(video, await (await fetched("demo.mp4")).blob(), run);
  };
  $("clip").onclick = () => start(loaded, clip, false);
  $("file").onchange = async ({ target }) => {
    const [file] = target.files;
    if (file) await start(loaded, (run) => fileFrames(video, file, run), false);
    target.value = "";
  };
  $("stop").onclick = () => (running.stopped = true);
  $("glb").onclick = () => save("people.glb", glb(body, takes(loaded)), "model/gltf-binary");
  $("bvh").onclick = () => takes(loaded).forEach((one, k) => save(`person${k + 1}.bvh`, bvh(body, one), "text/plain"));
  for (const id of ["webcam", "file", "clip"]) $(id).disabled = false;
} catch (error) {
  say(`Sorry: ${error.message}.`, true);
}
