"""Recorded motion onto a body's joints: BVH files, AMASS archives, and kinlmr's own compact archives.

A recording is its joints' rotations relative to their parents, in the body's joint order and rest pose, and the root's
place, at an even rate. Y is up, z where the T-pose faces, x to the body's left.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kinlmr.assets import load_body
from kinlmr.body import Body
from kinlmr.bvh import Bvh
from kinlmr.files import Array, read_npz, write_atomic
from kinlmr.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from kinlmr.skeleton import nearest

STEP = np.pi / 32767  # radians per unit in an archive
SIDES = ("left", "right")


@dataclass(frozen=True, eq=False)
class Motion:
    """One recording of T frames: rotations (T, J, 3) as axis-angle, the root's translation (T, 3) in metres.

    ``cuts`` are frames that do not follow from the one before (dirt in the source): no clip may cross them. ``action``
    says what is done, ``subject`` who does it.
    """

    name: str
    joints: tuple[str, ...]
    fps: float
    rotations: Tensor
    translation: Tensor
    cuts: tuple[int, ...] = ()
    action: str = ""
    subject: str = ""

    def __len__(self) -> int:
        return len(self.rotations)


def load_motion(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], body: Body | str = "anny24", fps: float = 30.0
) -> list[Motion]:
    """Every recording of files (.bvh, AMASS's .npz, `save_motion`'s .npz) or folders of them, on a body's joints."""
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    body = load_body(body) if isinstance(body, str) else body
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such motion file or folder")
        files += sorted(f for f in path.rglob("*") if f.suffix in (".bvh", ".npz")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"no .bvh and no .npz file in {', '.join(map(str, paths))}")
    motions: list[Motion] = []
    for file in files:
        if file.suffix == ".bvh":
            motions.append(read_bvh(file, body, fps))
        else:
            arrays = read_npz(file)
            motions += (
                _from_amass(arrays, file, body, fps) if "poses" in arrays else _from_archive(arrays, file, body, fps)
            )
    return motions


# ----------------------------------------------------------------------------------------------------------- archives


def save_motion(motions: Sequence[Motion], path: str | os.PathLike[str], note: str = "") -> None:
    """Write recordings of one rate and one body compactly (about 60 kB per minute): 16-bit differences, deflated."""
    if len({(m.fps, m.joints) for m in motions}) != 1:
        raise ValueError("the recordings of one archive share their rate and their joints")
    vectors = torch.cat([m.rotations for m in motions]).double().numpy()
    places = torch.cat([m.translation for m in motions]).double().numpy()
    clips, start = [], 0
    for m in motions:
        clips.append({"name": m.name, "subject": m.subject, "action": m.action, "start": start, "frames": len(m),
                      "jumps": list(m.cuts)})  # fmt: skip
        start += len(m)
    units, millimetres = np.rint(vectors / STEP).astype(np.int16), np.rint(1000 * places).astype(np.int32)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        rot_delta=np.diff(units, axis=0, prepend=np.zeros_like(units[:1])),
        trans_delta_mm=np.diff(millimetres, axis=0, prepend=np.zeros_like(millimetres[:1])),
        fps=np.array(motions[0].fps),
        joints=np.array(motions[0].joints),
        clips=np.array(json.dumps(clips)),
        note=np.array(note),
    )
    write_atomic(path, buffer.getvalue())


def _from_archive(arrays: Mapping[str, Array], file: Path, body: Body, fps: float) -> list[Motion]:
    missing = [key for key in ("rot_delta", "trans_delta_mm", "fps", "joints", "clips") if key not in arrays]
    if missing:
        raise ValueError(f"{file}: neither AMASS nor an archive of motion; {', '.join(missing)} missing")
    names = [_plain(str(name)) for name in arrays["joints"].tolist()]
    if names != list(body.joints):
        odd = [f"{n!r}{nearest(n, body.joints)}" for n in names if n not in body.joints] or [
            "the same in another order"
        ]
        raise ValueError(f"{file}: joints of another tree than body {body.name!r}: {', '.join(odd)}")
    units = np.cumsum(arrays["rot_delta"], 0, dtype=np.int16)
    places = np.cumsum(arrays["trans_delta_mm"], 0, dtype=np.int32)
    if units.shape != (len(places), len(names), 3) or places.shape[1:] != (3,):
        raise ValueError(
            f"{file}: rotations {units.shape} and translations {places.shape} do not fit {len(names)} joints"
        )
    try:
        clips = [(str(c["name"]), int(c["start"]), int(c["frames"]), c) for c in json.loads(str(arrays["clips"]))]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: its list of clips is damaged ({error})") from None
    motions = []
    for name, start, frames, clip in clips:
        if frames < 1 or start < 0 or start + frames > len(units):
            raise ValueError(f"{file}: clip {name!r} has frames {start} .. {start + frames}, the file {len(units)}")
        part = slice(start, start + frames)
        motion = Motion(
            name, body.joints, float(arrays["fps"]), torch.from_numpy((units[part] * STEP).astype(np.float32)),
            torch.from_numpy((places[part] / 1000).astype(np.float32)), tuple(map(int, clip.get("jumps", ()))),
            str(clip.get("action", "")), str(clip.get("subject", "")),
        )  # fmt: skip
        motions.append(_resampled(motion, fps))
    return motions


def _from_amass(arrays: Mapping[str, Array], file: Path, body: Body, fps: float) -> list[Motion]:
    """AMASS: poses (T, 156 or 165), of which the body's 22 joints come first; trans (T, 3); z up."""
    rate = next((float(arrays[key]) for key in ("mocap_framerate", "mocap_frame_rate") if key in arrays), None)
    poses = arrays["poses"].astype(np.float32)
    if rate is None or poses.ndim != 2 or poses.shape[1] < 66 or poses.shape[1] % 3 or "trans" not in arrays:
        raise ValueError(
            f"{file}: poses {poses.shape}, expected (T, 156 or 165) of AMASS, with trans and mocap_framerate"
        )
    if not np.isfinite(poses).all():
        raise ValueError(f"{file}: poses are not finite from frame {int(np.argwhere(~np.isfinite(poses))[0, 0])} on")
    if not len(poses):
        raise ValueError(f"{file}: no frames")
    count = min(len(body.joints), poses.shape[1] // 3)
    vectors = torch.zeros(len(poses), len(body.joints), 3)
    shared = count if count > 24 else 22  # SMPL's last two joints are hands, AMASS's are the first fingers
    vectors[:, :shared] = torch.from_numpy(poses).unflatten(1, (-1, 3))[:, :shared]
    upright = axis_angle_to_matrix(torch.tensor([-np.pi / 2, 0, 0], dtype=torch.float32))  # z up to y up
    vectors[:, 0] = matrix_to_axis_angle(upright @ axis_angle_to_matrix(vectors[:, 0]))
    places = torch.from_numpy(arrays["trans"].astype(np.float32)) @ upright.T
    return [_resampled(Motion(file.stem, body.joints, rate, vectors, places), fps)]


def _plain(name: str) -> str:
    """L_Hip, left_hip and LHip are the same joint."""
    name = name.strip().replace(" ", "_")
    for side, short in zip(SIDES, "LR", strict=True):
        if name.startswith(f"{short}_"):
            return f"{side}_{name[2:].lower()}"
    return name.lower()


def _resampled(motion: Motion, fps: float) -> Motion:
    """The recording at another rate: every k-th frame, or by the shortest turn between two."""
    ratio = motion.fps / fps
    if abs(ratio - 1) < 1e-3:
        return motion
    count = int((len(motion) - 1) / ratio + 1e-6) + 1
    at = torch.arange(count, dtype=torch.float64) * ratio
    low = at.floor().long().clamp_max(len(motion) - 1)
    high = (low + 1).clamp_max(len(motion) - 1)
    part = (at - low).float()[:, None, None]
    one, two = (axis_angle_to_matrix(motion.rotations[index]) for index in (low, high))
    between = one @ axis_angle_to_matrix(part * matrix_to_axis_angle(one.mT @ two))
    places = torch.lerp(motion.translation[low], motion.translation[high], part[:, 0])
    cuts = tuple(sorted({int(np.ceil(cut / ratio)) for cut in motion.cuts if np.ceil(cut / ratio) < count}))
    return Motion(
        motion.name, motion.joints, fps, matrix_to_axis_angle(between), places, cuts, motion.action, motion.subject
    )


# ---------------------------------------------------------------------------------------------------------------- BVH

_LIMBS = {"hip": "UpLeg", "knee": "Leg", "ankle": "Foot", "foot": "ToeBase", "collar": "Shoulder", "shoulder": "Arm",
          "elbow": "ForeArm", "wrist": "Hand"}  # fmt: skip
_BOTH = {f"{side}_{joint}": f"{side.title()}{name}" for side in SIDES for joint, name in _LIMBS.items()}
# What other tools call SMPL's joints. A joint that is not named keeps its parent's rotation.
DIALECTS = {
    "cmu": {"pelvis": "Hips", "spine1": "LowerBack", "spine2": "Spine", "spine3": "Spine1", "neck": "Neck",
            "head": "Head", **_BOTH},
    "mixamo": {"pelvis": "Hips", "spine1": "Spine", "spine2": "Spine1", "spine3": "Spine2", "neck": "Neck",
               "head": "Head", **_BOTH},
}  # fmt: skip
# The bones whose rest direction tells how the file's rest pose differs from the body's.
_BONES = {"hip": "knee", "knee": "ankle", "ankle": "foot", "shoulder": "elbow", "elbow": "wrist"}


def read_bvh(
    path: str | os.PathLike[str],
    body: Body | str = "anny24",
    fps: float = 30.0,
    names: Mapping[str, str] | None = None,
    scale: float | None = None,
) -> Motion:
    """A BVH recording, retargeted to a body: the posed limbs point where the file's do.

    names  the body's joint -> the file's; None: the body's own names, CMU's (MotionBuilder) or Mixamo's, whichever fits
    scale  metres per unit; None: so that the file's legs are as long as the body's
    """
    body = load_body(body) if isinstance(body, str) else body
    file = Bvh(path)
    mapping = _mapping(file, body, names)
    index = {name: i for i, name in enumerate(file.names)}
    source = {joint: index[name] for joint, name in mapping.items()}
    turns, places = file.posed()
    rest = np.zeros((len(file.names), 3))
    for j, parent in enumerate(file.parents):
        rest[j] = file.offsets[j] + (rest[parent] if parent >= 0 else 0)
    own = body.J.double().view(-1, 3).numpy()

    world: dict[int, Array] = {}
    corrections: dict[int, Array] = {}
    for j in body.fronts.order.tolist():
        joint, parent = body.joints[j], body.parents[j]
        correction = corrections.get(parent, np.eye(3))
        side, _, kind = joint.partition("_")
        child = f"{side}_{_BONES[kind]}" if kind in _BONES else None
        if child in source and joint in source and child in body.joints:
            bone, ours = rest[source[child]] - rest[source[joint]], own[body.joints.index(child)] - own[j]
            if np.linalg.norm(bone) > 1e-6:
                correction = correction @ _between(ours, correction.T @ bone)  # carried down the limb, so twist stays
        corrections[j] = correction
        world[j] = turns[:, source[joint]] @ correction if joint in source else world[parent]
    local = np.stack([world[j] if p < 0 else world[p].swapaxes(1, 2) @ world[j] for j, p in enumerate(body.parents)], 1)
    if scale is None:
        scale = _leg({joint: own[j] for j, joint in enumerate(body.joints)}) / _leg(
            {j: rest[i] for j, i in source.items()}
        )
    root = source[body.joints[body.parents.index(-1)]]
    motion = Motion(
        file.path.stem, body.joints, file.fps, matrix_to_axis_angle(torch.from_numpy(local)).float(),
        torch.from_numpy(places[:, root] * scale).float(), subject=file.path.stem,
    )  # fmt: skip
    return _resampled(motion, fps)


def write_bvh(motion: Motion, path: str | os.PathLike[str], body: Body | str = "anny24") -> None:
    """A recording as BVH, in metres, with the body's joint names and mean bones: what `read_bvh` reads back."""
    body = load_body(body) if isinstance(body, str) else body
    if motion.joints != body.joints:
        raise ValueError(f"the recording's joints are not those of body {body.name!r}")
    own = body.J.double().view(-1, 3).numpy()
    children: dict[int, list[int]] = {j: [] for j in range(len(own))}
    for j, parent in enumerate(body.parents):
        if parent >= 0:
            children[parent].append(j)
    lines, order, open_joints = ["HIERARCHY"], [], [(body.parents.index(-1), 0)]
    while open_joints:
        j, depth = open_joints.pop()
        tab = "  " * depth
        if j < 0:
            lines.append(tab + "}")
            continue
        order.append(j)
        offset = own[j] - own[body.parents[j]] if depth else np.zeros(3)
        channels = "6 Xposition Yposition Zposition " if not depth else "3 "
        lines += [f"{tab}{'JOINT' if depth else 'ROOT'} {body.joints[j]}", tab + "{",
                  f"{tab}  OFFSET {' '.join(f'{x:.9g}' for x in offset)}",
                  f"{tab}  CHANNELS {channels}Zrotation Yrotation Xrotation"]  # fmt: skip
        if not children[j]:
            lines += [f"{tab}  End Site", f"{tab}  {{", f"{tab}    OFFSET 0 0 0", f"{tab}  }}"]
        open_joints.append((-1, depth))
        open_joints += [(child, depth + 1) for child in reversed(children[j])]
    matrices = axis_angle_to_matrix(motion.rotations.double())[:, order]
    y = torch.asin((-matrices[..., 2, 0]).clamp(-1, 1))
    z = torch.atan2(matrices[..., 1, 0], matrices[..., 0, 0])
    x = torch.atan2(matrices[..., 2, 1], matrices[..., 2, 2])
    angles = torch.stack([z, y, x], -1).rad2deg().flatten(1)
    rows = torch.cat([motion.translation.double(), angles], 1).tolist()
    lines += ["MOTION", f"Frames: {len(motion)}", f"Frame Time: {1 / motion.fps:.9f}"]
    lines += [" ".join(f"{value:.7f}" for value in row) for row in rows]
    write_atomic(path, ("\n".join(lines) + "\n").encode())


def _mapping(file: Bvh, body: Body, names: Mapping[str, str] | None) -> dict[str, str]:
    """The body's joint -> the file's, for the joints that both have."""
    choices = {"given": dict(names)} if names is not None else {"own": {j: j for j in body.joints}, **DIALECTS}
    found = {kind: {j: n for j, n in pairs.items() if n not in file.names} for kind, pairs in choices.items()}
    best = min(found, key=lambda kind: len(found[kind]))
    if found[best]:
        lacking = ", ".join(f"{n!r}{nearest(n, file.names)}" for n in found[best].values())
        raise ValueError(f"{file.path}: a tree of other names; as {best} names it lacks {lacking}. Give names=")
    if unknown := [joint for joint in choices[best] if joint not in body.joints]:
        raise ValueError(f"body {body.name!r} has no joint {', '.join(map(repr, unknown))}")
    if body.joints[body.parents.index(-1)] not in choices[best]:
        raise ValueError(f"{file.path}: names= must name the body's root")
    return choices[best]


def _leg(places: Mapping[str, Array]) -> float:
    """How long both legs of a rest pose are together; one where it has no legs."""
    bones = [(f"{side}_{a}", f"{side}_{b}") for side in SIDES for a, b in (("hip", "knee"), ("knee", "ankle"))]
    if not all(joint in places for bone in bones for joint in bone):
        return 1.0
    return float(sum(np.linalg.norm(places[b] - places[a]) for a, b in bones))


def _between(a: Array, b: Array) -> Array:
    """The smallest rotation (3, 3) that turns the direction a to b."""
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    axis, cosine = np.cross(a, b), float(np.clip(a @ b, -1, 1))
    sine = np.linalg.norm(axis)
    if sine < 1e-9:
        return np.eye(3)
    return axis_angle_to_matrix(torch.from_numpy(axis / sine * np.arctan2(sine, cosine))).numpy()
