// kinlmr's recovery of one person in plain JavaScript: the same numbers as kinlmr.keypoints, kinlmr.camera and
// kinlmr.recovery, which say why things are as they are. tests/apps/test_page.py holds both sides together.
//
// Keypoints are K rows [x, y, confidence] in pixels, a box is [cx, cy, side] in pixels, a camera [s, tx, ty] in units of
// the box. Nothing here knows a browser: what comes in as `step` runs the network.

import { pose, times } from "./body.js";

const BOX_MARGIN = 1.2, BOX_FOLLOW = 0.1, BOX_GROW = 0.2, BOX_SHRINK = 0.02, SURE = 0.25; // kinlmr.keypoints
const STRAY_DISTANCE = 15, STRAY_OTHERS = 4, AGREE_SECONDS = 0.06; // kinlmr.recovery.gating
const MOST_STEP = 0.5, MOST_SPEED = 15, MOST_RATIO = 1.4, MOST_GROWTH = 6;
const MIN_SCALE = 0.1, PRIOR_WEIGHT = 0.003, PRIOR_SPREAD = 1e-6; // kinlmr.camera
const SAME_RATE = 0.01, ON_TICK = 1e-6, USUAL_CAMERA = [0.9, 0, 0]; // kinlmr.recovery
const MEDIAN_TICKS = 5, SCALE_STEP = 0.3, SCALE_JUMP = 1.5, SCALE_POINTS = 4, HALF_DISTANCE = 0.1;

const sum = (numbers) => numbers.reduce((total, x) => total + x, 0);
const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
const seen = (p) => p[2] > 0;
const median = (numbers) => [...numbers].sort((a, b) => a - b)[Math.floor((numbers.length - 1) / 2)];

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
    const own = [(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, BOX_MARGIN * extent];
    const far = Math.max(Math.abs(own[0] - box[0]), Math.abs(own[1] - box[1])) > box[2] / 2;
    const rates = [BOX_FOLLOW, BOX_FOLLOW, own[2] > box[2] ? BOX_GROW : BOX_SHRINK];
    box = far || own[2] > 2 * box[2] ? own : box.map((x, k) => x + rates[k] * (own[k] - x));
  }
  const side = Math.max(box[2], 1e-9);
  const unit = (x, axis) => clamp((2 * (x - box[axis])) / side, -4, 4);
  const features = frame.flatMap(([x, y, c]) => (c > 0 && box[2] > 0 ? [unit(x, 0), unit(y, 1), c] : [0, 0, 0]));
  return { features, box, track: { box, points: frame } };
}

/** Features with the confidences that the network sees: a + b c of what was seen, by the model's option [a, b]. */
export function reported(features, confidence) {
  if (!confidence) return features;
  return features.map((x, i) => (i % 3 === 2 && x > 0 ? confidence[0] + confidence[1] * x : x));
}

/** What of a frame is believed, `seconds` after the last: { points, gate }, zeros where it is not. */
export function believed(frame, seconds, gate) {
  const points = withoutStrays(frame), nobody = points.map(() => [0, 0, 0]), here = points.some(seen);
  const { seen: last, away, doubted, alike } = gate ?? { seen: nobody, away: 0, doubted: nobody, alike: 0 };
  const again = here && doubted.some(seen) && follows(points, doubted, seconds, true) ? alike + seconds : 0;
  if (here && (follows(points, last, away + seconds) || again >= AGREE_SECONDS))
    return { points, gate: { seen: points, away: 0, doubted: nobody, alike: 0 } };
  return { points: nobody, gate: { seen: last, away: away + seconds, doubted: points, alike: again } };
}

/** Whether a frame can be of the person who was seen as `before` so many seconds ago. */
function follows(now, before, seconds, moved = false) {
  const size = spread(before, before.map((p) => p[2])).radius;
  if (size === 0) return true;
  const weight = now.map((p, k) => p[2] * before[k][2]);
  const one = spread(now, weight), two = spread(before, weight);
  const shift = [0, 1].map((axis) => (moved ? one.middle[axis] - two.middle[axis] : 0));
  const reach = (MOST_STEP + MOST_SPEED * seconds) * size, limit = MOST_RATIO + MOST_GROWTH * seconds;
  const near = now.map((p, k) => Math.hypot(...[0, 1].map((axis) => p[axis] - before[k][axis] - shift[axis])) < reach);
  const most = sum(weight.map((w, k) => w * near[k])) >= 0.5 * sum(weight);
  return most && one.radius <= limit * two.radius && two.radius <= limit * one.radius;
}

/** The mean distance of weighted points from their middle. */
function spread(points, weight) {
  const total = Math.max(sum(weight), 1e-9), share = weight.map((w) => w / total);
  const middle = [0, 1].map((axis) => sum(points.map((p, k) => share[k] * p[axis])));
  return { middle, radius: sum(points.map((p, k) => share[k] * Math.hypot(p[0] - middle[0], p[1] - middle[1]))) };
}

/** Keypoints with zeros for what was not seen, and for points far off all others. */
function withoutStrays(points) {
  const here = points.filter(seen), middle = [0, 1].map((axis) => median(here.map((p) => p[axis])));
  const distance = (p) => Math.hypot(p[0] - middle[0], p[1] - middle[1]), usual = median(here.map(distance));
  const stray = (point) => {
    if (distance(point) > STRAY_DISTANCE * usual) return true;
    const others = here.filter((p) => p !== point);
    const low = [0, 1].map((axis) => Math.min(...others.map((p) => p[axis])));
    const high = [0, 1].map((axis) => Math.max(...others.map((p) => p[axis])));
    const outside = Math.max(...[0, 1].flatMap((axis) => [low[axis] - point[axis], point[axis] - high[axis]]));
    return others.length >= STRAY_OTHERS && outside > Math.max(high[0] - low[0], high[1] - low[1]);
  };
  return points.map((p) => (seen(p) && !stray(p) ? p : [0, 0, 0]));
}

/** The camera that brings points (K rows [x, y, z]) onto the image (K rows [x, y, weight]) by least squares. */
export function fit(points, image, camera, scale) {
  const known = [Math.max(camera[0], MIN_SCALE), camera[1], camera[2]];
  const total = image.map((p) => p[2] + PRIOR_WEIGHT);
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
    const square = over((k, axis) => (points[k][axis] - middle[axis]) ** 2);
    const both = over((k, axis) => (points[k][axis] - middle[axis]) * (wanted[k][axis] - goal[axis]));
    scale = Math.max((both + PRIOR_SPREAD * known[0]) / (square + PRIOR_SPREAD), MIN_SCALE);
  }
  return [scale, goal[0] - scale * middle[0], goal[1] - scale * middle[1]];
}

/**
 * A frame's keypoints, which come `ticks` of the model's clock after the last frame's -> { seen, ticks, state }.
 *
 * model: { body, step, memory: how many numbers, fps, confidence }, where step(features, memory) promises { rotations
 * (9 J), shape (S), camera (3), memory }. state: of the call before, null at first. seen: { rotations, shape, camera,
 * box }. As in kinlmr.recover, keypoints are interpolated at the ticks since the last frame; a frame between two ticks
 * gets an estimate of its own, which the model forgets. ticks: what was seen at each of them, and its keypoints as
 * `points`; the last one is `state.phase` ticks before the frame.
 */
export async function recover(model, frame, ticks, state) {
  const same = Math.abs(1 / ticks - 1) <= SAME_RATE, ratio = state === null || same ? 1 : ticks;
  const fresh = { memory: new Float32Array(model.memory), track: null, measured: [], pixelsPerMetre: 0, gate: null, phase: 0 };
  const last = state ?? fresh;
  const { points, gate } = believed(frame, ticks / model.fps, last.gate);
  const before = last.gate === null ? points : last.gate.away > 0 ? points.map(() => [0, 0, 0]) : last.gate.seen;
  let phase = last.phase + ratio, now = last, answer = null;
  const ticked = [];
  const passed = Math.floor(phase + ON_TICK);
  for (let tick = 1; tick <= passed; tick++) {
    const share = clamp((tick - last.phase) / ratio, 0, 1);
    ({ seen: answer, state: now } = await run(model, between(before, points, share), now));
    ticked.push({ ...answer, points: now.track.points });
  }
  phase -= passed;
  if (answer === null || phase > ON_TICK) answer = await look(model, points, 1 - phase, now);
  return { seen: answer, ticks: ticked, state: { ...now, gate, phase } };
}

async function run(model, points, state) {
  const { features, box, track } = normalise(points, state.track);
  const { memory: after, ...estimate } = await model.step(reported(features, model.confidence), state.memory);
  const memory = box[2] > 0 ? after : state.memory; // who comes late is as one who begins then
  const { camera, measured, pixelsPerMetre } = place(model.body, estimate, features, box, state);
  const answer = { ...estimate, camera, box };
  const tick = { rotations: answer.rotations, shape: answer.shape, camera: inPixels(camera, box) };
  return { seen: answer, state: { ...state, memory, track, measured, pixelsPerMetre, tick } };
}

/** A frame `rest` ticks before the next: its estimate moves by `rest` of what the last tick's answer is off now. */
async function look(model, points, rest, state) {
  const { seen: now } = await run(model, points, state), { seen: again } = await run(model, state.track.points, state);
  const { tick } = state, rotations = Array.from(now.rotations), shape = Array.from(now.shape);
  for (let j = 0; j < rotations.length; j += 9) {
    const part = (all) => Array.from(all.slice(j, j + 9));
    const turn = logarithm(times(transposed(part(again.rotations)), part(tick.rotations)));
    rotations.splice(j, 9, ...times(part(now.rotations), rotation(turn.map((x) => rest * x))));
  }
  shape.forEach((x, s) => (shape[s] = x + rest * (tick.shape[s] - again.shape[s])));
  const one = inPixels(now.camera, now.box), was = inPixels(again.camera, again.box);
  if (!(now.box[2] > 0 && was[0] > 0 && tick.camera[0] > 0)) return { ...now, rotations, shape };
  const scale = one[0] * (tick.camera[0] / Math.max(was[0], 1e-9)) ** rest, half = Math.max(now.box[2], 1e-9) / 2;
  const shift = [1, 2].map((k) => (one[k] + rest * (tick.camera[k] - was[k]) - now.box[k - 1]) / half);
  return { ...now, rotations, shape, camera: [scale / half, ...shift] };
}

/** A box's camera as [pixels per metre, x, y in pixels]. */
const inPixels = ([s, x, y], [cx, cy, side]) => [(s * side) / 2, (x * side) / 2 + cx, (y * side) / 2 + cy];

export const transposed = (a) => [0, 3, 6, 1, 4, 7, 2, 5, 8].map((i) => a[i]);

/** The unit quaternion [w, x, y, z], w >= 0, of a rotation, row-major. */
export function quaternion(r) {
  const [a, b, c, d, e, f, g, h, i] = r;
  const squares = [1 + a + e + i, 1 + a - e - i, 1 - a + e - i, 1 - a - e + i];
  const largest = squares.indexOf(Math.max(...squares));
  const q = [
    [squares[0], h - f, c - g, d - b],
    [h - f, squares[1], b + d, c + g],
    [c - g, b + d, squares[2], f + h],
    [d - b, c + g, f + h, squares[3]],
  ][largest];
  const length = (q[0] < 0 ? -1 : 1) * Math.hypot(...q);
  return q.map((x) => x / length);
}

/** The axis times the angle of a rotation, row-major, by its quaternion. */
export function logarithm(r) {
  const [w, ...axis] = quaternion(r), length = Math.hypot(...axis), angle = 2 * Math.atan2(length, w);
  return axis.map((x) => (length > 0 ? (x / length) * angle : 0));
}

/** The rotation of an axis times an angle, row-major. */
export function rotation(v) {
  const angle = Math.hypot(...v), [x, y, z] = v.map((a) => (angle > 0 ? a / angle : 0));
  const c = Math.cos(angle), s = Math.sin(angle), k = 1 - c;
  return [
    c + x * x * k, x * y * k - z * s, x * z * k + y * s, x * y * k + z * s, c + y * y * k, y * z * k - x * s,
    x * z * k - y * s, y * z * k + x * s, c + z * z * k,
  ];
}

/** The camera of a frame, and after it the pixels per metre: as measured in the latest ticks, and smoothed. */
function place(body, estimate, features, box, { measured, pixelsPerMetre }) {
  const { joints, points } = pose(body, estimate.rotations, estimate.shape, { points: true });
  const [s, x, y] = estimate.camera ?? USUAL_CAMERA, scale = Math.max(s, MIN_SCALE);
  const root = joints[body.parents.indexOf(-1)];
  const own = [scale, x - scale * root[0], y - scale * root[1]];
  const rough = points.map((_, k) => features.slice(3 * k, 3 * k + 3)), first = fit(points, rough, own);
  const image = rough.map(([px, py, sure], k) => {
    const off = [px, py].map((p, axis) => first[0] * points[k][axis] + first[1 + axis] - p);
    return [px, py, sure / (1 + (off[0] ** 2 + off[1] ** 2) / HALF_DISTANCE ** 2)];
  });
  const free = fit(points, image, own)[0], count = rough.filter(seen).length;
  const told = count >= SCALE_POINTS && free > 1.001 * MIN_SCALE;
  if (told) measured = [...measured, (free * box[2]) / 2].slice(-MEDIAN_TICKS);
  const known = measured.filter((x) => x > 0);
  if (count && known.length) {
    const middle = median(known), near = middle < SCALE_JUMP * pixelsPerMetre && pixelsPerMetre < SCALE_JUMP * middle;
    pixelsPerMetre = near ? pixelsPerMetre + SCALE_STEP * (middle - pixelsPerMetre) : middle;
  }
  const held = box[2] > 0 && pixelsPerMetre > 0 ? (2 * pixelsPerMetre) / box[2] : told ? free : scale;
  return { camera: fit(points, image, own, held), measured, pixelsPerMetre };
}

/**
 * kinlmr.Recovery.in_camera: { rotations, translation } in the camera's frame, in metres. size: the picture's [width,
 * height], focal: of its camera, both in pixels.
 */
export function inCamera(body, { rotations, shape, camera: [s, tx, ty], box: [cx, cy, side] }, [width, height], focal) {
  const pixels = side * s, root = body.parents.indexOf(-1);
  const translation = [tx / s + (2 * cx - width) / pixels, ty / s + (2 * cy - height) / pixels, (2 * focal) / pixels];
  const ray = pose(body, rotations, shape, {}).joints[root].map((x, k) => x + translation[k]);
  const length = Math.hypot(...ray), [x, y, z] = ray.map((v) => v / length), turned = Array.from(rotations);
  const facing = [1 - (x * x) / (1 + z), (-x * y) / (1 + z), x, (-x * y) / (1 + z), 1 - (y * y) / (1 + z), y, -x, -y, z];
  turned.splice(9 * root, 9, ...times(facing, turned.slice(9 * root, 9 * root + 9)));
  return { rotations: turned, translation };
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
