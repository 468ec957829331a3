"""The schedule: what of a model's nodes is known at build, and their weights as the engine reads them at every call.

Nodes of one level do not read one another, and those of equal kind and size form a group that can run as one. On a
GPU, and where they are small, their weights are stacked at every call; else each keeps its own as they are, so that
they stay in the cache and nothing is copied. Parameters are looked up in the modules at every call (`nodes.read`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from kinlmr.engine.cells import Cell
from kinlmr.engine.deferred import Weight, columns, shared
from kinlmr.engine.nodes import Node, dropout_rate, read

MEMORY = 4, 3, 2, 1, 0, 5  # (B, V, n, layers, vectors, H) to (vectors, layers, n, V, B, H), and back


@dataclass(frozen=True)
class Group:
    """Nodes that run as one: a single one, or n of one level that are alike in kind and sizes.

    gaps     by how many numbers each reads less than the one that reads most
    memory   of each its number among the nodes that have memory; none in the shape network
    members  its nodes as groups of one
    """

    cell: Cell | None
    nodes: tuple[Node, ...]
    gaps: tuple[int, ...]
    memory: tuple[int, ...]
    members: tuple[Group, ...] = ()


@dataclass(frozen=True)
class Schedule:
    """The nodes in the order they run, the widths of the estimate's slots, V, and F; the rest follows from these.

    single, alike   the groups: each node by itself; of each level, the nodes that are alike together
    memory_sizes    numbers in the memory of each node that has one; their sum is M
    hidden          the largest hidden size of these nodes
    largest         the most numbers in the weights of one of them, by which features and its memory are multiplied
    """

    nodes: tuple[Node, ...]
    widths: tuple[int, ...]
    iterations: int
    features: int
    single: tuple[Group, ...]
    alike: tuple[Group, ...]
    memory_sizes: tuple[int, ...]
    hidden: int
    largest: int

    def split_memory(self, groups: Sequence[Group], memory: Tensor) -> list[Tensor]:
        """memory (B, V, M) -> of each group (vectors, layers, [n,] V, B, H)."""
        nodes, found = memory.split(self.memory_sizes, -1), []
        for group in groups:
            cell, n = group.cell, len(group.nodes)
            if cell is None:
                found.append(memory.new_empty(1, 0, 0, 0, 0))
                continue
            rows = nodes[group.memory[0]] if n == 1 else torch.cat([nodes[i] for i in group.memory], -1)
            rows = rows.unflatten(-1, (n, group.nodes[0].layers, cell.vectors, group.nodes[0].hidden)).permute(MEMORY)
            found.append(rows.squeeze(2) if n == 1 else rows)
        return found

    def concat_memory(self, groups: Sequence[Group], memory: Sequence[Tensor]) -> Tensor:
        """The inverse of `split_memory`."""
        nodes: dict[int, Tensor] = {}
        for group, rows in zip(groups, memory, strict=True):
            if n := len(group.memory):
                rows = (rows.unsqueeze(2) if n == 1 else rows).permute(MEMORY).flatten(2)
                nodes.update(zip(group.memory, rows.chunk(n, -1), strict=True))
        return torch.cat([nodes[i] for i in range(len(nodes))], -1)


def compile_schedule(nodes: Sequence[Node], widths: Sequence[int], iterations: int, features: int) -> Schedule:
    """The schedule of nodes in the order they run, for F features and slots of these widths."""
    recurrent = [(node, node.cell) for node in nodes if node.cell]
    numbers = {node.name: i for i, (node, _) in enumerate(recurrent)}

    def group(nodes: Sequence[Node], members: tuple[Group, ...] = ()) -> Group:
        most = max(node.inputs for node in nodes)
        memory = tuple(numbers[node.name] for node in nodes if node.cell)
        return Group(nodes[0].cell, tuple(nodes), tuple(most - node.inputs for node in nodes), memory, members)

    single = [group([node]) for node in nodes]
    together: dict[Any, list[Group]] = {}
    for one in single:
        (node,) = one.nodes
        together.setdefault((node.level, node.cell, node.hidden, node.layers), []).append(one)
    alike = [group([one.nodes[0] for one in members], tuple(members)) for members in together.values()]
    return Schedule(
        tuple(nodes), tuple(widths), iterations, features, tuple(single), tuple(alike),
        memory_sizes=tuple(node.layers * cell.vectors * node.hidden for node, cell in recurrent),
        hidden=max(node.hidden for node, _ in recurrent),
        largest=max(cell.gates * node.hidden * (features + node.hidden) for node, cell in recurrent),
    )  # fmt: skip


class Packed(NamedTuple):
    """The weights of a group: of one node, or of n nodes with a leading axis n; F features, K other input numbers.

    input (G, F + K), bias (G)   of the first layer
    recurrent                    of each layer, the recurrent weight (G, H); none in the shape network
    inputs                       of each further layer, the input weight (G, H)
    head (O, H)                  from the last layer to the residual
    dropout                      rate after each layer of the shape network; 0 in a cell, and unless it trains
    """

    group: Group
    input: Tensor
    bias: Tensor
    recurrent: list[Weight]
    inputs: list[Weight]
    head: Weight
    dropout: float

    def columns(self, features: int) -> tuple[Weight, Weight]:
        """The input weight's columns that read the features (G, F), with the bias, and those that read the slots."""
        return columns(self.input, self.bias, self.input[..., :features], self.input[..., features:])


def pack(group: Group, modules: Mapping[str, nn.Module], frames: int, dtype: torch.dtype | None) -> Packed:
    """The current weights of a group for so many frames, cast to ``dtype`` if it is given: one node's as they are,
    several stacked. modules: by node name"""
    node, rows = group.nodes[0], [read(node, modules.get(node.name)) for node in group.nodes]
    if len(rows) == 1:
        tensors = rows[0]
    elif torch.is_grad_enabled():  # each by itself, so that no gradient is made for those that are frozen
        tensors = [tensor for parameter in zip(*rows, strict=True) for tensor in _stack([parameter])]
    else:
        tensors = _stack(list(zip(*rows, strict=True)))
    if dtype is not None:
        tensors = [tensor.to(dtype) for tensor in tensors]
    weight, bias, *rest = tensors
    pairs = list(zip(rest[::2], rest[1::2], strict=True))
    layers = node.layers if node.cell else 0
    recurrent = [shared(*pair, frames) for pair in pairs[:layers]]
    *inputs, head = [shared(*pair) for pair in pairs[layers:]]
    rate = 0.0 if node.cell else dropout_rate(modules[node.name], node.name)
    return Packed(group, weight, bias, recurrent, inputs, head, rate)


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
