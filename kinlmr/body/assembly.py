"""A body from the arrays of a body file, and what is refused of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from kinlmr.body.kinematics import fronts
from kinlmr.body.model import Body
from kinlmr.body.points import Keypoints
from kinlmr.files import Array, about
from kinlmr.skeleton import load as load_skeleton

HAND_MEANS = ("hands_mean", "hands_meanl", "hands_meanr", "hand_mean")
LARGEST = 1e9  # metres, and whatever else a body's numbers are
MAX_NUMBERS = 30_000_000  # of weights and of joints moved by shape; FLAME, the largest, has 50,000
SKELETONS = {24: "smpl.yaml", 52: "smplh.yaml", 55: "smplx.yaml", 16: "mano.yaml", 5: "flame.yaml", 35: "smal.yaml"}
OFFICIAL = {(24, 6890): "smpl", (52, 6890): "smplh", (55, 10475): "smplx", (16, 778): "mano", (5, 5023): "flame",
            (33, 3889): "smal", (35, 3889): "smal"}  # fmt: skip
SITES = {
    "smpl": "smpl.is.tue.mpg.de", "smplh": "mano.is.tue.mpg.de", "smplx": "smpl-x.is.tue.mpg.de",
    "mano": "mano.is.tue.mpg.de", "flame": "flame.is.tue.mpg.de", "smal": "smal.is.tue.mpg.de",
}  # fmt: skip


def assemble(arrays: Mapping[str, Array], file: str, columns: Sequence[int] | None = None) -> Body:
    """A Body, of torch's default floating type, from arrays as body files name and shape them.

    v_template (N, 3), shapedirs (N, 3, S), posedirs (N, 3, 9 (J - 1)), of the joints but the root in their order, or
    none, weights (N, J), J_regressor (J, N) or J (J, 3) with J_shapedirs (J, 3, S), kintree_table (2, J) or parents
    (J), f (F, 3)
    """
    with about(file):
        template = _array(arrays, "v_template", None, 3).astype(np.float64)
        count = len(template)
        if not count:
            raise ValueError(f"a body without vertices; v_template has shape {template.shape}")
        names, parents = _tree(arrays)
        weights, shapedirs, rest, rest_dirs = _shaped(arrays, template, len(names))
        posedirs = np.zeros((count, 3, 0), shapedirs.dtype)
        if "posedirs" in arrays and np.size(arrays["posedirs"]):
            posedirs = _array(arrays, "posedirs", count, 3, 9 * (len(names) - 1))
        if columns is not None:
            columns = _columns(columns, shapedirs.shape[2])
            shapedirs, rest_dirs = shapedirs[..., columns], rest_dirs[..., columns]
        hands = [
            _by_three(_array(arrays, key, *[None] * np.ndim(arrays[key])), key) for key in HAND_MEANS if key in arrays
        ]
        own = OFFICIAL.get((len(names), count), "body")
        body = Body(
            name=_text(arrays, "name", (own,))[0],
            licence=_text(arrays, "license", (f"see the terms of {SITES.get(own, 'its makers')}",))[0],
            joints=names,
            parents=parents,
            fronts=fronts(parents),
            J=_float(rearrange(rest, "j c -> (j c)")),
            J_shapedirs=_float(rearrange(rest_dirs, "j c s -> s (j c)")),
            template=_float(rearrange(template, "n c -> (c n)")),
            basis=_float(rearrange(np.concatenate([posedirs, shapedirs], 2), "n c d -> d (c n)")),
            weights=_float(weights.T),
            faces=_faces(arrays, count),
            hand_mean=_float(np.concatenate(hands)) if hands else None,
        )
        return _with_saved(body, arrays, columns) if "points_names" in arrays else body


def _array(arrays: Mapping[str, Array], key: str, *shape: int | None) -> Array:
    """An array of finite numbers, of a shape in which None is any length."""
    if key not in arrays:
        raise ValueError(f"{key!r} is missing; a body has v_template, shapedirs, weights, J_regressor, kintree_table")
    array = np.asarray(arrays[key])
    if array.ndim != len(shape) or any(n is not None and n != m for n, m in zip(shape, array.shape, strict=True)):
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"{key} has shape {array.shape}, expected ({wanted})")
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{key} holds {array.dtype}, expected numbers")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{key} is not finite at {tuple(np.argwhere(~np.isfinite(array))[0].tolist())}")
    if array.dtype.kind == "f" and array.size and (far := float(np.abs(array).max())) > LARGEST:
        raise ValueError(f"{key} holds {far:g}, more than {LARGEST:g}; a body is in metres")
    return array


def _tree(arrays: Mapping[str, Array]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The joints' names, and their parents as indices, -1 for the root."""
    if "parents" in arrays:
        tree = _array(arrays, "parents", None)
    else:
        tree, order = _array(arrays, "kintree_table", 2, None)
        if (order != np.arange(len(order))).any():
            raise ValueError(f"kintree_table numbers its joints {order.tolist()}, expected 0 .. {len(order) - 1}")
    unnamed = tuple(f"joint{i}" for i in range(len(tree)))
    known = load_skeleton(SKELETONS[len(tree)]) if len(tree) in SKELETONS else None
    if known and np.array_equal(np.asarray(tree)[1:], [known.joints.index(p) for p in known.parents[1:] if p]):
        unnamed = known.joints
    names = _text(arrays, "joint_names", unnamed)
    if len(names) != len(tree):
        raise ValueError(f"{len(names)} joint_names for {len(tree)} joints")
    return names, _parents(_whole(tree, "the kinematic tree"), names)


def _shaped(arrays: Mapping[str, Array], template: Array, joints: int) -> tuple[Array, Array, Array, Array]:
    """Skinning weights (N, J), shape directions (N, 3, S), joints at rest (J, 3) and theirs (J, 3, S)."""
    count = len(template)
    shapedirs = _array(arrays, "shapedirs", count, 3, None)
    if (size := joints * (3 * shapedirs.shape[2] + count)) > MAX_NUMBERS:
        raise ValueError(
            f"{joints:,} joints by {shapedirs.shape[2]:,} shape numbers and {count:,} vertices would take "
            f"{size:,} numbers, more than {MAX_NUMBERS:,}; keep fewer of them"
        )
    shapedirs = shapedirs.astype(np.float64 if "J_regressor" in arrays else np.float32)
    weights = _weights(arrays, count, joints)
    if "J_regressor" not in arrays:
        rest = _array(arrays, "J", joints, 3).astype(np.float64)
        return weights, shapedirs, rest, _array(arrays, "J_shapedirs", joints, 3, shapedirs.shape[2]).astype(np.float64)
    if joints == 16 and count == 778 and _is_flipped(template, shapedirs):
        shapedirs[:, 0] *= -1  # only official files have a regressor and need this
    regressor = _array(arrays, "J_regressor", joints, count).astype(np.float64)
    return weights, shapedirs, regressor @ template, np.einsum("jn,ncs->jcs", regressor, shapedirs)


def _faces(arrays: Mapping[str, Array], count: int) -> Tensor | None:
    if "f" not in arrays:
        return None
    faces = torch.from_numpy(_whole(_array(arrays, "f", None, 3), "f"))
    if bool(((faces < 0) | (faces >= count)).any()):
        raise ValueError(f"f names vertices {faces.min()} .. {faces.max()}, there are {count}")
    return faces


def _columns(columns: Sequence[int], count: int) -> list[int]:
    asked = np.asarray(columns)
    if asked.size and (asked.ndim != 1 or asked.dtype.kind not in "iu"):
        raise ValueError(f"columns are numbers of shape directions, not {asked.dtype} of shape {asked.shape}")
    if bad := [c for c in asked.tolist() if not 0 <= c < count]:
        raise ValueError(f"columns {bad} asked for, its shape directions are 0 .. {count - 1}")
    return [int(c) for c in asked]


def _whole(array: Array, key: str) -> Array:
    if array.dtype.kind == "f" and (array != np.rint(array)).any():
        raise ValueError(f"{key} holds fractions, expected whole numbers")
    return array.astype(np.int64)


def _by_three(array: Array, key: str) -> Array:
    if array.size % 3:
        raise ValueError(f"{key} has {array.size} numbers, expected three a joint")
    return array.reshape(-1, 3)


def _float(array: Array) -> Tensor:
    kind = {torch.float64: np.float64}.get(torch.get_default_dtype(), np.float32)
    return torch.from_numpy(np.require(array, kind, ["C", "W"]))


def _text(arrays: Mapping[str, Array], key: str, otherwise: Sequence[str]) -> tuple[str, ...]:
    array = np.asarray(arrays.get(key, ()))
    return tuple(map(str, array.ravel())) if array.dtype.kind == "U" and array.size else tuple(otherwise)


def _parents(raw: Array, names: Sequence[Any]) -> tuple[int, ...]:
    """Parents as indices, the root's (-1, itself, or unsigned -1) as -1; whatever is not a rooted tree is refused."""
    given = [int(p) for p in raw]
    parents = [p if 0 <= p < len(given) and p != j else -1 for j, p in enumerate(given)]
    named = lambda j: f"joint {j} {names[j]!r}"  # noqa: E731
    for j, p in enumerate(given):
        if parents[j] < 0 and p not in (-1, j, 255, 65535, 2**32 - 1):
            last = len(given) - 1
            raise ValueError(f"the kinematic tree gives {named(j)} parent {p}, expected 0 .. {last} or -1")
    rooted: set[int] = set()  # joints known to lead to a root
    for joint in range(len(parents)):
        path: dict[int, None] = {}
        while joint >= 0 and joint not in rooted:
            if joint in path:
                walked = list(path)
                shown = " -> ".join(str(names[j]) for j in [*walked[walked.index(joint) :], joint])
                raise ValueError(f"the kinematic tree runs in a circle: {shown}; one of them is the root")
            path[joint] = None
            joint = parents[joint]
        rooted.update(path)
    roots = [j for j, p in enumerate(parents) if p < 0]
    if len(roots) > 1:
        shown = ", ".join(f"{named(j)} ({'its own parent' if given[j] == j else f'parent {given[j]}'})" for j in roots)
        raise ValueError(f"the kinematic tree has {len(roots)} roots, expected one: {shown}; give all but one a parent")
    if not roots:
        raise ValueError("the kinematic tree is empty")
    return tuple(parents)


def _weights(arrays: Mapping[str, Array], count: int, joints: int) -> Array:
    """Skinning weights (N, J); every row sums to one, or nearly so in half precision and is then made to."""
    if "weights_index" in arrays:
        index = _array(arrays, "weights_index", count, None).astype(int)
        value = _array(arrays, "weights_value", count, index.shape[1]).astype(np.float64)
        if ((index < 0) | (index >= joints)).any():
            raise ValueError(f"weights_index names joints {index.min()} .. {index.max()}, there are {joints}")
        weights = np.zeros((count, joints))
        np.add.at(weights, (np.arange(count)[:, None], index), value)
    else:
        weights = _array(arrays, "weights", count, joints).astype(np.float64)
    if (weights < -1e-6).any():
        raise ValueError(f"the skinning weights of vertex {int(np.argwhere(weights < -1e-6)[0, 0])} are negative")
    sums = weights.sum(1)
    worst = int(np.abs(sums - 1).argmax())
    if abs(sums[worst] - 1) > 5e-3:
        raise ValueError(f"the skinning weights of vertex {worst} sum to {sums[worst]:.4f}, expected 1")
    return np.where(np.abs(sums - 1) > 1e-6, weights.T / sums, weights.T).T


def _is_flipped(template: Array, shapedirs: Array) -> bool:
    """Whether a hand's shape directions are its mirror image's, as in the left hand's official file.

    The first direction is the hand's size: it moves vertices away from the middle along every axis, or along none.
    """
    away, moved = template - template.mean(0), shapedirs[..., 0]
    along = lambda axes: np.corrcoef(away[:, axes].ravel(), moved[:, axes].ravel())[0, 1]  # noqa: E731
    x, yz = along([0]), along([1, 2])
    return bool(x * yz < 0 and min(abs(x), abs(yz)) > 0.2)


def _with_saved(body: Body, arrays: Mapping[str, Array], columns: Sequence[int] | None) -> Body:
    """The body with the compiled keypoints (Q pairs) that its file holds."""
    names = _text(arrays, "points_names", ())
    owner = _whole(_array(arrays, "points_owner", None), "points_owner")
    pairs = len(owner)
    bone = _whole(_array(arrays, "points_bone", pairs), "points_bone")
    for key, index, count in (("points_owner", owner, len(names)), ("points_bone", bone, len(body.joints))):
        if ((index < 0) | (index >= count)).any():
            raise ValueError(f"{key} names {index.min()} .. {index.max()}, there are {count}")
    basis = _array(arrays, "points_basis", None, 3 * pairs)
    if columns is not None:
        basis = np.concatenate([basis[: body.pose_width], basis[body.pose_width + np.array(columns, dtype=int)]])
    if len(basis) != len(body.basis):
        raise ValueError(f"points_basis has {len(basis)} rows, expected {len(body.basis)}")
    keypoints = Keypoints(
        names, torch.from_numpy(owner), torch.from_numpy(bone), _float(_array(arrays, "points_mass", pairs)),
        _float(_array(arrays, "points_template", 3 * pairs)), _float(basis),
    )  # fmt: skip
    return replace(body, keypoints=keypoints)
