"""The recurrent cells, batched over nodes: forward, and backward by hand; and the product that feeds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

FEW = 4  # rows


def product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (n, R, in), weight (n, out, in), bias (n, out) -> (n, R, out), in the weight's type."""
    x, half = x.to(weight.dtype), weight.dtype.itemsize < 4
    if torch.compiler.is_compiling() or weight.is_cuda:
        return torch.baddbmm(bias[:, None], x, weight.mT)
    if half and not weight.is_contiguous():  # the CPU's batched product would copy the weights
        return torch.stack([torch.addmm(b, a, w.mT) for b, a, w in zip(bias, x, weight, strict=True)])
    if not half and x.shape[1] <= FEW and weight.stride(-1) == 1:  # weights that lie so are read faster from the left
        return torch.baddbmm(bias[..., None], weight, x.mT).mT
    return torch.baddbmm(bias[:, None], x, weight.mT)


def gru(gi: Tensor, gh: Tensor, memory: Tensor) -> tuple[Tensor, list[Tensor]]:
    """torch.nn.GRU's cell: what its input and its memory say to its gates (..., 3 H), memory (1, ..., H), which is h ->
    memory after, and what `gru_back` needs."""
    sizes = [2 * memory.shape[-1], memory.shape[-1]]
    (ri, ni), (rh, hn) = gi.split(sizes, -1), gh.split(sizes, -1)
    rz = torch.sigmoid(ri + rh)
    r, z = rz.chunk(2, -1)
    n = torch.tanh(torch.addcmul(ni, r, hn))
    return torch.lerp(n, memory, z), [rz, n, hn]


def gru_back(d: Tensor, memory: Tensor, rz: Tensor, n: Tensor, hn: Tensor, gi: Tensor, gh: Tensor) -> Tensor:
    """From the adjoint of memory after: those of gi and gh, written into them, and of memory before, without gh's."""
    h, r, z, size = memory[0], *rz.chunk(2, -1), n.shape[-1]
    straight = d[0] * z
    dn = (d[0] - straight) * (1 - n * n)
    gi[..., :size], gi[..., size : 2 * size] = dn * hn * (r - r * r), straight * (1 - z) * (h - n)
    gi[..., 2 * size :], gh[..., 2 * size :] = dn, dn * r
    gh[..., : 2 * size] = gi[..., : 2 * size]
    return straight[None]


def lstm(gi: Tensor, gh: Tensor, memory: Tensor) -> tuple[Tensor, list[Tensor]]:
    """torch.nn.LSTM's cell, likewise; its memory (2, ..., H) is h and c."""
    i, f, g, o = (gi + gh).chunk(4, -1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    c = f * memory[1] + i * g
    t = c.tanh()
    return torch.stack([o * t, c]), [i, f, g, o, t]


def lstm_back(
    d: Tensor, memory: Tensor, i: Tensor, f: Tensor, g: Tensor, o: Tensor, t: Tensor, gi: Tensor, gh: Tensor
) -> Tensor:
    dc = d[1] + d[0] * o * (1 - t * t)
    di, df, dg, do = dc * g * (i - i * i), dc * memory[1] * (f - f * f), dc * i * (1 - g * g), d[0] * t * (o - o * o)
    gi.copy_(gh.copy_(torch.cat([di, df, dg, do], -1)))
    return torch.stack([torch.zeros_like(dc), dc * f])


class Kind(NamedTuple):
    """A cell's forward and backward, and how many tensors the one saves for the other."""

    forward: Callable[..., tuple[Tensor, list[Tensor]]]
    back: Callable[..., Tensor]
    saves: int


KINDS = {"gru": Kind(gru, gru_back, 3), "lstm": Kind(lstm, lstm_back, 5)}
