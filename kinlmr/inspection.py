"""What a pickle would import and call, without importing or calling anything: its instructions are read, not run."""

from __future__ import annotations

import io
import math
import mmap
import os
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from kinlmr.files import check_members, short, unpacked

LEGACY = 0x1950A86A20F9469CFC6C  # with this number torch.save began its five pickles before it wrote zip archives
COMPUTED = "(a name that the pickle computes)"
WRAPPER = ".NumpyArrayWrapper(...)"  # behind one of these joblib puts an array's bytes
MARK = object()


def inspect(path: str | os.PathLike[str]) -> dict[str, int]:
    """What the pickles in a file would import, and how often they would call it; nothing of it is run.

    Reads plain pickles, joblib's (zlib and gzip too), torch.save's of both kinds, and arrays of objects in .npy and
    .npz. Names stand in the order they come; 0: imported and not called; ``name(...)``: what a call of it returned. A
    file without a pickle gives {}. What a function does when it is called is not followed, nor what a class does with
    its state; so an empty answer or one of numpy's names alone is harmless, and ``posix.system`` is not.

    A ValueError tells where a pickle is damaged, and what it had named before.

    >>> inspect("SMPL_NEUTRAL.pkl")  # doctest: +SKIP
    {'chumpy.ch.Ch': 4, 'numpy._core.multiarray._reconstruct': 7, 'numpy.ndarray': 0, 'numpy.dtype': 3}
    """
    name = os.fspath(path)
    if not Path(path).is_file():
        raise FileNotFoundError(f"{name}: no such file")
    found: dict[str, int] = {}
    where = ""
    try:
        with open(path, "rb") as file:
            for place, pickled in _pickles(file, os.path.getsize(path)):
                where = place
                _read(pickled, found)
    except Exception as error:
        named = f"; up to there it names {', '.join(list(found)[:20])}" if found else ""
        raise ValueError(f"{name}: {where}not a pickle, or a damaged one ({short(error)}){named[:2000]}") from None
    return found


def _pickles(file: BinaryIO, size: int) -> Iterator[tuple[str, BinaryIO]]:
    """The pickles in a file, each with its name in an archive."""
    head = file.read(6)
    file.seek(0)
    if head[:2] == b"PK":
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                kind = info.filename.rpartition(".")[2].lower()
                if kind in ("npy", "pkl", "pickle"):
                    check_members([info], size)
                    with archive.open(info) as member:
                        yield from _of_array(io.BytesIO(member.read()), f"{info.filename} in it is ", kind == "npy")
    else:
        whole, count = unpacked(file, size)
        if whole is file and count:  # a pickle may claim any length: a map of the file gives no more than there is
            whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # type: ignore[assignment]
        yield from _of_array(whole, "", head == b"\x93NUMPY")


def _of_array(file: BinaryIO, where: str, array: bool) -> Iterator[tuple[str, BinaryIO]]:
    """A pickle; of a .npy file the one behind its header, if it holds objects."""
    if array:
        version = npy.read_magic(file)
        _, _, kind = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
        if not kind.hasobject:
            return
    yield where, file


class _Name(str):
    """An imported name, or what calling it returned: then with the call's arguments."""

    args: Any = ()


def _read(file: BinaryIO, found: dict[str, int]) -> None:
    """Every pickle that stands in a file, one behind the other; of torch.save's older files, five."""
    left = 4 if _one(file, found, joblib=True) == LEGACY else -1
    while left and file.read(1) == b"\x80":
        file.seek(-1, io.SEEK_CUR)
        _one(file, found, joblib=True)
        left -= 1


def _one(file: BinaryIO, found: dict[str, int], joblib: bool = False) -> Any:
    """Follow one pickle's instructions with names in place of things; what it holds, as far as that is known.

    Only text, numbers, tuples, dicts of text, names and what calls returned are told apart; all else is None.
    """
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    frame = 0

    def see(name: str, calls: int = 0) -> _Name:
        found[name] = found.get(name, 0) + calls
        return _Name(name)

    def call(what: Any, args: Any) -> _Name:
        name = what if isinstance(what, _Name) else COMPUTED
        see(name, 1)
        made = _Name(name if name.endswith("(...)") else f"{name}(...)")
        made.args = args
        return made

    for code, arg, at in pickletools.genops(file):
        op, below = code.name, [kind for kind in code.stack_before if kind is not pickletools.stackslice]
        items: list[Any] = []
        if pickletools.markobject in below or (op == "POP" and stack and stack[-1] is MARK):
            last = next((i for i in range(len(stack) - 1, -1, -1) if stack[i] is MARK), None)
            if last is None:
                raise ValueError(f"{op} at {at:,} lacks its mark")
            items = stack[last + 1 :]
            del stack[last:]
            below = below[: below.index(pickletools.markobject)] if op != "POP" else []
        if len(stack) < len(below):
            raise ValueError(f"{op} at {at:,} takes more than there is")
        taken = stack[len(stack) - len(below) :]
        del stack[len(stack) - len(below) :]

        if op in ("POP", "POP_MARK", "STOP"):
            made: list[Any] = []
        elif op == "MARK":
            made = [MARK]
        elif op == "DUP":
            made = taken * 2
        elif op in ("GLOBAL", "INST"):
            name = see(str(arg).replace(" ", ".", 1))
            made = [call(name, tuple(items)) if op == "INST" else name]
        elif op == "STACK_GLOBAL":
            texts = all(type(text) is str for text in taken)
            made = [see(".".join(taken) if texts else COMPUTED)]
        elif op in ("REDUCE", "NEWOBJ", "NEWOBJ_EX"):
            made = [call(taken[0], taken[1])]
        elif op == "OBJ":
            made = [call(items[0] if items else None, tuple(items[1:]))]
        elif op.startswith("EXT"):
            made = [see(f"(copyreg's extension {arg})")]
        elif op == "MEMOIZE":
            memo[len(memo)], made = taken[0], taken
        elif op.endswith("PUT"):
            if not stack:
                raise ValueError(f"{op} at {at:,} takes more than there is")
            memo[arg], made = stack[-1], []
        elif op.endswith("GET"):
            if arg not in memo:
                raise ValueError(f"{op} at {at:,} names what was never kept, {arg}")
            made = [memo[arg]]
        elif op.startswith("TUPLE") or op == "EMPTY_TUPLE":
            made = [tuple(items or taken)]
        elif op in ("EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"):
            held = taken[0] if taken else {}
            pairs = items or taken[1:]
            if isinstance(held, dict):
                held.update((k, v) for k, v in zip(pairs[::2], pairs[1::2], strict=False) if type(k) is str)
            made = [held]
        elif op in ("APPEND", "APPENDS", "ADDITEMS", "BUILD"):
            made = taken[:1]
            if joblib and op == "BUILD" and isinstance(taken[0], _Name) and taken[0].endswith(WRAPPER):
                if file.tell() < frame:
                    raise ValueError(f"an array's bytes at {file.tell():,} begin inside a frame of the pickle")
                _pass_array(file, taken[1], found)
        elif op == "FRAME":
            frame, made = file.tell() + int(str(arg)), []
        elif op == "PERSID":
            made = [None]
        else:
            made = [arg if type(arg) in (str, int) else None] * len(code.stack_after)
        stack += made
        if op == "STOP":
            return taken[0]
    return None


def _pass_array(file: BinaryIO, state: Any, found: dict[str, int]) -> None:
    """Go past the bytes of an array that joblib put behind its description; of an array of objects, into them."""
    kind = state.get("dtype") if isinstance(state, dict) else None
    code = kind.args[0] if isinstance(kind, _Name) and kind.args else None
    if code in ("O8", "O4"):
        _one(file, found)
        return
    shape: Any = state.get("shape") if isinstance(state, dict) else None
    whole = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
    if not whole or not isinstance(code, str) or not re.fullmatch(r"[biufcmM]\d{1,2}|[SUV]\d{1,5}", code):
        raise ValueError(f"an array's bytes at {file.tell():,} of unknown shape {shape!r:.80} and type {code!r:.20}")
    if state.get("numpy_array_alignment_bytes") is not None:  # a byte that counts the padding, and the padding
        file.seek(file.read(1)[0], io.SEEK_CUR)
    file.seek(math.prod(shape) * np.dtype(code).itemsize, io.SEEK_CUR)
