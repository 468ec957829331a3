"""Products of rows by a weight, each by the operator of torch that is fastest for its size.

On a CPU a product of few rows by a large weight takes as long as reading the weight, and torch's operators read at
very different speeds; MKL also rearranges a large weight in every product. What `product` takes in float32:

    numbers in the weight    1 row     2 rows         3 or 4 rows    more rows
    to 2^17                  addmm     addmm          addmm          addmm
    to 2^19                  halves    on the left    on the left    addmm
    to 7 * 2^17              halves    on the left    on the left    oneDNN
    to 2^20                  halves    on the left    oneDNN         oneDNN
    more                     halves    oneDNN         oneDNN         oneDNN

Halves: the weight's upper and lower half, as a batch of two. On the left: weight x^T instead of x weight^T. Of a weight
in the cache both are slower than addmm. oneDNN needs a contiguous weight, a bias, and no gradient that is recorded;
else few rows go on the left, and more to addmm.

A scan uses one weight in every frame. If they are many (`layouts`) oneDNN rearranges it once for all of them, for two
to four rows, and of more than 2^20 numbers for more rows too; else the table holds for its first frame only, after
which the weight is in the cache. The rearranged weight takes as much memory again.

Only rounding differs. `python benchmarks/products.py` measures them all.

Shapes: R rows; a leading axis n where the weights of n nodes are packed into one batch.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kinlmr.engine.autograd import call_of_backward
from kinlmr.engine.cells import AddProduct
from kinlmr.kernels import halves as kernels
from kinlmr.kernels import traced

FEW, LARGE = 4, 2**17  # rows; numbers in a weight
HUGE = 2**20, 7 * 2**17, 7 * 2**17, 2**19  # numbers in a weight above which oneDNN multiplies 2, 3, 4 or more rows
APART = 256  # columns of a weight between those of one row and the next
ARRANGED, WORTH = 2**18, 3 * 2**22  # numbers in a weight, and times frames: arranging fewer takes longer than it saves
MANY_ROWS = 2**20  # numbers in a weight: of fewer, arranging saves nothing for more than few rows


@dataclass
class Layouts:
    """A recurrent weight in other layouts, each made when a scan first asks for it.

    forward, backward   the weight, and its transpose, as oneDNN arranges them, after the call of backward they are for
    halves              as the GPU's kernels take it
    """

    forward: tuple[int, Tensor] | None = None
    backward: tuple[int, Tensor] | None = None
    halves: kernels.Halves | None = None


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x.to(dtype)``, whose call takes as long as a small product even where it has nothing to do."""
    return x if x.dtype == dtype else x.to(dtype)


def product(x: Tensor, weight: Tensor, added: Tensor, cached: bool = False) -> Tensor:
    """x ([n,] R, in), weight ([n,] out, in), added: a bias ([n,] out) or as large as the result -> ([n,] R, out).

    cached: whether the weight has just been used, and is in the cache.
    """
    bias = added.ndim < x.ndim
    if weight.ndim > 2:
        return torch.baddbmm(added.unsqueeze(-2) if bias else added, x, weight.mT)
    numbers = weight.numel()
    if numbers > LARGE and _in_table(weight) and not traced():
        rows = x.shape[0]
        if rows > 1 and bias and numbers > HUGE[min(rows, FEW + 1) - 2] and _onednn_takes_as_it_is(x, weight, added):
            return _by_onednn(x, weight, added)
        if rows == 1 and not cached and weight.shape[0] % 2 == 0:
            halves = weight.unflatten(0, (2, -1))
            return torch.baddbmm(added.reshape(2, halves.shape[1], 1), halves, x.mT.expand(2, -1, -1)).view(1, -1)
        if rows <= FEW and not cached:
            return torch.addmm(added.unsqueeze(-1) if bias else added.mT, weight, x.contiguous().mT).mT
    return torch.addmm(added, x, weight.mT)


def _in_table(x: Tensor) -> bool:
    """Whether the table holds for a tensor."""
    return x.is_cpu and x.dtype == torch.float32 and x.layout == torch.strided


def _onednn_takes_as_it_is(x: Tensor, weight: Tensor, bias: Tensor) -> bool:
    """Whether oneDNN multiplies by a weight as it is, by an operator without gradient."""
    fits = x.shape[1:] == weight.shape[1:] and bias.shape == weight.shape[:1] and weight.is_contiguous()
    return fits and not torch.is_grad_enabled() and _onednn_takes(x, weight, bias)


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (R, in), weight (out, in), contiguous or arranged, bias (out) -> (R, out), all of them checked by the caller:
    the operator reads memory by their shapes alone."""
    bias = None if bias is None else bias.contiguous()
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")


def gathered(columns: Tensor, rows: int) -> Tensor:
    """Columns of a weight ([n,] out, in) for further products of so many rows: copied together where that is faster,
    which is for few rows if many columns lie between."""
    apart = columns.stride(-2) - columns.shape[-1] > APART
    return columns.contiguous() if apart and not traced() and rows < FEW else columns


def add_product_(y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """y ([n,] R, out) += x ([n,] R, in) weight ([n,] out, in)^T"""
    return y.addmm_(x, weight.mT) if weight.ndim == 2 else y.baddbmm_(x, weight.mT)


def layouts(weight: Tensor, frames: int) -> Layouts | None:
    """Where a recurrent weight's layouts will be kept for so many frames; None where they would not gain."""
    if traced():
        return None
    if kernels.serves(weight):
        return Layouts()
    many = weight.numel() >= ARRANGED and weight.numel() * frames >= WORTH
    return Layouts() if many and weight.ndim == 2 and _onednn_takes(weight) else None


def recurrence(weight: Tensor, rows: int, kept: Layouts | None, backward: bool = False) -> AddProduct:
    """A function for a scan's frames, that adds to y ([n,] R, G) the product of h ([n,] R, H) by a weight ([n,] G, H);
    for its backward, to y ([n,] R, H) that of a gradient ([n,] R, G)."""
    weight = weight.mT if backward else weight
    add_product, right = torch.Tensor.addmm_ if weight.ndim == 2 else torch.Tensor.baddbmm_, weight.mT
    layout, cached = _layout(weight, rows, kept, backward), backward

    def add(y: Tensor, x: Tensor) -> None:
        nonlocal cached
        if layout is not None and x.shape[1:] == weight.shape[1:] and _onednn_takes(x):
            y.add_(_by_onednn(x, layout))
        elif cached:
            add_product(y, x, right)
        else:
            y.copy_(product(x, weight, y))
        cached = True

    return add


def _layout(weight: Tensor, rows: int, kept: Layouts | None, backward: bool) -> Tensor | None:
    """A weight (out, in) as oneDNN arranges it; None where it is not arranged for so many rows.

    It is arranged once in a forward pass, and once in a call of backward.
    """
    if kept is None or rows == 1 or (rows > FEW and weight.numel() <= MANY_ROWS):
        return None
    call, name = call_of_backward(), "backward" if backward else "forward"
    found: tuple[int, Tensor] | None = getattr(kept, name)
    if found is None or found[0] != call:
        found = call, _arrange(weight)
        setattr(kept, name, found)
    return found[1]


def _arrange(weight: Tensor) -> Tensor:
    weight = weight if weight.mT.is_contiguous() else weight.contiguous()
    return torch.ops.mkldnn._reorder_linear_weight(weight, FEW)  # the same for any number of rows but one


def _onednn_takes(*tensors: Tensor) -> bool:
    """Whether oneDNN multiplies such tensors; ``torch.backends.mkldnn.set_flags(False)`` turns it off."""
    fit = all(type(x) in (Tensor, nn.Parameter) and _in_table(x) for x in tensors)
    return fit and torch._C._get_mkldnn_enabled() and _onednn()


@functools.cache
def _onednn() -> bool:
    """Whether this torch has the two operators and they work; torch.compile uses them, no document promises them."""
    x, weight = (torch.ones(n, 3, dtype=torch.float32, device="cpu") for n in (2, 4))
    try:
        y = _by_onednn(x, _arrange(weight), weight.sum(-1))
    except (AttributeError, RuntimeError):
        return False
    return bool((y == 6).all())
