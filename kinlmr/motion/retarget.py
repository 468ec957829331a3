"""BVH recordings onto a body's joints: where rest poses differ, the posed limbs point where the file's do."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from kinlmr.body import Body, load_body
from kinlmr.files import Array, about
from kinlmr.motion.alignment import Positions, reference, rest_trunk, retargeted, trunk
from kinlmr.motion.bvh import Bvh
from kinlmr.motion.dialects import DIALECTS, SIDES, joint_map
from kinlmr.motion.names import plain_names
from kinlmr.motion.recording import Motion, resampled
from kinlmr.motion.up import UP, find_up, upright
from kinlmr.rotations import matrix_to_axis_angle

__all__ = ["DIALECTS", "read_bvh"]


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
    Where joints, unit or up cannot be told, a ValueError says which argument to give.
    """
    body = load_body(body) if isinstance(body, str) else body
    path = Path(path)
    with about(path):
        file = opened(path, skip)
        rotations, positions, joints = compared(body, file, joint_map(file, body, names), up)[:3]
        local = retargeted(body, rotations, positions, reference(rotations, positions))
        scale = scale_of(positions) if scale is None else scale
        if not 0 < scale < float("inf"):
            raise ValueError(f"scale is {scale}, expected metres per unit, a number above zero")
        root = positions.motion[:, body.root] * scale
        motion = Motion(
            path.stem, body.joints, file.fps, matrix_to_axis_angle(torch.from_numpy(local)).float(),
            torch.from_numpy(root).float(), (1,) if _first_jumps(joints * scale) else (), subject=path.stem,
        )  # fmt: skip
        return resampled(motion, fps)


def opened(path: Path, skip: int) -> Bvh:
    """A BVH file without its first frames."""
    file = Bvh(path)
    if not 0 <= skip < len(file.values):
        raise ValueError(f"skip is {skip}, expected 0 .. {len(file.values) - 1}, for it has so many frames")
    if file.fps < 1:
        raise ValueError(
            f"its Frame Time is {1 / file.fps:g}, in seconds; if it was meant in milliseconds, write "
            f"{1e-3 / file.fps:g}"
        )
    file.values = file.values[skip:]
    return file


def compared(
    body: Body, file: Bvh, source: Mapping[int, int], up: str | None = None
) -> tuple[dict[int, Array], Positions, Array, Array]:
    """By ``source``, the body's joint -> the file's: each joint's rotations (T, 3, 3) and positions, y up; all joints
    (T, N, 3) as they are in the file; and the rotation (3, 3) that brings its axis ``up``, None: found, to y."""
    world, joints = file.posed()
    positions = _positions(body, file, source, world, joints)
    to_y = upright(_up(body, file, positions) if up is None else up)
    positions = positions._replace(motion=positions.motion @ to_y.T)
    return {j: to_y @ world[:, i] for j, i in source.items()}, positions, joints, to_y


def _positions(body: Body, file: Bvh, source: Mapping[int, int], rotations: Array, joints: Array) -> Positions:
    """The positions of the joints that body and file both have, from what `Bvh.posed` found."""
    own = body.J.double().view(-1, 3).numpy()
    motion, rest = np.full((len(joints), *own.shape), np.nan), np.full(own.shape, np.nan)
    mine, theirs = list(source), list(source.values())
    motion[:, mine], rest[mine] = joints[:, theirs], file.rest(rotations, joints)[theirs]
    return Positions(motion, rest, own, {name: j for j, name in enumerate(plain_names(body.joints)) if j in source})


def _up(body: Body, file: Bvh, positions: Positions) -> str:
    """The file's axis that is up."""
    rest, frames = rest_trunk(positions), trunk(positions)
    if frames is None:
        return "y"
    likely = None if rest is None else next((name for name, axis in UP.items() if rest[:, 1] @ axis > 0.7), None)
    otherwise = "y" if likely == "y" and set(body.joints) <= set(file.names) else None  # as kinlmr writes them
    joints = positions.motion[:, list(positions.known.values())]
    return find_up(frames[..., 1], joints, _leg(positions.motion, positions.known), likely, otherwise)


def scale_of(positions: Positions) -> float:
    """Metres per unit, so that the file's legs are as long as the body's."""
    length = _leg(positions.motion, positions.known)
    if not length > 1e-6:
        raise ValueError("it has no legs, or legs without length, so its unit is not known; give scale=")
    return _leg(positions.own[None], positions.known) / length


def _leg(joints: Array, known: Mapping[str, int]) -> float:
    """A leg's length in joints (T, J, 3), by those of its bones that are known; NaN where none is."""
    bones = [(f"{side}_{a}", f"{side}_{b}") for side in SIDES for a, b in (("hip", "knee"), ("knee", "ankle"))]
    lengths = [np.linalg.norm(joints[:, known[b]] - joints[:, known[a]], axis=-1).mean()
               for a, b in bones if a in known and b in known]  # fmt: skip
    return float(np.sum(lengths)) / 2 if lengths else np.nan


def _first_jumps(joints: Array) -> bool:
    """Whether the joints (T, N, 3), in metres, jump from frame 0 to frame 1: one moves over 5 cm, and more than three
    times as far as any does in the next five steps."""
    steps = np.linalg.norm(np.diff(joints[:7], axis=0), axis=-1).max(1)
    return len(steps) > 1 and bool(steps[0] > max(0.05, 3 * steps[1:].max()))
