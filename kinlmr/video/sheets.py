"""A picture in numpy: strokes and letters on it, several on a sheet, a PNG file.

A picture is (H, W, 3) in uint8; `kinlmr.video.draw` says where its pixels are, and has these functions.
"""

from __future__ import annotations

import itertools
import os
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinlmr.files import write_atomic

Picture = NDArray[np.uint8]
Array = NDArray[Any]

PAPER = (0.955, 0.955, 0.965)
INK = (0.16, 0.18, 0.24)
# Letters as strokes: points on a grid 4 wide and 6 high, two digits each, x and y; "_" parts strokes.
STROKES = """
0 011030414536160501 1 112026_1636 2 01103041420646 3 0110304142334445361605_1333 4 36300444 5 400002324345361605
6 413010010516364543321203 7 004016 8 103041423313020110_1304051636454433 9 051636454130100103143443
A 062046_1434 B 00063645443303_0030414233 C 4130100105163645 D 00063645413000 E 40000646_0333 F 400006_0333
G 41301001051636454323 H 0006_4046_0343 I 2026 J 4045361605 K 0006_400346 L 000646 M 0600234046 N 06004640
O 011030414536160501 P 06003041423303 Q 011030414536160501_3346 R 06003041423303_2346 S 413010010213334445361605
T 0040_2026 U 000516364540 V 002640 W 0016233640 X 0046_4006 Y 002340_2326 Z 00400646
. 1616 , 2617 : 2222_2525 - 1333 + 1333_2224 / 0640 ( 30212536 ) 10212516 = 1232_1434 % 0640_0000_4646
"""
LETTERS = dict(zip(STROKES.split()[::2], STROKES.split()[1::2], strict=True))


def label(picture: Picture, text: str, at: Sequence[float] = (8, 8), height: float = 14.0) -> Picture:
    """White text with a dark rim, its upper left corner at x, y in pixels: digits, capitals and ``.,:-+/()=%``."""
    picture, unit = checked(picture).copy(), height / 6
    for rim, radius, color in ((0.8, 0.85 * unit, INK), (1.0, max(0.36 * unit, 0.5), (1.0, 1.0, 1.0))):
        for k, letter in enumerate(text.upper()):
            for line in LETTERS.get(letter, "").split("_"):
                grid = np.array([int(digit) for digit in line], np.float64).reshape(-1, 2) + np.array([6.0 * k, 0])
                for ends in itertools.pairwise(grid):
                    stroke(picture, np.array(ends) * unit + np.asarray(at), radius, np.array(color), rim)
    return picture


def sheet(pictures: Sequence[Picture], columns: int | None = None, labels: Sequence[str] = (), gap: int = 6) -> Picture:
    """A contact sheet: pictures in rows, each in the middle of a cell as large as the largest, with its label."""
    if not pictures:
        raise ValueError("no pictures for the sheet")
    if len(labels) not in (0, len(pictures)):
        raise ValueError(f"{len(labels)} labels for {len(pictures)} pictures")
    cells = [checked(picture) for picture in pictures]
    columns = min(columns or int(np.ceil(np.sqrt(len(cells)))), len(cells))
    if columns < 1:
        raise ValueError(f"columns is at least 1, not {columns}")
    high, wide = (max(cell.shape[axis] for cell in cells) for axis in (0, 1))
    rows = -(-len(cells) // columns)
    out = np.empty((rows * (high + gap) + gap, columns * (wide + gap) + gap, 3), np.uint8)
    out[:] = np.rint(255 * np.array(PAPER))
    for k, cell in enumerate(cells):
        y, x = gap + k // columns * (high + gap), gap + k % columns * (wide + gap)
        y, x = y + (high - cell.shape[0]) // 2, x + (wide - cell.shape[1]) // 2
        out[y : y + cell.shape[0], x : x + cell.shape[1]] = label(cell, labels[k]) if labels else cell
    return out


def write_png(path: str | os.PathLike[str], picture: Picture) -> None:
    """A picture as PNG (RFC 2083), eight bits a colour; each row as itself or as its difference to the one above."""
    if not os.fspath(path).lower().endswith(".png"):
        raise ValueError(f"{os.fspath(path)}: a PNG's name ends in .png")
    picture = checked(picture)
    height, width = picture.shape[:2]
    if not picture.size:
        raise ValueError(f"{os.fspath(path)}: a PNG of {width} x {height} pixels cannot be")
    plain = picture.reshape(height, -1)
    left = np.concatenate([plain[:, :3], plain[:, 3:] - plain[:, :-3]], 1)
    above = np.concatenate([plain[:1], plain[1:] - plain[:-1]])
    ways = np.stack([plain, left, above])
    best = np.abs(ways.view(np.int8).astype(np.int16)).sum(2).argmin(0)  # the filter with the smallest numbers
    rows = np.concatenate([best[:, None].astype(np.uint8), ways[best, np.arange(height)]], 1)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows.tobytes(), 6)),
        (b"IEND", b""),
    )
    data = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    write_atomic(path, b"\x89PNG\r\n\x1a\n" + data)


def stroke(picture: Picture, ends: Array, radius: float, color: Array, opacity: float) -> None:
    """A line with round ends (2, 2) and smooth edges, in place; a dot where both ends are one."""
    height, width = picture.shape[:2]
    low = np.floor(ends.min(0) - radius - 1).clip(0, [width, height]).astype(int)
    high = np.ceil(ends.max(0) + radius + 1).clip(0, [width, height]).astype(int)
    if opacity <= 0 or (high <= low).any():
        return
    x, y = np.arange(low[0], high[0]) + 0.5 - ends[0, 0], np.arange(low[1], high[1])[:, None] + 0.5 - ends[0, 1]
    along = ends[1] - ends[0]
    t = ((x * along[0] + y * along[1]) / max(along @ along, 1e-12)).clip(0, 1)
    far = np.hypot(x - t * along[0], y - t * along[1])
    alpha = opacity * (radius + 0.5 - far).clip(0, 1)[..., None]
    part = picture[low[1] : high[1], low[0] : high[0]]
    part[:] = np.rint(part * (1 - alpha) + 255 * color * alpha).astype(np.uint8)


def checked(picture: Any) -> Picture:
    """A picture, or a ValueError."""
    array = np.asarray(picture)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"a picture is uint8 of shape (H, W, 3), not {array.dtype} of shape {array.shape}")
    return array
