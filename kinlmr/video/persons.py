"""A person's points in a picture: how large, how far from another's, what window shows them; people painted over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kinlmr.files import Array

SURE = 0.4  # the confidence of a point that counts for sizes and windows
TOUCH = 0.08  # of a size: nearer points are in one position
LEARN = 0.3  # how much of the way the motion goes to the last frame's
THICK, GREY = 0.06, 128  # of a size: half a limb's width where it is painted over, and the colour
HIPS, SHOULDERS, COCO = [11, 12], [5, 6], 17
# fmt: off
BONES = np.array([[3, 4], [0, 5], [0, 6], [5, 6], [5, 7], [7, 9], [6, 8], [8, 10], [5, 11], [6, 12], [5, 12], [6, 11],
                  [11, 12], [11, 13], [13, 15], [12, 14], [14, 16]])  # limbs, trunk and head
# fmt: on


class Window(NamedTuple):
    """The part of a picture that a close look sees: its centre, width and height in pixels."""

    x: float
    y: float
    width: float
    height: float


def apart(one: Array, other: Array) -> float:
    """The mean distance of points (17, 3), in units of the smaller person's size; points count by both confidences."""
    one, other = one[:COCO], other[:COCO]
    weight = one[:, 2] * other[:, 2] + 1e-6
    distance = np.linalg.norm((one - other)[:, :2], axis=1)
    return float((weight * distance).sum() / weight.sum() / min(size(one), size(other)))


def box(points: Array) -> Array:
    """The corners (2, 2) about the points that are sure; about all, if these are few."""
    sure = points[:, 2] > SURE
    places = points[sure if sure.sum() > 3 else slice(None), :2]
    return np.stack([places.min(0), places.max(0)])


def size(points: Array) -> float:
    """The longer side of the box about a person's points."""
    return max(float(np.ptp(box(points[:COCO]), 0).max()), 1e-6)


def touching(points: Array, other: Array) -> int:
    """How many of somebody's points lie on the same ones of another's."""
    away = np.linalg.norm((points[:COCO] - other[:COCO])[:, :2], axis=1)
    return int((away < TOUCH * min(size(points), size(other))).sum())


def covered(frame: NDArray[np.uint8], people: Sequence[Array]) -> NDArray[np.uint8]:
    """A frame (H, W, 3) with people (17, 3) painted over, along their limbs."""
    frame = frame.copy()
    for points in people:
        reach = THICK * size(points)
        for start, end in points[BONES][..., :2]:
            left, top = np.maximum(np.minimum(start, end) - reach, 0).astype(int)
            right, bottom = np.maximum(np.maximum(start, end) + reach + 1, 0).astype(int)
            part = frame[top:bottom, left:right]
            y, x = np.mgrid[top : top + part.shape[0], left : left + part.shape[1]]
            along, away = end - start, np.stack([x, y], -1) - start
            share = (away @ along / max(along @ along, 1e-6)).clip(0, 1)[..., None]
            part[np.linalg.norm(away - share * along, axis=-1) < reach] = GREY
    return frame


def moved(points: Array, motion: Array) -> Array:
    return points + np.append(motion, 0)


def about_hips(points: Array) -> Window:
    """MoveNet's square: about the hips, 1.9 trunks or 1.2 bodies to each side."""
    sure = points[:, 2] > SURE
    if not (sure[HIPS].any() and sure[SHOULDERS].any()):
        sure = np.ones(COCO, bool)
    centre = points[HIPS][sure[HIPS], :2].mean(0)
    reach = np.abs(points[:, :2] - centre).max(1)
    trunk = [k for k in SHOULDERS + HIPS if sure[k]]
    side = 2 * max(1.9 * reach[trunk].max(), 1.2 * reach[sure].max(), 4.0)
    return Window(float(centre[0]), float(centre[1]), side, side)


def steadied(before: Window, wanted: Window, motion: Array, fresh: bool) -> Window:
    """A window that follows: it moves with the person, grows soon and shrinks late. ``fresh``: of one who was away."""
    if fresh:
        return wanted
    grow = 0.3 if wanted.width > before.width else 0.1
    x, y = before.x + motion[0], before.y + motion[1]
    x, y = x + LEARN * (wanted.x - x), y + LEARN * (wanted.y - y)
    width, height = (was + grow * (want - was) for was, want in zip(before[2:], wanted[2:], strict=True))
    return Window(float(x), float(y), width, height)
