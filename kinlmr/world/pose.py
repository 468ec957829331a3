"""Poses smoothed: two-sided over whole clips, by a one-euro filter live."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv1d, normalize, pad

from kinlmr.rotations import continuous_quaternions, matrix_to_quaternion, quaternion_to_matrix

SMOOTH = 0.05  # seconds: the standard deviation of the Gaussian over a whole clip's poses
SLOW, QUICK = 1.2, 1.3  # live: a pose's cutoff in Hz at rest, and how much of it a radian a second adds


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
    whether they were seen (B)."""

    quaternion: Tensor
    speed: Tensor
    seen: Tensor


def followed(rotations: Tensor, seen: Tensor, fps: float, pose: Pose) -> tuple[Tensor, Pose]:
    """Rotations (B, T, J, 3, 3) smoothed by what was before: the faster a joint rotates, the less (the one-euro filter
    of Casiez et al. 2012)."""
    quaternions = matrix_to_quaternion(rotations)
    mean, speed, known = pose
    found = []
    slow = 1 / (1 + fps / (2 * torch.pi * 1.0))
    for now, here in zip(quaternions.unbind(1), seen.unbind(1), strict=True):
        now = torch.where((now * mean).sum(-1, keepdim=True) < 0, -now, now)
        away = 2 * (now - mean).norm(dim=-1)
        speed = torch.where(known[:, None], speed + slow * (away * fps - speed), 0)
        cutoff = SLOW + QUICK * speed
        share = torch.where(known[:, None], 1 / (1 + fps / (2 * torch.pi * cutoff)), 1)
        mean = normalize(mean + share[..., None] * (now - mean), dim=-1)
        known = known | here
        found.append(mean)
    return quaternion_to_matrix(torch.stack(found, 1)), Pose(mean, speed, known)
