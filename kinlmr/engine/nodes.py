"""A model's nodes: their records, the modules that hold their parameters, and how the engine reads these.

The engine never calls the modules. Whatever a user does to one, it computes with the parameters that are there now.
What does not fit is refused, and so is what would be ignored, as far as a module shows it (hooks, a forward).
"""

from __future__ import annotations

from collections import OrderedDict
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


class Parameter(NamedTuple):
    """A parameter of a node: the module of the node that holds it, its name there, and its shape."""

    module: str
    name: str
    shape: tuple[int, ...]


class Node(NamedTuple):
    """A node of the graph: a recurrent cell with a head, or (``cell`` None) the shape network.

    name        its module's, from the model
    parameters  its module's, in the engine's order (`parameters`)
    reads       the slots that it reads after the features
    slot        the slot that it adds a residual to
    restarted   whether it reads, and adds to, the start estimate in every iteration
    """

    name: str
    cell: Cell | None
    hidden: int
    layers: int
    parameters: tuple[Parameter, ...]
    reads: tuple[int, ...]
    slot: int
    restarted: bool


class RecurrentNode(nn.Module):
    """A recurrent node: ``rnn``, with the parameters of torch.nn.GRU (or LSTM, RNN), and a linear ``head``, which makes
    the residual. ``rnn`` is a ParameterDict because torch.compile refuses models that hold an nn.GRU.
    """

    def __init__(self, cell: Cell, reads: int, hidden: int, layers: int, writes: int) -> None:
        super().__init__()
        bound, parameters = hidden**-0.5, OrderedDict()  # nn.ParameterDict would sort a plain dict
        for layer in range(layers):
            for name, *size in (
                ("weight_ih", hidden if layer else reads),
                ("weight_hh", hidden),
                ("bias_ih",),
                ("bias_hh",),
            ):
                value = torch.empty(cell.gates * hidden, *size)
                parameters[f"{name}_l{layer}"] = nn.Parameter(nn.init.uniform_(value, -bound, bound))
        self.rnn = nn.ParameterDict(parameters)
        self.head = _small(nn.Linear(hidden, writes))


class ShapeNode(nn.Module):
    """The shape node, without memory: two layers, ReLU and dropout between, and a head."""

    def __init__(self, reads: int, hidden: int, writes: int, dropout: float) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(reads, hidden), nn.Linear(hidden, hidden)
        self.head = _small(nn.Linear(hidden, writes))
        self.dropout = nn.Dropout(dropout)


def _small(head: nn.Linear) -> nn.Linear:
    """A head with small weights, so that an untrained model answers near its start estimate."""
    nn.init.xavier_uniform_(head.weight, gain=0.1)
    nn.init.zeros_(head.bias)
    return head


def parameters(cell: Cell | None, hidden: int, layers: int, inputs: int, writes: int) -> tuple[Parameter, ...]:
    """A node's weights and biases: first layer, recurrent of every layer, input of every further layer, head."""
    width, places = hidden, [("fc1", ""), ("fc2", "")]
    if cell:
        names = ["_ih_l0", *(f"_hh_l{i}" for i in range(layers)), *(f"_ih_l{i}" for i in range(1, layers))]
        width, places = cell.gates * hidden, [("rnn", name) for name in names]
    shapes = [(width, inputs), *[(width, hidden)] * (len(places) - 1), (writes, hidden)]
    return tuple(
        Parameter(module, kind + name, size)
        for (module, name), shape in zip([*places, ("head", "")], shapes, strict=True)
        for kind, size in (("weight", shape), ("bias", shape[:1]))
    )


def read(node: Node, module: nn.Module | None) -> list[Tensor]:
    """A node's parameters as they are now."""
    if module is None:
        raise ValueError(f"{node.name} is gone; {ONLY}")
    _prepare(module, node.name)
    modules: dict[str, nn.Module] = {}
    found: list[Tensor] = []
    for child, name, shape in node.parameters:
        if child not in modules:
            modules[child] = _rnn(node, module) if child == "rnn" else _layer(module, child, node.name, nn.Linear)
        tensor = modules[child]._parameters.get(name)
        if tensor is None:  # it is computed, as by a parametrization
            tensor = getattr(modules[child], name, None)
        if tensor is None or tensor.shape != shape:
            seen = "is not there" if tensor is None else f"has shape {tuple(tensor.shape)}"
            raise ValueError(f"{node.name}.{child}.{name} {seen}, expected {shape}; {ONLY}")
        found.append(tensor)
    if type(module).forward is not nn.Module.forward:
        raise ValueError(f"{node.name} is a {type(module).__name__} with a forward, which would not run; {ONLY}")
    return found


def _rnn(node: Node, module: nn.Module) -> nn.Module:
    rnn = _child(module, "rnn", node.name)
    _prepare(rnn, f"{node.name}.rnn")
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
    _prepare(child, f"{parent}.{name}")
    return child


def _prepare(module: nn.Module, name: str) -> None:
    """Run the hooks that make weights; refuse those that would be ignored, and a ``forward`` put in its place."""
    if "forward" in module.__dict__:
        raise ValueError(
            f"{name} has a forward of its own; the engine reads the parameters and never calls the module, so it would "
            "not run: wrap the whole LMR"
        )
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
