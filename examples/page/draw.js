// A shaded body on a 2D canvas: triangles from the farthest to the nearest.

const COLOR = [117, 161, 232], LAMP = [-0.41, -0.69, -0.6]; // where the light is, in the camera's frame

/** Vertices (flat x, y, z in metres, camera's frame) in pixels of the video: equation 1 of LMR in the box. */
export function overVideo(vertices, [s, tx, ty], [cx, cy, side]) {
  const half = side / 2, move = [cx + half * tx, cy + half * ty, 0];
  return vertices.map((x, i) => half * s * x + move[i % 3]);
}

/** The same from the side, on a canvas of that size: the pelvis (row [x, y, z]) in the middle, 2.4 m from top to bottom. */
export function fromTheSide(vertices, pelvis, { width, height }) {
  const out = new Float64Array(vertices.length), scale = height / 2.4;
  for (let i = 0; i < out.length; i += 3) {
    out[i] = width / 2 + scale * (vertices[i + 2] - pelvis[2]);
    out[i + 1] = height / 2 + scale * (vertices[i + 1] - pelvis[1]);
    out[i + 2] = -scale * vertices[i];
  }
  return out;
}

/** Paint a closed mesh: vertices flat x, y in pixels and z away from the viewer, faces rows of three. */
export function paint(context, vertices, faces) {
  const normals = new Float64Array(vertices.length), front = [];
  for (const face of faces) {
    const [a, b, c] = face.map((v) => 3 * v), u = [0, 1, 2].map((k) => vertices[b + k] - vertices[a + k]);
    const w = [0, 1, 2].map((k) => vertices[c + k] - vertices[a + k]);
    const n = [u[1] * w[2] - u[2] * w[1], u[2] * w[0] - u[0] * w[2], u[0] * w[1] - u[1] * w[0]];
    for (const corner of [a, b, c]) n.forEach((x, k) => (normals[corner + k] += x));
    if (n[2] < 0) front.push([vertices[a + 2] + vertices[b + 2] + vertices[c + 2], a, b, c]);
  }
  context.lineWidth = 0.7;
  for (const [, a, b, c] of front.sort((one, two) => two[0] - one[0])) {
    const n = [0, 1, 2].map((k) => normals[a + k] + normals[b + k] + normals[c + k]);
    const facing = (n[0] * LAMP[0] + n[1] * LAMP[1] + n[2] * LAMP[2]) / (Math.hypot(...n) || 1);
    const light = 0.42 + 0.62 * Math.max(0, 0.25 + 0.75 * facing);
    context.fillStyle = context.strokeStyle = `rgb(${COLOR.map((x) => Math.min(255, Math.round(light * x))).join()})`;
    context.beginPath();
    for (const corner of [a, b, c]) context.lineTo(vertices[corner], vertices[corner + 1]);
    context.closePath();
    context.fill();
    context.stroke(); // closes the hairlines between triangles
  }
}
