"""Where a video's keypoints come from: a detector that runs on its frames, or a file of another's.

A detector is any callable as `Detector` says; ``kinlmr VIDEO --detector module:function`` takes one, `find_detector`
makes those that are known by name, and `detected` follows their people from frame to frame.
"""

from __future__ import annotations

import importlib
import itertools
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import kinlmr
from kinlmr.files import Array
from kinlmr.video import readers
from kinlmr.video.crowd import AWAY
from kinlmr.video.following import RATE, Follower, claim
from kinlmr.video.frames import NEAR, Shot
from kinlmr.video.movenet import movenet
from kinlmr.video.persons import LEARN, size
from kinlmr.video.topdown import topdown

VERSION, LATEST = sys.version_info[:2], (3, 12)  # Python's; the latest that mediapipe with a model inside is for
SAME = 0.2  # of a person's size: detections whose points are nearer on average are of one person
LOOK, MARGIN = 3, 0.2  # frames from one look for newcomers to the next; of a person's size, painted over around them


class Detector(Protocol):
    """Finds people in a picture, whatever was in those before."""

    def __call__(self, frame: NDArray[np.uint8], /) -> Array:
        """A frame (H, W, 3), RGB -> keypoints (P, K, 3) of P people in any order, ``[]`` where nobody is.

        Each is x, y in pixels of the frame and a confidence, 0 of a point that is not seen. K tells the set, as
        `kinlmr.video.readers.named` knows them: 17 are COCO's. (K, 3) is one person, zeros where nobody is.
        """
        ...


def find_detector(name: str | None, people: int) -> Detector:
    """The detector of a name, which finds so many ``people`` at most.

    movenet          or None: the one that comes along (`kinlmr.video.movenet`); movenet-fast: at half the cost
    mediapipe        its 33 points; it is installed apart
    onnx:FILE        a top-down network, such as RTMPose or ViTPose (`kinlmr.video.topdown`)
    module:function  any other

    ValueError, FileNotFoundError: there is no such function or file. ImportError: a package is missing; it says which.
    """
    if name in (None, "movenet", "movenet-fast"):
        return movenet(people, fast=name == "movenet-fast")
    if name == "mediapipe":
        try:
            pose = importlib.import_module("mediapipe").solutions.pose.Pose
            return several(lambda: pose(model_complexity=1), people)
        except (ImportError, AttributeError) as error:
            raise ImportError(how_to_install(error)) from None
    module, _, function = str(name).partition(":")
    if module == "onnx":
        return topdown(function, people)
    sys.path.insert(0, os.getcwd())
    try:
        found: Detector = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"--detector {name}: {error}; give movenet, movenet-fast, mediapipe, onnx:FILE, or module:function of a "
            "module that can be imported"
        ) from None
    return found


def several(new: Callable[[], Any], people: int) -> Detector:
    """At most so many people, each followed by a mediapipe ``Pose`` of its own, which ``new`` makes.

    A Pose that has found somebody stays with them. In every `LOOK`-th frame, and while nobody is seen, one that follows
    nobody looks for somebody new, in a picture where those who are followed are painted over.
    """
    following, idle, number = list[Any](), [new()], itertools.count()

    def detect(frame: Array) -> Array:
        frame, size = np.ascontiguousarray(frame), (frame.shape[1], frame.shape[0])
        seen: list[tuple[Any, Array]] = []

        def look(pose: Any, picture: Array) -> None:
            marks = pose.process(picture).pose_landmarks
            points = np.array([(p.x * size[0], p.y * size[1], p.visibility) for p in marks.landmark] if marks else [])
            if marks and not any(same(points, others) for _, others in seen):
                seen.append((pose, points))
            else:
                idle.append(pose)

        for pose in following:
            look(pose, frame)
        if len(seen) < people and (next(number) % LOOK == 0 or not seen):
            picture = frame.copy()
            for _, points in seen:
                cover(picture, points)
            look(idle.pop() if idle else new(), picture)
        following[:] = [pose for pose, _ in seen]
        return np.array([points for _, points in seen], np.float32)

    return detect


def same(one: Array, other: Array) -> bool:
    """Whether two detections (K, 3) are of one person."""
    reach = SAME * max(np.ptp(points[:, :2], 0).max() for points in (one, other))
    return bool(np.linalg.norm((one - other)[:, :2], axis=1).mean() < reach)


def cover(picture: Array, points: Array) -> None:
    """Paints a person (K, 3) of the picture (H, W, 3) over, in place."""
    low, high = points[:, :2].min(0), points[:, :2].max(0)
    edge = MARGIN * (high - low).max()
    (left, top), (right, bottom) = np.clip([low - edge, high + edge], 0, None).astype(int)
    picture[top:bottom, left:right] = 128


def how_to_install(error: Exception) -> str:
    """What to do without mediapipe's detector: the last release with a model inside is for Python 3.9 to 3.12.

    As pip resolves that release it would bring an older numpy, and jax; so its requirements are named one by one.
    """
    python, first = sys.executable, ""
    if VERSION > LATEST:
        python = ".venv312/bin/python"
        first = (
            f"mediapipe's is for Python 3.12 at most, this is {VERSION[0]}.{VERSION[1]}; beside it:\n"
            f'  python3.12 -m venv .venv312\n  {python} -m pip install "kinlmr[video]"\n'
        )
    return (
        f"--detector mediapipe: it is not there ({error}); leave it out for the detector that comes along, or "
        f"install it:\n{first}"
        f"  {python} -m pip install --no-deps mediapipe==0.10.21 opencv-python-headless\n"
        f'  {python} -m pip install absl-py attrs flatbuffers matplotlib "protobuf<5"\n'
        "pip then lists what mediapipe asks for besides; the detector runs without it"
    )


def detected(
    shots: Iterable[Shot], detect: Detector, target: str, scale: float, people: int, fps: float
) -> Iterator[Shot]:
    """Shots with the keypoints (P, K, 3) of the people that the detector sees, in pixels of the source.

    The row of one (K, 3) is 0. Of several, `kinlmr.track` says who is who: whoever was seen in `readers.LEAST` frames
    in succession gets the next row, so P grows. Of more than ``people`` the large are taken, and of two of a size who
    was there before (`claim`): the decision of a frame, which later ones do not change. Who is away for less than a
    second keeps the place. Confidences above 1 are divided by the largest so far. Speeds and seconds go by the shots'
    times, as some of a camera's are left out; fps is the rate that they have in the file.
    """
    nobody = np.zeros((0, len(kinlmr.keypoints.keypoint_sets()[target]), 3), np.float32)
    tracks, streak, known, largest, places = None, dict[int, int](), dict[int, int](), 1.0, Places(people)
    times, passed = deque[float](), 1 / fps
    for shot in shots:
        before, passed = passed, max(shot.time - times[-1], 1e-3) if times else passed
        while times and shot.time - times[0] > AWAY + NEAR / fps:
            times.popleft()
        timed = (RATE * passed,) if isinstance(detect, Follower) else ()
        found = np.asarray(detect(shot.picture, *timed), np.float32)
        if found.size and (found.ndim not in (2, 3) or found.shape[-1] != 3):
            raise ValueError(
                f"the detector gave an array of shape {found.shape}; expected are (P, K, 3) of P people, or (K, 3) of "
                "one: x, y in pixels and confidence of K points"
            )
        points, name = readers.named(found) if found.size else (nobody, target)
        points = points if name == target else kinlmr.keypoints.convert(points, name, target).numpy()
        largest = max(largest, float(readers.check_confidence(points[..., 2])))
        points = points * np.array([1 / scale, 1 / scale, 1 / largest], np.float32)
        if points.ndim == 3:
            if tracks is not None:
                tracks = tracks._replace(velocity=tracks.velocity * (passed / before))
            owners, tracks = kinlmr.track(points, tracks, len(times))
            here = {row: one for row, one in zip(owners.tolist(), points, strict=True) if row >= 0}
            streak = {row: streak.get(row, 0) + 1 for row in here}
            firm = {row: one for row, one in here.items() if row in known or streak[row] >= readers.LEAST}
            chosen = places.take(firm, set(tracks.row.tolist()), min(passed, AWAY))
            taken = {known.setdefault(row, len(known)): here[row] for row in sorted(chosen)}
            points = np.zeros((len(known), *points.shape[1:]), np.float32)
            for row, one in taken.items():
                points[row] = one
        else:
            points = points[None]
        times.append(shot.time)
        yield shot._replace(keypoints=points)


class Places:
    """So many ``people`` at most of those whom a detector sees: who has the largest claims, by row."""

    def __init__(self, people: int) -> None:
        self.people = people
        self.sizes, self.seen, self.held = dict[int, float](), dict[int, float](), set[int]()

    def take(self, here: dict[int, Array], tracked: set[int], passed: float) -> set[int]:
        """Which of the rows that are here, as keypoints (K, 3), are taken.

        tracked: the rows that are not gone for good. passed: seconds since the frame before.
        """
        self.held &= tracked
        for row in {*here, *self.held}:
            self.seen[row] = self.seen.get(row, 0) + passed
        for row, points in here.items():
            self.sizes[row] = (1 - LEARN) * self.sizes.get(row, size(points)) + LEARN * size(points)
        claims = {row: claim(self.sizes[row], self.seen[row], row in self.held) for row in {*here, *self.held}}
        self.held = set(sorted(claims, key=lambda row: (-claims[row], row))[: self.people])
        return self.held & set(here)


def looked_up(shots: Iterable[Shot], keypoints: Array) -> Iterator[Shot]:
    """Shots with the keypoints (P, K, 3) of their frame; none after the file's last."""
    nothing = np.zeros_like(keypoints[:, 0])
    for shot in shots:
        yield shot._replace(keypoints=keypoints[:, shot.number] if shot.number < keypoints.shape[1] else nothing)
