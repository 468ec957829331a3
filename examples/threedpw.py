"""3DPW's sequence files, as they are published: keypoints of people in the wild, and where their joints were.

    FOLDER/*.pkl, or FOLDER/sequenceFiles/test/*.pkl    written by Python 2, of P people in N frames, 30 a second:
        poses2d [P] (N, 3, 18), OpenPose's points of COCO as x, y, confidence; jointPositions [P] (N, 72), the 24 joints
        of SMPL in metres; cam_poses (N, 4, 4), from the world to the camera, and campose_valid [P] (N), where they
        hold; cam_intrinsics (3, 3); poses [P] (N, 72), trans [P] (N, 3), betas [P] (10 or more), genders [P] m or f

Figures are over 14 points. With SMPL's files and a regressor of Human3.6M's 17 points, both licensed, these are 14 of
the 17, as papers take them; else the joints of the same names, neck and head among them.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from aist import seen
from torch import Tensor

import kinlmr
from kinlmr.body.points import keypoint_sets
from kinlmr.files.arrays import Array
from kinlmr.files.pickles import Unpickler, as_dict, numbers, refusal
from kinlmr.metrics import H36M_TO_14
from kinlmr.rotations import axis_angle_to_matrix
from kinlmr.video.readers.points import named

FPS = 30.0
SETS = keypoint_sets()
JOINTS = [SETS["smpl24"].index(name) for name in (*SETS["lsp14"][:12], "neck", "head")]
HIPS = [2, 3]  # of the 14 points
RIGHT_FIRST = (3, 2, 1, 4, 5, 6, *H36M_TO_14[6:])  # H36M_TO_14 of points whose right leg comes first


class _Sequence(Unpickler):
    what = "sequence file"


class Person(NamedTuple):
    """A person of a sequence in T frames: keypoints (T, 17, 3) of coco17; truth (T, 14, 3) in metres in the camera's
    frame, NaN where the camera is not known and before the first keypoint and after the last; size (width, height) of
    the picture and focal length in pixels."""

    name: str
    keypoints: Tensor
    truth: Tensor
    size: tuple[float, float]
    focal: float


class Protocol(NamedTuple):
    """What the 14 points are of: the body of the estimate, and the bodies of the truth by gender, None for joints."""

    body: kinlmr.Body
    truth: dict[str, kinlmr.Body] | None

    def points(self, rotations: Tensor, shape: Tensor) -> Tensor:
        """The estimate's 14 points: rotations (T, J, 3, 3), shape (T, S) -> (T, 14, 3)."""
        return fourteen(self.body, rotations, shape) if self.truth else self.body(rotations, shape).joints[:, JOINTS]


def protocol(body: str, smpl: tuple[str, str] | None = None, regressor: str | None = None) -> Protocol:
    """For a model's body by name; smpl: the files of SMPL's male and female body, regressor: a .npy of (17, 6890)."""
    if smpl is None or regressor is None:
        loaded = kinlmr.load_body(body)
        if loaded.joints != SETS["smpl24"]:
            raise ValueError(f"the body {body} has other joints than SMPL's 24, which 3DPW gives: {loaded.joints}")
        return Protocol(loaded, None)
    truth = {gender: kinlmr.load_body(path, keypoints=regressor) for gender, path in zip("mf", smpl, strict=True)}
    assert truth["m"].keypoints is not None
    if (count := len(truth["m"].keypoints.names)) != 17:
        raise ValueError(f"{regressor}: a regressor of {count} points, expected Human3.6M's 17")
    same = kinlmr.load_body(body).weights.shape[1] == truth["m"].weights.shape[1]
    return Protocol(kinlmr.load_body(body, keypoints=regressor if same else "h36m17"), truth)


def fourteen(body: kinlmr.Body, rotations: Tensor, shape: Tensor, translation: Tensor | None = None) -> Tensor:
    """Of a body with Human3.6M's 17 points, VIBE's 14, right ankle first. Regressors that go about differ in which leg
    is the first; the body at rest, its left at x > 0, tells."""
    rest = body(
        torch.eye(3).expand(len(body.joints), 3, 3), torch.zeros(body.shape_width), want=("keypoints",)
    ).keypoints
    order = RIGHT_FIRST if rest[1, 0] < rest[4, 0] else H36M_TO_14
    return body(rotations, shape, translation, want=("keypoints",)).keypoints[:, list(order)]


def people(folder: Path, scored: Protocol) -> Iterator[Person]:
    """The people of all sequences of a folder, one after the other."""
    paths = sorted(folder.glob("*.pkl")) or sorted((folder / "sequenceFiles" / "test").glob("*.pkl"))
    if not paths:
        raise FileNotFoundError(f"{folder}: no *.pkl in it, nor in sequenceFiles/test; expected is a folder of 3DPW's")
    for path in paths:
        yield from read(path, scored)


def read(path: Path, scored: Protocol) -> list[Person]:
    """The people of a sequence file. A ValueError names what it lacks, or has in another shape; nothing in it runs."""
    try:
        content = as_dict(_Sequence(io.BytesIO(path.read_bytes()), encoding="latin1").load())
        count = len(_list(content, "poses2d"))
        camera, lens = (numbers(key, _item(content, key)) for key in ("cam_poses", "cam_intrinsics"))
        _check("cam_poses", camera, (*camera.shape[:1], 4, 4))
        _check("cam_intrinsics", lens, (3, 3))
        return [_person(path.stem, content, i, camera, lens, scored) for i in range(count)]
    except OSError:
        raise
    except Exception as error:
        raise refusal(str(path), error) from None


def _person(name: str, content: dict[str, Any], i: int, camera: Array, lens: Array, scored: Protocol) -> Person:
    def own(key: str, *shape: int) -> Array:
        if len(_list(content, key)) <= i:
            raise ValueError(f"{key} is of {len(content[key])} people, expected {len(content['poses2d'])}")
        return _check(f"{key}[{i}]", numbers(key, content[key][i]), shape)

    frames = len(camera)
    flat, _ = named(np.moveaxis(own("poses2d", frames, 3, 18), 1, 2))
    keypoints = seen(flat)
    if scored.truth is None:
        points = torch.from_numpy(own("jointPositions", frames, 72).astype(np.float64)).unflatten(1, (24, 3))[:, JOINTS]
    else:
        gender = str(_list(content, "genders")[i])
        if gender not in scored.truth:
            raise ValueError(f"genders[{i}] is {gender!r}, expected m or f")
        body, betas = scored.truth[gender], numbers("betas", _list(content, "betas")[i]).ravel()
        pose, trans = (torch.from_numpy(own(key, frames, n)).float() for key, n in (("poses", 72), ("trans", 3)))
        shape = torch.zeros(frames, body.shape_width)
        shape[:, : len(betas)] = torch.from_numpy(betas[: body.shape_width]).float()
        points = fourteen(body, axis_angle_to_matrix(pose.unflatten(1, (24, 3))), shape, trans).double()
    pose = torch.from_numpy(camera.astype(np.float64))
    points = points @ pose[:, :3, :3].mT + pose[:, None, :3, 3]
    there = (keypoints[..., 2] > 0).any(1)
    between = (there.cumsum(0) > 0) & (there.flip(0).cumsum(0).flip(0) > 0)
    valid = between & torch.from_numpy(own("campose_valid", frames).astype(bool))
    truth = torch.where(valid[:, None, None], points, torch.nan)
    size = 2 * float(lens[0, 2]), 2 * float(lens[1, 2])
    return Person(f"{name}, person {i}", keypoints, truth, size, float(lens[0, 0]))


def _item(content: dict[str, Any], key: str) -> Any:
    if content.get(key) is None:
        raise ValueError(f"it lacks {key}; it holds {', '.join(content) or 'nothing'}")
    return content[key]


def _list(content: dict[str, Any], key: str) -> list[Any]:
    if not isinstance(_item(content, key), list):
        raise ValueError(f"{key} is a {type(content[key]).__name__}, expected a list with an item a person")
    return content[key]


def _check(key: str, x: Array, shape: tuple[int, ...]) -> Array:
    if x.shape != shape or x.dtype.kind not in "biuf":
        raise ValueError(f"{key} is {x.dtype} of {x.shape}, expected numbers {shape}")
    return x
