"""A model's options: one frozen record, which says what each may be."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from kinlmr.files import checked_rate, nearest

LARGEST = 2**24  # of a size that has no bound of its own

Check = Callable[[str, Any], Any]  # an option's name, what was given -> what is kept; or a ValueError


def whole(least: int, most: int = LARGEST) -> Check:
    """A whole number in this range."""

    def check(name: str, number: Any) -> int:
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, not {number!r}")
        if number > most:
            raise ValueError(f"{name} must be at most {most:,}, not {number:,}")
        return number

    return check


def one_of(*names: str) -> Check:
    """One name among several."""

    def check(what: str, name: Any) -> str:
        if not isinstance(name, str) or name not in names:
            raise ValueError(f"unknown {what} {name!r}; there are {', '.join(names)}{nearest(str(name), names)}")
        return name

    return check


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, not {value!r}")
    return value


def _dropout(name: str, rate: Any) -> float:
    if not isinstance(rate, int | float) or not 0 <= rate < 1:
        raise ValueError(f"{name} must lie in [0, 1), not {rate!r}")
    return rate


def _body(name: str, body: Any) -> str:
    if not isinstance(body, str | os.PathLike):
        raise ValueError(f"{name} must be the name or the path of one, not {body!r:.80}")
    return os.fspath(body)


def _confidence(name: str, given: Any) -> tuple[float, float]:
    """(a, b) with 0 < a + b c <= 1 for every confidence c above 0 and up to 1, and never less for more of it."""
    try:
        a, b = map(float, given)
    except (TypeError, ValueError):
        a = b = math.nan
    if not (a >= 0 and b >= 0 and 0 < a + b <= 1):
        raise ValueError(f"{name} is {given!r}, expected (a, b) of a + b c, both 0 or more and together 1 at most")
    return a, b


def _option(check: Check, default: Any = MISSING) -> Any:
    return field(default=default, metadata={"check": check})


@dataclass(frozen=True, kw_only=True)
class Options(Mapping[str, Any]):
    """What a model was built with, as `kinlmr.build` explains it; None where it was told nothing.

    cell is the name of its kind; hidden has every part and "camera". For one version it still reads as the dict that it
    was, without what is None: ``options["fps"]`` is now ``options.fps``.
    """

    features: int = _option(whole(1))
    hidden: dict[str, int] = field(hash=False)
    iterations: int = _option(whole(1, 100))
    cell: str
    layers: int = _option(whole(1, 100))
    shape: int = _option(whole(0))
    shape_hidden: int = _option(whole(1))
    camera: int = _option(whole(0))
    camera_input: str = _option(one_of("previous", "initial"))
    shape_input: str = _option(one_of("previous", "mean"))
    learn_start: bool = _option(_flag)
    dropout: float = _option(_dropout)
    allow_nan: bool = _option(_flag)
    keypoints: str | None = None
    fps: float | None = _option(lambda _, fps: checked_rate(fps), None)
    body: str | None = _option(_body, None)
    confidence: tuple[float, float] | None = _option(_confidence, None)

    def __post_init__(self) -> None:
        for option in fields(self):
            value, check = getattr(self, option.name), option.metadata.get("check")
            if check and not (value is None and option.default is None):
                object.__setattr__(self, option.name, check(option.name, value))
        if self.keypoints is not None and None in (self.fps, self.body):
            raise ValueError(f"with keypoints, fps and body are needed, not fps {self.fps!r} and body {self.body!r}")

    def as_json(self) -> dict[str, Any]:
        """All that was said, by name, as a checkpoint holds it."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def __getitem__(self, name: str) -> Any:
        return self.as_json()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.as_json())

    def __len__(self) -> int:
        return len(self.as_json())
