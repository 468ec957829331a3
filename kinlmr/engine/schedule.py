"""The schedule: the order in which a model's nodes run, and their weights as the engine reads them.

Nodes of one level do not read one another, and those of equal kind and size form a group that can run as one. On a
GPU, and where they are small, their weights are stacked at every call; else each keeps its own as they are, so that
they stay in the cache and nothing is copied. Parameters are looked up in the modules at every call (`nodes.read`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import pad

from kinlmr.engine.deferred import Weight, columns, shared
from kinlmr.engine.nodes import Node, dropout_rate, read


class Packed(NamedTuple):
    """The weights of one node, or of n nodes with a leading axis n; F features and K other input numbers.

    input (G, F + K), bias (G)   of the first layer
    recurrent                    of each layer, the recurrent weight (G, H); none in the shape network
    inputs                       of each further layer, the input weight (G, H)
    head (O, H)                  from the last layer to the residual
    dropout                      rate after each layer of the shape network; 0 in a cell, and unless it trains
    """

    nodes: tuple[Node, ...]
    features: int
    input: Tensor
    bias: Tensor
    recurrent: list[Weight]
    inputs: list[Weight]
    head: Weight
    dropout: float

    def columns(self) -> tuple[Weight, Weight]:
        """The input weight's columns that read the features (G, F), with the bias, and those that read the slots."""
        return columns(self.input, self.bias, self.input[..., : self.features], self.input[..., self.features :])


class Schedule(NamedTuple):
    """Nodes by level, in the order they run; the widths of the estimate's slots; V."""

    levels: tuple[tuple[Node, ...], ...]
    widths: tuple[int, ...]
    iterations: int

    def groups(self, together: bool) -> list[list[Node]]:
        """Nodes that run as one: each alone, or ``together`` those of a level with equal kind and sizes."""
        found: list[list[Node]] = []
        for level in self.levels:
            alike: dict[Any, list[Node]] = {}
            for node in level:
                key = (node.cell, node.hidden, node.layers) if together else node.name
                alike.setdefault(key, []).append(node)
            found += alike.values()
        return found

    def recurrent(self) -> list[Node]:
        """The nodes that have memory, in order."""
        return [node for level in self.levels for node in level if node.cell]

    def memory_sizes(self) -> list[int]:
        """Numbers in each recurrent node's memory; their sum is M."""
        return [n.layers * n.cell.vectors * n.hidden for n in self.recurrent() if n.cell]

    def split_memory(self, groups: list[list[Node]], memory: Tensor) -> list[Tensor]:
        """memory (B, V, M) -> of each group (vectors, layers, [n,] V, B, H)."""
        shares = dict(zip(self.recurrent(), memory.split(self.memory_sizes(), -1), strict=True))
        found = []
        for nodes in groups:
            cell, layers, n = nodes[0].cell, nodes[0].layers, len(nodes)
            if cell is None:
                found.append(memory.new_empty(1, 0, 0, 0, 0))
                continue
            rows = shares[nodes[0]] if n == 1 else torch.cat([shares[node] for node in nodes], -1)
            rows = rearrange(rows, "b v (n l k h) -> k l n v b h", n=n, l=layers, k=cell.vectors)
            found.append(rows.squeeze(2) if n == 1 else rows)
        return found

    def join_memory(self, groups: list[list[Node]], memory: list[Tensor]) -> Tensor:
        """The inverse of `split_memory`."""
        shares: dict[Node, Tensor] = {}
        for nodes, rows in zip(groups, memory, strict=True):
            if nodes[0].cell:
                rows = rearrange(rows.unsqueeze(2) if len(nodes) == 1 else rows, "k l n v b h -> b v (n l k h)")
                shares.update(zip(nodes, rows.chunk(len(nodes), -1), strict=True))
        return torch.cat([shares[node] for node in self.recurrent()], -1)


def pack(
    nodes: Sequence[Node], modules: Sequence[nn.Module | None], features: int, frames: int, dtype: torch.dtype | None
) -> Packed:
    """The current weights of nodes for so many frames of F features, cast to ``dtype`` if it is given: one node's as
    they are, several stacked."""
    rows = [read(node, module) for node, module in zip(nodes, modules, strict=True)]
    parameters = list(zip(*rows, strict=True))
    if len(rows) == 1:
        tensors = rows[0]
    elif torch.is_grad_enabled():  # each by itself, so that no gradient is made for those that are frozen
        tensors = [tensor for parameter in parameters for tensor in _stack([parameter])]
    else:
        tensors = _stack(parameters)
    if dtype is not None:
        tensors = [tensor.to(dtype) for tensor in tensors]
    weight, bias, *rest = tensors
    pairs = list(zip(rest[::2], rest[1::2], strict=True))
    layers = nodes[0].layers if nodes[0].cell else 0
    recurrent = [shared(*pair, frames) for pair in pairs[:layers]]
    *inputs, head = [shared(*pair) for pair in pairs[layers:]]
    rate = 0.0 if nodes[0].cell else dropout_rate(modules[0], nodes[0].name)  # type: ignore[arg-type]
    return Packed(tuple(nodes), features, weight, bias, recurrent, inputs, head, rate)


def _stack(parameters: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Of each parameter the tensors of n nodes (...) as one (n, ...), smaller ones filled up with zeros at the end of
    each axis. All are parts of one tensor, since one large piece of memory costs less than many."""
    shapes = [tuple(map(max, zip(*(x.shape for x in rows), strict=True))) for rows in parameters]
    filled = [_fill(x, shape).flatten() for rows, shape in zip(parameters, shapes, strict=True) for x in rows]
    nodes = len(parameters[0])
    found = torch.cat(filled).split([nodes * math.prod(shape) for shape in shapes])
    return [x.view(nodes, *shape) for x, shape in zip(found, shapes, strict=True)]


def _fill(x: Tensor, shape: Sequence[int]) -> Tensor:
    """x with zeros at the end of each axis, up to this shape."""
    gaps = [n for size, own in zip(reversed(shape), reversed(x.shape), strict=True) for n in (0, size - own)]
    return pad(x, gaps) if any(gaps) else x
