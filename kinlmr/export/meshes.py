"""GLB: people as animated meshes, or a character of somebody else's that moves as they do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange

from kinlmr.body import Body, normals
from kinlmr.export import glb
from kinlmr.export.rigs import RIGS, renamed_joints, rig_of
from kinlmr.export.takes import Take, each, takes
from kinlmr.files import Array, write_atomic
from kinlmr.motion import rigs
from kinlmr.rotations import continuous_quaternions, matrix_to_quaternion, nearest_rotation

COLORS = ((0.36, 0.52, 0.86), (0.90, 0.50, 0.36), (0.42, 0.70, 0.46), (0.72, 0.52, 0.80), (0.86, 0.72, 0.34))


def save_glb(
    path: str | os.PathLike[str], body: Body | Sequence[Body], rotations: Any, shape: Any = None,
    translation: Any = None, fps: float = 30.0, start: int | Sequence[int] = 0,
    rig: str | os.PathLike[str] | None = None, **camera: Any,
) -> None:  # fmt: skip
    """Animated, skinned GLB (binary glTF 2.0), y up, in metres, for Blender, three.js and game engines.

    The shape is in the mesh. Each vertex follows its four strongest joints, and a skin has no pose directions: where a
    body has more joints to a vertex, or pose directions, the mesh is near to `Body`'s and not equal to it.
    start    the frame of the video that the motion begins with: until then, and of a `kinlmr.World` until they are
             seen, somebody is hidden
    rig      "mixamo", "unreal" or "vrm": those bone names, on this body's T-pose; or a .glb or .vrm file: a copy of it,
             whose character moves so that its limbs point where the body's do, its other animations left out; of
             several people a file each
    A path that ends in .vrma becomes an animation for VRM, of a skeleton alone; of several people a file each.
    Several people are one GLB, each under a node of its own: rotations a list, one (T, J, 3, 3) each, of lengths of
    their own; shape, translation and start then lists as long, or None and one number; body one for all, or a list too.
    """
    kind, more = rig_of(path, rig), {"start": start, **camera}
    if Path(path).suffix.lower() == ".vrma":
        if kind not in (None, "vrm"):
            raise ValueError(f"{os.fspath(path)}: rig is {kind}, but a .vrma is for the rig vrm: leave it out")
        each(_write_vrma, path, ".vrma", body, rotations, shape, translation, fps, **more)
    elif not isinstance(kind, Path):
        people = takes(path, ".glb", body, rotations, shape, translation, fps, **more)
        many = len(people) > 1 or isinstance(rotations, list)
        names = [f"person{k + 1}" if many else "person" for k in range(len(people))]
        write_atomic(path, glb.pack([
            _person(name, take, renamed_joints(take.body, kind), COLORS[k % len(COLORS)])
            for k, (name, take) in enumerate(zip(names, people, strict=True))
        ]))  # fmt: skip
    elif kind.suffix.lower() == ".bvh":
        raise ValueError(f"{os.fspath(path)}: the rig {kind} has no mesh; give a .glb or .vrm, or save_bvh")
    else:
        write = lambda path, take: write_atomic(path, _character(kind, take))  # noqa: E731
        each(write, path, ".glb", body, rotations, shape, translation, fps, **more)


def _quaternions(rotations: Any) -> Array:
    """Rotations (T, J, 3, 3) -> (T, J, 4) as x, y, z, w, without jumps of sign."""
    return np.roll(continuous_quaternions(matrix_to_quaternion(torch.as_tensor(rotations))).numpy(), -1, -1)


def _vertices(given: Take) -> Array:
    """Of the T-pose (N, 3)."""
    body = given.body
    flat = body.template + given.shape @ body.basis[body.pose_width :][: len(given.shape)]
    return rearrange(flat, "(c n) -> n c", c=3).numpy()


def _person(name: str, given: Take, joints: Sequence[str], color: tuple[float, float, float]) -> glb.Person:
    body = given.body
    if body.faces is None:
        raise ValueError(f"body {body.name!r} has no faces; a mesh needs some")
    vertices, faces = _vertices(given), body.faces.cpu().numpy()
    outwards = normals(vertices, faces)
    outwards[~outwards.any(1)] = (0, 0, 1)  # a vertex without a face
    weights, influences = (x.numpy() for x in rearrange(body.weights, "j n -> n j").topk(min(4, len(body.joints))))
    weights, influences = (np.pad(x, ((0, 0), (0, 4 - x.shape[1]))) for x in (weights, influences))
    influences = np.where(weights > 0, influences, 0)
    quaternions, rest = _quaternions(given.rotations), given.rest().numpy()
    return glb.Person(
        name, joints, body.parents, rest, vertices, outwards, faces, influences,
        weights / weights.sum(1, keepdims=True), quaternions, given.translation.numpy() + rest[body.root],
        (given.start + np.arange(len(quaternions))) / given.fps, color,
    )  # fmt: skip


def _write_vrma(path: Path, take: Take) -> None:
    """An animation for VRM, the bones that it names in a T-pose at rest: readers measure how high its hips stand."""
    joints, none = renamed_joints(take.body, "vrm"), np.zeros((0, 3))
    quaternions, rest = _quaternions(take.rotations), take.rest().numpy()
    times = (take.start + np.arange(len(quaternions))) / take.fps
    root = take.translation.numpy() + rest[take.body.root]
    rest = rest - [0, _vertices(take)[:, 1].min(), 0]
    person = glb.Person(
        "person", joints, take.body.parents, rest, none, none, none, none, none, quaternions, root, times, COLORS[0]
    )
    write_atomic(path, glb.pack([person], [name for name in RIGS["vrm"][1].values() if name in joints]))


def _character(path: Path, take: Take) -> bytes:
    """The file of a rig, moved as somebody."""
    rig = rigs.read(path, take.sized())
    if rig.file is None:
        raise ValueError(f"{path}: it has no mesh")
    rotations, root = rigs.posed(rig, take.body, take.rotations, take.translation + take.rest()[take.body.root])
    content = deepcopy(rig.file.content)
    content["animations"] = glb.motion()
    if any("uri" in buffer for buffer in content.get("buffers", [])) or len(content.get("buffers", [])) > 1:
        raise ValueError(f"{path}: its numbers are in other files; export it as one .glb")
    buffer = glb.Buffer(content, rig.file.binary)
    times = buffer.accessor((take.start + np.arange(len(rotations))) / take.fps, "f4", bounds=True)
    for i in rig.joints.values():
        _as_parts(content["nodes"][rig.file.nodes[i]])
        buffer.animate(rig.file.nodes[i], "rotation", times, _quaternions(rotations[:, [i]])[:, 0])
    above = rig.parents[rig.root]
    root = root if above < 0 else rigs.within(rig.file.world[above], root)
    buffer.animate(rig.file.nodes[rig.root], "translation", times, root)
    return buffer.packed()


def _as_parts(node: dict[str, Any]) -> None:
    """A node's matrix as translation, rotation and scale, which can be moved."""
    if "matrix" in node:
        matrix = np.array(node.pop("matrix"), float).reshape(4, 4).T
        node["translation"], node["scale"] = matrix[:3, 3].tolist(), np.linalg.norm(matrix[:3, :3], axis=0).tolist()
        turned = nearest_rotation(torch.from_numpy(matrix[:3, :3]))
        node["rotation"] = _quaternions(turned[None, None])[0, 0].tolist()
