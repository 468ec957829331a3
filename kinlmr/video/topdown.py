"""A user's own network as an ONNX file: top-down, one person a crop, such as RTMPose (SimCC) and ViTPose (heatmaps)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kinlmr.files import Array
from kinlmr.video.following import Follower
from kinlmr.video.movenet import EVERY, LOOK, cropped, multipose, session
from kinlmr.video.persons import COCO, Window, box

MEAN, SPREAD = (
    np.array([123.675, 116.28, 103.53]),
    np.array([58.395, 57.12, 57.375]),
)  # ImageNet's, of RGB from 0 to 255
COUNTS = (17, 26, 133)  # COCO, Halpe, COCO-WholeBody; the first 17 are COCO's
MARGIN = 1.25  # of the box about a person


def topdown(path: str | Path, people: int = 4) -> Follower:
    """A detector of so many people at most: boxes from multipose, which comes along, keypoints from a file.

    The file's input is (N, 3, H, W) RGB, of ImageNet's mean and deviation. Its outputs are heatmaps (N, K, h, w), or
    SimCC's two, (N, K, W r) and (N, K, H r), a score for each column and row of r-ths of a pixel. K is 17, 26 or 133.
    FileNotFoundError, ValueError: there is no such file, or it is another network. ImportError: onnxruntime is missing.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file; give --detector onnx:FILE")
    try:
        network = session(str(path))
    except ImportError:
        raise
    except Exception as error:  # onnxruntime has many
        raise ValueError(
            f"{path}: onnxruntime cannot read it ({str(error).splitlines()[0]}); damaged, or no ONNX file?"
        ) from None
    name, (height, width) = _input(network, path)
    _layout([output.shape for output in network.get_outputs()], path)

    def close(frame: NDArray[np.uint8], window: Window) -> Array:
        picture, back = cropped(frame, window, (height, width))
        planes = ((picture - MEAN) / SPREAD).transpose(2, 0, 1)[None].astype(np.float32)
        points = decoded(network.run(None, {name: planes}), (height, width))
        return points * [*back[2:], 1] + [*back[:2], 0]

    return Follower(multipose(LOOK), close, lambda points: about_box(points, width / height), people, EVERY)


def decoded(outputs: list[Array], size: tuple[int, int]) -> Array:
    """The points (K, 3) of one person, in pixels of the input of a size (height, width), from the network's outputs."""
    height, width = size
    if outputs[0].ndim == 3:
        x, y = outputs[0][0], outputs[1][0]
        where = [x.argmax(1) * width / x.shape[1], y.argmax(1) * height / y.shape[1]]
        return np.stack([*where, np.minimum(x.max(1), y.max(1)).clip(0, 1)], 1)
    maps = outputs[0][0]
    high, wide = maps.shape[1:]
    row, column = np.divmod(maps.reshape(len(maps), -1).argmax(1), wide)
    padded, k = np.pad(maps, [(0, 0), (1, 1), (1, 1)], "edge"), np.arange(len(maps))
    across = np.sign(padded[k, row + 1, column + 2] - padded[k, row + 1, column])
    down = np.sign(padded[k, row + 2, column + 1] - padded[k, row, column + 1])
    x, y = (column + 0.25 * across + 0.5) * width / wide - 0.5, (row + 0.25 * down + 0.5) * height / high - 0.5
    return np.stack([x, y, maps[k, row, column].clip(0, 1)], 1)


def about_box(points: Array, aspect: float) -> Window:
    """The box about a person and `MARGIN`, of an aspect (width over height)."""
    low, high = box(points[:COCO])
    width, height = MARGIN * np.maximum(high - low, 4)
    height = max(height, width / aspect)
    x, y = (low + high) / 2
    return Window(float(x), float(y), float(height * aspect), float(height))


def _input(network: Any, path: str | Path) -> tuple[str, tuple[int, int]]:
    """The input's name, height and width."""
    inputs = network.get_inputs()
    shape = inputs[0].shape
    if len(inputs) != 1 or len(shape) != 4 or shape[1] != 3 or not all(isinstance(side, int) for side in shape[2:]):
        told = ", ".join(f"{one.name} {one.shape}" for one in inputs)
        raise ValueError(f"{path}: its input is {told}; expected is one, (N, 3, H, W), with a height and a width")
    return inputs[0].name, (shape[2], shape[3])


def _layout(shapes: list[list[Any]], path: str | Path) -> None:
    """Refuses outputs that are neither heatmaps nor SimCC's."""
    ranks = [len(shape) for shape in shapes]
    count = shapes[0][1] if ranks and ranks[0] > 1 else None
    if ranks not in ([4], [3, 3]) or (isinstance(count, int) and count not in COUNTS):
        raise ValueError(
            f"{path}: its outputs are {', '.join(map(str, shapes))}; expected are heatmaps (N, K, h, w), or SimCC's "
            f"two, (N, K, W r) and (N, K, H r), with K {', '.join(map(str, COUNTS))}"
        )
