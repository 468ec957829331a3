"""The engine: runs a plan's nodes over frames and iterations.

The estimate of a frame is a list of slots, one per node: the parts in plan order, then shape, then camera. A node reads
the frame's features and some slots, and adds a residual to its own. This engine visits the nodes one after another,
each over all frames at once, V times; everything is causal, so that is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

Slots = tuple[Tensor, ...]


class Node(Protocol):
    """What the engine runs: a module with ``memory`` numbers of state per iteration (0 for one without)."""

    memory: int

    def __call__(self, seen: Tensor, memory: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """seen (B, T, what the node reads), memory (B, node.memory) -> residual (B, T, its slot), memory after."""


def run(
    nodes: Sequence[Node | None],
    reads: Sequence[Sequence[int]],
    frozen: Sequence[int],
    features: Tensor,
    start: Slots,
    memory: Tensor,
    lengths: Tensor | None = None,
) -> tuple[list[Slots], Tensor]:
    """Refine the start estimate of every frame, V times.

    nodes    in the order they run; None where a slot has no node, and stays as it starts
    reads    which slots each node reads after the features
    frozen   slots whose node reads their start value, and adds to it, in every iteration
    features (B, T, F); start: one tensor (width) per slot; memory (B, V, M); lengths (B) or None
    -> the slots (B, T, width) after each of the V iterations, and the memory (B, V, M) after each clip's last frame
    """
    slots = tuple(value.expand(*features.shape[:2], -1) for value in start)
    first, after, iterations = slots, [], []
    sizes = [node.memory for node in nodes if node is not None]
    for column in memory.unbind(1):
        before, kept, now = iter(column.split(sizes, -1)), [], list(slots)
        for own, node in enumerate(nodes):
            if node is None:
                continue
            if own in frozen:
                now[own] = first[own]
            seen = torch.cat([features, *(now[slot].to(features.dtype) for slot in reads[own])], -1)
            residual, end = node(seen, next(before), lengths)
            now[own] = now[own] + residual.to(now[own].dtype)
            kept.append(end)
        slots = tuple(now)
        iterations.append(slots)
        after.append(torch.cat(kept, -1))
    return iterations, torch.stack(after, 1)
