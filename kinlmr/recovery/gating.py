"""Which of a detector's keypoints are believed: a jump of place or size counts only once several frames agree on it.

All lengths are in radii: the mean distance of a person's points from their middle, about a fifth of the box's side.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

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
    waited = torch.cat([gate.away[:, None], torch.zeros_like(keypoints[:, 1:, 0, 0])], 1) + seconds
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
    positions, confidence = now[..., :2], now[..., 2]
    old, weight = before[..., :2], confidence * before[..., 2]
    size = _spread(old, before[..., 2])[0]
    radius, middle = _spread(positions, weight)
    radius_before, middle_before = _spread(old, weight)
    steps = positions - old - (middle - middle_before if moved else 0)
    near = steps.norm(dim=-1) < ((MOST_STEP + MOST_SPEED * seconds) * size)[..., None]
    most = (weight * near).sum(-1) >= 0.5 * weight.sum(-1)
    limit = MOST_RATIO + MOST_GROWTH * seconds
    alike = (radius <= limit * radius_before) & (radius_before <= limit * radius)
    return (size == 0) | (most & alike)


def _spread(positions: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The radius (...) of points (..., K, 2) under weights (..., K), and their middle (..., 1, 2)."""
    share = (weight / weight.sum(-1, keepdim=True).clamp_min(1e-9))[..., None]
    middle = (share * positions).sum(-2, keepdim=True)
    return (share * (positions - middle)).norm(dim=-1).sum(-1), middle


def _without_strays(keypoints: Tensor) -> Tensor:
    """Zeros for points `STRAY_DISTANCE` from the middle, or further outside the others' bounding box than its side."""
    seen = keypoints[..., 2:] > 0
    positions = keypoints[..., :2]
    some = torch.where(seen, positions, torch.nan)
    distance = (some - some.nanmedian(-2, keepdim=True).values).norm(dim=-1)
    stray = distance > STRAY_DISTANCE * distance.nanmedian(-1, keepdim=True).values

    outside, sides = [], []
    for sign in (1, -1):
        first, second = torch.where(seen, sign * positions, -torch.inf).topk(2, -2).values.unsqueeze(-2).unbind(-3)
        most = torch.where(sign * positions >= first, second, first)  # of the other points
        outside.append(sign * positions - most)
        sides.append(most)
    side = (sides[0] + sides[1]).amax(-1)
    stray |= (torch.stack(outside).amax((0, -1)) > side) & (seen.sum(-2) > STRAY_OTHERS)
    return torch.where(stray[..., None], 0, keypoints)
