"""The schedule: which nodes run together, which columns of the estimate they read, and their weights as stacks.

Compiled once, from a plan's nodes. Nodes of one level (none reads another) and of one hidden size run as one batched
cell, so their parameters must be rows of one tensor. `Stack.lay` makes the parameters views of such a tensor, as
nn.RNN.flatten_parameters does: they stay real parameters, each with its own name, gradient and optimizer, and stacking
costs nothing. Parameters that were parted from it since (by functional_call, a parametrization, an assignment) are
stacked anew at every call, to the same result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import pad

from kinlmr.cells import KINDS

Path = tuple[str, ...]  # to a parameter: names of modules, and its own


class Group(NamedTuple):
    """Nodes whose weights are stacked: recurrent ones ("gru", "lstm") of one hidden size, or the shape network ("mlp").

    In M a group's memory is (vectors, rows, hidden), a row per layer of every node.
    """

    kind: str
    vectors: int
    rows: int
    hidden: int

    def saves(self, level: Level) -> int:
        """How many tensors of a level a tick leaves on the tape."""
        return 3 if self.kind == "mlp" else 1 + KINDS[self.kind].saves * len(level.rows)


class Level(NamedTuple):
    """n nodes of one group that do not read one another: one batch.

    own: their place in the group; rows, ups: in its memory, layer by layer, and in what leads from layer to layer.
    reads (n K), writes (n O): their columns, as a place in the index; anew: the columns that start anew each iteration.
    """

    group: int
    n: int
    own: slice
    rows: list[slice]
    ups: list[slice]
    reads: slice
    writes: slice
    anew: slice


class Weights(NamedTuple):
    """A group's stacks, of n nodes, G gate numbers (3 or 4 times H) and rows (n times layers).

    look (n, F + K, G) is what the first layer sees, hidden (rows, G, H) what it remembers, up (rows - n, G, H) leads
    from layer to layer, head (n, O, H) to the residual; biases (n, G) and so on. The shape network has fc1, none, fc2
    and its head.
    """

    look: Tensor
    look_bias: Tensor
    hidden: Tensor
    hidden_bias: Tensor
    up: Tensor
    up_bias: Tensor
    head: Tensor
    head_bias: Tensor


class Batch(NamedTuple):
    """A level at work: the columns that it reads, writes and starts anew, and its slices of its group's weights:

    slots (n, K, G), head (n, O, H) and its bias, and what leads from layer to layer.
    """

    level: Level
    group: Group
    reads: Tensor
    writes: Tensor
    anew: Tensor
    slots: Tensor
    head: Tensor
    head_bias: Tensor
    ups: list[tuple[Tensor, Tensor]]


class Schedule:
    """Nodes, compiled. ``index`` lists the columns of all levels; `run` takes it as a tensor."""

    def __init__(
        self,
        nodes: Sequence[Any],
        levels: Sequence[Sequence[int]],
        reads: Sequence[Sequence[int]],
        widths: Sequence[int],
        frozen: Sequence[int],
        iterations: int,
        paths: Sequence[Path],
    ) -> None:
        """nodes (None where a slot has none) and their levels, in the order they run; the slots that each reads after
        the features; the slots' widths; the slots ``frozen`` start anew in every iteration; the nodes' paths from the
        model. No module is kept: parameters are looked up where they are, however a model was changed."""
        self.iterations = iterations
        slots = [list(range(sum(widths[:i]), sum(widths[: i + 1]))) for i in range(len(widths))]
        index: list[int] = []

        def table(rows: list[list[int]]) -> slice:
            begin, longest = len(index), max(map(len, rows))
            index.extend(c for row in rows for c in row + [sum(widths)] * (longest - len(row)))
            return slice(begin, len(index))

        alike: dict[tuple[str, int], list[list[int]]] = {}  # every group's nodes, level by level
        self.levels: list[Level] = []
        for level in levels:
            here: dict[tuple[str, int], list[int]] = {}
            for n in level:
                if nodes[n] is not None:
                    here.setdefault((nodes[n].kind, nodes[n].hidden), []).append(n)
            for kind, own in here.items():
                batches = alike.setdefault(kind, [])
                first, count, leaves = sum(map(len, batches)), len(own), nodes[own[0]].leaves()
                rows, ups = (
                    [slice(first * d + i * count, first * d + (i + 1) * count) for i in range(d)]
                    for d in (len(leaves[2]), len(leaves[4]))
                )
                columns = (
                    table([[c for slot in reads[n] for c in slots[slot]] for n in own]),
                    table([slots[n] for n in own]),
                    table([[c for n in own if n in frozen for c in slots[n]]]),
                )
                place = list(alike).index(kind), count, slice(first, first + count), rows, ups
                self.levels.append(Level(*place, *columns))
                batches.append(own)
        self.index = index

        self.groups: list[Group] = []
        self.stacks: list[list[Stack]] = []
        for (name, hidden), batches in alike.items():
            trees = [
                [[[(*paths[n], *path) for path in leaf] for leaf in nodes[n].leaves()] for n in level]
                for level in batches
            ]
            self.stacks.append(
                [
                    Stack(
                        [node[leaf][i] for level in trees for i in range(len(level[0][leaf])) for node in level],
                        turned=leaf == 0,
                    )
                    for leaf in range(len(Weights._fields))
                ]
            )
            self.groups.append(Group(name, nodes[batches[0][0]].vectors, len(self.stacks[-1][2].paths), hidden))

    @property
    def memory(self) -> int:
        """M, how many numbers an iteration remembers."""
        return sum(group.vectors * group.rows * group.hidden for group in self.groups)

    def batches(self, index: Tensor, weights: Sequence[Weights], width: int) -> list[Batch]:
        """The levels, in order, at work: with the index as a tensor, every group's weights, features of ``width``."""
        found = []
        for level in self.levels:
            w, own = weights[level.group], level.own
            reads, writes, anew = (index[place] for place in (level.reads, level.writes, level.anew))
            inputs, outputs = len(reads) // level.n, len(writes) // level.n
            slices = w.look[own, width : width + inputs], w.head[own, :outputs], w.head_bias[own, :outputs]
            ups = [(w.up[up], w.up_bias[up]) for up in level.ups]
            found.append(Batch(level, self.groups[level.group], reads, writes, anew, *slices, ups))
        return found

    def weights(self, model: nn.Module) -> list[Tensor]:
        """Every group's stacks, one after another."""
        return [stack.tensor(model) for stacks in self.stacks for stack in stacks]

    def lay(self, model: nn.Module) -> None:
        """Lay the parameters side by side again, where something has parted them."""
        for stacks in self.stacks:
            for stack in stacks:
                stack.lay(model)


class Stack:
    """Parameters of one rank, one row each, in the upper left of zeros where others are larger.

    paths lead to each. ``turned`` ones, weights (out, in), lie as (in, out), so that what reads the first inputs and
    what reads the last are one block each.
    """

    def __init__(self, paths: list[Path], turned: bool) -> None:
        self.paths, self.turned = paths, turned
        self.laid: Tensor | None = None
        self.places: list[tuple[int, tuple[int, ...]]] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "laid": None, "places": []}

    def _holders(self, model: nn.Module) -> list[tuple[nn.Module, str]]:
        """The module that holds each parameter now, and the parameter's name."""
        found = []
        for *modules, name in self.paths:
            holder = model
            for module in modules:
                holder = holder._modules[module]  # type: ignore[assignment]
            found.append((holder, name))
        return found

    def lay(self, model: nn.Module) -> None:
        """Make the parameters views of one tensor, unless they are; with a shared or computed one, leave them."""
        holders = self._holders(model)
        parts = [getattr(*holder) for holder in holders]
        if not parts or self._lies(parts) or len({(p.dtype, p.device) for p in parts}) > 1:
            return
        if len(set(map(id, parts))) < len(parts) or not all(name in module._parameters for module, name in holders):
            return
        laid = parts[0].new_zeros(len(parts), *self._shape(parts)).detach()
        for part, corner in zip(parts, self._corners(laid, parts), strict=True):
            corner.copy_(part.detach())
            part.data = corner
        self.laid, self.places = laid, [(p.data_ptr(), p.stride()) for p in parts]

    def tensor(self, model: nn.Module) -> Tensor:
        """All parameters as one tensor (n, ...), through which gradients reach each."""
        parts = [getattr(*holder) for holder in self._holders(model)]
        if not parts:
            return torch.empty(0)
        traced = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
        if not traced and self._lies(parts):
            return _Laid.apply(self, *parts) if torch.is_grad_enabled() else self.laid  # type: ignore[return-value]
        shape = self._shape(parts)
        rows = [p.mT if self.turned else p for p in parts]
        gaps = [[x for i in range(row.ndim - 1, -1, -1) for x in (0, shape[i] - row.shape[i])] for row in rows]
        return torch.stack([pad(row, gap) if any(gap) else row for row, gap in zip(rows, gaps, strict=True)])

    def _shape(self, parts: list[Tensor]) -> list[int]:
        shape = [max(sizes) for sizes in zip(*(p.shape for p in parts), strict=True)]
        return shape[::-1] if self.turned else shape

    def _corners(self, stack: Tensor, parts: list[Tensor] | tuple[Tensor, ...]) -> list[Tensor]:
        """Every parameter's place in a stack."""
        rows = [row.mT if self.turned else row for row in stack]
        return [row[tuple(map(slice, p.shape))] for row, p in zip(rows, parts, strict=True)]

    def _lies(self, parts: list[Tensor]) -> bool:
        """Whether all parameters are where `lay` put them."""
        laid = self.laid
        return laid is not None and all(
            p.data_ptr() == place and p.stride() == stride and p.dtype is laid.dtype
            for p, (place, stride) in zip(parts, self.places, strict=True)
        )


class _Laid(Function):
    """The stack itself, as a function of the parameters that lie in it."""

    @staticmethod
    def forward(ctx: Any, stack: Stack, *parts: Tensor) -> Tensor:
        ctx.stack = stack
        ctx.save_for_backward(*parts)  # so that an edit before backward is noticed
        return stack.laid.detach()  # type: ignore[union-attr]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.stack._corners(gradient, ctx.saved_tensors)
