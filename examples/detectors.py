"""Where a video's keypoints come from: a detector that runs on its frames, or a file of another's."""

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import readers
from frames import Shot
from numpy.typing import NDArray

import kinlmr

Array = NDArray[Any]
VERSION, LATEST = sys.version_info[:2], (3, 12)  # Python's; the latest that mediapipe with a model inside is for
Detector = Callable[[Array], Array]  # a frame (H, W, 3) uint8, RGB -> (K, 3) x, y in pixels, confidence; zeros: nobody


def find_detector(name: str | None) -> Detector:
    """``module:function`` or, without a name, mediapipe's."""
    if name is not None:
        module, _, function = name.partition(":")
        sys.path.insert(0, os.getcwd())
        try:
            found: Detector = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError, ValueError) as error:
            raise SystemExit(
                f"--detector {name}: {error}; give module:function, of a module that can be imported"
            ) from None
        return found
    try:
        pose = importlib.import_module("mediapipe").solutions.pose.Pose(model_complexity=1)
    except (ImportError, AttributeError) as error:
        raise SystemExit(how_to_install(error)) from None

    def detect(frame: Array) -> Array:
        marks = pose.process(np.ascontiguousarray(frame)).pose_landmarks
        if marks is None:
            return np.zeros((33, 3), np.float32)
        size = frame.shape[1], frame.shape[0]
        return np.array([(p.x * size[0], p.y * size[1], p.visibility) for p in marks.landmark], np.float32)

    return detect


def how_to_install(error: Exception) -> str:
    """What to do without mediapipe's detector: the last release with a model inside is for Python 3.9 to 3.12.

    As pip resolves that release it would bring an older numpy, and jax; so its requirements are named one by one.
    """
    python, first = sys.executable, ""
    if VERSION > LATEST:
        python = ".venv312/bin/python"
        first = (
            f"mediapipe's is for Python 3.12 at most, this is {VERSION[0]}.{VERSION[1]}; in kinlmr's source:\n"
            f'  python3.12 -m venv .venv312\n  {python} -m pip install -c constraints.txt -e ".[video]"\n'
        )
    return (
        f"no detector of keypoints ({error}): give a file of keypoints with --keypoints, another detector with "
        f"--detector, or install mediapipe's.\n{first}"
        f"  {python} -m pip install --no-deps mediapipe==0.10.21 opencv-python-headless\n"
        f'  {python} -m pip install absl-py attrs flatbuffers matplotlib "protobuf<5"\n'
        "pip then lists what mediapipe asks for besides; the detector runs without it"
    )


def detected(shots: Iterable[Shot], detect: Detector, target: str, scale: float) -> Iterator[Shot]:
    """Shots with the keypoints (1, K, 3) of the person that the detector sees, in pixels of the source."""
    for shot in shots:
        points, name = readers.named(np.asarray(detect(shot.picture), np.float32), "the detector")
        points = points if name == target else kinlmr.keypoints.convert(points, name, target).numpy()
        yield shot._replace(keypoints=points[None] * np.array([1 / scale, 1 / scale, 1], np.float32))


def looked_up(shots: Iterable[Shot], keypoints: Array) -> Iterator[Shot]:
    """Shots with the keypoints (P, K, 3) of their frame; none after the file's last."""
    nothing = np.zeros_like(keypoints[:, 0])
    for shot in shots:
        yield shot._replace(keypoints=keypoints[:, shot.number] if shot.number < keypoints.shape[1] else nothing)
