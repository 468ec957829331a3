"""What refusals say: the file, the nearest name, an error in a line."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


@contextmanager
def about(path: str | os.PathLike[str]) -> Iterator[None]:
    """A ValueError raised inside gets "PATH: " before it, once: what already begins with the path is left as it is.

    >>> with about("clip.bvh"), about("clip.bvh"):
    ...     raise ValueError("no frames")
    Traceback (most recent call last):
    ValueError: clip.bvh: no frames
    """
    name = os.fspath(path)
    try:
        yield
    except ValueError as error:
        if str(error).startswith(f"{name}:"):
            raise
        raise ValueError(f"{name}: {error}") from None


def nearest(name: str, names: Iterable[str]) -> str:
    """The end of a refusal: "; did you mean 'left_hip'?" where some name is near, else ""."""
    lower = {known.lower(): known for known in names}
    near = difflib.get_close_matches(name.lower(), lower, 1)
    return f"; did you mean {lower[near[0]]!r}?" if near else ""


def short(error: BaseException) -> str:
    """What an error says, at most 300 letters of it."""
    return str(error)[:300]
