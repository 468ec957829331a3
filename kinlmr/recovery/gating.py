"""Which of a detector's keypoints are believed: a jump of place or size counts only once several frames agree on it.

All lengths are in radii: the mean distance of a person's points from their middle, about a fifth of the box's side.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FAR = 15.0  # a point is nobody's that is so many times further from the middle one than the points are in the median
OTHERS = 4  # points whose bounding box tells that another one is nobody's
STEP, SPEED = 0.5, 15.0  # how far half of the points come from one frame to the next: radii, and radii a second
RATIO, GROWTH = 1.4, 6.0  # by how much the radius changes at most, and how much more a second
AGREE = 0.06  # seconds for which frames that do not follow must be alike to be believed


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

    A point far off all others is not. A frame is believed where it follows the last one that was: half of the points
    came no further than a body does in that time, and the person's size did not jump. So is one that does not follow
    but is like the frames before it for `AGREE` seconds: the person, or the picture, is elsewhere now.
    """
    keypoints = _without_strays(keypoints)
    before = torch.cat([gate.seen[:, None], keypoints[:, :-1]], 1)
    waited = torch.cat([gate.away[:, None], torch.zeros_like(keypoints[:, 1:, 0, 0])], 1) + seconds
    somebody = (keypoints[..., 2] > 0).any(2)
    if bool((_follows(keypoints, before, waited) & somebody).all()):
        zero = torch.zeros_like(gate.away)
        return keypoints, Gate(keypoints[:, -1], zero, torch.zeros_like(gate.seen), zero)
    frames = []
    for frame, here in zip(keypoints.unbind(1), somebody.unbind(1), strict=True):
        seen, away, doubted, alike = gate
        away = away + seconds
        again = (doubted[..., 2] > 0).any(1) & _follows(frame, doubted, torch.full_like(away, seconds), moved=True)
        alike = torch.where(here & again, alike + seconds, 0)
        true = here & (_follows(frame, seen, away) | (alike >= AGREE))
        pick = true[:, None, None]
        frames.append(torch.where(pick, frame, 0))
        gate = Gate(
            torch.where(pick, frame, seen), torch.where(true, 0, away), torch.where(pick, 0, frame),
            torch.where(true, 0, alike),
        )  # fmt: skip
    return torch.stack(frames, 1), gate


def _follows(now: Tensor, before: Tensor, seconds: Tensor, moved: bool = False) -> Tensor:
    """Whether keypoints (..., K, 3) can be of the person who was seen as ``before`` so many seconds (...) ago.

    By the points that both have; where there is nothing to compare, they can. moved: wherever in the picture they are.
    """
    places, confidence = now[..., :2], now[..., 2]
    old, weight = before[..., :2], confidence * before[..., 2]
    size = _spread(old, before[..., 2])[0]
    radius, middle = _spread(places, weight)
    radius_before, middle_before = _spread(old, weight)
    steps = places - old - (middle - middle_before if moved else 0)
    near = steps.norm(dim=-1) < ((STEP + SPEED * seconds) * size)[..., None]
    most = (weight * near).sum(-1) >= 0.5 * weight.sum(-1)
    limit = RATIO + GROWTH * seconds
    alike = (radius <= limit * radius_before) & (radius_before <= limit * radius)
    return (size == 0) | (most & alike)


def _spread(places: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The radius (...) of points (..., K, 2) under weights (..., K), and their middle (..., 1, 2)."""
    share = (weight / weight.sum(-1, keepdim=True).clamp_min(1e-9))[..., None]
    middle = (share * places).sum(-2, keepdim=True)
    return (share * (places - middle)).norm(dim=-1).sum(-1), middle


def _without_strays(keypoints: Tensor) -> Tensor:
    """Zeros for points that lie `FAR` from the middle, or outside the others' bounding box by more than its side."""
    seen = keypoints[..., 2:] > 0
    places = keypoints[..., :2]
    some = torch.where(seen, places, torch.nan)
    distance = (some - some.nanmedian(-2, keepdim=True).values).norm(dim=-1)
    stray = distance > FAR * distance.nanmedian(-1, keepdim=True).values

    outside, sides = [], []
    for sign in (1, -1):
        first, second = torch.where(seen, sign * places, -torch.inf).topk(2, -2).values.unsqueeze(-2).unbind(-3)
        most = torch.where(sign * places >= first, second, first)  # of the other points
        outside.append(sign * places - most)
        sides.append(most)
    side = (sides[0] + sides[1]).amax(-1)
    stray |= (torch.stack(outside).amax((0, -1)) > side) & (seen.sum(-2) > OTHERS)
    return torch.where(stray[..., None], 0, keypoints)
