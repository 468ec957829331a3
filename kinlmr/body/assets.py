"""Body files: what is read of them, what is refused, and the free body that comes along.

Official files (SMPL, SMPL-H, SMPL-X, MANO, FLAME, SMAL; .pkl or .npz) are read without chumpy and without running
anything in them. `save_body` writes the clean .npz that loads in a moment, so loading and saving is the conversion.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from torch import Tensor

from kinlmr._moved import renamed
from kinlmr.body.assembly import HAND_MEANS, SITES, assemble
from kinlmr.body.model import Body
from kinlmr.body.points import keypoint_sets, regressor_rows, set_rows
from kinlmr.files import Array, about, nearest, read_npz, read_pickle, write_npz

KEYS = (
    "v_template", "shapedirs", "posedirs", "weights", "weights_index", "weights_value", "J_regressor", "J",
    "J_shapedirs", "kintree_table", "parents", "joint_names", "f", *HAND_MEANS, "license", "name",
    "points_names", "points_owner", "points_bone", "points_mass", "points_template", "points_basis",
)  # fmt: skip


def load_body(
    source: str | os.PathLike[str] = "anny24",
    keypoints: str | os.PathLike[str] | Array | None = None,
    columns: Sequence[int] | None = None,
    *,
    points: str | os.PathLike[str] | Array | None = None,
) -> Body:
    """A body: an embedded one by name, or a body file by path.

    source     "anny24" (13,492 vertices; CC0, 24 joints with SMPL's names and tree), "anny24_lo1229", "anny24_lo369";
               or the path of an official .pkl or .npz, or of a file that `save_body` wrote
    keypoints  a keypoint set by name ("coco17", "mediapipe33", "body25", "halpe26", "h36m17", "lsp14", "smpl24"), or a
               regressor over the vertices (K, N): an array, or the path of a .npy file. Sets with points of the face,
               hands or feet fit the embedded bodies only
    columns    which shape directions to keep, in order; None for all. SMPL-X with ten of shape and ten of expression:
               ``[*range(10), *range(300, 310)]``
    points     the old name of ``keypoints``

    A FileNotFoundError names what there is; a ValueError the array of the file that is damaged, missing or refused.

    >>> import torch
    >>> body = load_body("anny24", keypoints="coco17")
    >>> mesh = body(torch.eye(3).expand(2, 24, 3, 3), torch.zeros(2, 10), want=("vertices", "keypoints"))
    >>> mesh.vertices.shape, mesh.keypoints.shape
    (torch.Size([2, 13492, 3]), torch.Size([2, 17, 3]))
    """
    if points is not None:
        keypoints = renamed("load_body(points=)", "keypoints=", points)
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
    if keypoints is None:
        return body
    vertices = body.weights.shape[1]
    if isinstance(keypoints, str) and keypoints in keypoint_sets():
        return body.with_keypoints(keypoint_sets()[keypoints], *set_rows(keypoints, body.name, body.joints, vertices))
    with about(keypoints) if isinstance(keypoints, str | os.PathLike) else nullcontext():
        rows = regressor_rows(keypoints, vertices)
        return body.with_keypoints([f"point{i}" for i in range(len(rows))], rows)


def save_body(body: Body, path: str | os.PathLike[str]) -> None:
    """Write a body, its keypoints too, as the .npz that `load_body` reads fastest; whole or not at all."""
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
    if body.keypoints:
        k = body.keypoints
        arrays |= {
            "points_names": k.names, "points_owner": k.owner, "points_bone": k.bone, "points_mass": k.mass,
            "points_template": k.template, "points_basis": k.basis,
        }  # fmt: skip
    plain: dict[str, Any] = {
        k: v.detach().cpu().numpy() if isinstance(v, Tensor) else np.asarray(v)
        for k, v in arrays.items()
        if v is not None
    }
    write_npz(path, **plain)


def embedded() -> tuple[str, ...]:
    """The names of the bodies that come with kinlmr."""
    folder = resources.files("kinlmr") / "bodies"
    return tuple(sorted(file.name[:-4] for file in folder.iterdir() if file.name.endswith(".npz")))


def _missing(name: str) -> str:
    kind = next((kind for kind in ("smplx", "smplh", "mano", "flame", "smal", "smpl") if kind in name.lower()), None)
    register = f"; {kind.upper()} files are had by registering at {SITES[kind]}" if kind else ""
    known = f"{', '.join(embedded())}{nearest(name, embedded())}"
    return f"no body {name!r}: no such file, and the embedded ones are {known}{register}"
