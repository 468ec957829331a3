// Standing feet stay, as in kinlmr.world.lock: how far each foot is moved, and the legs bent so that it is there.

import { times, turn } from "./body.js";
import { transposed } from "./kinlmr.js";
import { clamp, cross, dot, length, matrixOf, minus, plus, scaled, unit } from "./vectors.js";

/** How far ankles and feet (4) are moved: a standing foot's offset undoes what it moves; another loses its own. */
export function hold(points, contact, fps, last, { RELEASE, LOOSE, FIRM, FARTHEST }) {
  const keep = Math.exp(-1 / (RELEASE * fps));
  const offset = points.map((x, f) => {
    const share = clamp((contact[f] - LOOSE) / (FIRM - LOOSE), 0, 1), stands = share * share * (3 - 2 * share);
    const moved = last ? plus(last.offset[f], minus(x, last.feet[f]), -stands) : [0, 0, 0];
    const kept = scaled(moved, keep + stands * (1 - keep));
    return scaled(kept, FARTHEST / Math.max(length(kept), FARTHEST));
  });
  return { feet: points, offset };
}

/** A leg bent, in place, so that its ankle and foot are moved by the two offsets, as far as it reaches. */
export function bend(rotations, joints, [hip, knee, ankle, foot], top, [first, second], constants) {
  if (![...first, ...second].some((x) => x !== 0)) return;
  const [a, k, n, f] = [hip, knee, ankle, foot].map((j) => joints[j]), root = matrixOf(rotations, top);
  const thigh = times(root, matrixOf(rotations, hip)), shank = times(thigh, matrixOf(rotations, knee));
  const sole = times(shank, matrixOf(rotations, ankle)), normal = normalOf(a, k, n, [thigh[2], thigh[5], thigh[8]], constants);
  const { turned, newKnee, newAnkle } = reach(a, k, n, plus(n, first), normal, constants), newNormal = turn(turned, normal);
  const from = (bone, to) => times(frame(to, newNormal), transposed(frame(bone, normal)));
  const newThigh = times(from(minus(k, a), minus(newKnee, a)), thigh);
  const newShank = times(from(minus(n, k), minus(newAnkle, newKnee)), shank);
  const newSole = times(onto(minus(f, n), minus(plus(f, second), newAnkle)), sole);
  rotations.splice(9 * hip, 9, ...times(transposed(root), newThigh));
  rotations.splice(9 * knee, 9, ...times(transposed(newThigh), newShank));
  rotations.splice(9 * ankle, 9, ...times(transposed(newShank), newSole));
}

/** The normal of the plane in which a leg bends; of a straight one, the thigh's `forward` says it. */
function normalOf(hip, knee, ankle, ahead, { BENT }) {
  const line = unit(minus(ankle, hip)), across = (x) => plus(x, line, -dot(x, line)), side = across(minus(knee, hip));
  const share = Math.min(length(side) / BENT, 1);
  return unit(cross(plus(scaled(unit(side), share), unit(across(ahead)), 1 - share), line));
}

/** The rotation of the line from hip to ankle onto that to the goal; the new knee and ankle. */
function reach(hip, knee, ankle, goal, normal, { REACH, SHORTEST }) {
  const far = (one, two) => length(minus(two, one)), upper = far(hip, knee), lower = far(knee, ankle);
  const before = far(hip, ankle), wanted = far(hip, goal);
  const most = Math.max(REACH * (upper + lower), before), least = Math.min(Math.abs(upper - lower) + SHORTEST, before);
  const distance = clamp(wanted, least, most), toward = unit(minus(goal, hip));
  const turned = onto(minus(ankle, hip), toward), pole = cross(toward, turn(turned, normal));
  const along = (upper ** 2 - lower ** 2 + distance ** 2) / (2 * distance);
  const off = Math.sqrt(Math.max(upper ** 2 - along ** 2, 0));
  return { turned, newKnee: plus(plus(hip, toward, along), pole, off), newAnkle: plus(hip, toward, distance) };
}

/** Axes in columns, the first along a bone, the last nearest to a normal. */
function frame(bone, normal) {
  const x = unit(bone), z = unit(plus(normal, x, -dot(normal, x)));
  return transposed([...x, ...cross(z, x), ...z]);
}

/** The smallest rotation that turns one vector onto another. */
function onto(one, two) {
  const a = unit(one), b = unit(two), [x, y, z] = cross(a, b), skew = [0, -z, y, z, 0, -x, -y, x, 0];
  const share = 1 / Math.max(1 + dot(a, b), 1e-6), square = times(skew, skew);
  return skew.map((v, i) => (i % 4 === 0 ? 1 : 0) + v + share * square[i]);
}
