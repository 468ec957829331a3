"""Bodies in motion as the numbers that other tools read: AMASS, .smpl, OpenSim's .trc, JSON, CSV.

Every function of `kinlmr.export` takes the same things:

    path         its ending is the format's
    body         a `kinlmr.Body`
    rotations    a `kinlmr.World`, of one person or of several (B, T, ...), or a list of them; or (T, J, 3, 3), each
                 relative to its joint's parent, with the three that follow
    shape        (S), or (T, S), of which the mean is written: one body has one shape. None: the mean shape
    translation  (T, 3) in metres, added to the posed body; None: zero
    fps          frames per second
    start        by name: the frame of the clip that the motion begins with, 0 if it is not said
    size, focal  by name: of a `kinlmr.Recovery` in the place of a World, the picture's (width, height) and the camera's
                 focal length in pixels. It is turned upright, and there is a warning that it leans and floats

as tensors or arrays. The body stands upright, y up: rotations out of a camera are turned first, see `upright`.
Somebody begins where they were first seen: a World's frames with a translation of NaN are left out by files that have
times (GLB, .trc, JSON, CSV); the others begin with the clip, the body at rest until somebody comes. A GLB has all
people; in other formats several are as many files, body1.bvh and body2.bvh for body.bvh.
AMASS's and .smpl's translation moves the model's origin, as `Body`'s does; the root channels of GLB and BVH say where
the root joint is. Shape numbers are those of the body given: another body's shape directions mean something else.
Bad input is a ValueError; a file is written whole or not at all.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange

from kinlmr._moved import renamed
from kinlmr.body import Body
from kinlmr.export.bvh import euler_zyx
from kinlmr.export.takes import Take, each
from kinlmr.files import Array, nearest, write_atomic, write_npz
from kinlmr.motion import plain_names
from kinlmr.skeleton import load as load_skeleton

# SMPL's families, as smplcodec numbers them, by their joints; and how it shares out the joints of each.
FAMILIES = {24: "smpl.yaml", 52: "smplh.yaml", 55: "smplx.yaml"}
CODEC_PARTS = {
    24: {"bodyPose": 24},
    52: {"bodyPose": 22, "leftHandPose": 15, "rightHandPose": 15},
    55: {"bodyPose": 22, "headPose": 3, "leftHandPose": 15, "rightHandPose": 15},
}
GENDERS = ("neutral", "male", "female")


def _in_family_order(path: Path, take: Take) -> Array:
    """Axis-angle (T, J, 3) in the order of SMPL's family of so many joints, which a file without names goes by."""
    family = load_skeleton(FAMILIES[len(take.body.joints)])
    names = plain_names(take.body.joints)
    if odd := [f"{name!r}{nearest(name, names)}" for name in family.joints if name not in names]:
        raise ValueError(
            f"{path}: {take.body.name!r} has {len(names)} joints, as {family.name} has, but not "
            f"{', '.join(odd[:5])}; the format goes by their order: rename its joints, or save_json"
        )
    return take.axis_angle()[:, [names.index(name) for name in family.joints]]


def _gender(path: str | os.PathLike[str], gender: str) -> int:
    if gender not in GENDERS:
        raise ValueError(f"{os.fspath(path)}: gender is one of {', '.join(GENDERS)}, not {gender!r}")
    return GENDERS.index(gender)


def save_amass(
    path: str | os.PathLike[str], body: Body, rotations: Any, shape: Any = None, translation: Any = None,
    fps: float = 30.0, gender: str = "neutral", smplh: bool = False, **more: Any,
) -> None:  # fmt: skip
    """AMASS's .npz: poses (T, 3 J) as axis-angle, trans (T, 3), betas, gender, mocap_framerate; z up, as AMASS is.

    trans moves the model's origin: joints are those of the posed body plus trans. The joints stand in the order of
    SMPL, SMPL-H or SMPL-X, if the body has as many, else in the body's own.
    smplh: poses (T, 156) as SMPL-H has them, which most readers of AMASS expect, out of a body with SMPL's 24 joints:
    the first 22, and fingers at rest. The rotations of SMPL's two hands are left out.
    """
    _gender(path, gender)
    if smplh and len(body.joints) != 24:
        raise ValueError(
            f"{os.fspath(path)}: smplh=True is for bodies of SMPL's 24 joints, {body.name!r} has {len(body.joints)}"
        )

    def write(path: Path, take: Take) -> None:
        take = take.whole()
        z_up = take.rotations.new_tensor([[1, 0, 0], [0, 0, -1], [0, 1, 0]])
        turned, moved = take.body.rotate_root(take.rotations, take.shape, take.translation, z_up)
        take = take._replace(rotations=turned)
        poses = _in_family_order(path, take) if len(body.joints) in FAMILIES else take.axis_angle()
        if smplh:
            poses = np.concatenate([poses[:, :22], np.zeros((len(poses), 30, 3))], 1)
        write_npz(
            path, poses=rearrange(poses, "t j c -> t (j c)"), trans=moved.numpy(), betas=take.shape.numpy(),
            gender=np.array(gender), mocap_framerate=np.array(take.fps), mocap_frame_rate=np.array(take.fps),
        )  # fmt: skip

    each(write, path, ".npz", body, rotations, shape, translation, fps, **more)


def save_smpl(
    path: str | os.PathLike[str], body: Body, rotations: Any, shape: Any = None, translation: Any = None,
    fps: float = 30.0, gender: str = "neutral", **more: Any,
) -> None:  # fmt: skip
    """Meshcapade's .smpl (codec version 2), for bodies with the joints of SMPL, SMPL-H or SMPL-X; y up.

    bodyTranslation moves the model's origin. All numbers are float32, as the codec has them.
    """
    joints = len(body.joints)
    number = _gender(path, gender)

    def write(path: Path, take: Take) -> None:
        if joints not in FAMILIES:
            raise ValueError(f"{path}: a .smpl file is for 24, 52 or 55 joints, body {body.name!r} has {joints}")
        take = take.whole()
        poses, ends = _in_family_order(path, take).astype(np.float32), np.cumsum(list(CODEC_PARTS[joints].values()))
        parts = dict(zip(CODEC_PARTS[joints], np.split(poses, ends[:-1], 1), strict=True))
        version = list(FAMILIES).index(joints)
        whole = {"codecVersion": 2, "smplVersion": version, "gender": number, "frameCount": len(poses)}
        write_npz(
            path, **{key: np.array(value, np.int32) for key, value in whole.items()}, **parts,
            frameRate=np.array(take.fps, np.float32), shapeParameters=take.shape.numpy().astype(np.float32),
            bodyTranslation=take.translation.numpy().astype(np.float32),
        )  # fmt: skip

    each(write, path, ".smpl", body, rotations, shape, translation, fps, **more)


def save_trc(
    path: str | os.PathLike[str], body: Body, rotations: Any, shape: Any = None, translation: Any = None,
    fps: float = 30.0, want: str = "joints", **more: Any,
) -> None:  # fmt: skip
    """OpenSim's marker file .trc: the joints, or with ``want="keypoints"`` the body's keypoints; millimetres."""
    if want == "points":
        want = renamed("want='points'", "'keypoints'", "keypoints")
    if want not in ("joints", "keypoints"):
        raise ValueError(f"{os.fspath(path)}: want is 'joints' or 'keypoints', not {want!r}")
    each(
        lambda path, take: _write_trc(path, take, want), path, ".trc", body, rotations, shape, translation, fps, **more
    )


def _write_trc(path: Path, take: Take, want: str) -> None:
    mesh = take.body(take.rotations, take.shape, take.translation, want=(want,))
    names = take.body.joints if want == "joints" or take.body.keypoints is None else take.body.keypoints.names
    markers = ["_".join(name.split()) for name in names]
    positions = rearrange(1000 * getattr(mesh, want), "t k c -> t (k c)").tolist()
    rate = f"{take.fps:g}"
    head = {"DataRate": rate, "CameraRate": rate, "NumFrames": len(positions), "NumMarkers": len(markers),
            "Units": "mm", "OrigDataRate": rate, "OrigDataStartFrame": take.start + 1,
            "OrigNumFrames": len(positions)}  # fmt: skip
    axes = [f"{axis}{k + 1}" for k in range(len(markers)) for axis in "XYZ"]
    lines = [
        f"PathFileType\t4\t(X/Y/Z)\t{path.name}", "\t".join(head), "\t".join(map(str, head.values())),
        "Frame#\tTime\t" + "\t\t\t".join(markers) + "\t\t", "\t\t" + "\t".join(axes), "",
    ]  # fmt: skip
    for frame, row in enumerate(positions, take.start):
        lines.append("\t".join([str(frame + 1), f"{frame / take.fps:.6f}", *(f"{x:.5f}" for x in row)]))
    write_atomic(path, ("\n".join(lines) + "\n").encode())


def save_json(
    path: str | os.PathLike[str], body: Body, rotations: Any, shape: Any = None, translation: Any = None,
    fps: float = 30.0, **more: Any,
) -> None:  # fmt: skip
    """JSON: the body's joints and parents, fps, start (the clip's frame that it begins with), shape; by frame
    axis_angle (T, J, 3) in radians, translation (T, 3) and the joints' positions (T, J, 3) in metres, y up, as places.
    """
    each(_write_json, path, ".json", body, rotations, shape, translation, fps, **more)


def _write_json(path: Path, take: Take) -> None:
    positions = take.body(take.rotations, take.shape, take.translation).joints

    def short(values: Any) -> Any:
        return np.round(np.asarray(values), 6).tolist()

    content = {
        "format": "kinlmr motion 1", "body": take.body.name, "joints": take.body.joints, "parents": take.body.parents,
        "fps": take.fps, "start": take.start, "frames": len(positions), "shape": short(take.shape),
        "axis_angle": short(take.axis_angle()), "translation": short(take.translation), "places": short(positions),
    }  # fmt: skip
    write_atomic(path, (json.dumps(content, separators=(",", ":")) + "\n").encode())


def save_csv(
    path: str | os.PathLike[str], body: Body, rotations: Any, shape: Any = None, translation: Any = None,
    fps: float = 30.0, **more: Any,
) -> None:  # fmt: skip
    """CSV, a row for each frame: its number from 0 and time in seconds; by joint its position x, y, z in metres; its
    rotation rx, ry, rz from its parent in degrees, R = Z Y X about the T-pose's axes (x to the body's left, y up, z
    forward); and, of a joint between two bones, bend: the angle between them in degrees, 0 where they are straight.
    """
    each(_write_csv, path, ".csv", body, rotations, shape, translation, fps, **more)


def _write_csv(path: Path, take: Take) -> None:
    body = take.body
    joints = body(take.rotations, take.shape, take.translation).joints.numpy()
    between = [(j, parent, body.parents.index(j)) for j, parent in enumerate(body.parents)
               if parent >= 0 and body.parents.count(j) == 1]  # fmt: skip
    bones = [(joints[:, j] - joints[:, parent], joints[:, child] - joints[:, j]) for j, parent, child in between]
    bends = [np.arctan2(np.linalg.norm(np.cross(a, b), axis=-1), (a * b).sum(-1)) for a, b in bones]
    angles = np.rad2deg(euler_zyx(take.rotations).numpy()[..., ::-1])
    frames = take.start + np.arange(len(joints))
    columns = [rearrange(x, "t j c -> t (j c)") for x in (joints, angles)]
    rows = np.column_stack([frames / take.fps, *columns, *map(np.rad2deg, bends)])
    names = ["_".join(name.split()).replace(",", "_") for name in body.joints]
    head = [f"{name}_{axis}" for axes in (("x", "y", "z"), ("rx", "ry", "rz")) for name in names for axis in axes]
    lines = [",".join(["frame", "time", *head, *(f"{names[j]}_bend" for j, *_ in between)])]
    lines += [",".join([str(frame), *(f"{x:.6f}" for x in row)]) for frame, row in zip(frames, rows, strict=True)]
    write_atomic(path, ("\n".join(lines) + "\n").encode())
