"""Who is who: detections of every frame to people as rows, by the ids that a file has, or by motion."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import kinlmr

Array = NDArray[Any]
CROWD, NUMBERS = 200, 50_000_000  # people in a frame; numbers in the rows of all people
LEAST = 5  # frames that make a person


class Detection(NamedTuple):
    """Somebody in a frame: the frame's number, points (K, 3), and who it is, if the file says so."""

    frame: int
    points: Array
    id: int | str | None


def rows(found: Sequence[Detection], frames: int, fps: float) -> tuple[Array, str | None]:
    """People (P, T, K, 3), and what is to be said of the ids. An id is kept where everybody has one."""
    number, most = Counter(one.frame for one in found).most_common(1)[0]
    if most > CROWD:
        raise ValueError(f"{most:,} people in frame {number}; expected are {CROWD} at most")
    ids = [one.id for one in found]
    said = len(set(ids) - {None}) > 1
    twice = len({(one.frame, one.id) for one in found}) < len(found)
    if said and None not in ids and not twice and len(ids) >= 2 * len(set(ids)):
        people: dict[Any, dict[int, Array]] = {}
        for one in found:
            people.setdefault(one.id, {})[one.frame] = one.points
        return _filled(list(people.values()), frames, len(found[0].points)), None
    pictures: list[list[Array]] = [[] for _ in range(frames)]
    for one in found:
        pictures[one.frame].append(one.points)
    why = "some have none" if None in ids else "two of a frame have the same" if twice else "nearly all differ"
    note = f"its ids do not say who is who ({why}) and are not used; people are followed by their motion"
    return follow(pictures, fps), note if said else None


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
    return _filled([person for _, person in sorted(people.items())], len(frames), points)


def _filled(people: Sequence[dict[int, Array]], frames: int, points: int) -> Array:
    """People, each the points by frame, as (P, T, K, 3); those of fewer than `LEAST` frames are left out."""
    kept = [person for person in people if len(person) >= min(LEAST, frames)]
    if (size := 3 * len(kept) * frames * points) > NUMBERS:
        raise ValueError(
            f"{len(kept):,} people in {frames:,} frames would take {size:,} numbers, more than {NUMBERS:,}; "
            "cut the clip"
        )
    out = np.zeros((len(kept), frames, points, 3), np.float32)
    for row, person in zip(out, kept, strict=True):
        row[list(person)] = list(person.values())
    return out
