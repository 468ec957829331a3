"""Bodies in motion, written as files that other tools read: GLB, BVH, AMASS, .smpl, OpenSim's .trc, JSON.

Every function takes the same things:

    path         its ending is the format's
    body         a `kinlmr.Body`
    rotations    (T, J, 3, 3), each relative to its joint's parent
    shape        (S), or (T, S), of which the mean is written: one body has one shape. None: the mean shape
    translation  (T, 3) in metres, added to the posed body; None: zero
    fps          frames per second

as tensors or arrays. The body stands upright, y up: what comes out of a camera is turned first, see `upright`.
AMASS's and .smpl's translation moves the model's origin, as `Body`'s does; the root channels of GLB and BVH say where
the root joint is. Shape numbers are those of the body given: another body's shape directions mean something else.
Bad input is a ValueError; a file is written whole or not at all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange, reduce
from torch import Tensor

from kinlmr._moved import renamed
from kinlmr.body import Body, normals
from kinlmr.export import glb
from kinlmr.export.bvh import write_bvh
from kinlmr.files import Array, about, nearest, write_atomic, write_npz
from kinlmr.motion import Motion, plain_names
from kinlmr.rotations import continuous_quaternions, matrix_to_axis_angle, matrix_to_quaternion
from kinlmr.skeleton import load as load_skeleton

# SMPL's families, as smplcodec numbers them, by their joints; and how it shares out the joints of each.
FAMILIES = {24: "smpl.yaml", 52: "smplh.yaml", 55: "smplx.yaml"}
CODEC_PARTS = {
    24: {"bodyPose": 24},
    52: {"bodyPose": 22, "leftHandPose": 15, "rightHandPose": 15},
    55: {"bodyPose": 22, "headPose": 3, "leftHandPose": 15, "rightHandPose": 15},
}
COLORS = ((0.36, 0.52, 0.86), (0.90, 0.50, 0.36), (0.42, 0.70, 0.46), (0.72, 0.52, 0.80), (0.86, 0.72, 0.34))
GENDERS = ("neutral", "male", "female")


class _Take(NamedTuple):
    """Checked input, float64 on the CPU: rotations (T, J, 3, 3), shape (s), translation (T, 3)."""

    body: Body
    rotations: Tensor
    shape: Tensor
    translation: Tensor
    fps: float

    def rest(self) -> Tensor:
        """Joints of the T-pose (J, 3)."""
        return self.body.joints_at_rest(self.shape[None])[0]

    def axis_angle(self) -> Array:
        """(T, J, 3)"""
        return matrix_to_axis_angle(self.rotations).numpy()

    def in_family_order(self, path: str | os.PathLike[str]) -> Array:
        """`axis_angle` in the order of SMPL's family of so many joints, which a file without names goes by."""
        family = load_skeleton(FAMILIES[len(self.body.joints)])
        names = plain_names(self.body.joints)
        if odd := [f"{name!r}{nearest(name, names)}" for name in family.joints if name not in names]:
            raise ValueError(
                f"{os.fspath(path)}: {self.body.name!r} has {len(names)} joints, as {family.name} has, but not "
                f"{', '.join(odd[:5])}; the format goes by their order: rename its joints, or save_json"
            )
        return self.axis_angle()[:, [names.index(name) for name in family.joints]]


def upright(
    body: Body, rotations: Tensor, shape: Tensor | None = None, translation: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A body in the camera's frame (x right, y down, z forward), turned to y up.

    rotations (..., J, 3, 3), shape (..., S), translation (..., 3) in metres -> (rotations, translation) alike
    """
    return body.rotate_root(rotations, shape, translation, torch.diag(rotations.new_tensor([1.0, -1.0, -1.0])))


def _take(
    path: str | os.PathLike[str],
    ending: str,
    body: Body,
    rotations: Any,
    shape: Any = None,
    translation: Any = None,
    fps: float = 30.0,
) -> _Take:
    """Input of every function here, checked."""
    with about(path):
        if Path(path).suffix.lower() != ending:
            raise ValueError(f"the name must end in {ending}")
        if not (isinstance(fps, int | float | np.number) and 0 < fps < float("inf")):
            raise ValueError(f"fps is a number above 0, not {fps!r}")
        matrices = _matrices(body, _double(rotations))
        frames = len(matrices)
        numbers = _double(torch.zeros(0) if shape is None else shape)
        if numbers.ndim == 2 and len(numbers) == frames:
            numbers = reduce(numbers, "t s -> s", "mean")
        if numbers.ndim != 1 or len(numbers) > body.shape_width:
            wanted = f"({body.shape_width}) or ({frames}, {body.shape_width})"
            raise ValueError(f"shape is {wanted}, not {tuple(numbers.shape)}")
        if not numbers.isfinite().all():
            raise ValueError("shape are not finite")
        moves = torch.zeros(frames, 3, dtype=torch.float64) if translation is None else _double(translation)
        if moves.shape != (frames, 3):
            raise ValueError(f"translation has shape ({frames}, 3), not {tuple(moves.shape)}")
        _check_finite("translation", moves)
        return _Take(body.to("cpu", torch.float64), matrices, numbers, moves, float(fps))


def _matrices(body: Body, x: Tensor) -> Tensor:
    """The rotation matrices (T, J, 3, 3) of a body, checked."""
    joints = len(body.joints)
    if x.shape[1:] != (joints, 3, 3) or not len(x):
        raise ValueError(f"rotations have shape (T, {joints}, 3, 3) with T >= 1, not {tuple(x.shape)}")
    _check_finite("rotations", x)
    off = (x @ x.mT - torch.eye(3, dtype=torch.float64)).abs().amax((-2, -1))
    off = torch.where(torch.linalg.det(x) > 0, off, 2.0)
    if off.max() > 1e-3:
        frame, joint = (int(i) for i in np.unravel_index(int(off.argmax()), off.shape))
        raise ValueError(
            f"frame {frame}, {body.joints[joint]}: not a rotation matrix; "
            "kinlmr.rotations.nearest_rotation makes it one"
        )
    return x


def _check_finite(what: str, values: Tensor) -> None:
    if not values.isfinite().all():
        raise ValueError(f"{what} are not finite in frame {int(torch.nonzero(~values.isfinite())[0, 0])}")


def _double(values: Any) -> Tensor:
    return torch.as_tensor(values).detach().to("cpu", torch.float64)


# --------------------------------------------------------------------------------------------------------------- files


def save_glb(
    path: str | os.PathLike[str], body: Body | Sequence[Body], rotations: Any, shape: Any = None,
    translation: Any = None, fps: float = 30.0, start: int | Sequence[int] = 0,
) -> None:  # fmt: skip
    """Animated, skinned GLB (binary glTF 2.0), y up, in metres, for Blender, three.js and game engines.

    The shape is in the mesh. Each vertex follows its four strongest joints, and a skin has no pose directions: where a
    body has more joints to a vertex, or pose directions, the mesh is near to `Body`'s and not equal to it.
    start    the frame of the video that the motion begins with
    Several people are one file: rotations a list, one (T, J, 3, 3) each, of lengths of their own; shape, translation
    and start then lists as long, or None and one number; body one for all, or a list too.
    """
    many = isinstance(rotations, list | tuple)
    columns: list[Any] = [rotations, shape, translation, start, body]
    columns = columns if many else [[value] for value in columns]
    count = len(columns[0])
    columns = [[value] * count if value is None or isinstance(value, int | Body) else value for value in columns]
    if not count or any(len(column) != count for column in columns):
        raise ValueError(
            f"{os.fspath(path)}: rotations, shape, translation, start and body are lists of one entry per person, "
            f"not of {', '.join(str(len(column)) for column in columns)}"
        )
    people = []
    for k, (matrices, numbers, moves, begin, own) in enumerate(zip(*columns, strict=True)):
        name = f"person{k + 1}" if many else "person"
        people.append(
            _person(name, _take(path, ".glb", own, matrices, numbers, moves, fps), begin, COLORS[k % len(COLORS)])
        )
    write_atomic(path, glb.pack(people))


def _person(name: str, given: _Take, start: int, color: tuple[float, float, float]) -> glb.Person:
    body = given.body
    if body.faces is None:
        raise ValueError(f"body {body.name!r} has no faces; a mesh needs some")
    flat = body.template + given.shape @ body.basis[body.pose_width :][: len(given.shape)]
    vertices, faces = rearrange(flat, "(c n) -> n c", c=3).numpy(), body.faces.cpu().numpy()
    outwards = normals(vertices, faces)
    outwards[~outwards.any(1)] = (0, 0, 1)  # a vertex without a face
    weights, influences = (x.numpy() for x in rearrange(body.weights, "j n -> n j").topk(min(4, len(body.joints))))
    weights, influences = (np.pad(x, ((0, 0), (0, 4 - x.shape[1]))) for x in (weights, influences))
    influences = np.where(weights > 0, influences, 0)
    quaternions = continuous_quaternions(matrix_to_quaternion(given.rotations)).numpy()
    rest = given.rest().numpy()
    return glb.Person(
        name, body.joints, body.parents, rest, vertices, outwards, faces, influences,
        weights / weights.sum(1, keepdims=True), np.roll(quaternions, -1, -1),
        given.translation.numpy() + rest[body.root], (start + np.arange(len(quaternions))) / given.fps, color,
    )  # fmt: skip


def save_bvh(
    path: str | os.PathLike[str], body: Body, rotations: Any, shape: Any = None, translation: Any = None,
    fps: float = 30.0, start: int = 0,
) -> None:  # fmt: skip
    """BVH, in metres, y up: the skeleton with this shape's bones, by `write_bvh`.

    The root's channels hold the root joint's position: that at rest plus the translation.
    start    the frame of the video that the motion begins with: until then the first pose is held
    """
    if not (isinstance(start, int | np.integer) and start >= 0):
        raise ValueError(f"{os.fspath(path)}: start is {start!r}, expected a number of frames, 0 or more")
    given = _take(path, ".bvh", body, rotations, shape, translation, fps)
    held = [0] * start + list(range(len(given.rotations)))
    given = given._replace(rotations=given.rotations[held], translation=given.translation[held])
    rest, root = given.rest(), body.root
    motion = Motion(
        Path(path).stem, body.joints, given.fps, matrix_to_axis_angle(given.rotations), given.translation + rest[root]
    )
    write_bvh(motion, path, replace(given.body, J=rearrange(rest, "j c -> (j c)")))


def save_amass(
    path: str | os.PathLike[str], body: Body, rotations: Any, shape: Any = None, translation: Any = None,
    fps: float = 30.0, gender: str = "neutral", smplh: bool = False,
) -> None:  # fmt: skip
    """AMASS's .npz: poses (T, 3 J) as axis-angle, trans (T, 3), betas, gender, mocap_framerate; z up, as AMASS is.

    trans moves the model's origin: joints are those of the posed body plus trans. The joints stand in the order of
    SMPL, SMPL-H or SMPL-X, if the body has as many, else in the body's own.
    smplh: poses (T, 156) as SMPL-H has them, which most readers of AMASS expect, out of a body with SMPL's 24 joints:
    the first 22, and fingers at rest. The rotations of SMPL's two hands are left out.
    """
    given = _take(path, ".npz", body, rotations, shape, translation, fps)
    if gender not in GENDERS:
        raise ValueError(f"{os.fspath(path)}: gender is one of {', '.join(GENDERS)}, not {gender!r}")
    if smplh and len(body.joints) != 24:
        raise ValueError(
            f"{os.fspath(path)}: smplh=True is for bodies of SMPL's 24 joints, {body.name!r} has {len(body.joints)}"
        )
    z_up = given.rotations.new_tensor([[1, 0, 0], [0, 0, -1], [0, 1, 0]])
    rotations, translation = given.body.rotate_root(given.rotations, given.shape, given.translation, z_up)
    given = given._replace(rotations=rotations)
    poses = given.in_family_order(path) if len(body.joints) in FAMILIES else given.axis_angle()
    if smplh:
        poses = np.concatenate([poses[:, :22], np.zeros((len(poses), 30, 3))], 1)
    write_npz(
        path, poses=rearrange(poses, "t j c -> t (j c)"), trans=translation.numpy(), betas=given.shape.numpy(),
        gender=np.array(gender), mocap_framerate=np.array(given.fps), mocap_frame_rate=np.array(given.fps),
    )  # fmt: skip


def save_smpl(
    path: str | os.PathLike[str], body: Body, rotations: Any, shape: Any = None, translation: Any = None,
    fps: float = 30.0, gender: str = "neutral",
) -> None:  # fmt: skip
    """Meshcapade's .smpl (codec version 2), for bodies with the joints of SMPL, SMPL-H or SMPL-X; y up.

    bodyTranslation moves the model's origin. All numbers are float32, as the codec has them.
    """
    given = _take(path, ".smpl", body, rotations, shape, translation, fps)
    joints = len(body.joints)
    if joints not in FAMILIES:
        raise ValueError(f"{os.fspath(path)}: a .smpl file is for 24, 52 or 55 joints, body {body.name!r} has {joints}")
    if gender not in GENDERS:
        raise ValueError(f"{os.fspath(path)}: gender is one of {', '.join(GENDERS)}, not {gender!r}")
    poses, ends = given.in_family_order(path).astype(np.float32), np.cumsum(list(CODEC_PARTS[joints].values()))
    parts = dict(zip(CODEC_PARTS[joints], np.split(poses, ends[:-1], 1), strict=True))
    version = list(FAMILIES).index(joints)
    whole = {"codecVersion": 2, "smplVersion": version, "gender": GENDERS.index(gender), "frameCount": len(poses)}
    write_npz(
        path, **{key: np.array(value, np.int32) for key, value in whole.items()}, **parts,
        frameRate=np.array(given.fps, np.float32), shapeParameters=given.shape.numpy().astype(np.float32),
        bodyTranslation=given.translation.numpy().astype(np.float32),
    )  # fmt: skip


def save_trc(
    path: str | os.PathLike[str], body: Body, rotations: Any, shape: Any = None, translation: Any = None,
    fps: float = 30.0, want: str = "joints",
) -> None:  # fmt: skip
    """OpenSim's marker file .trc: the joints, or with ``want="keypoints"`` the body's keypoints; millimetres."""
    given = _take(path, ".trc", body, rotations, shape, translation, fps)
    if want == "points":
        want = renamed("want='points'", "'keypoints'", "keypoints")
    if want not in ("joints", "keypoints"):
        raise ValueError(f"{os.fspath(path)}: want is 'joints' or 'keypoints', not {want!r}")
    mesh = given.body(given.rotations, given.shape, given.translation, want=(want,))
    names = body.joints if want == "joints" or body.keypoints is None else body.keypoints.names
    markers = ["_".join(name.split()) for name in names]
    positions = rearrange(1000 * getattr(mesh, want), "t k c -> t (k c)").tolist()
    head = {"DataRate": f"{given.fps:g}", "CameraRate": f"{given.fps:g}", "NumFrames": len(positions),
            "NumMarkers": len(markers), "Units": "mm", "OrigDataRate": f"{given.fps:g}", "OrigDataStartFrame": 1,
            "OrigNumFrames": len(positions)}  # fmt: skip
    axes = [f"{axis}{k + 1}" for k in range(len(markers)) for axis in "XYZ"]
    lines = [
        f"PathFileType\t4\t(X/Y/Z)\t{Path(path).name}", "\t".join(head), "\t".join(map(str, head.values())),
        "Frame#\tTime\t" + "\t\t\t".join(markers) + "\t\t", "\t\t" + "\t".join(axes), "",
    ]  # fmt: skip
    for frame, row in enumerate(positions):
        lines.append("\t".join([str(frame + 1), f"{frame / given.fps:.6f}", *(f"{x:.5f}" for x in row)]))
    write_atomic(path, ("\n".join(lines) + "\n").encode())


def save_json(
    path: str | os.PathLike[str], body: Body, rotations: Any, shape: Any = None, translation: Any = None,
    fps: float = 30.0,
) -> None:  # fmt: skip
    """JSON: the body's joints and parents, fps, shape; by frame axis_angle (T, J, 3) in radians, translation (T, 3) and
    the joints' positions (T, J, 3) in metres, y up, as places.
    """
    given = _take(path, ".json", body, rotations, shape, translation, fps)
    positions = given.body(given.rotations, given.shape, given.translation).joints

    def short(values: Any) -> Any:
        return np.round(np.asarray(values), 6).tolist()

    content = {
        "format": "kinlmr motion 1", "body": body.name, "joints": body.joints, "parents": body.parents,
        "fps": given.fps, "frames": len(positions), "shape": short(given.shape),
        "axis_angle": short(given.axis_angle()), "translation": short(given.translation), "places": short(positions),
    }  # fmt: skip
    write_atomic(path, (json.dumps(content, separators=(",", ":")) + "\n").encode())
