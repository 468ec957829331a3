"""Keypoints of detectors: from one set to another, and from pixels to a model's features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from kinlmr.body import keypoint_sets as keypoint_sets
from kinlmr.body import read_sets
from kinlmr.files import Array, nearest


def convert(keypoints: Tensor | Array, source: str, target: str) -> Tensor:
    """Keypoints of one set as another: (..., K, 3) as x, y, confidence -> (..., K of the target, 3).

    Points are matched by what they are made of, else by name. A mean that the source lacks, such as body25's neck, is
    computed, with the lowest confidence of its points; any other point that it lacks is zero, with confidence 0.
    """
    sets = read_sets()["sets"]
    for name in (source, target):
        if name not in sets:
            raise ValueError(f"unknown keypoint set {name!r}; there are {', '.join(sets)}{nearest(name, sets)}")
    x = torch.as_tensor(keypoints)
    if x.ndim < 2 or x.shape[-2:] != (len(sets[source]), 3):
        raise ValueError(
            f"{source} has {len(sets[source])} points: expected (..., {len(sets[source])}, 3), not {tuple(x.shape)}"
        )
    if source == target:
        return x.clone()
    made_of = lambda point: (point,) if isinstance(point, str) else tuple(next(iter(point.values())))  # noqa: E731
    index: dict[Any, int] = {name: i for i, name in enumerate(keypoint_sets()[source])}
    index |= {made_of(point): i for i, point in enumerate(sets[source])}
    found = []
    for name, point in zip(keypoint_sets()[target], sets[target], strict=True):
        parts = made_of(point)
        if parts in index:
            found.append(x[..., index[parts], :])
        elif all(part in index for part in parts):
            held = torch.stack([x[..., index[part], :] for part in parts])
            found.append(torch.cat([held[..., :2].mean(0), held[..., 2:].amin(0)], -1))
        else:
            found.append(x[..., index[name], :] if name in index else torch.zeros_like(x[..., 0, :]))
    return torch.stack(found, -2)


# ------------------------------------------------------------------------------------------------------- features

FPS = 30.0  # the rate that `normalise` expects, and the shipped models with it
BOX_MARGIN = 1.2  # the box's side over the extent of the points
BOX_FOLLOW, BOX_GROW, BOX_SHRINK = 0.1, 0.2, 0.02  # in a frame, of the way to this frame's own box
SURE = 0.25  # points less sure than this share of the frame's surest do not shape the box


class Track(NamedTuple):
    """What `normalise` remembers of the last frame: its box (B, 3) as (cx, cy, side), its keypoints (B, K, 3)."""

    box: Tensor
    keypoints: Tensor


def check_keypoints(keypoints: Tensor) -> Tensor:
    """Keypoints (..., T, K, 3), zeros for points not seen; a ValueError for what no detector gives in pixels."""
    if keypoints.ndim < 3 or keypoints.shape[-1] != 3:
        raise ValueError(
            f"keypoints have shape (T, K, 3) or (B, T, K, 3): x, y, confidence; not {tuple(keypoints.shape)}"
        )
    seen = torch.where(keypoints[..., 2:] <= 0, 0, keypoints)  # a NaN is seen
    if torch.compiler.is_compiling() or not seen.numel():
        return seen
    *largest, sure = seen.abs().flatten(0, -2).amax(0).tolist()
    if not all(map(math.isfinite, (*largest, sure))):
        *clip, frame, point = index = tuple((~seen.isfinite().all(-1)).nonzero()[0].tolist())
        where = f"frame {frame} of clip {clip[0]}" if clip else f"frame {frame}"
        raise ValueError(
            f"point {point} of {where} is {keypoints[index].tolist()}: not finite, but its confidence is not 0; "
            "set the confidence of points that were not found to 0"
        )
    if max(largest) < 2 and len(positions := seen[..., :2][seen[..., 2] > 0]) > 1:
        raise ValueError(
            f"the keypoints lie between {positions.min():.2f} and {positions.max():.2f}, as if they were normalised to "
            "0..1; kinlmr takes pixels: multiply x by the picture's width and y by its height"
        )
    return seen


def normalise(keypoints: Tensor, track: Track | None = None) -> tuple[Tensor, Tensor, Track]:
    """Pixels to a model's features, causally: the same for whole clips, chunks and single frames.

    keypoints (B, T, K, 3) as x, y in pixels and confidence, of `FPS` frames a second; a confidence of 0 is not seen,
    and its x and y may be anything. track: from the last chunk, None at first
    -> features (B, T, 3 K): x, y in units of the box, -1 to 1, and confidence, zeros for a point not seen;
    box (B, T, 3) as (cx, cy, side) in pixels, of side 0 until two points were seen; track

    The box moves with the points that this frame shares with the last one, and slowly towards the box around this
    frame's own points: where points vanish, it stays. A person who is somewhere else gets a new one.
    """
    features, box, track = in_box(check_keypoints(keypoints), track)
    return features.flatten(2), box, track


def in_box(keypoints: Tensor, track: Track | None) -> tuple[Tensor, Tensor, Track]:
    """`normalise` of keypoints as `check_keypoints` gives them; features (B, T, K, 3)."""
    points, confidence = keypoints.split_with_sizes((2, 1), -1)
    confidence = confidence.clamp_max(1)
    frame = torch.cat([points, confidence], -1)
    if track is None:
        track = Track(frame.new_zeros(len(frame), 3), torch.zeros_like(frame[:, 0]))

    sure = confidence > SURE * confidence.amax(2, keepdim=True)
    low = torch.where(sure, points, torch.inf).amin(2)
    high = torch.where(sure, points, -torch.inf).amax(2)
    extent = (high - low).amax(-1, keepdim=True)
    found = extent > 0  # of two sure points at least
    own = torch.cat([(low + high) / 2, BOX_MARGIN * extent], -1)

    before = torch.cat([track.keypoints[:, None], frame[:, :-1]], 1)
    shared = confidence * before[..., 2:]
    shift = (shared * (points - before[..., :2])).sum(2) / shared.sum(2).clamp_min(1e-9)
    shift = pad(shift, (0, 1))  # of the box, whose side stays

    box, boxes = track.box, []
    for now, ok, move in zip(own.unbind(1), found.unbind(1), shift.unbind(1), strict=True):
        moved = box + move
        side, (ahead, grown) = box[:, 2:], (now - moved).split_with_sizes((2, 1), 1)
        away = (2 * ahead.abs().amax(1, keepdim=True) > side) | (grown > side)
        resize = torch.where(grown > 0, BOX_GROW, BOX_SHRINK)
        followed = moved + torch.cat([BOX_FOLLOW * ahead, resize * grown], 1)
        box = torch.where(ok, torch.where(away, now, followed), moved)
        boxes.append(box)
    box = torch.stack(boxes, 1)
    centre, side = box[:, :, None].split_with_sizes((2, 1), -1)
    units = (2 * (points - centre) / side.clamp_min(1e-9)).clamp(-4, 4)
    features = torch.where(confidence * side > 0, torch.cat([units, confidence], -1), 0)
    return features, box, Track(boxes[-1], frame[:, -1])


def reported(features: Tensor, confidence: Sequence[float] | None) -> Tensor:
    """Features (..., 3 K) with the confidences that a network sees: a + b c for c above 0, and zero stays zero.

    confidence: (a, b), an option of models; None leaves them as they are. Detectors do not agree on what 0.5 means, and
    a network learned to read it as its training data meant it.
    """
    if confidence is None:
        return features
    points, seen = features.unflatten(-1, (-1, 3)).split_with_sizes((2, 1), -1)
    return torch.cat([points, confidence[0] * seen.sign() + confidence[1] * seen], -1).flatten(-2)
