// The page in headless Chromium: the demo clip, a file and a webcam make bodies that move, GLB and BVH are saved, nothing is
// asked of another machine, and what is missing is told in plain words. Takes minutes without a graphics card.
//
//   npm ci && node test.mjs [--chromium FILE] [--python FILE] [--out FOLDER] [--frames N] [--picture FILE --at N]
//
// --out keeps person1.bvh and numbers.json: every frame's time, keypoints and recoveries of the clip; the webcam's people.glb.
// --picture takes a screenshot of the clip's frame --at.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { chromium } from "playwright-core";

const text = (value) => ({ type: "string", ...(value && { default: value }) });
const { values: given } = parseArgs({
  options: {
    chromium: text("/usr/bin/chromium"), python: text("python3"), out: text(mkdtempSync(join(tmpdir(), "kinlmr-"))),
    frames: text("24"), picture: text(), at: text("20"),
  },
});
const HERE = import.meta.dirname ?? new URL(".", import.meta.url).pathname, LONG = { timeout: 900_000 };
const PLAIN = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync",
  "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
];
const film = join(given.out, "film.mjpeg");
mkdirSync(given.out, { recursive: true });

const server = spawn(given.python, [join(HERE, "serve.py"), "--port", "0"], { stdio: ["ignore", "pipe", "inherit"] });
const address = await new Promise((done, failed) => {
  createInterface({ input: server.stdout }).on("line", (line) => line.startsWith("http") && done(line.split(" ")[0]));
  server.on("exit", () => failed(new Error("serve.py ended")));
});

/** A browser with these flags; `work` gets a function that opens the page. */
async function browse(flags, work) {
  const browser = await chromium.launch({ executablePath: given.chromium, headless: true, args: [...PLAIN, ...flags] });
  const foreign = [], errors = [];
  const open = async (missing = null) => {
    const page = await browser.newPage({ viewport: { width: 1180, height: 700 } });
    page.on("request", (request) => /^(http:\/\/localhost:|data:|blob:)/.test(request.url()) || foreign.push(request.url()));
    page.on("pageerror", (error) => errors.push(error.message));
    if (missing) await page.route(`**/${missing}`, (route) => route.fulfill({ status: 404 }));
    await page.addInitScript(() => {
      window.seen = [];
      const plain = (_, value) => (ArrayBuffer.isView(value) ? Array.from(value) : value);
      document.addEventListener("recovered", ({ detail }) => window.seen.push(JSON.parse(JSON.stringify(detail, plain))));
    });
    await page.goto(address);
    await page.waitForFunction(() => /Ready|Sorry/.test(document.getElementById("status").textContent), null, LONG);
    return page;
  };
  try {
    await work(open);
    assert.deepEqual(errors, []);
    assert.deepEqual(foreign, [], "the page asked another machine");
  } finally {
    await browser.close();
  }
}

const told = (page) => page.textContent("#status");
const drawn = (page) => page.evaluate(() => ["front", "side"].map((id) => document.getElementById(id).toDataURL()));
const until = (page, frames) => page.waitForFunction((count) => window.seen.length >= count, frames, LONG);

/** The clip's first frames as a film that Chromium shows as a webcam's. */
async function filmed(page, path) {
  const pictures = await page.evaluate(async () => {
    const video = document.createElement("video"), canvas = document.createElement("canvas"), found = [];
    video.src = URL.createObjectURL(await (await fetch("demo.mp4")).blob());
    await new Promise((done) => (video.onloadeddata = done));
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    for (let k = 0; k < 30; k++) {
      const there = new Promise((done) => video.addEventListener("seeked", done, { once: true }));
      video.currentTime = (k + 0.5) / 30;
      await there;
      canvas.getContext("2d").drawImage(video, 0, 0);
      found.push(canvas.toDataURL("image/jpeg", 0.95).split(",")[1]);
    }
    return found;
  });
  writeFileSync(path, Buffer.concat(pictures.map((one) => Buffer.from(one, "base64"))));
}

async function stopped(page) {
  await page.click("#stop");
  await page.waitForFunction(() => document.getElementById("stop").disabled, null, LONG);
}

/** Frames until there are so many; the pictures change, somebody is in most of them, and turns by more than `least`. */
async function moves(page, frames, least) {
  await until(page, 6);
  const before = await drawn(page);
  await until(page, frames);
  const after = await drawn(page);
  before.forEach((picture, k) => assert.notEqual(picture, after[k], "the picture stands still"));
  const rows = await page.evaluate(() => window.seen), found = rows.flatMap(({ people }) => people);
  assert.ok(rows.filter(({ people }) => people.length).length > 0.5 * rows.length, "a body in too few frames");
  assert.ok(found.every(({ seen, world }) => Object.values({ ...seen, ...world }).flat().every(Number.isFinite)));
  const first = found.filter(({ number }) => number === found[0].number);
  const spread = found[0].seen.rotations.map((_, i) => {
    const values = first.map(({ seen }) => seen.rotations[i]);
    return Math.max(...values) - Math.min(...values);
  });
  assert.ok(Math.max(...spread) > least, `rotations change by ${Math.max(...spread)}`);
  console.log(`  ${found.length} bodies in ${rows.length} frames; ${await told(page)}`);
  return rows;
}

/** So many files that a button saves. */
async function saved(page, button, count) {
  const files = [], note = (file) => files.push(file);
  page.on("download", note);
  await page.click(button);
  for (let k = 0; k < 100 && files.length < count; k++) await new Promise((done) => setTimeout(done, 200));
  page.off("download", note);
  assert.equal(files.length, count, `${button} saves ${files.length} files`);
  for (const file of files) await file.saveAs(join(given.out, file.suggestedFilename()));
}

try {
  await browse([], async (open) => {
    console.log("the clip");
    const page = await open();
    console.log(`  ${await told(page)}`);
    await page.click("#clip");
    if (given.picture) {
      await until(page, Number(given.at));
      await page.screenshot({ path: given.picture, ...(given.picture.endsWith("jpg") ? { type: "jpeg", quality: 80 } : {}) });
    }
    const rows = await moves(page, Number(given.frames), 0.3);
    rows.forEach(({ time }, k) => assert.ok(Math.abs(time - k / 30) < 1e-3, `frame ${k} at ${time} s`));
    await stopped(page);
    const all = await page.evaluate(() => window.seen);
    writeFileSync(join(given.out, "numbers.json"), JSON.stringify(all));
    await saved(page, "#glb", 1);
    await saved(page, "#bvh", new Set(all.flatMap(({ people }) => people.map(({ number }) => number))).size);

    console.log("a file, faster");
    await filmed(page, film);
    await page.evaluate(() => (window.seen = []));
    await page.check("#fast");
    await page.setInputFiles("#file", join(HERE, "../../kinlmr/video/data/demo.mp4"));
    await moves(page, 12, 0.1);
    await stopped(page);

    console.log("no camera, no video");
    await page.click("#webcam");
    await page.waitForFunction(() => /Sorry/.test(document.getElementById("status").textContent));
    assert.match(await told(page), /^Sorry: .*camera.*; a file works without one\.$/);
    await page.setInputFiles("#file", { name: "notes.mp4", mimeType: "video/mp4", buffer: Buffer.from("notes") });
    await page.waitForFunction(() => /notes/.test(document.getElementById("status").textContent));
    assert.match(await told(page), /^Sorry: the browser cannot play notes\.mp4/);
    assert.match(await told(await open("step.onnx")), /^Sorry: step\.onnx is missing: run python serve\.py/);
  });

  console.log("a webcam that shows the clip");
  const fake = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", `--use-file-for-fake-video-capture=${film}`];
  await browse(fake, async (open) => {
    const page = await open();
    await page.check("#fast");
    await page.click("#webcam");
    const rows = await moves(page, 12, 0.01);
    rows.slice(1).forEach(({ time }, k) => assert.ok(time > rows[k].time));
    await stopped(page);
    await saved(page, "#glb", 1);
  });
  console.log("passed");
} finally {
  server.removeAllListeners("exit");
  server.kill();
}
