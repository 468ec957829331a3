"""Blend shapes and skinning on a GPU, in one launch; `kinlmr.kernels` says when. Shapes as of `kinlmr.body.skinning`.

The plain path writes and reads every vertex at rest (3 numbers) and its transform (12); here only vertices are written.
Where `torch.set_float32_matmul_precision` allows TF32, blend shapes are as exact as that; skinning, which multiplies
metres, never is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kinlmr.kernels import halves as kernels
from kinlmr.kernels.halves import Halves, exact, halves, launch, stages

JOINTS = 128  # more do not fit a program of `blend_and_skin`
BODIES, VERTICES, STEP, WARPS = 64, 64, 32, 4  # of a program of `_skin`
MOMENT_BODIES, MOMENT_VERTICES, SPLIT, MOMENT_WARPS = 16, 32, 1024, 4  # of `_moments`: at once, and vertices in all

tl: Any = None  # triton.language in a kernel (`kinlmr.kernels.halves.compiled`)


def serves(weights: Tensor, *others: Tensor) -> bool:
    """Whether `blend_and_skin` takes weights (J, N), for so many joints, and the others."""
    return len(weights) <= JOINTS and kernels.serves(weights, *others)


def blend_and_skin(factors: Tensor, planes: Tensor, template: Tensor, basis: Tensor, weights: Tensor) -> Tensor:
    """factors (B, K), planes (B, 3, 4, J), template (3 N), basis (K, 3 N), weights (J, N) -> vertices (B, 3, N), each
    row of which begins at a multiple of ``VERTICES`` numbers, so that they are written four at a time."""
    total = weights.shape[1]
    out = factors.new_empty(len(factors), 3, -(-total // VERTICES) * VERTICES)
    return _pose(out, total, _split_blend(factors, template, basis), _split_bones(planes, weights))[..., :total]


def blend_and_skin_backward(
    grad: Tensor, factors: Tensor, planes: Tensor, template: Tensor, basis: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of factors and planes from that of the vertices."""
    grad, total = grad.contiguous(), weights.shape[1]
    rest = _pose(torch.empty_like(grad), total, _split_blend(factors, template, basis), None)
    d_planes = _sum_moments(grad, rest, weights)
    d_rest = _pose(rest, total, grad, _split_bones(planes[:, :, :3].transpose(1, 2), weights))
    return d_rest.flatten(1) @ basis.T, d_planes


def _split_blend(factors: Tensor, template: Tensor, basis: Tensor) -> tuple[Halves, Tensor, Halves]:
    split = halves(basis, 3, VERTICES, STEP)
    return halves(factors, 1, STEP, columns=split.scale), template.contiguous(), split


def _split_bones(planes: Tensor, weights: Tensor) -> tuple[Halves, Halves, int]:
    """Of planes (B, 3, 4, J), or (B, 3, 3, J) without a shift, and of weights (J, N); and 4 or 3."""
    columns, joints = planes.shape[2], max(16, 1 << (len(weights) - 1).bit_length())  # as `tl.dot` takes them
    shares = halves(weights, 1, VERTICES, joints)
    folded = shares.scale[: len(weights)].repeat(3 * columns)
    return halves(planes.flatten(1), 3 * columns, 8, columns=folded), shares, columns


def _pose(
    out: Tensor, total: int, rest: Tensor | tuple[Halves, Tensor, Halves], skinned: tuple[Halves, Halves, int] | None
) -> Tensor:
    """Vertices at rest, given (B, 3, N) or blended, under bones, if there are any, into out (B, 3, N or more)."""
    nothing, blended = Halves(out[None], out), isinstance(rest, tuple)
    count, _, filled = out.shape  # what follows a row's N numbers is written too, four at a time
    factors, template, basis = rest if isinstance(rest, tuple) else (nothing, out, nothing)
    given = rest if isinstance(rest, Tensor) else out
    bones, shares, columns = skinned or (nothing, nothing, 0)
    launch(
        _skin, (-(-total // VERTICES), -(-count // BODIES)), *factors, basis.values, template, given, *bones,
        shares.values, out, count, total, filled, 3, given.shape[2], filled, -(-total // VERTICES) * VERTICES,
        *(x.values.stride(0) for x in (factors, basis, bones, shares)),
        BLEND=factors.values.shape[-1] if blended else 0, SKIN=columns, EXACT=exact(),
        JOINTS=shares.values.shape[1] if skinned else 16, BONES=bones.values.shape[-1], BODIES=BODIES,
        VERTICES=VERTICES, STEP=STEP, num_warps=WARPS, num_stages=stages(out.device),
    )  # fmt: skip
    return out


def _skin(
    factors, factors_scale, basis, template, rest, bones, bones_scale, shares, out, count, total, filled, rows,
    rest_row, out_row, padded, factors_low, basis_low, bones_low, shares_low, BLEND: tl.constexpr, SKIN: tl.constexpr,
    EXACT: tl.constexpr, JOINTS: tl.constexpr, BONES: tl.constexpr, BODIES: tl.constexpr, VERTICES: tl.constexpr,
    STEP: tl.constexpr,
):  # fmt: skip
    first, start = (tl.program_id(1) * BODIES).to(tl.int64), tl.program_id(0) * VERTICES
    body, vertex = tl.arange(0, BODIES), start + tl.arange(0, VERTICES)  # of those from the first on
    real, inside = body < count - first, vertex < total
    here, there = real[:, None] & inside[None, :], real[:, None] & (vertex < filled)[None, :]
    offset = body[:, None] * (3 * out_row) + vertex[None, :]
    out += first * 3 * out_row
    joint = tl.arange(0, JOINTS)
    if SKIN > 0:
        share = shares + (joint[:, None] * padded + vertex[None, :])
        heavy, light = tl.load(share), tl.load(share + shares_low)
    if BLEND > 0:
        x = tl.full((BODIES, VERTICES), 0.0, tl.float32)
        y = tl.full((BODIES, VERTICES), 0.0, tl.float32)
        z = tl.full((BODIES, VERTICES), 0.0, tl.float32)
        k = tl.arange(0, STEP)
        left = factors + first * BLEND + (body[:, None] * BLEND + k[None, :])
        right = basis + k[:, None] * 3 * padded + vertex[None, :]
        for _ in range(0, BLEND, STEP):
            high = tl.load(left, real[:, None], other=0.0)
            x_high, y_high, z_high = tl.load(right), tl.load(right + padded), tl.load(right + 2 * padded)
            x, y, z = tl.dot(high, x_high, x), tl.dot(high, y_high, y), tl.dot(high, z_high, z)
            if EXACT:
                low = tl.load(left + factors_low, real[:, None], other=0.0)
                x, y, z = tl.dot(low, x_high, x), tl.dot(low, y_high, y), tl.dot(low, z_high, z)
                x = tl.dot(high, tl.load(right + basis_low), x)
                y = tl.dot(high, tl.load(right + basis_low + padded), y)
                z = tl.dot(high, tl.load(right + basis_low + 2 * padded), z)
            left += STEP
            right += STEP * 3 * padded
        scale = tl.load(factors_scale + first + body, real, other=1.0)[:, None]
        x = x * scale + tl.load(template + vertex, inside, other=0.0)[None, :]
        y = y * scale + tl.load(template + total + vertex, inside, other=0.0)[None, :]
        z = z * scale + tl.load(template + 2 * total + vertex, inside, other=0.0)[None, :]
    else:
        rest += first * 3 * rest_row + (body[:, None] * (3 * rest_row) + vertex[None, :])
        x = tl.load(rest, here, other=0.0)
        y = tl.load(rest + rest_row, here, other=0.0)
        z = tl.load(rest + 2 * rest_row, here, other=0.0)
    if SKIN == 0:
        tl.store(out + offset, x, there)
        tl.store(out + offset + out_row, y, there)
        tl.store(out + offset + 2 * out_row, z, there)
    else:
        bone = bones + first * 3 * SKIN * BONES + (body[:, None] * (3 * SKIN * BONES) + joint[None, :])
        known = real[:, None] & (joint < BONES)[None, :]
        scale = tl.load(bones_scale + first + body, real, other=1.0)[:, None]
        # rows is 3, which the compiler must not know: it would unroll the loop, and run out of registers
        for _ in tl.range(0, rows, num_stages=2 if JOINTS <= 32 else 1):
            posed = tl.full((BODIES, VERTICES), 0.0, tl.float32)
            for column in tl.static_range(SKIN):
                high = tl.load(bone + column * BONES, known, other=0.0)
                low = tl.load(bone + column * BONES + bones_low, known, other=0.0)
                rotated = tl.dot(high, heavy)
                rotated = tl.dot(low, heavy, rotated)
                rotated = tl.dot(high, light, rotated)
                if column == 0:
                    posed = rotated * x
                elif column == 1:
                    posed += rotated * y
                elif column == 2:
                    posed += rotated * z
                else:
                    posed += rotated
            tl.store(out + offset, posed * scale, there)
            bone += SKIN * BONES
            out += out_row


def _sum_moments(grad: Tensor, rest: Tensor, weights: Tensor) -> Tensor:
    """The gradient of the planes: grad (B, 3, N), rest (B, 3, N), weights (J, N) -> (B, 3, 4, J)."""
    (count, _, total), joints = grad.shape, len(weights)
    splits = -(-total // SPLIT)
    parts = grad.new_empty(splits, count, 3, 4, joints)
    launch(
        _moments, (-(-count // MOMENT_BODIES), splits, 3), grad, rest, weights.contiguous(), parts, count, total,
        joints, SPLIT=SPLIT, JOINTS=max(16, 1 << (joints - 1).bit_length()), BODIES=MOMENT_BODIES,
        VERTICES=MOMENT_VERTICES, num_warps=MOMENT_WARPS,
    )  # fmt: skip
    return parts.sum(0)


def _moments(
    grad, rest, weights, out, count, total, joints, SPLIT: tl.constexpr,
    JOINTS: tl.constexpr, BODIES: tl.constexpr, VERTICES: tl.constexpr,
):  # fmt: skip
    """Of one row of the planes, over ``SPLIT`` vertices."""
    body = (tl.program_id(0) * BODIES + tl.arange(0, BODIES))[:, None].to(tl.int64)
    joint, row = tl.arange(0, JOINTS)[None, :], tl.program_id(2)
    x = tl.full((BODIES, JOINTS), 0.0, tl.float32)
    y, z, shift = x, x, x
    for begin in range(0, SPLIT, VERTICES):
        vertex = tl.program_id(1) * SPLIT + begin + tl.arange(0, VERTICES)
        here = (body < count) & (vertex < total)[None, :]
        weight = tl.load(
            weights + joint * total + vertex[:, None], (joint < joints) & (vertex < total)[:, None], other=0.0
        )
        offset = body * 3 * total + vertex[None, :]
        g = tl.load(grad + offset + row * total, here, other=0.0)
        x += tl.dot(g * tl.load(rest + offset, here, other=0.0), weight, input_precision="tf32x3")
        y += tl.dot(g * tl.load(rest + offset + total, here, other=0.0), weight, input_precision="tf32x3")
        z += tl.dot(g * tl.load(rest + offset + 2 * total, here, other=0.0), weight, input_precision="tf32x3")
        shift += tl.dot(g, weight, input_precision="tf32x3")
    offset, bones = (
        ((tl.program_id(1) * count + body) * 12 + row * 4) * joints + joint,
        (body < count) & (joint < joints),
    )
    tl.store(out + offset, x, bones)
    tl.store(out + offset + joints, y, bones)
    tl.store(out + offset + 2 * joints, z, bones)
    tl.store(out + offset + 3 * joints, shift, bones)
