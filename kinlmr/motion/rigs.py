"""The skeleton of a file, a character's for example, as it rests, and a body's motion on it: .bvh, .glb, .vrm.

The way of `read_bvh` the other way round: with A how a joint of the file lies in the body's (`alignment`), a joint of
the file is rotated by G_file = G_body A^T. The root goes as far as its legs are long.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from kinlmr.body import Body
from kinlmr.files import Array, about
from kinlmr.motion import gltf
from kinlmr.motion.alignment import Positions, alignments, reference
from kinlmr.motion.dialects import DIALECTS, NEEDED, joint_map
from kinlmr.motion.names import plain_names
from kinlmr.motion.retarget import compared, opened, scale_of

ENDINGS = (".bvh", ".glb", ".vrm")


class Rig(NamedTuple):
    """A skeleton of N joints, parents first, and how a body lies in it. Lengths are the file's units.

    names; parents, -1 without one; offsets (N, 3) and rest (N, 3, 3), from the parent's axes; ends: a leaf's End Site;
    joints: the body's joint -> the file's; lies (3, 3) of each of those: G_file = to_file G_body lies; to_file (3, 3)
    from y up; scale, metres per unit; root, where the body's root is; above (4, 4), where what that hangs on is, and
    how it is rotated; file: of a GLB
    """

    names: list[str]
    parents: list[int]
    offsets: Array
    rest: Array
    ends: dict[int, Array]
    joints: dict[int, int]
    lies: dict[int, Array]
    to_file: Array
    scale: float
    root: int
    above: Array
    file: gltf.Nodes | None


class _Named(NamedTuple):
    names: list[str]
    parents: list[int]


def read(path: str | os.PathLike[str], body: Body) -> Rig:
    """The skeleton of a file, and how a body lies in it, by rest poses; a ValueError where that cannot be told."""
    path = Path(path)
    with about(path):
        if path.suffix.lower() not in ENDINGS:
            raise ValueError(f"a rig is a file of {', '.join(ENDINGS)}, or one of the names")
        return _bvh(path, body) if path.suffix.lower() == ".bvh" else _glb(path, body)


def posed(rig: Rig, body: Body, rotations: Tensor, root: Tensor) -> tuple[Array, Array]:
    """A body's rotations (T, J, 3, 3) and its root joint's positions (T, 3), y up, metres -> the rig's rotations
    (T, N, 3, 3), each from its parent's axes, and `Rig.root`'s position (T, 3) in the file's world and units."""
    turned: dict[int, Array] = {}
    local = rotations.numpy()
    for j in body.fronts.order.tolist():
        parent = body.parents[j]
        turned[j] = local[:, j] if parent < 0 else turned[parent] @ local[:, j]
    whose = {i: j for j, i in rig.joints.items()}
    world: list[Array] = []
    found = np.empty((len(local), len(rig.names), 3, 3))
    for i, parent in enumerate(rig.parents):
        above = np.eye(3) if parent < 0 else world[parent]
        world.append(rig.to_file @ turned[whose[i]] @ rig.lies[i] if i in whose else above @ rig.rest[i])
        found[:, i] = above.swapaxes(-1, -2) @ world[i]
    return found, root.numpy() @ rig.to_file.T / rig.scale


def within(matrix: Array, positions: Array) -> Array:
    """Positions (T, 3) of the world from the axes of a node whose matrix (4, 4) is given."""
    return (positions - matrix[:3, 3]) @ np.linalg.inv(matrix[:3, :3]).T


def _bvh(path: Path, body: Body) -> Rig:
    file = opened(path, 0)
    source = joint_map(file, body, None)
    rotations, positions, joints, to_y = compared(body, file, source)
    standing = reference(rotations, positions)
    lies = alignments(body, rotations, positions, standing)
    world, _ = file.posed()
    rest = file.rest(world, joints)
    above = [rest[p] if p >= 0 else np.zeros(3) for p in file.parents]
    offsets = np.where(np.array(file.parents)[:, None] >= 0, rest - above, 0)
    still = np.tile(np.eye(3), (len(rest), 1, 1))
    if not standing.rest:  # zero rotations are no pose: where somebody stands straightest, then
        straight = world[int(standing.weights.argmax())]
        still = np.stack([straight[i] if p < 0 else straight[p].T @ straight[i] for i, p in enumerate(file.parents)])
    root = source[body.root]
    matrix, p = np.eye(4), file.parents[root]
    while p >= 0:
        own = np.eye(4)
        own[:3, :3], own[:3, 3] = still[p], offsets[p]
        matrix, p = own @ matrix, file.parents[p]
    ends = {j: np.array([float(x) for x in words]) for j, words in file.ends.items() if len(words) == 3}
    return Rig(
        file.names, file.parents, offsets, still, ends, source, {i: lies[j].T for j, i in source.items()}, to_y.T,
        scale_of(positions), root, matrix, None,
    )  # fmt: skip


def _joints(file: gltf.Nodes, body: Body) -> dict[int, int]:
    """The body's joint -> the file's: by what a VRM says, else by names."""
    if file.human:
        index = {name: j for j, name in enumerate(plain_names(body.joints))}
        named = {name: bone for name, bone in DIALECTS["vrm"].items() if bone in file.human and name in index}
        if missing := [DIALECTS["vrm"][name] for name in NEEDED if name not in named]:
            raise ValueError(f"its humanoid, or body {body.name!r}, lacks {', '.join(missing)}")
        return {index[name]: file.human[bone] for name, bone in named.items()}
    at = {i: k for k, i in enumerate(file.joints)}
    above = []
    for i in file.joints:
        parent = file.parents[i]
        while parent >= 0 and parent not in at:
            parent = file.parents[parent]
        above.append(at.get(parent, -1))
    skeleton = _Named([file.names[i] for i in file.joints], above)
    return {j: file.joints[k] for j, k in joint_map(skeleton, body, None).items()}


def _glb(path: Path, body: Body) -> Rig:
    file = gltf.read(path)
    source = _joints(file, body)
    own = body.J.double().view(-1, 3).numpy()
    rest = np.full(own.shape, np.nan)
    rest[list(source)] = file.world[list(source.values()), :3, 3]
    known = {name: j for j, name in enumerate(plain_names(body.joints)) if j in source}
    positions = Positions(rest[None], rest, own, known)
    still = {j: np.eye(3)[None] for j in source}
    lies = alignments(body, still, positions, reference(still, positions))
    parents, turned, place = file.parents, file.rotations, file.world[:, :3, 3]
    from_parent = [turned[p].T if p >= 0 else np.eye(3) for p in parents]
    offsets = np.stack([r @ (place[i] - (place[p] if p >= 0 else 0))
                        for i, (r, p) in enumerate(zip(from_parent, parents, strict=True))])  # fmt: skip
    root = source[body.root]
    matrix = np.eye(4)
    if parents[root] >= 0:
        matrix[:3, :3], matrix[:3, 3] = turned[parents[root]], place[parents[root]]
    return Rig(
        file.names, parents, offsets, np.stack([r @ x for r, x in zip(from_parent, turned, strict=True)]), {}, source,
        {i: lies[j].T @ turned[i] for j, i in source.items()}, np.eye(3), scale_of(positions), root,
        matrix, file,
    )  # fmt: skip
