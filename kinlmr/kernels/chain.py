"""Forward kinematics on a GPU, in one launch instead of about 50; `kinlmr.kernels` says when."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kinlmr.kernels.halves import launch

LANES = 8  # bodies of a program

tl: Any = None  # triton.language in a kernel (`kinlmr.kernels.halves.compiled`)


def chain(rotations: Tensor, rest: Tensor, parents: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Forward kinematics. rotations (B, J, 3, 3), rest (B, J, 3), parents (J) counted from 1, order: from the root on
    -> planes of the bones (B, 3, 4, J), positions of the joints (B, J, 3)"""
    count, joints = rest.shape[:2]
    rotations, rest, parents, order = (x.contiguous() for x in (rotations, rest, parents, order))
    planes, positions = rest.new_empty(count, 3, 4, joints), torch.empty_like(rest)
    launch(
        _chain,
        (-(-count // LANES),),
        rotations,
        rest,
        parents,
        order,
        planes,
        positions,
        count,
        joints,
        BODIES=LANES,
        num_warps=1,
    )
    return planes, positions


def _chain(rotations, rest, parents, order, planes, positions, count, joints, BODIES: tl.constexpr):
    body = (tl.program_id(0) * BODIES + tl.arange(0, BODIES)).to(tl.int64)
    here = body < count
    for i in range(joints):
        joint = tl.load(order + i)
        parent = tl.load(parents + joint) - 1
        hung = here & (parent >= 0)
        rotation, position = rotations + (body * joints + joint) * 9, rest + (body * joints + joint) * 3
        above, before = planes + body * joints * 12 + parent, positions + (body * joints + parent) * 3
        held = rest + (body * joints + parent) * 3
        out = planes + body * joints * 12 + joint
        x, y, z = tl.load(position, here), tl.load(position + 1, here), tl.load(position + 2, here)
        off_x = x - tl.load(held, hung, other=0.0)
        off_y = y - tl.load(held + 1, hung, other=0.0)
        off_z = z - tl.load(held + 2, hung, other=0.0)
        for row in tl.static_range(3):
            a = tl.load(above + row * 4 * joints, hung, other=1.0 if row == 0 else 0.0)
            b = tl.load(above + (row * 4 + 1) * joints, hung, other=1.0 if row == 1 else 0.0)
            c = tl.load(above + (row * 4 + 2) * joints, hung, other=1.0 if row == 2 else 0.0)
            at = a * off_x + b * off_y + c * off_z + tl.load(before + row, hung, other=0.0)
            shift = at
            for column in tl.static_range(3):
                rotated = (
                    a * tl.load(rotation + column, here) + b * tl.load(rotation + 3 + column, here)
                    + c * tl.load(rotation + 6 + column, here)
                )  # fmt: skip
                tl.store(out + (row * 4 + column) * joints, rotated, here)
                shift -= rotated * (x if column == 0 else y if column == 1 else z)
            tl.store(out + (row * 4 + 3) * joints, shift, here)
            tl.store(positions + (body * joints + joint) * 3 + row, at, here)
        tl.debug_barrier()  # the next joint reads what was written here


def chain_backward(
    d_planes: Tensor,
    d_positions: Tensor,
    rotations: Tensor,
    rest: Tensor,
    planes: Tensor,
    parents: Tensor,
    order: Tensor,
) -> tuple[Tensor, Tensor]:
    """The gradients of `chain`'s rotations and rest, from those of its planes and positions."""
    count, joints = rest.shape[:2]
    d_planes, d_positions = (
        x.clone(memory_format=torch.contiguous_format) for x in (d_planes, d_positions)
    )  # overwritten
    rotations, rest, planes, parents, order = (x.contiguous() for x in (rotations, rest, planes, parents, order))
    d_rotations, d_rest = torch.empty_like(rotations), torch.zeros_like(rest)
    launch(
        _chain_backward, (-(-count // LANES),), d_planes, d_positions, rotations, rest, planes, parents, order,
        d_rotations, d_rest, count, joints, BODIES=LANES, num_warps=1,
    )  # fmt: skip
    return d_rotations, d_rest


def _chain_backward(
    d_planes, d_positions, rotations, rest, planes, parents, order, d_rotations, d_rest, count, joints,
    BODIES: tl.constexpr,
):  # fmt: skip
    """From the leaves to the root: a joint's gradients are whole when it is reached, and add to its parent's."""
    body = (tl.program_id(0) * BODIES + tl.arange(0, BODIES)).to(tl.int64)
    here = body < count
    for i in range(joints):
        joint = tl.load(order + joints - 1 - i)
        parent = tl.load(parents + joint) - 1
        hung = here & (parent >= 0)
        own, up = (body * joints + joint) * 3, (body * joints + parent) * 3
        bone, above = body * joints * 12 + joint, body * joints * 12 + parent
        x, y, z = tl.load(rest + own, here), tl.load(rest + own + 1, here), tl.load(rest + own + 2, here)
        off_x = x - tl.load(rest + up, hung, other=0.0)
        off_y = y - tl.load(rest + up + 1, hung, other=0.0)
        off_z = z - tl.load(rest + up + 2, hung, other=0.0)
        d_x = tl.load(d_rest + own, here)
        d_y = tl.load(d_rest + own + 1, here)
        d_z = tl.load(d_rest + own + 2, here)
        to_x, to_y, to_z = tl.zeros_like(x), tl.zeros_like(x), tl.zeros_like(x)  # of the offset
        for column in tl.static_range(3):
            for row in tl.static_range(3):
                tl.store(d_rotations + own * 3 + row * 3 + column, tl.zeros_like(x), here)
        for row in tl.static_range(3):
            shift = tl.load(d_planes + bone + (row * 4 + 3) * joints, here)
            at = shift + tl.load(d_positions + own + row, here)
            d_x -= shift * tl.load(planes + bone + row * 4 * joints, here)
            d_y -= shift * tl.load(planes + bone + (row * 4 + 1) * joints, here)
            d_z -= shift * tl.load(planes + bone + (row * 4 + 2) * joints, here)
            d_a = tl.load(d_planes + bone + row * 4 * joints, here) - shift * x
            d_b = tl.load(d_planes + bone + (row * 4 + 1) * joints, here) - shift * y
            d_c = tl.load(d_planes + bone + (row * 4 + 2) * joints, here) - shift * z
            tl.store(d_positions + up + row, tl.load(d_positions + up + row, hung, other=0.0) + at, hung)
            for column in tl.static_range(3):
                rotated = tl.load(
                    planes + above + (row * 4 + column) * joints, hung, other=1.0 if row == column else 0.0
                )
                to = d_rotations + own * 3 + column * 3
                tl.store(to, tl.load(to, here) + rotated * d_a, here)
                tl.store(to + 1, tl.load(to + 1, here) + rotated * d_b, here)
                tl.store(to + 2, tl.load(to + 2, here) + rotated * d_c, here)
                rotation = rotations + own * 3 + column * 3
                offset = off_x if column == 0 else off_y if column == 1 else off_z
                d_above = (
                    d_a * tl.load(rotation, here) + d_b * tl.load(rotation + 1, here)
                    + d_c * tl.load(rotation + 2, here) + at * offset
                )  # fmt: skip
                address = d_planes + above + (row * 4 + column) * joints
                tl.store(address, tl.load(address, hung, other=0.0) + d_above, hung)
                if column == 0:
                    to_x += rotated * at
                elif column == 1:
                    to_y += rotated * at
                else:
                    to_z += rotated * at
        tl.store(d_rest + own, d_x + to_x, here)
        tl.store(d_rest + own + 1, d_y + to_y, here)
        tl.store(d_rest + own + 2, d_z + to_z, here)
        tl.store(d_rest + up, tl.load(d_rest + up, hung, other=0.0) - to_x, hung)
        tl.store(d_rest + up + 1, tl.load(d_rest + up + 1, hung, other=0.0) - to_y, hung)
        tl.store(d_rest + up + 2, tl.load(d_rest + up + 2, hung, other=0.0) - to_z, hung)
        tl.debug_barrier()
