"""The detector that comes along: Google's MoveNet on onnxruntime, for several people, without a download.

Multipose looks over the whole picture, thunder closely at each person, or lightning, which is faster and less exact
(`kinlmr.video.following`). kinlmr/weights/README.md has the files' origin. Needs the extra ``video``.
"""

from __future__ import annotations

import hashlib
import re
from importlib import resources
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from kinlmr.files import Array
from kinlmr.video.following import Follower, Looks
from kinlmr.video.persons import Window, about_hips

OLDEST = (1, 20)  # of onnxruntime
SIDES = {"thunder": 256, "lightning": 192}
LOOK, LOOK_FAST = 384, 256  # the longer side of what multipose sees, in pixels
EVERY, EVERY_FAST = 6, 15  # frames from one look to the next, if all is quiet
STRIDE = 32  # multipose's sides are multiples of it
DOUBT = 0.3  # thunder's mean score: below, it looks again, with the contrast raised
SEEN = 0.05  # multipose's score of a person who is told


def movenet(people: int = 4, fast: bool = False) -> Follower:
    """MoveNet's detector of so many people at most; frames of one video go in, one after another.

    ImportError: onnxruntime is missing or too old. ValueError: a damaged file.
    """
    closely, side = shipped("lightning" if fast else "thunder"), SIDES["lightning" if fast else "thunder"]

    def close(frame: NDArray[np.uint8], window: Window) -> Array:
        picture, back = cropped(frame, window, (side, side))
        points = closely.run(None, {"input": picture[None]})[0][0, 0]
        if not fast and points[:, 2].mean() < DOUBT:
            again = closely.run(None, {"input": evened(picture)[None]})[0][0, 0]
            points = max(points, again, key=lambda some: some[:, 2].mean())
        return placed(points[:, [1, 0, 2]] * [side, side, 1], back)

    return Follower(multipose(LOOK_FAST if fast else LOOK), close, about_hips, people, EVERY_FAST if fast else EVERY)


class multipose:
    """A frame (H, W, 3) -> keypoints (17, 3) and score of up to six people, by multipose on ``side`` pixels."""

    def __init__(self, side: int) -> None:
        self.session, self.side = shipped("multipose"), side

    def __call__(self, frame: NDArray[np.uint8]) -> Looks:
        size = np.array(frame.shape[:2])
        small = np.maximum(np.round(size * self.side / size.max()), 1).astype(int)
        picture = np.zeros((1, *(-(-small // STRIDE) * STRIDE), 3), np.uint8)
        picture[0, : small[0], : small[1]] = resized(frame, *small)
        found = self.session.run(None, {"input": picture})[0][0]
        scale = np.append(np.array(picture.shape[1:3]) * size / small, 1)
        points = (found[:, :51].reshape(-1, 17, 3) * scale)[..., [1, 0, 2]]
        points[..., 2] = np.sqrt(points[..., 2].clip(0, 1))  # MoveNet says 0.5 where others say 0.9
        return [(one, float(row[55])) for one, row in zip(points, found, strict=True) if row[55] > SEEN]


# ------------------------------------------------------------------------------------------------------------- pictures


def resized(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """(H, W, 3) -> (height, width, 3), averaged where it shrinks."""
    planes = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
    small = interpolate(planes, (int(height), int(width)), mode="bilinear", antialias=True)
    return np.ascontiguousarray(small[0].permute(1, 2, 0).numpy())


def cropped(frame: NDArray[np.uint8], window: Window, size: tuple[int, int]) -> tuple[NDArray[np.uint8], Array]:
    """The window of a frame in a size (height, width), black beyond the edge; left, top, a pixel's width and height."""
    left, top = round(window.x - window.width / 2), round(window.y - window.height / 2)
    width, height = max(round(window.width), 1), max(round(window.height), 1)
    part = np.zeros((height, width, 3), np.uint8)
    low, upper = max(left, 0), max(top, 0)
    inside = frame[upper : max(top + height, 0), low : max(left + width, 0)]
    part[upper - top : upper - top + inside.shape[0], low - left : low - left + inside.shape[1]] = inside
    return resized(part, *size), np.array([left, top, width / size[1], height / size[0]])


def evened(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Half of a picture (H, W, 3), half of it with all greys equally frequent: shows who stands in front of the sun."""
    grey = picture.mean(2).astype(np.uint8)
    share = np.bincount(grey.ravel(), minlength=256).cumsum() / grey.size
    gain = 0.5 + 0.5 * 255 * share / np.arange(256).clip(1)
    return (picture * gain[grey][..., None]).clip(0, 255).astype(np.uint8)


def placed(points: Array, back: Array) -> Array:
    """Points (K, 3) of a crop in the frame's pixels, with `back` of `cropped`; the confidence's root is taken."""
    points = points * [*back[2:], 1] + [*back[:2], 0]
    points[:, 2] = np.sqrt(points[:, 2].clip(0, 1))
    return points


# ---------------------------------------------------------------------------------------------------------- onnxruntime


def runtime() -> Any:
    """The module ``onnxruntime``; an ImportError says how to get it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            f'the detector needs onnxruntime ({error}): pip install "kinlmr[video]"; or give a file of keypoints '
            "with --keypoints"
        ) from None
    version = getattr(onnxruntime, "__version__", "unknown")
    numbers = tuple(map(int, re.findall(r"\d+", version)[:2]))
    if not hasattr(onnxruntime, "InferenceSession"):
        raise ImportError(
            "onnxruntime is broken, as when one of its builds was removed beside another: pip uninstall onnxruntime "
            'onnxruntime-gpu, then pip install "kinlmr[video]"'
        )
    if numbers < OLDEST:
        raise ImportError(
            f"onnxruntime {version} is too old for the detector, which needs {'.'.join(map(str, OLDEST))} or later: "
            'pip install --upgrade "kinlmr[video]"'
        )
    return onnxruntime


def session(model: str | bytes) -> Any:
    """An onnxruntime session, of a file or its bytes, on the CPU, with as many threads as torch has."""
    onnxruntime = runtime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # torch needs the CPUs in between
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def shipped(name: str) -> Any:
    """The session of kinlmr/weights/movenet-NAME.onnx, whose bytes are those of the list beside it."""
    folder, file = resources.files("kinlmr") / "weights", f"movenet-{name}.onnx"
    listed = dict(line.split()[::-1] for line in (folder / "movenet.sha256").read_text().splitlines())
    data = (folder / file).read_bytes()
    if (found := hashlib.sha256(data).hexdigest()) != listed[file]:
        raise ValueError(
            f"{folder / file}: damaged, {len(data):,} bytes of sha256 {found}, expected {listed[file]}; install kinlmr "
            "anew"
        )
    return session(data)
