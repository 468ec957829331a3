"""Files from anywhere, read and written safely: arrays come out of them, and nothing in them runs."""

from __future__ import annotations

import hashlib
import io
import math
import os
import secrets
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from kinlmr.files.messages import short

Array = NDArray[Any]
MAX_BYTES = 2_000_000_000


def read_npz(
    path: str | os.PathLike[str], wanted: Iterable[str] | None = None, limit: int | None = None
) -> dict[str, Array]:
    """The arrays of a .npz archive (all, or those of ``wanted`` that it has), never more than ``limit`` bytes.

    limit: None for a hundred times the file's size and 10 MB, at most `MAX_BYTES`.
    Only plain arrays of numbers or text come out; what an archive claims is checked before memory is taken.
    """
    name = os.fspath(path)
    if not Path(path).is_file():
        raise FileNotFoundError(f"{name}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            keys = members.keys() if wanted is None else [key for key in wanted if key in members]
            check_members([members[key] for key in keys], os.path.getsize(path), limit)
            arrays = {}
            for key in keys:
                with archive.open(members[key]) as file:
                    arrays[key] = _read_npy(file, key, members[key].file_size)  # type: ignore[arg-type]
            return arrays
    except Exception as error:
        raise ValueError(f"{name}: not an .npz archive of plain arrays, or a damaged one ({short(error)})") from None


def check_members(members: Iterable[zipfile.ZipInfo], size: int, limit: int | None = None) -> None:
    """Refuse members that claim to unpack to more than ``limit``, or to be packed in more than their archive has."""
    limit = min(MAX_BYTES, 100 * size + 10_000_000) if limit is None else limit
    total = packed = 0
    for info in members:
        total, packed = total + info.file_size, max(packed, info.compress_size)
    if total > limit or packed > size:
        raise ValueError(
            f"it would unpack to {total:,} bytes, more than {limit:,}"
            if total > limit
            else f"it claims {packed:,} packed bytes in an archive of {size:,}"
        )


def read_npy(path: str | os.PathLike[str]) -> Array:
    """The array of a .npy file, if it is one of numbers."""
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            return _read_npy(file, "it", os.path.getsize(path))
    except Exception as error:
        raise ValueError(f"{name}: not a .npy file of numbers, or a damaged one ({short(error)})") from None


def _read_npy(file: BinaryIO, key: str, size: int) -> Array:
    version = npy.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = npy.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran, dtype = npy.read_array_header_2_0(file)
    else:
        raise ValueError(f"{key} is written in npy format {version}")
    if dtype.kind not in "biufSU":
        raise ValueError(f"{key} holds {dtype}, not numbers")
    count = math.prod(shape)
    if file.tell() + count * dtype.itemsize != size:
        raise ValueError(f"{key} claims shape {shape} of {dtype}, but holds {size - file.tell():,} bytes")
    return from_bytes(key, bytearray(file.read()), dtype, shape, fortran)  # writable, as arrays are


def from_bytes(key: str, data: Any, kind: np.dtype[Any], shape: tuple[int, ...], fortran: bool) -> Array:
    """The array of a shape that bytes hold, in the machine's byte order; text is decoded."""
    fits = len(shape) <= 8 and all(type(n) is int and 0 <= n < 2**31 for n in shape)
    if not fits or math.prod(shape) * kind.itemsize != len(data):
        raise ValueError(f"{key} claims a shape that its {len(data):,} bytes of {kind} do not have")
    array = np.frombuffer(data, kind).reshape(shape, order="F" if fortran else "C")
    if kind.kind == "S":
        return np.char.decode(array, "latin1")
    if kind.kind == "U" and len(data) and np.frombuffer(data, kind.str[0] + "u4").max() > 0x10FFFF:
        raise ValueError(f"{key} holds text with a letter that there is not")
    return array.astype(kind.newbyteorder("="), copy=isinstance(data, bytes))  # writable, as arrays are


# ------------------------------------------------------------------------------------------------------------- writing


LONGEST = 200  # bytes of a name to which more may be added: most file systems take 255


def short_name(name: str) -> str:
    """A file's name, or of one that is too long to add to it a digest, the same each time."""
    data = os.fsencode(name)
    return name if len(data) <= LONGEST else hashlib.sha256(data).hexdigest()


def beside(path: Path) -> Path:
    """A new hidden name beside a file, for a piece of it."""
    return path.with_name(f".{short_name(path.name)}.{secrets.token_hex(4)}.part")


def write_npz(path: str | os.PathLike[str], /, **arrays: Any) -> None:
    """Write arrays by name as a compressed .npz archive, as `write_atomic` does."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomic(path, buffer.getvalue())


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write aside, then rename: a reader sees the old file or the new one, never a piece."""
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise ValueError(f"{os.fspath(path)}: the folder {target.parent} does not exist; make it first")
    aside = beside(target)
    try:
        with open(aside, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, target)
    except BaseException as error:
        aside.unlink(missing_ok=True)
        if isinstance(error, OSError):  # such as a full disk, which names no file
            why = error.strerror or str(error)
            raise type(error)(error.errno, f"could not be written, {why}", os.fspath(path)) from None
        raise
