"""Pictures of bodies in numpy: a mesh over a frame, from the side, a skeleton, a sheet of frames, a PNG file.

A picture is (H, W, 3) in uint8. Its x runs from 0 at the left edge to W at the right one, y from 0 at the top to H, so
that the first pixel's middle is (0.5, 0.5). What is drawn is in pixels already, with depth z away from the viewer;
`weak` and `pinhole` bring a body there from the camera's frame (x right, y down, z forward, in metres).
Every function returns a new picture. A colour is three numbers between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from kinlmr.body import area, closed, normals, volume
from kinlmr.video.raster import rasterise
from kinlmr.video.sheets import INK, PAPER, Array, Picture, checked, label, sheet, stroke, write_png

__all__ = ["label", "mesh", "pinhole", "sheet", "side_view", "skeleton", "weak", "write_png"]

BLUE = (0.46, 0.63, 0.91)
TILT = np.deg2rad(9)  # of the ground in a side view
SKY = 0.46, 0.2  # light from above and from below
# Lamps: where they are (at length one, in the camera's frame), how strong, and how far they reach around the surface.
LIGHTS = (((-0.413, -0.689, -0.595), 0.62, 0.25), ((0.958, -0.106, -0.266), 0.16, 0.4))


# --------------------------------------------------------------------------------------------------------------- places


def weak(vertices: ArrayLike, camera: ArrayLike, box: ArrayLike) -> Array:
    """Equation 1 of LMR, in pixels: x = s X_xy + t in the crop ``box``, depth at the same scale.

    vertices (N, 3) in the camera's frame, camera (3) as (s, tx, ty), box (3) as (cx, cy, side) in pixels -> (N, 3)
    """
    points, (s, *t), (*centre, side) = _numbers(vertices, "vertices", 3), _row(camera, "camera"), _row(box, "box")
    return (points * s + np.array([*t, 0.0])) * side / 2 + np.array([*centre, 0.0])


def pinhole(vertices: ArrayLike, translation: ArrayLike, focal: float, size: Sequence[int]) -> Array:
    """A pinhole whose principal point is the picture's middle: f (X + t)_xy / (X + t)_z, and depth (X + t)_z.

    vertices (N, 3), translation (3), focal in pixels, size (height, width) -> (N, 3), to be drawn with ``focal``.
    """
    points = _numbers(vertices, "vertices", 3) + _row(translation, "translation")
    z = np.where(points[:, 2:] == 0, -1.0, points[:, 2:])  # in the camera's own plane: it has no image
    return np.concatenate([focal * points[:, :2] / z + np.array([size[1] / 2, size[0] / 2]), z], 1)


# ----------------------------------------------------------------------------------------------------------------- mesh


def mesh(
    picture: Picture,
    vertices: ArrayLike,
    faces: ArrayLike,
    color: ArrayLike = BLUE,
    opacity: float = 0.92,
    focal: float | None = None,
    samples: int = 1,
) -> Picture:
    """Lay a shaded mesh over a picture.

    vertices (N, 3) x, y in pixels and z away from the viewer, faces (F, 3), color (3) or one per vertex (N, 3)
    focal    None: weak perspective, z in pixels like x and y, of any sign. A number: a pinhole with its middle in the
             picture's, z in any unit; triangles that reach behind it (z <= 0) are left out
    samples  rays per pixel along x and along y: 2 for smooth edges, at four times the price

    Several bodies that may hide one another are one mesh: their vertices, faces and colours one after another.
    """
    picture, points = checked(picture), _numbers(vertices, "vertices", 3)
    triangles = _faces(faces, len(points))
    tint = np.asarray(color, np.float32)
    if tint.shape not in ((3,), (len(points), 3)):
        raise ValueError(f"color has shape (3,) or ({len(points)}, 3), not {tint.shape}")
    if not (isinstance(samples, int) and 1 <= samples <= 8):
        raise ValueError(f"samples is 1 to 8, not {samples!r}")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity is between 0 and 1, not {opacity}")
    if focal is not None and not focal > 0:
        raise ValueError(f"focal is more than 0 pixels, not {focal}")
    height, width = picture.shape[:2]
    if not len(triangles):
        return picture.copy()
    solid, depth = _solid(points, focal, height, width), points[:, 2]
    normal, whole = normals(solid, triangles), closed(triangles, len(points)) and volume(solid, triangles) > 0
    if focal is not None:
        triangles = triangles[(depth[triangles] > 0).all(1)]
        depth = -1 / np.where(depth > 0, depth, 1.0)  # this is what is linear over the picture
    flat = np.column_stack([points[:, :2] * samples, depth])
    front = area(flat, triangles) < 0
    if whole:
        triangles, front = triangles[front], front[front]  # what looks away is hidden
    pixel, face, share = rasterise(flat, triangles, height * samples, width * samples)

    corners, share = triangles[face].T, share.astype(np.float32)
    normal = np.where(front[face], 1, -1).astype(np.float32) * _mixed(normal, corners, share)
    shade = _lit(normal, tint[:, None] if tint.ndim == 1 else _mixed(tint, corners, share))
    if samples > 1:
        row, column = np.divmod(pixel, width * samples)
        pixel = row // samples * width + column // samples
    cover = np.bincount(pixel)
    hits = np.flatnonzero(cover)
    colors = np.stack([np.bincount(pixel, plane)[hits] for plane in shade], 1) / cover[hits, None]
    out = picture.copy()
    _blend(out, hits, colors, opacity * cover[hits, None] / samples**2)
    return out


def _mixed(values: Array, corners: Array, share: Array) -> Array:
    """Values of vertices (N, 3) at shares (3, M) of corners (3, M) -> (3, M)."""
    planes = np.ascontiguousarray(values.T, np.float32)
    return np.stack([sum(share[k] * plane[corners[k]] for k in range(3)) for plane in planes])


def _lit(normal: Array, color: Array) -> Array:
    """Colours (3, M) or (3, 1) under a sky, two soft lamps and a glancing shine, at normals (3, M) of what is seen."""
    x, y, z = normal / np.maximum(np.sqrt((normal * normal).sum(0)), 1e-12)
    light = (SKY[0] + SKY[1]) / 2 - (SKY[0] - SKY[1]) / 2 * y
    for (lx, ly, lz), strength, wrap in LIGHTS:
        light += strength / (1 + wrap) * np.maximum(lx * x + ly * y + lz * z + wrap, 0)
    (lx, ly, lz), away = LIGHTS[0][0], np.maximum(1 + z, 0)
    shine = np.maximum(lx * x + ly * y + (lz - 1) * z, 0) / float(np.sqrt(2 - 2 * lz))  # halfway from lamp to viewer
    for _ in range(4):
        shine *= shine
    return np.clip(light * color + (0.14 * shine + 0.22 * away * away * away), 0, 1)


def _solid(points: Array, focal: float | None, height: int, width: int) -> Array:
    """What was projected to points (N, 3), up to its size."""
    if focal is None:
        return points
    z = points[:, 2:]
    return np.concatenate([(points[:, :2] - np.array([width / 2, height / 2])) * z / focal, z], 1)


def _blend(picture: Picture, pixel: Array, color: Array, opacity: Array | float) -> None:
    """Mix colours (M, 3) or (3) into pixels (M) of a picture, in place, as opacity (M, 1) says."""
    flat = picture.reshape(-1, 3)
    flat[pixel] = np.rint(flat[pixel] * (1 - opacity) + 255 * color * opacity).astype(np.uint8)


# ------------------------------------------------------------------------------------------------------------ side view


def side_view(
    vertices: ArrayLike,
    faces: ArrayLike,
    size: Sequence[int] = (480, 360),
    turn: float = 90.0,
    span: float | None = None,
    color: ArrayLike = BLUE,
    samples: int = 2,
) -> Picture:
    """The mesh turned about the vertical, standing on a plain ground: what a view from the front hides.

    vertices (N, 3) in the camera's frame in metres, faces (F, 3), size (height, width), turn in degrees: at 90 the body
    that faced the viewer looks to the right
    span     metres from the picture's bottom to its top; None: so that the body fills it. Give one to all frames of a
             video, and the body keeps its size
    """
    points = _numbers(vertices, "vertices", 3)
    height, width = _size(size)
    if span is not None and not span > 0:
        raise ValueError(f"span is more than 0 metres, not {span}")
    angle = np.deg2rad(turn)
    around = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
    tilted = np.array([[1, 0, 0], [0, np.cos(TILT), -np.sin(TILT)], [0, np.sin(TILT), np.cos(TILT)]])
    points = points @ around.T
    if len(points):
        low, high = points.min(0), points.max(0)
        points = points - np.array([(low[0] + high[0]) / 2, high[1], (low[2] + high[2]) / 2])  # its feet at the origin
        tall, broad = high[1] - low[1], high[0] - low[0]
        span = span or max(tall, broad * height / width, 1e-9) / 0.8
    scale, place = height / (span or 1.0), np.array([width / 2, 0.9 * height, 0])
    picture = _backdrop(height, width)
    flat = (points * np.array([1, 0, 1])) @ tilted.T * scale + place
    picture = shadow(picture, flat, _faces(faces, len(points)), scale)
    return mesh(picture, points @ tilted.T * scale + place, faces, color, 1.0, None, samples)


def _backdrop(height: int, width: int) -> Picture:
    """A wall that meets the ground softly."""
    y = (np.arange(height) + 0.5) / height
    ground = 1 / (1 + np.exp(-(y - 0.8) * 26))
    rows = 255 * (np.array(PAPER) - ground[:, None] * np.array([0.075, 0.07, 0.06]))
    return np.repeat(np.rint(rows).astype(np.uint8)[:, None], width, 1)


def shadow(picture: Picture, points: Array, faces: Array, scale: float) -> Picture:
    """The mesh flat on the ground (N, 3), in pixels, ``scale`` of them a metre: dark, blurred by a few centimetres."""
    reach = min(int(0.03 * scale), 64)
    wide, high = max(reach, 1), max(reach // 3, 1)
    edge, size = 2 * np.array([wide, high]) + 2, picture.shape[1::-1]
    if not len(points):
        return picture
    low = np.floor(points[:, :2].min(0) - edge).clip(0, size).astype(int)
    width, height = (np.ceil(points[:, :2].max(0) + edge).clip(0, size).astype(int) - low).tolist()
    if width <= 0 or height <= 0:
        return picture
    dark = np.zeros(height * width)
    dark[rasterise(points - np.array([*low, 0]), faces, height, width)[0]] = 1
    dark = dark.reshape(height, width)
    for axis, radius in ((0, high), (1, wide)) * 2:
        ends = np.cumsum(np.insert(dark, 0, 0, axis), axis)
        middle = np.arange(dark.shape[axis])
        upper, lower = np.minimum(middle + radius + 1, len(middle)), np.maximum(middle - radius, 0)
        dark = (ends.take(upper, axis) - ends.take(lower, axis)) / (2 * radius + 1)
    out, (row, column) = picture.copy(), np.nonzero(dark > 0.004)  # less changes no colour by half a step
    hits = (row + low[1]) * size[0] + column + low[0]
    _blend(out, hits, np.array(INK), 0.42 * dark[row, column, None])
    return out


# ------------------------------------------------------------------------------------------------------------- skeleton


def skeleton(
    picture: Picture,
    points: ArrayLike,
    bones: Sequence[tuple[int, int]],
    color: ArrayLike = (0.98, 0.62, 0.2),
    width: float = 3.0,
    opacity: float = 1.0,
) -> Picture:
    """Bones as lines and keypoints as dots over a picture, their edges smooth.

    points (K, 2) in pixels, or (K, 3) with a confidence between 0 and 1 that fades them; at 0 a point is not drawn,
    wherever it is. bones: pairs of points. color (3) or one per point (K, 3); a bone has the colour of its second
    width    of a line in pixels; a dot is twice as wide
    """
    picture = checked(picture).copy()
    places = np.asarray(points, np.float64)
    if places.ndim != 2 or places.shape[1] not in (2, 3):
        raise ValueError(f"points has shape (K, 2) or (K, 3), not {places.shape}")
    sure = places[:, 2] if places.shape[1] == 3 else np.ones(len(places))
    if len(bad := np.flatnonzero(~((sure >= 0) & (sure <= 1)))):
        raise ValueError(f"confidences are between 0 and 1, point {bad[0]} has {sure[bad[0]]}")
    places = np.where(sure[:, None] > 0, places[:, :2], 0)
    _numbers(places, "points", 2)
    if wrong := [bone for bone in bones if len(bone) != 2 or not all(0 <= k < len(places) for k in bone)]:
        raise ValueError(f"bone {wrong[0]} does not join two of the points 0 .. {len(places) - 1}")
    tint = np.broadcast_to(np.asarray(color, np.float64), (len(places), 3))
    for i, j in bones:
        stroke(picture, places[[i, j]], width / 2, tint[j], opacity * min(sure[i], sure[j]))
    for k in range(len(places)):
        stroke(picture, places[[k, k]], width + 1, np.ones(3), opacity * sure[k])
        stroke(picture, places[[k, k]], width, tint[k], opacity * sure[k])
    return picture


# --------------------------------------------------------------------------------------------------------------- checks


def _size(size: Sequence[int]) -> tuple[int, int]:
    if len(size) != 2 or not all(isinstance(n, int | np.integer) and n >= 1 for n in size):
        raise ValueError(f"size is (height, width) in whole pixels, not {tuple(size)}")
    return int(size[0]), int(size[1])


def _numbers(values: ArrayLike, what: str, width: int) -> Array:
    array = np.asarray(values, np.float64)
    if array.ndim != 2 or array.shape[1] != width:
        raise ValueError(f"{what} has shape (N, {width}), not {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{what} has a number that is not finite in row {int(np.argwhere(~np.isfinite(array))[0, 0])}")
    return array


def _row(values: ArrayLike, what: str) -> Array:
    array = np.asarray(values, np.float64)
    if array.shape != (3,) or not np.isfinite(array).all():
        raise ValueError(f"{what} is three finite numbers, not {array.tolist()}")
    return array


def _faces(faces: ArrayLike, count: int) -> Array:
    array = np.asarray(faces)
    if array.size == 0:
        return np.zeros((0, 3), np.int64)
    if array.ndim != 2 or array.shape[1] != 3 or array.dtype.kind not in "iu":
        raise ValueError(f"faces are whole numbers of shape (F, 3), not {array.dtype} of shape {array.shape}")
    if array.min() < 0 or array.max() >= count:
        raise ValueError(f"faces name vertices {array.min()} .. {array.max()}, there are {count}")
    return array.astype(np.int64)
