"""Keypoints of other people's detectors: files in several formats, to people as rows.

    .npz        keypoints (P, T, K, 3) or (T, K, 3): x, y in pixels, confidence; zeros where a person is not seen.
                Optional: set, one of kinlmr's keypoint sets; names (K); size, the (width, height) they are pixels of
    .npy        the same array alone
    JSON        COCO results, as AlphaPose and Detectron2 write them too: [{image_id, keypoints, score, idx}, ...]
    JSON        MMPose and RTMPose: {meta_info, instance_info: [{frame_id, instances: [{keypoints, keypoint_scores}]}]}
    JSON        Ultralytics: a list of to_json() or summary() for every frame, [{box, keypoints: {x, y, visible}}]
    JSON        MediaPipe's landmarks, TensorFlow.js and ML Kit: frames of {x, y, visibility}; up to about 1 they are
                shares of the picture. World landmarks, in metres, are refused
    a folder    OpenPose's or Pose2Sim's JSON, or another's, a file per frame; or Ultralytics' labels, .txt
    .trc        Sports2D's, in pixels

Frames are the video's, from 0. A folder counts from its first file; a list that leaves out frames without people counts
from 0, or from 1 as its numbers or the video's length say, and `Found.notes` tell what was assumed. Nobody is null, {},
[], NaN, or a confidence of 0. Confidences above 1 are divided by the file's largest. Ids (idx, track_id, ...) make the
rows where everybody has one; else `follow` does.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kinlmr.keypoints import convert
from kinlmr.video.readers import arrays
from kinlmr.video.readers.documents import Label, Listing, describe, document, frame
from kinlmr.video.readers.numbering import first_frame, numbers
from kinlmr.video.readers.people import Person
from kinlmr.video.readers.points import COCO18, check_confidence, check_picture, check_pixels, cleaned, named, other_set
from kinlmr.video.readers.rows import LEAST, Detection, follow, rows

__all__ = ["COCO18", "LEAST", "Found", "check_confidence", "follow", "named", "read"]

Array = NDArray[Any]
KNOWN = (
    "known are: .npz and .npy with keypoints (P, T, K, 3); JSON of COCO results and AlphaPose, a list of {image_id, "
    "keypoints}, of MMPose, {instance_info}, of Ultralytics, lists of {box, keypoints} for every frame, of MediaPipe, "
    "frames of 33 {x, y, visibility}; a folder of OpenPose's JSON, {people: [{pose_keypoints_2d}]}, or of Ultralytics' "
    "labels; Sports2D's .trc in pixels"
)


TABLES = {".npz": lambda path: arrays.npz(path, KNOWN), ".npy": arrays.npy, ".trc": arrays.trc}


class Found(NamedTuple):
    """keypoints (P, T, K, 3) of a set; size (width, height) of the picture they belong to, if the file says so.

    notes: what was assumed, and what looks wrong, in words.
    """

    keypoints: Array
    set: str
    size: tuple[float, float] | None
    format: str
    notes: tuple[str, ...] = ()


def read(
    path: str | Path,
    size: tuple[float, float] | None = None,
    target: str = "coco17",
    fps: float = 30,
    frames: int | None = None,
    source: str | None = None,
) -> Found:
    """Keypoints (P, T, K, 3) of P people, x and y in pixels and confidence, as points of the set ``target``.

    path    a file or folder of another detector, in one of the formats above
    size    (width, height) of the video in pixels, which shares of the picture need
    fps     the video's frames a second: after a second without keypoints somebody is somebody new
    frames  how many the video has, which tells whether a list of those with people counts them from 0 or from 1
    source  the set that the file's points are of, where their number and names do not tell: ``body25b`` or ``h36m17``

    FileNotFoundError; ValueError: a format that is not known, or points that are not those of their set.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder of keypoints")
    try:
        found = _read(path, size, fps, frames, source)
    except ValueError as error:
        raise error if str(path) in str(error) else ValueError(f"{path}: {error}") from None
    if found.set == target:
        return found
    return found._replace(keypoints=convert(found.keypoints, found.set, target).numpy(), set=target)


def _read(path: Path, size: tuple[float, float] | None, fps: float, frames: int | None, source: str | None) -> Found:
    if path.is_dir():
        return _listed(_folder(path), size, fps, frames, source)
    ending = path.suffix.lower()
    if ending == ".npz":
        return _table(arrays.npz(path, KNOWN), source)
    if ending in (".npy", ".trc"):
        return _table(arrays.npy(path) if ending == ".npy" else arrays.trc(path), source)
    content = _json(path)
    if (listing := document(content)) is None:
        raise ValueError(f"unknown keypoint format, {describe(content)}; {KNOWN}")
    return _listed(listing, size, fps, frames, source)


def _table(table: arrays.Table, source: str | None) -> Found:
    """People who are rows already."""
    if not table.points.size:
        raise ValueError(f"{table.format} without a person")
    x = cleaned(table.points, lambda place: f"person {place[0]} in frame {place[1]}")
    points, name = named(x, table.set or source, table.names)
    check_picture(points, name)
    check_pixels(points)
    return Found(points, name, table.size, table.format, _doubt(x, table.set or source, table.names))


def _doubt(x: Array, source: str | None, names: list[str] | None) -> tuple[str, ...]:
    """What is to be said of points whose set their number alone tells, where a body's proportions tell another."""
    if source is not None or names is not None or (other := other_set(x)) is None:
        return ()
    return (f"warning: by a body's proportions its {x.shape[-2]} points look like {other}; if they are, name that set",)


# ------------------------------------------------------------------------------------------------------------- listings


def _listed(
    listing: Listing, size: tuple[float, float] | None, fps: float, frames: int | None, source: str | None
) -> Found:
    """People as rows of what a file or folder lists."""
    where = lambda i: f"{listing.one} {i}"  # noqa: E731
    places = numbers([label for label, _ in listing.frames], where)
    everybody = [(i, person) for i, (_, found) in enumerate(listing.frames) for person in found]
    if not everybody:
        raise ValueError(f"{len(places)} frames without a person")
    form, names = everybody[0][1].format, everybody[0][1].names or listing.names
    raw = _stacked([person for _, person in everybody])
    x = cleaned(raw, lambda place: f"a person of {where(everybody[place[0]][0])}")
    there = np.flatnonzero((x[..., 2] > 0).any(1)).tolist()
    if not there:
        raise ValueError(f"{form} without a person")
    listed = places if listing.whole else [places[everybody[k][0]] for k in there]
    first, assumed = first_frame(listed, listing.whole, listing.usual, frames)
    if (count := max(listed) + 1 - first) > 100 * (len(listed) + len(there)) + 1000:
        raise ValueError(
            f"pictures up to number {max(listed)} for {len(there)} people; expected are a video's frames from 0"
        )
    points, name = named(x, source, names)
    check_picture(points, name)
    points = _pixels(points, form, size)
    found = [Detection(places[everybody[k][0]] - first, points[k], everybody[k][1].id) for k in there]
    people, unused = rows(found, count, fps)
    if not people.size:
        raise ValueError(f"{form} without a person who is seen in {LEAST} frames")
    notes = [note for note in (assumed, unused, listing.note) if note]
    return Found(people, name, None, form, (*notes, *_doubt(x, source, names)))


def _stacked(people: list[Person]) -> Array:
    """The points (N, K, 3) of N people, who have as many, and of the same names."""
    if len(kinds := {len(person.points) for person in people}) > 1:
        raise ValueError(f"people of {' and '.join(map(str, sorted(kinds)))} points; expected are all alike")
    if any(person.names != people[0].names for person in people):
        raise ValueError("people whose points have different names; expected are all alike")
    return np.stack([person.points for person in people]).astype(np.float32)


def _pixels(points: Array, form: str, size: tuple[float, float] | None) -> Array:
    """Points in pixels; those of formats that may have shares of the picture are such if most are below 2."""
    seen = points[..., 2] > 0
    large = np.abs(points[..., :2]).max((-2, -1))[seen.any(-1)]
    if form not in ("MediaPipe landmarks", "Ultralytics JSON", "Ultralytics labels") or not np.median(large) < 2:
        check_pixels(points)
        return points
    if size is None:
        raise ValueError(f"{form} are shares of the picture; give its size, (width, height) in pixels")
    return points * np.array([*size, 1], np.float32)


def _folder(path: Path) -> Listing:
    """The frames of a folder, a file each."""
    files = sorted(path.glob("*.json")) or sorted(path.glob("*.txt"))
    if not files:
        raise ValueError(f"a folder without a .json file; {KNOWN}")
    text = files[0].suffix == ".txt"
    frames: list[tuple[Label, list[Person]]] = []
    for file in files:
        content = None if text else _json(file)
        found = (
            arrays.labels(file.read_text("utf-8", errors="replace"), str(file)) if text else frame(content, str(file))
        )
        if found is None:
            raise ValueError(f"{file}: unknown keypoint format, {describe(content)}; {KNOWN}")
        frames.append((file.name, found))
    if len(files) == 1:
        frames = [(0, frames[0][1])]
    return Listing(frames, whole=not text, usual=1 if text else None, one="file")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON, or a damaged file ({str(error)[:80]}); {KNOWN}") from None
