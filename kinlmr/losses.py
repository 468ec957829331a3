"""Training losses: equations 2 to 5 of LMR, each a mean over what is present and visible.

Every term takes a weight per frame or per point. Where it is zero, prediction and truth may hold anything, NaN too. A
batch without a single target for a term gives exactly zero and a gradient of zero.

A weight has an axis for each leading axis of what it weighs, of that axis's size or 1. For (B, T, J, 3) a weight of
frames is (B, T), of clips (B, 1), of points (B, T, J). A weight (B,) is refused: it could mean clips or frames.
Half precision is summed in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kinlmr import _moved


def parameters(
    rotations: Tensor,
    shape: Tensor,
    true_rotations: Tensor,
    true_shape: Tensor,
    present: Tensor | None = None,
    shape_weight: float = 0.001,
) -> Tensor:
    """Equation 2 as it is trained in practice: mean square over rotation matrices, and over shape numbers, weighted.

    rotations (..., J, 3, 3), shape (..., S), the truth likewise; present (...) -> ()
    """
    pose = _mean(rotations, true_rotations, present, 3, torch.square)
    return pose + shape_weight * _mean(shape, true_shape, present, 1, torch.square)


def parameters_norm(estimate: Tensor, truth: Tensor, present: Tensor | None = None) -> Tensor:
    """Equation 2 to the letter: the mean over frames of the norm of the parameters' difference.

    estimate, truth (..., D); present (...) -> ()
    """
    estimate, truth = _pair(estimate, truth)
    present = _weight(present, estimate, 1)
    square = _difference(estimate, truth, present).square().sum(-1)
    norm = torch.where(square > 0, torch.where(square > 0, square, 1).sqrt(), square)
    return (present * norm).sum() / _at_least_one(present.sum())


def joints(prediction: Tensor, truth: Tensor, visible: Tensor | None = None, root: int = 0) -> Tensor:
    """Equation 3: the mean over joints of the L1 distance, both skeletons centred on their root joint.

    prediction, truth (..., K, 3) in metres; visible (...) per frame or (..., K) per joint; root: which of the K is it,
    of a body `Body.root` -> ()
    """
    prediction, truth = _pair(prediction, truth)
    visible = _per_point(visible, prediction)
    visible = visible * visible[..., root, None]  # without its root a skeleton cannot be centred
    prediction, truth = (x - x[..., root, None, :] for x in (prediction, truth))
    return 3 * _mean(prediction, truth, visible, 1, torch.abs)


def keypoints(prediction: Tensor, truth: Tensor, confidence: Tensor | None = None) -> Tensor:
    """Equation 4: the mean over projected keypoints of the L1 distance, in crop units, weighted by confidence.

    prediction, truth (..., K, 2); confidence (...) per frame or (..., K) per point -> ()
    """
    prediction, truth = _pair(prediction, truth)
    return 2 * _mean(prediction, truth, _per_point(confidence, prediction), 1, torch.abs)


def total(
    smpl: Tensor, joints: Tensor, keypoints: Tensor, weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> Tensor:
    """Equation 5: w_smpl L_smpl + w_3D L_3D + w_2D L_2D, of scalars (), by the weights in that order -> ()"""
    return weights[0] * smpl + weights[1] * joints + weights[2] * keypoints


def _pair(prediction: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Prediction and truth of one shape, in at least single precision."""
    if prediction.shape != truth.shape:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and truth {tuple(truth.shape)} differ in shape; expand one of them"
        )
    kind = torch.promote_types(torch.promote_types(prediction.dtype, truth.dtype), torch.float32)
    return prediction.to(kind), truth.to(kind)


def _per_point(weight: Tensor | None, points: Tensor) -> Tensor:
    """A weight of frames (...) or points (..., K), as one of points (..., K, D)."""
    if weight is not None and weight.ndim == points.ndim - 2:
        weight = _weight(weight, points, 2)[..., None]
    return _weight(weight, points, 1)


def _weight(weight: Tensor | None, x: Tensor, axes: int) -> Tensor:
    """The weight of x, whose last ``axes`` axes it lacks, in full."""
    lead = x.shape[:-axes]
    if weight is None:
        return x.new_ones(lead)
    if weight.ndim != len(lead) or any(n not in (1, m) for n, m in zip(weight.shape, lead, strict=True)):
        raise ValueError(
            f"a weight of shape {tuple(weight.shape)} for {tuple(x.shape)}; expected {tuple(lead)}, with 1 for an axis "
            "that it is the same along (weight[:, None] gives one of clips its axis of frames)"
        )
    return weight.to(x).expand(lead)


def _difference(prediction: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """prediction - truth, zero where the weight is: also where one of them is NaN, and in the gradient."""
    return torch.where(weight[..., None] > 0, prediction - truth, 0)


def _mean(
    prediction: Tensor, truth: Tensor, weight: Tensor | None, axes: int, of: Callable[[Tensor], Tensor]
) -> Tensor:
    """The weighted mean of a function of the difference; the weight lacks the last ``axes`` axes."""
    prediction, truth = _pair(prediction, truth)
    weight = _weight(weight, prediction, axes)
    prediction, truth = prediction.flatten(-axes), truth.flatten(-axes)
    error = weight[..., None] * of(_difference(prediction, truth, weight))
    return error.sum() / _at_least_one(weight.sum() * prediction.shape[-1])


def _at_least_one(count: Tensor) -> Tensor:
    return torch.where(count > 0, count, 1)


def __getattr__(name: str) -> Any:
    return _moved.moved(__name__, name)
