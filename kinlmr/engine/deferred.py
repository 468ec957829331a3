"""Products with weights that many ticks of a sweep use, and a cell's scan over a block of frames, with their gradients.

The gradient of such a weight is one product, after the last tick's backward, instead of a sum over all ticks.
torch.compile, torch.export and torch.func see pure functions and plain autograd instead (`traced`).

Shapes: R rows; a leading axis n where the weights of n nodes are packed into one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from kinlmr.engine.autograd import call_of_backward, deferring, reaches
from kinlmr.engine.cells import Cell
from kinlmr.engine.matmul import Layouts, add_product_, cast, layouts, product, recurrence
from kinlmr.kernels import halves as kernels
from kinlmr.kernels import traced

STRIP = 384  # rows of a weight's gradient that stay in the cache while its groups of columns are written

Log = dict[int, list[tuple[Tensor, Tensor]]]


class Weight(NamedTuple):
    """A weight ([n,] out, in) and its bias ([n,] out), for `linear`, `scan` and `gates` (which leaves the bias out).

    In backward each product logs (gradient of its result, its input) under the number of the running backward call, and
    returns an empty gradient for ``token``. After the last of them autograd runs the token's backward, which turns the
    log into the gradients of weight and bias. Where this call does not want these, nothing is logged.
    """

    weight: Tensor
    bias: Tensor
    token: Tensor
    log: Log
    layouts: Layouts | None = None


def shared(weight: Tensor, bias: Tensor, frames: int = 1) -> Weight:
    """A weight that many products will use, a recurrent one in so many frames."""
    log: Log = {}
    return Weight(weight, bias, _token([log], weight, bias), log, layouts(weight, frames))


def columns(weight: Tensor, bias: Tensor, first: Tensor, others: Tensor) -> tuple[Weight, Weight]:
    """A weight's first columns, with its bias, and its others, as weights of their own that make one gradient."""
    logs: list[Log] = [{}, {}]
    token = _token(logs, weight, bias)
    return Weight(first, bias, token, logs[0]), Weight(others, bias, token, logs[1])


def _token(logs: list[Log], weight: Tensor, bias: Tensor) -> Tensor:
    return _Gradients.apply(logs, weight, bias) if deferring() else weight


def linear(x: Tensor, w: Weight, cached: bool = False) -> Tensor:
    """x ([n,] R, in) -> ([n,] R, out), in the weight's type. cached: whether the weight has just been used."""
    x = cast(x, w.weight.dtype)
    if deferring():
        return _Linear.apply(x, w.weight.detach(), w.bias.detach(), w.token, w.log, cached)
    return product(x, w.weight, w.bias, cached)


def gates(projections: list[Tensor], x: Tensor, w: Weight) -> Tensor:
    """A tick's input projection: of A blocks the features' part ([n,] C, B, G), plus x ([n,] C A B, K) times the weight
    ([n,] G, K) -> ([n,] C A B, G), a tensor that nothing else refers to."""
    x = cast(x, w.weight.dtype)
    if deferring():
        return _Gates.apply(x, w.weight.detach(), w.token, w.log, *projections)
    if torch.is_grad_enabled() or traced():
        return product(x, w.weight, torch.stack(projections, -3).flatten(-4, -2))
    return _gates(projections, x, w.weight)


def scan(cell: Cell, gates: Tensor, memory: Tensor, w: Weight, ends: Tensor | None) -> tuple[Tensor, Tensor]:
    """A cell over C frames of R rows, each row a clip in an iteration.

    gates ([n,] C, R, G), the input projection, is overwritten; memory (vectors, [n,] R, H); ends (R): after how many
    frames each row's memory is wanted, None: after all
    -> outputs h ([n,] C, R, H), memory (vectors, [n,] R, H)
    """
    if cell.scan and gates.shape[-3] > 1 and w.weight.dtype == gates.dtype:
        if deferring():
            return _Scan.apply(cell, gates, memory, w, w.token, ends)
        if not (torch.is_grad_enabled() or traced()):
            return _outputs(_states(cell, gates, memory, w, keep=False)[0], ends)
    states = [memory]
    for t, frame in enumerate(gates.unbind(-3)):
        states.append(cell.step(frame, cast(linear(states[-1][0], w, cached=t > 0), gates.dtype), states[-1]))
    if ends is None:
        return torch.stack([state[0] for state in states[1:]], -3), states[-1]
    return _outputs(torch.stack(states, -3), ends)


def _gates(projections: Sequence[Tensor], x: Tensor, weight: Tensor) -> Tensor:
    """`gates`, written into one new tensor."""
    result = x.new_empty(*x.shape[:-1], weight.shape[-2])
    torch.stack(projections, -3, out=result.unflatten(-2, (projections[0].shape[-3], len(projections), -1)))  # type: ignore[arg-type]
    return add_product_(result, x, weight)


def _fused(cell: Cell, gates: Tensor, memory: Tensor, w: Weight) -> bool:
    return bool(cell.kernels) and kernels.serves(gates, memory, w.weight.detach(), w.bias.detach())


def _states(cell: Cell, gates: Tensor, memory: Tensor, w: Weight, keep: bool) -> tuple[Tensor, list[Tensor]]:
    """Memories before and after every frame, and what else backward needs."""
    weight, bias = w.weight.detach(), w.bias.detach()
    if _fused(cell, gates, memory, w):
        return cell.kernels[0](gates, memory, weight, bias, keep, w.layouts)  # type: ignore[index]
    add_product = recurrence(weight, gates.shape[-2], w.layouts)
    return cell.scan(gates, memory, bias, add_product, keep)  # type: ignore[misc]


def _outputs(states: Tensor, ends: Tensor | None) -> tuple[Tensor, Tensor]:
    """Of memories (vectors, ..., C + 1, R, H): h after every frame (..., C, R, H); each row's memory after ``ends`` (R)
    frames (vectors, ..., R, H)."""
    outputs = states[0, ..., 1:, :, :]
    if ends is None:
        return outputs, states[..., -1, :, :].clone()
    return outputs, states.gather(-3, _index(states, ends)).squeeze(-3)


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
        call = call_of_backward()
        gradients, inputs = zip(
            *([torch.cat(parts, -2) for parts in zip(*log.pop(call), strict=True)] for log in ctx.logs), strict=True
        )
        return None, _side_by_side(gradients, inputs), gradients[0].sum(-2)


def _side_by_side(gradients: Sequence[Tensor], inputs: Sequence[Tensor]) -> Tensor:
    """The gradient of a weight ([n,] out, in), of each group of columns from gradients ([n,] R, out) and inputs
    ([n,] R, columns)."""
    if len(inputs) == 1:
        return gradients[0].mT @ inputs[0]
    widths = [x.shape[-1] for x in inputs]
    result = inputs[0].new_empty(*gradients[0].shape[:-2], gradients[0].shape[-1], sum(widths))
    strips = zip(*(gradient.mT.split(STRIP, -2) for gradient in gradients), strict=True)
    for out, rows in zip(result.split(STRIP, -2), strips, strict=True):
        for part, row, x in zip(out.split(widths, -1), rows, inputs, strict=True):
            torch.matmul(row, x, out=part)
    return result


def _logged(ctx: Any, gradient: Tensor, x: Tensor) -> Tensor | None:
    """Log a product, and return its token's gradient; None where this call of backward does not reach the weight."""
    if not reaches(ctx.token):
        return None
    ctx.log.setdefault(call_of_backward(), []).append((gradient, x))
    return gradient.new_empty(0)


def _refuse_double_backward() -> None:
    if torch.is_grad_enabled():
        raise NotImplementedError(
            "LMR's backward has no derivative of its own; instead of create_graph=True take torch.func (grad, jvp, "
            "hessian), which differentiates the cells' equations"
        )


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, token: Tensor, log: Log, cached: bool) -> Tensor:
        ctx.log, ctx.token = log, token.grad_fn
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias, cached).detach()  # a function's result that is a view cannot be overwritten

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_double_backward()
        x, weight = ctx.saved_tensors
        to_x = gradient @ weight if ctx.needs_input_grad[0] else None
        return to_x, None, None, _logged(ctx, gradient, x), None, None


class _Gates(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, token: Tensor, log: Log, *projections: Tensor) -> Tensor:
        ctx.log, ctx.token, ctx.blocks = log, token.grad_fn, (projections[0].shape[-3], len(projections), -1)
        ctx.save_for_backward(x, weight)
        return _gates(projections, x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_double_backward()
        x, weight = ctx.saved_tensors
        token = _logged(ctx, gradient, x)
        return gradient @ weight, None, token, None, *gradient.unflatten(-2, ctx.blocks).unbind(-3)


class _Scan(Function):
    """`scan` by the cell's own scan and scan_backward."""

    @staticmethod
    def forward(
        ctx: Any, cell: Cell, gates: Tensor, memory: Tensor, w: Weight, token: Tensor, ends: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        ctx.fused = _fused(cell, gates, memory, w)
        states, kept = _states(cell, gates, memory, w, keep=True)
        ctx.cell, ctx.log, ctx.layouts, ctx.token, ctx.ends = cell, w.log, w.layouts, token.grad_fn, ends
        ctx.save_for_backward(w.weight.detach(), states, *kept)
        return _outputs(states, ends)

    @staticmethod
    def backward(ctx: Any, outputs: Tensor, after: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_double_backward()
        weight, states, *kept = ctx.saved_tensors
        gradient = torch.zeros_like(states)
        gradient[0, ..., 1:, :, :] = outputs
        if ctx.ends is None:
            gradient[..., -1, :, :].add_(after)
        else:
            gradient.scatter_add_(-3, _index(gradient, ctx.ends), after.unsqueeze(-3))
        if ctx.fused:
            inputs, recurrent, memory = ctx.cell.kernels[1](gradient, states, *kept, weight, ctx.layouts)
        else:
            add_product = recurrence(weight, states.shape[-2], ctx.layouts, backward=True)
            inputs, recurrent, memory = ctx.cell.scan_backward(gradient, states, *kept, add_product)
        h = states[0, ..., :-1, :, :].flatten(-3, -2)
        token = _logged(ctx, recurrent.flatten(-3, -2), h)
        return None, inputs, memory, None, token, None
