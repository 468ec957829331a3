"""Keypoints of people as arrays: .npz and .npy, the tables of .trc, and Ultralytics' lines of text."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kinlmr.files import read_npy, read_npz
from kinlmr.video.readers.people import Person, without_zeros
from kinlmr.video.readers.points import LIMBS, SETS, by_names, floats, sizes
from kinlmr.video.readers.rows import CROWD

Array = NDArray[Any]


class Table(NamedTuple):
    """Points (P, T, K, 3) as a file has them, their set and names, and the picture's (width, height), if it says so."""

    points: Array
    format: str
    set: str | None = None
    names: list[str] | None = None
    size: tuple[float, float] | None = None


def npz(path: Path, known: str) -> Table:
    """kinlmr's own archive. known: the formats that there are, for the error."""
    arrays = read_npz(path)
    key = "keypoints" if "keypoints" in arrays else "coco17"
    if key not in arrays:
        raise ValueError(f"unknown keypoint format, an .npz with {', '.join(arrays) or 'nothing'}; {known}")
    x = _people(arrays[key], key)
    sides = [_one_number(arrays, key) for key in ("width", "height") if key in arrays]
    if "size" in arrays:
        sides = arrays["size"].tolist() if arrays["size"].shape == (2,) and arrays["size"].dtype.kind in "iuf" else [0]
    if len(sides) not in (0, 2) or not all(0 < side < np.inf for side in sides):
        raise ValueError(f"size is {sides}, expected the (width, height) of a picture in pixels")
    start = _one_number(arrays, "frame_start") if "frame_start" in arrays else 0
    x = _begun(x, start)
    names = list(map(str, arrays["names"].ravel())) if "names" in arrays else None
    size = (float(sides[0]), float(sides[1])) if sides else None
    return Table(x, "kinlmr .npz", str(arrays["set"]) if "set" in arrays else None, names, size)


def npy(path: Path) -> Table:
    return Table(_people(read_npy(path), "it"), ".npy")


def _people(x: Array, key: str) -> Array:
    shape = x.shape
    x = x[None] if x.ndim == 3 else x
    if x.ndim != 4 or x.shape[-1] != 3 or x.dtype.kind not in "fiu":
        raise ValueError(f"{key} has numbers of shape (P, T, K, 3) or (T, K, 3), not {x.dtype} of {shape}")
    if len(x) > CROWD:
        raise ValueError(
            f"{key} of shape {shape} would be {len(x):,} people in {shape[1]:,} frames, at most {CROWD} are expected; "
            "people come first, then frames: (P, T, K, 3)"
        )
    return floats(x)


def _begun(x: Array, start: float) -> Array:
    """People (P, T, K, 3) with the frames before number ``start``, zeros."""
    if start != int(start) or not 0 <= start <= 100 * x.shape[1] + 1000:
        raise ValueError(f"frame_start is {start}, expected the number of a frame, for {x.shape[1]} follow")
    return np.pad(x, ((0, 0), (int(start), 0), (0, 0), (0, 0)))


def _one_number(arrays: dict[str, Array], key: str) -> float:
    value = arrays[key]
    if value.size != 1 or value.dtype.kind not in "iuf" or not np.isfinite(value).all():
        raise ValueError(f"{key} is {value.dtype} of {value.shape}, expected a number")
    return float(value.item())


# ----------------------------------------------------------------------------------------------------------------- text


def trc(path: Path) -> Table:
    """One person of Sports2D, in pixels: markers by name, without a confidence; what is empty was not seen.

    Its header says m for pixels too, so the person's size decides.
    """
    lines = path.read_text("utf-8", errors="replace").splitlines()
    if len(lines) < 6 or not lines[0].startswith("PathFileType"):
        raise ValueError("not a .trc file of markers: it does not begin with PathFileType, or has no rows")
    names = [name.strip() for name in lines[3].split("\t")[2:] if name.strip()]
    numbers, markers = _table([line.split("\t") for line in lines[5:] if line.strip()], len(names))
    if (found := by_names(names, LIMBS)) is None:
        raise ValueError(f"its markers {', '.join(names)[:300]} lack some of {', '.join(LIMBS)}")
    points = np.pad(markers, ((0, 0), (0, 1), (0, 0)), constant_values=np.nan)[:, found[1]]  # -1: a marker it lacks
    points[..., 2] = np.isfinite(points[..., :2]).all(-1)
    points = floats(np.where(np.isnan(points), 0, points))
    unit = dict(zip(lines[1].split("\t"), lines[2].split("\t"), strict=False)).get("Units", "").strip()
    places, large = points[points[..., 2] > 0, :2], sizes(points)
    if len(large) and (unit in ("mm", "cm") or np.median(large) < 10 or np.median(places[:, 1]) < 0):
        raise ValueError(
            f"its markers look like points in space: a person of {np.median(large):.3g} {unit}, y from "
            f"{places[:, 1].min():.3g} to {places[:, 1].max():.3g}; expected are pixels, y down, as in Sports2D's "
            "..._px_person00.trc"
        )
    x = np.zeros((1, numbers[-1] + 1, points.shape[1], 3), np.float32)
    x[0, numbers] = points
    return Table(x, "Sports2D .trc", found[0])


def _table(cells: list[list[str]], count: int) -> tuple[list[int], Array]:
    """The frame numbers, from 0, and the markers (T, K, 3) of a .trc file, NaN where a cell is empty."""
    width = 2 + 3 * count
    try:
        table = np.array([[float(cell.strip() or "nan") for cell in (row + [""] * width)[:width]] for row in cells])
        numbers = [int(number) for number in table[:, 0] - (table[0, 0] == 1)]
    except (ValueError, IndexError, OverflowError):
        raise ValueError(f"its rows are not a frame, a time and {count} markers of three numbers each") from None
    if numbers[0] < 0 or (np.diff(numbers) <= 0).any() or numbers[-1] > 100 * len(numbers) + 1000:
        raise ValueError(f"its frames are numbered {numbers[0]} to {numbers[-1]} in {len(numbers)} rows")
    return numbers, table[:, 2:].reshape(len(table), -1, 3)


def labels(text: str, where: str) -> list[Person]:
    """The people of one of Ultralytics' label files: lines of class, box and points, all as shares of the picture.

    class x y w h, then x y visible for each point, or x y; then a confidence of the box and a track's id, if asked for.
    """
    people = []
    for number, line in enumerate(text.splitlines()):
        try:
            values = list(map(float, line.split()))
        except ValueError:
            raise ValueError(f"{where}: line {number + 1} is no label: it is {line[:80]!r}") from None
        fits = [(k, n) for n in (3, 2) for k in SETS if 0 <= len(values) - 5 - n * k <= 2]
        if values and not fits:
            raise ValueError(
                f"{where}: line {number + 1} has {len(values)} numbers; expected are class, x, y, w, h, and x, y, "
                f"visible of {' or '.join(map(str, SETS))} points"
            )
        if values:
            count, n = fits[0]
            points = np.ones((count, 3), np.float32)
            points[:, :n] = np.reshape(values[5 : 5 + n * count], (count, n))
            rest = values[5 + n * count :]
            track = int(rest[-1]) if rest and rest[-1].is_integer() else None
            people.append(Person(without_zeros(points), track, None, "Ultralytics labels"))
    return people
