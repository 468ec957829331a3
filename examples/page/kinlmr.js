// kinlmr's recovery of one person in plain JavaScript: the same numbers as kinlmr.keypoints, kinlmr.camera and
// kinlmr.recovery, which say why things are as they are. tests/test_page.py holds both sides together.
//
// Keypoints are K rows [x, y, confidence] in pixels, a box is [cx, cy, side] in pixels, a camera [s, tx, ty] in units of
// the box. Nothing here knows a browser: what comes in as `step` runs the network.

import { pose } from "./body.js";

const MARGIN = 1.2, FOLLOW = 0.1, GROW = 0.2, SHRINK = 0.02, SURE = 0.25; // kinlmr.keypoints
const LEAST = 0.1, TRUST = 0.003; // kinlmr.camera
const SAME = 0.01, EXACT = 1e-6, STEADY = 0.2, AWAY = 1.5, USUAL = [0.9, 0, 0]; // kinlmr.recovery

const sum = (numbers) => numbers.reduce((total, x) => total + x, 0);
const clamp = (x, low, high) => Math.min(Math.max(x, low), high);

/** Keypoints of one set as another's; the sets as keypoints.json has them. A point that the source lacks is zero. */
export function convert(points, source, target) {
  const madeOf = (point) => (typeof point === "string" ? [point] : Object.values(point)[0]);
  const nameOf = (point) => (typeof point === "string" ? point : Object.keys(point)[0]);
  const place = new Map(source.map((point, k) => [nameOf(point), k]));
  source.forEach((point, k) => place.set(madeOf(point).join(), k));
  return target.map((point) => {
    const parts = madeOf(point);
    if (place.has(parts.join())) return [...points[place.get(parts.join())]];
    if (parts.every((part) => place.has(part))) {
      const held = parts.map((part) => points[place.get(part)]);
      const mean = (axis) => sum(held.map((p) => p[axis])) / held.length;
      return [mean(0), mean(1), Math.min(...held.map((p) => p[2]))];
    }
    return place.has(nameOf(point)) ? [...points[place.get(nameOf(point))]] : [0, 0, 0];
  });
}

/** One frame: pixels to the features (3 K) of the network, in a box that follows the person. */
export function normalise(points, track) {
  const frame = points.map(([x, y, sure]) => (sure > 0 ? [x, y, Math.min(sure, 1)] : [0, 0, 0]));
  const last = track ?? { box: [0, 0, 0], points: frame.map(() => [0, 0, 0]) };

  const most = Math.max(...frame.map((p) => p[2]));
  const sure = frame.filter((p) => p[2] > SURE * most);
  const low = [0, 1].map((axis) => Math.min(...sure.map((p) => p[axis])));
  const high = [0, 1].map((axis) => Math.max(...sure.map((p) => p[axis])));
  const extent = Math.max(high[0] - low[0], high[1] - low[1]);

  const shared = frame.map((p, k) => p[2] * last.points[k][2]);
  const total = Math.max(sum(shared), 1e-9);
  const shift = [0, 1].map((axis) => sum(frame.map((p, k) => shared[k] * (p[axis] - last.points[k][axis]))) / total);
  let box = [last.box[0] + shift[0], last.box[1] + shift[1], last.box[2]];
  if (sure.length >= 2 && extent > 0) {
    const own = [(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, MARGIN * extent];
    const far = Math.max(Math.abs(own[0] - box[0]), Math.abs(own[1] - box[1])) > box[2] / 2;
    const rates = [FOLLOW, FOLLOW, own[2] > box[2] ? GROW : SHRINK];
    box = far || own[2] > 2 * box[2] ? own : box.map((x, k) => x + rates[k] * (own[k] - x));
  }
  const side = Math.max(box[2], 1e-9);
  const unit = (x, axis) => clamp((2 * (x - box[axis])) / side, -4, 4);
  const features = frame.flatMap(([x, y, c]) => (c > 0 && box[2] > 0 ? [unit(x, 0), unit(y, 1), c] : [0, 0, 0]));
  return { features, box, track: { box, points: frame } };
}

/** The camera that brings points (K rows [x, y, z]) onto the image (K rows [x, y, weight]) by least squares. */
export function fit(points, image, camera, scale) {
  const known = [Math.max(camera[0], LEAST), camera[1], camera[2]];
  const total = image.map((p) => p[2] + TRUST);
  const whole = sum(total);
  const share = total.map((t) => t / whole);
  const wanted = image.map((p, k) =>
    [0, 1].map((axis) => {
      const before = known[0] * points[k][axis] + known[1 + axis];
      return before + (p[2] / total[k]) * (p[axis] - before);
    }),
  );
  const mean = (rows, axis) => sum(rows.map((p, k) => share[k] * p[axis]));
  const middle = [mean(points, 0), mean(points, 1)], goal = [mean(wanted, 0), mean(wanted, 1)];
  if (scale === undefined) {
    const over = (f) => sum(points.map((_, k) => share[k] * (f(k, 0) + f(k, 1))));
    const spread = Math.max(over((k, axis) => (points[k][axis] - middle[axis]) ** 2), 1e-9);
    const both = over((k, axis) => (points[k][axis] - middle[axis]) * (wanted[k][axis] - goal[axis]));
    scale = Math.max(both / spread, LEAST);
  }
  return [scale, goal[0] - scale * middle[0], goal[1] - scale * middle[1]];
}

/**
 * A frame's keypoints, which come `ticks` of the model's clock after the last frame's -> { seen, state }.
 *
 * model: { body, step, memory: how many numbers }, where step(features, memory) promises { rotations (9 J), shape (S),
 * camera (3), memory }. state: of the call before, null at first. seen: { rotations, shape, camera, box }.
 * As in kinlmr.recover, keypoints are interpolated at the ticks since the last frame; a frame between two ticks gets an
 * estimate of its own, which the model forgets.
 */
export async function recover(model, points, ticks, state) {
  const ratio = state === null || Math.abs(1 / ticks - 1) <= SAME ? 1 : ticks;
  const last = state ?? { memory: new Float32Array(model.memory), track: null, span: 0, points: null, phase: 0 };
  let phase = last.phase + ratio, now = last, seen = null;
  const passed = Math.floor(phase + EXACT);
  for (let tick = 1; tick <= passed; tick++) {
    const share = clamp((tick - last.phase) / ratio, 0, 1);
    ({ seen, state: now } = await run(model, between(last.points ?? points, points, share), now));
  }
  phase -= passed;
  if (seen === null || phase > EXACT) ({ seen } = await run(model, points, now));
  return { seen, state: { ...now, points, phase } };
}

async function run(model, points, state) {
  const { features, box, track } = normalise(points, state.track);
  const { memory, ...estimate } = await model.step(features, state.memory);
  const { camera, span } = place(model.body, estimate, features, box, state.span);
  return { seen: { ...estimate, camera, box }, state: { ...state, memory, track, span } };
}

/** The camera of a frame, and the span (pixels per metre, smoothed) after it. */
function place(body, estimate, features, box, span) {
  const { joints, points } = pose(body, estimate.rotations, estimate.shape, { points: true });
  const [s, x, y] = estimate.camera ?? USUAL, scale = Math.max(s, LEAST);
  const own = [scale, x - scale * joints[0][0], y - scale * joints[0][1]];
  const image = points.map((_, k) => features.slice(3 * k, 3 * k + 3));
  const free = fit(points, image, own)[0], now = free * box[2];
  if (image.some((p) => p[2] > 0)) {
    const near = now < AWAY * span && span < AWAY * now;
    span = near ? span + STEADY * (now - span) : now;
  }
  return { camera: fit(points, image, own, box[2] > 0 && span > 0 ? span / box[2] : free), span };
}

/** Keypoints of a moment between two frames: the mean of both, weighted by nearness and confidence. */
function between(before, after, share) {
  return after.map(([x, y, sure], k) => {
    const a = before[k][2] > 0 ? (1 - share) * before[k][2] : 0, b = sure > 0 ? share * sure : 0;
    const t = a + b > 0 ? b / (a + b) : 0;
    const mix = (one, two) => (t === 0 ? one : t === 1 ? two : one + t * (two - one));
    return a + b > 0 ? [mix(before[k][0], x), mix(before[k][1], y), a + b] : [0, 0, 0];
  });
}
