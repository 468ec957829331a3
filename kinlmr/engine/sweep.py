"""The engine: computes what `kinlmr.reference` computes, fast: iterations are staggered by blocks of frames.

A node (section 3.2 of the paper) reads the frame's features and slots of its estimate, and adds a residual to its own
slot. Everything is causal: of other frames an iteration needs only its own memory of the frame before. Therefore the V
iterations can work at the same time, each one block of C frames behind the last. Which frame each iteration works on at
every tick, for T = 4, V = 3 and C = 1:

    tick          0   1   2   3   4   5
    iteration 0   0   1   2   3
    iteration 1       0   1   2   3
    iteration 2           0   1   2   3

With C = 2 the columns are blocks: 0-1, 2-3, and there are 4 ticks. In general there are ceil(T / C) + V - 1.

A block's inputs are known before a cell starts, so their share of its gates is one product for all C frames of the A
iterations at work and of B clips; only the recurrent weights are used frame by frame. C = 1 lets the iterations overlap
most, C = T not at all. One frame alone, as in a stream, needs no ticks (`_frame`).

Rows of a tick lie as (C, A, B), the highest iteration, which works on the oldest block, first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import dropout, pad

from kinlmr.engine.cells import Cell
from kinlmr.engine.deferred import Weight, gates, linear, scan
from kinlmr.engine.matmul import cast, gathered, product
from kinlmr.engine.nodes import Node
from kinlmr.engine.schedule import Packed, Schedule, pack
from kinlmr.kernels import traced

ROWS = 64  # rows of a block (frames times clips) above which its products get no faster
WORK = 2**24  # rows of a block times H^2 below which its calls take longer than its products
SMALL = 2**21  # numbers in a node's first weights, times clips (at least 4), up to which nodes are stacked on a CPU
CHUNK = 256  # rows for which the features' share of the gates is computed at once, if a block is not larger


def choose_block(batch: int, frames: int, hidden: int, training: bool = False, cuda: bool = False) -> int:
    """B clips of T frames -> C, such that blocks have equal lengths and the last lacks few frames.

    Long blocks keep a cell's weights in the cache and make products large. Short ones let the iterations overlap, and
    need less memory: without gradients blocks are half as long. Where cells are small, and on a GPU, the number of
    calls counts more, and blocks are longer.

    >>> choose_block(1, 300, 512), choose_block(32, 16, 512), choose_block(32, 16, 512, training=True)
    (30, 2, 4)
    >>> choose_block(32, 16, 128), choose_block(1, 1, 128)
    (16, 1)
    >>> choose_block(32, 16, 512, cuda=True), choose_block(1, 300, 512, cuda=True)
    (16, 60)
    """
    twice = 2 if training else 1
    rows = max(ROWS, WORK // hidden**2) * twice
    longest = min(max(16, 2 * math.isqrt(frames)), max(1, rows // max(batch, 1)))
    longest = 4 * math.isqrt(frames) if cuda else longest
    blocks = -(-frames // longest)
    block, shorter = -(-frames // blocks), -(-frames // (blocks + 1))
    return shorter if -frames % shorter < -frames % block else block


def run(
    schedule: Schedule, modules: dict[str, nn.Module], features: Tensor, start: Tensor, memory: Tensor,
    lengths: Tensor | None, every: bool = False, block: int | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Refine the start estimate of every frame, V times.

    modules by node name; features (B, T, F); start (D); memory (B, V, M); lengths (B), the frames of each clip after
    which its memory is taken, None: all T; every: return all iterations; block: C, None to choose it
    -> estimates (V, B, T, D) after every iteration, or (1, B, T, D) after the last; memory (B, V, M)

    Products are computed in the weights' type, or in autocast's; the estimate and memory in float32 at least. Results
    have the start estimate's type.
    """
    (_, frames, width), device = features.shape, features.device.type
    wide = torch.promote_types(start.dtype, torch.float32)
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    alone, stacked = frames == 1 and lengths is None, _stacked(features, schedule.recurrent())
    groups = schedule.groups(together=alone or stacked)
    packs = [
        [
            pack(nodes, [modules.get(node.name) for node in nodes], width, frames, dtype)
            for nodes in ([g] if stacked else [[n] for n in g])
        ]
        for g in groups
    ]
    before = schedule.split_memory(groups, memory.to(wide))
    with torch.autocast(device, enabled=False):
        if alone:
            out, after = _frame(schedule, packs, features[:, 0], start.to(wide), before, every)
        else:
            single = [weights for (weights,) in packs]
            out, after = _sweep(schedule, single, features, start.to(wide), before, lengths, every, block)
    return out.to(start.dtype), schedule.join_memory(groups, after).to(start.dtype)


def _stacked(features: Tensor, nodes: Sequence[Node]) -> bool:
    """Whether nodes of one level that are alike run as one, their weights stacked: on a GPU, for larger products; on a
    CPU where so little is computed that the number of calls counts more than the copies."""
    batch, frames, width = features.shape
    if features.is_cuda or frames == 1:
        return features.is_cuda
    numbers = max(node.cell.gates * node.hidden * (width + node.hidden) for node in nodes if node.cell)
    return numbers * (4 if traced() else max(4, batch)) <= SMALL  # a traced batch may be a symbol


def _frame(
    schedule: Schedule, packs: list[list[Packed]], phi: Tensor, start: Tensor, before: list[Tensor], every: bool
) -> tuple[Tensor, list[Tensor]]:
    """One frame (B, F), as the paper writes it; results as of `_sweep`. packs: of each group, one or one of each node.

    Every weight is read from main memory once. The memories' share of the gates does not depend on the estimate, so it
    is one product for all iterations. The first iteration multiplies by the whole input weight. The others multiply
    only the change of the slots since then, by the slots' columns, which are in the cache.
    """
    wide, first, last = start.dtype, start.split(schedule.widths), schedule.iterations - 1
    slots = [slot.expand(phi.shape[0], -1) for slot in first]
    memories = [[list(layer.unbind(-3)) for layer in m.unbind(1)] for m in before]  # by group, layer and iteration
    recurrent = [
        [
            _join([linear(row, w.recurrent[layer]) for w, row in _apart(group, rows.flatten(-3, -2))])
            .to(wide).unflatten(-2, rows.shape[-3:-1]).unbind(-3)
            for layer, rows in enumerate(m[0])
        ]
        for group, m in zip(packs, before, strict=True)
    ]  # fmt: skip
    firsts: dict[str, tuple[Tensor, Tensor, Tensor]] = {}  # the first iteration's gates and slots, the slots' columns
    estimates = []
    for v in range(schedule.iterations):
        for group, shares, memory in zip(packs, recurrent, memories, strict=True):
            parts = []
            for w in group:
                x, dtype = _inputs(slots, first, w, (phi,) if v == 0 else ()), w.input.dtype
                if v == 0:
                    parts.append(product(cast(x, dtype), w.input, w.bias))
                    if last > 0:
                        columns = gathered(w.input[..., w.features :], phi.shape[0])
                        firsts[w.nodes[0].name] = parts[-1], x[..., w.features :], columns
                else:
                    y_first, x_first, columns = firsts[w.nodes[0].name]
                    parts.append(product(cast(x - x_first, dtype), columns, y_first))
            y, cell = _join(parts), group[0].nodes[0].cell
            if cell is None:
                y = _shape_network(y, group[0])
            for layer, states in enumerate(memory):
                if layer:
                    y = _join([linear(row, w.inputs[layer - 1]) for w, row in _apart(group, y)])
                states[v] = cell.step(cast(y, wide), shares[layer][v], states[v])  # type: ignore[union-attr]
                y = states[v][0]
            for w, row in _apart(group, y):
                _add(cast(linear(row, w.head), wide), slots, w.nodes)
        if every or v == last:
            estimates.append(torch.cat(slots, -1))
    after = [
        torch.stack([torch.stack(states, -3) for states in m], 1) if m else b
        for m, b in zip(memories, before, strict=True)
    ]
    return torch.stack(estimates)[:, :, None], after


def _join(parts: list[Tensor]) -> Tensor:
    """The results of a group's n weights as one (n, rows, ...); that of one as it is."""
    return parts[0] if len(parts) == 1 else torch.stack(parts)


def _apart(group: list[Packed], rows: Tensor) -> Iterator[tuple[Packed, Tensor]]:
    """Each of a group's weights with its rows: the inverse of `_join`."""
    return zip(group, [rows] if len(group) == 1 else rows.unbind(0), strict=True)


def _sweep(
    schedule: Schedule, packs: list[Packed], features: Tensor, start: Tensor, before: list[Tensor],
    lengths: Tensor | None, every: bool, block: int | None,
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """before: each pack's memory (vectors, layers, [n,] V, B, H) -> estimates (V or 1, B, T, D), memory after."""
    batch, frames, _ = features.shape
    last = schedule.iterations - 1
    hidden = max(node.hidden for node in schedule.recurrent())
    clips = 1 if traced() else batch  # which may be a symbol
    block = block or choose_block(clips, frames, hidden, torch.is_grad_enabled(), features.is_cuda)
    block = min(block, frames)
    blocks = -(-frames // block)
    phi = rearrange(features, "b t f -> t b f")
    if blocks * block > frames:
        phi = pad(phi, (0, 0, 0, 0, 0, blocks * block - frames))
    first, first_slots = start.expand(block, 1, batch, -1), start.split(schedule.widths)
    seen, columns = zip(*(w.columns() for w in packs), strict=True)  # of the input weights, by features and by slots
    entering = _shares(seen, phi, block)

    limits = features.new_full((batch,), frames, dtype=torch.int64) if lengths is None else lengths
    estimate = first[:, :0]  # of the blocks at work (C, A, B, D)
    shares: list[list[Tensor]] = []  # of the blocks at work, by pack: the features' share ([n,] C, B, G)
    memory = [m[..., :0, :, :] for m in before]  # of the iterations at work (vectors, layers, [n,] A, B, H)
    ended: list[list[Tensor]] = [[] for _ in packs]
    out: list[list[Tensor]] = [[] for _ in range(schedule.iterations)]
    for tick in range(blocks + last):
        if tick < blocks:  # a block enters, for iteration 0
            estimate = torch.cat([estimate, first], 1)
            shares.append(next(entering))
        high, low = min(last, tick), max(0, tick - blocks + 1)
        active = range(high, low - 1, -1)
        if tick <= last:  # iteration `tick` starts
            memory = [torch.cat([b[..., tick : tick + 1, :, :], m], -3) for b, m in zip(before, memory, strict=True)]
        begins = [(tick - v) * block for v in active]
        whole = lengths is None and begins[-1] + block <= frames
        ends = None if whole else torch.cat([(limits - begin).clamp(0, block) for begin in begins])  # (A B)

        slots = [slot.flatten(0, 2) for slot in estimate.split(schedule.widths, -1)]
        for i, w in enumerate(packs):
            y = gates([share[i] for share in shares], _inputs(slots, first_slots, w), columns[i])
            if w.nodes[0].cell is None:
                top = _shape_network(y, w)
            else:
                top, memory[i] = _recurrent(w.nodes[0].cell, cast(y, start.dtype), w, memory[i], ends, block)
            _add(cast(linear(top, w.head), start.dtype), slots, w.nodes)
        estimate = torch.cat(slots, -1).unflatten(0, (block, len(active), batch))

        for v in active if every else active[:1] if high == last else ():
            out[v].append(estimate[:, high - v])
        if high == last:  # a block leaves, refined V times
            estimate = estimate[:, 1:]
            shares = shares[1:]
        if tick >= blocks - 1:  # iteration `low` has seen the last frame
            for i, m in enumerate(memory):
                ended[i].append(m[..., -1:, :, :])
                memory[i] = m[..., :-1, :, :]
    kept = [torch.cat(ticks)[:frames] for ticks in out if ticks]
    return rearrange(torch.stack(kept), "v t b d -> v b t d"), [torch.cat(m, -3) for m in ended]


def _shares(weights: Sequence[Weight], phi: Tensor, block: int) -> Iterator[list[Tensor]]:
    """For each block the features' share of every node's gates ([n,] C, B, G), computed for some blocks at once."""
    frames, batch, _ = phi.shape
    chunk = block * max(1, CHUNK // max(1, block * batch))
    for begin in range(0, frames, chunk):
        rows = phi[begin : begin + chunk]
        x, form = rows.flatten(0, 1), (len(rows) // block, block, batch)
        tables = [linear(x.expand(*w.weight.shape[:-2], -1, -1), w).unflatten(-2, form).unbind(-4) for w in weights]
        yield from map(list, zip(*tables, strict=True))


def _inputs(slots: list[Tensor], start: Sequence[Tensor], weights: Packed, prefix: tuple[Tensor, ...] = ()) -> Tensor:
    """What nodes read, ``prefix`` first: ([n,] rows, K). Slots that restart in every iteration do so in ``slots``."""
    for node in weights.nodes:
        if node.restarted:
            slots[node.slot] = start[node.slot].expand_as(slots[node.slot])
    read = [[*prefix, *(slots[slot] for slot in node.reads)] for node in weights.nodes]
    if len(read) == 1:
        return torch.cat(read[0], 1)
    widths = [sum(x.shape[1] for x in row) for row in read]
    zeros = slots[0].new_zeros(len(slots[0]), max(widths) - min(widths))
    return torch.stack([torch.cat([*x, zeros[:, : max(widths) - n]], 1) for x, n in zip(read, widths, strict=True)])


def _add(residual: Tensor, slots: list[Tensor], nodes: Sequence[Node]) -> None:
    """Add to each node's slot its residual ([n,] rows, O); ``slots`` gets new tensors."""
    if len(nodes) == 1:
        slots[nodes[0].slot] = slots[nodes[0].slot] + residual
        return
    for node, own in zip(nodes, residual, strict=True):
        slots[node.slot] = slots[node.slot] + own[:, : slots[node.slot].shape[1]]


def _shape_network(x: Tensor, weights: Packed) -> Tensor:
    """The shape network after its first product: x (rows, H) -> what its head multiplies."""
    drop = lambda x: dropout(x, weights.dropout) if weights.dropout else x  # noqa: E731
    return drop(linear(drop(x.relu()), weights.inputs[0]).relu())


def _recurrent(
    cell: Cell, y: Tensor, weights: Packed, memory: Tensor, ends: Tensor | None, block: int
) -> tuple[Tensor, Tensor]:
    """The stacked layers of a cell over a block: y ([n,] C A B, G), memory (vectors, layers, [n,] A, B, H) -> the top
    layer's output ([n,] C A B, H), memory after."""
    shape, wide, after = memory.shape[-3:-1], y.dtype, []
    for layer, weight in enumerate(weights.recurrent):
        if layer:
            y = cast(linear(y, weights.inputs[layer - 1]), wide)
        y, end = scan(cell, y.unflatten(-2, (block, -1)), memory[:, layer].flatten(-3, -2), weight, ends)
        after.append(end.unflatten(-2, shape))
        y = y.flatten(-3, -2)
    return y, torch.stack(after, 1)
