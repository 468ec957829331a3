// The posed body (kinlmr.body): joints, keypoints and vertices by linear blend skinning. serve.py writes body.json.

/** Row-major 3 x 3 times 3 x 3, and times a vector. */
export const times = (a, b) => a.map((_, i) => [0, 1, 2].reduce((t, k) => t + a[i - (i % 3) + k] * b[3 * k + (i % 3)], 0));
export const turn = (a, [x, y, z]) => [0, 3, 6].map((i) => a[i] * x + a[i + 1] * y + a[i + 2] * z);

/** Planar numbers (3 N) at rest: template plus shape directions times shape. */
export function shaped({ template, basis }, shape) {
  const rest = Float64Array.from(template);
  shape.forEach((amount, s) => basis[s].forEach((x, i) => (rest[i] += amount * x)));
  return rest;
}

/** Joints of the T-pose, rows [x, y, z]. */
export function atRest(body, shape) {
  const flat = shaped(body.joints, shape), count = body.parents.length;
  return body.parents.map((_, j) => [flat[j], flat[count + j], flat[2 * count + j]]);
}

/**
 * rotations (9 J), each relative to its joint's parent, shape (S) -> rows [x, y, z] in metres of joints and, if wanted,
 * of keypoints; vertices as flat x, y, z. Parents stand before their children.
 */
export function pose(body, rotations, shape, want) {
  const { parents } = body, rest = atRest(body, shape);
  const turns = [], joints = [], shifts = [];
  parents.forEach((parent, j) => {
    const own = Array.from(rotations.slice(9 * j, 9 * j + 9));
    if (parent < 0) {
      turns.push(own);
      joints.push(rest[j]);
    } else {
      const arm = turn(turns[parent], rest[j].map((x, axis) => x - rest[parent][axis]));
      turns.push(times(turns[parent], own));
      joints.push(arm.map((x, axis) => x + joints[parent][axis]));
    }
    const moved = turn(turns[j], rest[j]);
    shifts.push(joints[j].map((x, axis) => x - moved[axis]));
  });
  const found = { joints };
  if (want.points) found.points = keypoints(body.points, shape, turns, shifts);
  if (want.vertices) found.vertices = skin(body.mesh, shape, turns, shifts);
  return found;
}

/** Keypoints as sums of (point, bone) pairs: kinlmr.body.Keypoints. */
function keypoints(points, shape, turns, shifts) {
  const rest = shaped(points, shape), pairs = points.owner.length;
  const out = points.names.map(() => [0, 0, 0]);
  points.owner.forEach((owner, q) => {
    const bone = points.bone[q];
    const held = turn(turns[bone], [rest[q], rest[pairs + q], rest[2 * pairs + q]]);
    held.forEach((x, axis) => (out[owner][axis] += x + points.mass[q] * shifts[bone][axis]));
  });
  return out;
}

/** Vertices, each held by a few bones. */
function skin(mesh, shape, turns, shifts) {
  const rest = shaped(mesh, shape), count = rest.length / 3, out = new Float64Array(rest.length);
  for (let v = 0; v < count; v++) {
    const x = rest[v], y = rest[count + v], z = rest[2 * count + v];
    for (const [bone, weight] of mesh.weights[v]) {
      const a = turns[bone], b = shifts[bone];
      for (let axis = 0; axis < 3; axis++) {
        out[3 * v + axis] += weight * (a[3 * axis] * x + a[3 * axis + 1] * y + a[3 * axis + 2] * z + b[axis]);
      }
    }
  }
  return out;
}
