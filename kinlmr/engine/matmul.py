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

A scan uses one weight in every frame. For two rows or more oneDNN rearranges it once for all frames, if they are many
(`layouts`); else the table holds for its first frame only, after which the weight is in the cache.

Only rounding differs. `python benchmarks/products.py` measures them all.

Shapes: R rows; a leading axis n where the weights of n nodes are packed into one batch.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from kinlmr.engine.cells import AddProduct
from kinlmr.kernels import halves as kernels
from kinlmr.kernels import traced

FEW, LARGE = 4, 2**17  # rows; numbers in a weight
HUGE = 2**20, 7 * 2**17, 7 * 2**17, 2**19  # numbers in a weight above which oneDNN multiplies 2, 3, 4 or more rows
APART = 256  # columns of a weight between those of one row and the next
ARRANGED, WORTH = 2**18, 3 * 2**22  # numbers in a weight, and times frames: arranging fewer takes longer than it saves

Layouts = dict[Any, Any]  # of a weight, once a scan has asked: as oneDNN arranges it, or the kernels' halves


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
        if rows > 1 and bias and numbers > HUGE[min(rows, FEW + 1) - 2] and _onednn_takes_as_it_is(weight):
            return torch.ops.mkldnn._linear_pointwise(x, weight, added, "none", [], "")
        if rows == 1 and not cached and weight.shape[0] % 2 == 0:
            halves = weight.unflatten(0, (2, -1))
            return torch.baddbmm(added.reshape(2, -1, 1), halves, x.mT.expand(2, -1, -1)).view(1, -1)
        if rows <= FEW and not cached:
            return torch.addmm(added.unsqueeze(-1) if bias else added.mT, weight, x.contiguous().mT).mT
    return torch.addmm(added, x, weight.mT)


def _in_table(weight: Tensor) -> bool:
    """Whether the table holds for a weight."""
    return weight.is_cpu and weight.dtype == torch.float32


def _onednn_takes_as_it_is(weight: Tensor) -> bool:
    """Whether oneDNN multiplies by a weight as it is, by an operator without gradient."""
    return not torch.is_grad_enabled() and weight.is_contiguous() and _onednn_takes(weight)


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
        return {}
    many = weight.numel() >= ARRANGED and weight.numel() * frames >= WORTH
    return {} if many and weight.ndim == 2 and _onednn_takes(weight) else None


def recurrence(weight: Tensor, rows: int, kept: Layouts | None, backward: bool = False) -> AddProduct:
    """A function for a scan's frames, that adds to y ([n,] R, G) the product of h ([n,] R, H) by a weight ([n,] G, H);
    for its backward, to y ([n,] R, H) that of a gradient ([n,] R, G)."""
    weight = weight.mT if backward else weight
    if (layout := _layout(weight, rows, kept, backward)) is not None:
        return lambda y, x: y.add_(torch.ops.mkldnn._linear_pointwise(x, layout, None, "none", [], ""))
    add_product, right = torch.Tensor.addmm_ if weight.ndim == 2 else torch.Tensor.baddbmm_, weight.mT
    cached = backward

    def add(y: Tensor, x: Tensor) -> None:
        nonlocal cached
        if cached:
            add_product(y, x, right)
        else:
            y.copy_(product(x, weight, y))
        cached = True

    return add


def _layout(weight: Tensor, rows: int, kept: Layouts | None, transposed: bool) -> Tensor | None:
    """A weight (out, in) as oneDNN arranges it; None where it is not arranged, or has one row to multiply.

    It is arranged once in a forward pass, and once in a call of backward.
    """
    if kept is None or rows == 1:
        return None
    call = torch._C._current_graph_task_id()
    if kept.get(transposed, (None,))[0] != call:
        kept[transposed] = call, _arrange(weight)
    layout: Tensor = kept[transposed][1]
    return layout


def _arrange(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight, FEW)  # the same for any number of rows but one


def _onednn_takes(weight: Tensor) -> bool:
    """Whether oneDNN multiplies by a weight; ``torch.backends.mkldnn.set_flags(False)`` turns it off."""
    fits = type(weight) in (Tensor, nn.Parameter) and _in_table(weight)
    return fits and torch._C._get_mkldnn_enabled() and _onednn()


@functools.cache
def _onednn() -> bool:
    """Whether this torch has the two operators and they work; torch.compile uses them, no document promises them."""
    x, weight = (torch.ones(n, 3, dtype=torch.float32, device="cpu") for n in (2, 4))
    try:
        y = torch.ops.mkldnn._linear_pointwise(x, _arrange(weight), weight.sum(-1), "none", [], "")
    except (AttributeError, RuntimeError):
        return False
    return bool((y == 6).all())
