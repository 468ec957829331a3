"""Binary glTF 2.0 (Khronos): meshes on skeletons, and how these move. Arrays in, bytes out."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Component types by name, and what a buffer is for (sections 3.6.1 and 3.6.2 of the specification).
COMPONENTS = {"uint8": 5121, "uint16": 5123, "uint32": 5125, "float32": 5126}
KINDS = {(): "SCALAR", (3,): "VEC3", (4,): "VEC4", (4, 4): "MAT4"}
VERTICES, INDICES = 34962, 34963


class Person(NamedTuple):
    """One mesh on one skeleton: y up, metres. Rotations are unit quaternions x, y, z, w."""

    name: str
    joints: Sequence[str]
    parents: Sequence[int]  # -1 for the root
    rest: Array  # joints (J, 3) of the pose that vertices are in
    vertices: Array  # (N, 3)
    normals: Array  # (N, 3)
    faces: Array  # (F, 3)
    influences: Array  # (N, 4), joints by number
    weights: Array  # (N, 4), each row's sum one
    rotations: Array  # (T, J, 4), relative to the parent
    root: Array  # (T, 3), where the root joint is
    times: Array  # (T), seconds, ascending
    color: tuple[float, float, float]


def pack(people: Sequence[Person]) -> bytes:
    """The file: per person a mesh, a skin and a material; one animation for all."""
    content: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "kinlmr"}, "scene": 0, "scenes": [{"nodes": []}],
        "nodes": [], "meshes": [], "skins": [], "materials": [], "accessors": [], "bufferViews": [],
        "animations": [{"name": "motion", "samplers": [], "channels": []}],
    }  # fmt: skip
    pieces: list[bytes] = []
    for person in people:
        _add(person, content, pieces)
    binary = b"".join(pieces)
    content["buffers"] = [{"byteLength": len(binary)}]
    text = json.dumps(content, separators=(",", ":")).encode()
    chunks = [(b"JSON", text + b" " * (-len(text) % 4)), (b"BIN\0", binary)]
    data = b"".join(struct.pack("<I", len(chunk)) + kind + chunk for kind, chunk in chunks)
    return b"glTF" + struct.pack("<II", 2, 12 + len(data)) + data


def _add(person: Person, content: dict[str, Any], pieces: list[bytes]) -> None:
    def accessor(values: Array, kind: Any, target: int | None = None, bounds: bool = False) -> int:
        """The number of a new accessor, over a view of its own."""
        values = np.ascontiguousarray(values, kind)
        view = {"buffer": 0, "byteOffset": sum(map(len, pieces)), "byteLength": values.nbytes}
        content["bufferViews"].append(view if target is None else {**view, "target": target})
        entry = {"bufferView": len(content["bufferViews"]) - 1, "componentType": COMPONENTS[values.dtype.name],
                 "count": len(values), "type": KINDS[values.shape[1:]]}  # fmt: skip
        if bounds:
            flat = values.reshape(len(values), -1)
            entry |= {"min": flat.min(0).tolist(), "max": flat.max(0).tolist()}
        content["accessors"].append(entry)
        pieces.append(values.tobytes() + bytes(-values.nbytes % 4))
        return len(content["accessors"]) - 1

    count, rest = len(person.joints), person.rest
    first = len(content["nodes"])  # the joints' nodes, then the mesh's
    root = person.parents.index(-1)
    for joint, (name, parent) in enumerate(zip(person.joints, person.parents, strict=True)):
        node: dict[str, Any] = {
            "name": name,
            "translation": (rest[joint] - (rest[parent] if parent >= 0 else 0)).tolist(),
        }
        if children := [first + child for child in range(count) if person.parents[child] == joint]:
            node["children"] = children
        content["nodes"].append(node)
    content["nodes"].append({"name": person.name, "mesh": len(content["meshes"]), "skin": len(content["skins"])})
    content["scenes"][0]["nodes"] += [first + root, first + count]

    bind = np.tile(np.eye(4), (count, 1, 1))
    bind[:, 3, :3] = -rest  # by columns: the translation is the last row
    skin = {"joints": list(range(first, first + count)), "skeleton": first + root}
    content["skins"].append({**skin, "inverseBindMatrices": accessor(bind, "f4")})
    paint = {"baseColorFactor": [*person.color, 1.0], "metallicFactor": 0.0, "roughnessFactor": 0.7}
    content["materials"].append({"name": person.name, "pbrMetallicRoughness": paint})
    content["meshes"].append({"name": person.name, "primitives": [{
        "attributes": {
            "POSITION": accessor(person.vertices, "f4", VERTICES, bounds=True),
            "NORMAL": accessor(person.normals, "f4", VERTICES),
            "JOINTS_0": accessor(person.influences, "u1" if count <= 256 else "u2", VERTICES),
            "WEIGHTS_0": accessor(person.weights, "f4", VERTICES),
        },
        "indices": accessor(person.faces.ravel(), "u2" if len(person.vertices) < 65536 else "u4", INDICES),
        "material": len(content["materials"]) - 1,
    }]})  # fmt: skip

    times = accessor(person.times, "f4", bounds=True)
    animation = content["animations"][0]
    moves = [(first + root, "translation", person.root)]
    moves += [(first + joint, "rotation", person.rotations[:, joint]) for joint in range(count)]
    for node_number, path, values in moves:
        animation["channels"].append(
            {"sampler": len(animation["samplers"]), "target": {"node": node_number, "path": path}}
        )
        animation["samplers"].append({"input": times, "interpolation": "LINEAR", "output": accessor(values, "f4")})
