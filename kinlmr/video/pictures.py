"""What a frame shows of the people in it, and a sheet of a few moments."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

import kinlmr
from kinlmr import export
from kinlmr.files import Array
from kinlmr.video import draw
from kinlmr.video.frames import Video
from kinlmr.video.sheets import Picture

CELLS = 8  # moments on the contact sheet
OPACITY = 0.85  # of the bodies over a picture


class Scene(NamedTuple):
    """The people of one frame: their rows among the keypoints, recovery (P, ...), and vertices (P, N, 3) as seen."""

    rows: list[int]
    recovery: kinlmr.Recovery
    vertices: Tensor


def over(picture: Picture, scene: Scene | None, body: kinlmr.Body, scale: float) -> Picture:
    """The bodies over their picture, each by its box and weak camera. Who is larger is nearer.

    scale: the picture's pixels for one of the keypoints'.
    """
    if scene is None:
        return picture
    cameras, boxes = scene.recovery.camera.numpy(), scene.recovery.box.numpy() * scale
    far = np.argsort(-cameras[:, 0] * boxes[:, 2])
    vertices = [
        draw.weak(scene.vertices[p], cameras[p], boxes[p]) + np.array([0, 0, 1e4 * depth])
        for depth, p in enumerate(far)
    ]
    faces, colors = _painted(body, [scene.rows[p] for p in far])
    return draw.mesh(picture, np.concatenate(vertices), faces, colors, opacity=OPACITY)


def beside(
    scene: Scene, body: kinlmr.Body, source_size: tuple[float, float], focal: float, size: tuple[int, int],
    samples: int = 2,
) -> Picture:  # fmt: skip
    """The bodies in the camera's frame, from the side, each turned onto the ray on which it is seen.

    source_size (width, height) and focal in the keypoints' pixels, size (height, width) of the picture drawn, samples
    as of `draw.side_view`.
    """
    rotations, translation = scene.recovery.in_camera(source_size, focal, body)
    world = body(rotations, scene.recovery.shape, translation, want=("vertices",)).vertices
    faces, colors = _painted(body, scene.rows)
    return draw.side_view(world.flatten(0, 1), faces, size, color=colors, samples=samples)


def _painted(body: kinlmr.Body, rows: list[int]) -> tuple[Array, Array]:
    """Faces (F, 3) and colours (N, 3) of several people's vertices one after another."""
    assert body.faces is not None
    count = body.weights.shape[1]
    faces = np.concatenate([body.faces.numpy() + count * k for k in range(len(rows))])
    return faces, np.repeat([export.COLORS[row % len(export.COLORS)] for row in rows], count, 0)


class Sheet:
    """Pictures of a few moments, evenly spread over a video of unknown length: every n-th, and n doubles."""

    def __init__(self) -> None:
        self.every, self.kept = 1, list[tuple[int, Picture, Scene | None]]()

    def add(self, frame: int, picture: Picture, scene: Scene | None) -> None:
        if frame % self.every:
            return
        self.kept.append((frame, picture, scene))
        if len(self.kept) > 4 * CELLS:
            self.every *= 2
            self.kept = self.kept[::2]

    def write(self, path: Path, video: Video, body: kinlmr.Body, focal: float) -> None:
        """Moments with bodies, if there are enough: over the picture, and from the side under it."""
        some = [(frame, picture, scene) for frame, picture, scene in self.kept if scene is not None]
        if not some:
            return
        picks = [some[k] for k in sorted({round(k) for k in np.linspace(0, len(some) - 1, CELLS)})]
        step = max(1, picks[0][1].shape[1] // 640)
        cells: list[Picture] = []
        for begin in range(0, len(picks), 4):
            upper, lower = list[Picture](), list[Picture]()
            for frame, picture, scene in picks[begin : begin + 4]:
                drawn = over(picture, scene, body, video.scale)[::step, ::step]
                upper.append(draw.label(drawn, f"{frame / video.fps:.1f} s"))
                lower.append(beside(scene, body, video.source_size, focal, upper[0].shape[:2]))
            rest = [np.full_like(upper[0], 244)] * (min(4, len(picks)) - len(upper))
            cells += [*upper, *rest, *lower, *rest]
        draw.write_png(path, draw.sheet(cells, min(4, len(picks))))
