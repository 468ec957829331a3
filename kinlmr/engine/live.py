"""One frame at a time from a snapshot of the weights: everything that stays from frame to frame is laid out once.

What a frame computes is `kinlmr.reference`'s. The n nodes of a level that are alike run as one; a single one has no
axis n. Weights lie as they are multiplied, (in, out). The features' projection is one product for all nodes; the
recurrent one, for all iterations. The estimate's numbers lie in the order of the groups, so that each group adds to one
slice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kinlmr.engine.cells import Cell
from kinlmr.engine.matmul import cast
from kinlmr.engine.schedule import Group, Schedule, pack


class Product(NamedTuple):
    """A weight ([n,] in, out) and its bias ([n,] 1, out)."""

    weight: Tensor
    bias: Tensor


class Unit(NamedTuple):
    """A group's nodes. reads (n K): the columns that they read; ``low`` to ``high``: those that they add to; picked: of
    their residuals (n O) those numbers, None if all; restarted: whether they add to the start estimate."""

    cell: Cell | None
    nodes: int
    reads: Tensor
    low: int
    high: int
    picked: Tensor | None
    restarted: bool
    slots: Tensor
    recurrent: list[Product]
    inputs: list[Product]
    head: Product


class Snapshot(NamedTuple):
    """features: of all nodes, (F, G ...) and bias, of ``gates`` numbers by unit; start (2 D + 1): what a frame begins
    from, the estimate twice, and a zero; restore (D): the columns in the order of the slots."""

    schedule: Schedule
    units: list[Unit]
    features: Tensor
    bias: Tensor
    gates: list[int]
    start: Tensor
    restore: Tensor


@torch.no_grad()
def snapshot(schedule: Schedule, modules: Mapping[str, nn.Module], start: Tensor) -> Snapshot:
    """Copies of the weights as they are, and of the start estimate (D). modules: by node name."""
    packs = [pack(group, modules, 1, None) for group in schedule.alike]
    begins = [sum(schedule.widths[:slot]) for slot in range(len(schedule.widths))]
    numbers = [range(begin, begin + width) for begin, width in zip(begins, schedule.widths, strict=True)]
    written = [node.slot for group in schedule.alike for node in group.nodes]
    order = [i for slot in (*written, *(s for s in range(len(numbers)) if s not in written)) for i in numbers[slot]]
    column = {number: k for k, number in enumerate(order)}  # of each of the D numbers
    size, device = len(order), start.device
    index = lambda numbers: torch.tensor(numbers, dtype=torch.int64, device=device)  # noqa: E731

    units, low = list[Unit](), 0
    for group, packed in zip(schedule.alike, packs, strict=True):
        reads = _reads(group, numbers, column, size)
        high = low + sum(node.outputs for node in group.nodes)
        most = max(node.outputs for node in group.nodes)
        picked = [k * most + i for k, node in enumerate(group.nodes) for i in range(node.outputs)]
        batch = len(group.nodes)
        weights = (*packed.recurrent, *packed.inputs, packed.head)
        products = [Product(_laid(w.weight), w.bias.detach().clone().unsqueeze(-2)) for w in weights]
        layers = len(packed.recurrent)
        units.append(
            Unit(
                group.cell, batch, index(reads), low, high, index(picked) if len(picked) < batch * most else None,
                group.nodes[0].restarted, _laid(packed.input[..., schedule.features :]), products[:layers],
                products[layers:-1], products[-1],
            )
        )  # fmt: skip
        low = high
    features = torch.cat([w.input[..., : schedule.features].reshape(-1, schedule.features) for w in packs]).mT
    bias, gates = torch.cat([w.bias.flatten() for w in packs]), [w.bias.numel() for w in packs]
    laid = start[index(order)]
    twice = torch.cat([laid, laid, laid.new_zeros(1)])
    restore = index([column[number] for number in range(size)])
    return Snapshot(schedule, units, features.contiguous(), bias, gates, twice, restore)


def _reads(group: Group, numbers: list[range], column: dict[int, int], size: int) -> list[int]:
    """The columns that a group's nodes read, one after another, each filled up with the zero's."""
    found = []
    for node, gap in zip(group.nodes, group.gaps, strict=True):
        for slot in node.reads:
            again = size if node.restarted and slot == node.slot else 0
            found += [again + column[i] for i in numbers[slot]]
        found += [2 * size] * gap
    return found


def _laid(weight: Tensor) -> Tensor:
    """([n,] out, in) -> ([n,] in, out), a copy."""
    return weight.detach().mT.clone(memory_format=torch.contiguous_format)


def frame(live: Snapshot, phi: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """A frame (B, F) and the memory (B, V, M) -> the last estimate (B, D), and the memory after."""
    schedule, wide = live.schedule, torch.promote_types(phi.dtype, torch.float32)
    work = cast(live.start, wide).expand(len(phi), -1).clone()
    projected = torch.addmm(live.bias, cast(phi, live.bias.dtype), live.features).split_with_sizes(live.gates, 1)
    given = [_by_node(x, unit) for x, unit in zip(projected, live.units, strict=True)]
    before = schedule.split_memory(schedule.alike, cast(memory, wide))
    recurrent = [
        [
            _by(p, h.flatten(-3, -2), wide).unflatten(-2, h.shape[-3:-1]).unbind(-3)
            for p, h in zip(unit.recurrent, m[0], strict=True)
        ]
        for unit, m in zip(live.units, before, strict=True)
    ]
    memories = [[list(layer.unbind(-3)) for layer in m.unbind(1)] for m in before]  # by unit, layer and iteration
    for v in range(schedule.iterations):
        for i, unit in enumerate(live.units):
            y = _add_product(given[i], _by_node(work.index_select(1, unit.reads), unit), unit.slots)
            if unit.cell is None:
                y = _by(unit.inputs[0], y.relu_(), y.dtype).relu_()
            for layer, states in enumerate(memories[i]):
                if layer:
                    y = _by(unit.inputs[layer - 1], y, wide)
                states[v] = unit.cell.step(cast(y, wide), recurrent[i][layer][v], states[v])  # type: ignore[union-attr]
                y = states[v][0]
            _add(work, unit, _by(unit.head, y, wide), live.start)
    after = [torch.stack([torch.stack(x, -3) for x in m], 1) if m else b for m, b in zip(memories, before, strict=True)]
    out = work.index_select(1, live.restore)
    return cast(out, phi.dtype), cast(schedule.concat_memory(schedule.alike, after), phi.dtype)


def _by_node(x: Tensor, unit: Unit) -> Tensor:
    """(B, n X) -> (n, B, X); of a single node as it is."""
    return x if unit.nodes == 1 else x.view(len(x), unit.nodes, -1).transpose(0, 1)


def _by(product: Product, x: Tensor, dtype: torch.dtype) -> Tensor:
    """x ([n,] rows, in) by a weight -> ([n,] rows, out)."""
    return cast(_add_product(product.bias, x, product.weight), dtype)


def _add_product(added: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """added ([n,] rows or 1, out) + x ([n,] rows, in) by weight ([n,] in, out)."""
    return (torch.addmm if weight.ndim == 2 else torch.baddbmm)(added, cast(x, weight.dtype), weight)


def _add(work: Tensor, unit: Unit, residual: Tensor, start: Tensor) -> None:
    """Add residuals ([n,] B, O) to a unit's columns of ``work`` (B, 2 D + 1)."""
    own = work[:, unit.low : unit.high]
    rows = residual if unit.nodes == 1 else residual.transpose(0, 1).reshape(len(work), -1)
    if unit.restarted:
        own.copy_(start[unit.low : unit.high])
    own.add_(rows if unit.picked is None else rows.index_select(1, unit.picked))
