"""What `recover` answers, and what it remembers between frames."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kinlmr.body import Body, load_body
from kinlmr.camera import facing, to_translation
from kinlmr.model import LMR, Live
from kinlmr.recovery.gating import Gate
from kinlmr.state import Rows, select

MEDIAN_TICKS = 5  # pixels per metre follow their median over so many ticks


class Recovery(NamedTuple):
    """A person in every frame, in the camera's frame: x right, y down, z forward. Leading axes as the keypoints' were.

    rotations (..., T, J, 3, 3), each relative to its joint's parent, the root's to the camera; shape (..., T, S);
    camera (..., T, 3) as (s, tx, ty) in units of the box (see `kinlmr.camera`), for the body as
    ``body(rotations, shape)`` poses it (`Estimate`'s is for the body about its root joint: `kinlmr.camera.from_root`);
    box (..., T, 3) as (cx, cy, side) in pixels, zeros until somebody was seen.
    """

    rotations: Tensor
    shape: Tensor
    camera: Tensor
    box: Tensor

    def translation(self, size: Tensor | Sequence[float], focal: Tensor | float) -> Tensor:
        """The translation for ``body(rotations, shape, translation)``: (..., T, 3) in metres.

        size: the image's (width, height), focal: of its camera, both in pixels. NaN until somebody was seen.

        `rotations` are as seen by a camera that looks at the body. For a body beside the picture's middle, rotations in
        the camera's frame differ: `in_camera` gives them too.
        """
        translation = to_translation(self.camera, self.box, torch.as_tensor(size).to(self.box), focal)
        return torch.where(self.box[..., 2:] > 0, translation, torch.nan)

    def in_camera(
        self, size: Tensor | Sequence[float], focal: Tensor | float, body: Body | str = "anny24"
    ) -> tuple[Tensor, Tensor]:
        """Rotations (..., T, J, 3, 3) and translation (..., T, 3) in the camera's frame, metres, for ``body(rotations,
        shape, translation)``: `rotations`, the root's rotated onto the ray on which the root joint is seen.

        size and focal as of `translation`; body: the model's, or its name. Until somebody was seen, nothing is rotated.
        """
        translation = self.translation(size, focal)
        body = body_of(body, None, self.box.device, self.box.dtype) if isinstance(body, str) else body
        root = body.root
        *frames, numbers = self.shape.shape
        rest = body.joints_at_rest(self.shape.reshape(math.prod(frames), numbers))[:, root]
        position = translation + rest.view(*frames, 3)
        ray = torch.where(self.box[..., 2:] > 0, position, position.new_tensor((0.0, 0.0, 1.0)))
        rotations = self.rotations.clone()
        rotations[..., root, :, :] = facing(ray) @ rotations[..., root, :, :]
        return rotations, translation


class RecoveryState(NamedTuple):
    """What `recover` remembers of B people between frames: a plain tuple of tensors, and nothing writes to it.

    Of the last tick: memory (B, V, M), the model's; box (B, 3) and keypoints (B, K, 3), as `kinlmr.keypoints.Track` has
    them; measured (B, `MEDIAN_TICKS`), pixels per metre of the latest ticks, zeros before, and pixels_per_metre (B),
    smoothed; rotations (B, J, 3, 3), shape (B, S) and camera (B, 3), the answer, the camera in pixels. Of the last
    frame: seen, away, doubted and alike, as `kinlmr.recovery.Gate` has them; phase (B), float64, the ticks from the
    last tick to it; 1 of somebody who had no frame yet. weights (B), int64, the checksum of the model's.

    A row, index b of every tensor, is one person, and knows nothing of the others. So people may come and go:

    >>> import kinlmr, torch
    >>> model = kinlmr.build("smpl.yaml", keypoints="coco17", body="anny24_lo369", hidden=4)
    >>> frames = torch.rand(3, 9, 17, 3) * 300  # of three people
    >>> _, state = kinlmr.recover(model, frames[:2, :5], 25)  # 0 and 1 are there
    >>> state = kinlmr.concat([state, kinlmr.RecoveryState.initial(model, 1)])  # 2 comes
    >>> state = state.select([0, 2])  # 1 leaves
    >>> recovery, state = kinlmr.recover(model, frames[[0, 2], 5:], 25, state)

    ``torch.save(tuple(state), path)`` keeps it, ``RecoveryState(*torch.load(path))`` brings it back.
    """

    memory: Tensor
    box: Tensor
    keypoints: Tensor
    measured: Tensor
    pixels_per_metre: Tensor
    rotations: Tensor
    shape: Tensor
    camera: Tensor
    seen: Tensor
    away: Tensor
    doubted: Tensor
    alike: Tensor
    phase: Tensor
    weights: Tensor

    @classmethod
    def initial(cls, model: LMR | Live, people: int) -> RecoveryState:
        """Of so many people, before their first frame: what `recover` takes ``None`` for."""
        rate_of(model)
        pose, zeros = model.start.pose, model.start.pose.new_zeros
        keypoints = zeros(people, model.options.features // 3, 3)
        rotations = torch.eye(3).to(pose).repeat(people, len(pose), 1, 1)
        box, number, shape = zeros(people, 3), zeros(people), zeros(people, model.options.shape)
        phase = torch.ones(people, dtype=torch.float64, device=pose.device)
        return cls(
            model.initial_state(people).memory, box, keypoints, zeros(people, MEDIAN_TICKS), number, rotations, shape,
            box, keypoints, number, keypoints, number, phase, torch.full_like(phase, model.checksum, dtype=torch.int64),
        )  # fmt: skip

    def gate(self) -> Gate:
        """What is believed of the keypoints."""
        return Gate(self.seen, self.away, self.doubted, self.alike)

    def last_frame(self) -> Tensor:
        """The keypoints (B, K, 3) of the last frame, zeros where it was not believed."""
        return torch.where(self.away[:, None, None] > 0, 0, self.seen)

    def select(self, rows: Rows) -> RecoveryState:
        """The state of these people, in this order. rows: numbers (n), which may repeat, or a mask (B) of bools."""
        return select(self, rows)

    def to(self, *args: Any, **kwargs: Any) -> RecoveryState:
        """On another device or of another type: arguments of `torch.Tensor.to`. Phase and weights keep their type."""
        moved = RecoveryState(*(x.to(*args, **kwargs) for x in self))
        device = moved.phase.device
        return moved._replace(phase=self.phase.to(device), weights=self.weights.to(device))


def rate_of(model: LMR | Live) -> float:
    """The rate of a model that `recover` can run, in frames a second; TypeError or ValueError for another one."""
    if not isinstance(model, LMR | Live):
        raise TypeError(f"recover takes an LMR, not {type(model).__name__}; of a wrapped one, the model inside")
    if (fps := model.options.fps) is None:
        raise ValueError(
            "the model does not say which keypoints it takes; build it with keypoints='coco17' or another set, and "
            "load its weights into it"
        )
    if model.training and model.options.dropout:
        raise ValueError("the model is in training mode, and drops numbers at random; call model.eval() first")
    return float(fps)


@functools.cache
def body_of(name: str, keypoints: str | None, device: torch.device, dtype: torch.dtype) -> Body:
    """A body by its name or path, with a set of keypoints or none; read once."""
    with torch.inference_mode(False):  # it is kept
        return load_body(name, keypoints=keypoints).to(device, dtype)
