"""Kernels in Triton for a GPU: how they are chosen, compiled, and multiply. `gru_kernels` and the like have them.

Products run on tensor cores, in half precision and nearly as exact as float32, which has 24 bits (`halves`): x is taken
as high + low, two float16 that have 22 bits together, and x y as high high + high low + low high. Where
`torch.set_float32_matmul_precision` allows TF32, which has the 11 bits of one float16, the first product is enough.

float32 takes them on an NVIDIA GPU of compute capability 8.0 or more with Triton 3.3 or later, as torch's own packages
for CUDA bring it. Before Python starts KINLMR_TRITON=0 turns them off, KINLMR_TRITON=1 takes them without asking;
KINLMR_TRITON=1 and TRITON_INTERPRET=1 interpret them on a CPU, for tests.
"""

from __future__ import annotations

import functools
import importlib
import os
import types
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

ENABLED = os.environ.get("KINLMR_TRITON")
LARGE_MEMORY = 160_000  # bytes of shared memory

tl: Any = None  # triton.language in a kernel (`compiled`)


def traced() -> bool:
    """Whether torch.compile, torch.export or torch.func traces the call, and needs pure functions."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def serves(x: Tensor, *others: Tensor) -> bool:
    """Whether the kernels take x and the others: plain float32 on one device."""
    interpreted = x.is_cpu and ENABLED == "1" and os.environ.get("TRITON_INTERPRET") == "1"
    if ENABLED == "0" or not (x.is_cuda or interpreted):
        return False
    fit = all(_plain(y) and y.device == x.device for y in (x, *others))
    return fit and (ENABLED == "1" or _supported(x.device.index))


def _plain(x: Tensor) -> bool:
    return type(x) in (Tensor, nn.Parameter) and x.dtype == torch.float32 and not x.is_neg()


@functools.cache
def _supported(device: int) -> bool:
    """Whether the GPU's tensor cores know TF32, and there is a Triton that launches programs together and compiles."""
    if torch.version.hip or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    try:
        version = importlib.import_module("triton").__version__
    except ImportError:
        return False
    if tuple(map(int, version.split(".")[:2])) < (3, 3):
        return False
    try:
        halves(torch.ones(1, 16, device=torch.device("cuda", device)), 1, 16)
    except Exception as error:  # whatever stops Triton: no C compiler, a GPU that it does not know
        warnings.warn(f"Triton's kernels do not run here, so the plain path is taken: {error}", stacklevel=2)
        return False
    return True


@functools.cache
def compiled(kernel: Callable[..., None]) -> Any:
    """A kernel for Triton, which the first one imports: a copy of the function, in which ``tl`` is triton.language."""
    try:
        language = importlib.import_module("triton.language")
    except ImportError as error:
        raise ImportError(f"KINLMR_TRITON=1, but {error}; pip install triton, or unset it") from None
    copy = types.FunctionType(kernel.__code__, {**kernel.__globals__, "tl": language})
    return importlib.import_module("triton").jit(functools.update_wrapper(copy, kernel))


def launch(kernel: Callable[..., None], grid: tuple[int, ...], x: Tensor, *arguments: Any, **options: Any) -> None:
    """Run a kernel on the GPU that holds x, its first argument. It gets addresses alone: all must be contiguous."""
    for y in (x, *arguments):
        if isinstance(y, Tensor) and not (y.is_contiguous() and y.device == x.device):
            raise ValueError(f"{kernel.__name__} got a tensor {tuple(y.shape)} of strides {y.stride()} on {y.device}")
    with torch.cuda.device_of(x):
        compiled(kernel)[grid](x, *arguments, **options)


def exact() -> bool:
    """Whether products are nearly as exact as float32; else as TF32."""
    return torch.get_float32_matmul_precision() == "highest"


def stages(device: torch.device) -> int:
    """Stages of a kernel's pipeline: three where a program may have a data centre GPU's shared memory, else two."""
    return 3 if device.type == "cuda" and properties(device.index).shared_memory_per_block_optin >= LARGE_MEMORY else 2


@functools.cache
def properties(device: int) -> Any:
    return torch.cuda.get_device_properties(device)


class Halves(NamedTuple):
    """Rows of float32 as two of float16: values (2, R, groups, padded), each row divided by its scale (R)."""

    values: Tensor
    scale: Tensor


def halves(x: Tensor, groups: int, pad_to: int, rows: int = 1, columns: Tensor | None = None) -> Halves:
    """x (R, groups * width), each column first multiplied by one of ``columns`` (groups * width), if they are given.
    Filled up with zeros: the rows to a multiple of ``rows``, each group's width to one of ``pad_to``."""
    x = x.contiguous()
    width, count = x.shape[1] // groups, -(-len(x) // rows) * rows
    padded = -(-width // pad_to) * pad_to
    values = torch.empty(2, count, groups, padded, dtype=torch.float16, device=x.device)
    scale = x.new_empty(count)
    launch(
        _halves, (count,), x, scale if columns is None else columns.contiguous(), values, scale, len(x), width, padded,
        values.stride(0), GROUPS=groups, SCALED=columns is not None,
        BLOCK=min(1024, max(32, 1 << (groups * padded - 1).bit_length())),
    )  # fmt: skip
    return Halves(values, scale)


def _halves(
    x, columns, values, scale, count, width, padded, low, GROUPS: tl.constexpr, SCALED: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    x += row * GROUPS * width
    values += row * GROUPS * padded
    largest = tl.full((BLOCK,), 0.0, tl.float32)
    for begin in range(0, GROUPS * padded, BLOCK):
        index = begin + tl.arange(0, BLOCK)
        group, column = index // padded, index % padded
        inside = (column < width) & (group < GROUPS) & (row < count)
        value = tl.load(x + group * width + column, inside, other=0.0)
        if SCALED:
            value *= tl.load(columns + group * width + column, inside, other=0.0)
        largest = tl.maximum(largest, tl.abs(value))
    # the scale is the power of two, a float's exponent, that brings the largest to 2^13
    power = tl.max(largest, 0).to(tl.int32, bitcast=True) & 0x7F800000
    power = tl.where(power > 13 << 23, power, 127 << 23)
    tl.store(scale + row, (power - (13 << 23)).to(tl.float32, bitcast=True))
    inverse = ((140 << 23) - (power - (127 << 23))).to(tl.float32, bitcast=True)
    for begin in range(0, GROUPS * padded, BLOCK):
        index = begin + tl.arange(0, BLOCK)
        group, column = index // padded, index % padded
        inside = (column < width) & (group < GROUPS) & (row < count)
        value = tl.load(x + group * width + column, inside, other=0.0)
        if SCALED:
            value *= tl.load(columns + group * width + column, inside, other=0.0)
        value *= inverse
        high = value.to(tl.float16)
        tl.store(values + index, high, group < GROUPS)
        tl.store(values + index + low, (value - high.to(tl.float32)).to(tl.float16), group < GROUPS)
