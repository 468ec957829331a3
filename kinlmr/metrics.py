"""Metrics of the field, in millimetres: MPJPE, PA-MPJPE, PVE, Accel; per joint and per part, never across sequences."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kinlmr.plan import Plan

H36M_TO_14 = (6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10)


def joint_errors(prediction: Tensor, truth: Tensor, root: int | None = 0) -> Tensor:
    """Distances in mm, both centred on their root joint (None: as they stand). (..., K, 3) in metres -> (..., K)"""
    _check(prediction, truth)
    if root is not None:
        prediction, truth = (x - x[..., root : root + 1, :] for x in (prediction, truth))
    return 1000 * (prediction - truth).norm(dim=-1)


def mpjpe(prediction: Tensor, truth: Tensor, root: int | None = 0) -> Tensor:
    """Mean per-joint position error, mm, over joints and frames. (..., T, K, 3) in metres -> (...)"""
    return joint_errors(prediction, truth, root).mean((-2, -1))


def procrustes(prediction: Tensor, truth: Tensor) -> Tensor:
    """The prediction moved onto the truth by the best scale, rotation (det +1) and translation. (..., K, 3) -> same

    Umeyama 1991. Points that coincide are only translated.
    """
    _check(prediction, truth)
    x, y = (points - points.mean(-2, keepdim=True) for points in (prediction, truth))
    u, s, vt = torch.linalg.svd(y.mT @ x)
    sign = torch.ones_like(s)
    sign[..., 2] = torch.linalg.det(u @ vt)
    spread = x.square().sum((-2, -1))
    scale = torch.where(spread > 0, (s * sign).sum(-1) / torch.where(spread > 0, spread, 1), 1)
    turned = x @ (u * sign[..., None, :] @ vt).mT
    return scale[..., None, None] * turned + truth.mean(-2, keepdim=True)


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
    _check(prediction, truth)
    return acceleration(prediction - truth, fps)


def acceleration(motion: Tensor, fps: float | None = None) -> Tensor:
    """The mean norm of second differences, mm/frame^2, or m/s^2 if fps is given: how much a motion jerks. -> (...)"""
    if motion.shape[-3] < 3:
        raise ValueError(f"an acceleration needs 3 frames or more, not {motion.shape[-3]}")
    second = (motion[..., 2:, :, :] - 2 * motion[..., 1:-1, :, :] + motion[..., :-2, :, :]).norm(dim=-1).mean((-2, -1))
    return second * 1000 if fps is None else second * fps**2


def drift(motion: Tensor) -> Tensor:
    """How far points stray from their mean place, mm: 0 for what holds still. (..., T, K, 3) in metres -> (...)"""
    return 1000 * (motion - motion.mean(-3, keepdim=True)).norm(dim=-1).mean((-2, -1))


def by_part(errors: Tensor, plan: Plan) -> dict[str, Tensor]:
    """Errors (..., J) of the skeleton's joints, as the mean of every part's joints: part -> (...)."""
    return {part: errors[..., list(joints)].mean(-1) for part, joints in zip(plan.parts, plan.joints, strict=True)}


def evaluate(
    predictions: Sequence[Tensor], truths: Sequence[Tensor], fps: float | None = None, protocol: str = "sequence"
) -> dict[str, float]:
    """MPJPE, PA-MPJPE, Accel and the prediction's own acceleration, averaged over the frames of sequences (T, K, 3).

    protocol="vibe" is VIBE's published procedure, for comparison with its tables: 14 joints (or 17 of Human3.6M, from
    which it takes 14), centred on the middle of the hips, windows of 16 frames, what is left over dropped, acceleration
    taken across the windows' and the tracks' borders.
    """
    if protocol not in ("sequence", "vibe"):
        raise ValueError(f"unknown protocol {protocol!r}; there are sequence, vibe")
    if len(predictions) != len(truths) or not predictions:
        raise ValueError(
            f"{len(predictions)} predictions for {len(truths)} truths; give one for each, and at least one"
        )
    pairs = list(zip(predictions, truths, strict=True))
    if protocol == "vibe":
        return _vibe(pairs, fps)
    frames = torch.tensor([float(len(truth)) for _, truth in pairs])
    inner = (frames - 2).clamp_min(0)

    def mean(metric: object, weights: Tensor) -> float:
        values = [metric(*pair) if weight else torch.zeros(()) for pair, weight in zip(pairs, weights, strict=True)]  # type: ignore[operator]
        return float((torch.stack([v.cpu() for v in values]) * weights).sum() / weights.sum())

    return {
        "mpjpe": mean(mpjpe, frames),
        "pa_mpjpe": mean(pa_mpjpe, frames),
        "accel": mean(lambda p, t: accel(p, t, fps), inner),
        "acceleration": mean(lambda p, _: acceleration(p, fps), inner),
    }


def _vibe(pairs: Sequence[tuple[Tensor, Tensor]], fps: float | None) -> dict[str, float]:
    def windows(motion: Tensor) -> Tensor:
        if motion.shape[-2] == 17:
            motion = motion[..., list(H36M_TO_14), :]
        if motion.shape[-2] != 14:
            raise ValueError(f"protocol vibe takes 14 joints, or 17 of Human3.6M, not {motion.shape[-2]}")
        motion = motion[: len(motion) // 16 * 16]
        return motion - motion[:, 2:4].mean(1, keepdim=True)

    prediction, truth = (torch.cat([windows(pair[side]) for pair in pairs]) for side in (0, 1))
    return {
        "mpjpe": float(mpjpe(prediction, truth, root=None)),
        "pa_mpjpe": float(pa_mpjpe(prediction, truth)),
        "accel": float(accel(prediction, truth, fps)),
        "acceleration": float(acceleration(prediction, fps)),
    }


def _check(prediction: Tensor, truth: Tensor) -> None:
    if prediction.shape != truth.shape or prediction.ndim < 2 or prediction.shape[-1] != 3:
        seen = f"{tuple(prediction.shape)} and {tuple(truth.shape)}"
        raise ValueError(f"prediction and truth have one shape (..., K, 3), not {seen}")
