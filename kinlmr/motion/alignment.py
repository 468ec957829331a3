"""How the joints of a file lie in those of a body: one rotation A for each joint, world rotations G_body = G_file A.

A is found in reference frames, in which the person is assumed to stand as the body does at rest: the file's rest pose,
or, where that is not a person's pose, the frames of the motion in which the person stands straightest. The trunk's A
comes from hips, neck and shoulders. A limb's bone gets the file's direction; its twist comes from the bone above, or,
without a rest pose, from how knee and elbow bend. So the axes along which a maker lays the bones do not matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from kinlmr.body import Body
from kinlmr.files import Array
from kinlmr.motion.dialects import SIDES
from kinlmr.motion.names import plain_names
from kinlmr.rotations import axis_angle_to_matrix, nearest_rotation

# A limb's bones, and by how many degrees they may be off those of the body in a rest pose that is a person's.
_BONES = {"hip": ("knee", 60), "knee": ("ankle", 60), "ankle": ("foot", 180), "shoulder": ("elbow", 110),
          "elbow": ("wrist", 110)}  # fmt: skip
_LIMBS = {f"{side}_{bone}": (f"{side}_{end}", most) for side in SIDES for bone, (end, most) in _BONES.items()}
_SPINE = ("spine1", "spine2", "spine3", "neck")
_LINES = {"pelvis": "hip", "spine3": "shoulder"}  # whose left and right tell how a joint of the trunk is rotated
_HINGES = {"left_hip": (1, 0, 0), "right_hip": (1, 0, 0), "left_shoulder": (0, -1, 0), "right_shoulder": (0, 1, 0)}
_BENT = 0.2  # the least mean sine of a knee's or an elbow's angle that tells how the bone above is twisted


class Positions(NamedTuple):
    """Of the joints that body and file both have, in the body's order; NaN for the others.

    motion (T, J, 3); rest (J, 3) of the file's rest pose; own (J, 3), the body's; known: plain name -> joint.
    """

    motion: Array
    rest: Array
    own: Array
    known: dict[str, int]


class Reference(NamedTuple):
    """K frames in which the person stands as the body does at rest.

    rotations: each joint's (K, 3, 3) in the file; trunk (K, 3, 3), the body's; weights (K), their sum one; rest:
    whether they are the file's rest pose.
    """

    rotations: Mapping[int, Array]
    trunk: Array
    weights: Array
    rest: bool


def trunk(positions: Positions) -> Array | None:
    """The trunk's rotations (T, 3, 3) from the body's rest pose; None where too few joints are known to tell."""
    return _turned(positions.motion, positions)


def rest_trunk(positions: Positions) -> Array | None:
    """The trunk's rotation (3, 3) in the file's rest pose; None where that is no pose of a person.

    Rest poses stand along the axes: up to 20 degrees of tilt and 5 of turn come from how two skeletons differ, and are
    set to zero.
    """
    rest = _turned(positions.rest, positions)
    if rest is None:
        return None
    rest = _frame_of(_snapped(rest[:, 1], 20), _snapped(rest[:, 0], 5))
    known = positions.known
    bones = [(a, b, 60) for a, b in pairwise(known[name] for name in _SPINE if name in known)]
    bones += [(known[a], known[b], most) for a, (b, most) in _LIMBS.items() if a in known and b in known]
    for a, b, most in bones:
        theirs, ours = positions.rest[b] - positions.rest[a], rest @ (positions.own[b] - positions.own[a])
        if np.linalg.norm(theirs) > 1e-6 and _unit(theirs) @ _unit(ours) < np.cos(np.deg2rad(most)):
            return None
    return rest


def reference(rotations: Mapping[int, Array], positions: Positions) -> Reference:
    """The file's rest pose, or else the frames of the motion, y up, weighted by how straight the person stands.

    rotations: each joint's rotations (T, 3, 3) in the file
    """
    rest, frames = rest_trunk(positions), trunk(positions)
    if rest is not None or frames is None:
        still = {j: np.eye(3)[None] for j in rotations}
        return Reference(still, np.eye(3)[None] if rest is None else rest[None], np.ones(1), True)
    score = frames[:, 1, 1].copy()
    known, joints = positions.known, positions.motion
    for side in SIDES:
        leg = [known[f"{side}_{joint}"] for joint in ("hip", "knee", "ankle") if f"{side}_{joint}" in known]
        if len(leg) > 1:
            score -= (_unit(joints[:, leg[-1]] - joints[:, leg[0]]) * frames[:, :, 1]).sum(-1)
    lines = [_unit(joints[:, left] - joints[:, right]) for left, right in _pairs(known)]
    if len(lines) == 2:
        score += (lines[0] * lines[1]).sum(-1)
    weights = np.exp(20 * (score - score.max()))
    return Reference(rotations, frames, weights / weights.sum(), False)


def alignments(
    body: Body, rotations: Mapping[int, Array], positions: Positions, standing: Reference
) -> dict[int, Array]:
    """A (3, 3) of every joint that the file has. rotations: as for `reference`."""
    names, found = plain_names(body.joints), dict[int, Array]()
    still: dict[int, Array] = {}  # the body's world rotations in the reference's frames
    for j in body.fronts.order.tolist():
        parent = body.parents[j]
        if j not in rotations:
            still[j] = still[parent]
            continue
        above = standing.trunk if parent < 0 or names[j] in _SPINE[:3] else still[parent]
        mean = np.einsum("k,kba,kbc->ac", standing.weights, standing.rotations[j], above)
        lies = nearest_rotation(torch.from_numpy(mean)).numpy()
        if names[j] in _LIMBS:
            lies = _limb(names[j], rotations[j], positions, lies, hinged=not standing.rest)
        elif names[j] in _LINES and not standing.rest:
            lies = _line(names[j], rotations[j], positions, lies)
        found[j], still[j] = lies, standing.rotations[j] @ lies
    return found


def retargeted(body: Body, rotations: Mapping[int, Array], positions: Positions, standing: Reference) -> Array:
    """The body's rotations (T, J, 3, 3), each relative to its joint's parent. rotations: as for `reference`."""
    world = {j: rotations[j] @ lies for j, lies in alignments(body, rotations, positions, standing).items()}
    for j in body.fronts.order.tolist():
        world.setdefault(j, world.get(body.parents[j], np.empty(0)))
    return np.stack([world[j] if p < 0 else world[p].swapaxes(1, 2) @ world[j] for j, p in enumerate(body.parents)], 1)


def _line(name: str, rotations: Array, positions: Positions, lies: Array) -> Array:
    """The alignment (3, 3) of pelvis or chest that gives the line of hips or shoulders the file's direction."""
    ends = [positions.known.get(f"{side}_{_LINES[name]}") for side in SIDES]
    if None in ends:
        return lies
    left, right = ends
    line = _local(rotations, positions.motion[:, left] - positions.motion[:, right]).mean(0)
    return _between(lies @ (positions.own[left] - positions.own[right]), line) @ lies


def _limb(name: str, rotations: Array, positions: Positions, lies: Array, hinged: bool) -> Array:
    """A limb's alignment (3, 3), from one that is right but for the bone's direction and twist."""
    joint, end = positions.known[name], positions.known.get(_LIMBS[name][0])
    if end is None:
        return lies
    bone = _local(rotations, positions.motion[:, end] - positions.motion[:, joint])
    direction = _unit(bone.mean(0))
    lies = _between(lies @ (positions.own[end] - positions.own[joint]), direction) @ lies
    next_end = positions.known.get(_LIMBS[_LIMBS[name][0]][0]) if name in _HINGES else None
    if hinged and next_end is not None:
        below = _local(rotations, positions.motion[:, next_end] - positions.motion[:, end])
        hinge = np.cross(_unit(bone), _unit(below)).mean(0)
        if np.linalg.norm(hinge) > _BENT:
            axis = lies @ np.array(_HINGES[name], float)
            lies = _between(axis - axis @ direction * direction, hinge - hinge @ direction * direction) @ lies
    return lies


# ------------------------------------------------------------------------------------------------------------ geometry


def _turned(joints: Array, positions: Positions) -> Array | None:
    """The trunk's rotations (..., 3, 3) from that of the body at rest, by joints (..., J, 3)."""
    theirs, ours = _frame(joints, positions.known), _frame(positions.own, positions.known)
    return None if theirs is None or ours is None else theirs @ ours.T


def _frame(joints: Array, known: Mapping[str, int]) -> Array | None:
    """A trunk's axes: y from the pelvis to the neck, x from right to left."""
    shoulders = [known[name] for name in ("left_shoulder", "right_shoulder") if name in known]
    high = next(([known[name]] for name in ("neck", "head") if name in known), shoulders)
    pairs = _pairs(known)
    if not pairs or not high or "pelvis" not in known:
        return None
    up = joints[..., high, :].mean(-2) - joints[..., known["pelvis"], :]
    return _frame_of(up, np.sum([joints[..., one, :] - joints[..., two, :] for one, two in pairs], 0))


def _frame_of(up: Array, left: Array) -> Array:
    """Rotations (..., 3, 3) whose y is up, and whose x is near to left (..., 3)."""
    up = _unit(up)
    left = _unit(left - (left * up).sum(-1, keepdims=True) * up)
    return np.stack([left, up, np.cross(left, up)], -1)


def _pairs(known: Mapping[str, int]) -> list[tuple[int, int]]:
    """Left and right hip, left and right shoulder, where both are known."""
    pairs = [(f"left_{joint}", f"right_{joint}") for joint in ("hip", "shoulder")]
    return [(known[left], known[right]) for left, right in pairs if left in known and right in known]


def _local(rotations: Array, vectors: Array) -> Array:
    """Vectors (T, 3) of the world in a joint's own axes."""
    return (vectors[:, None] @ rotations)[:, 0]


def _snapped(direction: Array, degrees: float) -> Array:
    """The axis that a direction (3) is near to, or the direction."""
    longest = np.abs(direction).argmax()
    axis = np.eye(3)[longest] * np.sign(direction[longest])
    return axis if direction @ axis > np.cos(np.deg2rad(degrees)) else direction


def _unit(vectors: Array) -> Array:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _between(a: Array, b: Array) -> Array:
    """The smallest rotation (3, 3) that brings the direction a (3) to b."""
    a, b = _unit(a), _unit(b)
    axis = np.cross(a, b)
    sine = np.linalg.norm(axis)
    if sine < 1e-9 and a @ b < 0:  # about any axis at right angles
        axis = np.cross(a, np.eye(3)[np.abs(a).argmin()])
    return axis_angle_to_matrix(torch.from_numpy(_unit(axis) * np.arctan2(sine, a @ b))).numpy()
