// The page: pictures of a webcam or of the clip -> keypoints (MediaPipe) -> body (kinlmr.js, onnxruntime-web) -> canvas.

import { FilesetResolver, PoseLandmarker } from "./vision_bundle.mjs";
import * as ort from "./ort.wasm.min.mjs";
import { convert, inCamera, recover } from "./kinlmr.js";
import { pose } from "./body.js";
import { fromTheSide, overVideo, paint } from "./draw.js";

const CLIP = { file: "demo.mp4", fps: 30, frames: 150 }; // then the man leaps off his box
const LOOK = { x: 85, y: 0, width: 320, height: 200, zoom: 2 }; // of the clip, where people are small: around the man
const MOST = 8; // steps to catch up with a late frame
const SHOWN = 0.3, PATIENCE = 1; // seconds without a person: how long the body is drawn, and followed
const OPACITY = 0.85;

const $ = (id) => document.getElementById(id);
const video = $("video"), front = $("front"), side = $("side");
const picture = document.createElement("canvas"), overlay = document.createElement("canvas");
let running = null; // { stopped } of the source that is shown
let clock = 0; // MediaPipe wants times that only grow, in milliseconds

function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("wrong", wrong);
}

// ---------------------------------------------------------------------------------------------------------- the models

async function fetched(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name} is missing: run python prepare.py in examples/page, and serve the folder dist`);
  return answer;
}

/** MediaPipe on the graphics card, where there is one; else on the processor. */
async function findDetector() {
  const canvas = new OffscreenCanvas(1, 1), gl = canvas.getContext("webgl2");
  const info = gl?.getExtension("WEBGL_debug_renderer_info");
  const name = gl ? String(gl.getParameter(info ? info.UNMASKED_RENDERER_WEBGL : gl.RENDERER)) : "none";
  const delegate = !gl || /swiftshader|llvmpipe|software/i.test(name) ? "CPU" : "GPU";
  const modelAssetBuffer = new Uint8Array(await (await fetched("pose.task")).arrayBuffer());
  const files = await FilesetResolver.forVisionTasks("wasm");
  const options = (chosen) => ({ baseOptions: { modelAssetBuffer, delegate: chosen }, runningMode: "VIDEO", numPoses: 1 });
  try {
    return await PoseLandmarker.createFromOptions(files, options(delegate));
  } catch (error) {
    if (delegate === "CPU") throw error;
    return PoseLandmarker.createFromOptions(files, options("CPU"));
  }
}

async function load() {
  ort.env.wasm.numThreads = 1; // more need headers that a plain server does not send
  ort.env.wasm.wasmPaths = new URL("wasm/", location.href).href;
  const [facts, body, network] = await Promise.all([
    fetched("model.json").then((answer) => answer.json()),
    fetched("body.json").then((answer) => answer.json()),
    fetched("step.onnx").then((answer) => answer.arrayBuffer()),
  ]);
  const session = await ort.InferenceSession.create(new Uint8Array(network), { executionProviders: ["wasm"] });
  const tensor = (numbers, shape) => new ort.Tensor("float32", Float32Array.from(numbers), [1, ...shape]);
  const step = async (features, memory) => {
    const inputs = { frame: tensor(features, facts.features), memory: tensor(memory, facts.memory) };
    const { rotations, shape, camera, memory_after } = await session.run(inputs);
    return { rotations: rotations.data, shape: shape?.data ?? [], camera: camera?.data, memory: memory_after.data };
  };
  const memory = facts.memory.reduce((a, b) => a * b);
  return { facts, detector: await findDetector(), model: { body, step, memory, fps: facts.fps, confidence: facts.confidence } };
}

// ---------------------------------------------------------------------------------------------------------- the sources

/** The clip's frames one after the other, however long each takes: { time in seconds, label }. */
async function* clipFrames(run) {
  video.srcObject = null;
  video.src = URL.createObjectURL(await (await fetched(CLIP.file)).blob()); // a plain server's files cannot be sought in
  await new Promise((done, failed) => {
    video.onloadeddata = done;
    video.onerror = () => failed(new Error("the browser cannot play the clip (demo.mp4, H.264)"));
  });
  for (let k = 0; k < CLIP.frames && !run.stopped; k++) {
    const there = new Promise((done) => video.addEventListener("seeked", done, { once: true }));
    video.currentTime = (k + 0.5) / CLIP.fps;
    await there;
    yield { time: k / CLIP.fps, label: `frame ${k + 1} of ${CLIP.frames}` };
  }
}

/** The webcam's newest frame, each time that the last one is done. */
async function* webcamFrames(run) {
  if (!navigator.mediaDevices) throw new Error("the browser gives a camera only to pages of localhost or of https");
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 480, frameRate: 30 } });
  } catch (error) {
    const why = { NotFoundError: "no camera was found", NotAllowedError: "the camera was not allowed" }[error.name];
    throw new Error(`${why ?? `the camera did not start (${error.message})`}; the clip works without one`);
  }
  try {
    video.srcObject = stream;
    await video.play();
    while (!run.stopped) {
      yield { time: await nextFrame(), label: "webcam" };
    }
  } finally {
    stream.getTracks().forEach((track) => track.stop());
  }
}

/** The time, in seconds, of the next frame that the video shows. */
function nextFrame() {
  return new Promise((done) => {
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback((now) => done(now / 1000));
    else requestAnimationFrame((now) => done(now / 1000));
  });
}

const DEMO = { frames: clipFrames, look: LOOK }, WEBCAM = { frames: webcamFrames, look: null };

// ------------------------------------------------------------------------------------------------------------- the work

/** Pictures of a source until it ends or another is started. */
async function show({ facts, detector, model }, { frames, look }, run) {
  let state = null, before = null, away = 0, count = 0;
  const begun = performance.now();
  clock += 1000;
  const start = clock;
  for await (const { time, label } of frames(run)) {
    if (run.stopped) break;
    const ticks = before === null ? 1 : Math.min((time - before) * facts.fps, MOST);
    const t0 = performance.now();
    clock = Math.max(clock + 1, start + Math.round(1000 * time));
    const view = look ?? { x: 0, y: 0, width: video.videoWidth, height: video.videoHeight, zoom: 1 };
    take(view);
    const found = detect(detector, view);
    const t1 = performance.now();
    const points = convert(found ?? facts.detected.map(() => [0, 0, 0]), facts.detected, facts.wanted);
    away = found || before === null ? 0 : away + time - before;
    if (away > PATIENCE) state = null;
    before = time;
    let seen = null;
    if (found || state !== null) ({ seen, state } = await recover(model, points, ticks, state));
    const t2 = performance.now();
    draw(model.body, away > SHOWN ? null : seen, points, view);
    const t3 = performance.now(), ms = (a, b) => `${Math.round(b - a)} ms`;
    count += 1;
    say(
      `${label}: ${((1000 * count) / (t3 - begun)).toFixed(1)} frames a second (keypoints ${ms(t0, t1)}, ` +
        `body ${ms(t1, t2)}, drawing ${ms(t2, t3)})${found ? "" : "; nobody is seen"}`,
    );
    document.dispatchEvent(new CustomEvent("recovered", { detail: { time, ticks, points, seen } }));
    await new Promise((done) => setTimeout(done)); // lets the browser show it
  }
}

/** Puts what is to be seen of the video's frame on the canvas `picture`. */
function take({ x, y, width, height, zoom }) {
  for (const canvas of [picture, overlay, front]) [canvas.width, canvas.height] = [zoom * width, zoom * height];
  side.width = side.height = front.height;
  picture.getContext("2d").drawImage(video, x, y, width, height, 0, 0, picture.width, picture.height);
}

/** MediaPipe's 33 keypoints [x, y, visibility] in pixels of the video; null where it sees nobody. */
function detect(detector, { x, y, width, height }) {
  const marks = detector.detectForVideo(picture, clock).landmarks[0];
  return marks ? marks.map((mark) => [x + width * mark.x, y + height * mark.y, mark.visibility]) : null;
}

function draw(body, seen, points, { x, y, zoom }) {
  const context = front.getContext("2d"), over = overlay.getContext("2d");
  context.drawImage(picture, 0, 0);
  if (seen === null || !(seen.box[2] > 0)) return;
  const { vertices } = pose(body, seen.rotations, seen.shape, { vertices: true });
  over.setTransform(zoom, 0, 0, zoom, -zoom * x, -zoom * y);
  paint(over, overVideo(vertices, seen.camera, seen.box), body.mesh.faces);
  context.globalAlpha = OPACITY;
  context.drawImage(overlay, 0, 0);
  context.globalAlpha = 1;
  context.setTransform(over.getTransform());
  context.fillStyle = "#e8593c"; // the keypoints that were found
  for (const [u, v, sure] of points) if (sure > 0.3) context.fillRect(u - 2 / zoom, v - 2 / zoom, 4 / zoom, 4 / zoom);
  const size = [video.videoWidth, video.videoHeight], turned = inCamera(body, seen, size, Math.hypot(...size));
  const { joints, vertices: turnedVertices } = pose(body, turned.rotations, seen.shape, { vertices: true });
  const root = joints[body.parents.indexOf(-1)];
  paint(side.getContext("2d"), fromTheSide(turnedVertices, root, side), body.mesh.faces);
}

async function start(loaded, source) {
  if (running) running.stopped = true;
  const run = (running = { stopped: false });
  const busy = (now) => [$("webcam").disabled, $("clip").disabled, $("stop").disabled] = [now, now, !now];
  busy(true);
  front.classList.toggle("mirrored", source === WEBCAM);
  try {
    await show(loaded, source, run);
  } catch (error) {
    say(`Sorry: ${error.message}.`, true);
  }
  busy(false);
}

say("Loading the models…");
try {
  const loaded = await load();
  say("Ready.");
  $("clip").onclick = () => start(loaded, DEMO);
  $("webcam").onclick = () => start(loaded, WEBCAM);
  $("stop").onclick = () => (running.stopped = true);
} catch (error) {
  say(`Sorry: ${error.message}.`, true);
}
