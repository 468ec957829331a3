"""A mesh's surface in numpy: normals, area, volume, and whether it is closed."""

from __future__ import annotations

import numpy as np

from kinlmr.files import Array


def normals(vertices: Array, faces: Array) -> Array:
    """Unit normals (N, 3) of vertices (N, 3): the mean of their faces' (F, 3), weighted by area; zero if none."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    cross = np.cross(b - a, c - a)
    total = np.stack(
        [sum(np.bincount(faces[:, k], cross[:, axis], len(vertices)) for k in range(3)) for axis in range(3)], 1
    )
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-30)


def area(points: Array, faces: Array) -> Array:
    """Twice the area of faces in the picture, below zero where their outside is seen (y runs down)."""
    a, b, c = (points[faces[:, k], :2] for k in range(3))
    return (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])


def volume(points: Array, faces: Array) -> float:
    """Six times the volume within closed faces (F, 3), above zero where their normals look out."""
    a, b, c = (points[faces[:, k]] for k in range(3))
    return float(np.einsum("fi,fi->", a - points.mean(0), np.cross(b - a, c - a)))


def closed(faces: Array, count: int) -> bool:
    """Whether a mesh of N vertices and faces (F, 3) has no rim: each edge has a neighbour that runs the other way.

    A random product that changes its sign with an edge's direction then adds up to zero; in whole numbers, exactly.
    """
    one, two = np.random.default_rng(0).integers(-(1 << 62), 1 << 62, (2, count))
    start, end = faces.ravel(), np.roll(faces, -1, 1).ravel()
    return int((one[start] * two[end] - one[end] * two[start]).sum()) == 0
