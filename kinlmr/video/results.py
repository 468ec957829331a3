"""What is written of the people of a video: arrays, and files of bodies in motion.

recovery.npz has P people in T frames, NaN where somebody is not there:

    keypoints            (P, T, K, 3) of the set ``set``: x, y in pixels, and confidence
    rotations, shape, camera, box
                         (P, T, J, 3, 3), (P, T, S), (P, T, 3), (P, T, 3): as `kinlmr.recover` gave them
    rotations_in_camera, translation
                         (P, T, J, 3, 3), (P, T, 3) in metres: of the body in the frame of the camera, x right, y down,
                         z forward, turned onto the ray on which it is seen (`kinlmr.Recovery.in_camera`)
    scale                (P): how many times as long everything is by --height, else 1; the vertices in the camera's
                         frame are ``scale * body(rotations_in_camera, shape) + translation``
    joints, fps          the names of the J joints; frames a second
    size, focal          (width, height) of the picture, and the camera's focal length, in pixels

body.glb and the .bvh files hold the bodies in the camera's frame, too, but y up, the lowest joint at y = 0, and with
each depth the median of half a second. Every .bvh begins with the video: who comes later stands still until then.
With --height every length in these files, translation and bones, is scaled, so that each person is so tall.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import kinlmr
from kinlmr import export, files
from kinlmr.files import Array
from kinlmr.video.crowd import Take
from kinlmr.video.frames import Video

DEPTH = 0.5  # seconds around a frame whose median depth it gets in the files of bodies


class Placed(NamedTuple):
    """Somebody in the camera's frame, from frame ``start`` on: a body of their size, and what it is posed by."""

    start: int
    body: kinlmr.Body
    scale: float
    rotations: Tensor
    shape: Tensor
    translation: Tensor


def save(
    out: Path, body: kinlmr.Body, keypoint_set: str, people: list[Take], keypoints: Array, video: Video, focal: float,
    height: float | None,
) -> list[str]:  # fmt: skip
    """body.glb with everybody, a .bvh each, recovery.npz -> their names. keypoints (P, T, K, 3) of all frames."""
    placed = [_placed(take, body, video, focal, height) for take in people]
    names = save_bodies(out, placed, video.fps)
    columns = [
        {**take.recovery._asdict(), "rotations_in_camera": one.rotations, "translation": one.translation}
        for take, one in zip(people, placed, strict=True)
    ]
    arrays: dict[str, Array] = {"keypoints": keypoints}
    for name, value in columns[0].items():
        arrays[name] = np.full((len(people), keypoints.shape[1], *value.shape[1:]), np.nan, np.float32)
        for row, take, column in zip(arrays[name], people, columns, strict=True):
            row[take.start : take.start + len(column[name])] = column[name].numpy()
    arrays |= {"scale": np.array([one.scale for one in placed]), "joints": np.array(body.joints)}
    more = {"set": keypoint_set, "fps": video.fps, "size": video.source_size, "focal": focal}
    files.write_npz(out / "recovery.npz", **arrays, **{name: np.array(value) for name, value in more.items()})
    return [*names, "recovery.npz"]


def save_bodies(out: Path, people: list[Placed], fps: float) -> list[str]:
    """body.glb and a .bvh each, y up, on the ground -> their names."""
    shapes = [one.shape.mean(0) for one in people]
    moves = [
        export.upright(one.body, one.rotations, shape, settled(one, shape, fps))
        for one, shape in zip(people, shapes, strict=True)
    ]
    posed = [one.body(turns, shape, place) for one, shape, (turns, place) in zip(people, shapes, moves, strict=True)]
    joints = torch.cat([mesh.joints.flatten(0, 1) for mesh in posed])
    floor = torch.stack([joints[:, 0].mean(), joints[:, 1].min(), joints[:, 2].mean()])
    turns, places = [turns for turns, _ in moves], [place - floor for _, place in moves]
    bodies, starts = [one.body for one in people], [one.start for one in people]
    export.save_glb(out / "body.glb", bodies, turns, shapes, places, fps, starts)
    names = [f"person{k + 1}.bvh" for k in range(len(people))]
    for k, name in enumerate(names):
        export.save_bvh(out / name, bodies[k], turns[k], shapes[k], places[k], fps, starts[k])
    return ["body.glb", *names]


def _placed(take: Take, body: kinlmr.Body, video: Video, focal: float, height: float | None) -> Placed:
    """Somebody where the camera sees them, ``height`` metres tall, or as tall as their mean shape."""
    rotations, translation = take.recovery.in_camera(video.source_size, focal, body)
    shape = take.recovery.shape
    scale = 1.0 if height is None else height / tallness(body, shape.mean(0))
    return Placed(take.start, scaled(body, scale), scale, rotations, shape, scale * translation)


def tallness(body: kinlmr.Body, shape: Tensor) -> float:
    """Metres from the soles to the crown of a body of this shape (S), upright."""
    rest = torch.eye(3).to(shape).expand(len(body.joints), 3, 3)
    y = body(rest, shape, want=("vertices",)).vertices[:, 1]
    return float(y.max() - y.min())


def scaled(body: kinlmr.Body, scale: float) -> kinlmr.Body:
    """The body with all lengths so many times as long, without keypoints."""
    lengths = {name: scale * getattr(body, name) for name in ("J", "J_shapedirs", "template", "basis")}
    return replace(body, keypoints=None, **lengths)


def settled(one: Placed, shape: Tensor, fps: float) -> Tensor:
    """Translations (T, 3) of somebody with one shape (S) in all frames, for files: the root joint stays on its ray.

    Its depth is the median over `DEPTH` seconds around a frame, as many of them as there are: one view leaves it
    uncertain. Where it is not known the one before holds, at the beginning the first.
    """
    root = one.body.root
    places = one.translation + one.body.joints_at_rest(one.shape)[:, root]
    known = places.isfinite().all(-1)
    rest = one.body.joints_at_rest(shape[None])[0, root]
    if not known.any():
        return torch.zeros_like(places) - rest
    reach = int(DEPTH * fps / 2)
    unknown = places.new_full((reach,), torch.nan)
    depths = torch.where(known, places[:, 2], torch.nan)
    medians = torch.cat([unknown, depths, unknown]).unfold(0, 2 * reach + 1, 1).nanmedian(-1).values
    steady = places * (medians / depths)[:, None]
    latest = torch.where(known, torch.arange(len(places)), known.int().argmax()).cummax(0).values
    return steady[latest] - rest
