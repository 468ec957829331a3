// The page in headless Chromium: the clip and a webcam make a body that moves, nothing is asked of another machine, and
// what is missing is told in plain words. Takes a few minutes without a graphics card.
//
//   node test.mjs [--chromium FILE] [--picture FILE] [--numbers FILE]
//
// --picture writes a screenshot, --numbers every frame's keypoints and recovery of the clip as JSON.

import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join, normalize } from "node:path";
import { parseArgs } from "node:util";
import { chromium } from "playwright-core";

const { values: given } = parseArgs({
  options: { chromium: { type: "string", default: "/usr/bin/chromium" }, picture: { type: "string" }, numbers: { type: "string" } },
});
const DIST = new URL("dist/", import.meta.url).pathname, FRAMES = 36, ARMS_UP = 20;
const KINDS = { html: "text/html", js: "text/javascript", mjs: "text/javascript", mp4: "video/mp4", wasm: "application/wasm", json: "application/json" };

const server = createServer((request, answer) => {
  const name = normalize(new URL(request.url, "http://localhost").pathname).replace(/\/$/, "/index.html");
  try {
    const content = readFileSync(join(DIST, name));
    answer.setHeader("content-type", KINDS[name.split(".").pop()] ?? "application/octet-stream");
    answer.end(content);
  } catch {
    answer.writeHead(404).end();
  }
});
await new Promise((done) => server.listen(0, "localhost", done));
const address = `http://localhost:${server.address().port}/`;

/** A page in a browser of its own, with these flags; `work` gets it when it has loaded. */
async function browse(flags, work, missing = null) {
  const plain = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"];
  const browser = await chromium.launch({
    executablePath: given.chromium, headless: true, args: ["--no-sandbox", "--disable-component-update", ...plain, ...flags],
  });
  const page = await browser.newPage({ viewport: { width: 1180, height: 700 } });
  const foreign = [], errors = [];
  page.on("request", (request) => /^(http:\/\/localhost:|data:|blob:)/.test(request.url()) || foreign.push(request.url()));
  page.on("pageerror", (error) => errors.push(error.message));
  if (missing) await page.route(`**/${missing}`, (route) => route.fulfill({ status: 404 }));
  await page.addInitScript(() => {
    window.seen = [];
    document.addEventListener("recovered", ({ detail: { seen, ...rest } }) => {
      const plain = seen && Object.fromEntries(Object.entries(seen).map(([name, row]) => [name, Array.from(row)]));
      window.seen.push({ ...rest, seen: plain });
    });
  });
  try {
    await page.goto(address);
    await page.waitForFunction(() => /Ready|Sorry/.test(document.getElementById("status").textContent), null, { timeout: 240_000 });
    await work(page);
    assert.deepEqual(errors, []);
    assert.deepEqual(foreign, [], "the page asked another machine");
  } finally {
    await browser.close();
  }
}

const told = (page) => page.textContent("#status");
const drawn = (page) => page.evaluate(() => ["front", "side"].map((id) => document.getElementById(id).toDataURL()));

/** Frames until there are so many; a body stands in nearly all of them, and moves. */
async function moves(page, frames, least) {
  await page.waitForFunction((count) => window.seen.length >= 2 || count < 2, frames, { timeout: 240_000 });
  const before = await drawn(page);
  await page.waitForFunction((count) => window.seen.length >= count, frames, { timeout: 600_000 });
  const after = await drawn(page);
  before.forEach((picture, k) => assert.notEqual(picture, after[k], "the picture stands still"));
  const rows = await page.evaluate(() => window.seen);
  const found = rows.filter(({ seen }) => seen && seen.box[2] > 0);
  assert.ok(found.length > 0.8 * rows.length, `a body in ${found.length} of ${rows.length} frames`);
  assert.ok(found.every(({ seen }) => Object.values(seen).flat().every(Number.isFinite)));
  const spread = found[0].seen.rotations.map((_, i) => {
    const values = found.map(({ seen }) => seen.rotations[i]);
    return Math.max(...values) - Math.min(...values);
  });
  assert.ok(Math.max(...spread) > least, `rotations change by ${Math.max(...spread)}`);
  console.log(`  ${found.length} of ${rows.length} frames with a body; ${await told(page)}`);
  return rows;
}

const camera = join(mkdtempSync(join(tmpdir(), "kinlmr-")), "camera.mjpeg");

console.log("the clip");
await browse([], async (page) => {
  assert.equal(await told(page), "Ready.");
  await page.click("#clip");
  if (given.picture) {
    await page.waitForFunction((count) => window.seen.length >= count, ARMS_UP, { timeout: 600_000 });
    await page.screenshot({ path: given.picture, ...(given.picture.endsWith("jpg") ? { type: "jpeg", quality: 85 } : {}) });
  }
  const rows = await moves(page, FRAMES, 1);
  assert.ok(rows.every(({ ticks }) => Math.abs(ticks - 1) < 1e-6));
  await page.click("#stop");
  if (given.numbers) writeFileSync(given.numbers, JSON.stringify(rows));
  const jpegs = await page.evaluate(async () => {
    const video = document.getElementById("video"), canvas = document.createElement("canvas"), found = [];
    [canvas.width, canvas.height] = [640, 400];
    for (let k = 0; k < 60; k++) {
      const there = new Promise((done) => video.addEventListener("seeked", done, { once: true }));
      video.currentTime = (k + 0.5) / 30;
      await there;
      canvas.getContext("2d").drawImage(video, 85, 0, 320, 200, 0, 0, 640, 400);
      found.push(canvas.toDataURL("image/jpeg", 0.9).split(",")[1]);
    }
    return found;
  });
  writeFileSync(camera, Buffer.concat(jpegs.map((text) => Buffer.from(text, "base64"))));
});

console.log("a webcam that shows the clip");
const fake = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"];
await browse([...fake, `--use-file-for-fake-video-capture=${camera}`], async (page) => {
  await page.click("#webcam");
  await moves(page, 12, 0.1);
});

console.log("no camera");
await browse([], async (page) => {
  await page.click("#webcam");
  await page.waitForFunction(() => /Sorry/.test(document.getElementById("status").textContent));
  assert.match(await told(page), /^Sorry: .*camera.*; the clip works without one\.$/);
  console.log(`  ${await told(page)}`);
});

console.log("no network");
await browse([], async (page) => {
  assert.match(await told(page), /^Sorry: step\.onnx is missing: run python prepare\.py/);
  console.log(`  ${await told(page)}`);
}, "step.onnx");

server.close();
console.log("passed");
