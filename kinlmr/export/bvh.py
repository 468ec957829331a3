"""BVH, written: a skeleton with its offsets, and every frame's numbers."""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import Tensor

from kinlmr.body import Body, load_body
from kinlmr.files import write_atomic
from kinlmr.motion import Motion
from kinlmr.rotations import axis_angle_to_matrix


def write_bvh(motion: Motion, path: str | os.PathLike[str], body: Body | str = "anny24") -> None:
    """A recording as BVH, in metres, with the body's joint names and mean bones, as `kinlmr.motion.read_bvh` reads it.

    A limb's end site goes on for half its last bone: to some tools a bone without length is an error.
    """
    body = load_body(body) if isinstance(body, str) else body
    if motion.joints != body.joints:
        raise ValueError(
            f"{os.fspath(path)}: the recording's joints are not those of body {body.name!r}; load it for that body"
        )
    head, order = _hierarchy(body)
    angles = _euler_zyx(axis_angle_to_matrix(motion.axis_angle.double())[:, order]).rad2deg().flatten(1)
    rows = torch.cat([motion.translation.double(), angles], 1).tolist()
    lines = [*head, "MOTION", f"Frames: {len(motion)}", f"Frame Time: {1 / motion.fps:.12f}"]
    lines += [" ".join(f"{value:.7f}" for value in row) for row in rows]
    write_atomic(path, ("\n".join(lines) + "\n").encode())


def _hierarchy(body: Body) -> tuple[list[str], list[int]]:
    """The lines of the HIERARCHY, and the joints in the order of their channels: depth first."""
    rest = body.J.double().view(-1, 3).numpy()
    children: dict[int, list[int]] = {j: [] for j in range(len(rest))}
    for j, parent in enumerate(body.parents):
        if parent >= 0:
            children[parent].append(j)
    lines, order, open_joints = ["HIERARCHY"], [], [(body.root, 0)]
    while open_joints:
        j, depth = open_joints.pop()
        tab = "  " * depth
        if j < 0:
            lines.append(tab + "}")
            continue
        order.append(j)
        offset = rest[j] - rest[body.parents[j]] if depth else np.zeros(3)
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
    return lines, order


def _euler_zyx(m: Tensor) -> Tensor:
    """Angles (..., 3) of z, y and x, whose product Z Y X is m (..., 3, 3): x undoes z, so that at 90 degrees about y,
    where only their sum or difference is known, whatever z is the product is m."""
    z = torch.atan2(m[..., 1, 0], m[..., 0, 0])
    sine, cosine = z.sin(), z.cos()
    y = torch.atan2(-m[..., 2, 0], cosine * m[..., 0, 0] + sine * m[..., 1, 0])
    x = torch.atan2(sine * m[..., 0, 2] - cosine * m[..., 1, 2], cosine * m[..., 1, 1] - sine * m[..., 0, 1])
    return torch.stack([z, y, x], -1)
