"""Recurrent cells. A cell kind is one record; `CELLS` holds the known ones, and `build(cell=...)` takes any other.

A cell's memory is one or more vectors of H numbers, (vectors, ..., H); the first is the hidden state h, its output. Its
gates are G numbers, a multiple of H. Before their activations they are the sum of the input projection (the input
weight times the input, plus a bias) and the recurrent projection (the recurrent weight times h, plus a bias). ``step``
is one frame, in pure functions, and is all that a cell needs. ``scan`` and ``scan_backward`` do a block of C frames in
place, which is faster; a cell without them goes through ``step`` and autograd.

A new kind, torch.nn.RNN's:

>>> rnn = Cell("rnn", gates=1, vectors=1, step=lambda inputs, recurrent, memory: (inputs + recurrent).tanh()[None])
>>> from kinlmr import build
>>> model = build(features=4, hidden=8, cell=rnn)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kinlmr.kernels import gru as gru_kernels

AddProduct = Callable[[Tensor, Tensor], object]  # of scans, by the recurrent weight


class Cell(NamedTuple):
    """A kind of recurrent cell.

    gates, vectors   numbers in its gates and in its memory, in multiples of H
    step             both projections (..., G), of the input and recurrent, memory (vectors, ..., H) -> memory after
    scan             the input projection (..., C, R, G) for C frames of R rows, which it may overwrite;
                     memory (vectors, ..., R, H); the recurrent bias (..., G); a function that adds h W^T to gates
                     (..., R, G), W the recurrent weight (G, H) and h (..., R, H); whether backward follows
                     -> memory before and after every frame (vectors, ..., C + 1, R, H), and what else backward needs
    scan_backward    gradient of all those memories, which it may overwrite; the memories; what ``scan`` kept; a
                     function that adds g W to a gradient of h (..., R, H), g (..., R, G) that of the recurrent
                     projection -> gradients of the input and recurrent projections (..., C, R, G), and of memory
    kernels          the same two for a GPU, which take the recurrent weight (..., G, H) instead of a function
    """

    name: str
    gates: int
    vectors: int
    step: Callable[[Tensor, Tensor, Tensor], Tensor]
    scan: Callable[..., tuple[Tensor, list[Tensor]]] | None = None
    scan_backward: Callable[..., tuple[Tensor, Tensor, Tensor]] | None = None
    kernels: tuple[Callable[..., Any], Callable[..., Any]] | None = None


def gru_step(inputs: Tensor, recurrent: Tensor, memory: Tensor) -> Tensor:
    """torch.nn.GRU's equations; gates in the order r, z, n."""
    size = memory.shape[-1]
    (to_rz, to_n), (recurrent_rz, recurrent_n) = (x.split_with_sizes((2 * size, size), -1) for x in (inputs, recurrent))
    r, z = (to_rz + recurrent_rz).sigmoid_().split_with_sizes((size, size), -1)
    return torch.lerp(torch.addcmul(to_n, r, recurrent_n).tanh_(), memory, z)


def gru_scan(
    gates: Tensor, memory: Tensor, bias: Tensor, add_product: AddProduct, keep: bool
) -> tuple[Tensor, list[Tensor]]:
    """As `gru_step`, C times. What is kept: ``gates``, which become r, z and the recurrent projection of n; n."""
    size, frames, rows = memory.shape[-1], *gates.shape[-3:-1]
    states = torch.empty(*gates.shape[:-3], frames + 1, rows, size, dtype=gates.dtype, device=gates.device)
    states[..., 0, :, :] = memory[0]
    rz, recurrent_n = gates.split_with_sizes((2 * size, size), -1)
    candidate = recurrent_n.clone()
    recurrent_n.zero_()
    gates.add_(bias[..., None, None, :])
    h, *after = states.unbind(-3)
    parts = (x.unbind(-3) for x in (gates, rz, *rz.chunk(2, -1), recurrent_n, candidate))
    for frame, rz, r, z, recurrent_n, n, out in zip(*parts, after, strict=True):
        add_product(frame, h)
        rz.sigmoid_()
        h = torch.lerp(n.addcmul_(r, recurrent_n).tanh_(), h, z, out=out)
    return states[None], [gates, candidate] if keep else []


def gru_scan_backward(
    gradient: Tensor, states: Tensor, gates: Tensor, n: Tensor, add_product: AddProduct
) -> tuple[Tensor, Tensor, Tensor]:
    """All that does not depend on the gradient of a later frame is computed for all frames at once."""
    h, d, size = states[0], gradient[0], states.shape[-1]
    r, z, recurrent_n = gates.chunk(3, -1)
    recurrent = torch.empty_like(gates)
    to_r, to_z, to_n = recurrent.chunk(3, -1)  # first: derivatives of h after a frame by it
    by_n = (1 - z).mul_(1 - n * n)
    torch.mul(h[..., :-1, :, :] - n, z - z * z, out=to_z)
    torch.mul(by_n, r, out=to_n)
    torch.mul(to_n * recurrent_n, 1 - r, out=to_r)
    slices = [x.unbind(-3) for x in (d[..., :-1, :, :], d[..., 1:, :, :], recurrent, z)]
    for before, after, step, z_t in zip(*(reversed(x) for x in slices), strict=True):
        step.unflatten(-1, (3, size)).mul_(after.unsqueeze(-2))
        add_product(before.addcmul_(after, z_t), step)
    inputs = torch.empty_like(gates)
    inputs[..., : 2 * size] = recurrent[..., : 2 * size]
    torch.mul(by_n, d[..., 1:, :, :], out=inputs[..., 2 * size :])
    return inputs, recurrent, d[None, ..., 0, :, :]


def lstm_step(inputs: Tensor, recurrent: Tensor, memory: Tensor) -> Tensor:
    """torch.nn.LSTM's equations; gates in the order i, f, g, o; memory is h and c."""
    i, f, g, o = (inputs + recurrent).chunk(4, -1)
    c = torch.addcmul(f.sigmoid() * memory[1], i.sigmoid(), g.tanh())
    return torch.stack([o.sigmoid() * c.tanh(), c])


CELLS = {
    "gru": Cell(
        "gru", 3, 1, gru_step, gru_scan, gru_scan_backward, (gru_kernels.gru_scan, gru_kernels.gru_scan_backward)
    ),
    "lstm": Cell("lstm", 4, 2, lstm_step),
}
