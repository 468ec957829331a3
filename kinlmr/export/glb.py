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
    """One mesh on one skeleton: y up, metres, hidden until the first time. Rotations: unit quaternions x, y, z, w."""

    name: str
    joints: Sequence[str]
    parents: Sequence[int]  # -1 for the root
    rest: Array  # joints (J, 3) of the pose that vertices are in
    vertices: Array  # (N, 3)
    normals: Array  # (N, 3)
    faces: Array  # (F, 3); none: a skeleton without a mesh
    influences: Array  # (N, 4), joints by number
    weights: Array  # (N, 4), each row's sum one
    rotations: Array  # (T, J, 4), relative to the parent
    root: Array  # (T, 3), where the root joint is
    times: Array  # (T), seconds, ascending
    color: tuple[float, float, float]


class Buffer:
    """Arrays one after another, in the buffer views and accessors of a file's content."""

    def __init__(self, content: dict[str, Any], binary: bytes = b"") -> None:
        self.content, self.pieces, self.size = (
            content,
            [binary + bytes(-len(binary) % 4)],
            len(binary) + -len(binary) % 4,
        )

    def accessor(self, values: Array, kind: Any, target: int | None = None, bounds: bool = False) -> int:
        """The number of a new accessor, over a view of its own."""
        values = np.ascontiguousarray(values, kind)
        view = {"buffer": 0, "byteOffset": self.size, "byteLength": values.nbytes}
        views, accessors = (self.content.setdefault(key, []) for key in ("bufferViews", "accessors"))
        views.append(view if target is None else {**view, "target": target})
        entry = {"bufferView": len(views) - 1, "componentType": COMPONENTS[values.dtype.name],
                 "count": len(values), "type": KINDS[values.shape[1:]]}  # fmt: skip
        if bounds:
            flat = values.reshape(len(values), -1)
            entry |= {"min": flat.min(0).tolist(), "max": flat.max(0).tolist()}
        accessors.append(entry)
        self.pieces.append(values.tobytes() + bytes(-values.nbytes % 4))
        self.size += len(self.pieces[-1])
        return len(accessors) - 1

    def animate(self, node: int, path: str, times: int, values: Array, how: str = "LINEAR") -> None:
        """Move a node, in the content's only animation, at the times of an accessor."""
        (animation,) = self.content["animations"]
        animation["channels"].append({"sampler": len(animation["samplers"]), "target": {"node": node, "path": path}})
        animation["samplers"].append({"input": times, "interpolation": how, "output": self.accessor(values, "f4")})

    def packed(self) -> bytes:
        """The file."""
        self.content["buffers"] = [{"byteLength": self.size}]
        text = json.dumps(self.content, separators=(",", ":")).encode()
        chunks = [(b"JSON", text + b" " * (-len(text) % 4)), (b"BIN\0", b"".join(self.pieces))]
        data = b"".join(struct.pack("<I", len(chunk)) + kind + chunk for kind, chunk in chunks)
        return b"glTF" + struct.pack("<II", 2, 12 + len(data)) + data


def motion() -> list[dict[str, Any]]:
    """The animations of a file: one, empty."""
    return [{"name": "motion", "samplers": [], "channels": []}]


def pack(people: Sequence[Person], bones: Sequence[str] = ()) -> bytes:
    """The file: per person a node, and under it a skeleton; a mesh, a skin and a material; one animation for all.

    bones: joints of one person that VRMC_vrm_animation is to name: the file of an animation for VRM, .vrma.
    """
    content: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "kinlmr"}, "scene": 0, "scenes": [{"nodes": []}],
        "nodes": [], "animations": motion(),
    }  # fmt: skip
    buffer = Buffer(content)
    for person in people:
        _add(person, content, buffer)
    if bones:
        human = {name: {"node": people[0].joints.index(name)} for name in bones}
        content["extensionsUsed"] = ["VRMC_vrm_animation"]
        content["extensions"] = {"VRMC_vrm_animation": {"specVersion": "1.0", "humanoid": {"humanBones": human}}}
    return buffer.packed()


def _add(person: Person, content: dict[str, Any], buffer: Buffer) -> None:
    count, rest = len(person.joints), person.rest
    first = len(content["nodes"])  # the joints' nodes, then the person's, then the mesh's
    root = person.parents.index(-1)
    for joint, (name, parent) in enumerate(zip(person.joints, person.parents, strict=True)):
        node: dict[str, Any] = {
            "name": name,
            "translation": (rest[joint] - (rest[parent] if parent >= 0 else 0)).tolist(),
        }
        if children := [first + child for child in range(count) if person.parents[child] == joint]:
            node["children"] = children
        content["nodes"].append(node)
    content["nodes"].append({"name": person.name, "children": [first + root]})
    content["scenes"][0]["nodes"].append(first + count)
    if len(person.faces):
        _add_mesh(person, content, buffer, first)

    times = buffer.accessor(person.times, "f4", bounds=True)
    buffer.animate(first + root, "translation", times, person.root)
    for joint in range(count):
        buffer.animate(first + joint, "rotation", times, person.rotations[:, joint])
    if len(person.faces) and person.times[0] > 0:  # a scale of zero hides
        shown = buffer.accessor(np.array([0.0, person.times[0]]), "f4", bounds=True)
        buffer.animate(first + count, "scale", shown, np.array([[0.0] * 3, [1.0] * 3]), "STEP")


def _add_mesh(person: Person, content: dict[str, Any], buffer: Buffer, first: int) -> None:
    """The mesh on the joints whose nodes begin with ``first``, in a node of its own, for a skin hangs on its joints."""
    count, meshes, skins, materials = (
        len(person.joints),
        *(content.setdefault(key, []) for key in ("meshes", "skins", "materials")),
    )
    content["scenes"][0]["nodes"].append(len(content["nodes"]))
    skinned = {"name": f"{person.name}_mesh", "mesh": len(meshes), "skin": len(skins)}
    content["nodes"].append(skinned)

    bind = np.tile(np.eye(4), (count, 1, 1))
    bind[:, 3, :3] = -person.rest  # by columns: the translation is the last row
    skin = {"joints": list(range(first, first + count)), "skeleton": first + person.parents.index(-1)}
    skins.append({**skin, "inverseBindMatrices": buffer.accessor(bind, "f4")})
    paint = {"baseColorFactor": [*person.color, 1.0], "metallicFactor": 0.0, "roughnessFactor": 0.7}
    materials.append({"name": person.name, "pbrMetallicRoughness": paint})
    meshes.append({"name": person.name, "primitives": [{
        "attributes": {
            "POSITION": buffer.accessor(person.vertices, "f4", VERTICES, bounds=True),
            "NORMAL": buffer.accessor(person.normals, "f4", VERTICES),
            "JOINTS_0": buffer.accessor(person.influences, "u1" if count <= 256 else "u2", VERTICES),
            "WEIGHTS_0": buffer.accessor(person.weights, "f4", VERTICES),
        },
        "indices": buffer.accessor(person.faces.ravel(), "u2" if len(person.vertices) < 65536 else "u4", INDICES),
        "material": len(materials) - 1,
    }]})  # fmt: skip
