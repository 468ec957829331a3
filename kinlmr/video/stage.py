"""The world from the side: people on its floor, with a grid of metres and the paths that they walked."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from kinlmr.files import Array
from kinlmr.video import draw
from kinlmr.video.sheets import INK, PAPER, Picture, stroke

TURN, TILT = np.deg2rad(62), np.deg2rad(13)  # about the vertical, so that who faces the camera looks right; downwards
REACH = 1.1, 1.0, 1.4  # metres about a root joint that a body takes: to the sides, down and up
LARGEST = 9.0  # metres that the picture's height shows, at most; who needs more is followed
CARPET = 1.0, 1.5  # metres about the people up to which the floor is whole, and over which it fades
STEP = 0.5  # metres by which what is shown grows


def seen(points: Array) -> Array:
    """World positions (..., 3), y up, -> (..., 3): to the right and down in the picture, and away; metres."""
    x, y, z = np.moveaxis(points, -1, 0)
    right, near = x * np.cos(TURN) + z * np.sin(TURN), z * np.cos(TURN) - x * np.sin(TURN)
    return np.stack([right, near * np.sin(TILT) - y * np.cos(TILT), -near * np.cos(TILT) - y * np.sin(TILT)], -1)


class Stage:
    """A picture of the world, of a size (height, width), with all that it was told to hold."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self.low, self.high = np.full(2, np.inf), np.full(2, -np.inf)  # in the picture, metres
        self.near, self.far = np.full(2, np.inf), np.full(2, -np.inf)  # on the floor, x and z
        self.last: tuple[Array, Picture] | None = None

    def hold(self, roots: Array) -> None:
        """Grow so that bodies with their root joints (n, 3) there are in the picture, and the floor under them."""
        roots = roots.reshape(-1, 3)[np.isfinite(roots).all(-1).ravel()]
        if not len(roots):
            return
        side, below, above = REACH
        points = seen(np.concatenate([roots, roots * np.array([1, 0, 1])]))[:, :2]
        about = np.array([side, above]), np.array([side, below * 0.3])
        self.low = np.minimum(self.low, np.floor((points.min(0) - about[0]) / STEP) * STEP)
        self.high = np.maximum(self.high, np.ceil((points.max(0) + about[1]) / STEP) * STEP)
        self.near = np.minimum(self.near, np.floor(roots[:, ::2].min(0) / STEP) * STEP)
        self.far = np.maximum(self.far, np.ceil(roots[:, ::2].max(0) / STEP) * STEP)

    def window(self, roots: Sequence[Array]) -> tuple[float, Array]:
        """Pixels a metre, and the point (2) in the picture's middle, for people whose root joints (3) are there."""
        extent, sides = self.high - self.low, np.array(self.size[::-1])
        scale = max(float((sides / extent).min()), self.size[0] / LARGEST)
        rest = np.maximum(extent - sides / scale, 0) / 2  # what does not fit
        middle = (self.low + self.high) / 2
        now = seen(np.array(roots))[:, :2].mean(0) if roots else middle
        return scale, np.clip(now, middle - rest, middle + rest)

    def draw(
        self, vertices: Array | None = None, faces: Any = (), colors: Any = (), paths: Sequence[tuple[Array, Any]] = (),
        samples: int = 1,
    ) -> Picture:  # fmt: skip
        """Bodies (N, 3) with faces (F, 3) and colours (N, 3), and paths: positions (n, 3) of somebody, the last where
        they are, and a colour (3). Without any, the floor alone."""
        height, width = self.size
        if not np.isfinite(self.low).all():
            return _plain(height, width)
        scale, middle = self.window([path[-1] for path, _ in paths if len(path)])
        picture = self.floor(scale, middle).copy()

        def placed(points: Array) -> Array:
            return (seen(points) - np.append(middle, 0)) * scale + np.array([width / 2, height / 2, 0])

        flat = np.array([1, 0, 1])
        for path, color in paths:
            for ends in itertools.pairwise(placed(path * flat)[:, :2]):
                stroke(picture, np.array(ends), max(0.012 * scale, 0.8), np.array(color), 0.8)
        for path, color in paths:
            if len(path):  # how high somebody is
                stroke(picture, placed(path[-1:] * np.array([[1, 1, 1], [1, 0, 1]]))[:, :2], 0.6, np.array(color), 0.4)
        if vertices is not None:
            picture = draw.shadow(picture, placed(vertices * flat), faces, scale)
            picture = draw.mesh(picture, placed(vertices), faces, colors, 1.0, None, samples)
        return picture

    def floor(self, scale: float, middle: Array) -> Picture:
        """The floor alone: a carpet about where people are, with a line a metre."""
        key = np.array([scale, *middle, *self.near, *self.far])
        if self.last is not None and np.array_equal(self.last[0], key):
            return self.last[1]
        height, width = self.size
        right = (np.arange(width) + 0.5 - width / 2) / scale + middle[0]
        along = (((np.arange(height) + 0.5 - height / 2) / scale + middle[1]) / -np.sin(TILT))[:, None]
        ground = np.stack([right * np.cos(TURN) + along * np.sin(TURN), right * np.sin(TURN) - along * np.cos(TURN)])
        outside = np.abs(ground - ground.clip(self.near[:, None, None], self.far[:, None, None])).max(0)
        carpet = (1 - (outside - CARPET[0]) / CARPET[1]).clip(0, 1)
        steep = np.hypot([np.cos(TURN), np.sin(TURN)], np.array([np.sin(TURN), np.cos(TURN)]) / np.sin(TILT)) / scale
        away = (np.abs(ground - np.rint(ground)) / steep[:, None, None]).min(0)  # pixels to the next line
        line = 0.22 * (1.1 - away).clip(0, 1)
        color = np.array(PAPER) - 0.06 * carpet[..., None]
        color += (carpet * line)[..., None] * (np.array(INK) - color)
        picture = np.rint(255 * color).astype(np.uint8)
        self.last = key, picture
        return picture


def _plain(height: int, width: int) -> Picture:
    return np.broadcast_to(np.rint(255 * np.array(PAPER)).astype(np.uint8), (height, width, 3)).copy()
