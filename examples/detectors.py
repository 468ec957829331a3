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
    except (ImportError, AttributeError):
        raise SystemExit(
            "no detector of keypoints: give a file of keypoints with --keypoints, another detector with --detector, or "
            "install mediapipe, on Python 3.9 to 3.12:\n  pip install --no-deps mediapipe==0.10.21 "
            "opencv-python-headless && pip install absl-py attrs flatbuffers 'protobuf<5' matplotlib"
        ) from None

    def detect(frame: Array) -> Array:
        marks = pose.process(np.ascontiguousarray(frame)).pose_landmarks
        if marks is None:
            return np.zeros((33, 3), np.float32)
        size = frame.shape[1], frame.shape[0]
        return np.array([(p.x * size[0], p.y * size[1], p.visibility) for p in marks.landmark], np.float32)

    return detect


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
