"""Which of a detector's keypoints are believed: a jump of place or size counts only once several frames agree on it.

All lengths are in radii: the mean distance of a person's points from their middle, about a fifth of the box's side.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import pad

STRAY_DISTANCE = 15.0  # a stray point's distance from the middle one, in median distances of the points from it
STRAY_OTHERS = 4  # how many other points must be seen for their bounding box to make a point a stray
MOST_STEP, MOST_SPEED = (
    0.5,
    15.0,
)  # how far half of the points move at most between two frames: radii, and radii a second
MOST_RATIO, MOST_GROWTH = 1.4, 6.0  # the largest ratio of the radii of two frames, and how much more a second
AGREE_SECONDS = 0.06  # how long frames that do not follow must be alike to be believed
PIECE = 128  # frames that are looked at at once


class Gate(NamedTuple):
    """What `believed` remembers of B people, K points each as x, y, confidence.

    seen (B, K, 3): the last frame that was believed; away (B): the seconds since. doubted (B, K, 3): the last frame if
    it was not believed, else zeros; alike (B): the seconds for which such frames have been alike.
    """

    seen: Tensor
    away: Tensor
    doubted: Tensor
    alike: Tensor


def believed(keypoints: Tensor, seconds: float, gate: Gate) -> tuple[Tensor, Gate]:
    """Keypoints (B, T, K, 3), ``seconds`` from frame to frame -> the same, zeros where they are not believed.

    A point far from all others is not believed. A frame is believed if it follows the last one that was: half of the
    points moved no further than a body does in that time, and the person's size did not jump. A frame that does not
    follow is believed if it is like the frames of `AGREE_SECONDS` before it: the person, or the picture, has changed.
    """
    pieces = []
    for piece in _without_strays(keypoints).split(PIECE, 1):
        piece, gate = _believed(piece, seconds, gate)
        pieces.append(piece)
    return torch.cat(pieces, 1), gate


def _believed(keypoints: Tensor, seconds: float, gate: Gate) -> tuple[Tensor, Gate]:
    """`believed` without stray points: all frames at once if each follows the one before, else one by one."""
    before = torch.cat([gate.seen[:, None], keypoints[:, :-1]], 1)
    waited = pad(gate.away[:, None], (0, keypoints.shape[1] - 1)) + seconds
    somebody = (keypoints[..., 2] > 0).any(2)
    follows = _follows(keypoints, before, waited)
    if bool((follows & somebody).all()):
        zero = torch.zeros_like(gate.away)
        return keypoints, Gate(keypoints[:, -1], zero, torch.zeros_like(gate.seen), zero)
    before = torch.cat([gate.doubted[:, None], keypoints[:, :-1]], 1)
    like = _follows(keypoints, before, torch.full_like(waited, seconds), moved=True)
    frames, steady = [], True  # steady: everybody was believed in the frame before
    for t, (frame, here) in enumerate(zip(keypoints.unbind(1), somebody.unbind(1), strict=True)):
        seen, away, doubted, alike = gate
        away = away + seconds
        again = (doubted[..., 2] > 0).any(1) & like[:, t]
        alike = torch.where(here & again, alike + seconds, 0)
        true = here & ((follows[:, t] if steady else _follows(frame, seen, away)) | (alike >= AGREE_SECONDS))
        pick = true[:, None, None]
        frames.append(torch.where(pick, frame, 0))
        gate = Gate(
            torch.where(pick, frame, seen), torch.where(true, 0, away), torch.where(pick, 0, frame),
            torch.where(true, 0, alike),
        )  # fmt: skip
        steady = bool(true.all())
    return torch.stack(frames, 1), gate


def _follows(now: Tensor, before: Tensor, seconds: Tensor, moved: bool = False) -> Tensor:
    """Whether keypoints (..., K, 3) can be of the person who was seen as ``before`` so many seconds (...) ago.

    By the points that both have; where there is nothing to compare, they can. moved: wherever in the picture they are.
    """
    positions, confidence = now.split_with_sizes((2, 1), -1)
    old, sure = before.split_with_sizes((2, 1), -1)
    weight = confidence * sure
    spreads = _spread(torch.stack([positions, old, old]), torch.stack([weight, weight, sure]))
    (radius, radius_before, size), (middle, middle_before, _) = (x.unbind() for x in spreads)
    steps = positions - old - (middle - middle_before if moved else 0)
    near = vector_norm(steps, dim=-1) < ((MOST_STEP + MOST_SPEED * seconds) * size)[..., None]
    most = (weight * near[..., None]).sum((-2, -1)) >= 0.5 * weight.sum((-2, -1))
    limit = MOST_RATIO + MOST_GROWTH * seconds
    alike = (radius <= limit * radius_before) & (radius_before <= limit * radius)
    return (size == 0) | (most & alike)


def _spread(positions: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The radius (...) of points (..., K, 2) under weights (..., K, 1), and their middle (..., 1, 2)."""
    share = weight / weight.sum(-2, keepdim=True).clamp_min(1e-9)
    middle = (share * positions).sum(-2, keepdim=True)
    return vector_norm(share * (positions - middle), dim=-1).sum(-1), middle


def _without_strays(keypoints: Tensor) -> Tensor:
    """Zeros for points `STRAY_DISTANCE` from the middle, or further outside the others' bounding box than its side."""
    positions, confidence = keypoints.split_with_sizes((2, 1), -1)
    seen = confidence > 0
    some = torch.where(seen, positions, torch.nan)
    distance = vector_norm(some - some.nanmedian(-2, keepdim=True).values, dim=-1, keepdim=True)
    stray = distance > STRAY_DISTANCE * distance.nanmedian(-2, keepdim=True).values

    ends = torch.where(seen, torch.cat([positions, -positions], -1), -torch.inf)
    first, second = ends.topk(2, -2).values.split(1, -2)
    most = torch.where(ends >= first, second, first)  # of the other points
    side = (most[..., :2] + most[..., 2:]).amax(-1, keepdim=True)
    outside = (ends - most).amax(-1, keepdim=True) > side
    stray |= outside & (seen.sum(-2, keepdim=True) > STRAY_OTHERS)
    return torch.where(stray, 0, keypoints)
