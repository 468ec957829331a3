"""What a frame shows of the people in it, over the picture and on the floor beside it, and a sheet of a few moments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import kinlmr
from kinlmr import export
from kinlmr.files import Array
from kinlmr.video import draw
from kinlmr.video.crowd import Piece, Take
from kinlmr.video.frames import Video, pyav
from kinlmr.video.sheets import Picture
from kinlmr.video.stage import Stage

CELLS = 8  # moments on the contact sheet
OPACITY = 0.85  # of the bodies over a picture
WALKED, MARKS = 10.0, 6.0  # seconds of a path that is drawn, and how many of its positions a second


class Scene(NamedTuple):
    """The people of one frame: their rows among the keypoints, recovery (P, ...), vertices (P, N, 3) as seen, and
    standing (P, N, 3) in the world; there the paths (n, 3) of their root joints, up to now."""

    rows: list[int]
    recovery: kinlmr.Recovery
    vertices: Tensor
    standing: Tensor
    paths: list[Array]


def roots(world: kinlmr.World, body: kinlmr.Body) -> Array:
    """Where the root joint is in the world (..., T, 3), metres; NaN while somebody is not there."""
    rest = body.joints_at_rest(world.shape.flatten(0, -2))[:, body.root]
    return np.asarray((world.translation + rest.view_as(world.translation)).numpy())


def walked(path: Array, fps: float) -> Array:
    """The last of a path (T, 3), a few positions a second, where somebody was."""
    step, last = max(1, round(fps / MARKS)), len(path) - 1
    first = -(-max(0, last - round(WALKED * fps)) // step) * step
    some = path[np.append(np.arange(first, last, step), last)]
    return some[np.isfinite(some).all(-1)]


def scene(
    rows: list[int], recovery: kinlmr.Recovery, world: kinlmr.World, paths: list[Array], body: kinlmr.Body
) -> Scene:
    """Of P people's recovery and world (P, ...)."""
    posed = body(
        torch.cat([recovery.rotations, world.rotations]), torch.cat([recovery.shape, world.shape]),
        torch.cat([torch.zeros_like(world.translation), world.translation]), want=("vertices",),
    ).vertices  # fmt: skip
    return Scene(rows, recovery, posed[: len(rows)], posed[len(rows) :], paths)


class Replay:
    """Everybody in a video whose end is known, frame by frame."""

    def __init__(self, people: list[Take], body: kinlmr.Body, fps: float) -> None:
        self.people, self.body, self.fps = people, body, fps
        self.ways = [roots(take.world, body) for take in people]

    def scene(self, frame: int) -> Scene | None:
        """Who is to be drawn in a frame; None for nobody."""
        who = [
            (k, take, frame - take.start) for k, take in enumerate(self.people)
            if 0 <= frame - take.start < len(take.shown) and take.shown[frame - take.start]
        ]  # fmt: skip
        if not who:
            return None
        recovery = kinlmr.Recovery(
            *map(torch.stack, zip(*([x[t] for x in take.recovery] for _, take, t in who), strict=True))
        )
        world = kinlmr.World(*map(torch.stack, zip(*([x[t] for x in take.world] for _, take, t in who), strict=True)))
        paths = [walked(self.ways[k][: t + 1], self.fps) for k, _, t in who]
        return scene([take.row for _, take, _ in who], recovery, world, paths, self.body)

    def stage(self, size: tuple[int, int]) -> Stage:
        """A picture of this size (height, width) that everybody is in."""
        stage = Stage(size)
        for way in self.ways:
            stage.hold(way)
        return stage


class Relay:
    """Everybody before a camera, frame by frame, as they come; the stage grows with them."""

    def __init__(self, body: kinlmr.Body, fps: float, stage: Stage) -> None:
        self.body, self.fps, self.stage = body, fps, stage
        self.ways = dict[int, list[Array]]()

    def add(self, piece: Piece) -> None:
        """The next piece of a crowd."""
        keep = round(WALKED * self.fps) + 1
        ways = zip(piece.rows, roots(piece.world, self.body), strict=True)
        self.ways = {row: [*self.ways.get(row, []), *way][-keep:] for row, way in ways}
        for way in self.ways.values():
            self.stage.hold(np.array(way[-piece.shown.shape[1] :]))

    def scene(self, piece: Piece) -> Scene | None:
        """Who is to be drawn in the last frame of a piece that was added; None for nobody."""
        on = np.flatnonzero(piece.shown[:, -1])
        if not len(on):
            return None
        rows = [piece.rows[k] for k in on]
        recovery = kinlmr.Recovery(*(x[on, -1] for x in piece.recovery))
        world = kinlmr.World(*(x[on, -1] for x in piece.world))
        return scene(rows, recovery, world, [walked(np.array(self.ways[row]), self.fps) for row in rows], self.body)


# ------------------------------------------------------------------------------------------------------------- pictures


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


def beside(scene: Scene | None, body: kinlmr.Body, stage: Stage, samples: int = 1) -> Picture:
    """The bodies in the world, from the side."""
    if scene is None:
        return stage.draw()
    faces, colors = _painted(body, scene.rows)
    paths = [(path, _color(row)) for path, row in zip(scene.paths, scene.rows, strict=True)]
    return stage.draw(scene.standing.flatten(0, 1).numpy(), faces, colors, paths, samples)


def both(picture: Picture, scene: Scene | None, body: kinlmr.Body, stage: Stage, scale: float) -> Picture:
    """A frame of the overlay: the picture, and the world on its right, as high, however small its stage is."""
    world = resized(beside(scene, body, stage), side(picture.shape[1::-1]))
    return np.concatenate([over(picture, scene, body, scale), world], 1)


def resized(picture: Picture, size: tuple[int, int]) -> Picture:
    """A picture made as large as (height, width)."""
    if picture.shape[:2] == size:
        return picture
    frame = pyav().VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    return np.asarray(frame.reformat(size[1], size[0]).to_ndarray())


def side(picture_size: Sequence[int]) -> tuple[int, int]:
    """The (height, width) of the world beside a picture of (width, height)."""
    width, height = picture_size
    return height, min(height, width)


def _color(row: int) -> tuple[float, float, float]:
    return export.COLORS[row % len(export.COLORS)]


def _painted(body: kinlmr.Body, rows: list[int]) -> tuple[Array, Array]:
    """Faces (F, 3) and colours (N, 3) of several people's vertices one after another."""
    assert body.faces is not None
    count = body.weights.shape[1]
    faces = np.concatenate([body.faces.numpy() + count * k for k in range(len(rows))])
    return faces, np.repeat([_color(row) for row in rows], count, 0)


class Sheet:
    """Pictures of a few moments, evenly spread over a video of unknown length: every n-th, and n doubles."""

    def __init__(self) -> None:
        self.every, self.kept = 1, list[tuple[int, Picture]]()

    def add(self, frame: int, picture: Picture) -> None:
        if frame % self.every:
            return
        self.kept.append((frame, picture))
        if len(self.kept) > 4 * CELLS:
            self.every *= 2
            self.kept = self.kept[::2]

    def write(self, path: Path, video: Video, replay: Replay) -> None:
        """Moments with bodies, if there are enough: over the picture, and in the world under it."""
        some = [(frame, picture, now) for frame, picture in self.kept if (now := replay.scene(frame)) is not None]
        if not some:
            return
        picks = [some[k] for k in sorted({round(k) for k in np.linspace(0, len(some) - 1, CELLS)})]
        step = max(1, picks[0][1].shape[1] // 640)
        stage = replay.stage(picks[0][1][::step, ::step].shape[:2])
        cells: list[Picture] = []
        for begin in range(0, len(picks), 4):
            upper, lower = list[Picture](), list[Picture]()
            for frame, picture, now in picks[begin : begin + 4]:
                drawn = over(picture, now, replay.body, video.scale)[::step, ::step]
                upper.append(draw.label(drawn, f"{frame / video.fps:.1f} s"))
                lower.append(beside(now, replay.body, stage, 2))
            rest = [np.full_like(upper[0], 244)] * (min(4, len(picks)) - len(upper))
            cells += [*upper, *rest, *lower, *rest]
        draw.write_png(path, draw.sheet(cells, min(4, len(picks))))
