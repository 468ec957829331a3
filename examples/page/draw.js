// Shaded bodies, triangle by triangle, nearest first by a depth for each pixel; the world from the side.

export const COLORS = [[117, 161, 232], [232, 142, 104], [116, 184, 128], [188, 142, 210], [222, 190, 100]];
const LAMP = [-0.41, -0.69, -0.6]; // where the light is, in the camera's frame

/** Vertices (flat x, y, z in metres, camera's frame) in pixels of the video: equation 1 of LMR in the box. */
export function overVideo(vertices, [s, tx, ty], [cx, cy, side], zoom) {
  const half = (zoom * side) / 2, move = [zoom * cx + half * tx, zoom * cy + half * ty, 0];
  return vertices.map((x, i) => half * s * x + move[i % 3]);
}

/** The world from the side, as `kinlmr VIDEO` draws it (kinlmr.video.stage): it grows to hold whoever was in it. */
export class Stage {
  /** constants: kinlmr.video.stage's, as serve.py writes them. */
  constructor(constants) {
    const nothing = () => [Infinity, Infinity, -Infinity, -Infinity]; // left, top, right, bottom
    Object.assign(this, { constants, picture: nothing(), ground: nothing() });
  }

  /** World positions, y up, -> to the right and down in the picture, and away, in metres. */
  seen([x, y, z]) {
    const { TURN, TILT } = this.constants, near = z * Math.cos(TURN) - x * Math.sin(TURN);
    const [down, away] = [near * Math.sin(TILT) - y * Math.cos(TILT), -near * Math.cos(TILT) - y * Math.sin(TILT)];
    return [x * Math.cos(TURN) + z * Math.sin(TURN), down, away];
  }

  hold([x, y, z]) {
    const { REACH: [side, below, above], STEP } = this.constants, right = this.seen([x, y, z])[0];
    const [high, low] = [this.seen([x, y, z])[1], this.seen([x, 0, z])[1]].sort((a, b) => a - b);
    const grown = (box, sides) => sides.map((v, k) => {
      return k < 2 ? Math.min(box[k], Math.floor(v / STEP) * STEP) : Math.max(box[k], Math.ceil(v / STEP) * STEP);
    });
    this.picture = grown(this.picture, [right - side, high - above, right + side, low + 0.3 * below]);
    this.ground = grown(this.ground, [x, z, x, z]);
  }

  /** A function from the world to pixels of a canvas; who does not fit into it is followed. */
  lens(roots, { width, height }) {
    const [left, top, right, bottom] = this.picture, extent = [right - left, bottom - top], sides = [width, height];
    const scale = Math.max(Math.min(...sides.map((x, k) => x / extent[k])), height / this.constants.LARGEST);
    const places = roots.map((root) => this.seen(root)), middle = [(left + right) / 2, (top + bottom) / 2].map((x, k) => {
      const rest = Math.max(extent[k] - sides[k] / scale, 0) / 2;
      const now = places.length ? places.reduce((total, p) => total + p[k], 0) / places.length : x;
      return Math.min(Math.max(now, x - rest), x + rest);
    });
    return (point) => {
      const [x, y, z] = this.seen(point);
      return [scale * (x - middle[0]) + width / 2, scale * (y - middle[1]) + height / 2, scale * z];
    };
  }

  /** The floor, a line a metre, and paths: { rows of world positions, the last where somebody is, color }. */
  floor(context, placed, paths) {
    const edge = this.constants.CARPET[0], [x0, z0, x1, z1] = this.ground.map((v, k) => (k < 2 ? v - edge : v + edge));
    const line = (color, width, ...points) => {
      Object.assign(context, { strokeStyle: color, lineWidth: width });
      context.beginPath();
      points.forEach((point) => context.lineTo(...placed(point).slice(0, 2)));
      context.stroke();
    };
    line("#e5e5e8", 1, [x0, 0, z0], [x1, 0, z0], [x1, 0, z1], [x0, 0, z1]);
    context.fillStyle = "#e5e5e8";
    context.fill();
    for (let x = Math.ceil(x0); x <= x1; x++) line("#c4c6cc", 1, [x, 0, z0], [x, 0, z1]);
    for (let z = Math.ceil(z0); z <= z1; z++) line("#c4c6cc", 1, [x0, 0, z], [x1, 0, z]);
    for (const { rows, color } of paths) {
      line(`rgb(${color})`, 3, ...rows.map(([x, , z]) => [x, 0, z]));
      line(`rgb(${color} / 40%)`, 1.5, rows.at(-1), [rows.at(-1)[0], 0, rows.at(-1)[2]]); // how high somebody is
    }
  }
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
