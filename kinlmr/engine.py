"""The engine: runs the nodes of a schedule over frames and iterations, staggered by blocks of frames.

A node (section 3.2 of the paper) reads the frame's features and slots of its estimate, and adds a residual to its own
slot: theta_p + head(cell([features, theta_p, beta, theta_g ...])). Everything is causal: of other frames an iteration
needs only its own memory of the frame before. Therefore the V iterations can work at the same time, each one block of
C frames behind the last. Which frame each iteration works on at every tick, for T = 4, V = 3 and C = 1:

    tick          0   1   2   3   4   5
    iteration 0   0   1   2   3
    iteration 1       0   1   2   3
    iteration 2           0   1   2   3

With C = 2 the columns are blocks: 0-1, 2-3, and there are 4 ticks. In general there are ceil(T / C) + V - 1.

What a block's inputs say to a cell's gates is known before the cell starts, so it is one product for all C frames of
the A iterations at work and of B clips; only the recurrent weights are used frame by frame. C = 1 lets the iterations
overlap most, C = T not at all. One frame alone, as in a stream, needs no ticks (`_frame`).

Rows of a tick lie as (C, A, B), the iteration furthest ahead in its work (the highest v, on the oldest block) first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import dropout, pad

from kinlmr.cells import Cell, product
from kinlmr.products import gates, linear, scan, traced
from kinlmr.schedule import Node, Packed, Schedule, pack

ROWS = 128  # of a block (frames times clips): more do not make its products faster
CHUNK = 96  # rows for which the features' share of the gates is computed at once, at least


class Options(NamedTuple):
    """every: keep all iterations; block: C, None to choose; dropout: of the shape network."""

    every: bool = False
    block: int | None = None
    dropout: float = 0.0


def choose_block(batch: int, frames: int, training: bool = False) -> int:
    """C for B clips of T frames, such that blocks have equal lengths. Long blocks keep a cell's weights in the cache
    and make products large; but the first and last V - 1 ticks have fewer iterations at work, and the features' share
    of all gates is kept for V blocks: without gradients, which need more memory anyhow, blocks are half as large.

    >>> choose_block(1, 300), choose_block(32, 16), choose_block(32, 16, training=True), choose_block(1, 1)
    (34, 2, 4, 1)
    """
    rows = ROWS if training else ROWS // 2
    longest = min(max(16, 2 * math.isqrt(frames)), max(1, rows // max(batch, 1)))
    return -(-frames // -(-frames // longest))


def run(
    schedule: Schedule, modules: dict[str, nn.Module], features: Tensor, start: Tensor, memory: Tensor | None,
    lengths: Tensor | None, options: Options,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Refine the start estimate of every frame, V times.

    modules by node name; features (B, T, F); start (D); memory (B, V, M), None for zeros; lengths (B), after which
    frames of a clip its memory stays, or None -> estimates (V, B, T, D) after every iteration if asked for, else
    (1, B, T, D) after the last; memory (B, V, M)

    Products are computed in the weights' type, or in autocast's; the estimate and memory in float32 at least.
    """
    batch, frames, width = features.shape
    device, exact = features.device.type, torch.promote_types(start.dtype, torch.float32)
    batches = schedule.batches(together=features.is_cuda)
    kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    packs = [pack(nodes, [modules[node.name] for node in nodes], width, frames, kind) for nodes in batches]
    if memory is None:
        memory = start.new_zeros(batch, schedule.iterations, sum(schedule.memory_sizes()))
    before = _unpack_memory(schedule, batches, memory.to(exact))
    with torch.autocast(device, enabled=False):
        arguments = schedule, batches, packs, features, start.to(exact), before, lengths, options
        out, after = (_frame if frames == 1 and lengths is None else _sweep)(*arguments)
    return out.to(start.dtype), _pack_memory(schedule, batches, after).to(start.dtype)


def _frame(
    schedule: Schedule, batches: list[list[Node]], packs: list[Packed], features: Tensor, start: Tensor,
    before: list[Tensor], lengths: Tensor | None, options: Options,
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """One frame, as the paper writes it; arguments and results as of `_sweep`.

    What the features and the memories say to the gates does not depend on the estimate, so it is one product for all
    iterations: a stream reads these weights once a frame.
    """
    exact, first = start.dtype, start.split(schedule.widths)
    slots = [slot.expand(features.shape[0], -1) for slot in first]
    shares = [_features_share(w, features[:, 0]) for w in packs]
    recurrent = [
        [
            linear(m[0, layer].flatten(-3, -2), weight).to(exact).unflatten(-2, m.shape[-3:-1]).unbind(-3)
            for layer, weight in enumerate(w.recurrent)
        ]
        for w, m in zip(packs, before, strict=True)
    ]
    memories = [[list(layer.unbind(-3)) for layer in m.unbind(1)] for m in before]  # by batch, layer and iteration
    estimates = []
    for v in range(schedule.iterations):
        for nodes, w, share, told, memory in zip(batches, packs, shares, recurrent, memories, strict=True):
            y = product(_inputs(slots, first, nodes, w).to(share.dtype), w.slots.weight, share)
            if nodes[0].cell is None:
                y = _shape_network(y, w, options.dropout)
            for layer, states in enumerate(memory):
                y = linear(y, w.inputs[layer - 1]) if layer else y
                states[v] = nodes[0].cell.step(y.to(exact), told[layer][v], states[v])  # type: ignore[union-attr]
                y = states[v][0]
            _add(linear(y, w.head).to(exact), slots, nodes)
        estimates.append(torch.cat(slots, -1))
    after = [
        torch.stack([torch.stack(states, -3) for states in m], 1) if m else b
        for m, b in zip(memories, before, strict=True)
    ]
    return torch.stack(estimates if options.every else estimates[-1:])[:, :, None], after


def _sweep(
    schedule: Schedule, batches: list[list[Node]], packs: list[Packed], features: Tensor, start: Tensor,
    before: list[Tensor], lengths: Tensor | None, options: Options,
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """before: each batch's memory (vectors, layers, [n,] V, B, H) -> estimates (V or 1, B, T, D), memory after."""
    batch, frames, _ = features.shape
    last = schedule.iterations - 1
    block = options.block or choose_block(1 if traced() else batch, frames, torch.is_grad_enabled())
    blocks = -(-frames // block)
    phi = rearrange(features, "b t f -> t b f")
    if blocks * block > frames:
        phi = pad(phi, (0, 0, 0, 0, 0, blocks * block - frames))
    first, first_slots = start.expand(block, 1, batch, -1), start.split(schedule.widths)
    entering = _shares(packs, phi, block)

    estimate = first[:, :0]  # of the blocks at work (C, A, B, D)
    shares: list[list[Tensor]] = []  # of the blocks at work, by batch of nodes: the features' share ([n,] C, B, G)
    memory = [m[..., :0, :, :] for m in before]  # of the iterations at work (vectors, layers, [n,] A, B, H)
    ended: list[list[Tensor]] = [[] for _ in batches]
    out: list[list[Tensor]] = [[] for _ in range(schedule.iterations)]
    for tick in range(blocks + last):
        if tick < blocks:  # a block enters, for iteration 0
            estimate = torch.cat([estimate, first], 1)
            shares.append(next(entering))
        high, low = min(last, tick), max(0, tick - blocks + 1)
        active = range(high, low - 1, -1)
        if tick <= last:  # iteration `tick` starts
            memory = [torch.cat([b[..., tick : tick + 1, :, :], m], -3) for b, m in zip(before, memory, strict=True)]
        limits = features.new_full((batch,), frames, dtype=torch.int64) if lengths is None else lengths
        begins = [(tick - v) * block for v in active]
        whole = lengths is None and begins[-1] + block <= frames
        ends = None if whole else torch.cat([(limits - begin).clamp(0, block) for begin in begins])  # (A B)

        slots = [slot.flatten(0, 2) for slot in estimate.split(schedule.widths, -1)]
        for i, (nodes, weights) in enumerate(zip(batches, packs, strict=True)):
            x = _inputs(slots, first_slots, nodes, weights)
            y = gates([share[i] for share in shares], x, weights.slots)
            if nodes[0].cell is None:
                top = _shape_network(y, weights, options.dropout)
            else:
                top, memory[i] = _recurrent(nodes[0].cell, y.to(start.dtype), weights, memory[i], ends, block)
            _add(linear(top, weights.head).to(start.dtype), slots, nodes)
        estimate = torch.cat(slots, -1).unflatten(0, (block, len(active), batch))

        for v in active if options.every else active[:1] if high == last else ():
            out[v].append(estimate[:, high - v])
        if high == last:  # a block leaves, refined V times
            estimate = estimate[:, 1:]
            del shares[0]
        if tick >= blocks - 1:  # iteration `low` has seen the last frame
            for i, m in enumerate(memory):
                ended[i].append(m[..., -1:, :, :])
                memory[i] = m[..., :-1, :, :]
    kept = [torch.cat(ticks)[:frames] for ticks in out if ticks]
    return rearrange(torch.stack(kept), "v t b d -> v b t d"), [torch.cat(m, -3) for m in ended]


def _shares(packs: list[Packed], phi: Tensor, block: int) -> Iterator[list[Tensor]]:
    """For each block the features' share of every node's gates ([n,] C, B, G), computed for some blocks at once."""
    frames, batch, _ = phi.shape
    chunk = block * max(1, CHUNK // max(1, block * batch))
    for begin in range(0, frames, chunk):
        rows = phi[begin : begin + chunk]
        x, form = rows.flatten(0, 1), (len(rows) // block, block, batch)
        tables = [_features_share(w, x).unflatten(-2, form).unbind(-4) for w in packs]
        yield from map(list, zip(*tables, strict=True))


def _features_share(weights: Packed, x: Tensor) -> Tensor:
    """What features (rows, F) say to the gates ([n,] rows, G)."""
    weight = weights.features.weight
    return linear(x if weight.ndim == 2 else x.expand(len(weight), -1, -1), weights.features)


def _inputs(slots: list[Tensor], start: Sequence[Tensor], nodes: list[Node], weights: Packed) -> Tensor:
    """What nodes read besides the features ([n,] rows, K). Slots that start again in every iteration do so here."""
    for node in nodes:
        if node.restarted:
            slots[node.slot] = start[node.slot].expand_as(slots[node.slot])
    rows = [torch.cat([slots[slot] for slot in node.reads], 1) for node in nodes]
    if len(rows) == 1:
        return rows[0]
    return torch.stack([pad(row, (0, weights.slots.weight.shape[-1] - row.shape[1])) for row in rows])


def _add(residual: Tensor, slots: list[Tensor], nodes: list[Node]) -> None:
    """Add to each node's slot its residual ([n,] rows, O)."""
    if len(nodes) == 1:
        slots[nodes[0].slot] = slots[nodes[0].slot] + residual
        return
    for node, own in zip(nodes, residual, strict=True):
        slots[node.slot] = slots[node.slot] + own[:, : slots[node.slot].shape[1]]


def _shape_network(gates: Tensor, weights: Packed, rate: float) -> Tensor:
    top = gates.relu()
    top = linear(dropout(top, rate) if rate else top, weights.inputs[0]).relu()
    return dropout(top, rate) if rate else top


def _recurrent(
    cell: Cell, y: Tensor, weights: Packed, memory: Tensor, ends: Tensor | None, block: int
) -> tuple[Tensor, Tensor]:
    """The stacked layers of a cell over a block: y ([n,] C A B, G), memory (vectors, layers, [n,] A, B, H) -> the top
    layer's output ([n,] C A B, H), memory after."""
    shape, after = memory.shape[-3:-1], []
    exact = y.dtype
    for layer, weight in enumerate(weights.recurrent):
        if layer:
            y = linear(y, weights.inputs[layer - 1]).to(exact)
        y, end = scan(cell, y.unflatten(-2, (block, -1)), memory[:, layer].flatten(-3, -2), weight, ends)
        after.append(end.unflatten(-2, shape))
        y = y.flatten(-3, -2)
    return y, torch.stack(after, 1)


def _unpack_memory(schedule: Schedule, batches: list[list[Node]], memory: Tensor) -> list[Tensor]:
    """memory (B, V, M) -> of each batch of nodes (vectors, layers, [n,] V, B, H)."""
    shares = dict(zip(schedule.recurrent(), memory.split(schedule.memory_sizes(), -1), strict=True))
    found = []
    for nodes in batches:
        rows = [
            rearrange(shares[node], "b v (l k h) -> k l v b h", l=node.layers, k=node.cell.vectors)
            for node in nodes
            if node.cell
        ]
        found.append(rows[0] if len(rows) == 1 else torch.stack(rows, 2) if rows else memory.new_empty(1, 0, 0, 0, 0))
    return found


def _pack_memory(schedule: Schedule, batches: list[list[Node]], memory: list[Tensor]) -> Tensor:
    """The inverse of `_unpack_memory`."""
    rows = {}
    for nodes, m in zip(batches, memory, strict=True):
        for node, row in zip(nodes, [m] if len(nodes) == 1 else m.unbind(2), strict=True):
            if node.cell:
                rows[node] = rearrange(row, "k l v b h -> b v (l k h)")
    return torch.cat([rows[node] for node in schedule.recurrent()], -1)
