"""Keypoints on a body: the sets by name, and keypoints compiled to (point, bone) pairs.

A keypoint of a body is linear in its vertices and joints at rest: a row of weights over both. Compiled, it needs no
vertex at all. Nothing here knows `Body`.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from kinlmr.files import Array, nearest, read_npy

# --------------------------------------------------------------------------------------------------------------- sets


def keypoint_sets() -> dict[str, tuple[str, ...]]:
    """The keypoint sets by name, each with its points' names in order."""
    named = lambda point: point if isinstance(point, str) else next(iter(point))  # noqa: E731
    return {name: tuple(map(named, points)) for name, points in read_sets()["sets"].items()}


def set_rows(name: str, body: str, joints: Sequence[str], vertices: int) -> tuple[Tensor, Tensor]:
    """A named set on a body of that name and those joints: K rows over its vertices (K, N) and its joints (K, J).

    A point is a joint, a point of the surface (`keypoints.json` has those of the embedded bodies), or a mean of some.
    """
    data = read_sets()
    surface = data["surface"].get(body, {})
    points = data["sets"][name]
    over_vertices = torch.zeros(len(points), vertices, dtype=torch.float64)
    over_joints = torch.zeros(len(points), len(joints), dtype=torch.float64)
    for row, point in enumerate(points):
        made_of = [point] if isinstance(point, str) else next(iter(point.values()))
        for part in made_of:
            if part in joints:
                over_joints[row, joints.index(part)] = 1 / len(made_of)
            elif part in surface:
                index, weight = surface[part]
                over_vertices[row, index] = torch.tensor(weight, dtype=torch.float64) / len(made_of)
            else:
                raise ValueError(
                    f"body {body!r} has no joint and no surface point {part!r}, which {name} needs; "
                    "give keypoints= a regressor over its vertices"
                )
    return over_vertices, over_joints


def regressor_rows(regressor: str | os.PathLike[str] | Array, vertices: int) -> Tensor:
    """The rows (K, N) of a regressor: an array, or the path of the .npy file that holds it."""
    if isinstance(regressor, str | os.PathLike):
        name = os.fspath(regressor)
        if not Path(name).is_file():
            sets = keypoint_sets()
            raise FileNotFoundError(
                f"no keypoint set and no file {name!r}; the sets are {', '.join(sets)}{nearest(name, sets)}"
            )
        regressor = read_npy(name)
    rows = np.asarray(regressor)
    if rows.ndim != 2 or rows.shape[1] != vertices or rows.dtype.kind not in "biuf":
        raise ValueError(f"a regressor has numbers of shape (K, {vertices}), not {rows.dtype} of {rows.shape}")
    if not np.isfinite(rows).all():
        raise ValueError("a regressor of numbers that are not finite")
    return torch.from_numpy(rows.astype(np.float64))


@functools.cache
def read_sets() -> dict[str, Any]:
    """keypoints.json: what the points of each set are made of, and the embedded bodies' surface points."""
    text = (resources.files("kinlmr") / "bodies" / "keypoints.json").read_text("utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


# ------------------------------------------------------------------------------------------------------ on a body


@dataclass(frozen=True, eq=False)
class Keypoints:
    """K keypoints as Q (point, bone) pairs, compiled from what is linear in vertices and joints at rest. Exact.

    A point that mixes vertices of several bones is a sum of one rigid share per bone: pair i adds
    A_bone(i) (template_i + basis_i f, mass_i) to point owner(i), where f are the pose and shape factors.
    """

    names: tuple[str, ...]
    owner: Tensor  # (Q)
    bone: Tensor  # (Q)
    mass: Tensor  # (Q)
    template: Tensor  # (3 Q), planar
    basis: Tensor  # (9 (J - 1) or 0, + S, 3 Q), planar


def compile_keypoints(
    names: Sequence[str], rows: Tensor, template: Tensor, basis: Tensor, weights: Tensor
) -> Keypoints:
    """Compile K keypoints to (point, bone) pairs, of the template's type.

    rows (K, M) over M points that bones hold, such as a body's vertices and joints: at rest they are at
    template (3, M) + basis (D, 3, M) times D factors, and weights (J, M) say which bone holds how much of them.
    """
    if len(names) != len(rows) or not names:
        raise ValueError(f"{len(names)} names of keypoints for {len(rows)} rows; give one for each, and at least one")
    kind, used = template.dtype, rows.any(0)
    rows, template, basis, weights = (x[..., used].double() for x in (rows, template, basis, weights))
    pairs: list[tuple[int, int, Tensor]] = []
    for point, row in enumerate(rows):
        shares = row * weights  # (J, M): what each bone holds of the point
        bones = shares.any(1).nonzero()[:, 0].tolist()
        if not bones:
            raise ValueError(f"point {names[point]!r} is given by no vertex and no joint; its row is zero")
        pairs += [(point, bone, shares[bone]) for bone in bones]
    owner, bone, shares = zip(*pairs, strict=True)
    held = torch.stack(shares, 1)  # (M, Q)
    return Keypoints(
        names=tuple(names),
        owner=torch.tensor(owner, device=template.device),
        bone=torch.tensor(bone, device=template.device),
        mass=held.sum(0).to(kind),
        template=rearrange(template @ held, "c q -> (c q)").to(kind),
        basis=rearrange(basis @ held, "d c q -> d (c q)").to(kind),
    )


def pose_keypoints(keypoints: Keypoints, factors: Tensor, bone_transforms: Tensor) -> Tensor:
    """Factors (B, D or fewer), bone transforms (B, J, 3, 4) -> keypoints (B, K, 3)."""
    rest = torch.addmm(keypoints.template, factors, keypoints.basis[: factors.shape[1]]).unflatten(-1, (3, -1))
    own = bone_transforms.index_select(1, keypoints.bone)  # (B, Q, 3, 4)
    held = torch.cat([rest.mT, keypoints.mass[:, None].expand(len(rest), -1, 1)], -1)
    posed = (own @ held[..., None])[..., 0]
    out = posed.new_zeros(len(posed), len(keypoints.names), 3)
    return out.index_add(1, keypoints.owner, posed)
