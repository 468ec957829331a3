// Who stands in the world (world.js), as files for other tools: GLB and BVH as kinlmr.export writes them, y up, in metres.
//
// A take is somebody on the clock's ticks: { start, fps, rotations: of each tick (9 J), root: rows [x, y, z] of the root
// joint, shape (S) }.

import { atRest, shaped, times } from "./body.js";
import { logarithm, quaternion, rotation, transposed } from "./kinlmr.js";

const COLORS = [[0.36, 0.52, 0.86], [0.9, 0.5, 0.36], [0.42, 0.7, 0.46], [0.72, 0.52, 0.8], [0.86, 0.72, 0.34]];

/** frames: { time, rotations, translation, shape } of one person in the world, in seconds -> a take of the last shape. */
export function take(body, frames, fps) {
  const top = body.parents.indexOf(-1), start = Math.ceil(frames[0].time * fps - 1e-3);
  const ticks = Math.max(Math.floor(frames.at(-1).time * fps + 1e-3) - start + 1, 1);
  const made = { start, fps, rotations: [], root: [], shape: frames.at(-1).shape };
  const placed = frames.map(({ translation, shape }) => {
    const rest = atRest(body, shape)[top];
    return translation.map((x, axis) => x + rest[axis]);
  });
  for (let tick = 0, k = 0; tick < ticks; tick++) {
    const time = (start + tick) / fps;
    while (k + 2 < frames.length && frames[k + 1].time <= time) k++;
    const l = Math.min(k + 1, frames.length - 1), one = frames[k], two = frames[l];
    const share = two === one ? 0 : Math.min(Math.max((time - one.time) / (two.time - one.time), 0), 1);
    made.rotations.push(between(one.rotations, two.rotations, share));
    made.root.push(placed[k].map((x, axis) => x + share * (placed[l][axis] - x)));
  }
  return made;
}

/** Rotations (9 J) a share of the way from one to another, by the shortest way. */
function between(one, two, share) {
  const out = [];
  for (let j = 0; j < one.length; j += 9) {
    const a = Array.from(one.slice(j, j + 9)), b = Array.from(two.slice(j, j + 9));
    out.push(...(share === 0 ? a : times(a, rotation(logarithm(times(transposed(a), b)).map((x) => share * x)))));
  }
  return out;
}

const minus = (a, b) => a.map((x, k) => x - b[k]);

// ------------------------------------------------------------------------------------------------------------------ BVH

/** A take as the text of a BVH file; until somebody comes, the first pose is held. */
export function bvh(body, { start, fps, rotations, root, shape }) {
  const rest = atRest(body, shape), order = [], lines = ["HIERARCHY"];
  const offset = (j) => (body.parents[j] < 0 ? [0, 0, 0] : minus(rest[j], rest[body.parents[j]]));
  const three = (row) => row.map((x) => x.toPrecision(9)).join(" ");
  const add = (j, depth) => {
    const tab = "  ".repeat(depth), children = [...body.parents.keys()].filter((k) => body.parents[k] === j), own = offset(j);
    order.push(j);
    lines.push(`${tab}${depth ? "JOINT" : "ROOT"} ${body.names[j]}`, `${tab}{`, `${tab}  OFFSET ${three(own)}`);
    lines.push(`${tab}  CHANNELS ${depth ? "3" : "6 Xposition Yposition Zposition"} Zrotation Yrotation Xrotation`);
    children.forEach((child) => add(child, depth + 1));
    const end = Math.hypot(...own) > 1e-3 ? own.map((x) => x / 2) : [0, 0.05, 0]; // to some tools no length is an error
    if (!children.length) lines.push(`${tab}  End Site`, `${tab}  {`, `${tab}    OFFSET ${three(end)}`, `${tab}  }`);
    lines.push(`${tab}}`);
  };
  add(body.parents.indexOf(-1), 0);
  lines.push("MOTION", `Frames: ${start + rotations.length}`, `Frame Time: ${(1 / fps).toFixed(12)}`);
  const rows = rotations.map((turns, t) => {
    const angles = order.flatMap((j) => eulerZYX(turns.slice(9 * j, 9 * j + 9)).map((x) => (x * 180) / Math.PI));
    return [...root[t], ...angles].map((x) => x.toFixed(7)).join(" ");
  });
  return [...lines, ...Array(start).fill(rows[0]), ...rows, ""].join("\n");
}

/** Angles of z, y and x whose product Z Y X is a rotation: x undoes z where y is 90 degrees. */
function eulerZYX(m) {
  const z = Math.atan2(m[3], m[0]), s = Math.sin(z), c = Math.cos(z);
  return [z, Math.atan2(-m[6], c * m[0] + s * m[3]), Math.atan2(s * m[2] - c * m[5], c * m[4] - s * m[1])];
}

// ------------------------------------------------------------------------------------------------------------------ GLB

/** Takes as the bytes of a binary glTF 2.0 file: a skinned mesh for each person, hidden until they come. */
export function glb(body, takes) {
  const content = {
    asset: { version: "2.0", generator: "kinlmr" }, scene: 0, scenes: [{ nodes: [] }], nodes: [], meshes: [], skins: [],
    materials: [], animations: [{ name: "motion", samplers: [], channels: [] }], bufferViews: [], accessors: [],
  };
  const pieces = [];
  takes.forEach((one, k) => addPerson(content, pieces, body, one, `person${k + 1}`, COLORS[k % COLORS.length]));
  const size = pieces.reduce((total, piece) => total + piece.length, 0);
  content.buffers = [{ byteLength: size }];
  const text = new TextEncoder().encode(JSON.stringify(content)), padded = Math.ceil(text.length / 4) * 4;
  const file = new Uint8Array(28 + padded + size).fill(32, 20, 20 + padded), view = new DataView(file.buffer);
  [0x46546c67, 2, file.length, padded, 0x4e4f534a].forEach((x, k) => view.setUint32(4 * k, x, true)); // glTF, JSON
  file.set(text, 20);
  [size, 0x004e4942].forEach((x, k) => view.setUint32(20 + padded + 4 * k, x, true)); // BIN
  let at = 28 + padded;
  for (const piece of pieces) {
    file.set(piece, at);
    at += piece.length;
  }
  return file;
}

/** The index of a new accessor over numbers, in a view of its own. */
function accessor(content, pieces, numbers, type, { target, bounds } = {}) {
  const width = { SCALAR: 1, VEC3: 3, VEC4: 4, MAT4: 16 }[type];
  const componentType = { Uint8Array: 5121, Uint16Array: 5123, Float32Array: 5126 }[numbers.constructor.name];
  const piece = new Uint8Array(Math.ceil(numbers.byteLength / 4) * 4);
  piece.set(new Uint8Array(numbers.buffer));
  const byteOffset = pieces.reduce((total, { length }) => total + length, 0);
  content.bufferViews.push({ buffer: 0, byteOffset, byteLength: numbers.byteLength, ...(target && { target }) });
  const entry = { bufferView: content.bufferViews.length - 1, componentType, count: numbers.length / width, type };
  const column = (axis) => numbers.filter((_, i) => i % width === axis);
  const extreme = (most) => Array.from({ length: width }, (_, axis) => column(axis).reduce((a, b) => most(a, b)));
  content.accessors.push(bounds ? { ...entry, min: extreme(Math.min), max: extreme(Math.max) } : entry);
  pieces.push(piece);
  return content.accessors.length - 1;
}

function addPerson(content, pieces, body, { start, fps, rotations, root, shape }, name, color) {
  const { names, parents, mesh } = body, rest = atRest(body, shape), count = parents.length;
  const first = content.nodes.length, top = parents.indexOf(-1); // the joints' nodes, then the person's, then the mesh's
  const add = (numbers, type, more) => accessor(content, pieces, numbers, type, more), floats = (x) => Float32Array.from(x);
  parents.forEach((parent, j) => {
    const children = [...parents.keys()].filter((k) => parents[k] === j).map((k) => first + k);
    const translation = parent < 0 ? rest[j] : minus(rest[j], rest[parent]);
    content.nodes.push({ name: names[j], translation, ...(children.length && { children }) });
  });
  content.nodes.push({ name, children: [first + top] });
  content.nodes.push({ name: `${name}_mesh`, mesh: content.meshes.length, skin: content.skins.length });
  content.scenes[0].nodes.push(first + count, first + count + 1);

  const bind = rest.flatMap(([x, y, z]) => [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, -x, -y, -z, 1]);
  const joints = parents.map((_, j) => first + j);
  content.skins.push({ joints, skeleton: first + top, inverseBindMatrices: add(floats(bind), "MAT4") });
  const paint = { baseColorFactor: [...color, 1], metallicFactor: 0, roughnessFactor: 0.7 };
  content.materials.push({ name, pbrMetallicRoughness: paint });

  const flat = shaped(mesh, shape), vertices = flat.length / 3;
  const positions = Float32Array.from({ length: flat.length }, (_, i) => flat[(i % 3) * vertices + Math.floor(i / 3)]);
  const held = mesh.weights.map((pairs) => [...pairs].sort((a, b) => b[1] - a[1]).slice(0, 4));
  const four = (row, k) => [0, 1, 2, 3].map((i) => row[i]?.[k] ?? 0);
  const weights = held.flatMap((row) => four(row.map((pair) => [0, pair[1] / row.reduce((t, p) => t + p[1], 0)]), 1));
  const target = 34962;
  const attributes = {
    POSITION: add(positions, "VEC3", { target, bounds: true }),
    NORMAL: add(floats(normals(positions, mesh.faces)), "VEC3", { target }),
    JOINTS_0: add(Uint8Array.from(held.flatMap((row) => four(row, 0))), "VEC4", { target }),
    WEIGHTS_0: add(floats(weights), "VEC4", { target }),
  };
  const indices = add(Uint16Array.from(mesh.faces.flat()), "SCALAR", { target: 34963 });
  content.meshes.push({ name, primitives: [{ attributes, indices, material: content.materials.length - 1 }] });

  const [animation] = content.animations;
  const animate = (node, path, input, numbers, type, interpolation = "LINEAR") => {
    animation.channels.push({ sampler: animation.samplers.length, target: { node, path } });
    animation.samplers.push({ input, interpolation, output: add(floats(numbers), type) });
  };
  const clock = add(floats(rotations.map((_, t) => (start + t) / fps)), "SCALAR", { bounds: true });
  animate(first + top, "translation", clock, root.flat(), "VEC3");
  for (let j = 0; j < count; j++) {
    animate(first + j, "rotation", clock, quaternions(rotations.map((all) => all.slice(9 * j, 9 * j + 9))), "VEC4");
  }
  if (start === 0) return;
  const shown = add(floats([0, start / fps]), "SCALAR", { bounds: true }); // a scale of zero hides
  animate(first + count, "scale", shown, [0, 0, 0, 1, 1, 1], "VEC3", "STEP");
}

/** Rotations as quaternions x, y, z, w, one after another, without jumps of sign. */
function quaternions(rotations) {
  let last = [0, 0, 0, 1];
  return rotations.flatMap((m) => {
    const [w, ...axis] = quaternion(m), q = [...axis, w], sign = q.reduce((t, x, k) => t + x * last[k], 0) < 0 ? -1 : 1;
    return (last = q.map((x) => sign * x));
  });
}

/** The normals of vertices (flat x, y, z), weighted by the faces' areas. */
function normals(vertices, faces) {
  const out = new Float64Array(vertices.length), at = (v) => Array.from(vertices.slice(3 * v, 3 * v + 3));
  for (const face of faces) {
    const [a, b, c] = face.map(at), u = minus(b, a), w = minus(c, a);
    const n = [u[1] * w[2] - u[2] * w[1], u[2] * w[0] - u[0] * w[2], u[0] * w[1] - u[1] * w[0]];
    for (const v of face) n.forEach((x, k) => (out[3 * v + k] += x));
  }
  for (let i = 0; i < out.length; i += 3) {
    const length = Math.hypot(out[i], out[i + 1], out[i + 2]);
    out.set(length > 0 ? [0, 1, 2].map((k) => out[i + k] / length) : [0, 0, 1], i);
  }
  return out;
}
