"""What refusals say: the nearest name, an error in a line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, names: Iterable[str]) -> str:
    """The end of a refusal: "; did you mean 'left_hip'?" where some name is near, else ""."""
    lower = {known.lower(): known for known in names}
    near = difflib.get_close_matches(name.lower(), lower, 1)
    return f"; did you mean {lower[near[0]]!r}?" if near else ""


def short(error: BaseException) -> str:
    """What an error says, at most 300 letters of it."""
    return str(error)[:300]
