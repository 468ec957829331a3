// Numbers and vectors as plain lists; 3 x 3 matrices are row-major.

export const sum = (numbers) => numbers.reduce((total, x) => total + x, 0);
export const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
export const dot = (a, b) => a.reduce((total, x, k) => total + x * b[k], 0);
export const plus = (a, b, share = 1) => a.map((x, k) => x + share * b[k]);
export const minus = (a, b) => plus(a, b, -1);
export const scaled = (a, share) => a.map((x) => share * x);
export const length = (a) => Math.hypot(...a);
export const unit = (a) => scaled(a, 1 / Math.max(length(a), 1e-12));
export const cross = ([a, b, c], [x, y, z]) => [b * z - c * y, c * x - a * z, a * y - b * x];
export const matrixOf = (rotations, j) => Array.from(rotations.slice(9 * j, 9 * j + 9)); // of a joint
