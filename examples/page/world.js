// kinlmr.to_world, live and for a camera at rest: bodies in the camera's frame stand in the world, y up, the floor at 0, in
// metres. The same numbers as kinlmr.world, which says why things are as they are; the functions have its files' order and
// names. Its constants and its network come from serve.py: model.world is { constants: of each of its files, network: the
// weights, legs: hip, knee, ankle and foot of the left and the right leg, joints: those that the network sees, sole: the
// heights of left ankle and foot, right ankle and foot over it }.

import { atRest, pose, times, turn } from "./body.js";
import { inCamera, quaternion, transposed } from "./kinlmr.js";
import { bend, hold } from "./legs.js";
import { clamp, cross, dot, length, matrixOf, minus, plus, scaled, sum, unit } from "./vectors.js";

const sigmoid = (x) => 1 / (1 + Math.exp(-x));
const zeros = (...size) => Array.from({ length: size[0] }, () => (size.length > 1 ? zeros(...size.slice(1)) : 0));

// ------------------------------------------------------------------------------------------------------- who stands where

/**
 * The next tick of the model's clock -> of each person { rotations, translation, root: of that joint, shape, contact (4),
 * up, origin, state }; of those who have no tick now { state }. Up is in the camera's axes, origin where the camera is.
 *
 * people: [{ state: of the tick before, null at first, seen: { rotations, shape, camera, box } of this tick or null, points:
 * its keypoints, rows of coco17 }]. They stand on one floor. size, focal: of the camera, as of inCamera.
 */
export function toWorld(model, people, size, focal) {
  const rows = people.map((person) => {
    const last = person.state ?? initial(model);
    return person.seen ? own(model, last, person, size, focal) : { state: last, up: [0, 0, 0], feet: [], stands: [] };
  });
  const evidence = rows.length ? refine(model, rows) : [];
  return rows.map((row, k) => {
    const state = { ...row.state, evidence: evidence[k] };
    return people[k].seen ? standing(model, { ...row, state }) : { state };
  });
}

function initial({ body, world: { network, constants } }) {
  const { NUMBERS, TAUS } = constants.network, three = zeros(3);
  return {
    means: { mean: zeros(TAUS.length, NUMBERS), since: Array(NUMBERS).fill(Infinity) },
    ticks: { memory: zeros(network["gru.weight_hh_l0"][0].length), answer: zeros(9), age: 1000 },
    pose: null, filter: null, stood: zeros(4), aloft: Infinity, held: null, shapes: null, frames: 0,
    evidence: { ups: three, feet: three, soles: 0, weight: 0, up: constants.floor.DEFAULT_UP, origin: three, told: 0 },
  };
}

/** What a person shows alone: the pose smoothed, the path in the camera's axes, contacts, up. */
function own({ body, fps, world }, last, { seen, points }, size, focal) {
  const { standing: weights, path } = world.constants, top = body.parents.indexOf(-1);
  const { rotations, translation } = inCamera(body, seen, size, focal), frames = last.frames + 1;
  const shapes = last.shapes === null ? Array.from(seen.shape) : plus(last.shapes, seen.shape);
  const shape = scaled(shapes, 1 / frames), rest = atRest(body, shape)[top], place = plus(translation, rest);
  const about = (turns) => {
    const { joints } = pose(body, turns, shape, {});
    return joints.map((x) => minus(x, joints[top]));
  };
  const rays = raysOf(points, size, focal, world.constants.network), raw = about(rotations);
  const signals = { joints: world.joints.map((j) => raw[j]), place, root: matrixOf(rotations, top), rays };
  const { x, means } = features(signals, 1 / fps, last.means, world.constants.network);
  const ticks = run(world.network, x, fps, last.ticks, world.constants.network);
  const contact = ticks.answer.slice(0, 4).map(sigmoid), up = ticks.answer.slice(4, 7);
  const followed = follow(rotations, fps, last.pose, world.constants.pose);
  const joints = about(followed.rotations), feet = world.legs.flatMap((leg) => leg.slice(2).map((j) => joints[j]));
  const noticed = points.some((p) => p[2] > 0), upward = unit(plus(last.evidence.ups, up));
  const { terms, aloft } = termsOf({ place, noticed, feet, contact, up: upward }, ticks.answer, fps, last, weights);
  const filter = forward(terms, 1 / fps, last.filter, path);
  const state = {
    ...last, means, ticks, pose: followed.state, filter: { left: filter.left, feet }, stood: contact, aloft, shapes, frames,
  };
  const root = filter.position, placed = feet.map((x) => plus(x, root));
  return { state, rotations: followed.rotations, root, joints, shape, rest, up, feet: placed, stands: contact };
}

/** A person in the world that all agreed on, whose standing feet stay. */
function standing({ body, fps, world }, { state, rotations, root, joints, shape, rest, stands }) {
  const { up, origin } = state.evidence, level = worldOf(up), top = body.parents.indexOf(-1), turned = [...rotations];
  turned.splice(9 * top, 9, ...times(level, matrixOf(rotations, top)));
  root = plus(turn(level, root), origin);
  joints = joints.map((x) => turn(level, x));
  const feet = world.legs.flatMap((leg) => leg.slice(2).map((j) => plus(joints[j], root)));
  const { lock } = world.constants, held = hold(feet, stands, fps, state.held, lock);
  world.legs.forEach((leg, side) => bend(turned, joints, leg, top, held.offset.slice(2 * side, 2 * side + 2), lock));
  const translation = minus(root, rest);
  return { rotations: turned, translation, root, shape, contact: stands, up, origin, state: { ...state, held } };
}

/** The system of the path in this frame. */
function termsOf({ place, noticed, feet, contact, up }, answer, fps, last, constants) {
  const { RATE, LIVE, ALONG, ACROSS, GRAVITY, LONGEST_FLIGHT, UNSEEN } = constants, frame = fps / RATE, ray = unit(place);
  const [along, across] = [ALONG, ACROSS].map((bounds, k) => clamp(LIVE.trust * Math.exp(answer[7 + k]), ...bounds));
  const share = (noticed ? 1 : UNSEEN) / frame, far = along ** -2 - across ** -2;
  const certainty = ray.map((a, i) => ray.map((b, j) => share * ((i === j ? across ** -2 : 0) + far * a * b)));
  const still = contact.map((x, k) => (Math.min(x, last.stood[k]) * frame) / LIVE.still ** 2);
  const calm = frame ** 3 / LIVE.calm ** 2;
  const flies = Math.max(1 - 2 * Math.max(...last.stood), 0), aloft = flies > 0 ? last.aloft + 1 / fps : 0;
  const gravity = scaled(up, aloft < LONGEST_FLIGHT ? (-GRAVITY / fps ** 2) * flies : 0);
  return { terms: { place, certainty, feet, still, calm, gravity }, aloft };
}

// ------------------------------------------------------------------------------------------------------------ the network

/** The directions of the network's keypoints, of depth 1, and how sure they are. */
function raysOf(points, [width, height], focal, { KEYPOINTS }) {
  return KEYPOINTS.map((k) => {
    const [x, y, sure] = points[k];
    return { at: sure > 0 ? [(x - width / 2) / focal, (y - height / 2) / focal, 1] : [0, 0, 1], sure: clamp(sure, 0, 1) };
  });
}

function features({ joints, place, root, rays }, seconds, last, constants) {
  const { FASTEST, TICK } = constants, limited = (x) => clamp(x, -FASTEST, FASTEST);
  const numbers = [...joints.flat(), ...place, ...rays.flatMap(({ at }) => at)], body = 3 * joints.length + 3;
  const known = numbers.map((_, i) => i < body || rays[Math.floor((i - body) / 3)].sure > 0);
  const { found, means } = velocities(numbers, known, seconds, last, constants);
  const away = Math.max(place[2], 0);
  const image = found.flatMap((all) => all.slice(body).filter((_, i) => i % 3 < 2).map((x) => limited(away * x)));
  const x = [
    ...joints.flat(), ...found.flatMap((all) => all.slice(0, body).map(limited)), ...image,
    ...rays.map(({ sure }) => sure), ...root, ...unit(place), Math.log(seconds * TICK),
  ];
  return { x, means };
}

/** Velocities of numbers by each of the running means; zero where they are not known. */
function velocities(x, known, seconds, last, { TAUS, FORGET }) {
  const since = last.since.map((s) => s + seconds), fresh = since.map((s) => s > FORGET), mean = [], found = [];
  TAUS.forEach((tau, k) => {
    const elapsed = since.map((s, i) => (fresh[i] ? seconds : s)), share = elapsed.map((s) => -Math.expm1(-s / tau));
    const away = x.map((now, i) => (fresh[i] || !known[i] ? 0 : now - last.mean[k][i]));
    found.push(away.map((a, i) => (a * share[i]) / elapsed[i]));
    mean.push(x.map((now, i) => (fresh[i] && known[i] ? now : last.mean[k][i] + share[i] * away[i])));
  });
  return { found, means: { mean, since: since.map((s, i) => (known[i] ? 0 : s)) } };
}

/** The network's answer, every so many frames: contacts (4), up (3), how far off the place is (2). */
function run(network, x, fps, { memory, answer, age }, { TICK, LIMIT }) {
  if (age + 1 < Math.max(1, Math.round(fps / TICK))) return { memory, answer, age: age + 1 };
  const normal = x.map((v, i) => clamp((v - network.mean[i]) * network.scale[i], -LIMIT, LIMIT)), width = memory.length;
  const by = (weight, bias, vector) => network[weight].map((row, k) => dot(row, vector) + network[bias][k]);
  const into = by("gru.weight_ih_l0", "gru.bias_ih_l0", normal), back = by("gru.weight_hh_l0", "gru.bias_hh_l0", memory);
  const after = memory.map((h, k) => {
    const reset = sigmoid(into[k] + back[k]), keep = sigmoid(into[width + k] + back[width + k]);
    return (1 - keep) * Math.tanh(into[2 * width + k] + reset * back[2 * width + k]) + keep * h;
  });
  const said = by("head.weight", "head.bias", after), root = x.slice(-13, -4); // its own axes say up, too
  const up = plus(said.slice(4, 7), turn(root, said.slice(7, 10)));
  return { memory: after, answer: [...said.slice(0, 4), ...up, ...said.slice(10)], age: 0 };
}

// --------------------------------------------------------------------------------------------------- the pose, the path

/**
 * Rotations smoothed by a one-euro filter: the faster a joint rotates, the less, and the less noise there is in all of them.
 * Noise shakes: its second differences are larger than its first ones.
 */
function follow(rotations, fps, last, { SLOW, QUICK, SMOOTHER, ROUGHER, TRUSTED, WATCHED, STILL }) {
  const smooth = (hertz) => 1 / (1 + fps / (2 * Math.PI * hertz)), mean = (all) => (2 * sum(all)) / all.length;
  const quaternions = [...Array(rotations.length / 9).keys()].map((j) => quaternion(matrixOf(rotations, j)));
  const before = last ?? { joints: quaternions.map((q) => ({ mean: q, speed: 0, latest: q, step: zeros(4) })), shaken: [0, 0] };
  const like = (q, other) => scaled(q, dot(q, other) < 0 ? -1 : 1);
  const now = quaternions.map((q, j) => like(q, before.joints[j].mean));
  const steps = now.map((q, j) => minus(q, like(before.joints[j].latest, q)));
  const shakes = [mean(steps.map(length)), mean(steps.map((x, j) => length(minus(x, before.joints[j].step))))];
  const shaken = plus(before.shaken, minus(last ? shakes : [0, 0], before.shaken), 1 / (WATCHED * fps));
  const rough = (shaken[1] + SMOOTHER * STILL) / (shaken[0] + STILL);
  const noise = clamp((rough - SMOOTHER) / (ROUGHER - SMOOTHER), 0, 1), higher = TRUSTED + (1 - TRUSTED) * noise;
  const joints = before.joints.map(({ mean, speed }, j) => {
    const away = minus(now[j], mean), faster = last ? speed + smooth(1) * (2 * length(away) * fps - speed) : 0;
    const share = smooth((SLOW + QUICK * faster) * higher);
    return { mean: unit(plus(mean, away, share)), speed: faster, latest: now[j], step: steps[j] };
  });
  return { rotations: joints.flatMap(({ mean }) => matrix(mean)), state: { joints, shaken } };
}

/** The rotation of a unit quaternion, row-major. */
function matrix([w, x, y, z]) {
  return [
    1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w), 2 * (x * y + z * w), 1 - 2 * (x * x + z * z),
    2 * (y * z - x * w), 2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y),
  ];
}

/**
 * One more frame of the path's filter. The sum of squares is a matrix over (p_{t-2}, p_{t-1}, 1, p_t); `left` is what is
 * left of it without p_{t-2}, over (p_{t-1}, p_t, 1).
 */
function forward({ place, certainty, feet, still, calm, gravity }, seconds, last, { FASTEST, FAINT }) {
  const at = [0, 3, 7], one = 6, difference = [1, -2, 1], form = zeros(10, 10), axes = [0, 1, 2];
  const total = last ? sum(still) : 0;
  const moved = axes.map((a) => (last ? sum(still.map((c, f) => c * (last.feet[f][a] - feet[f][a]))) : 0));
  const known = certainty.map((row) => dot(row, place));
  for (const a of axes) {
    for (const i of axes) {
      for (const j of axes) {
        const step = i > 0 && j > 0 ? (i === j ? total : -total) : 0;
        form[at[i] + a][at[j] + a] += calm * difference[i] * difference[j] + step;
      }
      const right = calm * difference[i] * gravity[a] + [0, -moved[a], known[a] + moved[a]][i];
      form[at[i] + a][one] = form[one][at[i] + a] = right;
    }
    for (const b of axes) form[7 + a][7 + b] += certainty[a][b];
  }
  const speed = 1 / (FASTEST * seconds) ** 2; // what is known before somebody is seen
  const first = (i, j) => (i === 6 || j === 6 || i % 3 !== j % 3 ? 0 : i === j ? speed + FAINT : -speed);
  for (let i = 0; i < 7; i++) for (let j = 0; j < 7; j++) form[i][j] += last ? last.left[i][j] : first(i, j);
  const gone = solve(form.slice(0, 3).map((row) => row.slice(0, 3)), form.slice(0, 3).map((row) => row.slice(3)));
  const order = [0, 1, 2, 4, 5, 6, 3]; // of what is left: the constant last
  const left = order.map((i) => order.map((j) => form[3 + i][3 + j] - sum(axes.map((k) => form[3 + i][k] * gone[k][j]))));
  const information = left.slice(0, 6).map((row, i) => row.slice(0, 6).map((x, j) => x + (i === j ? FAINT : 0)));
  return { left, position: solve(information, left.slice(0, 6).map((row) => [row[6]])).slice(3).flat() };
}

/** X of A X = B, rows of numbers. */
function solve(a, b) {
  const rows = a.map((row, i) => [...row, ...b[i]]), count = rows.length;
  for (let k = 0; k < count; k++) {
    const best = rows.reduce((m, row, i) => (i > m && Math.abs(row[k]) > Math.abs(rows[m][k]) ? i : m), k);
    [rows[k], rows[best]] = [rows[best], rows[k]];
    rows[k] = scaled(rows[k], 1 / rows[k][k]);
    rows.forEach((row, i) => i !== k && (rows[i] = plus(row, rows[k], -row[k])));
  }
  return rows.map((row) => row.slice(count));
}

// ----------------------------------------------------------------------------------------------------- up and the floor

/** The rotation from the camera's axes, in which gravity is along -up, to the world's. */
function worldOf(up) {
  const y = unit(up), x = unit(plus([1, 0, 0], y, -y[0]));
  return [...x, ...y, ...cross(x, y)];
}

/** The evidence of everybody after this frame, with the common up and each one's origin: what all tell, nearer by a little. */
function refine({ fps, world: { sole, constants } }, rows) {
  const all = rows.map((row) => gathered(row, sole, fps, constants.floor));
  return eased(all, rows, fps, constants.floor);
}

/**
 * A person's evidence with one more frame's. A foot well over the floor is on another; who stands well below it forgets the
 * higher one, and who stays well over it in the end the lower one. A floor of a moment is forgotten for any other.
 */
function gathered({ state: { evidence: last }, up, feet, stands }, sole, fps, constants) {
  const { SURE, SAME_FLOOR, FAINT, SUNK, RISEN, SETTLE } = constants;
  if (!feet.length) return last;
  const heights = feet.map((x, f) => dot(x, unit(last.up)) - sole[f]), lowest = Math.min(...heights);
  const firm = last.told >= SETTLE * fps;
  const over = heights.map((x) => (last.weight > 0 ? x - heightOf(last, last.up) : 0));
  const weights = heights.map((height, f) => {
    return (stands[f] > SURE && !(firm && over[f] > SAME_FLOOR) ? stands[f] : 0) + (height === lowest ? FAINT : 0);
  });
  const some = (test) => over.some((x, f) => stands[f] > SURE && test(x)), higher = some((x) => x > SAME_FLOOR);
  const lower = some((x) => x < -SAME_FLOOR), seconds = lower ? SUNK : higher ? (firm ? RISEN : 0) : Infinity;
  const keep = Math.exp(-1 / (seconds * fps));
  return {
    ...last, ups: plus(last.ups, up), feet: weights.reduce((total, w, f) => plus(total, feet[f], w), scaled(last.feet, keep)),
    soles: keep * last.soles + dot(weights, sole), weight: keep * last.weight + sum(weights),
  };
}

/** The height of a person's floor along up, before the origin is added. */
function heightOf({ feet, soles, weight }, up) {
  return (dot(feet, up) - soles) / Math.max(weight, 1e-6);
}

/** The height of the floor of those who stand lowest; of one who has just come to a lower one, that. */
function floors(all, up, fps, { ENOUGH, SAME_FLOOR }) {
  const heights = all.map((one) => heightOf(one, up));
  const least = Math.min(Math.max(...all.map((one) => one.weight)), ENOUGH * fps);
  const low = Math.min(...heights.filter((_, k) => all[k].weight >= least));
  const near = all.map(({ weight }, k) => (weight >= least && heights[k] < low + SAME_FLOOR ? weight : 0));
  const common = dot(near, heights) / Math.max(sum(near), 1e-9);
  return all.map(({ weight }, k) => (weight > 0 && heights[k] < common - SAME_FLOOR ? heights[k] : common));
}

/** The common up, turned about the feet that stand, and each one's floor: so that no standing foot moves by more than 1 mm. */
function eased(all, rows, fps, constants) {
  const { EASED, FASTEST, CALM, FREE, RISE, SAME_FLOOR } = constants;
  const told = sum(all.map((one) => one.told)), ups = all.map((one) => one.ups).reduce((a, b) => plus(a, b));
  const feet = rows.flatMap(({ feet, stands }) => feet.map((x, f) => ({ x, stands: stands[f] > FREE ? stands[f] : 0 })));
  if (!told && !feet.length) return all;
  const goal = unit(length(ups) > 0 ? ups : all[0].up);
  const mean = (name) => all.reduce((a, one) => plus(a, one[name], one.told / Math.max(told, 1e-9)), [0, 0, 0]);
  let up = told > 0 ? unit(mean("up")) : goal, shift = [0, 0, 0];
  if (told > 0 && feet.length) {
    const weights = feet.map(({ stands }) => stands + 1e-6), weight = Math.max(sum(weights), 1e-9);
    const pivot = scaled(feet.reduce((a, { x }, f) => plus(a, x, weights[f]), [0, 0, 0]), 1 / weight);
    const lever = Math.max(0.2, ...feet.filter(({ stands }) => stands).map(({ x }) => length(minus(x, pivot))));
    const angle = Math.acos(clamp(dot(up, goal), -1, 1));
    const most = Math.min(EASED / lever, FASTEST / fps, angle ** 2 / (CALM * fps));
    const turned = unit(plus(up, minus(goal, up), Math.min(most / Math.max(angle, 1e-6), 1)));
    shift = minus(turn(worldOf(up), pivot), turn(worldOf(turned), pivot));
    up = turned;
  }
  const [x, , z] = plus(mean("origin"), shift), heights = floors(all, up, fps, constants);
  return all.map((one, k) => {
    const from = one.origin[1] + shift[1], rise = -heights[k] - from;
    const free = Math.abs(rise) > SAME_FLOOR && !rows[k].stands.some((s) => s > FREE), most = free ? RISE / fps : EASED;
    const y = one.told > 0 ? from + clamp(rise, -most, most) : -heights[k];
    return { ...one, up, origin: [x, y, z], told: one.told + (rows[k].feet.length ? 1 : 0) };
  });
}

// -------------------------------------------------------------------------------------------------- in the end, for files

/**
 * Recorded ticks of people in the one world that they tell of in the end: by the up of all they saw, the lowest floor that
 * anybody stood on at 0, each with the last shape -> of each person rows of { time, rotations, translation, shape }.
 *
 * people: [{ ups: of the last state's evidence, frames: [{ time, rotations, root, shape, contact, up, origin }] }].
 */
export function levelled({ body, world }, people) {
  const { floor } = world.constants, top = body.parents.indexOf(-1), ankles = world.legs.flatMap((leg) => leg.slice(2));
  const level = worldOf(people.map(({ ups }) => ups).reduce((a, b) => plus(a, b)));
  const turned = people.map(({ frames }) => {
    const { shape } = frames.at(-1), rest = atRest(body, shape)[top];
    return frames.map(({ time, rotations, root, contact, up, origin }) => {
      const way = times(level, transposed(worldOf(up))), place = turn(way, minus(root, origin)), own = Array.from(rotations);
      own.splice(9 * top, 9, ...times(way, matrixOf(own, top)));
      const { joints } = pose(body, own, shape, {});
      const soles = ankles.map((j, f) => place[1] + joints[j][1] - joints[top][1] - world.sole[f]);
      const feet = [0, 2].map((f) => {
        return { bottom: Math.min(soles[f], soles[f + 1]), stands: Math.max(contact[f], contact[f + 1]) > floor.SURE };
      });
      return { time, rotations: own, translation: minus(place, rest), shape, feet };
    });
  });
  const height = levelOf(turned.map((frames) => frames.map(({ feet }) => feet)), floor);
  return turned.map((frames) => {
    return frames.map(({ feet, translation, ...frame }) => ({ ...frame, translation: minus(translation, [0, height, 0]) }));
  });
}

/** The height of the lowest floor that feet stand on; of people who never stand, where the lowest foot comes. */
function levelOf(people, { LOW, SAME_FLOOR }) {
  const stretches = people.flatMap((frames) => [0, 1].flatMap((side) => {
    const found = [];
    frames.forEach(({ [side]: { bottom, stands } }, t) => {
      if (stands && !(t && frames[t - 1][side].stands)) found.push([]);
      if (stands) found.at(-1).push(bottom);
    });
    return found.map((heights) => ({ level: sum(heights) / heights.length, length: heights.length }));
  }));
  if (!stretches.length) {
    const bottoms = people.flat(2).map(({ bottom }) => bottom).sort((a, b) => a - b);
    return bottoms[Math.floor(LOW * (bottoms.length - 1))];
  }
  stretches.sort((a, b) => a.level - b.level);
  const outliers = LOW * sum(stretches.map((one) => one.length));
  let passed = 0;
  const low = stretches.find((one) => (passed += one.length) >= outliers).level;
  const near = stretches.filter(({ level }) => Math.abs(level - low) < SAME_FLOOR);
  return sum(near.map((one) => one.level * one.length)) / sum(near.map((one) => one.length));
}
