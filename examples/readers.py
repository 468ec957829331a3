"""Keypoints of other people's detectors: files in several formats, to people as rows.

    .npz        keypoints (P, T, K, 3) or (T, K, 3): x, y in pixels, confidence; zeros where a person is not seen.
                Optional: set, one of kinlmr's keypoint sets; names (K); size, the (width, height) they are pixels of
    JSON        COCO results, as AlphaPose writes them too: [{image_id, category_id, keypoints, score}, ...]
    JSON        MediaPipe landmarks: frames of 33 {x, y, visibility}; up to about 1 they are shares of the picture
    a folder    OpenPose's JSON, a file per frame: {people: [{pose_keypoints_2d: [...]}, ...]}

Frames are the video's, from 0. Detections of one frame have no order: `follow` makes rows of them.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import kinlmr
from kinlmr.body.points import keypoint_sets
from kinlmr.files.arrays import read_npz
from kinlmr.keypoints import convert

Array = NDArray[Any]
# OpenPose's 18 points, as coco17's order picks them; point 1, the neck, is left out.
COCO18 = (0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10)
SETS = {17: "coco17", 25: "body25", 33: "mediapipe33"}
WIDER = (26, 133, 136)  # Halpe and COCO-WholeBody: coco17 and more after it
KNOWN = (
    "known are: .npz with keypoints (P, T, K, 3); COCO results, a list of {image_id, keypoints}; MediaPipe landmarks, "
    "frames of 33 {x, y, visibility}; a folder of OpenPose's JSON, {people: [{pose_keypoints_2d}]}"
)
CROWD, NUMBERS = 200, 50_000_000  # people in a frame; numbers in the rows of all people
LEAST = 5  # frames that make a person


class Found(NamedTuple):
    """keypoints (P, T, K, 3) of a set; size (width, height) of the picture they belong to, if the file says so."""

    keypoints: Array
    set: str
    size: tuple[float, float] | None
    format: str


def read(path: str | Path, size: tuple[float, float], target: str = "coco17", fps: float = 30) -> Found:
    """Keypoints of a file or folder, as points of the set ``target``. size, fps: the video's (width, height) and rate.

    ValueError: a format that is not known, or points that are not those of their set.
    """
    path = Path(path)
    if path.is_dir():
        found = _folder(path, fps)
    elif not path.is_file():
        raise FileNotFoundError(f"{path}: no such file or folder of keypoints")
    elif path.suffix.lower() == ".npz":
        found = _npz(path)
    else:
        content = _json(path)
        if isinstance(content, list) and content and isinstance(content[0], dict) and "image_id" in content[0]:
            found = _coco(path, content, fps)
        elif (frames := _landmarks(content)) is not None:
            found = _mediapipe(path, frames, size, fps)
        else:
            raise ValueError(f"{path}: unknown keypoint format, {_seen(content)}; {KNOWN}")
    if not found.keypoints.size:
        raise ValueError(f"{path}: {found.format} without a person")
    found = found._replace(keypoints=_seen_points(path, found.keypoints))
    if found.set == target:
        return found
    return found._replace(keypoints=convert(found.keypoints, found.set, target).numpy(), set=target)


def _floats(values: Any) -> Array:
    """Numbers in float32; what is too large for it becomes infinite, which `read` refuses."""
    try:
        with np.errstate(over="ignore"):
            return np.asarray(values).astype(np.float32)
    except OverflowError as error:
        raise ValueError(str(error)) from None


def _seen_points(path: Path, x: Array) -> Array:
    """People (P, T, K, 3), zeros where a point was not seen; what was seen is finite, or refused."""
    unseen = x[..., 2] <= 0
    odd = ~np.isfinite(x).all(-1) & ~unseen
    if odd.any():
        person, frame, point = place = tuple(np.argwhere(odd)[0].tolist())
        raise ValueError(
            f"{path}: point {point} of person {person} in frame {frame} is {x[place].tolist()}: not finite, but its "
            "confidence is not 0; set the confidence of points that were not found to 0"
        )
    return np.where(unseen[..., None], np.float32(0), x)


def named(points: Array, where: str) -> tuple[Array, str]:
    """Points (..., K, 3) as they are detected -> points of a set that kinlmr knows, and its name."""
    count = points.shape[-2]
    if count in WIDER:
        return points[..., :17, :], "coco17"
    if count == 18:
        return points[..., COCO18, :], "coco17"
    if count not in SETS:
        raise ValueError(
            f"{where}: {count} points a person; known are "
            + ", ".join(f"{k} ({name})" for k, name in SETS.items())
            + ", 18 (OpenPose's COCO), 26 and 136 (Halpe), 133 (COCO-WholeBody)"
        )
    return points, SETS[count]


# -------------------------------------------------------------------------------------------------------------- formats


def _npz(path: Path) -> Found:
    arrays = read_npz(path)
    key = "keypoints" if "keypoints" in arrays else "coco17"
    if key not in arrays:
        raise ValueError(f"{path}: unknown keypoint format, an .npz with {', '.join(arrays) or 'nothing'}; {KNOWN}")
    x = arrays[key]
    x = x[None] if x.ndim == 3 else x
    if x.ndim != 4 or x.shape[-1] != 3 or x.dtype.kind not in "fiu":
        raise ValueError(f"{path}: {key} has numbers of shape (P, T, K, 3), not {x.dtype} of {arrays[key].shape}")
    x = _floats(x)
    name = str(arrays["set"]) if "set" in arrays else None
    if name is None:
        x, name = named(x, str(path))
    elif name not in keypoint_sets() or len(keypoint_sets()[name]) != x.shape[2]:
        sets = ", ".join(f"{known} ({len(points)})" for known, points in keypoint_sets().items())
        raise ValueError(f"{path}: keypoints of the set {name!r} with {x.shape[2]} points; there are {sets}")
    if "names" in arrays:
        _check_names(path, [str(n) for n in arrays["names"].ravel()], name)
    sides = [_one_number(path, arrays, key) for key in ("width", "height") if key in arrays]
    if "size" in arrays:
        sides = arrays["size"].tolist() if arrays["size"].shape == (2,) and arrays["size"].dtype.kind in "iuf" else [0]
    if len(sides) not in (0, 2) or not all(0 < side < np.inf for side in sides):
        raise ValueError(f"{path}: size is {sides}, expected the (width, height) of a picture in pixels")
    start = _one_number(path, arrays, "frame_start") if "frame_start" in arrays else 0
    if start != int(start) or not 0 <= start <= 100 * x.shape[1] + 1000:
        raise ValueError(f"{path}: frame_start is {start}, expected the number of a frame, for {x.shape[1]} follow")
    x = np.pad(x, ((0, 0), (int(start), 0), (0, 0), (0, 0)))
    return Found(x, name, (float(sides[0]), float(sides[1])) if sides else None, "kinlmr .npz")


def _one_number(path: Path, arrays: dict[str, Array], key: str) -> float:
    value = arrays[key]
    if value.size != 1 or value.dtype.kind not in "iuf" or not np.isfinite(value).all():
        raise ValueError(f"{path}: {key} is {value.dtype} of {value.shape}, expected a number")
    return float(value.item())


def _check_names(path: Path, names: Sequence[str], name: str) -> None:
    """Refuse points that are not called as their set's, whatever stands between the words."""
    plain = lambda text: re.sub("[^a-z0-9]", "", text.lower())  # noqa: E731
    expected = keypoint_sets()[name]
    wrong = [
        f"{seen} ({wanted})" for seen, wanted in zip(names, expected, strict=False) if plain(seen) != plain(wanted)
    ]
    if len(names) != len(expected) or wrong:
        raise ValueError(
            f"{path}: its {len(names)} names are not those of {name}, {len(expected)}; "
            f"different, with what was expected: {', '.join(wrong) or 'none'}"
        )


def _coco(path: Path, content: list[Any], fps: float) -> Found:
    found: list[tuple[int, Array]] = []
    for entry in content:
        try:
            points = _floats(entry["keypoints"]).reshape(-1, 3)
            found.append((_number(str(entry["image_id"])), points))
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"{path}: entry {len(found)} has no image_id with a number, or no keypoints as x, y, confidence"
            ) from None
    return _of_frames(path, found, "COCO results", fps)


def _folder(path: Path, fps: float) -> Found:
    files = sorted(path.glob("*.json"))
    found: list[tuple[int, Array]] = []
    last = -1
    for file in files:
        content = _json(file)
        if not isinstance(content, dict) or not isinstance(content.get("people"), list):
            raise ValueError(f"{file}: unknown keypoint format, {_seen(content)}; {KNOWN}")
        try:
            last = max(last, number := _number(re.sub("_keypoints$", "", file.stem)))
            for person in content["people"]:
                found.append((number, _floats(person["pose_keypoints_2d"]).reshape(-1, 3)))
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"{file}: its name has no frame number, or a person no pose_keypoints_2d as x, y, confidence"
            ) from None
    if not files:
        raise ValueError(f"{path}: a folder without a .json file; {KNOWN}")
    return _of_frames(path, found, "OpenPose JSON", fps, last + 1)


def _number(text: str) -> int:
    """The last number in the name of a frame."""
    return int(re.findall(r"\d+", text)[-1]) if re.search(r"\d", text) else int(text)


def _of_frames(path: Path, found: list[tuple[int, Array]], form: str, fps: float, count: int = 0) -> Found:
    """Detections with their frames, to people. Frames count from 0, or from 1 where the first is 1."""
    if not found:
        return Found(np.zeros((0, 0, 17, 3), np.float32), "coco17", None, form)
    first, last = min(n for n, _ in found), max(max(n for n, _ in found) + 1, count)
    base = 1 if first == 1 else 0
    if last > 100 * len(found) + 1000:
        raise ValueError(
            f"{path}: pictures up to number {last - 1} for {len(found)} people; expected are a video's frames from 0"
        )
    if len(kinds := {len(points) for _, points in found}) > 1:
        raise ValueError(f"{path}: people of {' and '.join(map(str, sorted(kinds)))} points; expected are all alike")
    frames: list[list[Array]] = [[] for _ in range(last - base)]
    number, most = Counter(number for number, _ in found).most_common(1)[0]
    if most > CROWD:
        raise ValueError(f"{path}: {most:,} people in frame {number}; expected are {CROWD} at most")
    name = "coco17"
    for number, points in found:
        points, name = named(points, str(path))
        frames[number - base].append(points)
    return Found(_followed(path, frames, fps), name, None, form)


def _followed(path: Path, frames: Sequence[Sequence[Array]], fps: float) -> Array:
    try:
        return follow(frames, fps)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _landmarks(content: Any) -> list[Any] | None:
    """The frames of a JSON of landmarks, each a person's, a list of people's, or nothing; None if it is none."""
    if isinstance(content, dict):
        content = next((content[key] for key in ("frames", "landmarks", "pose_landmarks") if key in content), None)
    if not isinstance(content, list):
        return None
    frames = []
    for frame in content:
        if isinstance(frame, dict):
            keys = ("landmarks", "pose_landmarks", "poseLandmarks", "landmark")
            frame = next((frame[key] for key in keys if key in frame), frame)
        if isinstance(frame, dict) and "landmark" in frame:
            frame = frame["landmark"]
        frame = frame or []
        people = [frame] if isinstance(frame, list) and frame and isinstance(frame[0], dict) else frame
        if not isinstance(people, list) or not all(isinstance(p, list) for p in people):
            return None
        if not all(isinstance(point, dict) and {"x", "y"} <= point.keys() for person in people for point in person):
            return None
        frames.append([person for person in people if person])
    return frames if any(frames) else None


def _mediapipe(path: Path, frames: list[Any], size: tuple[float, float], fps: float) -> Found:
    arrays: list[list[Array]] = []
    for people in frames:
        arrays.append([])
        for person in people:
            if len(people) > CROWD:
                raise ValueError(
                    f"{path}: frame {len(arrays) - 1} has {len(people):,} people, expected {CROWD} at most"
                )
            if len(person) != 33:
                raise ValueError(
                    f"{path}: frame {len(arrays) - 1} has a person of {len(person)} landmarks, expected 33"
                )
            if "name" in person[0]:
                _check_names(path, [str(point.get("name")) for point in person], "mediapipe33")
            try:
                points = [(p["x"], p["y"], p.get("visibility", 1.0)) for p in person]
                arrays[-1].append(_floats(points))
            except (TypeError, ValueError):
                raise ValueError(f"{path}: frame {len(arrays) - 1} has landmarks that are not numbers") from None
    top = np.median([np.abs(person[:, :2]).max() for people in arrays for person in people])
    if top < 2:  # shares of the picture
        arrays = [[person * np.array([*size, 1], np.float32) for person in people] for people in arrays]
    return Found(_followed(path, arrays, fps), "mediapipe33", None, "MediaPipe landmarks")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON, or a damaged file ({str(error)[:80]}); {KNOWN}") from None


def _seen(content: Any) -> str:
    """What a JSON holds, in words."""
    if isinstance(content, dict):
        return f"an object with {', '.join(list(content)[:8]) or 'nothing'}"
    if isinstance(content, list):
        return f"a list of {len(content)}" + (f", first {_seen(content[0])}" if content else "")
    return f"{type(content).__name__} {str(content)[:40]!r}"


# --------------------------------------------------------------------------------------------------------------- people


def follow(frames: Sequence[Sequence[Array]], fps: float = 30) -> Array:
    """Detections (K, 3) of every frame, in any order -> people (P, T, K, 3), zeros where one is not seen.

    `kinlmr.track` says who is who; who is away for over a second is a new row on return. Who was seen in fewer than
    `LEAST` frames was nobody, unless the clip is as short.
    """
    points = next((len(points) for detections in frames for points in detections), 17)
    people: dict[int, dict[int, Array]] = {}
    tracks = None
    for number, detections in enumerate(frames):
        array = np.array(detections, np.float32).reshape(-1, points, 3)
        owners, tracks = kinlmr.track(array, tracks, round(fps))
        for row, detection in zip(owners.tolist(), array, strict=True):
            people.setdefault(row, {})[number] = detection
    people.pop(-1, None)
    kept = [person for _, person in sorted(people.items()) if len(person) >= min(LEAST, len(frames))]
    if (size := 3 * len(kept) * len(frames) * points) > NUMBERS:
        raise ValueError(
            f"{len(kept):,} people in {len(frames):,} frames would take {size:,} numbers, more than {NUMBERS:,}; "
            "cut the clip"
        )
    rows = np.zeros((len(kept), len(frames), points, 3), np.float32)
    for row, person in zip(rows, kept, strict=True):
        row[list(person)] = list(person.values())
    return rows
