"""What flows: estimates and states, NamedTuples of tensors. A state has one row per person, to select and concat."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

from kinlmr.files import Array

Rows = Tensor | Array | Sequence[int] | Sequence[bool]
P = ParamSpec("P")
S = TypeVar("S", bound=tuple[Any, ...])


class Estimate(NamedTuple):
    """What LMR says of a frame: pose (..., J, R) in skeleton order, shape (..., S), camera (..., 3) as (s, tx, ty).

    The camera is in units of the crop (see `kinlmr.camera`) and for the body about its root joint:
    ``project(points - joints[..., [body.root], :], camera)``. `Recovery`'s is for the body as it is posed;
    ``kinlmr.camera.from_root(camera, joints[..., body.root, :])`` makes it of this one.
    """

    pose: Tensor
    shape: Tensor
    camera: Tensor


class State(NamedTuple):
    """What LMR remembers between frames: memory (B, V, M), every iteration's own hidden vectors side by side.

    A row, ``memory[b]``, is one person (one clip of a batch), and knows nothing of the others: people may be picked
    with `select`, joined with `kinlmr.concat`, and new ones come with ``model.initial_state(people)``. A state is a
    plain tuple of tensors that nothing writes to: two streams may go on from one state.
    """

    memory: Tensor

    def select(self, rows: Rows) -> State:
        """The state of these people, in this order. rows: numbers (n), which may repeat, or a mask (B) of bools."""
        return select(self, rows)

    def to(self, *args: Any, **kwargs: Any) -> State:
        """On another device or of another type; arguments as of `torch.Tensor.to`."""
        return State(*(x.to(*args, **kwargs) for x in self))


def select(state: S, rows: Rows) -> S:
    """The rows (n) of every tensor of a state of B people, in the order given; a mask (B) takes those that are True.

    Whole numbers of any type are rows, only bools are a mask.
    """
    people, index = len(state[0]), np.asarray(rows.tolist() if isinstance(rows, Tensor) else rows)
    if index.dtype == bool and index.shape == (people,):
        index = np.flatnonzero(index)
    elif index.dtype != bool and index.shape == (0,):
        index = index.astype(int)
    if index.ndim != 1 or index.dtype.kind not in "iu":
        raise ValueError(
            f"rows are a list of row numbers, or a mask of {people}, one for each person of the state; "
            f"not {index.dtype} of shape {index.shape}"
        )
    if index.size and not 0 <= index.min() <= index.max() < people:
        raise ValueError(f"rows {index.tolist()} are not all among 0 .. {people - 1}, the people of the state")
    chosen = torch.from_numpy(index.astype(np.int64))
    return type(state)(*(x[chosen.to(x.device)] for x in state))


def inference(function: Callable[P, S]) -> Callable[P, S]:
    """The function in inference mode, in which the many small operators of a live frame take a fifth less time. Its
    tensors, of a record or several, are as any others: copied where they are of that mode, or views of larger ones."""

    @functools.wraps(function)
    def run(*args: P.args, **options: P.kwargs) -> S:
        with torch.inference_mode():
            found = function(*args, **options)
        return _owned(found, torch.is_inference_mode_enabled())

    return run


def _owned(x: Any, inference: bool) -> Any:
    if isinstance(x, Tensor):
        own = x.untyped_storage().nbytes() == x.nbytes and (inference or not x.is_inference())
        return x if own else x.clone()
    parts = (_owned(part, inference) for part in x)
    return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)


def concat(states: Iterable[S]) -> S:
    """Several `kinlmr.State`, or several `kinlmr.RecoveryState`, as one: the rows of the first, then those of the next.

    A row is a person. Somebody new joins with a fresh state, somebody who leaves is not selected, and a person's
    numbers depend on nobody else's rows:

    >>> import kinlmr, torch
    >>> model = kinlmr.build("smpl.yaml", features=51, hidden=4)
    >>> _, state = model.step(torch.zeros(2, 51))  # people 0 and 1
    >>> state = kinlmr.concat([state, model.initial_state(1)])  # 2 comes
    >>> state = state.select([0, 2])  # 1 leaves; the next frames are of 0 and 2
    >>> state.memory.shape[0]
    2
    """
    states = list(states)
    if not states:
        raise ValueError(
            "concat joins at least one state; of nobody: model.initial_state(0), RecoveryState.initial(model, 0)"
        )
    first = states[0]
    for i, state in enumerate(states):
        if not (isinstance(state, tuple) and hasattr(state, "select")) or type(state) is not type(first):
            raise TypeError(
                f"concat joins State with State or RecoveryState with RecoveryState; states[{i}] is of type "
                f"{type(state).__name__}" + f", states[0] of type {type(first).__name__}" * (i > 0)
            )
        for name, x, y in zip(type(first)._fields, first, state, strict=True):  # type: ignore[attr-defined]
            one, two = ((z.shape[1:], z.dtype, z.device) for z in (x, y))
            if one != two:
                say = lambda z: f"{('B', *z.shape[1:])} {z.dtype} on {z.device}".replace("'", "")  # noqa: E731
                raise ValueError(
                    f"the {name} of states[{i}] is {say(y)}, of states[0] {say(x)}; join states of one model, "
                    "brought to one device and type with .to()"
                )
    return type(first)(*map(torch.cat, zip(*states, strict=True)))
