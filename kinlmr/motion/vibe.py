"""VIBE-style databases: per-frame features and truths of videos, in a pickle of joblib's or Python's own.

A database (``3dpw_test_db.pt``, ``mpii3d_val_db.pt``, ...) is a pickled dict of N-long columns, one row a frame. joblib
writes each array's bytes right behind a small pickled object that describes it. Such a file can name any function to
call; here it is read by the restricted unpickler of `kinlmr.files.pickles`, and nothing in it runs.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from kinlmr._moved import renamed
from kinlmr.files import Array, Record, about, as_dict, numbers, refusal, unpickled

COLUMNS = {"features": 2, "pose": 2, "shape": 2, "bbox": 2, "joints3D": 3, "joints2D": 3, "valid": 1, "frame_id": 1}
TEXTS = ("vid_name", "img_name")


@dataclass(frozen=True, eq=False)
class Video:
    """The T frames of one video, as its database has them; None for what the database has not.

    features (T, F); rotations as axis_angle (T, J, 3) in radians, from the column ``pose``; shape (T, S);
    joints3D (T, K, 3) in metres and joints2D (T, K, 2 or 3) in pixels, of the database's own K joints (for joints that
    were not seen some databases hold other numbers than zero); box (T, 4) around the person in pixels (VIBE's: centre
    x, centre y, width, height); valid (T); frames (T), their numbers in the video; images, their T names.
    """

    name: str
    features: Tensor | None = None
    axis_angle: Tensor | None = None
    shape: Tensor | None = None
    joints3D: Tensor | None = None
    joints2D: Tensor | None = None
    box: Tensor | None = None
    valid: Tensor | None = None
    frames: Tensor | None = None
    images: tuple[str, ...] | None = None

    @property
    def rotations(self) -> Tensor | None:
        return renamed("Video.rotations", "Video.axis_angle", self.axis_angle)


def read_database(path: str | os.PathLike[str]) -> list[Video]:
    """The videos of a VIBE-style database, in its order: ``model(video.features[None])`` takes one as it is.

    Rows of one ``vid_name`` that follow one another are a video; a name that comes again later begins another. Read are
    the columns vid_name, frame_id, img_name, features, pose, shape, bbox, joints3D, joints2D and valid. Plain, or
    compressed by zlib or gzip. A ValueError names what the file would have run, and nothing is run.
    """
    name = os.fspath(path)
    if not Path(path).is_file():
        raise FileNotFoundError(f"{name}: no such file")
    try:
        content = as_dict(unpickled(path, "database"))
        texts = {key: _texts(key, content[key]) for key in TEXTS if content.get(key) is not None}
        columns = {key: _column(key, content[key], axes) for key, axes in COLUMNS.items()
                   if content.get(key) is not None}  # fmt: skip
    except Exception as error:
        raise refusal(name, error) from None
    with about(name):
        _check_columns(content, texts, columns)
    names = texts["vid_name"]
    starts = [i for i in range(len(names)) if i == 0 or names[i] != names[i - 1]]
    return [
        _video(names[first], slice(first, end), columns, texts.get("img_name"))
        for first, end in itertools.pairwise((*starts, len(names)))
    ]


def _check_columns(content: dict[str, Any], texts: dict[str, list[str]], columns: dict[str, Array]) -> None:
    if "vid_name" not in texts:
        raise ValueError(
            f"no vid_name, which says what video a frame is of; it holds {', '.join(content) or 'nothing'}"
        )
    rows = len(texts["vid_name"])
    lengths = {key: len(values) for held in (texts, columns) for key, values in held.items()}
    for key, length in lengths.items():
        if length != rows:
            raise ValueError(f"{key} has {length} rows, vid_name {rows}; expected a row a frame in each")
    for key, right in (("pose", lambda width: width % 3 == 0), ("bbox", lambda width: width == 4)):
        if key in columns and not right(columns[key].shape[1]):
            expected = "four" if key == "bbox" else "three a joint"
            raise ValueError(f"{key} has {columns[key].shape[1]} numbers a frame, expected {expected}")
    if "frame_id" in columns and not np.isfinite(columns["frame_id"]).all():
        row = int(np.argwhere(~np.isfinite(columns["frame_id"]))[0, 0])
        raise ValueError(f"frame_id is not finite in row {row}, expected the number of a frame")


def _video(name: str, part: slice, columns: dict[str, Array], images: list[str] | None) -> Video:
    """The rows of one video as tensors."""
    numbers = {key: torch.from_numpy(column[part]) for key, column in columns.items()}
    pose = numbers.get("pose")
    return Video(
        name, numbers.get("features"), None if pose is None else rearrange(pose, "t (j c) -> t j c", c=3),
        numbers.get("shape"), numbers.get("joints3D"), numbers.get("joints2D"), numbers.get("bbox"),
        numbers["valid"] > 0 if "valid" in numbers else None,
        numbers["frame_id"].long() if "frame_id" in numbers else None,
        tuple(images[part]) if images is not None else None,
    )  # fmt: skip


def _texts(key: str, value: Any) -> list[str]:
    """A column of text: an array of text or of objects, or a list."""
    items = _objects(value)
    if items is None:
        items = (value if isinstance(value, np.ndarray) else numbers(key, value)).ravel().tolist()
    return [str(_item(key, item)) for item in items]


def _column(key: str, value: Any, axes: int) -> Array:
    """A column of numbers (N, ...) in float32; one number a frame in float64, which keeps whole ones whole."""
    items = _objects(value)
    if items is not None:
        found = [_item(key, item) for item in items]
        if text := next((item for item in found if isinstance(item, str)), None):
            raise ValueError(f"{key} holds {text[:40]!r}, expected numbers")
        array = np.array(found)
    else:
        array = value if isinstance(value, np.ndarray) else numbers(key, value)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{key} holds {array.dtype}, expected numbers")
    if axes == 1 and array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != axes:
        raise ValueError(f"{key} has shape {array.shape}, expected {axes} axes, of which the first is the frames")
    return array.astype(np.float64 if axes == 1 else np.float32, copy=False)


def _objects(value: Any) -> list[Any] | None:
    """The items of a list or of an array of objects; None where it is neither."""
    if isinstance(value, Record) and value.kind == "_reconstruct" and isinstance(value.state, tuple):
        value = value.state[-1]
    return value if isinstance(value, list) else None


def _item(key: str, item: Any) -> str | int | float:
    if isinstance(item, Record):
        item = numbers(key, item).item()
    if not isinstance(item, str | int | float):
        raise ValueError(f"{key} holds a {getattr(item, 'kind', type(item).__name__)}, expected text or numbers")
    return item
