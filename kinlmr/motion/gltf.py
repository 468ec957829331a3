"""Binary glTF 2.0 (.glb, .vrm), read as far as skeletons go: the nodes, and where they are at rest."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from kinlmr.files import Array
from kinlmr.rotations import nearest_rotation, quaternion_to_matrix

LARGEST, MOST = 1 << 30, 10_000  # bytes of a file, and nodes


class Nodes(NamedTuple):
    """The joints of a file's skins, without skins all nodes, and what they hang on; parents first.

    content, binary: the file's JSON and bytes; nodes (N): which node each is; names; parents, -1 without one; joints:
    those that are joints of a skin; human: those that a VRM names, by its names; world (N, 4, 4), rotations (N, 3, 3):
    where they are at rest, y up
    """

    content: dict[str, Any]
    binary: bytes
    nodes: list[int]
    names: list[str]
    parents: list[int]
    joints: list[int]
    human: dict[str, int]
    world: Array
    rotations: Array


def read(path: Path) -> Nodes:
    """A file's nodes; a ValueError where it is no GLB, or its nodes are no tree."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.stat().st_size > LARGEST:
        raise ValueError(f"it has more than {LARGEST >> 20} MB")
    content, binary = _chunks(path.read_bytes())
    try:
        with np.errstate(all="ignore"):
            return _nodes(content, binary)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError, RuntimeError) as error:
        raise ValueError(f"its nodes are damaged ({type(error).__name__}: {error})") from None


def _chunks(data: bytes) -> tuple[dict[str, Any], bytes]:
    try:
        magic, version, length = struct.unpack_from("<4sII", data)
        size, kind = struct.unpack_from("<I4s", data, 12)
        if (magic, version, kind) != (b"glTF", 2, b"JSON") or length > len(data) or 20 + size > length:
            raise ValueError
        content = json.loads(data[20 : 20 + size])
        if 28 + size > length:
            return content, b""
        more, kind = struct.unpack_from("<I4s", data, 20 + size)
        if kind != b"BIN\0" or 28 + size + more > length:
            raise ValueError
    except (struct.error, ValueError, RecursionError):
        raise ValueError("not binary glTF 2.0, or cut short; a .gltf is made one by Blender's export") from None
    return content, data[28 + size : 28 + size + more]


def _nodes(content: dict[str, Any], binary: bytes) -> Nodes:
    every = content["nodes"]
    if len(every) > MOST:
        raise ValueError(f"{len(every):,} nodes, more than {MOST:,}")
    for key in ("buffers", "bufferViews", "accessors", "skins"):
        if not all(isinstance(entry, dict) for entry in content.get(key, [])):
            raise ValueError(f"{key} are no list of objects")
    above = [-1] * len(every)
    for parent, node in enumerate(every):
        for child in node.get("children", []):
            if above[child] != -1:
                raise ValueError(f"node {child} has two parents")
            above[child] = parent
    skinned = {joint for skin in content.get("skins", []) for joint in skin["joints"]} or set(range(len(every)))
    human, wanted = _human(content.get("extensions", {})), set[int]()
    for node in (*skinned, *human.values()):
        while node != -1 and node not in wanted:
            wanted.add(node)
            node = above[node]
    order = [node for node in range(len(every)) if node in wanted and above[node] == -1]
    for node in order:
        order += [child for child in every[node].get("children", []) if child in wanted]
    if len(order) < len(wanted):
        raise ValueError("a node hangs on itself")
    index = {node: i for i, node in enumerate(order)}
    parents = [index.get(above[node], -1) for node in order]
    world = np.zeros((len(order), 4, 4))
    for i, node in enumerate(order):
        own = local(every[node])
        world[i] = own if parents[i] < 0 else world[parents[i]] @ own
    if not np.isfinite(world).all() or not (np.abs(np.linalg.det(world[:, :3, :3])) > 1e-30).all():
        raise ValueError("a node's matrix is not finite, or flat")
    rotations = nearest_rotation(torch.from_numpy(world[:, :3, :3])).numpy()
    names = ["_".join(str(every[node].get("name", f"node{node}")).split()) for node in order]
    joints, human = [index[j] for j in sorted(skinned)], {bone: index[node] for bone, node in human.items()}
    return Nodes(content, binary, order, names, parents, joints, human, world, rotations)


def _human(extensions: dict[str, Any]) -> dict[str, int]:
    """The nodes of a VRM's bones: of version 1, and of version 0."""
    if "VRMC_vrm" in extensions:
        return {bone: found["node"] for bone, found in extensions["VRMC_vrm"]["humanoid"]["humanBones"].items()}
    old = extensions.get("VRM", {}).get("humanoid", {}).get("humanBones", [])
    return {found["bone"]: found["node"] for found in old}


def local(node: dict[str, Any]) -> Array:
    """A node's matrix (4, 4), from its parent's axes."""
    if "matrix" in node:
        return np.array(node["matrix"], float).reshape(4, 4).T
    found = np.eye(4)
    x, y, z, w = node.get("rotation", (0, 0, 0, 1))
    found[:3, :3] = quaternion_to_matrix(torch.tensor((w, x, y, z), dtype=torch.float64)).numpy()
    found[:3, :3] *= np.array(node.get("scale", (1, 1, 1)), float)
    found[:3, 3] = node.get("translation", (0, 0, 0))
    return found
