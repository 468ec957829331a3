"""Figures of a prediction against a truth with holes: V views, T frames, coco17 in metres, NaN where not known."""

import math

import torch
from torch import Tensor

from kinlmr import metrics

LIMBS, HIPS, TRUNK = slice(5, 17), [11, 12], [5, 6, 11, 12]  # of coco17
ENOUGH, NEAR, HALF = 10, 100.0, 1 / 12  # points that make a frame; mm of PCK; seconds of half the smoothing's window
FIGURES = {
    "pa12": "PA12, mm", "pa17": "PA17", "mpjpe": "MPJPE", "plane": "in plane", "depth": "in depth",
    "accel": "Accel, mm/frame²", "metres": "Accel, m/s²", "pck": "PCK, %", "scored": "scored, %",
}  # fmt: skip


def table(title: str, columns: list[str], rows: dict[str, list[float]]) -> str:
    """A Markdown table; whole numbers as they are, NaN as a dash."""
    lines = [f"| {title} | {' | '.join(columns)} |", "|" + "---|" * (len(columns) + 1)]
    cell = lambda x: "-" if x != x else f"{x}" if isinstance(x, int) else f"{x:.1f}"  # noqa: E731
    return "\n".join(lines + [f"| {name} | {' | '.join(map(cell, row))} |" for name, row in rows.items()])


def aligned_errors(prediction: Tensor, truth: Tensor) -> Tensor:
    """Errors (..., K) in mm after the best similarity of every frame by the points that have a truth, NaN elsewhere."""
    known = truth.isfinite().all(-1, keepdim=True)
    some = [torch.where(known, x, torch.nan) for x in (prediction, truth)]
    filled = [torch.where(known, x, x.nanmean(-2, keepdim=True)) for x in some]  # what lies in the middle pulls nothing
    return metrics.joint_errors(metrics.procrustes(*filled), truth, root=None)


def smoothed(x: Tensor, half: int, order: int = 0) -> Tensor:
    """x (V, T, ...) or its derivative per frame, of a cubic by least squares over 2 half + 1 frames; NaN spreads."""
    if x.shape[1] <= 2 * half:
        return torch.full_like(x, torch.nan)
    powers = torch.arange(-half, half + 1).to(x)[:, None] ** torch.arange(4)
    return padded(x.unfold(1, 2 * half + 1, 1) @ torch.linalg.pinv(powers)[order], half)


def padded(x: Tensor, count: int) -> Tensor:
    """x (V, T, ...) with so many frames of NaN before and after it."""
    none = torch.full_like(x[:, :1], torch.nan).repeat_interleave(count, 1)
    return torch.cat([none, x, none], 1)


def fitted(x: Tensor, y: Tensor) -> Tensor:
    """The scale, one a view, that brings x (V, T, K, 3) nearest to y, where y is no NaN: (V, 1, 1, 1)."""
    dims = (1, 2, 3)
    spread = torch.where(y.isfinite(), x, 0).square().sum(dims, keepdim=True)
    return (x * y).nansum(dims, keepdim=True) / spread.clamp_min(1e-9)


def level(ray: Tensor) -> Tensor:
    """Rotations (..., 3, 3) of a camera that turns, without rolling, to look along rays (..., 3)."""
    z = torch.nn.functional.normalize(ray, dim=-1)
    x = torch.nn.functional.normalize(torch.linalg.cross(z.new_tensor((0.0, 1.0, 0.0)).expand_as(z), z), dim=-1)
    return torch.stack([x, torch.linalg.cross(z, x), z], -2)


def score(prediction: Tensor, truth: Tensor, fps: float) -> tuple[Tensor, Tensor]:
    """FIGURES (V, T, F) and errors of the limbs' points (V, T, 12) once aligned; NaN where there is no truth.

    prediction, truth (V, T, 17, 3) in metres in the frames of the cameras; the truth NaN where it is not known.
    """
    truth = enough(truth)
    limbs, errors = truth[:, :, LIMBS], aligned_errors(prediction[:, :, LIMBS], truth[:, :, LIMBS])
    middle = truth[:, :, HIPS].mean(2, keepdim=True)
    mine = (prediction - prediction[:, :, HIPS].mean(2, keepdim=True))[:, :, LIMBS]
    turned = (limbs - middle) @ level(middle).mT[:, :, 0]
    off = 1000 * (fitted(mine, turned) * mine - turned)
    calm = smoothed(limbs, window(fps))
    apart = fitted(mine, limbs - middle) * prediction[:, :, LIMBS] - calm
    second = 1000 * (apart[:, 2:] - 2 * apart[:, 1:-1] + apart[:, :-2]).norm(dim=-1).nanmean(-1)
    accel = padded(second, 1) if truth.shape[1] > 2 else torch.full_like(truth[:, :, 0, 0], torch.nan)
    near = torch.where(errors.isfinite(), 100.0 * (errors < NEAR), torch.nan)
    found = {
        "pa12": errors.nanmean(-1), "pa17": aligned_errors(prediction, truth).nanmean(-1),
        "mpjpe": off.norm(dim=-1).nanmean(-1), "plane": off[..., :2].norm(dim=-1).nanmean(-1),
        "depth": off[..., 2].abs().nanmean(-1), "accel": accel, "metres": accel * fps**2 / 1000,
        "pck": near.nanmean(-1), "scored": 100.0 * errors.isfinite().any(-1),
    }  # fmt: skip
    return torch.stack([found[name] for name in FIGURES], -1), errors


def enough(truth: Tensor) -> Tensor:
    """The truth (V, T, 17, 3), NaN in frames that are not scored."""
    known = truth[:, :, LIMBS].isfinite().all(-1).sum(-1) >= ENOUGH
    return torch.where(known[..., None, None], truth, torch.nan)


def shifted(prediction: Tensor, truth: Tensor, most: int) -> Tensor:
    """Sums and counts (2, 2 most + 1) of PA12 by how many frames late the prediction is, -most to most; of the same
    frames of the truth (V, T, 17, 3) each, T over 2 most."""
    count = truth.shape[1] - 2 * most
    inner = enough(truth)[:, most : most + count, LIMBS]
    late = [aligned_errors(prediction[:, i : i + count, LIMBS], inner).nanmean(-1) for i in range(2 * most + 1)]
    return summed(torch.stack(late, -1))


def lag_of(errors: Tensor, fps: float) -> float:
    """By how many ms the prediction is late, of errors by frames late (2 most + 1): where the parabola through the
    least and its neighbours is lowest. NaN where the least is at an end, or all are the same."""
    best = int(errors.argmin())
    if not 0 < best < len(errors) - 1 or not errors.amax() - errors.amin() > 1e-6:
        return math.nan
    before, least, after = errors[best - 1 : best + 2].tolist()
    return 1000 / fps * (best - len(errors) // 2 + (before - after) / (2 * (before - 2 * least + after)))


def window(fps: float) -> int:
    """Half the frames over which a truth is smoothed."""
    return max(round(HALF * fps), 2)


def summed(x: Tensor) -> Tensor:
    """Sums and counts (2, F) of what is finite of x (..., F)."""
    x = x.flatten(0, -2)
    return torch.stack([x.nansum(0), x.isfinite().sum(0)])
