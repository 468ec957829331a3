"""build(): from names and numbers to a model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from kinlmr import rotations
from kinlmr.body import keypoint_sets
from kinlmr.engine import CELLS, Cell
from kinlmr.files import read_npz
from kinlmr.keypoints import FPS
from kinlmr.model import LMR
from kinlmr.options import Options, one_of, whole
from kinlmr.plan import compile
from kinlmr.rotations import ROTATIONS, Rotation
from kinlmr.skeleton import Skeleton, load
from kinlmr.state import Estimate

T = TypeVar("T")


def build(
    skeleton: str | os.PathLike[str] | Skeleton = "smpl.yaml",
    *,
    rotation: str | Rotation = "6d",
    features: int | None = None,
    keypoints: str | None = None,
    fps: float = FPS,
    body: str = "anny24",
    confidence: Sequence[float] | None = None,
    hidden: int | Mapping[str, int] = 512,
    iterations: int = 3,
    cell: str | Cell = "gru",
    layers: int = 1,
    shape: int = 10,
    shape_hidden: int = 1024,
    camera: int = 3,
    camera_input: str = "previous",
    shape_input: str = "previous",
    start: str | os.PathLike[str] | Estimate | tuple[Any, Any, Any] | None = None,
    learn_start: bool = False,
    dropout: float = 0.0,
    allow_nan: bool = False,
) -> LMR:
    """An LMR for a skeleton: a YAML file, the name of an installed one, or a Skeleton.

    rotation      how a joint's rotation is written: a name in ROTATIONS or a Rotation record
    features      F, numbers per frame; None: 3 per keypoint, or 2048
    keypoints     the keypoint set that the model sees, such as "coco17"; None: features of another kind, and then
                  ``options`` holds no fps and no body either
    fps, body     with keypoints: how many frames a second, and the body that is posed, as `kinlmr.load_body` takes it;
                  `kinlmr.recover` goes by them
    confidence    with keypoints: (a, b), and the network sees a confidence c above 0 as a + b c; None: as it is
    hidden        H of every cell, or one per part by name (and for "camera"; without it, the largest of the parts)
    iterations    V, how often the estimate is refined
    cell, layers  "gru" or "lstm" or a `kinlmr.engine.cells.Cell`, and how many layers of it
    shape, camera numbers of the body's shape and of the camera; 0 leaves the node out
    shape_hidden  width of the shape network
    camera_input  "previous": the camera is refined like the pose; "initial": every iteration starts it anew
    shape_input   "previous": the shape is refined too; "mean": every iteration starts it from the start's
    start         what refinement starts from: an Estimate of pose (J, R), shape (S), camera (3) in skeleton order, or
                  a mean-parameter .npz with ``pose`` (6 J, in SPIN's order), ``shape``, ``cam``; None: identity
                  rotations, zeros, (0.9, 0, 0)
    learn_start   make the start parameters, which training changes
    dropout       rate of the shape network in training, 0 <= dropout < 1
    allow_nan     let features pass that are not finite, and spend no time on looking

    A ValueError names the option (or the skeleton's file and line), what was given and what is expected.

    >>> model = build(features=34, hidden=64)
    >>> model(torch.zeros(2, 16, 34)).pose.shape
    torch.Size([2, 16, 24, 6])
    """
    plan = compile(load(skeleton))
    rotation = rotation if isinstance(rotation, Rotation) else _named("rotation", rotation, ROTATIONS)
    cell = cell if isinstance(cell, Cell) else _named("cell", cell, CELLS)
    seen: dict[str, Any] = dict(keypoints=keypoints, fps=fps, body=body, confidence=confidence)
    options = Options(
        features=_features(features, keypoints), hidden=_sizes(hidden, plan.parts), iterations=iterations,
        cell=cell.name, layers=layers, shape=shape, shape_hidden=shape_hidden, camera=camera, camera_input=camera_input,
        shape_input=shape_input, learn_start=learn_start, dropout=dropout, allow_nan=allow_nan,
        **(seen if keypoints is not None else {}),
    )  # fmt: skip
    return LMR(plan, rotation, cell, _start(start, len(plan.order), rotation, options), options)


def _start(
    given: str | os.PathLike[str] | Estimate | tuple[Any, Any, Any] | None, joints: int, rotation: Rotation,
    options: Options,
) -> Estimate:  # fmt: skip
    """The start estimate, in torch's default type."""
    where = ""
    if given is None:
        camera = torch.tensor((0.9, 0.0, 0.0)) if options.camera == 3 else torch.zeros(options.camera)
        start = Estimate(torch.tensor(rotation.identity).expand(joints, -1), torch.zeros(options.shape), camera)
    elif isinstance(given, tuple):
        start = Estimate(*(torch.as_tensor(value).detach() for value in given))
    else:
        start, where = _mean_parameters(given, rotation), f"{os.fspath(given)}: "
    expected = (joints, rotation.dimension), (options.shape,), (options.camera,)
    for what, value, shape in zip(Estimate._fields, start, expected, strict=True):
        if value.shape != shape:
            raise ValueError(f"{where}start.{what} has shape {tuple(value.shape)}, this model needs {shape}")
        if not value.is_meta and not value.isfinite().all():
            raise ValueError(f"{where}start.{what} is not finite")
    return Estimate(*(value.to(torch.get_default_dtype()) for value in start))


def _features(features: int | None, keypoints: str | None) -> int:
    """F: three numbers for every point of the set, where there is one."""
    if keypoints is None:
        return 2048 if features is None else features
    points = _named("keypoint set", keypoints, keypoint_sets())
    if features not in (None, 3 * len(points)):
        raise ValueError(
            f"{keypoints} has {len(points)} points, so {3 * len(points)} features, not {features!r}; leave features out"
        )
    return 3 * len(points)


def _sizes(hidden: int | Mapping[str, int], parts: Iterable[str]) -> dict[str, int]:
    """The hidden size of every part and of the camera."""
    parts = tuple(parts)
    if not isinstance(hidden, Mapping):
        hidden = dict.fromkeys((*parts, "camera"), hidden)
    elif "camera" in parts:
        raise ValueError(
            "hidden by name cannot tell part 'camera' from the camera's cell; give one number, or rename it"
        )
    if unknown := [name for name in hidden if name not in (*parts, "camera")]:
        raise ValueError(f"hidden names {unknown}, the parts are {', '.join(parts)}")
    if missing := [name for name in parts if name not in hidden]:
        raise ValueError(f"hidden lacks {', '.join(missing)}; give one number, or one for every part")
    for name, size in hidden.items():
        whole(1)(f"hidden of {name}", size)
    return {"camera": max(hidden[name] for name in parts), **hidden}


def _mean_parameters(path: str | os.PathLike[str], rotation: Rotation) -> Estimate:
    """SPIN's smpl_mean_params.npz: pose (144) as 6D, shape (10), cam (3)."""
    arrays = read_npz(path)
    for key in ("pose", "shape", "cam"):
        if key not in arrays or arrays[key].dtype.kind not in "iuf":
            raise ValueError(f"{os.fspath(path)}: no numbers under {key!r}; it has {', '.join(arrays)}")
        if not np.isfinite(arrays[key]).all():
            raise ValueError(f"{os.fspath(path)}: {key} is not finite")
    pose, shape, camera = (
        torch.from_numpy(arrays[key].astype(np.float64)).flatten() for key in ("pose", "shape", "cam")
    )
    if pose.numel() % 6:
        raise ValueError(f"{os.fspath(path)}: pose has {pose.numel()} numbers, expected 6 per joint")
    matrices = rotations.six_d_to_matrix(pose.view(-1, 6))
    return Estimate(rotation.from_matrix(matrices), shape, camera)


def _named(what: str, name: Any, things: Mapping[str, T]) -> T:
    return things[one_of(*things)(what, name)]
