"""BVH recordings onto a body's joints, and back: where rest poses differ, the posed limbs point where the file's do."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import torch

from kinlmr.body import Body, load_body
from kinlmr.files import Array, nearest, write_atomic
from kinlmr.motion.bvh import Bvh
from kinlmr.motion.recording import Motion, resampled
from kinlmr.rotations import axis_angle_to_matrix, matrix_to_axis_angle

SIDES = ("left", "right")
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
    skip: int = 0,
) -> Motion:
    """A BVH recording, retargeted to a body: the posed limbs point where the file's do.

    names  the body's joint -> the file's; None: the body's own names, CMU's (MotionBuilder) or Mixamo's, whichever fits
    scale  metres per unit; None: so that the file's legs are as long as the body's
    skip   how many of the file's first frames to leave out: 1 where a tool put the rest pose or a T-pose first

    No frame is left out unasked. A first frame that jumps into the second, as such poses do, is marked as a cut.
    """
    body = load_body(body) if isinstance(body, str) else body
    file = Bvh(path)
    if not 0 <= skip < len(file.values):
        raise ValueError(
            f"{file.path}: skip is {skip}, expected 0 .. {len(file.values) - 1}, for it has so many frames"
        )
    file.values = file.values[skip:]
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
        length = _leg({j: rest[i] for j, i in source.items()})
        if length < 1e-6:
            raise ValueError(f"{file.path}: its legs have no length, so its unit is not known; give scale=")
        scale = _leg({joint: own[j] for j, joint in enumerate(body.joints)}) / length
    root = source[body.joints[body.parents.index(-1)]]
    motion = Motion(
        file.path.stem, body.joints, file.fps, matrix_to_axis_angle(torch.from_numpy(local)).float(),
        torch.from_numpy(places[:, root] * scale).float(), (1,) if _first_jumps(places * scale) else (),
        subject=file.path.stem,
    )  # fmt: skip
    try:
        return resampled(motion, fps)
    except ValueError as error:
        raise ValueError(f"{file.path}: {error}") from None


def write_bvh(motion: Motion, path: str | os.PathLike[str], body: Body | str = "anny24") -> None:
    """A recording as BVH, in metres, with the body's joint names and mean bones: what `read_bvh` reads back.

    A limb's end site goes on for half its last bone: to some tools a bone without length is an error.
    """
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
            end = offset / 2 if np.linalg.norm(offset) > 1e-3 else np.array([0.0, 0.05, 0.0])
            lines += [f"{tab}  End Site", f"{tab}  {{", f"{tab}    OFFSET {' '.join(f'{x:.9g}' for x in end)}",
                      f"{tab}  }}"]  # fmt: skip
        open_joints.append((-1, depth))
        open_joints += [(child, depth + 1) for child in reversed(children[j])]
    matrices = axis_angle_to_matrix(motion.rotations.double())[:, order]
    y = torch.asin((-matrices[..., 2, 0]).clamp(-1, 1))
    z = torch.atan2(matrices[..., 1, 0], matrices[..., 0, 0])
    x = torch.atan2(matrices[..., 2, 1], matrices[..., 2, 2])
    angles = torch.stack([z, y, x], -1).rad2deg().flatten(1)
    rows = torch.cat([motion.translation.double(), angles], 1).tolist()
    lines += ["MOTION", f"Frames: {len(motion)}", f"Frame Time: {1 / motion.fps:.12f}"]
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


def _first_jumps(places: Array) -> bool:
    """Whether frame 0 of positions (T, N, 3), metres, does not lead into frame 1: a joint moves over 5 cm, and more
    than three times as far as any does in the next five steps."""
    steps = np.linalg.norm(np.diff(places[:7], axis=0), axis=-1).max(1)
    return len(steps) > 1 and bool(steps[0] > max(0.05, 3 * steps[1:].max()))


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
