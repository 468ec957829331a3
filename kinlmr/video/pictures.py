"""What a frame shows of the people in it, and a sheet of a few moments."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import kinlmr
from kinlmr import export
from kinlmr.video import draw
from kinlmr.video.frames import Video

Array = NDArray[Any]
CELLS = 8  # moments on the contact sheet


class Scene(NamedTuple):
    """What a frame shows: vertices (N, 3) of all bodies over the picture, and in the camera's frame in metres."""

    image: Array
    world: Array
    faces: Array
    color: Array


def scene(
    body: kinlmr.Body, people: list[tuple[int, kinlmr.Recovery, torch.Tensor]], video: Video, focal: float
) -> Scene | None:
    """People of one frame: (row, recovery, vertices (N, 3)) each. Who is larger is nearer."""
    assert body.faces is not None
    image, world, color = [], [], []
    far = sorted(people, key=lambda person: -float(person[1].camera[0] * person[1].box[2]))
    for depth, (row, recovery, vertices) in enumerate(far):
        points = draw.weak(vertices, recovery.camera, recovery.box * video.scale)
        image.append(points + np.array([0, 0, 1e4 * depth]))
        world.append((vertices + recovery.translation(video.source_size, focal)).numpy())
        color.append(np.tile(export.COLORS[row % len(export.COLORS)], (len(vertices), 1)))
    if not image:
        return None
    faces = np.concatenate([body.faces.numpy() + len(image[0]) * k for k in range(len(image))])
    return Scene(np.concatenate(image), np.concatenate(world), faces, np.concatenate(color))


class Sheet:
    """Pictures of a few moments, evenly spread over a video of unknown length: every n-th, and n doubles."""

    def __init__(self) -> None:
        self.every, self.kept = 1, list[tuple[int, Array, Scene | None]]()

    def add(self, frame: int, picture: Array, shown: Scene | None) -> None:
        if frame % self.every:
            return
        self.kept.append((frame, picture, shown))
        if len(self.kept) > 4 * CELLS:
            self.every *= 2
            self.kept = self.kept[::2]

    def write(self, path: Path, fps: float) -> None:
        """Moments with bodies, if there are enough: the overlay, and the bodies from the side under it."""
        some = [cell for cell in self.kept if cell[2] is not None]
        if not some:
            return
        picks = [some[k] for k in sorted({round(k) for k in np.linspace(0, len(some) - 1, CELLS)})]
        width = picks[0][1].shape[1]
        step = max(1, width // 640)
        cells: list[Array] = []
        for begin in range(0, len(picks), 4):
            rows = picks[begin : begin + 4]
            cells += [draw.label(picture[::step, ::step], f"{frame / fps:.1f} s") for frame, picture, _ in rows]
            cells += [np.full_like(cells[0], 244)] * (min(4, len(picks)) - len(rows))
            for _, _, shown in rows:
                assert shown is not None
                size = (cells[0].shape[0], cells[0].shape[1])
                cells.append(draw.side_view(shown.world, shown.faces, size, color=shown.color))
            cells += [np.full_like(cells[0], 244)] * (min(4, len(picks)) - len(rows))
        draw.write_png(path, draw.sheet(cells, min(4, len(picks))))
