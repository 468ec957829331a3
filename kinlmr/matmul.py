"""Products of rows by a weight, each by the operator of torch that is fastest for its size.

On a CPU a product of few rows by a large weight takes as long as reading the weight, and torch's operators read at
very different speeds; MKL also rearranges a large weight in every product. What `product` takes in float32:

    numbers in the weight    1 row             2 to 4 rows       more rows
    to 2^17                  torch.addmm       torch.addmm       torch.addmm
    to 2^20                  on the left       on the left       oneDNN from 2^19 on, else torch.addmm
    more                     halves            oneDNN            oneDNN

On the left: weight x^T, instead of x weight^T. Halves: a batch of two. oneDNN: the weight as it is, if it is contiguous
and no gradient is recorded. Other types go through torch.addmm, or on the left for few rows. A scan uses one weight in
every frame: for two rows or more oneDNN rearranges it once for all of them (`recurrence`), and one row is multiplied by
halves in the first frame only, after which the weight is in the cache. Only rounding differs.
`python benchmarks/products.py` measures them all.

Shapes: R rows; a leading axis n where the weights of n nodes are packed into one batch.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from kinlmr.cells import AddProduct, Product

FEW, LARGE, HUGE = 4, 2**17, 2**20  # rows; numbers in a weight


def traced() -> bool:
    """Whether torch.compile, torch.export or torch.func looks on: then only pure functions will do."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def product(x: Tensor, weight: Tensor, added: Tensor) -> Tensor:
    """x ([n,] R, in), weight ([n,] out, in), added: a bias ([n,] out) or as large as the result -> ([n,] R, out).

    On a CPU a large weight is read in the fastest way: for one row as a batch of two halves, if it is too large to be
    in the cache; for some rows by oneDNN as it is, or, if it may be in the cache, standing on the left.
    """
    bias = added.ndim < x.ndim
    if weight.ndim > 2:
        return torch.baddbmm(added.unsqueeze(-2) if bias else added, x, weight.mT)
    rows, numbers = x.shape[0], weight.numel()
    if numbers > LARGE and not x.is_cuda and not traced():
        if rows == 1 and _halved(weight, HUGE):
            return _product_of_halves(x, weight, added)
        if rows > 1 and bias and numbers > (HUGE if rows <= FEW else HUGE // 2) and _as_it_is(weight):
            return torch.ops.mkldnn._linear_pointwise(x, weight, added, "none", [], "")
        if rows <= FEW:
            return torch.addmm(added.unsqueeze(-1) if bias else added.mT, weight, x.contiguous().mT).mT
    return torch.addmm(added, x, weight.mT)


def _halved(weight: Tensor, smallest: int) -> bool:
    """Whether one row is multiplied by a weight's halves, as a batch of two: MKL reads it from main memory in two
    thirds to a half of the time, but from the cache more slowly."""
    fits = weight.ndim == 2 and weight.dtype == torch.float32 and weight.device.type == "cpu"
    return fits and weight.numel() > smallest and weight.shape[0] % 2 == 0


def _product_of_halves(x: Tensor, weight: Tensor, added: Tensor) -> Tensor:
    halves = weight.unflatten(0, (2, -1))
    return torch.baddbmm(added.reshape(2, -1, 1), halves, x.mT.expand(2, -1, -1)).view(1, -1)


def _as_it_is(weight: Tensor) -> bool:
    """Whether oneDNN multiplies by a weight as it is, by an operator without gradient."""
    return not torch.is_grad_enabled() and weight.is_contiguous() and _served(weight)


def add_product_(y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """y ([n,] R, out) += x ([n,] R, in) weight ([n,] out, in)^T"""
    return y.addmm_(x, weight.mT) if weight.ndim == 2 else y.baddbmm_(x, weight.mT)


def recurrence(weight: Tensor, bias: Tensor, rows: int, cache: list[Tensor]) -> Product:
    """A function for a scan's frames: h ([n,] R, H) -> its product by a weight ([n,] G, H), plus a bias ([n,] G)."""
    if (layout := _layout(weight, rows, cache)) is not None:
        return lambda h: torch.ops.mkldnn._linear_pointwise(h, layout, bias, "none", [], "")
    right, out = weight.mT, weight.new_empty(*weight.shape[:-2], rows, weight.shape[-2])
    multiply, added = (torch.addmm, bias) if weight.ndim == 2 else (torch.baddbmm, bias.unsqueeze(-2))
    in_cache = lambda h: multiply(added, h, right, out=out)  # noqa: E731
    if rows > 1 or not _halved(weight, HUGE // 2):
        return in_cache
    first = iter([lambda h: _product_of_halves(h, weight, bias)])
    return lambda h: next(first, in_cache)(h)


def recurrence_backward(weight: Tensor, rows: int, cache: list[Tensor]) -> AddProduct:
    """A function that adds to y ([n,] R, H) the product of a gradient ([n,] R, G) by a weight ([n,] G, H)."""
    if (layout := _layout(weight.mT, rows, cache)) is not None:
        return lambda y, x: y.add_(torch.ops.mkldnn._linear_pointwise(x, layout, None, "none", [], ""))
    add_product = torch.Tensor.addmm_ if weight.ndim == 2 else torch.Tensor.baddbmm_
    return lambda y, x: add_product(y, x, weight)


def _layout(weight: Tensor, rows: int, cache: list[Tensor]) -> Tensor | None:
    """A weight (out, in) as oneDNN arranges it, or None where torch multiplies: if it is small, not float32 on a CPU,
    or has one row to multiply."""
    if weight.ndim > 2 or rows == 1 or weight.numel() < LARGE or not _served(weight):
        return None
    if not cache:
        cache.append(_arrange(weight))
    return cache[0]


def _arrange(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight, FEW)  # the same for any number of rows but one


def _served(weight: Tensor) -> bool:
    """Whether oneDNN multiplies by a weight; ``torch.backends.mkldnn.set_flags(False)`` turns it off."""
    fits = type(weight) in (Tensor, nn.Parameter) and weight.dtype == torch.float32 and weight.device.type == "cpu"
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
