"""One recording of motion, and what its readers share: rates and the root's position."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from kinlmr._moved import renamed
from kinlmr.body import Body
from kinlmr.rotations import axis_angle_to_matrix, matrix_to_axis_angle

MAX_ADDED = 100_000  # frames that resampling may add, besides four for each: a small file must not claim days
CHUNK_FRAMES = 10_000  # frames that are resampled together


@dataclass(frozen=True, eq=False, repr=False)
class Motion:
    """One recording of T frames: rotations as axis_angle (T, J, 3) in radians, the root's translation (T, 3) in metres.

    ``translation`` is the position of the root joint in the world, whatever file it was read from; `origin` is the
    translation that moves a body there. ``cuts`` are frames that do not follow from the one before (faults of the
    source): no clip may cross them. ``action`` says what is done, ``subject`` who does it.
    """

    name: str
    joints: tuple[str, ...]
    fps: float
    axis_angle: Tensor
    translation: Tensor
    cuts: tuple[int, ...] = ()
    action: str = ""
    subject: str = ""

    @property
    def rotations(self) -> Tensor:
        return renamed("Motion.rotations", "Motion.axis_angle", self.axis_angle)

    def __len__(self) -> int:
        return len(self.axis_angle)

    def __repr__(self) -> str:
        return f"Motion({self.name}: {len(self)} frames at {self.fps:g} per second, {len(self.joints)} joints)"

    def origin(self, body: Body, shape: Tensor | None = None) -> Tensor:
        """The position of the body's origin (T, 3): ``body(matrices, shape, motion.origin(body, shape))`` puts the root
        joint where the recording has it. shape (S) or fewer numbers; None for the mean shape."""
        return self.translation - root_at_rest(body, shape).to(self.translation)


def root_at_rest(body: Body, shape: Tensor | None = None) -> Tensor:
    """The root joint's position (3) at rest, from the body's origin. shape (S) or fewer numbers; None: the mean."""
    joints = body.J
    if shape is not None:
        joints = joints + shape.to(joints) @ body.J_shapedirs[: len(shape)]
    return joints.view(-1, 3)[body.root]


def same_rate(one: float, two: float) -> bool:
    """Whether two rates are one: 29.99 and 30 frames per second are, for frame times are written with few digits."""
    return abs(one / two - 1) < 1e-3


def resampled(motion: Motion, fps: float) -> Motion:
    """The recording at another rate: every k-th frame, or by the shortest rotation between two. Cuts stay sharp."""
    if not fps > 0:
        raise ValueError(f"fps is {fps}, expected a rate above zero, in frames per second")
    if same_rate(motion.fps, fps):
        return replace(motion, fps=fps)
    ratio = motion.fps / fps
    count = int((len(motion) - 1) / ratio + 1e-6) + 1
    if count > (most := 4 * len(motion) + MAX_ADDED):
        raise ValueError(
            f"recording {motion.name!r}: {len(motion):,} frames at {motion.fps:g} frames per second would be {count:,} "
            f"at {fps:g}, more than {most:,}; is its rate right?"
        )
    cut, axis_angle, positions = torch.tensor(motion.cuts, dtype=torch.long), [], []
    for at in (torch.arange(count, dtype=torch.float64) * ratio).split(CHUNK_FRAMES):
        low = (at + 1e-6).floor().long().clamp_max(len(motion) - 1)
        high = (low + 1).clamp_max(len(motion) - 1)
        high = torch.where(torch.isin(high, cut), low, high)
        part = (at - low).float()[:, None, None]
        one, two = (axis_angle_to_matrix(motion.axis_angle[index]) for index in (low, high))
        between = one @ axis_angle_to_matrix(part * matrix_to_axis_angle(one.mT @ two))
        axis_angle.append(matrix_to_axis_angle(between))
        positions.append(torch.lerp(motion.translation[low], motion.translation[high], part[:, 0]))
    first = {int(np.ceil(cut / ratio - 1e-6)) for cut in motion.cuts}
    cuts = tuple(sorted(cut for cut in first if cut < count))
    return replace(motion, fps=fps, axis_angle=torch.cat(axis_angle), translation=torch.cat(positions), cuts=cuts)
