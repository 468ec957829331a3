"""Whether a weight's gradient is deferred to the end of a call of backward, and which call runs.

Two functions of torch are asked that no document promises, here and nowhere else; torch's activation checkpointing asks
them too. A torch without them defers nothing: autograd makes each gradient, as it does where a call is traced.
"""

from __future__ import annotations

from typing import Any

import torch

from kinlmr.kernels import traced

_call = getattr(torch._C, "_current_graph_task_id", None)
_reaches = getattr(torch._C, "_will_engine_execute_node", None)


def deferring() -> bool:
    """Whether gradients are wanted, and can be deferred."""
    return torch.is_grad_enabled() and _call is not None and _reaches is not None and not traced()


def call_of_backward() -> int:
    """The number of the call of backward that runs in this thread; -1 where none runs."""
    return -1 if _call is None else _call()


def reaches(node: Any) -> bool:
    """Whether the call of backward that runs will come to a node of its graph; to None it does not."""
    return node is not None and _reaches is not None and _reaches(node)
