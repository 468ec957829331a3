"""Pickles read safely: arrays come out of them, and nothing that they name is imported or called."""

from __future__ import annotations

import io
import math
import os
import pickle
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from kinlmr.files.arrays import MAX_BYTES, Array, from_bytes
from kinlmr.files.messages import short

# Every name that body files of the last decade are known to hold. Each becomes an inert record of how it was called.
KNOWN = {
    **{(module, name): name for module in ("numpy.core.multiarray", "numpy._core.multiarray")
       for name in ("_reconstruct", "scalar")},
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("chumpy.ch", "Ch"): "Ch",
    ("chumpy.reordering", "Select"): "Select",
    **{(f"scipy.sparse.{module}", f"{form}_{kind}"): form for form in ("csc", "csr", "coo")
       for module in (form, f"_{form}") for kind in ("matrix", "array")},
    **{(module, name): name for module in ("__builtin__", "builtins")
       for name in ("set", "frozenset", "object", "bytes", "dict")},
    ("copy_reg", "_reconstructor"): "_reconstructor",
    ("copyreg", "_reconstructor"): "_reconstructor",
    ("_codecs", "encode"): "encode",
    ("collections", "OrderedDict"): "OrderedDict",
    ("collections", "defaultdict"): "defaultdict",
}  # fmt: skip


class Record:
    """What a pickle said to make, unmade: its name, its arguments, and the state set on it."""

    kind = ""
    args: tuple[Any, ...]
    state: Any
    items: dict[Any, Any]

    def __new__(cls, *args: Any) -> Record:
        self = object.__new__(cls)
        self.args, self.state, self.items = args, None, {}
        return self

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value


def records(known: Mapping[tuple[str, str], str]) -> dict[tuple[str, str], type[Record]]:
    """For each (module, name) a class of records of that kind."""
    return {name: type("Record", (Record,), {"kind": kind}) for name, kind in known.items()}


MAX_STEPS = 1_000_000
REFUSED = (
    pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER, pickle.PERSID, pickle.BINPERSID, pickle.EXT1,
    pickle.EXT2, pickle.EXT4, pickle.FROZENSET,
)  # fmt: skip
HASHED = {pickle.SETITEM: slice(-2, -1), pickle.SETITEMS: slice(0, None, 2), pickle.DICT: slice(0, None, 2),
          pickle.ADDITEMS: slice(None)}  # fmt: skip


def _is_key(key: Any) -> bool:
    return (
        type(key) is str or (type(key) is int and abs(key) < 2**31) or isinstance(key, Record)
    )  # one hashes as itself


def _stepped(load: Callable[[Any], None], hashed: slice | None) -> Callable[[Any], None]:
    """One opcode, counted; what it is about to hash must be text, a small number or a record: a hash can be a trap."""

    def step(self: Any) -> None:
        self.steps += 1
        if self.steps > self.most:
            raise ValueError(f"more than {self.most:,} steps, which no {self.what} needs")
        if hashed and not all(map(_is_key, self.stack[hashed])):
            raise ValueError("a key that is neither text nor a small number")
        load(self)

    return step


class Unpickler(pickle._Unpickler):  # the one in Python: its memo is a dict, where C's grows to whatever index is named
    """Makes inert records of what a pickle names; a name outside ``known`` is refused, and so are endless pickles."""

    what, most, steps = "body file", MAX_STEPS, 0
    known: ClassVar = records(KNOWN)
    dispatch: ClassVar = {
        code: _stepped(load, HASHED.get(bytes([code])))
        for code, load in pickle._Unpickler.dispatch.items()
        if bytes([code]) not in REFUSED
    }

    def leave_frame(self) -> None:
        """What comes next in the file is not the pickle's: its frame must end here."""
        # Private, as this reader itself, and without a public one; a Python without it sees the fault in the next frame
        frame = getattr(getattr(self, "_unframer", None), "current_frame", None)
        if frame is not None and frame.read(1):
            raise ValueError("an array's bytes begin inside a frame of the pickle")

    def find_class(self, module: str, name: str) -> type[Record]:
        if (module, name) not in self.known:
            mend = "; save it again with pickle protocol 4" if name == "_frombuffer" else ""
            raise ValueError(f"it names {module[:80]}.{name[:80]}, which no {self.what} needs{mend}")
        return self.known[module, name]


def read_pickle(path: str | os.PathLike[str], wanted: Iterable[str]) -> dict[str, Array]:
    """Arrays of the dict that a pickle holds: those of ``wanted`` that it has, out of numpy, scipy.sparse or chumpy.

    Written by Python 2 or 3, protocols 0 to 4. None of these packages is imported but numpy, and nothing that the file
    names is called: names outside KNOWN are refused, the others become records, and arrays are made from the records.
    """
    name = os.fspath(path)
    if not Path(path).is_file():
        raise FileNotFoundError(f"{name}: no such file")
    size = os.path.getsize(path)
    if size > MAX_BYTES:
        raise ValueError(f"{name}: {size:,} bytes, more than {MAX_BYTES:,}")
    try:
        content = Unpickler(io.BytesIO(Path(path).read_bytes()), encoding="latin1").load()
        arrays = as_dict(content)
        return {key: _array(key, arrays[key], size) for key in wanted if arrays.get(key) is not None}
    except Exception as error:
        raise refusal(name, error) from None


def refusal(name: str, error: Exception) -> ValueError:
    """What is said of a pickle that is not read."""
    return ValueError(f"{name}: refused, nothing in it was run ({type(error).__name__}: {short(error)})")


def as_dict(content: Any) -> dict[str, Any]:
    """The dict that a pickle holds, an OrderedDict's or a defaultdict's record included; its keys as text."""
    if isinstance(content, Record) and content.kind in ("OrderedDict", "defaultdict"):
        pairs = content.args[0] if content.args and content.kind == "OrderedDict" else []
        content = dict((*map(tuple, pairs), *content.items.items()))
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {getattr(content, 'kind', type(content).__name__)}, not a dict of arrays")
    return {_key(key): value for key, value in content.items()}


def _key(key: Any) -> str:
    """A key as text; numpy's numbers count too."""
    return str(numbers("a key", key).item() if isinstance(key, Record) else key)


def _array(key: str, value: Any, size: int, depth: int = 0) -> Array:
    """The array that a record stands for; ``size``, the file's, bounds it, and records nest five deep at most."""
    kind = value.kind if isinstance(value, Record) else type(value).__name__
    if depth > 5:
        raise ValueError(f"{key} is a {kind} nested too deep")
    if kind == "Ch":
        return _array(key, value.state["x"], size, depth + 1)
    if kind == "Select":
        index = numbers(key, value.state["idxs"])
        return _array(key, value.state["a"], size, depth + 1).ravel()[index].reshape(value.state["preferred_shape"])
    if kind == "_reconstructor":  # protocols 0 and 1: copy_reg._reconstructor(class, object, None), then its state
        inner = value.args[0]()
        inner.state = value.state
        return _array(key, inner, size, depth + 1)
    if kind in ("csc", "csr", "coo"):
        return _dense(key, kind, value.state, size)
    if kind in ("str", "int", "float", "bool"):
        return np.asarray(value)
    return numbers(key, value)


def numbers(key: str, value: Any) -> Array:
    """A plain array or number, out of how numpy pickles them."""
    kind = getattr(value, "kind", type(value).__name__)
    if kind == "_reconstruct" and getattr(value.args[0], "kind", None) == "ndarray":
        _, shape, dtype, fortran, raw = value.state
        return _plain(key, raw, dtype, tuple(shape), bool(fortran))
    if kind == "scalar":
        return _plain(key, value.args[1], value.args[0], (), False)
    raise ValueError(f"{key} is a {kind}, expected a plain array")


def _plain(key: str, raw: Any, dtype: Any, shape: tuple[int, ...], fortran: bool) -> Array:
    if isinstance(raw, Record) and raw.kind == "encode":  # how Python 3 writes bytes under protocol 2
        raw = raw.args[0]
    if isinstance(raw, Record) and raw.kind == "bytes" and not raw.args:  # and no bytes at all
        raw = b""
    data = raw.encode("latin1") if isinstance(raw, str) else raw
    if not isinstance(data, bytes):
        raise ValueError(f"{key} does not hold plain numbers")
    return from_bytes(key, data, plain_dtype(key, dtype), shape, fortran)


def plain_dtype(key: str, dtype: Any) -> np.dtype[Any]:
    """The type of numbers or text that a dtype's record names; any other is refused."""
    code = dtype.args[0] if getattr(dtype, "kind", None) == "dtype" else None
    if not isinstance(code, str) or not re.fullmatch(r"[biuf][1248]|[SU]\d{1,5}", code):
        raise ValueError(f"{key} does not hold plain numbers")
    order = dtype.state[1] if dtype.state else "<"
    return np.dtype(order + code if order in ("<", ">") else code)


def _dense(key: str, kind: str, state: dict[str, Any], size: int) -> Array:
    """A sparse matrix's state as a dense array (rows, columns), at most 16 times as large as the file, or 10 MB."""
    shape = tuple(state["_shape"] if "_shape" in state else state["shape"])
    shape = tuple(n if type(n) is int else int(numbers(key, n)) for n in shape)
    if len(shape) != 2 or min(shape) < 0 or math.prod(shape) * 8 > max(16 * size, 10_000_000):
        raise ValueError(f"{key} claims a sparse matrix of shape {shape}")
    values = numbers(key, state["data"])
    if kind == "coo":
        pair = state["coords"] if "coords" in state else (state["row"], state["col"])
        rows, columns = (numbers(key, x).astype(np.int64) for x in pair)
    else:
        starts, minor = (numbers(key, state[x]).astype(np.int64) for x in ("indptr", "indices"))
        major = shape[1] if kind == "csc" else shape[0]
        counts = np.diff(starts)
        if len(starts) != major + 1 or starts[0] != 0 or starts[-1] != len(minor) or (counts < 0).any():
            raise ValueError(f"{key} is a sparse matrix whose pointers do not fit")
        repeated = np.repeat(np.arange(major), counts)
        rows, columns = (minor, repeated) if kind == "csc" else (repeated, minor)
    if not len(rows) == len(columns) == len(values):
        raise ValueError(f"{key} is a sparse matrix of {len(values)} values at {len(rows)} places")
    if ((rows < 0) | (rows >= shape[0]) | (columns < 0) | (columns >= shape[1])).any():
        raise ValueError(f"{key} is a sparse matrix with a place outside its shape {shape}")
    out = np.zeros(shape, values.dtype)
    np.add.at(out, (rows, columns), values)
    return out


# -------------------------------------------------------------------------------------------------------- compressed

OTHERS = {b"PK": "a zip archive (torch.save's)", b"BZh": "compressed by bz2", b"\xfd7zXZ": "compressed by xz",
          b"]\x00": "compressed by lzma", b"\x04\x22\x4d\x18": "compressed by lz4", b"ZF": "of joblib before 0.10",
          b"\x89HDF": "an HDF5 file"}  # fmt: skip


def unpacked(file: BinaryIO, size: int) -> tuple[BinaryIO, int]:
    """A file of ``size`` bytes that holds a pickle, or what it unpacks to, and how many bytes that has."""
    head = file.read(8)
    file.seek(0)
    for magic, what in OTHERS.items():
        if head.startswith(magic):
            raise ValueError(f"it is {what}; expected what joblib.dump writes, plain or with compress='zlib'")
    if head[:1] != b"x" and head[:2] != b"\x1f\x8b":
        return file, size
    limit = 100 * size + 10_000_000
    data = zlib.decompressobj(47).decompress(file.read(), limit + 1)  # zlib's header or gzip's
    if len(data) > limit:
        raise ValueError(f"it would unpack to more than {limit:,} bytes, a hundred times its size")
    return io.BytesIO(data), len(data)
