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
    """A tree by depth: joints in that order, each front's places of its parents in the front above, and the way back.

    ``parents`` counts from 1, with 0 for what the root hangs on.
    """

    parents: Tensor
    order: Tensor
    above: tuple[Tensor, ...]
    restore: Tensor


def fronts(parents: Sequence[int]) -> Fronts:
    """A tree, as the parents' indices with -1 for the root in any order, cut into fronts of equal depth."""
    depth: dict[int, int] = {}
    place: dict[int, int] = {}  # of a joint in its level
    for joint in range(len(parents)):
        path = [joint]
        while path[-1] not in depth and parents[path[-1]] >= 0:
            path.append(parents[path[-1]])
        for j in reversed(path):
            depth.setdefault(j, 0 if parents[j] < 0 else depth[parents[j]] + 1)
    levels: list[list[int]] = [[] for _ in range(max(depth.values()) + 1)]
    for joint in range(len(parents)):
        place[joint] = len(levels[depth[joint]])
        levels[depth[joint]].append(joint)
    order = torch.tensor([joint for level in levels for joint in level])
    above = tuple(torch.tensor([place[parents[joint]] for joint in level]) for level in levels[1:])
    return Fronts(torch.tensor(parents) + 1, order, above, order.argsort())


def turn_joint(rotations: Tensor, joint: int, turn: Tensor) -> Tensor:
    """rotations (..., J, 3, 3) with one joint's turned on by turn (..., 3, 3)."""
    before, after = rotations[..., :joint, :, :], rotations[..., joint + 1 :, :, :]
    return torch.cat([before, (turn @ rotations[..., joint, :, :]).unsqueeze(-3), after], -3)


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
    """rotations (B, J, 3, 3), joints at rest (B, J, 3) -> bones A_k as planes (B, 3, 4, J), joints (B, J, 3)"""
    if not traced() and kernels.serves(rotations, rest):
        return _Bones.apply(rotations, rest, tree)
    return _pose_bones(rotations, rest, tree)


def _pose_bones(rotations: Tensor, rest: Tensor, tree: Fronts) -> tuple[Tensor, Tensor]:
    offsets = rest - pad(rest, (0, 0, 1, 0)).index_select(1, tree.parents)
    turns, places = forward_kinematics(rotations, offsets, tree)
    bones = torch.cat([turns, places[..., None] - turns @ rest[..., None]], -1)
    return bones.permute(0, 2, 3, 1), places


class _Bones(Function):
    """`pose_bones` by kernels; its gradient is differentiable by way of the plain path."""

    @staticmethod
    def forward(ctx: Any, rotations: Tensor, rest: Tensor, tree: Fronts) -> tuple[Tensor, Tensor]:
        planes, places = chain_kernels.chain(rotations, rest, tree.parents, tree.order)
        ctx.tree = tree
        ctx.save_for_backward(rotations, rest, planes)
        return planes, places

    @staticmethod
    def backward(ctx: Any, d_planes: Tensor, d_places: Tensor) -> tuple[Tensor | None, ...]:
        rotations, rest, planes = ctx.saved_tensors
        if torch.is_grad_enabled():
            rotations, rest = (x if x.requires_grad else x.detach().requires_grad_() for x in (rotations, rest))
            posed = _pose_bones(rotations, rest, ctx.tree)
            return *torch.autograd.grad(posed, (rotations, rest), (d_planes, d_places), create_graph=True), None
        tree = ctx.tree.parents, ctx.tree.order
        return *chain_kernels.chain_backward(d_planes, d_places, rotations, rest, planes, *tree), None
