"""Stacks: the parameters of many modules as slices of one tensor, so that one product can use them all.

A stack's row i is one parameter, in the upper left of zeros where others are larger. `lay` makes the parameters views of
such tensors, as nn.RNN.flatten_parameters does: they stay real parameters, each with its own name, gradient and
optimizer, and stacking costs nothing. Parameters that were parted from it since (by functional_call, a parametrization,
an assignment) are stacked anew at every call, with the same result.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import pad

ALIGN = 16  # numbers: rows of a stack begin on cache lines


class Stack:
    """Parameters of equal rank, ``holders``' (module, name): one row each."""

    def __init__(self, holders: list[tuple[nn.Module, str]]) -> None:
        self.holders = holders
        self.laid: Tensor | None = None
        self.places: list[tuple[int, tuple[int, ...]]] = []

    def parameters(self) -> list[Tensor]:
        """The parameters as they are now."""
        return [getattr(module, name) for module, name in self.holders]

    def lay(self) -> None:
        """Make the parameters views of one tensor, unless they are. One alone stays where it is."""
        parts = self.parameters()
        if len(parts) < 2 or self._lies(parts) or len({(p.dtype, p.device) for p in parts}) > 1:
            return
        if not all(name in module._parameters for module, name in self.holders):
            return
        shape = [max(sizes) for sizes in zip(*(p.shape for p in parts), strict=True)]
        if any(p.shape[-1] != shape[-1] for p in parts):
            shape[-1] = -(-shape[-1] // ALIGN) * ALIGN
        laid = torch.zeros(len(parts), *shape, dtype=parts[0].dtype, device=parts[0].device)
        for part, row in zip(parts, laid, strict=True):
            corner = row[tuple(map(slice, part.shape))]
            corner.copy_(part.detach())
            part.data = corner
        self.laid, self.places = laid, [(p.data_ptr(), p.stride()) for p in parts]

    def tensor(self) -> Tensor:
        """All of them as one tensor (n, ...), through which gradients reach each."""
        parts = self.parameters()
        if len(parts) < 2:
            return parts[0][None] if parts else torch.empty(0)
        traced = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
        if not traced and self.laid is not None and self._lies(parts):
            return _Laid.apply(self.laid, *parts) if torch.is_grad_enabled() else self.laid
        shape = [max(sizes) for sizes in zip(*(p.shape for p in parts), strict=True)]
        gaps = [[x for have, want in zip(p.shape[::-1], shape[::-1], strict=True) for x in (0, want - have)]
                for p in parts]  # fmt: skip
        return torch.stack([pad(p, gap) if any(gap) else p for p, gap in zip(parts, gaps, strict=True)])

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
    def forward(ctx: Any, laid: Tensor, *parts: Tensor) -> Tensor:
        ctx.save_for_backward(*parts)  # so that an edit before backward is noticed
        return laid.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        parts = ctx.saved_tensors
        return None, *(row[tuple(map(slice, p.shape))] for row, p in zip(gradient, parts, strict=True))
