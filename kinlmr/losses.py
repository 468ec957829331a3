"""Training losses: equations 2 to 5 of LMR, each a mean over what is present and visible.

Every term takes a weight per frame or per point; where it is zero the target may hold anything, NaN too. A batch
without a single target for a term gives exactly zero and a gradient of zero.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def parameters(
    rotations: Tensor,
    shape: Tensor,
    true_rotations: Tensor,
    true_shape: Tensor,
    present: Tensor | None = None,
    shape_weight: float = 0.001,
) -> Tensor:
    """Equation 2 as it is trained in practice: mean square over rotation matrices, and over shape numbers, weighted.

    rotations (..., J, 3, 3), shape (..., S), the truth likewise, present (...) -> ()
    """
    pose = _mean((rotations, true_rotations), present, 3, torch.square)
    return pose + shape_weight * _mean((shape, true_shape), present, 1, torch.square)


def parameters_norm(estimate: Tensor, truth: Tensor, present: Tensor | None = None) -> Tensor:
    """Equation 2 to the letter: the mean over frames of the norm of the parameters' difference. (..., D) -> ()"""
    present = _full(present, estimate[..., 0])
    difference = estimate - torch.where(present[..., None] > 0, truth, estimate.detach())
    square = difference.square().sum(-1)
    norm = torch.where(square > 0, torch.where(square > 0, square, 1).sqrt(), 0)
    return (present * norm).sum() / _at_least_one(present.sum())


def joints(prediction: Tensor, truth: Tensor, visible: Tensor | None = None, root: int = 0) -> Tensor:
    """Equation 3: the mean over joints of the L1 distance, both skeletons centred on their root joint.

    prediction, truth (..., K, 3) in metres; visible (...) per frame or (..., K) per joint -> ()
    """
    visible = _per_point(visible, prediction)
    truth = torch.where(visible[..., None] > 0, truth, prediction.detach())
    visible = visible * visible[..., root : root + 1]  # without its root a skeleton cannot be centred
    prediction = prediction - prediction[..., root : root + 1, :]
    return 3 * _mean((prediction, truth - truth[..., root : root + 1, :]), visible, 1, torch.abs)


def points(prediction: Tensor, truth: Tensor, confidence: Tensor | None = None) -> Tensor:
    """Equation 4: the mean over image points of the L1 distance, in crop units, weighted by confidence.

    prediction, truth (..., K, 2); confidence (...) or (..., K) -> ()
    """
    return 2 * _mean((prediction, truth), _per_point(confidence, prediction), 1, torch.abs)


def total(
    smpl: Tensor, joints: Tensor, points: Tensor, weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> Tensor:
    """Equation 5: w_smpl L_smpl + w_3D L_3D + w_2D L_2D."""
    return weights[0] * smpl + weights[1] * joints + weights[2] * points


def _per_point(weight: Tensor | None, points: Tensor) -> Tensor:
    """A weight of frames (...) or points (..., K), as one of points."""
    if weight is not None and weight.ndim == points.ndim - 2:
        weight = weight[..., None]
    return _full(weight, points[..., 0])


def _full(weight: Tensor | None, like: Tensor) -> Tensor:
    if weight is None:
        return torch.ones_like(like)
    try:
        return weight.to(like).expand_as(like)
    except RuntimeError:
        raise ValueError(f"a weight of shape {tuple(weight.shape)} does not fit {tuple(like.shape)}") from None


def _mean(pair: tuple[Tensor, Tensor], weight: Tensor | None, axes: int, of: Callable[[Tensor], Tensor]) -> Tensor:
    """The weighted mean of a function of the difference; the weight lacks the last ``axes`` axes."""
    prediction, truth = (x.flatten(-axes) for x in pair)
    if pair[0].shape != pair[1].shape:
        raise ValueError(f"prediction {tuple(pair[0].shape)} and truth {tuple(pair[1].shape)} differ in shape")
    weight = _full(weight, prediction[..., 0])[..., None]
    difference = prediction - torch.where(weight > 0, truth, prediction.detach())
    return (weight * of(difference)).sum() / _at_least_one(weight.sum() * prediction.shape[-1])


def _at_least_one(count: Tensor) -> Tensor:
    return torch.where(count > 0, count, 1)
