"""Blend shapes and linear skinning, fast: vertices in planar layout, in tiles of bodies that stay in cache.

Vertices are kept planar, (3, N) instead of (N, 3): so blending is one matrix product, and skinning is a matrix product
and three multiply-adds. The gradient is written by hand, and blends again instead of keeping what it blended.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import pad

from kinlmr.kernels import skin as skin_kernels
from kinlmr.kernels import traced

# Numbers in the two workspaces: blended vertices, and each vertex's transform. On a CPU they stay in cache.
TILES_CPU = 2_700_000, 670_000
TILES_CUDA = 100_000_000, 400_000_000
# One CPU thread multiplies at least so many rows by a basis of at least so many numbers faster in strips of columns.
ROWS, LARGE, STRIP = 16, 2**20, 1024
ALIGNED = 16  # numbers in a cache line, where a product's rows are best begun


def skin(factors: Tensor, bone_transforms: Tensor, template: Tensor, basis: Tensor, weights: Tensor) -> Tensor:
    """Vertices (B, 3, N) of bodies posed by bone transforms A_k (B, 3, 4, J).

    factors (B, .) of pose and shape, template (3 N), basis (., 3 N), weights (J, N)
    """
    basis = basis[: factors.shape[1]]
    if torch.compiler.is_compiling() or any(x.requires_grad for x in (template, basis, weights)):
        return _skin(_rest(factors, template, basis), bone_transforms, weights)
    run = _Skin.apply if torch.is_grad_enabled() or traced() else _Skin.forward
    posed, _ = run(factors, bone_transforms, template, basis, weights)
    return posed


def _rest(factors: Tensor, template: Tensor, basis: Tensor) -> Tensor:
    """factors (B, .), template (3 N), basis (., 3 N) -> vertices at rest (B, 3, N)."""
    return torch.addmm(template, factors, basis).unflatten(-1, (3, -1))


def _skin(rest: Tensor, bone_transforms: Tensor, weights: Tensor) -> Tensor:
    """rest (B, 3, N), bone_transforms (B, 3, 4, J), weights (J, N) -> posed (B, 3, N)."""
    x, y, z, shift = (bone_transforms @ weights).unbind(2)
    posed = torch.addcmul(shift, x, rest[:, None, 0])
    return torch.addcmul(torch.addcmul(posed, y, rest[:, None, 1]), z, rest[:, None, 2])


class _Skin(Function):
    """Blend and skin, tile by tile through two workspaces; saves its inputs, and blends again on the way back.

    Where all bodies fit one tile, their blended vertices are the second result (else it is empty) and saved too.
    """

    @staticmethod
    def forward(
        factors: Tensor, bone_transforms: Tensor, template: Tensor, basis: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        if skin_kernels.serves(weights, factors, bone_transforms, template, basis):
            return skin_kernels.blend_and_skin(factors, bone_transforms, template, basis, weights), factors.new_empty(0)
        out = factors.new_empty(len(factors), 3, weights.shape[1])
        many, blended, mixed = _workspaces(out)
        for i in range(0, len(out), many):
            rest = _blend(factors[i : i + many], template, basis, blended)
            _pose(rest, bone_transforms[i : i + many], weights, out[i : i + many], mixed)
        return out, blended if many == len(out) else out.new_empty(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 5
        with torch.autocast(grad.device.type, enabled=False):
            gradients = _skin_gradients if torch.is_grad_enabled() else _TiledGradients.apply
            return (*gradients(grad, *ctx.saved_tensors), None, None, None)

    @staticmethod
    def vmap(info: Any, axes: tuple[int | None, ...], *inputs: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        """More bodies are more rows; other templates or weights go the plain way."""
        if any(axis is not None for axis in axes[2:]):
            posed = torch.vmap(lambda f, p, t, b, w: _skin(_rest(f, t, b), p, w), axes)(*inputs)
        else:
            factors, bone_transforms = (
                x.expand(info.batch_size, *x.shape) if axis is None else x.movedim(axis, 0)
                for x, axis in zip(inputs[:2], axes[:2], strict=True)
            )
            posed, _ = _Skin.apply(factors.flatten(0, 1), bone_transforms.flatten(0, 1), *inputs[2:])
            posed = posed.unflatten(0, (info.batch_size, -1))
        return (posed, posed.new_empty(info.batch_size, 0)), (0, 0)


def _skin_gradients(
    grad: Tensor, factors: Tensor, bone_transforms: Tensor, template: Tensor, basis: Tensor, weights: Tensor, _: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of factors (B, .) and bone_transforms (B, 3, 4, J) from the vertices' (B, 3, N); differentiable."""
    rest = pad(_rest(factors, template, basis), (0, 0, 0, 1), value=1.0)
    d_transforms = (grad[:, :, None] * rest[:, None]) @ weights.T
    d_rest = ((bone_transforms[:, :, :3] @ weights) * grad[:, :, None]).sum(1)
    return d_rest.flatten(1) @ basis.T, d_transforms


class _TiledGradients(Function):
    """The same, tile by tile; kept are the blended vertices, or empty. A Function for the sake of vmap."""

    @staticmethod
    def forward(
        grad: Tensor,
        factors: Tensor,
        bone_transforms: Tensor,
        template: Tensor,
        basis: Tensor,
        weights: Tensor,
        kept: Tensor,
    ) -> tuple[Tensor, Tensor]:
        if skin_kernels.serves(weights, grad, factors, bone_transforms, template, basis):
            return skin_kernels.blend_and_skin_backward(grad, factors, bone_transforms, template, basis, weights)
        d_factors, d_transforms = torch.empty_like(factors), bone_transforms.new_empty(bone_transforms.shape)
        many, blended, mixed = _workspaces(grad)
        for i in range(0, len(grad), many):
            rest = _blend(factors[i : i + many], template, basis, blended) if not kept.numel() else blended.copy_(kept)
            _pull(grad[i : i + many], rest, bone_transforms[i : i + many], weights, d_transforms[i : i + many], mixed)
            flat = rest.flatten(1)
            d_factors[i : i + many] = flat @ basis.T if len(rest) < 4 else (basis @ flat.T).T  # whichever BLAS likes
        return d_factors, d_transforms

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        pass

    @staticmethod
    def vmap(info: Any, axes: tuple[int | None, ...], *inputs: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        return torch.vmap(_skin_gradients, axes)(*inputs), (0, 0)


def _blend(factors: Tensor, template: Tensor, basis: Tensor, out: Tensor) -> Tensor:
    """Vertices at rest: template (3 N) + factors (B, .) @ basis (., 3 N), into out (B or more, 3, N) -> (B, 3, N)."""
    out = out[: len(factors)]
    apart = out.is_cpu and len(out) >= ROWS and basis.numel() >= LARGE and torch.get_num_threads() == 1
    strip = STRIP if apart else len(template)
    for t, b, o in zip(*(x.split(strip, -1) for x in (template, basis, out.flatten(1))), strict=True):
        torch.addmm(t, factors, b, out=o)
    return out


def _pose(rest: Tensor, bone_transforms: Tensor, weights: Tensor, out: Tensor, mixed: Tensor) -> None:
    """`_skin` of rest (B, 3, N), into out, through ``mixed``, a workspace for some bodies' transforms."""
    few = len(mixed)
    for k in range(0, len(rest), few):
        v, posed = rest[k : k + few, None], out[k : k + few]
        t = _mix(bone_transforms[k : k + few], weights, mixed)
        torch.addcmul(t[:, :, 3], t[:, :, 0], v[:, :, 0], out=posed)
        posed.addcmul_(t[:, :, 1], v[:, :, 1]).addcmul_(t[:, :, 2], v[:, :, 2])


def _pull(
    grad: Tensor, rest: Tensor, bone_transforms: Tensor, weights: Tensor, d_transforms: Tensor, mixed: Tensor
) -> None:
    """The gradients of `_skin`'s inputs from that of its result, grad (B, 3, N): that of rest (B, 3, N) takes its
    place, that of the transforms goes into d_transforms (B, 3, 4, J)."""
    few = len(mixed)
    for k in range(0, len(rest), few):
        v, g = rest[k : k + few], grad[k : k + few].contiguous()
        outer = mixed[: len(v)]
        torch.mul(g[:, :, None], v[:, None], out=outer[:, :, :3])
        outer[:, :, 3] = g
        d_transforms[k : k + few] = outer @ weights.T
        t = _mix(bone_transforms[k : k + few], weights, mixed)
        torch.mul(t[:, 0, :3], g[:, None, 0], out=v)
        v.addcmul_(t[:, 1, :3], g[:, None, 1]).addcmul_(t[:, 2, :3], g[:, None, 2])


def _mix(bone_transforms: Tensor, weights: Tensor, out: Tensor) -> Tensor:
    """Every vertex's own transform, the weighted mean of the bones': (B, 3, 4, N), into out."""
    out = out[: len(bone_transforms)]
    torch.mm(bone_transforms.reshape(-1, len(weights)), weights, out=out.view(-1, out.shape[-1]))
    return out


def _workspaces(x: Tensor) -> tuple[int, Tensor, Tensor]:
    """For x (B, 3, N): how many bodies to blend at once, their vertices (., 3, N), and as many transforms (., 3, 4, N)
    as to skin at once."""
    blend, skin = TILES_CUDA if x.is_cuda else TILES_CPU
    many = min(max(1, blend // (3 * x.shape[-1])), max(1, len(x)))
    few = min(max(1, skin // (12 * x.shape[-1])), many)
    wide = -(-x.shape[-1] // ALIGNED) * ALIGNED
    return many, x.new_empty(many, *x.shape[1:]), x.new_empty(few, 3, 4, wide)[..., : x.shape[-1]]
