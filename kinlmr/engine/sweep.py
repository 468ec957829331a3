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

A block's inputs are known before a cell starts, so its input projection is one product for all C frames of the A
iterations at work and of B clips; only the recurrent weights are used frame by frame. C = 1 lets the iterations overlap
most, C = T not at all. One frame alone, as in a stream, needs no ticks (`_frame`).

Rows of a tick lie as (C, A, B), the highest iteration, which works on the oldest block, first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import dropout, pad

from kinlmr.engine.cells import Cell
from kinlmr.engine.deferred import Weight, gates, linear, scan
from kinlmr.engine.matmul import cast, gathered, product
from kinlmr.engine.nodes import Node
from kinlmr.engine.schedule import Group, Packed, Schedule, pack
from kinlmr.kernels import traced

ROWS = 64  # rows of a block (frames times clips) above which its products get no faster
WORK = 2**24  # rows of a block times H^2 below which its calls take longer than its products
SMALL = 2**21  # numbers in a node's first weights, times clips (at least 4), up to which nodes are stacked on a CPU
CHUNK = 128  # rows of features that are projected at once, if a block is not larger


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
    schedule: Schedule, modules: Mapping[str, nn.Module], features: Tensor, start: Tensor, memory: Tensor,
    lengths: Tensor | None, every: bool = False, block: int | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Refine the start estimate of every frame, V times.

    modules by node name; features (B, T, F); start (D); memory (B, V, M); lengths (B), the frames of each clip after
    which its memory is taken, None: all T; every: return all iterations; block: C, None to choose it
    -> estimates (V, B, T, D) after every iteration, or (1, B, T, D) after the last; memory (B, V, M)

    Products are computed in the weights' type, or in autocast's; the estimate and memory in float32 at least. Results
    have the start estimate's type.
    """
    frames, device = features.shape[1], features.device.type
    wide, casts = torch.promote_types(start.dtype, torch.float32), torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if casts else None
    alone, stacked = frames == 1 and lengths is None, _stacked(features, schedule.largest)
    groups = schedule.alike if alone or stacked else schedule.single
    packs = [
        [pack(one, modules, frames, dtype) for one in (group.members if alone and not stacked else (group,))]
        for group in groups
    ]
    before = schedule.split_memory(groups, cast(memory, wide))
    with torch.autocast(device, enabled=False) if casts else nullcontext():
        if alone:
            out, after = _frame(schedule, packs, features[:, 0], cast(start, wide), before, every)
        else:
            whole = [w for (w,) in packs]
            out, after = _sweep(schedule, whole, features, cast(start, wide), before, lengths, every, block)
    return cast(out, start.dtype), cast(schedule.concat_memory(groups, after), start.dtype)


def _stacked(features: Tensor, largest: int) -> bool:
    """Whether nodes of one level that are alike run as one, their weights stacked: on a GPU, for larger products; on a
    CPU where so little is computed that the number of calls counts more than the copies."""
    batch, frames, _ = features.shape
    if features.is_cuda or frames == 1:
        return features.is_cuda
    return largest * (4 if traced() else max(4, batch)) <= SMALL  # a traced batch may be a symbol


def _frame(
    schedule: Schedule, packs: list[list[Packed]], phi: Tensor, start: Tensor, before: list[Tensor], every: bool
) -> tuple[Tensor, list[Tensor]]:
    """One frame (B, F), as the paper writes it; results as of `_sweep`. packs: of each group, one or one of each node.

    Every weight is read from main memory once. The recurrent projections do not depend on the estimate, so each is one
    product for all iterations. The first iteration multiplies by the whole input weight. The others multiply only the
    change of the slots since then, by the slots' columns, which are in the cache.
    """
    wide, last, first = start.dtype, schedule.iterations - 1, start.split(schedule.widths)
    slots = [slot.expand(phi.shape[0], -1) for slot in first]
    memories = [[list(layer.unbind(-3)) for layer in m.unbind(1)] for m in before]  # by group, layer and iteration
    recurrent = [_recurrent_projections(packed, m) for packed, m in zip(packs, before, strict=True)]
    kept: list[list[_Kept]] = []
    estimates = []
    for v in range(schedule.iterations):
        for i, packed in enumerate(packs):
            if v == 0:
                rows = [_inputs(slots, first, w.group, (phi,)) for w in packed]
                kept.append([_project(w, x, schedule.features, last > 0) for w, x in zip(packed, rows, strict=True)])
                y = _stack([one.projection for one in kept[i]])
            else:
                rows = [_inputs(slots, first, w.group) for w in packed]
                y = _stack([_project_change(one, x) for one, x in zip(kept[i], rows, strict=True)])
            cell = packed[0].group.cell
            if cell is None:
                y = _shape_network(y, packed[0])
            for layer, states in enumerate(memories[i]):
                if layer:
                    y = _stack([linear(x, w.inputs[layer - 1]) for w, x in _unstack(packed, y)])
                states[v] = cell.step(cast(y, wide), recurrent[i][layer][v], states[v])  # type: ignore[union-attr]
                y = states[v][0]
            for w, x in _unstack(packed, y):
                _add(cast(linear(x, w.head), wide), slots, first, w.group)
        if every or v == last:
            estimates.append(torch.cat(slots, -1))
    after = [
        torch.stack([torch.stack(states, -3) for states in m], 1) if m else b
        for m, b in zip(memories, before, strict=True)
    ]
    return torch.stack(estimates)[:, :, None], after


def _recurrent_projections(packed: list[Packed], memory: Tensor) -> list[tuple[Tensor, ...]]:
    """Of a group's memory (vectors, layers, [n,] V, B, H), by layer and iteration: the recurrent weight times h, plus
    its bias ([n,] B, G)."""
    found = []
    for layer, h in enumerate(memory[0]):
        rows = _unstack(packed, h.flatten(-3, -2))
        y = cast(_stack([linear(x, w.recurrent[layer]) for w, x in rows]), memory.dtype)
        found.append(y.unflatten(-2, h.shape[-3:-1]).unbind(-3))
    return found


class _Kept(NamedTuple):
    """Of the first iteration: the input projection ([n,] B, G), the slots that were read ([n,] B, K), and the input
    weight's columns that read them ([n,] G, K)."""

    projection: Tensor
    slots: Tensor
    columns: Tensor


def _project(w: Packed, x: Tensor, features: int, again: bool) -> _Kept:
    """The input projection of x ([n,] B, F + K), in the first iteration; again: whether others follow."""
    projection, columns = product(cast(x, w.input.dtype), w.input, w.bias), w.input[..., features:]
    return _Kept(projection, x[..., features:], gathered(columns, x.shape[-2]) if again else columns)


def _project_change(kept: _Kept, x: Tensor) -> Tensor:
    """The input projection ([n,] B, G) in a further iteration, which reads x ([n,] B, K) in the slots."""
    return product(cast(x - kept.slots, kept.columns.dtype), kept.columns, kept.projection)


def _stack(parts: list[Tensor]) -> Tensor:
    """The results of a group's n weights as one (n, rows, ...); that of one as it is."""
    return parts[0] if len(parts) == 1 else torch.stack(parts)


def _unstack(packed: list[Packed], rows: Tensor) -> Iterator[tuple[Packed, Tensor]]:
    """Each of a group's weights with its rows: the inverse of `_stack`."""
    return zip(packed, [rows] if len(packed) == 1 else rows.unbind(0), strict=True)


def _sweep(
    schedule: Schedule, packs: list[Packed], features: Tensor, start: Tensor, before: list[Tensor],
    lengths: Tensor | None, every: bool, block: int | None,
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """before: each pack's memory (vectors, layers, [n,] V, B, H) -> estimates (V or 1, B, T, D), memory after."""
    (batch, frames, _), last, first = features.shape, schedule.iterations - 1, start.split(schedule.widths)
    clips = 1 if traced() else batch  # which may be a symbol
    block = block or choose_block(clips, frames, schedule.hidden, torch.is_grad_enabled(), features.is_cuda)
    block = min(block, frames)
    blocks = -(-frames // block)
    phi = rearrange(features, "b t f -> t b f")
    if blocks * block > frames:
        phi = pad(phi, (0, 0, 0, 0, 0, blocks * block - frames))
    seen, columns = zip(*(w.columns(schedule.features) for w in packs), strict=True)
    entering, fresh = _projections(seen, phi, block), start.expand(block, 1, batch, -1)

    limits = features.new_full((batch,), frames, dtype=torch.int64) if lengths is None else lengths
    estimate = fresh[:, :0]  # of the blocks at work (C, A, B, D)
    projections: list[list[Tensor]] = []  # of the features, of the blocks at work, by pack ([n,] C, B, G)
    memory = [m[..., :0, :, :] for m in before]  # of the iterations at work (vectors, layers, [n,] A, B, H)
    ended: list[list[Tensor]] = [[] for _ in packs]
    out: list[list[Tensor]] = [[] for _ in range(schedule.iterations)]
    for tick in range(blocks + last):
        if tick < blocks:  # a block enters, for iteration 0
            estimate = torch.cat([estimate, fresh], 1)
            projections.append(next(entering))
        high, low = min(last, tick), max(0, tick - blocks + 1)
        active = range(high, low - 1, -1)
        if tick <= last:  # iteration `tick` starts
            memory = [torch.cat([b[..., tick : tick + 1, :, :], m], -3) for b, m in zip(before, memory, strict=True)]
        begins = [(tick - v) * block for v in active]
        whole = lengths is None and begins[-1] + block <= frames
        ends = None if whole else torch.cat([(limits - begin).clamp(0, block) for begin in begins])  # (A B)

        slots = [slot.flatten(0, 2) for slot in estimate.split(schedule.widths, -1)]
        for i, w in enumerate(packs):
            y, cell = gates([p[i] for p in projections], _inputs(slots, first, w.group), columns[i]), w.group.cell
            if cell is None:
                top = _shape_network(y, w)
            else:
                top, memory[i] = _recurrent(cell, cast(y, start.dtype), w, memory[i], ends, block)
            _add(cast(linear(top, w.head), start.dtype), slots, first, w.group)
        estimate = torch.cat(slots, -1).unflatten(0, (block, len(active), batch))

        for v in active if every else active[:1] if high == last else ():
            out[v].append(estimate[:, high - v])
        if high == last:  # a block leaves, refined V times
            estimate, projections = estimate[:, 1:], projections[1:]
        if tick >= blocks - 1:  # iteration `low` has seen the last frame
            for i, m in enumerate(memory):
                ended[i].append(m[..., -1:, :, :])
                memory[i] = m[..., :-1, :, :]
    kept = [torch.cat(ticks)[:frames] for ticks in out if ticks]
    return rearrange(torch.stack(kept), "v t b d -> v b t d"), [torch.cat(m, -3) for m in ended]


def _projections(weights: Sequence[Weight], phi: Tensor, block: int) -> Iterator[list[Tensor]]:
    """For each block the features' part of every node's input projection ([n,] C, B, G), for some blocks at once."""
    frames, batch, _ = phi.shape
    chunk = block * max(1, CHUNK // max(1, block * batch))
    for begin in range(0, frames, chunk):
        rows = phi[begin : begin + chunk]
        x, form = rows.flatten(0, 1), (len(rows) // block, block, batch)
        tables = [linear(x.expand(*w.weight.shape[:-2], -1, -1), w).unflatten(-2, form).unbind(-4) for w in weights]
        yield from map(list, zip(*tables, strict=True))


def _inputs(slots: list[Tensor], start: Sequence[Tensor], group: Group, prefix: tuple[Tensor, ...] = ()) -> Tensor:
    """What nodes read, ``prefix`` first: ([n,] rows, K). One that is restarted reads the start in its own slot."""
    read = [[*prefix, *(_own(slots, start, node) if node.slot == slot else slots[slot] for slot in node.reads)]
            for node in group.nodes]  # fmt: skip
    if len(read) == 1:
        return torch.cat(read[0], 1)
    zeros = slots[0].new_zeros(slots[0].shape[0], max(group.gaps))
    return torch.stack([torch.cat([*x, zeros[:, :gap]], 1) for x, gap in zip(read, group.gaps, strict=True)])


def _add(residual: Tensor, slots: list[Tensor], start: Sequence[Tensor], group: Group) -> None:
    """Add to each node's slot its residual ([n,] rows, O); ``slots`` gets new tensors."""
    if len(group.nodes) == 1:
        slots[group.nodes[0].slot] = _own(slots, start, group.nodes[0]) + residual
        return
    for node, own in zip(group.nodes, residual, strict=True):
        slots[node.slot] = _own(slots, start, node) + own[:, : node.outputs]


def _own(slots: list[Tensor], start: Sequence[Tensor], node: Node) -> Tensor:
    """A node's own slot (rows, O): what the iteration before left in it, or the start."""
    return start[node.slot].expand_as(slots[node.slot]) if node.restarted else slots[node.slot]


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
