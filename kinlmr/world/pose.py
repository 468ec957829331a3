"""Poses smoothed: two-sided over whole clips, by a one-euro filter live."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv1d, normalize, pad

from kinlmr.rotations import continuous_quaternions, matrix_to_quaternion, quaternion_to_matrix

SMOOTH = 0.05  # seconds: the standard deviation of the Gaussian over a whole clip's poses
SLOW, QUICK = 1.2, 1.3  # live: a pose's cutoff in Hz at rest, and how much of it a radian a second adds
SMOOTHER, ROUGHER = 0.5, 1.0  # second differences of a pose over first ones: of motion, and where noise is most of it
TRUSTED, WATCHED = 10.0, 0.5  # how much higher the cutoff of what has no noise is; seconds over which that is judged
STILL = 1e-3  # radians: less is no motion to judge by


def gaussian(x: Tensor, fps: float) -> Tensor:
    """Numbers (..., T) smoothed over `SMOOTH` seconds, the ends carried on."""
    sigma = SMOOTH * fps
    if sigma < 0.3:
        return x
    reach = int(3 * sigma) + 1
    at = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-0.5 * (at / sigma) ** 2)
    flat = pad(x.reshape(-1, 1, x.shape[-1]), (reach, reach), mode="replicate")
    return conv1d(flat, (kernel / kernel.sum()).view(1, 1, -1)).view(x.shape)


def smoothed(rotations: Tensor, seen: Tensor, fps: float) -> Tensor:
    """Rotations (B, T, J, 3, 3) of a whole clip, smoothed two-sided; those before somebody was seen do not count."""
    first = torch.where(seen.any(1), seen.to(torch.int8).argmax(1), 0)
    at = torch.arange(seen.shape[1], device=seen.device)
    index = torch.maximum(at, first[:, None])[..., None, None]
    quaternions = continuous_quaternions(matrix_to_quaternion(rotations).movedim(1, 0)).movedim(0, 1)
    quaternions = torch.take_along_dim(quaternions, index, 1)
    return quaternion_to_matrix(gaussian(quaternions.movedim(1, -1), fps).movedim(-1, 1))


class Pose(NamedTuple):
    """What `followed` remembers of B people: quaternions (B, J, 4), the joints' speed (B, J) in radians a second, and
    whether they have a pose (B); the last quaternions as they came (B, J, 4), what they moved by (B, J, 4), and the
    running means of first and second differences, radians (B, 2)."""

    mean: Tensor
    speed: Tensor
    known: Tensor
    last: Tensor
    step: Tensor
    moved: Tensor


def unposed(people: int, joints: int, like: Tensor) -> Pose:
    """Of so many people, before they were seen."""
    rest = like.new_tensor([1.0, 0.0, 0.0, 0.0]).repeat(people, joints, 1)
    nobody = torch.zeros(people, dtype=torch.bool, device=like.device)
    return Pose(rest, like.new_zeros(people, joints), nobody, rest, torch.zeros_like(rest), like.new_zeros(people, 2))


def followed(rotations: Tensor, seen: Tensor, fps: float, pose: Pose) -> tuple[Tensor, Pose]:
    """Rotations (B, T, J, 3, 3), each drawn to what it was before: the faster a joint rotates, the less (the one-euro
    filter of Casiez et al. 2012), and the less noise there is in all of them. Noise shakes: its second differences are
    larger than its first ones, those of motion are smaller."""
    mean, speed, known, last, step, moved = pose
    found = []
    slow, watch = 1 / (1 + fps / (2 * torch.pi * 1.0)), 1 / (WATCHED * fps)
    for now, here in zip(matrix_to_quaternion(rotations).unbind(1), seen.unbind(1), strict=True):
        now = torch.where((now * mean).sum(-1, keepdim=True) < 0, -now, now)
        last = torch.where((now * last).sum(-1, keepdim=True) < 0, -last, last)
        first = torch.where(known[:, None, None], now - last, 0)
        shakes = 2 * torch.stack([first, first - step]).norm(dim=-1).mean(-1).mT
        moved = torch.where(known[:, None], moved + watch * (shakes - moved), 0)
        noise = (moved[:, 1] + SMOOTHER * STILL) / (moved[:, 0] + STILL)
        noise = ((noise - SMOOTHER) / (ROUGHER - SMOOTHER)).clamp(0, 1)[:, None]
        away = 2 * (now - mean).norm(dim=-1)
        speed = torch.where(known[:, None], speed + slow * (away * fps - speed), 0)
        cutoff = (SLOW + QUICK * speed) * torch.lerp(torch.full_like(noise, TRUSTED), torch.ones_like(noise), noise)
        share = torch.where(known[:, None], 1 / (1 + fps / (2 * torch.pi * cutoff)), 1)
        mean = normalize(mean + share[..., None] * (now - mean), dim=-1)
        last, step, known = now, first, known | here
        found.append(mean)
    return quaternion_to_matrix(torch.stack(found, 1)), Pose(mean, speed, known, last, step, moved)
