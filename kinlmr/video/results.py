"""What is written of the people of a video: arrays, and files of bodies in motion.

recovery.npz has P people in T frames, NaN where somebody is not there:

    keypoints            (P, T, K, 3) of the set ``set``: x, y in pixels, and confidence
    rotations, shape, camera, box
                         (P, T, J, 3, 3), (P, T, S), (P, T, 3), (P, T, 3): as `kinlmr.recover_clip` gave them; of a
                         camera, `kinlmr.recover`
    rotations_in_camera, translation
                         (P, T, J, 3, 3), (P, T, 3) in metres: of the body in the frame of the camera, x right, y down,
                         z forward, turned onto the ray on which it is seen (`kinlmr.Recovery.in_camera`)
    scale                (P): how many times as long everything is by --height, else 1; the vertices in the camera's
                         frame are ``scale * body(rotations_in_camera, shape) + translation``
    world_rotations, world_translation, world_shape, contact, up
                         (P, T, J, 3, 3), (P, T, 3), (P, T, S), (P, T, 2, 2), (P, T, 3): as `kinlmr.to_world` gave them:
                         y up, the floor at 0; the vertices there are ``body(world_rotations, world_shape,
                         world_translation)``. contact: the probability that left and right ankle and toe stand still;
                         up: the unit vector against gravity in the frame of the camera
    joints, fps          the names of the J joints; frames a second
    size, focal          (width, height) of the picture, and the camera's focal length, in pixels

body.glb and the .bvh files hold the bodies in the world. A GLB's are hidden until they come; every .bvh begins with the
video, its body at rest until they come. With --rig they have the bones of another tool's character; if that is a .bvh,
which has no mesh, body.glb keeps its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import kinlmr
from kinlmr import export, files
from kinlmr.files import Array
from kinlmr.video.crowd import Take
from kinlmr.video.frames import Video


def save_numbers(
    path: Path, body: kinlmr.Body, keypoint_set: str, people: list[Take], keypoints: Array, video: Video, focal: float,
    height: float | None,
) -> None:  # fmt: skip
    """recovery.npz. keypoints (P, T, K, 3) of all frames."""
    columns = [_numbers(take, body, video, focal) for take in people]
    scales = np.array(
        [1.0 if height is None else height / tallness(body, column["shape"].nanmean(0)) for column in columns]
    )
    arrays: dict[str, Array] = {"keypoints": keypoints[[take.row for take in people]]}
    for name, value in columns[0].items():
        arrays[name] = np.full((len(people), keypoints.shape[1], *value.shape[1:]), np.nan, np.float32)
        for row, take, column in zip(arrays[name], people, columns, strict=True):
            row[take.start : take.start + len(column[name])] = column[name].numpy()
    arrays["translation"] *= scales[:, None, None].astype(np.float32)
    more: dict[str, Any] = {"set": keypoint_set, "fps": video.fps, "size": video.source_size, "focal": focal}
    more |= {"scale": scales, "joints": body.joints}
    files.write_npz(path, **arrays, **{name: np.array(value) for name, value in more.items()})


def _numbers(take: Take, body: kinlmr.Body, video: Video, focal: float) -> dict[str, Tensor]:
    """The arrays (T, ...) of somebody, NaN while they are away."""
    rotations, translation = take.recovery.in_camera(video.source_size, focal, body)
    world = take.world
    columns = {
        **take.recovery._asdict(), "rotations_in_camera": rotations, "translation": translation,
        "world_rotations": world.rotations, "world_translation": world.translation, "world_shape": world.shape,
        "contact": world.contact, "up": world.up,
    }  # fmt: skip
    here = take.recovery.box[:, 2] > 0
    return {name: torch.where(here.view(-1, *[1] * (x.ndim - 1)), x, torch.nan) for name, x in columns.items()}


def save_bodies(
    out: Path, body: kinlmr.Body, people: Sequence[Take], fps: float, rig: str | None = None, scale: float | None = None
) -> list[str]:
    """body.glb with everybody, or one of each on a rig that is a file with a mesh; a .bvh each -> their names.

    rig and scale as of `kinlmr.export.save_bvh`. A ValueError if they are not right.
    """
    worlds, starts = [take.world for take in people], [take.start for take in people]
    named = rig is None or rig in export.RIGS
    meshless = not named and Path(str(rig)).suffix.lower() == ".bvh"
    export.save_glb(out / "body.glb", body, worlds, fps=fps, start=starts, rig=None if meshless else rig)
    alone = named or meshless or len(people) == 1
    names = ["body.glb"] if alone else [f"body{k + 1}.glb" for k in range(len(people))]
    for k, (world, start) in enumerate(zip(worlds, starts, strict=True)):
        names.append(f"person{k + 1}.bvh")
        export.save_bvh(out / names[-1], body, world, fps=fps, start=start, rig=rig, scale=scale)
    return names


def check_rig(body: kinlmr.Body, rig: str | None, scale: float | None) -> None:
    """Whether bodies can be saved on a rig, by saving one. A ValueError or OSError says what is wrong."""
    pose = torch.eye(3).expand(1, len(body.joints), 3, 3)
    zeros = torch.zeros(1, 3)
    world = kinlmr.World(pose, zeros, torch.zeros(1, body.shape_width), torch.zeros(1, 2, 2), zeros)
    take = Take(0, 0, kinlmr.Recovery(pose, world.shape, zeros, zeros), world, np.ones(1, bool))
    with tempfile.TemporaryDirectory() as folder:
        try:
            save_bodies(Path(folder), body, [take], 30.0, rig, scale)
        except ValueError as error:
            raise ValueError(f"--rig: {str(error).replace(str(Path(folder) / ''), '').lstrip('/')}") from None


def tallness(body: kinlmr.Body, shape: Tensor) -> float:
    """Metres from the soles to the crown of a body of this shape (S), upright."""
    rest = torch.eye(3).to(shape).expand(len(body.joints), 3, 3)
    y = body(rest, shape, want=("vertices",)).vertices[:, 1]
    return float(y.max() - y.min())
