"""joblib's pickles, which have each array's bytes between their own, and plain ones: nothing in them runs."""

from __future__ import annotations

import math
import os
import pickle
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from kinlmr.files.arrays import from_bytes
from kinlmr.files.pickles import KNOWN, Record, Unpickler, plain_dtype, records, unpacked

WRAPPERS = ("joblib.numpy_pickle", "sklearn.externals.joblib.numpy_pickle")


def unpickled(path: str | os.PathLike[str], what: str) -> Any:
    """What the pickle of a file holds, joblib's or Python's own: plain objects, arrays, and `Record` of all else.

    Unpacked first if zlib or gzip packed it. what: what kind of file it is, for refusals. Nothing in it is run.
    """
    with open(path, "rb") as file:
        reader = _Joblib(_Source(*unpacked(file, Path(path).stat().st_size)))
        reader.what = what
        return reader.load()


class _Source:
    """A file of ``size`` bytes that is never asked for more than it holds: a pickle may claim any length."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size, self.readline = file, size, file.readline

    def left(self) -> int:
        return self.size - self.file.tell()

    def read(self, count: int) -> bytes:
        if count > 1_000_000 and count > self.left():
            raise ValueError(f"it claims {count:,} bytes, but has {self.left():,} left; it is cut short")
        return self.file.read(count)


def _build(self: Any) -> None:
    """BUILD, after which joblib puts an array's bytes if it was an array's wrapper that was built."""
    Unpickler.dispatch[pickle.BUILD[0]](self)
    top = self.stack[-1]
    if isinstance(top, Record) and top.kind == "wrapper":
        self.leave_frame()
        self.stack[-1] = self.array(**top.state)


class _Joblib(Unpickler):
    """Also reads the arrays whose bytes joblib puts between the pickle's own."""

    most = 20_000_000
    known: ClassVar = records({**KNOWN, **{(module, "NumpyArrayWrapper"): "wrapper" for module in WRAPPERS}})
    dispatch: ClassVar = {**Unpickler.dispatch, pickle.BUILD[0]: _build}

    def __init__(self, source: _Source) -> None:
        super().__init__(source, encoding="latin1")
        self.source = source

    def array(self, subclass: Any, shape: tuple[int, ...], order: str, dtype: Any, **others: Any) -> Any:
        """The array behind a wrapper of this state; of an array of objects, its record."""
        key = f"an array of shape {shape!r}"[:100]
        if getattr(subclass, "kind", None) != "ndarray":
            raise ValueError(f"{key} is of another class than numpy.ndarray")
        if isinstance(dtype, Record) and dtype.args[0] == "O8":  # a pickle of its own, without wrappers
            inner: Any = Unpickler(self.source, encoding="latin1")
            inner.what, inner.most, inner.steps = self.what, self.most, self.steps
            value = inner.load()
            self.steps = inner.steps
            return value
        kind = plain_dtype(key, dtype)
        if others.get("numpy_array_alignment_bytes") is not None:  # a byte that counts the padding, and the padding
            self.source.read(self.source.read(1)[0])
        if not all(type(n) is int and n >= 0 for n in shape) or math.prod(shape) * kind.itemsize > self.source.left():
            raise ValueError(f"{key} of {kind} does not fit the {self.source.left():,} bytes left; it is cut short")
        data = bytearray(math.prod(shape) * kind.itemsize)
        self.source.file.readinto(data)  # type: ignore[attr-defined]
        return from_bytes(key, data, kind, tuple(shape), order == "F")
