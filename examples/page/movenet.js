// The detector that kinlmr brings along: kinlmr.video.movenet, held to its numbers by tests/apps/test_page.py.
//
// A frame is { width, height, data }, RGBA bytes as a canvas gives them; keypoints are rows [x, y, confidence] in its pixels.

import { Follower } from "./following.js";

const SIDES = { thunder: 256, lightning: 192 }, LOOK = 384, LOOK_FAST = 256, EVERY = 6, EVERY_FAST = 15;
const STRIDE = 32, DOUBT = 0.3, SEEN = 0.05;

/** The networks by which a frame is looked at: `models` has, by name, a function that promises a network's numbers. */
export function movenet({ multipose, ...models }, people, fast) {
  const name = fast ? "lightning" : "thunder", side = SIDES[name];
  const look = (frame) => lookAtAll(multipose, frame, fast ? LOOK_FAST : LOOK);
  const close = async (frame, window) => {
    const { picture, back } = cropped(frame, window, side);
    let found = rows(await models[name](picture, side, side));
    if (!fast && mean(found) < DOUBT) {
      const again = rows(await models[name](evened(picture), side, side));
      if (mean(again) > mean(found)) found = again;
    }
    return found.map(([y, x, sure]) => [x * side * back[2] + back[0], y * side * back[3] + back[1], root(sure)]);
  };
  return new Follower(look, close, people, fast ? EVERY_FAST : EVERY);
}

/** Everybody in a frame as [keypoints, score], up to six people, by multipose on so many pixels of the longer side. */
async function lookAtAll(multipose, frame, longer) {
  const shrink = longer / Math.max(frame.width, frame.height);
  const [width, height] = [frame.width, frame.height].map((x) => Math.max(Math.round(x * shrink), 1));
  const [wide, high] = [width, height].map((x) => Math.ceil(x / STRIDE) * STRIDE);
  const small = resized(frame, 0, 0, frame.width, frame.height, width, height);
  const picture = new Uint8Array(3 * wide * high);
  for (let y = 0; y < height; y++) picture.set(small.subarray(3 * width * y, 3 * width * (y + 1)), 3 * wide * y);
  const found = await multipose(picture, high, wide), people = [];
  const scale = [(wide * frame.width) / width, (high * frame.height) / height];
  for (let k = 0; k < found.length; k += 56) {
    const points = rows(found.subarray(k, k + 51)).map(([y, x, sure]) => [x * scale[0], y * scale[1], root(sure)]);
    if (found[k + 55] > SEEN) people.push([points, found[k + 55]]);
  }
  return people;
}

const root = (sure) => Math.sqrt(Math.min(Math.max(sure, 0), 1)); // MoveNet says 0.5 where others say 0.9
const mean = (points) => points.reduce((total, p) => total + p[2], 0) / points.length;

function rows(numbers) {
  return Array.from({ length: numbers.length / 3 }, (_, k) => Array.from(numbers.subarray(3 * k, 3 * k + 3)));
}

// ------------------------------------------------------------------------------------------------------------- pictures

/** The window of a frame on side x side pixels, black beyond the edge; back: left, top, a pixel's width and height. */
export function cropped(frame, window, side) {
  const left = Math.round(window.x - window.width / 2), top = Math.round(window.y - window.height / 2);
  const width = Math.max(Math.round(window.width), 1), height = Math.max(Math.round(window.height), 1);
  return { picture: resized(frame, left, top, width, height, side, side), back: [left, top, width / side, height / side] };
}

/** A part of a frame in another size, RGB, averaged where it shrinks. */
export function resized(frame, left, top, width, height, wide, high) {
  const across = taps(left, width, wide, frame.width), down = taps(top, height, high, frame.height);
  const [upper, lower] = [Math.min(Math.max(top, 0), frame.height), Math.min(Math.max(top + height, 0), frame.height)];
  const rows = new Uint8ClampedArray(3 * wide * (lower - upper)), out = new Uint8ClampedArray(3 * wide * high);
  for (let y = upper; y < lower; y++) {
    for (let x = 0; x < wide; x++) {
      const { first, weights } = across[x];
      let r = 0, g = 0, b = 0, at = 4 * (y * frame.width + first);
      for (const w of weights) {
        r += w * frame.data[at];
        g += w * frame.data[at + 1];
        b += w * frame.data[at + 2];
        at += 4;
      }
      rows.set([r, g, b], 3 * ((y - upper) * wide + x));
    }
  }
  const line = new Float64Array(3 * wide);
  for (let y = 0; y < high; y++) {
    line.fill(0);
    down[y].weights.forEach((w, k) => {
      const at = 3 * wide * (down[y].first + k - upper);
      for (let i = 0; i < line.length; i++) line[i] += w * rows[at + i];
    });
    out.set(line, 3 * wide * y);
  }
  return new Uint8Array(out.buffer);
}

/** For each pixel of `out`, which pixels of a frame make it, of those from `start` on: a triangle over its neighbours. */
function taps(start, length, out, end) {
  const scale = length / out, reach = Math.max(scale, 1);
  return Array.from({ length: out }, (_, k) => {
    const centre = scale * (k + 0.5);
    const low = Math.max(Math.floor(centre - reach + 0.5), 0), high = Math.min(Math.floor(centre + reach + 0.5), length);
    const all = Array.from({ length: high - low }, (_, i) => Math.max(1 - Math.abs((low + i - centre + 0.5) / reach), 0));
    const total = all.reduce((a, b) => a + b, 0), from = Math.max(low + start, 0), to = Math.max(Math.min(high + start, end), from);
    return { first: from, weights: all.slice(from - low - start, to - low - start).map((w) => w / total) };
  });
}

/** Half of a picture, half of it with all greys equally frequent: shows who stands in front of the sun. */
export function evened(picture) {
  const pixels = picture.length / 3, counts = new Uint32Array(256), gain = new Float64Array(256);
  const grey = Uint8Array.from({ length: pixels }, (_, k) => (picture[3 * k] + picture[3 * k + 1] + picture[3 * k + 2]) / 3);
  grey.forEach((x) => counts[x]++);
  let below = 0;
  counts.forEach((count, x) => (gain[x] = 0.5 + (0.5 * 255 * (below += count)) / pixels / Math.max(x, 1)));
  return picture.map((x, i) => Math.min(x * gain[grey[Math.floor(i / 3)]], 255));
}
