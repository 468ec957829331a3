"""The schedule: the order in which a model's nodes run, and their weights as the engine reads them.

Nodes of one level do not read one another, and those of equal kind and size form a group that can run as one. On a
GPU, and where they are small, their weights are stacked at every call; else each keeps its own as they are, so that
they stay in the cache and nothing is copied. Parameters are looked up in the modules at every call: whatever a user
does to a module, the engine computes with what is there now.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from kinlmr.cells import Cell
from kinlmr.products import Weight, columns, shared

T = TypeVar("T", bound=nn.Module)
RECOMPUTES = BasePruningMethod, WeightNorm, SpectralNorm  # hooks that make a weight before a module's forward


class Node(NamedTuple):
    """A node of the graph: a recurrent cell with a head, or (``cell`` None) the shape network.

    name       its module's, from the model
    reads      the slots that it reads after the features
    slot       the slot that it adds a residual to
    restarted  whether it reads, and adds to, the start estimate in every iteration
    """

    name: str
    cell: Cell | None
    hidden: int
    layers: int
    reads: tuple[int, ...]
    slot: int
    restarted: bool


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

    def slots_columns(self) -> Tensor:
        """The input weight's columns that read the slots (G, K): contiguous if there are many features between."""
        weight = self.input[..., self.features :]
        return weight.contiguous() if self.features > 256 else weight

    def columns(self) -> tuple[Weight, Weight]:
        """The input weight's columns that read the features (G, F), with the bias, and those that read the slots."""
        return columns(self.input, self.bias, self.input[..., : self.features], self.slots_columns())


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
    nodes: Sequence[Node], modules: Sequence[nn.Module], features: int, frames: int, dtype: torch.dtype | None
) -> Packed:
    """The current weights of nodes for so many frames of F features, cast to ``dtype`` if it is given: one node's as
    they are, several stacked."""
    rows = [_parameters(node, module) for node, module in zip(nodes, modules, strict=True)]
    tensors = rows[0] if len(rows) == 1 else [_stack(column) for column in zip(*rows, strict=True)]
    if dtype is not None:
        tensors = [tensor.to(dtype) for tensor in tensors]
    weight, bias, *rest = tensors
    pairs = list(zip(rest[::2], rest[1::2], strict=True))
    layers = nodes[0].layers if nodes[0].cell else 0
    recurrent = [shared(*pair, frames) for pair in pairs[:layers]]
    *inputs, head = [shared(*pair) for pair in pairs[layers:]]
    rate = 0.0 if nodes[0].cell else _rate(modules[0], nodes[0].name)
    return Packed(tuple(nodes), features, weight, bias, recurrent, inputs, head, rate)


def _stack(rows: Sequence[Tensor]) -> Tensor:
    """Tensors (n, ...) as one, smaller ones filled up with zeros at the end of each axis."""
    shape = [max(sizes) for sizes in zip(*(row.shape for row in rows), strict=True)]
    gaps = [
        [x for size, own in zip(shape[::-1], row.shape[::-1], strict=True) for x in (0, size - own)] for row in rows
    ]
    return torch.stack([pad(row, gap) if any(gap) else row for row, gap in zip(rows, gaps, strict=True)])


def _parameters(node: Node, module: nn.Module) -> list[Tensor]:
    """A node's weights and biases: first layer, recurrent of every layer, input of every further layer, head."""
    _prepare(module, node.name)
    if node.cell is None:
        layers = [_layer(module, name, node.name, nn.Linear) for name in ("fc1", "fc2", "head")]
        return [tensor for layer in layers for tensor in (layer.weight, layer.bias)]
    rnn = _child(module, "rnn", node.name)
    _prepare(rnn, f"{node.name}.rnn")
    names = ["ih_l0", *(f"hh_l{i}" for i in range(node.layers)), *(f"ih_l{i}" for i in range(1, node.layers))]
    head = _layer(module, "head", node.name, nn.Linear)
    own = [getattr(rnn, f"{kind}_{name}") for name in names for kind in ("weight", "bias")]
    return [*own, head.weight, head.bias]


def _child(module: nn.Module, name: str, parent: str) -> nn.Module:
    try:
        return module._modules[name]  # type: ignore[return-value]
    except KeyError:
        raise ValueError(
            f"{parent} is a {type(module).__name__} without {name}; the engine reads its parameters and never calls "
            "it, so put in its place only a node of another LMR of the same sizes"
        ) from None


def _rate(module: nn.Module, name: str) -> float:
    """The rate of dropout in the shape network as it is now."""
    layer = _layer(module, "dropout", name, nn.Dropout)
    return layer.p if layer.training else 0.0


def _layer(module: nn.Module, name: str, parent: str, kind: type[T]) -> T:
    child = _child(module, name, parent)
    if not isinstance(child, kind) or type(child).forward is not kind.forward:
        raise ValueError(
            f"{parent}.{name} is a {type(child).__name__}; the engine reads the numbers of a torch.nn.{kind.__name__} "
            "and never calls the module, so what it does would be ignored"
        )
    _prepare(child, f"{parent}.{name}")
    return child


def _prepare(module: nn.Module, name: str) -> None:
    """Run the hooks that make weights; refuse those that would be ignored."""
    for hook in (
        *module._forward_pre_hooks.values(),
        *module._forward_hooks.values(),
        *module._backward_pre_hooks.values(),
        *module._backward_hooks.values(),
    ):
        if not isinstance(hook, RECOMPUTES):
            raise ValueError(
                f"{name} has a hook ({getattr(hook, '__qualname__', type(hook).__name__)}); the engine reads the "
                "parameters and never calls the module, so it would not run: put the hook (or wrapper) on the whole LMR"
            )
        hook(module, ())
