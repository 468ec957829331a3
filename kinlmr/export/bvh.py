"""BVH, written: a skeleton with its offsets, and every frame's numbers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kinlmr.body import Body, load_body
from kinlmr.export.rigs import renamed_joints, rig_of, units_of
from kinlmr.export.takes import Take, each
from kinlmr.files import Array, write_atomic
from kinlmr.motion import Motion, rigs
from kinlmr.rotations import axis_angle_to_matrix


class Moving(NamedTuple):
    """A skeleton of N joints that moves: parents, -1 without one; offsets (N, 3) from the parent, in its axes; ends: of
    leaves; rotations (T, N, 3, 3), from the parent's axes; positions (T, 3) of those joints that have some."""

    names: Sequence[str]
    parents: Sequence[int]
    offsets: Array
    ends: Mapping[int, Array]
    rotations: Tensor
    positions: Mapping[int, Array]


def write_bvh(motion: Motion, path: str | os.PathLike[str], body: Body | str = "anny24") -> None:
    """A recording as BVH, in metres, with the body's joint names and mean bones, as `kinlmr.motion.read_bvh` reads it.

    A limb's end site goes on for half its last bone: to some tools a bone without length is an error.
    """
    body = load_body(body) if isinstance(body, str) else body
    if motion.joints != body.joints:
        raise ValueError(
            f"{os.fspath(path)}: the recording's joints are not those of body {body.name!r}; load it for that body"
        )
    rotations = axis_angle_to_matrix(motion.axis_angle.double())
    moving = _moving(body, body.J.double().view(-1, 3), rotations, motion.translation.double(), body.joints, 1.0)
    _write(path, moving, motion.fps)


def save_bvh(
    path: str | os.PathLike[str], body: Body, rotations: Any, shape: Any = None, translation: Any = None,
    fps: float = 30.0, start: int = 0, rig: str | os.PathLike[str] | None = None, scale: float | None = None,
    **camera: Any,
) -> None:  # fmt: skip
    """BVH, y up: the skeleton with this shape's bones; a limb's end site goes on for half its last bone.

    The root's channels hold the root joint's position: that at rest plus the translation.
    start    the frame of the video that the motion begins with. Until then the first pose is held; of a
             `kinlmr.World`, until somebody is seen, the body is at rest
    rig      "mixamo", "unreal" or "vrm": those bone names, on this body's T-pose, in the rig's usual unit; or a .bvh,
             .glb or .vrm file: its skeleton, in its unit and axes, moved so that its limbs point where the body's do
    scale    units a metre: 100 writes centimetres. None: what the rig has (mixamo and unreal: 100), else 1
    """
    if scale is not None and not (isinstance(scale, int | float) and 0 < scale < float("inf")):
        raise ValueError(
            f"{os.fspath(path)}: scale is {scale!r}, expected units a metre: 1 for metres, 100 for centimetres"
        )
    kind = rig_of(path, rig)
    if scale is not None and isinstance(kind, Path):
        raise ValueError(f"{os.fspath(path)}: the unit is that of the rig {kind}: leave out scale={scale:g}")

    def write(path: Path, take: Take) -> None:
        take = take.whole()
        rest, root = take.rest(), take.body.root
        if isinstance(kind, Path):
            moving = _on_rig(rigs.read(kind, take.sized()), take)
        else:
            units, names = units_of(kind) if scale is None else scale, renamed_joints(take.body, kind)
            moving = _moving(take.body, rest, take.rotations, take.translation + rest[root], names, units)
        _write(path, moving, take.fps)

    each(write, path, ".bvh", body, rotations, shape, translation, fps, start=start, **camera)


def _moving(body: Body, rest: Tensor, rotations: Tensor, root: Tensor, names: Sequence[str], units: float) -> Moving:
    """A body's own skeleton: rest (J, 3), rotations (T, J, 3, 3), the root joint's positions (T, 3), metres."""
    offsets = units * np.stack([(rest[j] - rest[p]).numpy() if p >= 0 else np.zeros(3)
                                for j, p in enumerate(body.parents)])  # fmt: skip
    ends = {}
    for j, offset in enumerate(offsets):
        if j not in body.parents:
            ends[j] = offset / 2 if np.linalg.norm(offset) > 1e-3 * units else np.array([0.0, 0.05 * units, 0.0])
    return Moving(names, body.parents, offsets, ends, rotations, {body.root: (units * root).numpy()})


def _on_rig(rig: rigs.Rig, take: Take) -> Moving:
    """Somebody on the skeleton of a file."""
    rest, root = take.rest(), take.body.root
    rotations, position = rigs.posed(rig, take.body, take.rotations, take.translation + rest[root])
    positions = {rig.parents.index(-1): np.zeros_like(position)} | {rig.root: rigs.within(rig.above, position)}
    offsets = rig.offsets.copy()
    offsets[list(positions)] = 0  # to some tools positions are added to it
    return Moving(rig.names, rig.parents, offsets, rig.ends, torch.from_numpy(rotations), positions)


def _write(path: str | os.PathLike[str], moving: Moving, fps: float) -> None:
    head, order = _hierarchy(moving)
    angles = euler_zyx(moving.rotations).rad2deg()
    columns = [np.concatenate([*([moving.positions[j]] if j in moving.positions else []), angles[:, j].numpy()], 1)
               for j in order]  # fmt: skip
    rows = np.concatenate(columns, 1).tolist()
    lines = [*head, "MOTION", f"Frames: {len(rows)}", f"Frame Time: {1 / fps:.12f}"]
    lines += [" ".join(f"{value:.7f}" for value in row) for row in rows]
    write_atomic(path, ("\n".join(lines) + "\n").encode())


def _hierarchy(moving: Moving) -> tuple[list[str], list[int]]:
    """The lines of the HIERARCHY, and the joints in the order of their channels: depth first."""
    children: dict[int, list[int]] = {j: [] for j in range(len(moving.names))}
    for j, parent in enumerate(moving.parents):
        if parent >= 0:
            children[parent].append(j)
    lines, order, open_joints = ["HIERARCHY"], [], [(moving.parents.index(-1), 0)]
    while open_joints:
        j, depth = open_joints.pop()
        tab = "  " * depth
        if j < 0:
            lines.append(tab + "}")
            continue
        order.append(j)
        channels = "6 Xposition Yposition Zposition " if j in moving.positions else "3 "
        lines += [f"{tab}{'JOINT' if depth else 'ROOT'} {moving.names[j]}", tab + "{",
                  f"{tab}  OFFSET {_three(moving.offsets[j])}",
                  f"{tab}  CHANNELS {channels}Zrotation Yrotation Xrotation"]  # fmt: skip
        if j in moving.ends and not children[j]:
            lines += [f"{tab}  End Site", f"{tab}  {{", f"{tab}    OFFSET {_three(moving.ends[j])}", f"{tab}  }}"]
        open_joints.append((-1, depth))
        open_joints += [(child, depth + 1) for child in reversed(children[j])]
    return lines, order


def _three(numbers: Array) -> str:
    return " ".join(f"{x:.9g}" for x in numbers)


def euler_zyx(m: Tensor) -> Tensor:
    """Angles (..., 3) of z, y and x, whose product Z Y X is m (..., 3, 3): x undoes z, so that at 90 degrees about y,
    where only their sum or difference is known, whatever z is the product is m."""
    z = torch.atan2(m[..., 1, 0], m[..., 0, 0])
    sine, cosine = z.sin(), z.cos()
    y = torch.atan2(-m[..., 2, 0], cosine * m[..., 0, 0] + sine * m[..., 1, 0])
    x = torch.atan2(sine * m[..., 0, 2] - cosine * m[..., 1, 2], cosine * m[..., 1, 1] - sine * m[..., 0, 1])
    return torch.stack([z, y, x], -1)
