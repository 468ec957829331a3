"""Body files: what is read of them, what is refused, and the free body that comes along.

Official files (SMPL, SMPL-H, SMPL-X, MANO, FLAME, SMAL; .pkl or .npz) are read without chumpy and without running
anything in them. `save_body` writes the clean .npz that loads in a moment, so loading and saving is the conversion.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from kinlmr.body import Body, fronts
from kinlmr.files import Array, read_npz, write_atomic
from kinlmr.keypoints import Points, keypoint_sets, regressor_rows, set_rows
from kinlmr.pickles import read_pickle
from kinlmr.skeleton import load as load_skeleton
from kinlmr.skeleton import nearest

HANDS = ("hands_mean", "hands_meanl", "hands_meanr", "hand_mean")
KEYS = (
    "v_template", "shapedirs", "posedirs", "weights", "weights_index", "weights_value", "J_regressor", "J",
    "J_shapedirs", "kintree_table", "parents", "joint_names", "f", *HANDS, "license", "name",
    "points_names", "points_owner", "points_bone", "points_mass", "points_template", "points_basis",
)  # fmt: skip
FAR = 1e9  # metres, and whatever else a body's numbers are
MAX_NUMBERS = 30_000_000  # of weights and of joints moved by shape; FLAME, the largest, has 50,000
SKELETONS = {24: "smpl.yaml", 52: "smplh.yaml", 55: "smplx.yaml", 16: "mano.yaml", 5: "flame.yaml", 35: "smal.yaml"}
OFFICIAL = {(24, 6890): "smpl", (52, 6890): "smplh", (55, 10475): "smplx", (16, 778): "mano", (5, 5023): "flame",
            (33, 3889): "smal", (35, 3889): "smal"}  # fmt: skip
WHERE = {
    "smpl": "smpl.is.tue.mpg.de", "smplh": "mano.is.tue.mpg.de", "smplx": "smpl-x.is.tue.mpg.de",
    "mano": "mano.is.tue.mpg.de", "flame": "flame.is.tue.mpg.de", "smal": "smal.is.tue.mpg.de",
}  # fmt: skip


def load_body(
    source: str | os.PathLike[str] = "anny24",
    points: str | os.PathLike[str] | Array | None = None,
    columns: Sequence[int] | None = None,
) -> Body:
    """A body: an embedded one by name, or a body file by path.

    source   "anny24" (13,492 vertices; CC0, 24 joints with SMPL's names and tree), "anny24_lo1229", "anny24_lo369"; or
             the path of an official .pkl or .npz, or of a file that `save_body` wrote
    points   a keypoint set by name ("coco17", "mediapipe33", "body25", "h36m17", "lsp14", "smpl24"), or a regressor
             over the vertices (K, N): an array, or the path of a .npy file
    columns  which shape directions to keep, in order; None for all. SMPL-X with ten of shape and ten of expression:
             ``[*range(10), *range(300, 310)]``

    >>> body = load_body("anny24", points="coco17")
    >>> mesh = body(torch.eye(3).expand(2, 24, 3, 3), torch.zeros(2, 10), want=("vertices", "points"))
    >>> mesh.vertices.shape, mesh.points.shape
    (torch.Size([2, 13492, 3]), torch.Size([2, 17, 3]))
    """
    name = os.fspath(source)
    folder = resources.files("kinlmr") / "bodies"
    if Path(name).is_file():
        arrays = read_npz(name, KEYS) if zipfile.is_zipfile(name) else read_pickle(name, KEYS)
        body = assemble(arrays, name, columns)
    elif name in embedded():
        with resources.as_file(folder / f"{name}.npz") as path:
            body = assemble({"name": np.array(name), **read_npz(path, KEYS)}, name, columns)
    else:
        raise FileNotFoundError(_missing(name))
    if points is None:
        return body
    vertices = body.weights.shape[1]
    if isinstance(points, str) and points in keypoint_sets():
        return body.with_points(keypoint_sets()[points], *set_rows(points, body.name, body.joints, vertices))
    rows = regressor_rows(points, vertices)
    try:
        return body.with_points([f"point{i}" for i in range(len(rows))], rows)
    except ValueError as error:
        where = f"{os.fspath(points)}: " if isinstance(points, str | os.PathLike) else ""
        raise ValueError(f"{where}{error}") from None


def save_body(body: Body, path: str | os.PathLike[str]) -> None:
    """Write a body, its points too, as the .npz that `load_body` reads fastest; whole or not at all."""
    name = os.fspath(path)
    if not name.endswith(".npz"):
        raise ValueError(f"{name}: a body file ends in .npz")
    pose = body.pose_width
    basis = rearrange(body.basis, "d (c n) -> n c d", c=3)
    arrays: dict[str, Any] = {
        "name": body.name, "license": body.licence, "joint_names": body.joints, "parents": body.parents,
        "v_template": rearrange(body.template, "(c n) -> n c", c=3), "weights": body.weights.T,
        "posedirs": basis[..., :pose], "shapedirs": basis[..., pose:], "f": body.faces, "hand_mean": body.hand_mean,
        "J": rearrange(body.J, "(j c) -> j c", c=3),
        "J_shapedirs": rearrange(body.J_shapedirs, "s (j c) -> j c s", c=3),
    }  # fmt: skip
    if body.points:
        p = body.points
        arrays |= {
            "points_names": p.names, "points_owner": p.owner, "points_bone": p.bone, "points_mass": p.mass,
            "points_template": p.template, "points_basis": p.basis,
        }  # fmt: skip
    buffer = io.BytesIO()
    plain: dict[str, Any] = {
        k: v.detach().cpu().numpy() if isinstance(v, Tensor) else np.asarray(v)
        for k, v in arrays.items()
        if v is not None
    }
    np.savez_compressed(buffer, **plain)
    write_atomic(path, buffer.getvalue())


def embedded() -> tuple[str, ...]:
    """The names of the bodies that come with kinlmr."""
    folder = resources.files("kinlmr") / "bodies"
    return tuple(sorted(file.name[:-4] for file in folder.iterdir() if file.name.endswith(".npz")))


# ------------------------------------------------------------------------------------------------------------- arrays


def assemble(arrays: Mapping[str, Array], file: str, columns: Sequence[int] | None = None) -> Body:
    """A Body, of torch's default floating type, from arrays as body files name and shape them.

    v_template (N, 3), shapedirs (N, 3, S), posedirs (N, 3, 9 (J - 1)) or none, weights (N, J), J_regressor (J, N) or
    J (J, 3) with J_shapedirs (J, 3, S), kintree_table (2, J) or parents (J), f (F, 3)
    """

    def get(key: str, *shape: int | None) -> Array:
        if key not in arrays:
            raise ValueError(
                f"{file}: {key!r} is missing; a body has v_template, shapedirs, weights, J_regressor, kintree_table"
            )
        array = np.asarray(arrays[key])
        if array.ndim != len(shape) or any(n is not None and n != m for n, m in zip(shape, array.shape, strict=True)):
            wanted = ", ".join("any" if n is None else str(n) for n in shape)
            raise ValueError(f"{file}: {key} has shape {array.shape}, expected ({wanted})")
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{file}: {key} holds {array.dtype}, expected numbers")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{file}: {key} is not finite at {tuple(np.argwhere(~np.isfinite(array))[0].tolist())}")
        if array.dtype.kind == "f" and array.size and (far := float(np.abs(array).max())) > FAR:
            raise ValueError(f"{file}: {key} holds {far:g}, more than {FAR:g}; a body is in metres")
        return array

    template = get("v_template", None, 3).astype(np.float64)
    count = len(template)
    if not count:
        raise ValueError(f"{file}: a body without vertices; v_template has shape {template.shape}")
    if "parents" in arrays:
        tree = get("parents", None)
    else:
        tree, order = get("kintree_table", 2, None)
        if (order != np.arange(len(order))).any():
            raise ValueError(
                f"{file}: kintree_table numbers its joints {order.tolist()}, expected 0 .. {len(order) - 1}"
            )
    unnamed = tuple(f"joint{i}" for i in range(len(tree)))
    known = load_skeleton(SKELETONS[len(tree)]) if len(tree) in SKELETONS else None
    if known and np.array_equal(np.asarray(tree)[1:], [known.joints.index(p) for p in known.parents[1:] if p]):
        unnamed = known.joints
    names = _text(arrays, "joint_names", unnamed)
    if len(names) != len(tree):
        raise ValueError(f"{file}: {len(names)} joint_names for {len(tree)} joints")
    parents = _parents(_whole(tree, "the kinematic tree", file), names, file)
    joints = len(parents)
    shapedirs = get("shapedirs", count, 3, None)
    if (size := joints * (3 * shapedirs.shape[2] + count)) > MAX_NUMBERS:
        raise ValueError(
            f"{file}: {joints:,} joints by {shapedirs.shape[2]:,} shape numbers and {count:,} vertices would take "
            f"{size:,} numbers, more than {MAX_NUMBERS:,}; keep fewer of them"
        )
    shapedirs = shapedirs.astype(np.float64 if "J_regressor" in arrays else np.float32)
    weights = _weights(arrays, get, count, joints, file)
    if joints == 16 and count == 778 and "J_regressor" in arrays and _is_flipped(template, shapedirs):
        shapedirs[:, 0] *= -1  # only official files have a regressor and need this
    if "J_regressor" in arrays:
        regressor = get("J_regressor", joints, count).astype(np.float64)
        rest, rest_dirs = regressor @ template, np.einsum("jn,ncs->jcs", regressor, shapedirs)
    else:
        rest = get("J", joints, 3).astype(np.float64)
        rest_dirs = get("J_shapedirs", joints, 3, shapedirs.shape[2]).astype(np.float64)
    posedirs = np.zeros((count, 3, 0), shapedirs.dtype)
    if "posedirs" in arrays and np.size(arrays["posedirs"]):
        posedirs = get("posedirs", count, 3, 9 * (joints - 1))
    if columns is not None:
        if bad := [c for c in columns if not 0 <= c < shapedirs.shape[2]]:
            raise ValueError(f"{file}: columns {bad} asked for, its shape directions are 0 .. {shapedirs.shape[2] - 1}")
        shapedirs, rest_dirs = shapedirs[..., list(columns)], rest_dirs[..., list(columns)]
    hands = [_by_three(get(key, *[None] * np.ndim(arrays[key])), key, file) for key in HANDS if key in arrays]
    basis = np.concatenate([posedirs, shapedirs], 2)

    own = OFFICIAL.get((joints, count), "body")
    body = Body(
        name=_text(arrays, "name", (own,))[0],
        licence=_text(arrays, "license", (f"see the terms of {WHERE.get(own, 'its makers')}",))[0],
        joints=names,
        parents=parents,
        fronts=fronts(parents),
        J=_float(rearrange(rest, "j c -> (j c)")),
        J_shapedirs=_float(rearrange(rest_dirs, "j c s -> s (j c)")),
        template=_float(rearrange(template, "n c -> (c n)")),
        basis=_float(rearrange(basis, "n c d -> d (c n)")),
        weights=_float(weights.T),
        faces=torch.from_numpy(_whole(get("f", None, 3), "f", file)) if "f" in arrays else None,
        hand_mean=_float(np.concatenate(hands)) if hands else None,
    )
    if body.faces is not None and bool(((body.faces < 0) | (body.faces >= count)).any()):
        raise ValueError(f"{file}: f names vertices {body.faces.min()} .. {body.faces.max()}, there are {count}")
    return _with_saved(body, arrays, get, file, columns) if "points_names" in arrays else body


def _whole(array: Array, key: str, file: str) -> Array:
    if array.dtype.kind == "f" and (array != np.rint(array)).any():
        raise ValueError(f"{file}: {key} holds fractions, expected whole numbers")
    return array.astype(np.int64)


def _by_three(array: Array, key: str, file: str) -> Array:
    if array.size % 3:
        raise ValueError(f"{file}: {key} has {array.size} numbers, expected three a joint")
    return array.reshape(-1, 3)


def _float(array: Array) -> Tensor:
    kind = {torch.float64: np.float64}.get(torch.get_default_dtype(), np.float32)
    return torch.from_numpy(np.require(array, kind, ["C", "W"]))


def _text(arrays: Mapping[str, Array], key: str, otherwise: Sequence[str]) -> tuple[str, ...]:
    array = np.asarray(arrays.get(key, ()))
    return tuple(map(str, array.ravel())) if array.dtype.kind == "U" and array.size else tuple(otherwise)


def _parents(raw: Array, names: Sequence[Any], file: str) -> tuple[int, ...]:
    """Parents as indices, the root's (-1, itself, or unsigned -1) as -1; whatever is not a rooted tree is refused."""
    given = [int(p) for p in raw]
    parents = [p if 0 <= p < len(given) and p != j else -1 for j, p in enumerate(given)]
    named = lambda j: f"joint {j} {names[j]!r}"  # noqa: E731
    for j, p in enumerate(given):
        if parents[j] < 0 and p not in (-1, j, 255, 65535, 2**32 - 1):
            last = len(given) - 1
            raise ValueError(f"{file}: the kinematic tree gives {named(j)} parent {p}, expected 0 .. {last} or -1")
    rooted: set[int] = set()  # joints known to lead to a root
    for joint in range(len(parents)):
        path: dict[int, None] = {}
        while joint >= 0 and joint not in rooted:
            if joint in path:
                walked = list(path)
                shown = " -> ".join(str(names[j]) for j in [*walked[walked.index(joint) :], joint])
                raise ValueError(f"{file}: the kinematic tree runs in a circle: {shown}; one of them is the root")
            path[joint] = None
            joint = parents[joint]
        rooted.update(path)
    roots = [j for j, p in enumerate(parents) if p < 0]
    if len(roots) > 1:
        shown = ", ".join(f"{named(j)} ({'its own parent' if given[j] == j else f'parent {given[j]}'})" for j in roots)
        raise ValueError(
            f"{file}: the kinematic tree has {len(roots)} roots, expected one: {shown}; give all but one a parent"
        )
    if not roots:
        raise ValueError(f"{file}: the kinematic tree is empty")
    return tuple(parents)


def _weights(arrays: Mapping[str, Array], get: Any, count: int, joints: int, file: str) -> Array:
    """Skinning weights (N, J); every row sums to one, or nearly so in half precision and is then made to."""
    if "weights_index" in arrays:
        index = get("weights_index", count, None).astype(int)
        value = get("weights_value", count, index.shape[1]).astype(np.float64)
        if ((index < 0) | (index >= joints)).any():
            raise ValueError(f"{file}: weights_index names joints {index.min()} .. {index.max()}, there are {joints}")
        weights = np.zeros((count, joints))
        np.add.at(weights, (np.arange(count)[:, None], index), value)
    else:
        weights = get("weights", count, joints).astype(np.float64)
    if (weights < -1e-6).any():
        raise ValueError(
            f"{file}: the skinning weights of vertex {int(np.argwhere(weights < -1e-6)[0, 0])} are negative"
        )
    sums = weights.sum(1)
    worst = int(np.abs(sums - 1).argmax())
    if abs(sums[worst] - 1) > 5e-3:
        raise ValueError(f"{file}: the skinning weights of vertex {worst} sum to {sums[worst]:.4f}, expected 1")
    return np.where(np.abs(sums - 1) > 1e-6, weights.T / sums, weights.T).T


def _is_flipped(template: Array, shapedirs: Array) -> bool:
    """Whether a hand's shape directions are its mirror image's, as in the left hand's official file.

    The first direction is the hand's size: it moves vertices away from the middle along every axis, or along none.
    """
    away, moved = template - template.mean(0), shapedirs[..., 0]
    along = lambda axes: np.corrcoef(away[:, axes].ravel(), moved[:, axes].ravel())[0, 1]  # noqa: E731
    x, yz = along([0]), along([1, 2])
    return bool(x * yz < 0 and min(abs(x), abs(yz)) > 0.2)


# ---------------------------------------------------------------------------------------------------------- keypoints


def _with_saved(body: Body, arrays: Mapping[str, Array], get: Any, file: str, columns: Sequence[int] | None) -> Body:
    """The body with the compiled points (Q pairs) that its file holds."""
    names = _text(arrays, "points_names", ())
    owner = _whole(get("points_owner", None), "points_owner", file)
    pairs = len(owner)
    bone = _whole(get("points_bone", pairs), "points_bone", file)
    for key, index, count in (("points_owner", owner, len(names)), ("points_bone", bone, len(body.joints))):
        if ((index < 0) | (index >= count)).any():
            raise ValueError(f"{file}: {key} names {index.min()} .. {index.max()}, there are {count}")
    basis = get("points_basis", None, 3 * pairs)
    if columns is not None:
        basis = np.concatenate([basis[: body.pose_width], basis[body.pose_width + np.array(columns, dtype=int)]])
    if len(basis) != len(body.basis):
        raise ValueError(f"{file}: points_basis has {len(basis)} rows, expected {len(body.basis)}")
    points = Points(
        names, torch.from_numpy(owner), torch.from_numpy(bone), _float(get("points_mass", pairs)),
        _float(get("points_template", 3 * pairs)), _float(basis),
    )  # fmt: skip
    return replace(body, points=points)


def _missing(name: str) -> str:
    kind = next((kind for kind in ("smplx", "smplh", "mano", "flame", "smal", "smpl") if kind in name.lower()), None)
    register = f"; {kind.upper()} files are had by registering at {WHERE[kind]}" if kind else ""
    known = f"{', '.join(embedded())}{nearest(name, embedded())}"
    return f"no body {name!r}: no such file, and the embedded ones are {known}{register}"
