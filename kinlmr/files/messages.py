"""What refusals say: the nearest name, an error in a line, what a rate must be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Real
from typing import Any

RATES = 0.1, 1000.0  # frames a second


def nearest(name: str, names: Iterable[str]) -> str:
    """The end of a refusal: "; did you mean 'left_hip'?" where some name is near, else ""."""
    lower = {known.lower(): known for known in names}
    near = difflib.get_close_matches(name.lower(), lower, 1)
    return f"; did you mean {lower[near[0]]!r}?" if near else ""


def short(error: BaseException) -> str:
    """What an error says, at most 300 letters of it."""
    return str(error)[:300]


def checked_rate(fps: Any) -> float:
    """A number of frames a second, of Python or numpy, as a float; a ValueError if it is none, or not in `RATES`."""
    low, high = RATES
    if isinstance(fps, bool) or not isinstance(fps, Real) or not low <= fps <= high:  # type: ignore[operator]
        raise ValueError(
            f"fps must be a positive number of frames a second, not {fps!r:.80}; expected {low:g} to {high:,g}"
        )
    return float(fps)
