"""A GRU over a block of frames on a GPU, in one launch; `kinlmr.kernels` says when.

| | launches of the plain path | here |
|---|---|---|
| a GRU over C frames | 5 C + 5 | 3 |
| its gradient | 3 C + 14 | 3 |

A program computes some columns of h for some rows, frame after frame. It needs all columns of the frame before, so the
programs of the same rows wait for one another after every frame. They must therefore all be on the GPU at once; where
that is not possible, and interpreted, each launch does one frame.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kinlmr.kernels.halves import LARGE_MEMORY, Halves, exact, halves, launch, properties, stages

COLUMNS, ROWS, STEP = (16, 32, 64), (16, 32, 64, 128), 64  # of a program; numbers of h multiplied at once, at most

tl: Any = None  # triton.language in a kernel (`kinlmr.kernels.halves.compiled`)


def gru_scan(
    gates: Tensor, memory: Tensor, weight: Tensor, bias: Tensor, keep: bool, layouts: Any
) -> tuple[Tensor, list[Tensor]]:
    """`kinlmr.engine.cells.gru_scan` by the recurrent weight ([n,] 3 H, H) and its bias ([n,] 3 H).

    gates ([n,] C, R, 3 H), which become r, z, n if ``keep``; memory (1, [n,] R, H)
    ``layouts.halves``, None before the first call, keeps the weight's
    """
    *nodes, frames, rows, width = gates.shape
    size = width // 3
    states = gates.new_empty(*nodes, frames + 1, rows, size)
    states[..., 0, :, :] = memory[0]
    gates, recurrent_n = gates.contiguous(), gates.new_empty(*nodes, frames, rows, size) if keep else states
    _launch(_gru, (gates, states, *_split(weight, layouts), bias.contiguous(), recurrent_n), frames, KEEP=keep)
    return states[None], [gates, recurrent_n] if keep else []


def _split(weight: Tensor, layouts: Any) -> Halves:
    if layouts.halves is None:
        layouts.halves = halves(weight.reshape(-1, weight.shape[-1]), 1, STEP)
    found: Halves = layouts.halves
    return found


def gru_scan_backward(
    gradient: Tensor, states: Tensor, gates: Tensor, recurrent_n: Tensor, weight: Tensor, layouts: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """`kinlmr.engine.cells.gru_scan_backward` by the recurrent weight ([n,] 3 H, H)."""
    gradient, states, gates, recurrent_n = (x.contiguous() for x in (gradient, states, gates, recurrent_n))
    inputs, recurrent = torch.empty_like(gates), torch.empty_like(gates)
    largest = torch.zeros(gates.shape[:-1], dtype=torch.int32, device=gates.device)
    tensors = gates, states[0], *_split(weight, layouts), gradient[0], recurrent_n, inputs, recurrent, largest
    _launch(_gru_backward, tensors, gates.shape[-3], phases=2)
    return inputs, recurrent, gradient[..., 0, :, :]


def _launch(kernel: Any, tensors: tuple[Tensor, ...], frames: int, phases: int = 1, **options: Any) -> None:
    """A kernel over tensors of which the first is ([n,] C, R, 3 H) and the third the halves of a weight: in one launch,
    else one for each phase of each frame, after which all that it wrote can be read."""
    first, weight = tensors[0], tensors[2]
    nodes, rows, size = first.shape[0] if first.ndim == 4 else 1, first.shape[-2], first.shape[-1] // 3
    columns, tile, together = _tiles(first.device, nodes, rows, size, 1 if phases > 1 else 3)
    grid, depth = (-(-size // columns), -(-rows // tile), nodes), stages(first.device)
    met = torch.zeros(grid[1] * grid[2], dtype=torch.int32, device=first.device) if together else first
    parts = [(0, frames, None)] if together else [(t, t + 1, p) for t in range(frames) for p in range(phases)]
    for begin, end, phase in parts:
        launch(
            kernel, grid, *tensors, met, begin, end, frames, rows, size, weight.shape[-1], weight.stride(0),
            PHASE=phase, EXACT=exact(), ROWS=tile, COLUMNS=columns, STEP=_step(tile, columns, depth),
            num_warps=8 if tile == 128 else 4, num_stages=depth, launch_cooperative_grid=together, **options,
        )  # fmt: skip


def _tiles(device: torch.device, nodes: int, rows: int, size: int, cost: int) -> tuple[int, int, bool]:
    """Columns and rows of a program, and whether all programs fit the GPU at once, one to a multiprocessor. Of the
    sizes that fit the one that reads least: a row costs 1, a column ``cost``."""
    room = 0 if device.type == "cpu" else properties(device.index).multi_processor_count
    fit = [(c, r) for c in COLUMNS for r in ROWS if nodes * -(-rows // r) * -(-size // c) <= room]
    return (*min(fit, key=lambda x: cost * x[0] + min(x[1], rows)), True) if fit else (32, 64, False)


def _step(rows: int, columns: int, depth: int) -> int:
    """Numbers of h multiplied at once, such that what is on its way fits the shared memory."""
    return STEP if depth * STEP * (4 * rows + 12 * columns) <= (LARGE_MEMORY if depth > 2 else 90_000) else STEP // 2


def _gru(
    gates, states, weight, scale, bias, recurrent_n, met, begin, end, frames, rows, size, padded, weight_low,
    KEEP: tl.constexpr, PHASE: tl.constexpr, EXACT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    STEP: tl.constexpr,
):  # fmt: skip
    """h after = n + z (h before - n), of some columns and rows of a node."""
    node, wide, narrow = tl.program_id(2).to(tl.int64), rows * 3 * size, rows * size  # numbers of a frame
    row, column = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    real, inside = row < rows, column < size
    here = real[:, None] & inside[None, :]
    gates += (node * frames + begin) * wide
    recurrent_n += (node * frames + begin) * narrow
    states += (node * (frames + 1) + begin) * narrow
    weight += node * 3 * size * padded
    bias += node * 3 * size + column
    scale += node * 3 * size + column
    bias_r = tl.load(bias, inside, other=0.0)[None, :]
    bias_z = tl.load(bias + size, inside, other=0.0)[None, :]
    bias_n = tl.load(bias + 2 * size, inside, other=0.0)[None, :]
    scale_r = tl.load(scale, inside, other=0.0)[None, :]
    scale_z = tl.load(scale + size, inside, other=0.0)[None, :]
    scale_n = tl.load(scale + 2 * size, inside, other=0.0)[None, :]
    own, k = row[:, None] * size + column[None, :], tl.arange(0, STEP)
    for t in range(begin, end):
        to_r = tl.full((ROWS, COLUMNS), 0.0, tl.float32)
        to_z = tl.full((ROWS, COLUMNS), 0.0, tl.float32)
        to_n = tl.full((ROWS, COLUMNS), 0.0, tl.float32)
        for at in range(0, size, STEP):
            h = tl.load(
                states + (row[:, None] * size + (at + k)[None, :]), real[:, None] & (at + k < size)[None, :],
                other=0.0, cache_modifier=".cg",
            )  # fmt: skip
            high = h.to(tl.float16)
            w = weight + (column[None, :] * padded + (at + k)[:, None])
            r_high = tl.load(w, inside[None, :], other=0.0)
            z_high = tl.load(w + size * padded, inside[None, :], other=0.0)
            n_high = tl.load(w + 2 * size * padded, inside[None, :], other=0.0)
            to_r, to_z, to_n = tl.dot(high, r_high, to_r), tl.dot(high, z_high, to_z), tl.dot(high, n_high, to_n)
            if EXACT:
                low = (h - high.to(tl.float32)).to(tl.float16)
                to_r, to_z, to_n = tl.dot(low, r_high, to_r), tl.dot(low, z_high, to_z), tl.dot(low, n_high, to_n)
                w += weight_low
                to_r = tl.dot(high, tl.load(w, inside[None, :], other=0.0), to_r)
                to_z = tl.dot(high, tl.load(w + size * padded, inside[None, :], other=0.0), to_z)
                to_n = tl.dot(high, tl.load(w + 2 * size * padded, inside[None, :], other=0.0), to_n)
        g = gates + (row[:, None] * 3 * size + column[None, :])
        reset = 1 / (1 + tl.exp(-(tl.load(g, here, other=0.0) + to_r * scale_r + bias_r)))
        update = 1 / (1 + tl.exp(-(tl.load(g + size, here, other=0.0) + to_z * scale_z + bias_z)))
        to_n = to_n * scale_n + bias_n
        new = 2 / (1 + tl.exp(-2 * (tl.load(g + 2 * size, here, other=0.0) + reset * to_n))) - 1  # tanh
        before = tl.load(states + own, here, other=0.0)
        tl.store(states + narrow + own, new + update * (before - new), here)
        if KEEP:
            tl.store(g, reset, here)
            tl.store(g + size, update, here)
            tl.store(g + 2 * size, new, here)
            tl.store(recurrent_n + own, to_n, here)
        gates += wide
        recurrent_n += narrow
        states += narrow
        if PHASE is None:
            tl.debug_barrier()  # all that the program wrote comes before its count, all that it reads next after
            group = met + tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)
            tl.atomic_add(group, 1, sem="release")
            while tl.atomic_add(group, 0, sem="acquire") < (t + 1 - begin) * tl.num_programs(0):
                pass
            tl.debug_barrier()


def _gru_backward(
    gates, states, weight, scale, gradient, recurrent_n, inputs, recurrent, largest, met, begin, end, frames, rows,
    size, padded, weight_low, PHASE: tl.constexpr, EXACT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    STEP: tl.constexpr,
):  # fmt: skip
    """Phase 0: from a frame's gradient of h, the gradients of its input and recurrent projections, and each row's
    largest number, by which phase 1 scales. Phase 1: the gradient of h before the frame. Frames run backwards."""
    node, wide, narrow = tl.program_id(2).to(tl.int64), rows * 3 * size, rows * size
    row, column = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    real, inside = row < rows, column < size
    here = real[:, None] & inside[None, :]
    frame = node * frames + frames - 1 - begin
    gates += frame * wide
    inputs += frame * wide
    recurrent += frame * wide
    recurrent_n += frame * narrow
    largest += frame * rows
    states += (frame + node) * narrow
    gradient += (frame + node) * narrow
    weight += node * 3 * size * padded
    scale += node * 3 * size
    gate, own = row[:, None] * 3 * size + column[None, :], row[:, None] * size + column[None, :]
    k = tl.arange(0, STEP)
    tops = tl.full((STEP,), 0.0, tl.float32)
    for at in range(0, 3 * size, STEP):
        tops = tl.maximum(tops, tl.load(scale + at + k, at + k < 3 * size, other=0.0))
    top_scale = tl.max(tops, 0).to(tl.int32, bitcast=True) - (13 << 23)
    for i in range(begin, end):
        after = tl.load(gradient + narrow + own, here, other=0.0)
        z = tl.load(gates + size + gate, here, other=0.0)
        if PHASE != 1:
            r, n = tl.load(gates + gate, here, other=0.0), tl.load(gates + 2 * size + gate, here, other=0.0)
            to_n = after * (1 - z) * (1 - n * n)
            to_r = to_n * tl.load(recurrent_n + own, here, other=0.0) * r * (1 - r)
            to_z = after * (tl.load(states + own, here, other=0.0) - n) * z * (1 - z)
            tl.store(inputs + gate, to_r, here)
            tl.store(inputs + size + gate, to_z, here)
            tl.store(inputs + 2 * size + gate, to_n, here)
            tl.store(recurrent + gate, to_r, here)
            tl.store(recurrent + size + gate, to_z, here)
            tl.store(recurrent + 2 * size + gate, to_n * r, here)
            top = tl.max(tl.maximum(tl.maximum(tl.abs(to_r), tl.abs(to_z)), tl.abs(to_n)), 1)
            tl.atomic_max(largest + row, top.to(tl.int32, bitcast=True), real)
        if PHASE is None:
            tl.debug_barrier()
            group = met + tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)
            tl.atomic_add(group, 1, sem="release")
            while tl.atomic_add(group, 0, sem="acquire") < (i + 1 - begin) * tl.num_programs(0):
                pass
            tl.debug_barrier()
        if PHASE != 0:
            power = tl.load(largest + row, real, other=0, cache_modifier=".cg") & 0x7F800000
            power = tl.where(power > 0, power, 127 << 23)[:, None] + (top_scale - (127 << 23))
            inverse = ((127 << 23) - (power - (127 << 23))).to(tl.float32, bitcast=True)
            before = tl.full((ROWS, COLUMNS), 0.0, tl.float32)
            for at in range(0, 3 * size, STEP):
                told = tl.load(
                    recurrent + (row[:, None] * 3 * size + (at + k)[None, :]),
                    real[:, None] & (at + k < 3 * size)[None, :], other=0.0, cache_modifier=".cg",
                )  # fmt: skip
                told = told * inverse * tl.load(scale + at + k, at + k < 3 * size, other=0.0)[None, :]
                high = told.to(tl.float16)
                w, known = weight + ((at + k)[:, None] * padded + column[None, :]), (at + k < 3 * size)[:, None]
                w_high = tl.load(w, known & inside[None, :], other=0.0)
                before = tl.dot(high, w_high, before)
                if EXACT:
                    before = tl.dot((told - high.to(tl.float32)).to(tl.float16), w_high, before)
                    before = tl.dot(high, tl.load(w + weight_low, known & inside[None, :], other=0.0), before)
            before = before * power.to(tl.float32, bitcast=True)
            tl.store(gradient + own, before + after * z + tl.load(gradient + own, here, other=0.0), here)
        gates -= wide
        inputs -= wide
        recurrent -= wide
        recurrent_n -= narrow
        largest -= rows
        states -= narrow
        gradient -= narrow
