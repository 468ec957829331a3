"""The people of one frame out of JSON, and their points.

A frame is an object or a list of people, text that is JSON, or nobody: null, {} or []. A person is an object with
points, or a list of points.
"""

import json
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kinlmr.video.readers.keys import ID, MARKS, NUMBER, PEOPLE, POINTS, SCORES, SURE, TIME, WORLD, at, key_of, plain
from kinlmr.video.readers.points import floats

Array = NDArray[Any]


class Person(NamedTuple):
    """Points (K, 3), who it is and what the points are called, if the file says so; and its format."""

    points: Array
    id: int | str | None
    names: list[str] | None
    format: str


def people(content: Any, where: str) -> list[Person] | None:
    """Those people of a frame who have points; None if it is no frame. where: what it is called in errors."""
    if isinstance(content, str):
        try:
            content = json.loads(content or "null")
        except (ValueError, RecursionError):
            return None
    raw = _people(content)
    try:
        return None if raw is None else [found for person in raw if (found := _person(person)) is not None]
    except (KeyError, TypeError):
        raise ValueError(f"{where} has points that are not numbers") from None
    except ValueError as error:
        raise ValueError(f"{where} has {error}") from None


def _people(content: Any) -> list[Any] | None:
    if content is None or content in ({}, []):
        return []
    if isinstance(content, list):
        if is_mark(content[0]):
            return [content]
        return content if all(map(_may_be_person, content)) else None
    if not isinstance(content, dict):
        return None
    if key_of(content, PEOPLE):
        inside = at(content, PEOPLE) or []
        if isinstance(inside, dict) and all(isinstance(one, dict) for one in inside.values()):
            return [{"id": key, **one} for key, one in inside.items()]
        return inside if isinstance(inside, list) else None
    if key_of(content, POINTS):
        inside = at(content, POINTS)
        several = isinstance(inside, list) and any(
            isinstance(part, list) and part and (isinstance(part[0], list) or is_mark(part[0])) for part in inside
        )
        return inside if several else [content]
    if key_of(content, WORLD):
        return [content]
    if is_mark(next(iter(content.values()))):
        return [{"landmarks": content}]
    bare = not any(isinstance(value, dict | list) and value for value in content.values())
    numbered = key_of(content, (*NUMBER, *TIME)) and not key_of(content, ("imageid",))  # COCO's entries are people
    return [] if bare and numbered else None


def _may_be_person(part: Any) -> bool:
    if isinstance(part, list):
        return not part or is_mark(part[0])
    return part in (None, {}) or key_of(part, (*POINTS, *WORLD, "box", "bbox")) is not None


def is_mark(part: Any) -> bool:
    """Whether this is a point: an object with x and y."""
    place = at(part, ("position",)) or part
    return isinstance(place, dict) and "y" in place and not isinstance(place.get("x", []), list | dict)


def _person(raw: Any) -> Person | None:
    """A person of an object with points, or of a list of marks; None without points."""
    key = key_of(raw, POINTS)
    value = raw if isinstance(raw, list) else at(raw, POINTS)
    while isinstance(value, dict) and "landmark" in value:
        value = value["landmark"]
    if key is None and (world := key_of(raw, WORLD)):
        raise ValueError(
            f"{world} alone, which are points in space (MediaPipe's world landmarks are metres about the hips); give "
            "the landmarks of the picture (pose_landmarks)"
        )
    if not value or (isinstance(value, list) and not any(value)):
        return None
    names = None
    if isinstance(value, dict) and not isinstance(value.get("x"), list):
        names, value = list(value), list(value.values())
    if isinstance(value, list) and isinstance(value[0], dict) and "name" in value[0]:
        names = [str(mark.get("name")) for mark in value]
    scores = next((found for wanted in SCORES if isinstance(found := at(raw, (wanted,)), list)), None)
    points, form = _points(value, scores), _format(raw, value)
    if names is None and len(points) != 33 and (isinstance(raw, list) or plain(key or "") in MARKS):
        raise ValueError(f"a person of {len(points)} landmarks, expected 33")
    return Person(points, _id(raw), names, form)


def _format(raw: Any, value: Any) -> str:
    if isinstance(value, dict):
        return "Ultralytics JSON"
    if isinstance(value[0], dict):
        return "MediaPipe landmarks"
    if key_of(raw, ("keypointscores",)):
        return "MMPose JSON"
    if key_of(raw, ("imageid",)):
        return "COCO results"
    return "OpenPose JSON" if key_of(raw, ("posekeypoints2d", "joints")) else "JSON of keypoints"


def _points(value: Any, scores: list[Any] | None) -> Array:
    """Points (K, 3) out of columns, of marks, or of numbers."""
    if isinstance(value, dict):
        x, y = floats(value["x"]), floats(value["y"])
        sure = floats(at(value, SURE)) if key_of(value, SURE) else np.ones_like(x)
        if not x.shape == y.shape == sure.shape or x.ndim != 1:
            raise ValueError("columns of x, y and confidence that are not alike")
        return without_zeros(np.stack([x, y, sure], -1))
    if isinstance(value[0], dict):
        return floats([_mark(mark) for mark in value])
    points = floats(value)
    if points.ndim == 1:
        width = 2 if scores is not None and len(points) == 2 * len(scores) else 3
        points = points.reshape(-1, width) if len(points) % width == 0 else points
    if points.ndim != 2 or points.shape[1] not in (2, 3):
        raise ValueError(f"points of shape {points.shape}; expected are x, y, confidence of each")
    if points.shape[1] == 3:
        if scores is not None and isinstance(value[0], list):
            raise ValueError(
                "points of three numbers, and confidences beside them: these look like points in space, x, y, z; give "
                "those of the picture, x and y in pixels"
            )
        return points
    sure = floats(scores) if scores is not None else np.ones(len(points), np.float32)
    if sure.shape != (len(points),):
        raise ValueError(f"{len(points)} points and confidences of shape {sure.shape}")
    return np.column_stack([points, sure])


def without_zeros(points: Array) -> Array:
    """Points (K, 3) as Ultralytics has them: one that was not found is at (0, 0)."""
    points[(points[:, :2] == 0).all(1), 2] = 0
    return points


def _mark(mark: dict[str, Any]) -> tuple[Any, Any, Any]:
    place = at(mark, ("position",)) or mark
    sure = next((value for wanted in SURE if (value := at(mark, (wanted,))) is not None), 1.0)
    return place["x"], place["y"], sure


def _id(raw: Any) -> int | str | None:
    """Who a tracker says it is; None of -1, and of several at once."""
    for wanted in ID:
        value = at(raw, (wanted,))
        value = value[0] if isinstance(value, list) and len(value) == 1 else value
        value = int(value) if isinstance(value, float) and value.is_integer() else value
        if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
            return value
    return None
