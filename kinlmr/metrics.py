"""Metrics of the field, in millimetres: MPJPE, PA-MPJPE, PVE, Accel; per joint and per part, never across sequences.

Half precision is measured in float32. A frame that holds a NaN scores NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from torch import Tensor

from kinlmr.plan import Plan

Metric = Callable[[Tensor, Tensor], Tensor]
H36M_TO_14 = (6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10)


def joint_errors(prediction: Tensor, truth: Tensor, root: int | None = 0) -> Tensor:
    """Distances in mm, both centred on their root joint. (..., K, 3) in metres -> (..., K)

    root: which of the K is it, of a body `Body.root`; None: as they stand
    """
    prediction, truth = _pair(prediction, truth)
    if root is not None:
        prediction, truth = (x - x[..., root, None, :] for x in (prediction, truth))
    return 1000 * (prediction - truth).norm(dim=-1)


def mpjpe(prediction: Tensor, truth: Tensor, root: int | None = 0) -> Tensor:
    """Mean per-joint position error, mm: `joint_errors` over joints and frames. (..., T, K, 3) in metres -> (...)"""
    return joint_errors(prediction, truth, root).mean((-2, -1))


def procrustes(prediction: Tensor, truth: Tensor) -> Tensor:
    """The prediction moved onto the truth by the best scale, rotation (det +1) and translation. (..., K, 3) -> same

    Umeyama 1991. Points that coincide are only translated. A frame that holds a NaN becomes NaN, and no other does.
    """
    prediction, truth = _pair(prediction, truth)
    finite = (prediction.isfinite() & truth.isfinite()).all(-1).all(-1)[..., None, None]
    with torch.autocast(prediction.device.type, enabled=False):
        x, y = (torch.where(finite, points, 0) for points in (prediction, truth))
        middle = y.mean(-2, keepdim=True)
        x, y = x - x.mean(-2, keepdim=True), y - middle
        u, s, vt = torch.linalg.svd(y.mT @ x)
        sign = torch.cat([torch.ones_like(s[..., :2]), torch.linalg.det(u @ vt)[..., None]], -1)
        spread = x.square().sum((-2, -1))
        scale = torch.where(spread > 0, (s * sign).sum(-1) / torch.where(spread > 0, spread, 1), 1)
        aligned = scale[..., None, None] * (x @ (u * sign[..., None, :] @ vt).mT) + middle
    return torch.where(finite, aligned, torch.nan)


def pa_mpjpe(prediction: Tensor, truth: Tensor) -> Tensor:
    """MPJPE after `procrustes` in every frame, mm. (..., T, K, 3) in metres -> (...)"""
    return mpjpe(procrustes(prediction, truth), truth, root=None)


def pve(prediction: Tensor, truth: Tensor) -> Tensor:
    """Per-vertex error, mm, of meshes as they stand: centre them first. (..., T, N, 3) in metres -> (...)"""
    return mpjpe(prediction, truth, root=None)


def accel(prediction: Tensor, truth: Tensor, fps: float | None = None) -> Tensor:
    """Acceleration error: the mean norm of the difference of second differences, mm/frame^2, or m/s^2 if fps is given.

    (..., T, K, 3) in metres, T >= 3 -> (...)
    """
    prediction, truth = _pair(prediction, truth)
    return acceleration(prediction - truth, fps)


def acceleration(motion: Tensor, fps: float | None = None) -> Tensor:
    """The mean norm of second differences, mm/frame^2, or m/s^2 if fps is given: how much a motion jerks.

    (..., T, K, 3) in metres, T >= 3 -> (...)
    """
    if motion.shape[-3] < 3:
        raise ValueError(f"an acceleration needs 3 frames or more, not {motion.shape[-3]}")
    second = (motion[..., 2:, :, :] - 2 * motion[..., 1:-1, :, :] + motion[..., :-2, :, :]).norm(dim=-1).mean((-2, -1))
    return second * 1000 if fps is None else second * fps**2


def w_mpjpe(
    prediction: Tensor, truth: Tensor, frames: int = 100, whole: bool = False, similarity: bool = False
) -> Tensor:
    """World MPJPE, mm, of every frame of chunks of ``frames``; W-MPJPE100, or with ``whole`` WA-MPJPE100, is its mean.

    (T, K, 3) in metres -> (N). Each chunk is brought onto the truth by the rigid motion that fits its first two frames
    best, with ``whole`` all of it. A last chunk of half as many frames or more counts, a shorter one does not.
    similarity: with a scale, as WHAM and GVHMR do.
    """
    prediction, truth = _pair(prediction, truth)
    found = []
    for start in range(0, len(truth) - (frames + 1) // 2 + 1, frames):
        p, t = (x[start : start + frames] for x in (prediction, truth))
        fitted = slice(None) if whole else slice(2)
        turn, scale, shift = _rigid(p[fitted].flatten(0, 1), t[fitted].flatten(0, 1), similarity)
        found.append(1000 * (scale * p @ turn.mT + shift - t).norm(dim=-1).mean(-1))
    return torch.cat(found) if found else truth.new_zeros(0)


def rte(prediction: Tensor, truth: Tensor) -> Tensor:
    """Root translation error, %: the mean error of a path after its rigid fit onto the truth, over the truth's length.

    (T, 3) in metres -> ()
    """
    prediction, truth = _pair(prediction, truth)
    turn, _, shift = _rigid(prediction, truth, False)
    error = (prediction @ turn.mT + shift - truth).norm(dim=-1).mean()
    return 100 * error / (truth[1:] - truth[:-1]).norm(dim=-1).sum()


def foot_slide(prediction: Tensor, truth: Tensor, still: float = 0.01) -> Tensor:
    """How far feet move from frame to frame where the truth's move less than ``still`` metres, mm: the mean over them.

    (T, K, 3) in metres, of the joints of feet -> (); NaN where the truth's never stand
    """
    prediction, truth = _pair(prediction, truth)
    speed = (truth[1:] - truth[:-1]).norm(dim=-1)
    slower = torch.minimum(torch.cat([speed[:1], speed]), torch.cat([speed, speed[-1:]])) < still
    moved = 1000 * (prediction[1:] - prediction[:-1]).norm(dim=-1)
    return moved[slower[1:] & slower[:-1]].mean()


def jitter(motion: Tensor, fps: float) -> Tensor:
    """The mean norm of third differences, in 10 m/s^3, as WHAM and GVHMR have it. (..., T, K, 3) in metres -> (...)"""
    if motion.shape[-3] < 4:
        raise ValueError(f"jitter needs 4 frames or more, not {motion.shape[-3]}")
    a, b, c, d = (motion[..., i : motion.shape[-3] - 3 + i, :, :] for i in range(4))
    return (d - 3 * c + 3 * b - a).norm(dim=-1).mean((-2, -1)) * fps**3 / 10


def _rigid(prediction: Tensor, truth: Tensor, similarity: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The rotation (3, 3), scale () and shift (3) that bring points (N, 3) nearest to others."""
    x, y = prediction - prediction.mean(0), truth - truth.mean(0)
    u, s, vt = torch.linalg.svd(y.mT @ x)
    sign = torch.ones_like(s)
    sign[2] = torch.linalg.det(u @ vt)
    turn = u * sign @ vt
    scale = (s * sign).sum() / x.square().sum().clamp_min(1e-12) if similarity else torch.ones_like(s[0])
    return turn, scale, truth.mean(0) - scale * turn @ prediction.mean(0)


def by_part(errors: Tensor, plan: Plan) -> dict[str, Tensor]:
    """Errors (..., J) of the skeleton's joints, as the mean of every part's joints: part -> (...)."""
    return {part: errors[..., list(joints)].mean(-1) for part, joints in zip(plan.parts, plan.joints, strict=True)}


def evaluate(
    predictions: Sequence[Tensor],
    truths: Sequence[Tensor],
    fps: float | None = None,
    protocol: str = "sequence",
    root: int | None = 0,
) -> dict[str, float]:
    """MPJPE, PA-MPJPE, Accel and the prediction's own acceleration, averaged over the frames of all sequences.

    Each sequence is (T, K, 3) in metres, or a batch of them (..., T, K, 3). What no sequence is long enough for is NaN.
    root: as of `joint_errors`, for MPJPE.

    protocol="vibe" is VIBE's published procedure, for comparison with its tables: 14 joints (or 17 of Human3.6M, from
    which it takes 14), centred on the middle of the hips, windows of 16 frames, what is left over dropped, acceleration
    taken across the windows' and the tracks' borders.
    """
    if protocol not in ("sequence", "vibe"):
        raise ValueError(f"unknown protocol {protocol!r}; there are sequence, vibe")
    if len(predictions) != len(truths) or len(truths) == 0:
        raise ValueError(
            f"{len(predictions)} predictions for {len(truths)} truths; give one for each, and at least one"
        )
    pairs = [_pair(*pair) for pair in zip(predictions, truths, strict=True)]
    for _, truth in pairs:
        if truth.ndim < 3:
            raise ValueError(f"a sequence has shape (T, K, 3) or (..., T, K, 3), not {tuple(truth.shape)}")
    if protocol == "vibe":
        return _vibe(pairs, fps)
    return {
        "mpjpe": _over_frames(lambda p, t: mpjpe(p, t, root), pairs, 0),
        "pa_mpjpe": _over_frames(pa_mpjpe, pairs, 0),
        "accel": _over_frames(lambda p, t: accel(p, t, fps), pairs, 2),
        "acceleration": _over_frames(lambda p, _: acceleration(p, fps), pairs, 2),
    }


def _over_frames(metric: Metric, pairs: Sequence[tuple[Tensor, Tensor]], lost: int) -> float:
    """The mean over the frames of all sequences of a metric that needs ``lost`` frames more than it measures."""
    total, count = 0.0, 0
    for prediction, truth in pairs:
        sequences, frames = truth.shape[:-3].numel(), truth.shape[-3] - lost
        if sequences and frames > 0:
            total += float(metric(prediction, truth).double().sum()) * frames
            count += sequences * frames
    return total / count if count else math.nan


def _vibe(pairs: Sequence[tuple[Tensor, Tensor]], fps: float | None) -> dict[str, float]:
    def windows(motion: Tensor) -> Tensor:
        if motion.shape[-2] == 17:
            motion = motion[..., list(H36M_TO_14), :]
        if motion.shape[-2] != 14:
            raise ValueError(f"protocol vibe takes 14 joints, or 17 of Human3.6M, not {motion.shape[-2]}")
        motion = rearrange(motion[..., : motion.shape[-3] // 16 * 16, :, :], "... t k c -> (... t) k c")
        return motion - motion[:, 2:4].mean(1, keepdim=True)

    prediction, truth = (torch.cat([windows(pair[side]) for pair in pairs]) for side in (0, 1))
    if not len(truth):
        raise ValueError("protocol vibe takes windows of 16 frames, and no sequence is that long")
    return {
        "mpjpe": float(mpjpe(prediction, truth, root=None)),
        "pa_mpjpe": float(pa_mpjpe(prediction, truth)),
        "accel": float(accel(prediction, truth, fps)),
        "acceleration": float(acceleration(prediction, fps)),
    }


def _pair(prediction: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Points of one shape (..., K, 3), in at least single precision."""
    if prediction.shape != truth.shape or prediction.ndim < 2 or prediction.shape[-1] != 3:
        seen = f"{tuple(prediction.shape)} and {tuple(truth.shape)}"
        raise ValueError(f"prediction and truth have one shape (..., K, 3), not {seen}")
    kind = torch.promote_types(torch.promote_types(prediction.dtype, truth.dtype), torch.float32)
    return prediction.to(kind), truth.to(kind)
