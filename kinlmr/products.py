"""Products with weights that many ticks of a sweep use, and a cell's scan over a block of frames, with their gradients.

The gradient of such a weight is one product, after the last tick's backward, instead of a sum over all ticks.
torch.compile, torch.export and torch.func see pure functions and plain autograd instead (`traced`).

On a CPU torch rearranges a large weight in every product, which takes longer than the product of a few rows itself. A
scan multiplies by its recurrent weight in every frame, so oneDNN rearranges that weight once a call (`_recurrence`).

Shapes: R rows; a leading axis n where the weights of n nodes are packed into one batch.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from kinlmr.cells import FEW, LARGE, AddProduct, Cell, Product, add_product_, product

Log = dict[int, list[tuple[Tensor, Tensor]]]


class Weight(NamedTuple):
    """A weight ([n,] out, in) and its bias ([n,] out), for `linear`, `scan` and `gates`, which adds no bias.

    In backward each product logs (gradient of its result, its input) under the number of the running backward call, and
    returns an empty gradient for ``token``. After the last of them autograd runs the token's backward, which turns the
    log into the gradients of weight and bias. ``layouts``: the weight, and for backward its transpose, as oneDNN
    arranges them, once a scan has asked.
    """

    weight: Tensor
    bias: Tensor
    token: Tensor
    log: Log
    layouts: tuple[list[Tensor], list[Tensor]]


def shared(weight: Tensor, bias: Tensor) -> Weight:
    """A weight that many products will use."""
    log: Log = {}
    return Weight(weight, bias, _token([log], weight, bias), log, ([], []))


def columns(weight: Tensor, bias: Tensor, first: Tensor, others: Tensor) -> tuple[Weight, Weight]:
    """A weight's first columns, with its bias, and its others, as weights of their own that make one gradient."""
    logs: list[Log] = [{}, {}]
    token = _token(logs, weight, bias)
    return Weight(first, bias, token, logs[0], ([], [])), Weight(others, bias, token, logs[1], ([], []))


def _token(logs: list[Log], weight: Tensor, bias: Tensor) -> Tensor:
    return _Gradients.apply(logs, weight, bias) if torch.is_grad_enabled() and not traced() else weight


def traced() -> bool:
    """Whether torch.compile, torch.export or torch.func looks on: then only pure functions will do."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def linear(x: Tensor, w: Weight) -> Tensor:
    """x ([n,] R, in) -> ([n,] R, out), in the weight's type."""
    x = x.to(w.weight.dtype)
    if not torch.is_grad_enabled() or traced():
        return product(x, w.weight, w.bias)
    return _Linear.apply(x, w.weight.detach(), w.bias.detach(), w.token, w.log)


def gates(shares: list[Tensor], x: Tensor, w: Weight) -> Tensor:
    """What a tick's inputs say to the gates: of A blocks the features' shares ([n,] C, B, G), plus x ([n,] C A B, K)
    times the weight ([n,] G, K) -> ([n,] C A B, G), which nothing else refers to."""
    x = x.to(w.weight.dtype)
    if traced():
        return product(x, w.weight, torch.stack(shares, -3).flatten(-4, -2))
    return _Gates.apply(x, w.weight.detach(), w.token, w.log, *shares)


def scan(cell: Cell, gates: Tensor, memory: Tensor, w: Weight, ends: Tensor | None) -> tuple[Tensor, Tensor]:
    """A cell over C frames of R rows, each row a clip in an iteration.

    gates ([n,] C, R, G), the input's share, is overwritten; memory (vectors, [n,] R, H); ends (R): after how many
    frames each row's memory is wanted, None: after all
    -> outputs h ([n,] C, R, H), memory (vectors, [n,] R, H)
    """
    if cell.scan and gates.shape[-3] > 1 and not traced() and w.weight.dtype == gates.dtype:
        return _Scan.apply(cell, gates, memory, w, w.token, ends, torch.is_grad_enabled())
    states = [memory]
    for frame in gates.unbind(-3):
        states.append(cell.step(frame, linear(states[-1][0], w).to(gates.dtype), states[-1]))
    if ends is None:
        return torch.stack([state[0] for state in states[1:]], -3), states[-1]
    every = torch.stack(states, -3)
    return every[0, ..., 1:, :, :], _at(every, ends)


def _at(states: Tensor, ends: Tensor | None) -> Tensor:
    """Of memories (..., C + 1, R, H) each row's after ``ends`` (R) frames: (..., R, H)."""
    if ends is None:
        return states[..., -1, :, :].clone()
    return states.gather(-3, _index(states, ends)).squeeze(-3)


def _index(states: Tensor, ends: Tensor) -> Tensor:
    return ends[:, None].expand(*states.shape[:-3], 1, -1, states.shape[-1])


class _Gradients(Function):
    """The gradients of a weight, from the logs of its groups of columns, and of its bias, from the first."""

    @staticmethod
    def forward(ctx: Any, logs: list[Log], weight: Tensor, bias: Tensor) -> Tensor:
        ctx.logs = logs
        return weight.new_empty(0)

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, ...]:
        call = torch._C._current_graph_task_id()
        pairs = [[torch.cat(parts, -2) for parts in zip(*log.pop(call), strict=True)] for log in ctx.logs]
        to_weight = [rows.mT @ inputs for rows, inputs in pairs]
        return None, to_weight[0] if len(to_weight) == 1 else torch.cat(to_weight, -1), pairs[0][0].sum(-2)


def _logged(log: Log, wanted: bool, gradient: Tensor, x: Tensor) -> Tensor | None:
    """Log a product, and return its token's gradient."""
    if not wanted:
        return None
    log.setdefault(torch._C._current_graph_task_id(), []).append((gradient, x))
    return gradient.new_empty(0)


def _once() -> None:
    if torch.is_grad_enabled():
        raise NotImplementedError(
            "LMR's backward has no derivative of its own; instead of create_graph=True take torch.func (grad, jvp, "
            "hessian), which differentiates the cells' equations"
        )


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, token: Tensor, log: Log) -> Tensor:
        ctx.log = log
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        _once()
        x, weight = ctx.saved_tensors
        to_x = gradient @ weight if ctx.needs_input_grad[0] else None
        return to_x, None, None, _logged(ctx.log, ctx.needs_input_grad[3], gradient, x), None


class _Gates(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, token: Tensor, log: Log, *shares: Tensor) -> Tensor:
        ctx.log, ctx.blocks = log, (shares[0].shape[-3], len(shares), -1)
        ctx.save_for_backward(x, weight)
        result = x.new_empty(*x.shape[:-1], weight.shape[-2])
        torch.stack(shares, -3, out=result.unflatten(-2, (shares[0].shape[-3], len(shares), -1)))
        return add_product_(result, x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        _once()
        x, weight = ctx.saved_tensors
        token = _logged(ctx.log, ctx.needs_input_grad[2], gradient, x)
        return gradient @ weight, None, token, None, *gradient.unflatten(-2, ctx.blocks).unbind(-3)


def _recurrence(weight: Tensor, bias: Tensor, rows: int, cache: list[Tensor]) -> Product:
    """A function for a scan's frames: h ([n,] R, H) -> its product by a weight ([n,] G, H), plus a bias ([n,] G)."""
    if (layout := _layout(weight, rows, cache)) is not None:
        return lambda h: torch.ops.mkldnn._linear_pointwise(h, layout, bias, "none", [], "")
    right, out = weight.mT, weight.new_empty(*weight.shape[:-2], rows, weight.shape[-2])
    product, added = (torch.addmm, bias) if weight.ndim == 2 else (torch.baddbmm, bias.unsqueeze(-2))
    return lambda h: product(added, h, right, out=out)


def _recurrence_backward(weight: Tensor, rows: int, cache: list[Tensor]) -> AddProduct:
    """A function that adds to y ([n,] R, H) the product of a gradient ([n,] R, G) by a weight ([n,] G, H)."""
    if (layout := _layout(weight.mT, rows, cache)) is not None:
        return lambda y, x: y.add_(torch.ops.mkldnn._linear_pointwise(x, layout, None, "none", [], ""))
    add_product = torch.Tensor.addmm_ if weight.ndim == 2 else torch.Tensor.baddbmm_
    return lambda y, x: add_product(y, x, weight)


def _layout(weight: Tensor, rows: int, cache: list[Tensor]) -> Tensor | None:
    """A weight (out, in) as oneDNN arranges it, or None where torch multiplies: if it is small, not float32 on a CPU,
    or has one row to multiply. ``torch.backends.mkldnn.set_flags(False)`` turns oneDNN off."""
    fits = type(weight) is Tensor and weight.ndim == 2 and weight.dtype == torch.float32 and weight.device.type == "cpu"
    if not (fits and rows > 1 and weight.numel() >= LARGE and torch._C._get_mkldnn_enabled() and _onednn()):
        return None
    if not cache:
        cache.append(_arrange(weight))
    return cache[0]


def _arrange(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight, FEW)  # the same for any number of rows but one


@functools.cache
def _onednn() -> bool:
    """Whether this torch has the two operators and they work; torch.compile uses them, no document promises them."""
    x, weight = (torch.ones(n, 3, dtype=torch.float32, device="cpu") for n in (2, 4))
    try:
        y = torch.ops.mkldnn._linear_pointwise(x, _arrange(weight), weight.sum(-1), "none", [], "")
    except (AttributeError, RuntimeError):
        return False
    return bool((y == 6).all())


class _Scan(Function):
    """`scan` by the cell's own scan and scan_backward."""

    @staticmethod
    def forward(
        ctx: Any, cell: Cell, gates: Tensor, memory: Tensor, w: Weight, token: Tensor, ends: Tensor | None, keep: bool
    ) -> tuple[Tensor, Tensor]:
        weight, (cache, ctx.cache) = w.weight.detach(), w.layouts
        recurrent = _recurrence(weight, w.bias.detach(), gates.shape[-2], cache)
        states, kept = cell.scan(gates, memory, recurrent, keep)  # type: ignore[misc]
        ctx.cell, ctx.log, ctx.ends = cell, w.log, ends
        ctx.save_for_backward(weight, states, *kept)
        return states[0, ..., 1:, :, :], _at(states, ends)

    @staticmethod
    def backward(ctx: Any, outputs: Tensor, after: Tensor) -> tuple[Tensor | None, ...]:
        _once()
        weight, states, *kept = ctx.saved_tensors
        gradient = torch.zeros_like(states)
        gradient[0, ..., 1:, :, :] = outputs
        if ctx.ends is None:
            gradient[..., -1, :, :] += after
        else:
            gradient.scatter_add_(-3, _index(gradient, ctx.ends), after.unsqueeze(-3))
        add_product = _recurrence_backward(weight, states.shape[-2], ctx.cache)
        inputs, recurrent, memory = ctx.cell.scan_backward(gradient, states, *kept, add_product)
        h = states[0, ..., :-1, :, :].flatten(-3, -2)
        token = _logged(ctx.log, ctx.needs_input_grad[4], recurrent.flatten(-3, -2), h)
        return None, inputs, memory, None, token, None, None
