"""Which triangle is seen at which pixel, and which way surfaces look: a z-buffer in numpy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinlmr.body import area

Array = NDArray[Any]

EDGE, SLIVER = 1e-7, 1e-9  # pixels by which faces overlap, so that no gap is between two; square pixels that are none
FRAGMENTS = 1 << 19  # candidate pixels looked at in one go: bounds the memory, and stays in cache


def rasterise(points: Array, faces: Array, height: int, width: int) -> tuple[Array, Array, Array]:
    """The z-buffer: which face is seen at which pixel's middle.

    points (N, 3) with depth linear over the picture (smaller is nearer), faces (F, 3) -> pixels hit (M) as row * width
    + column, their faces (M), and the shares of the faces' corners (3, M). Where two faces are equally near, the later
    one is seen.
    """
    corners = points[faces]  # (F, 3, 3)
    double, (a, b, c) = area(points, faces), corners.swapaxes(0, 1)
    low, high = np.minimum(np.minimum(a, b), c), np.maximum(np.maximum(a, b), c)
    x0, y0 = (np.ceil(low[:, k] - 0.5).clip(0, size).astype(np.int64) for k, size in ((0, width), (1, height)))
    x1, y1 = (np.floor(high[:, k] - 0.5).clip(-1, size - 1).astype(np.int64) for k, size in ((0, width), (1, height)))
    kept = np.flatnonzero((np.abs(double) > SLIVER) & (x1 >= x0) & (y1 >= y0))
    if not len(kept):
        return kept, kept, np.zeros((3, 0))
    corners, double, x0, y0, x1, y1 = (values[kept] for values in (corners, double, x0, y0, x1, y1))
    start, ahead = corners, np.roll(corners, -1, 1)
    rise = ahead[..., 1] - start[..., 1]
    rise[np.abs(rise) < 1e-12] = 0  # level edges: the box's rows do for them
    slope = (ahead[..., 0] - start[..., 0]) / np.where(rise == 0, np.inf, rise)
    cross = start[..., 0] + (y0[:, None] + 0.5 - start[..., 1]) * slope  # where edges cross the face's first row
    side = rise * np.sign(double)[:, None]
    begins, ends = np.where(side < 0, cross, -np.inf).T, np.where(side > 0, cross, np.inf).T
    begin_steps, end_steps = np.where(side < 0, slope, 0).T, np.where(side > 0, slope, 0).T
    # Shares of corners b and c, and the depth: at the first pixel of the face's box, and their steps along x and y.
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = corners.transpose(1, 2, 0)
    step_b, step_c = np.stack([cy - ay, ax - cx]) / double, np.stack([ay - by, bx - ax]) / double
    dx, dy = x0 + 0.5 - ax, y0 + 0.5 - ay
    step_z = (bz - az) * step_b + (cz - az) * step_c
    z0 = az + step_z[0] * dx + step_z[1] * dy

    left, top = x0.min(), y0.min()  # the part of the picture that has something in it
    wide, tall = x1.max() - left + 1, y1.max() - top + 1
    nearest, best = np.full(wide * tall, np.inf), np.full(wide * tall, -1)
    for part in _groups((x1 - x0 + 1) * (y1 - y0 + 1)):
        rows = (y1 - y0)[part] + 1
        face = np.repeat(np.arange(part.start, part.stop), rows)
        row = np.arange(len(face)) - np.repeat(np.cumsum(rows) - rows, rows)
        from_left, to_right = (
            np.repeat(at[:, part], rows, 1) + np.repeat(step[:, part], rows, 1) * row
            for at, step in ((begins, begin_steps), (ends, end_steps))
        )
        begin, end = np.ceil(from_left.max(0) - 0.5 - EDGE), np.floor(to_right.min(0) - 0.5 + EDGE)
        begin, end = np.minimum(np.maximum(begin, x0[face]), x1[face] + 1), np.minimum(end, x1[face])
        count = np.maximum(end - begin + 1, 0).astype(np.int64)
        column = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        z = z0[face] + step_z[0, face] * (begin - x0[face]) + step_z[1, face] * row
        z = np.repeat(z, count) + np.repeat(step_z[0, face], count) * column
        first = (row + y0[face] - top) * wide + begin.astype(np.int64) - left
        pixel = np.repeat(first, count) + column
        np.minimum.at(nearest, pixel, z)
        seen = np.flatnonzero(z == nearest[pixel])
        best[pixel[seen]] = np.repeat(face, count)[seen]
    pixel = np.flatnonzero(best >= 0)
    face, (y, x) = best[pixel], np.divmod(pixel, wide)
    x, y = x + left, y + top
    u, v = (step[0, face] * (x + 0.5 - ax[face]) + step[1, face] * (y + 0.5 - ay[face]) for step in (step_b, step_c))
    return y * width + x, kept[face], np.stack([1 - u - v, u, v])


def _groups(count: Array) -> Iterator[slice]:
    """Faces in turn, as many at a time as have about FRAGMENTS candidate pixels."""
    ends = np.cumsum(count)
    start = 0
    while start < len(count):
        stop = max(start + 1, int(np.searchsorted(ends, (ends[start - 1] if start else 0) + FRAGMENTS, "right")))
        yield slice(start, stop)
        start = stop
