"""Kernels in Triton for a GPU: a GRU's step over its gates, and linear skinning, each in one pass over memory.

`kinlmr.cells` and `kinlmr.skinning` call them where `serves` says so, and are the plain path and the tests' reference.
Off unless the environment says KINLMR_TRITON=1: with TRITON_INTERPRET=1 they run on a CPU, and are tested there; no GPU
has measured them yet.

| | launches of the plain path | here |
|---|---|---|
| a GRU's frame | 6, and 7 if it is kept for backward | 2: the product with the recurrent weight, and `gru_scan`'s |
| skinning | 4, and every vertex's transform (12 numbers) is written and read | 1, and only vertices are |
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

ENABLED = os.environ.get("KINLMR_TRITON") == "1"
COLUMNS = 1024  # of a row of gates that one program computes, at most
BODIES, VERTICES, FEWER, SPLIT = 16, 64, 32, 1024  # of a program of `skin`; of `moments`, at once and in all
WARPS = 8  # with these sizes no register of 24 joints' kernels is spilled

tl: Any = None  # triton.language, once a kernel is wanted


def serves(x: Tensor) -> bool:
    """Whether the kernels take x: enabled, float32, on a GPU (or interpreted)."""
    return ENABLED and x.dtype == torch.float32 and (x.is_cuda or os.environ.get("TRITON_INTERPRET") == "1")


@functools.cache
def _compiled(kernel: Callable[..., None]) -> Any:
    """Triton is imported here, by the first who wants a kernel."""
    global tl
    try:
        tl = importlib.import_module("triton.language")
    except ImportError as error:
        raise ImportError(f"KINLMR_TRITON=1, but {error}; pip install triton, or unset it") from None
    return importlib.import_module("triton").jit(kernel)


def gru_scan(gates: Tensor, states: Tensor, recurrent: Callable[[Tensor], Tensor], share: Tensor | None) -> None:
    """`kinlmr.cells.gru_scan`, in place.

    gates ([n,] C, R, 3 H), which become r, z, n; states ([n,] C + 1, R, H), the first given; the product of h by the
    recurrent weight, with its bias; share ([n,] C, R, H): the recurrent share of n, kept for backward, or None
    """
    rows, size = states.shape[-2:]
    width = min(COLUMNS, 1 << (size - 1).bit_length())
    kernel = _compiled(_gru)[states[..., 0, :, 0].numel(), -(-size // width)]
    kept = states if share is None else share
    strides = [x.stride(0) if x.ndim == 4 else 0 for x in (gates, states, kept)]
    for g, h, after, k in zip(*(x.unbind(-3) for x in (gates, states, states[..., 1:, :, :], kept)), strict=False):
        kernel(g, recurrent(h), h, after, k, rows, size, *strides, KEEP=share is not None, WIDTH=width)


def _gru(
    gates, recurrent, before, after, share, rows, size, gates_n, states_n, share_n,
    KEEP: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One row of one frame: h after = n + z (h before - n)."""
    row = tl.program_id(0)
    n, r = row // rows, row % rows
    column = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    there = column < size
    g, s = gates + n * gates_n + r * 3 * size + column, recurrent + row * 3 * size + column
    to_n = tl.load(s + 2 * size, there)
    reset = 1 / (1 + tl.exp(-(tl.load(g, there) + tl.load(s, there))))
    update = 1 / (1 + tl.exp(-(tl.load(g + size, there) + tl.load(s + size, there))))
    new = 2 / (1 + tl.exp(-2 * (tl.load(g + 2 * size, there) + reset * to_n))) - 1  # tanh
    h = tl.load(before + n * states_n + r * size + column, there)
    tl.store(after + n * states_n + r * size + column, new + update * (h - new), there)
    if KEEP:
        tl.store(g, reset, there)
        tl.store(g + size, update, there)
        tl.store(g + 2 * size, new, there)
        tl.store(share + n * share_n + r * size + column, to_n, there)


def skin(rest: Tensor, planes: Tensor, weights: Tensor, out: Tensor) -> Tensor:
    """Vertices rest (B, 3, N) under each one's blend of planes (B, 3, 4, J), or (B, 3, 3, J): without a shift, by
    weights (J, N), into out (B, 3, N)."""
    (count, _, total), joints = rest.shape, len(weights)
    _compiled(_skin)[-(-count // BODIES), -(-total // VERTICES)](
        rest, planes, weights.contiguous(), out, count, total, joints, *planes.stride(), SHIFT=planes.shape[2] == 4,
        JOINTS=_padded(joints), BODIES=BODIES, VERTICES=VERTICES, PRECISION=_precision(), num_warps=WARPS,
    )  # fmt: skip
    return out


def _skin(
    rest, planes, weights, out, count, total, joints, by_body, by_row, by_column, by_joint,
    SHIFT: tl.constexpr, JOINTS: tl.constexpr, BODIES: tl.constexpr, VERTICES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    body = (tl.program_id(0) * BODIES + tl.arange(0, BODIES))[:, None].to(tl.int64)
    vertex, joint = tl.program_id(1) * VERTICES + tl.arange(0, VERTICES), tl.arange(0, JOINTS)
    here, bones = (body < count) & (vertex < total)[None, :], (body < count) & (joint < joints)[None, :]
    weight = tl.load(
        weights + joint[:, None] * total + vertex[None, :],
        (joint < joints)[:, None] & (vertex < total)[None, :],
        other=0.0,
    )
    place, plane = body * 3 * total + vertex[None, :], planes + body * by_body + joint[None, :] * by_joint
    for row in tl.static_range(3):
        posed = tl.full((BODIES, VERTICES), 0.0, tl.float32)
        for column in tl.static_range(3):
            bone = tl.load(plane + row * by_row + column * by_column, bones, other=0.0)
            v = tl.load(rest + place + column * total, here, other=0.0)
            posed += tl.dot(bone, weight, input_precision=PRECISION) * v
        if SHIFT:
            bone = tl.load(plane + row * by_row + 3 * by_column, bones, other=0.0)
            posed += tl.dot(bone, weight, input_precision=PRECISION)
        tl.store(out + place + row * total, posed, here)


def moments(grad: Tensor, rest: Tensor, weights: Tensor) -> Tensor:
    """The gradient of `skin`'s planes: grad (B, 3, N), rest (B, 3, N), weights (J, N) -> (B, 3, 4, J)."""
    (count, _, total), joints = grad.shape, len(weights)
    splits = -(-total // SPLIT)
    parts = grad.new_empty(splits, count, 3, 4, joints)
    _compiled(_moments)[-(-count // BODIES), splits, 3](
        grad, rest, weights.contiguous(), parts, count, total, joints, SPLIT=SPLIT,
        JOINTS=_padded(joints), BODIES=BODIES, VERTICES=FEWER, PRECISION=_precision(), num_warps=WARPS,
    )  # fmt: skip
    return parts.sum(0)


def _moments(
    grad, rest, weights, out, count, total, joints, SPLIT: tl.constexpr,
    JOINTS: tl.constexpr, BODIES: tl.constexpr, VERTICES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Of one row of the planes, over ``SPLIT`` vertices."""
    body = (tl.program_id(0) * BODIES + tl.arange(0, BODIES))[:, None].to(tl.int64)
    joint, row = tl.arange(0, JOINTS)[None, :], tl.program_id(2)
    x = tl.full((BODIES, JOINTS), 0.0, tl.float32)
    y, z, shift = x, x, x
    for begin in range(0, SPLIT, VERTICES):
        vertex = tl.program_id(1) * SPLIT + begin + tl.arange(0, VERTICES)
        here = (body < count) & (vertex < total)[None, :]
        weight = tl.load(
            weights + joint * total + vertex[:, None], (joint < joints) & (vertex < total)[:, None], other=0.0
        )
        place = body * 3 * total + vertex[None, :]
        g = tl.load(grad + place + row * total, here, other=0.0)
        x += tl.dot(g * tl.load(rest + place, here, other=0.0), weight, input_precision=PRECISION)
        y += tl.dot(g * tl.load(rest + place + total, here, other=0.0), weight, input_precision=PRECISION)
        z += tl.dot(g * tl.load(rest + place + 2 * total, here, other=0.0), weight, input_precision=PRECISION)
        shift += tl.dot(g, weight, input_precision=PRECISION)
    place, bones = (
        ((tl.program_id(1) * count + body) * 12 + row * 4) * joints + joint,
        (body < count) & (joint < joints),
    )
    tl.store(out + place, x, bones)
    tl.store(out + place + joints, y, bones)
    tl.store(out + place + 2 * joints, z, bones)
    tl.store(out + place + 3 * joints, shift, bones)


def _padded(joints: int) -> int:
    """What `tl.dot` takes: a power of two, 16 at least."""
    return max(16, 1 << (joints - 1).bit_length())


def _precision() -> str:
    """Of products: three of TF32 that together are nearly as exact as float32, or one where torch allows it."""
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"
