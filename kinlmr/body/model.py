"""The body: shape and pose, forward kinematics, vertices and keypoints. Stateless tensors and pure functions.

A body of J joints and N vertices is posed by J rotation matrices and S shape numbers (SMPL, Loper et al. 2015):

    vertices at rest   v = template + shapedirs shape + posedirs (R_k - I, for every joint k but the root)
    joints at rest     q = J + J_shapedirs shape
    bones              G_k = G_parent(k) [R_k | q_k - q_parent(k)],   A_k = G_k [I | -q_k]
    vertices posed     sum_k weights_nk A_k v_n

Only what is asked for is computed. Vertices are kept planar, (3, N) instead of (N, 3): `kinlmr.body.skinning` says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import pad

from kinlmr._moved import renamed
from kinlmr.body.kinematics import Fronts, pose_bones, rotate_joint
from kinlmr.body.points import Keypoints, compile_keypoints, pose_keypoints
from kinlmr.body.skinning import skin


class Mesh(NamedTuple):
    """A posed body, of which what was not asked for by ``want=`` is empty, (..., 0, 3).

    In metres: joints (..., J, 3), vertices (..., N, 3), keypoints (..., K, 3). Every field is a tensor, as `torch.func`
    and export need.
    """

    joints: Tensor
    vertices: Tensor
    keypoints: Tensor

    @property
    def points(self) -> Tensor:
        return renamed("Mesh.points", "Mesh.keypoints", self.keypoints)


@dataclass(frozen=True, eq=False)
class Body:
    """A body model. ``body(rotations, shape)`` poses it; `kinlmr.load_body` reads one.

    ``basis`` holds the pose directions, if there are any, and then the shape directions.
    """

    name: str
    licence: str
    joints: tuple[str, ...]
    parents: tuple[int, ...]  # -1 for the root
    fronts: Fronts
    J: Tensor  # (3 J)
    J_shapedirs: Tensor  # (S, 3 J)
    template: Tensor  # (3 N), planar
    basis: Tensor  # (9 (J - 1) or 0, + S, 3 N), planar
    weights: Tensor  # (J, N)
    faces: Tensor | None = None  # (F, 3)
    hand_mean: Tensor | None = None  # (joints of the hands, 3), axis-angle
    keypoints: Keypoints | None = None

    @property
    def points(self) -> Keypoints | None:
        return renamed("Body.points", "Body.keypoints", self.keypoints)

    def __call__(
        self,
        rotations: Tensor,
        shape: Tensor | None = None,
        translation: Tensor | None = None,
        want: Sequence[str] = ("joints",),
    ) -> Mesh:
        """Pose the body; compute only what is wanted of "joints", "vertices" and "keypoints".

        rotations   (..., J, 3, 3), each relative to its joint's parent
        shape       (..., S) or fewer numbers; None for the mean shape
        translation (..., 3) in metres, or None

        Leading shapes broadcast. Gradients flow to all three, and may be differentiated again. Vertices of more bodies
        than fit one tile save only their small inputs, and are blended again on the way back. The transforms of
        `torch.func` work; forward-mode ones (jvp, jacfwd) for joints and keypoints, not for vertices. Autocast is off:
        half precision is too coarse for metres. A body with a NaN spoils no other.
        """
        if isinstance(want, str):
            raise ValueError(f"want is a tuple of names, like ({want!r},), not {want!r}")
        if "points" in want:
            want = [renamed("want='points'", "'keypoints'", "keypoints"), *(name for name in want if name != "points")]
        if unknown := set(want) - set(Mesh._fields):
            raise ValueError(f"want has {sorted(unknown)}; a Mesh has {', '.join(Mesh._fields)}")
        if "keypoints" in want and self.keypoints is None:
            raise ValueError(
                f"body {self.name!r} has no keypoints; load_body(..., keypoints=...) or with_keypoints() gives it some"
            )
        with torch.autocast(self.template.device.type, enabled=False):
            rotations, shape, translation, lead = self._flat(rotations, shape, translation)
            mesh = self._posed(rotations, shape, translation, want)
        return Mesh(*(x.reshape(*lead, *x.shape[1:]) for x in mesh))

    def _posed(self, rotations: Tensor, shape: Tensor, translation: Tensor | None, want: Sequence[str]) -> Mesh:
        """rotations (B, J, 3, 3), shape (B, s), translation (B, 3) or None -> Mesh (B, ., 3)"""
        bone_transforms, positions = pose_bones(rotations, self.joints_at_rest(shape), self.fronts)
        if translation is not None:
            positions = positions + translation[:, None]
            turn, shift = bone_transforms.split((3, 1), 2)
            bone_transforms = torch.cat([turn, shift + translation[:, :, None, None]], 2)
        joints = vertices = keypoints = positions.new_empty(len(positions), 0, 3)
        if "joints" in want:
            joints = positions
        if "vertices" in want or "keypoints" in want:
            factors = shape
            if self.pose_width:
                others = torch.cat([rotations[:, : self.root], rotations[:, self.root + 1 :]], 1)
                pose = others - torch.eye(3, dtype=rotations.dtype, device=rotations.device)
                factors = torch.cat([pose.flatten(1), shape], -1)
            if "vertices" in want:
                vertices = skin(factors, bone_transforms, self.template, self.basis, self.weights).mT
            if "keypoints" in want and self.keypoints is not None:
                keypoints = pose_keypoints(self.keypoints, factors, bone_transforms.permute(0, 3, 1, 2))
        return Mesh(joints, vertices, keypoints)

    @property
    def root(self) -> int:
        """The index of the root joint, which need not be the first."""
        return self.parents.index(-1)

    @property
    def shape_width(self) -> int:
        """S, the shape numbers that the body knows."""
        return len(self.J_shapedirs)

    @property
    def pose_width(self) -> int:
        """9 (J - 1) where the body has pose directions, else 0."""
        return len(self.basis) - self.shape_width

    def joints_at_rest(self, shape: Tensor) -> Tensor:
        """shape (B, s <= S) -> joints (B, J, 3) of the T-pose."""
        return torch.addmm(self.J, shape, self.J_shapedirs[: shape.shape[-1]]).unflatten(-1, (-1, 3))

    def rotate_root(
        self, rotations: Tensor, shape: Tensor | None, translation: Tensor | None, turn: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Turn the posed body about the world's origin by ``turn`` (..., 3, 3) -> (rotations, translation).

        The root joint rotates about itself, and it is not at the origin: so the translation changes too.
        """
        if turn.shape[-2:] != (3, 3):
            raise ValueError(f"turn has shape (..., 3, 3), not {tuple(turn.shape)}")
        wide = _broadcast(rotations, [turn.shape[:-2], rotations.shape[:-3]])
        rotations = rotations.expand(*wide, *rotations.shape[-3:])
        rotations, shape, translation, lead = self._flat(rotations, shape, translation)
        with torch.autocast(self.template.device.type, enabled=False):
            pelvis = self.joints_at_rest(shape)[:, self.root]
            position = pelvis if translation is None else pelvis + translation
            turn = turn.to(rotations).expand(*lead, 3, 3).reshape(-1, 3, 3)
            moved = (turn @ position[..., None])[..., 0] - pelvis
            turned = rotate_joint(rotations, self.root, turn)
        return turned.reshape(*lead, *turned.shape[1:]), moved.reshape(*lead, 3)

    def with_points(self, names: Sequence[str], vertices: Tensor | None = None, joints: Tensor | None = None) -> Body:
        return renamed("Body.with_points", "Body.with_keypoints", self.with_keypoints)(names, vertices, joints)

    def with_keypoints(
        self, names: Sequence[str], vertices: Tensor | None = None, joints: Tensor | None = None
    ) -> Body:
        """The body with K keypoints, rows of a regressor over vertices (K, N), over joints (K, J), or over both."""
        count, total = len(self.joints), self.weights.shape[1]
        if not names or (vertices is None and joints is None):
            raise ValueError("keypoints need names, and rows over the vertices, over the joints, or both")
        stacked = []
        for what, rows, width in (("vertices", vertices, total), ("joints", joints, count)):
            rows = torch.zeros(len(names), width) if rows is None else torch.as_tensor(rows)
            if rows.shape != (len(names), width):
                raise ValueError(f"rows over {what} have shape {tuple(rows.shape)}, expected {(len(names), width)}")
            if not rows.isfinite().all():
                raise ValueError(f"rows over {what} are not finite")
            stacked.append(rows.to(self.template.device, torch.float64))
        # a joint at rest is one more point of the surface, which its own bone alone holds
        template = torch.cat([self.template.view(3, -1), rearrange(self.J, "(j c) -> c j", c=3)], 1)
        joints_move = pad(rearrange(self.J_shapedirs, "s (j c) -> s c j", c=3), (0, 0, 0, 0, self.pose_width, 0))
        basis = torch.cat([self.basis.unflatten(-1, (3, -1)), joints_move], -1)
        weights = torch.cat([self.weights, torch.eye(count).to(self.weights)], 1)
        return replace(self, keypoints=compile_keypoints(names, torch.cat(stacked, 1), template, basis, weights))

    def to(self, *target: Any, **options: Any) -> Body:
        """The body on another device or in another floating type, as `torch.Tensor.to` says it."""

        def move(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.to(*target, **options) if value.is_floating_point() else value.to(
                    torch.empty(0, device=value.device).to(*target, **options).device
                )  # fmt: skip
            if isinstance(value, Fronts):
                return Fronts(
                    move(value.parents), move(value.order), tuple(map(move, value.above)), move(value.restore)
                )
            if is_dataclass(value) and not isinstance(value, type):
                return replace(value, **{f.name: move(getattr(value, f.name)) for f in fields(value)})
            return value

        moved: Body = move(self)
        return moved

    def __repr__(self) -> str:
        keypoints = f", {len(self.keypoints.names)} keypoints" if self.keypoints else ""
        return (
            f"Body({self.name}: {len(self.joints)} joints, {self.weights.shape[1]} vertices, {self.shape_width} shape "
            f"numbers, {'with' if self.pose_width else 'no'} pose directions{keypoints}; {self.licence})"
        )

    def _flat(
        self, rotations: Tensor, shape: Tensor | None, translation: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None, tuple[int, ...]]:
        """Inputs with one common leading axis, and the leading shape that they had together."""
        count = len(self.joints)
        for what, value in (("rotations", rotations), ("shape", shape), ("translation", translation)):
            if value is not None and not isinstance(value, Tensor):
                raise TypeError(f"{what} must be a torch.Tensor, not {type(value).__name__}; use torch.as_tensor")
        if rotations.shape[-3:] != (count, 3, 3):
            raise ValueError(
                f"body {self.name!r} takes rotation matrices (..., {count}, 3, 3), not {tuple(rotations.shape)}; "
                "kinlmr.ROTATIONS[...].to_matrix makes them"
            )
        shape = rotations.new_zeros(0) if shape is None else shape
        if not shape.ndim:
            raise ValueError(f"shape has at least one axis (..., {self.shape_width}), not none")
        if shape.shape[-1] > self.shape_width:
            raise ValueError(f"{shape.shape[-1]} shape numbers for body {self.name!r}, which knows {self.shape_width}")
        if translation is not None and translation.shape[-1:] != (3,):
            raise ValueError(f"translation has shape (..., 3), not {tuple(translation.shape)}")
        for what, value in (("rotations", rotations), ("shape", shape), ("translation", translation)):
            if value is not None and (value.dtype != self.template.dtype or value.device != self.template.device):
                raise ValueError(
                    f"{what} are {value.dtype} on {value.device}, body {self.name!r} is {self.template.dtype} on "
                    f"{self.template.device}; move one with .to()"
                )
        leads = [rotations.shape[:-3], shape.shape[:-1], *([] if translation is None else [translation.shape[:-1]])]
        try:
            lead = _broadcast(rotations, leads)
        except RuntimeError:
            raise ValueError(f"leading shapes {', '.join(map(str, map(tuple, leads)))} do not broadcast") from None
        size = lead.numel()
        return (
            rotations.expand(*lead, count, 3, 3).reshape(size, count, 3, 3),
            shape.expand(*lead, shape.shape[-1]).reshape(size, shape.shape[-1]),
            None if translation is None else translation.expand(*lead, 3).reshape(size, 3),
            tuple(lead),
        )


def _broadcast(like: Tensor, shapes: Sequence[torch.Size]) -> torch.Size:
    """The shape that shapes broadcast to. `torch.broadcast_shapes` does so too, but imports sympy, which takes long."""
    return torch.broadcast_tensors(*map(like.new_empty, shapes))[0].shape
