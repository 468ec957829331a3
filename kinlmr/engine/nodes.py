"""A model's nodes: their records, the modules that hold their parameters, and how the engine reads these.

The engine never calls the modules. Whatever a user does to one, it computes with the parameters that are there now.
What does not fit is refused, and so is what would be ignored, as far as a module shows it (hooks, a forward).
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from kinlmr.engine.cells import Cell

T = TypeVar("T", bound=nn.Module)
ONLY = (
    "the engine reads a node's parameters and never calls it, so put in its place only a node of another LMR of the "
    "same sizes"
)
RECOMPUTES = BasePruningMethod, WeightNorm, SpectralNorm  # hooks that make a weight before a module's forward


class Parameters(NamedTuple):
    """The weights and biases that a child of a node's module holds: their names and shapes."""

    child: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Node:
    """A node of the graph: a recurrent cell with a head, or (``cell`` None) the shape network.

    name        its module's, from the model
    level       nodes of one level do not read one another
    inputs      F + K, how many numbers it reads: the features, and the slots ``reads``
    slot        the slot that it adds a residual to, of so many ``outputs``
    restarted   whether it reads, and adds to, the start estimate in every iteration
    parameters  its module's, in the engine's order: first layer, recurrent of every layer, input of every further
                layer, head
    """

    name: str
    level: int
    cell: Cell | None
    hidden: int
    layers: int
    inputs: int
    reads: tuple[int, ...]
    slot: int
    outputs: int
    restarted: bool
    parameters: tuple[Parameters, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", _parameters(self))


def _parameters(node: Node) -> tuple[Parameters, ...]:
    head = Parameters("head", _pair("", node.outputs, node.hidden))
    if node.cell is None:
        fc1, fc2 = _pair("", node.hidden, node.inputs), _pair("", node.hidden, node.hidden)
        return Parameters("fc1", fc1), Parameters("fc2", fc2), head
    gates = node.cell.gates * node.hidden
    further = [*(f"_hh_l{i}" for i in range(node.layers)), *(f"_ih_l{i}" for i in range(1, node.layers))]
    pairs = [_pair("_ih_l0", gates, node.inputs), *(_pair(end, gates, node.hidden) for end in further)]
    return Parameters("rnn", tuple(itertools.chain(*pairs))), head


def _pair(end: str, rows: int, columns: int) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return (f"weight{end}", (rows, columns)), (f"bias{end}", (rows,))


class RecurrentNode(nn.Module):
    """A recurrent node: ``rnn``, with the parameters of torch.nn.GRU (or LSTM, RNN), and a linear ``head``, which makes
    the residual. ``rnn`` is a ParameterDict because torch.compile refuses models that hold an nn.GRU.
    """

    def __init__(self, node: Node) -> None:
        super().__init__()
        bound, parameters = node.hidden**-0.5, OrderedDict()  # nn.ParameterDict would sort a plain dict
        shapes = dict(node.parameters[0].shapes)
        for layer in range(node.layers):  # in torch's order
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                value = torch.empty(shapes[f"{name}_l{layer}"])
                parameters[f"{name}_l{layer}"] = nn.Parameter(nn.init.uniform_(value, -bound, bound))
        self.rnn = nn.ParameterDict(parameters)
        self.head = _small(nn.Linear(node.hidden, node.outputs))


class ShapeNode(nn.Module):
    """The shape node, without memory: two layers, ReLU and dropout between, and a head."""

    def __init__(self, node: Node, dropout: float) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(node.inputs, node.hidden), nn.Linear(node.hidden, node.hidden)
        self.head = _small(nn.Linear(node.hidden, node.outputs))
        self.dropout = nn.Dropout(dropout)


def _small(head: nn.Linear) -> nn.Linear:
    """A head with small weights, so that an untrained model answers near its start estimate."""
    nn.init.xavier_uniform_(head.weight, gain=0.1)
    nn.init.zeros_(head.bias)
    return head


def read(node: Node, module: nn.Module | None) -> list[Tensor]:
    """A node's parameters as they are now."""
    if module is None:
        raise ValueError(f"{node.name} is gone; {ONLY}")
    _prepare(module, node.name)
    found: list[Tensor] = []
    for name, shapes in node.parameters:
        child = _rnn(node, module) if name == "rnn" else _layer(module, name, node.name, nn.Linear)
        held = child._parameters
        for key, shape in shapes:
            tensor = held.get(key)
            if tensor is None:  # it is computed, as by a parametrization
                tensor = getattr(child, key, None)
            if tensor is None or tensor.shape != shape:
                seen = "is not there" if tensor is None else f"has shape {tuple(tensor.shape)}"
                raise ValueError(f"{node.name}.{name}.{key} {seen}, expected {shape}; {ONLY}")
            found.append(tensor)
    if type(module).forward is not nn.Module.forward:
        raise ValueError(f"{node.name} is a {type(module).__name__} with a forward, which would not run; {ONLY}")
    return found


def _rnn(node: Node, module: nn.Module) -> nn.Module:
    rnn = _child(module, "rnn", node.name)
    _prepare(rnn, node.name, "rnn")
    more = f"weight_hh_l{node.layers}", "weight_hh_l0_reverse"
    for name in rnn._parameters:
        if name.startswith(more):
            raise ValueError(f"{node.name}.rnn has {name}, more layers or directions than the model; {ONLY}")
    return rnn


def _child(module: nn.Module, name: str, parent: str) -> nn.Module:
    child = module._modules.get(name)
    if child is None:
        raise ValueError(f"{parent} is a {type(module).__name__} without {name}; {ONLY}")
    return child


def dropout_rate(module: nn.Module, name: str) -> float:
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
    _prepare(child, parent, name)
    return child


def _prepare(module: nn.Module, *path: str) -> None:
    """Run the hooks that make weights; refuse those that would be ignored, and a ``forward`` put in its place."""
    if "forward" in module.__dict__:
        raise ValueError(
            f"{'.'.join(path)} has a forward of its own; the engine reads the parameters and never calls the module, "
            "so it would not run: wrap the whole LMR"
        )
    kinds = module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks
    if not any(kinds):
        return
    for hook in itertools.chain(*(hooks.values() for hooks in kinds)):
        if not isinstance(hook, RECOMPUTES):
            raise ValueError(
                f"{'.'.join(path)} has a hook ({getattr(hook, '__qualname__', type(hook).__name__)}); the engine reads "
                "the parameters and never calls the module, so it would not run: put the hook (or wrapper) on the "
                "whole LMR"
            )
        hook(module, ())
