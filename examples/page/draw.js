// Shaded bodies, triangle by triangle, nearest first by a depth for each pixel.

export const COLORS = [[117, 161, 232], [232, 142, 104], [116, 184, 128], [188, 142, 210], [222, 190, 100]];
const LAMP = [-0.41, -0.69, -0.6]; // where the light is, in the camera's frame

/** Vertices (flat x, y, z in metres, camera's frame) in pixels of the video: equation 1 of LMR in the box. */
export function overVideo(vertices, [s, tx, ty], [cx, cy, side], zoom) {
  const half = (zoom * side) / 2, move = [zoom * cx + half * tx, zoom * cy + half * ty, 0];
  return vertices.map((x, i) => half * s * x + move[i % 3]);
}

/** The same from the side: the pelvis (row [x, y, z]) at x and halfway down a canvas that is so high. */
export function fromTheSide(vertices, pelvis, x, height, pixelsPerMetre) {
  const out = new Float64Array(vertices.length);
  for (let i = 0; i < out.length; i += 3) {
    out[i] = x + pixelsPerMetre * (vertices[i + 2] - pelvis[2]);
    out[i + 1] = height / 2 + pixelsPerMetre * (vertices[i + 1] - pelvis[1]);
    out[i + 2] = -pixelsPerMetre * vertices[i];
  }
  return out;
}

/** Paint a closed mesh over a picture (ImageData): vertices flat x, y in pixels and z away from the viewer. */
export function paint({ width, height, data }, vertices, faces, color) {
  const light = lights(vertices, faces), depth = new Float32Array(width * height).fill(Infinity);
  for (const face of faces) {
    const [a, b, c] = face.map((v) => 3 * v);
    const [ax, ay, az] = vertices.subarray(a, a + 3), [bx, by, bz] = vertices.subarray(b, b + 3);
    const [cx, cy, cz] = vertices.subarray(c, c + 3), area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax);
    if (!(area < 0)) continue; // its back
    const left = Math.max(Math.ceil(Math.min(ax, bx, cx)), 0), right = Math.min(Math.floor(Math.max(ax, bx, cx)), width - 1);
    const top = Math.max(Math.ceil(Math.min(ay, by, cy)), 0), bottom = Math.min(Math.floor(Math.max(ay, by, cy)), height - 1);
    for (let y = top; y <= bottom; y++) {
      for (let x = left; x <= right; x++) {
        const u = ((bx - x) * (cy - y) - (by - y) * (cx - x)) / area, v = ((cx - x) * (ay - y) - (cy - y) * (ax - x)) / area;
        const w = 1 - u - v, at = y * width + x, z = u * az + v * bz + w * cz;
        if (u < 0 || v < 0 || w < 0 || z >= depth[at]) continue;
        depth[at] = z;
        const bright = u * light[face[0]] + v * light[face[1]] + w * light[face[2]];
        for (let k = 0; k < 3; k++) data[4 * at + k] = bright * color[k];
        data[4 * at + 3] = 255;
      }
    }
  }
}

/** How bright each vertex is. */
function lights(vertices, faces) {
  const normals = new Float64Array(vertices.length);
  for (const face of faces) {
    const [a, b, c] = face.map((v) => 3 * v), u = [0, 1, 2].map((k) => vertices[b + k] - vertices[a + k]);
    const w = [0, 1, 2].map((k) => vertices[c + k] - vertices[a + k]);
    const n = [u[1] * w[2] - u[2] * w[1], u[2] * w[0] - u[0] * w[2], u[0] * w[1] - u[1] * w[0]];
    for (const corner of [a, b, c]) n.forEach((x, k) => (normals[corner + k] += x));
  }
  return Float64Array.from({ length: vertices.length / 3 }, (_, v) => {
    const n = normals.subarray(3 * v, 3 * v + 3), facing = n[0] * LAMP[0] + n[1] * LAMP[1] + n[2] * LAMP[2];
    return 0.42 + 0.62 * Math.max(0, 0.25 + (0.75 * facing) / (Math.hypot(...n) || 1));
  });
}
