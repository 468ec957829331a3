"""Forward kinematics: from rotations of joints to where they and their bones are. `kinlmr.body` has the equations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import pad

from kinlmr.kernels import chain as chain_kernels
from kinlmr.kernels import halves as kernels
from kinlmr.kernels import traced


class Fronts(NamedTuple):
    """A tree cut into fronts of equal depth.

    parents (J) counts from 1, with 0 for the root's. order (J): the joints, front by front; restore (J) undoes it.
    above: for every front but the first, the index of each joint's parent in the front before.
    """

    parents: Tensor
    order: Tensor
    above: tuple[Tensor, ...]
    restore: Tensor


def fronts(parents: Sequence[int]) -> Fronts:
    """Cut a tree into fronts of equal depth. parents: of each joint, -1 for the root; in any order."""
    depth: dict[int, int] = {}
    index: dict[int, int] = {}  # of a joint in its front
    for joint in range(len(parents)):
        path = [joint]
        while path[-1] not in depth and parents[path[-1]] >= 0:
            path.append(parents[path[-1]])
        for j in reversed(path):
            depth.setdefault(j, 0 if parents[j] < 0 else depth[parents[j]] + 1)
    levels: list[list[int]] = [[] for _ in range(max(depth.values()) + 1)]
    for joint in range(len(parents)):
        index[joint] = len(levels[depth[joint]])
        levels[depth[joint]].append(joint)
    order = torch.tensor([joint for level in levels for joint in level])
    above = tuple(torch.tensor([index[parents[joint]] for joint in level]) for level in levels[1:])
    return Fronts(torch.tensor(parents) + 1, order, above, order.argsort())


def rotate_joint(rotations: Tensor, joint: int, rotation: Tensor) -> Tensor:
    """rotations (..., J, 3, 3), one joint's multiplied from the left by rotation (..., 3, 3)."""
    before, after = rotations[..., :joint, :, :], rotations[..., joint + 1 :, :, :]
    return torch.cat([before, (rotation @ rotations[..., joint, :, :]).unsqueeze(-3), after], -3)


def forward_kinematics(rotations: Tensor, offsets: Tensor, tree: Fronts) -> tuple[Tensor, Tensor]:
    """Chain local rotations and offsets along a tree, one batched product per depth.

    rotations (B, J, 3, 3) and offsets (B, J, 3), each relative to the parent -> world rotations (B, J, 3, 3) and
    positions (B, J, 3)
    """
    bottom = torch.eye(4, dtype=rotations.dtype, device=rotations.device)[3:].expand(*rotations.shape[:2], 1, 4)
    local = torch.cat([torch.cat([rotations, offsets[..., None]], -1), bottom], -2).index_select(1, tree.order)
    first, *rest = local.split([1, *map(len, tree.above)], 1)
    world = [first]
    for front, above in zip(rest, tree.above, strict=True):
        world.append(world[-1].index_select(1, above) @ front)
    joined = torch.cat(world, 1).index_select(1, tree.restore)
    return joined[..., :3, :3], joined[..., :3, 3]


def pose_bones(rotations: Tensor, rest: Tensor, tree: Fronts) -> tuple[Tensor, Tensor]:
    """rotations (B, J, 3, 3), joints at rest (B, J, 3) -> bone transforms A_k (B, 3, 4, J), joints (B, J, 3)"""
    if not traced() and kernels.serves(rotations, rest):
        return _Bones.apply(rotations, rest, tree)
    return _pose_bones(rotations, rest, tree)


def _pose_bones(rotations: Tensor, rest: Tensor, tree: Fronts) -> tuple[Tensor, Tensor]:
    offsets = rest - pad(rest, (0, 0, 1, 0)).index_select(1, tree.parents)
    world, positions = forward_kinematics(rotations, offsets, tree)
    bones = torch.cat([world, positions[..., None] - world @ rest[..., None]], -1)
    return bones.permute(0, 2, 3, 1), positions


class _Bones(Function):
    """`pose_bones` by kernels; its gradient is differentiable by way of the plain path."""

    @staticmethod
    def forward(ctx: Any, rotations: Tensor, rest: Tensor, tree: Fronts) -> tuple[Tensor, Tensor]:
        bone_transforms, positions = chain_kernels.chain(rotations, rest, tree.parents, tree.order)
        ctx.tree = tree
        ctx.save_for_backward(rotations, rest, bone_transforms)
        return bone_transforms, positions

    @staticmethod
    def backward(ctx: Any, d_transforms: Tensor, d_positions: Tensor) -> tuple[Tensor | None, ...]:
        rotations, rest, bone_transforms = ctx.saved_tensors
        if torch.is_grad_enabled():
            rotations, rest = (x if x.requires_grad else x.detach().requires_grad_() for x in (rotations, rest))
            posed = _pose_bones(rotations, rest, ctx.tree)
            return *torch.autograd.grad(posed, (rotations, rest), (d_transforms, d_positions), create_graph=True), None
        tree = ctx.tree.parents, ctx.tree.order
        return *chain_kernels.chain_backward(d_transforms, d_positions, rotations, rest, bone_transforms, *tree), None
