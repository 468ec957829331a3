"""Stacks: the parameters of many modules as rows of one tensor, so that one product can use them all.

`lay` makes the parameters views of such tensors, as nn.RNN.flatten_parameters does: they stay real parameters, each with
its own name, gradient and optimizer, and stacking costs nothing. Parameters that were parted from their stack since (by
functional_call, a parametrization, an assignment) are stacked anew at every call, to the same result.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import pad


class Stack:
    """Parameters of one rank, one row each, in the upper left of zeros where others are larger.

    holders: (module, name) of each. ``turned`` ones, weights (out, in), lie as (in, out): so a product reads them as they
    lie, and the columns of some inputs are one block.
    """

    def __init__(self, holders: list[tuple[nn.Module, str]], turned: bool) -> None:
        self.holders, self.turned = holders, turned
        self.laid: Tensor | None = None
        self.places: list[tuple[int, tuple[int, ...]]] = []

    def lay(self) -> None:
        """Make the parameters views of one tensor, unless they are."""
        parts = [getattr(module, name) for module, name in self.holders]
        if not parts or self._lies(parts) or len({(p.dtype, p.device) for p in parts}) > 1:
            return
        if not all(name in module._parameters for module, name in self.holders):
            return
        laid = parts[0].new_zeros(len(parts), *self._shape(parts)).detach()
        for part, corner in zip(parts, self._corners(laid, parts), strict=True):
            corner.copy_(part.detach())
            part.data = corner
        self.laid, self.places = laid, [(p.data_ptr(), p.stride()) for p in parts]

    def tensor(self) -> Tensor:
        """All parameters as one tensor (n, ...), through which gradients reach each."""
        parts = [getattr(module, name) for module, name in self.holders]
        if not parts:
            return torch.empty(0)
        traced = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
        if not traced and self._lies(parts):
            return _Laid.apply(self, *parts) if torch.is_grad_enabled() else self.laid
        shape = self._shape(parts)
        rows = [p.mT if self.turned else p for p in parts]
        gaps = [[x for i in range(row.ndim - 1, -1, -1) for x in (0, shape[i] - row.shape[i])] for row in rows]
        return torch.stack([pad(row, gap) if any(gap) else row for row, gap in zip(rows, gaps, strict=True)])

    def _shape(self, parts: list[Tensor]) -> list[int]:
        shape = [max(sizes) for sizes in zip(*(p.shape for p in parts), strict=True)]
        return shape[::-1] if self.turned else shape

    def _corners(self, stack: Tensor, parts: list[Tensor] | tuple[Tensor, ...]) -> list[Tensor]:
        """Every parameter's place in a stack."""
        rows = [row.mT if self.turned else row for row in stack]
        return [row[tuple(map(slice, p.shape))] for row, p in zip(rows, parts, strict=True)]

    def _lies(self, parts: list[Tensor]) -> bool:
        """Whether all parameters are where `lay` put them."""
        laid = self.laid
        return laid is not None and all(
            p.data_ptr() == place and p.stride() == stride and p.dtype is laid.dtype
            for p, (place, stride) in zip(parts, self.places, strict=True)
        )


class _Laid(Function):
    """The stack itself, as a function of the parameters that lie in it."""

    @staticmethod
    def forward(ctx: Any, stack: Stack, *parts: Tensor) -> Tensor:
        ctx.stack = stack
        ctx.save_for_backward(*parts)  # so that an edit before backward is noticed
        return stack.laid.detach()  # type: ignore[union-attr]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.stack._corners(gradient, ctx.saved_tensors)
