"""BVH recordings onto a body's joints, and back: where rest poses differ, the posed limbs point where the file's do."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from kinlmr.body import Body, load_body
from kinlmr.files import Array, write_atomic
from kinlmr.motion.alignment import Places, reference, rest_trunk, retargeted, trunk
from kinlmr.motion.bvh import Bvh
from kinlmr.motion.dialects import DIALECTS, SIDES, joint_map
from kinlmr.motion.names import plain_names
from kinlmr.motion.recording import Motion, resampled
from kinlmr.motion.up import UP, find_up, upright
from kinlmr.rotations import axis_angle_to_matrix, matrix_to_axis_angle

__all__ = ["DIALECTS", "read_bvh", "write_bvh"]


def read_bvh(
    path: str | os.PathLike[str],
    body: Body | str = "anny24",
    fps: float = 30.0,
    names: Mapping[str, str] | None = None,
    scale: float | None = None,
    skip: int = 0,
    up: str | None = None,
) -> Motion:
    """A BVH recording, retargeted to a body: the posed limbs point where the file's do.

    names  the body's joint -> the file's; None: found by the words that makers use, and by the tree
    scale  metres per unit; None: so that the file's legs are as long as the body's
    skip   how many of the file's first frames to leave out: 1 where a tool put the rest pose or a T-pose first
    up     the file's axis that is up: x, y, z, -x, -y or -z; None: found from its rest pose and its motion

    No frame is left out unasked. A first frame that jumps into the second, as such poses do, is marked as a cut.
    What cannot be told (joints, unit, up) is a ValueError that says what to give.
    """
    body = load_body(body) if isinstance(body, str) else body
    file = _opened(path, skip)
    source = joint_map(file, body, names)
    turns, spots = file.posed()
    places = _places(body, file, source, turns, spots)
    up = _up(body, file, places) if up is None else up
    turn = upright(up)
    places = places._replace(motion=places.motion @ turn.T)
    joints = {j: turn @ turns[:, i] for j, i in source.items()}
    local = retargeted(body, joints, places, reference(joints, places))
    scale = _scale(places, file) if scale is None else scale
    if not 0 < scale < float("inf"):
        raise ValueError(f"{file.path}: scale is {scale}, expected metres per unit, a number above zero")
    root = places.motion[:, body.parents.index(-1)] * scale
    motion = Motion(
        file.path.stem, body.joints, file.fps, matrix_to_axis_angle(torch.from_numpy(local)).float(),
        torch.from_numpy(root).float(), (1,) if _first_jumps(spots * scale) else (), subject=file.path.stem,
    )  # fmt: skip
    try:
        return resampled(motion, fps)
    except ValueError as error:
        raise ValueError(f"{file.path}: {error}") from None


def _opened(path: str | os.PathLike[str], skip: int) -> Bvh:
    """A BVH file without its first frames."""
    file = Bvh(path)
    if not 0 <= skip < len(file.values):
        raise ValueError(
            f"{file.path}: skip is {skip}, expected 0 .. {len(file.values) - 1}, for it has so many frames"
        )
    if file.fps < 1:
        raise ValueError(
            f"{file.path}: its Frame Time is {1 / file.fps:g}, in seconds; if it was meant in milliseconds, write "
            f"{1e-3 / file.fps:g}"
        )
    file.values = file.values[skip:]
    return file


def _places(body: Body, file: Bvh, source: Mapping[int, int], turns: Array, spots: Array) -> Places:
    """Where the joints are that body and file have, by what `Bvh.posed` found."""
    own = body.J.double().view(-1, 3).numpy()
    motion, rest = np.full((len(spots), *own.shape), np.nan), np.full(own.shape, np.nan)
    mine, theirs = list(source), list(source.values())
    motion[:, mine], rest[mine] = spots[:, theirs], file.rest(turns, spots)[theirs]
    return Places(motion, rest, own, {name: j for j, name in enumerate(plain_names(body.joints)) if j in source})


def _up(body: Body, file: Bvh, places: Places) -> str:
    """The file's axis that is up."""
    rest, frames = rest_trunk(places), trunk(places)
    if frames is None:
        return "y"
    likely = None if rest is None else next((name for name, axis in UP.items() if rest[:, 1] @ axis > 0.7), None)
    otherwise = "y" if likely == "y" and set(body.joints) <= set(file.names) else None  # as write_bvh writes
    spots = places.motion[:, list(places.known.values())]
    return find_up(frames[..., 1], spots, _leg(places.motion, places.known), likely, file.path, otherwise)


def _scale(places: Places, file: Bvh) -> float:
    """Metres per unit, so that the file's legs are as long as the body's."""
    length = _leg(places.motion, places.known)
    if not length > 1e-6:
        raise ValueError(f"{file.path}: it has no legs, or legs without length, so its unit is not known; give scale=")
    return _leg(places.own[None], places.known) / length


def _leg(spots: Array, known: Mapping[str, int]) -> float:
    """How long a leg is in places (T, J, 3), by the bones of it that are known; NaN where none is."""
    bones = [(f"{side}_{a}", f"{side}_{b}") for side in SIDES for a, b in (("hip", "knee"), ("knee", "ankle"))]
    lengths = [np.linalg.norm(spots[:, known[b]] - spots[:, known[a]], axis=-1).mean()
               for a, b in bones if a in known and b in known]  # fmt: skip
    return float(np.sum(lengths)) / 2 if lengths else np.nan


def _first_jumps(places: Array) -> bool:
    """Whether frame 0 of positions (T, N, 3), metres, does not lead into frame 1: a joint moves over 5 cm, and more
    than three times as far as any does in the next five steps."""
    steps = np.linalg.norm(np.diff(places[:7], axis=0), axis=-1).max(1)
    return len(steps) > 1 and bool(steps[0] > max(0.05, 3 * steps[1:].max()))


# ------------------------------------------------------------------------------------------------------------- writing


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
    angles = _euler_zyx(axis_angle_to_matrix(motion.rotations.double())[:, order]).rad2deg().flatten(1)
    rows = torch.cat([motion.translation.double(), angles], 1).tolist()
    lines += ["MOTION", f"Frames: {len(motion)}", f"Frame Time: {1 / motion.fps:.12f}"]
    lines += [" ".join(f"{value:.7f}" for value in row) for row in rows]
    write_atomic(path, ("\n".join(lines) + "\n").encode())


def _euler_zyx(m: Tensor) -> Tensor:
    """Angles (..., 3) of z, y and x, whose product Z Y X is m (..., 3, 3): x undoes z, so that at 90 degrees about y,
    where only their sum or difference is known, whatever z is the product is m."""
    z = torch.atan2(m[..., 1, 0], m[..., 0, 0])
    sine, cosine = z.sin(), z.cos()
    y = torch.atan2(-m[..., 2, 0], cosine * m[..., 0, 0] + sine * m[..., 1, 0])
    x = torch.atan2(sine * m[..., 0, 2] - cosine * m[..., 1, 2], cosine * m[..., 1, 1] - sine * m[..., 0, 1])
    return torch.stack([z, y, x], -1)
