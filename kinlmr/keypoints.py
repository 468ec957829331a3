"""Keypoints: the sets that detectors and datasets use, by name; pixels to features; points compiled onto a body.

A keypoint of a body is linear in its vertices and joints at rest: a row of weights over both. Compiled, it needs no
vertex at all. This room knows no body: `kinlmr.body` and `kinlmr.assets` hand it what it needs.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from kinlmr.files import Array, read_npy
from kinlmr.skeleton import nearest

# --------------------------------------------------------------------------------------------------------------- sets


def keypoint_sets() -> dict[str, tuple[str, ...]]:
    """The keypoint sets by name, each with its points' names in order."""
    named = lambda point: point if isinstance(point, str) else next(iter(point))  # noqa: E731
    return {name: tuple(map(named, points)) for name, points in _keypoints()["sets"].items()}


def convert(keypoints: Tensor | Array, source: str, target: str) -> Tensor:
    """Keypoints of one set as another: (..., K, 3) as x, y, confidence -> (..., K of the target, 3).

    Points go by what they are made of, else by name. A mean that the source lacks, such as body25's neck, is computed,
    as sure as the least sure of its points; any other point that it lacks is zero, with confidence 0.
    """
    sets = _keypoints()["sets"]
    for name in (source, target):
        if name not in sets:
            raise ValueError(f"unknown keypoint set {name!r}; there are {', '.join(sets)}{nearest(name, sets)}")
    x = torch.as_tensor(keypoints)
    if x.ndim < 2 or x.shape[-2:] != (len(sets[source]), 3):
        raise ValueError(
            f"{source} has {len(sets[source])} points: expected (..., {len(sets[source])}, 3), not {tuple(x.shape)}"
        )
    made_of = lambda point: (point,) if isinstance(point, str) else tuple(next(iter(point.values())))  # noqa: E731
    place: dict[Any, int] = {name: i for i, name in enumerate(keypoint_sets()[source])}
    place |= {made_of(point): i for i, point in enumerate(sets[source])}
    found = []
    for name, point in zip(keypoint_sets()[target], sets[target], strict=True):
        parts = made_of(point)
        if parts in place:
            found.append(x[..., place[parts], :])
        elif all(part in place for part in parts):
            held = torch.stack([x[..., place[part], :] for part in parts])
            found.append(torch.cat([held[..., :2].mean(0), held[..., 2:].amin(0)], -1))
        else:
            found.append(x[..., place[name], :] if name in place else torch.zeros_like(x[..., 0, :]))
    return torch.stack(found, -2)


def set_rows(name: str, body: str, joints: Sequence[str], vertices: int) -> tuple[Tensor, Tensor]:
    """A named set on a body of that name and those joints: K rows over its vertices (K, N) and its joints (K, J).

    A point is a joint, a point of the surface (`keypoints.json` has those of the embedded bodies), or a mean of some.
    """
    data = _keypoints()
    surface = data["surface"].get(body, {})
    points = data["sets"][name]
    over_vertices = torch.zeros(len(points), vertices, dtype=torch.float64)
    over_joints = torch.zeros(len(points), len(joints), dtype=torch.float64)
    for row, point in enumerate(points):
        made_of = [point] if isinstance(point, str) else next(iter(point.values()))
        for part in made_of:
            if part in joints:
                over_joints[row, joints.index(part)] = 1 / len(made_of)
            elif part in surface:
                index, weight = surface[part]
                over_vertices[row, index] = torch.tensor(weight, dtype=torch.float64) / len(made_of)
            else:
                raise ValueError(
                    f"body {body!r} has no joint and no surface point {part!r}, which {name} needs; "
                    "give points= a regressor over its vertices"
                )
    return over_vertices, over_joints


def regressor_rows(points: str | os.PathLike[str] | Array, vertices: int) -> Tensor:
    """The rows (K, N) of a regressor: an array, or the path of the .npy file that holds it."""
    if isinstance(points, str | os.PathLike):
        name = os.fspath(points)
        if not Path(name).is_file():
            sets = keypoint_sets()
            raise FileNotFoundError(
                f"no keypoint set and no file {name!r}; the sets are {', '.join(sets)}{nearest(name, sets)}"
            )
        points, where = read_npy(name), f"{name}: "
    else:
        where = ""
    rows = np.asarray(points)
    if rows.ndim != 2 or rows.shape[1] != vertices or rows.dtype.kind not in "biuf":
        raise ValueError(f"{where}a regressor has numbers of shape (K, {vertices}), not {rows.dtype} of {rows.shape}")
    if not np.isfinite(rows).all():
        raise ValueError(f"{where}a regressor of numbers that are not finite")
    return torch.from_numpy(rows.astype(np.float64))


@functools.cache
def _keypoints() -> dict[str, Any]:
    text = (resources.files("kinlmr") / "bodies" / "keypoints.json").read_text("utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


# ------------------------------------------------------------------------------------------------------- features

FPS = 30.0  # the rate that `normalise` expects, and the shipped models with it
MARGIN = 1.2  # the box's side over the extent of the points
FOLLOW, GROW, SHRINK = 0.1, 0.2, 0.02  # how much of the way to this frame's own box the box goes in a frame
SURE = 0.25  # points less sure than this share of the frame's surest do not shape the box


class Track(NamedTuple):
    """What `normalise` remembers of the last frame: its box (B, 3) as (cx, cy, side), its keypoints (B, K, 3)."""

    box: Tensor
    keypoints: Tensor


def check_keypoints(keypoints: Tensor) -> None:
    """Refuse keypoints (..., T, K, 3) that no detector gives in pixels."""
    if keypoints.ndim < 3 or keypoints.shape[-1] != 3:
        raise ValueError(
            f"keypoints have shape (T, K, 3) or (B, T, K, 3): x, y, confidence; not {tuple(keypoints.shape)}"
        )
    if torch.compiler.is_compiling():
        return
    seen = ~(keypoints[..., 2] <= 0)
    wrong = ~keypoints.isfinite().all(-1) & seen
    if wrong.any():
        *clip, frame, point = place = tuple(wrong.nonzero()[0].tolist())
        where = f"frame {frame} of clip {clip[0]}" if clip else f"frame {frame}"
        raise ValueError(
            f"point {point} of {where} is {keypoints[place].tolist()}: not finite, but its confidence is not 0; "
            "set the confidence of points that were not found to 0"
        )
    places = keypoints[..., :2][keypoints[..., 2] > 0]
    if len(places) > 1 and places.abs().max() < 2:
        raise ValueError(
            f"the keypoints lie between {places.min():.2f} and {places.max():.2f}, as if they were normalised to 0..1; "
            "kinlmr takes pixels: multiply x by the picture's width and y by its height"
        )


def normalise(keypoints: Tensor, track: Track | None = None) -> tuple[Tensor, Tensor, Track]:
    """Pixels to a model's features, causally: the same for whole clips, chunks and single frames.

    keypoints (B, T, K, 3) as x, y in pixels and confidence, of `FPS` frames a second; a confidence of 0 is not seen,
    and its x and y may be anything. track: from the last chunk, None at first
    -> features (B, T, 3 K): x, y in units of the box, -1 to 1, and confidence, zeros for a point not seen;
    box (B, T, 3) as (cx, cy, side) in pixels, of side 0 until two points were seen; track

    The box moves with the points that this frame and the last one share, and slowly towards the box around this
    frame's own points; so it stays when points vanish. A person who is somewhere else starts it again.
    """
    check_keypoints(keypoints)
    confidence = keypoints[..., 2:].clamp(0, 1)
    seen = confidence > 0
    points = torch.where(seen, keypoints[..., :2], 0)
    frame = torch.cat([points, torch.where(seen, confidence, 0)], -1)
    if track is None:
        track = Track(frame.new_zeros(len(frame), 3), torch.zeros_like(frame[:, 0]))

    sure = confidence > SURE * confidence.amax(2, keepdim=True)
    low = torch.where(sure, points, torch.inf).amin(2)
    high = torch.where(sure, points, -torch.inf).amax(2)
    extent = (high - low).amax(-1, keepdim=True)
    found = extent > 0  # of two sure points at least
    own = torch.cat([(low + high) / 2, MARGIN * extent], -1)
    own = torch.where(found, own, 0)

    before = torch.cat([track.keypoints[:, None], frame[:, :-1]], 1)
    shared = frame[..., 2:] * before[..., 2:]
    shift = (shared * (frame[..., :2] - before[..., :2])).sum(2) / shared.sum(2).clamp_min(1e-9)

    box, boxes = track.box, []
    for now, ok, move in zip(own.unbind(1), found.unbind(1), shift.unbind(1), strict=True):
        moved = torch.cat([box[:, :2] + move, box[:, 2:]], 1)
        side = moved[:, 2:]
        away = ((now - moved)[:, :2].abs().amax(1, keepdim=True) > side / 2) | (now[:, 2:] > 2 * side)
        rate = torch.cat([torch.full_like(moved[:, :2], FOLLOW), torch.where(now[:, 2:] > side, GROW, SHRINK)], 1)
        box = torch.where(ok, torch.where(away, now, moved + rate * (now - moved)), moved)
        boxes.append(box)
    box = torch.stack(boxes, 1)
    units = 2 * (points - box[:, :, None, :2]) / box[:, :, None, 2:].clamp_min(1e-9)
    shown = seen & (box[:, :, None, 2:] > 0)
    features = torch.where(shown, torch.cat([units.clamp(-4, 4), confidence], -1), 0)
    return features.flatten(2), box, Track(boxes[-1], frame[:, -1])


def reported(features: Tensor, confidence: Sequence[float] | None) -> Tensor:
    """Features (..., 3 K) with the confidences that a network sees: a + b c for c above 0, and zero stays zero.

    confidence: (a, b), an option of models; None leaves them. Detectors do not agree on what 0.5 means, and a network
    that was trained to read it as the error made would take their word for it.
    """
    if confidence is None:
        return features
    x = features.unflatten(-1, (-1, 3))
    shown = torch.where(x[..., 2:] > 0, confidence[0] + confidence[1] * x[..., 2:], 0)
    return torch.cat([x[..., :2], shown], -1).flatten(-2)


# ------------------------------------------------------------------------------------------------------ on a body


@dataclass(frozen=True, eq=False)
class Points:
    """K keypoints as Q (point, bone) pairs, compiled from what is linear in vertices and joints at rest. Exact.

    A point that mixes vertices of several bones is a sum of one rigid share per bone: pair i adds
    A_bone(i) (template_i + basis_i f, mass_i) to point owner(i), where f are the pose and shape factors.
    """

    names: tuple[str, ...]
    owner: Tensor  # (Q)
    bone: Tensor  # (Q)
    mass: Tensor  # (Q)
    template: Tensor  # (3 Q), planar
    basis: Tensor  # (9 (J - 1) or 0, + S, 3 Q), planar


def compile_points(names: Sequence[str], rows: Tensor, template: Tensor, basis: Tensor, weights: Tensor) -> Points:
    """Compile K keypoints to (point, bone) pairs, of the template's type.

    rows (K, M) over M places that bones hold, such as a body's vertices and joints: at rest they are at
    template (3, M) + basis (D, 3, M) times D factors, and weights (J, M) say which bone holds how much of them.
    """
    if len(names) != len(rows) or not names:
        raise ValueError(f"{len(names)} names of points for {len(rows)} rows; give one for each, and at least one")
    kind, used = template.dtype, rows.any(0)
    rows, template, basis, weights = (x[..., used].double() for x in (rows, template, basis, weights))
    pairs: list[tuple[int, int, Tensor]] = []
    for point, row in enumerate(rows):
        shares = row * weights  # (J, M): what each bone holds of the point
        bones = shares.any(1).nonzero()[:, 0].tolist()
        if not bones:
            raise ValueError(f"point {names[point]!r} is given by no vertex and no joint; its row is zero")
        pairs += [(point, bone, shares[bone]) for bone in bones]
    owner, bone, shares = zip(*pairs, strict=True)
    held = torch.stack(shares, 1)  # (M, Q)
    return Points(
        names=tuple(names),
        owner=torch.tensor(owner, device=template.device),
        bone=torch.tensor(bone, device=template.device),
        mass=held.sum(0).to(kind),
        template=rearrange(template @ held, "c q -> (c q)").to(kind),
        basis=rearrange(basis @ held, "d c q -> d (c q)").to(kind),
    )


def pose_points(points: Points, factors: Tensor, bones: Tensor) -> Tensor:
    """Factors (B, D or fewer), bones (B, J, 3, 4) -> points (B, K, 3)."""
    rest = torch.addmm(points.template, factors, points.basis[: factors.shape[1]]).unflatten(-1, (3, -1))
    mine = bones.index_select(1, points.bone)  # (B, Q, 3, 4)
    held = torch.cat([rest.mT, points.mass[:, None].expand(len(rest), -1, 1)], -1)
    posed = (mine @ held[..., None])[..., 0]
    out = posed.new_zeros(len(posed), len(points.names), 3)
    return out.index_add(1, points.owner, posed)
