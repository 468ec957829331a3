"""The body: shape and pose blending, forward kinematics, skinning, keypoints. Stateless tensors and pure functions.

A body of J joints and N vertices is posed by J rotation matrices and S shape numbers (SMPL, Loper et al. 2015):

    vertices at rest   v = template + shapedirs shape + posedirs (R_1 - I, ..., R_J-1 - I)
    joints at rest     q = J + J_shapedirs shape
    bones              G_k = G_parent(k) [R_k | q_k - q_parent(k)],   A_k = G_k [I | -q_k]
    vertices posed     sum_k weights_nk A_k v_n

Vertices are kept planar, (3, N) instead of (N, 3), so that blending is one matrix product and skinning is a matrix
product and three multiply-adds. Only what is asked for is computed, in tiles of bodies that stay in cache.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import pad

# Numbers in the two workspaces: blended vertices, and each vertex's transform. On a CPU they stay in cache.
TILES_CPU = 1_330_000, 330_000
TILES_CUDA = 100_000_000, 400_000_000


class Mesh(NamedTuple):
    """A posed body in metres: joints (..., J, 3), vertices (..., N, 3), points (..., K, 3); None if not asked for.

    (The types say Tensor, for who asks for a thing knows that it is there.)
    """

    joints: Tensor
    vertices: Tensor
    points: Tensor


class Fronts(NamedTuple):
    """A tree by depth: joints in that order, each front's places of its parents in the front above, and the way back.

    ``parents`` counts from 1, with 0 for what the root hangs on.
    """

    parents: Tensor
    order: Tensor
    above: tuple[Tensor, ...]
    restore: Tensor


@dataclass(frozen=True, eq=False)
class Points:
    """K keypoints as Q (point, bone) pairs, compiled from what is linear in vertices and joints at rest. Exact.

    A point that mixes vertices of several bones is a sum of one rigid share per bone: pair i adds
    A_bone(i) (template_i + basis_i f, mass_i) to point owner(i).
    """

    names: tuple[str, ...]
    owner: Tensor  # (Q)
    bone: Tensor  # (Q)
    mass: Tensor  # (Q)
    template: Tensor  # (3 Q), planar
    basis: Tensor  # (9 (J - 1) or 0, + S, 3 Q), planar


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
    points: Points | None = None

    def __call__(
        self,
        rotations: Tensor,
        shape: Tensor | None = None,
        translation: Tensor | None = None,
        want: Sequence[str] = ("joints",),
    ) -> Mesh:
        """Pose the body; compute only what is wanted of "joints", "vertices" and "points".

        rotations   (..., J, 3, 3), each relative to its joint's parent
        shape       (..., S) or fewer numbers; None for the mean shape
        translation (..., 3) in metres, or None

        Leading shapes broadcast. Gradients flow to all three, and may be differentiated again. Vertices of more bodies
        than fit one tile save only their small inputs, and are blended again on the way back; the transforms of
        `torch.func` reach joints and points, not vertices. Autocast is off: half a millimetre is not half a metre.
        """
        if isinstance(want, str):
            raise ValueError(f"want is a tuple of names, like ({want!r},), not {want!r}")
        if unknown := set(want) - set(Mesh._fields):
            raise ValueError(f"want has {sorted(unknown)}; a Mesh has {', '.join(Mesh._fields)}")
        if "points" in want and self.points is None:
            raise ValueError(
                f"body {self.name!r} has no points; load_body(..., points=...) or with_points() gives it some"
            )
        with torch.autocast(self.template.device.type, enabled=False):
            rotations, shape, translation, lead = self._flat(rotations, shape, translation)
            mesh = self._posed(rotations, shape, translation, want)
        return Mesh(*(x if x is None else x.reshape(*lead, *x.shape[1:]) for x in mesh))

    def _posed(self, rotations: Tensor, shape: Tensor, translation: Tensor | None, want: Sequence[str]) -> Mesh:
        """rotations (B, J, 3, 3), shape (B, s), translation (B, 3) or None -> Mesh (B, ., 3)"""
        rest = self.joints_at_rest(shape)
        turns, places = forward_kinematics(rotations, self.offsets(rest), self.fronts)
        if translation is not None:
            places = places + translation[:, None]
        vertices = points = None
        if "vertices" in want or "points" in want:
            bones = torch.cat([turns, places[..., None] - turns @ rest[..., None]], -1)  # (B, J, 3, 4)
            pose = (rotations[:, 1:] - torch.eye(3, dtype=rotations.dtype, device=rotations.device)).flatten(1)
            factors = torch.cat([pose, shape], -1) if self.pose_width else shape
            if "vertices" in want:
                vertices = _vertices(factors, bones, self.template, self.basis, self.weights).mT
            if "points" in want and self.points is not None:
                points = _points(factors, bones, self.points)
        joints = places if "joints" in want else None
        return Mesh(joints, vertices, points)  # type: ignore[arg-type]

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

    def offsets(self, rest: Tensor) -> Tensor:
        """Joints at rest (B, J, 3) -> each joint relative to its parent, the root to the origin."""
        return rest - pad(rest, (0, 0, 1, 0)).index_select(1, self.fronts.parents)

    def rotate_root(
        self, rotations: Tensor, shape: Tensor | None, translation: Tensor | None, turn: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Turn the posed body about the world's origin by ``turn`` (..., 3, 3) -> (rotations, translation).

        The root joint turns about itself, and it does not stand at the origin: so the translation moves too.
        """
        if turn.shape[-2:] != (3, 3):
            raise ValueError(f"turn has shape (..., 3, 3), not {tuple(turn.shape)}")
        wide = torch.broadcast_shapes(turn.shape[:-2], rotations.shape[:-3])
        rotations = rotations.expand(*wide, *rotations.shape[-3:])
        rotations, shape, translation, lead = self._flat(rotations, shape, translation)
        with torch.autocast(self.template.device.type, enabled=False):
            pelvis = self.joints_at_rest(shape)[:, 0]
            place = pelvis if translation is None else pelvis + translation
            turn = turn.to(rotations).expand(*lead, 3, 3).reshape(-1, 3, 3)
            moved = (turn @ place[..., None])[..., 0] - pelvis
            turned = torch.cat([(turn @ rotations[:, 0])[:, None], rotations[:, 1:]], 1)
        return turned.reshape(*lead, *turned.shape[1:]), moved.reshape(*lead, 3)

    def with_points(self, names: Sequence[str], vertices: Tensor | None = None, joints: Tensor | None = None) -> Body:
        """The body with K keypoints, rows of a regressor over vertices (K, N), over joints (K, J), or over both."""
        return replace(self, points=compile_points(self, names, vertices, joints))

    def to(self, *target: Any, **options: Any) -> Body:
        """The body on another device or in another floating type, as `torch.Tensor.to` says it."""

        def move(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.to(*target, **options) if value.is_floating_point() else value.to(
                    torch.empty(0).to(*target, **options).device
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
        points = f", {len(self.points.names)} points" if self.points else ""
        return (
            f"Body({self.name}: {len(self.joints)} joints, {self.weights.shape[1]} vertices, {self.shape_width} shape "
            f"numbers, {'with' if self.pose_width else 'no'} pose directions{points}; {self.licence})"
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
            lead = torch.broadcast_shapes(*leads)
        except RuntimeError:
            raise ValueError(f"leading shapes {', '.join(map(str, map(tuple, leads)))} do not broadcast") from None
        size = lead.numel()
        return (
            rotations.expand(*lead, count, 3, 3).reshape(size, count, 3, 3),
            shape.expand(*lead, shape.shape[-1]).reshape(size, shape.shape[-1]),
            None if translation is None else translation.expand(*lead, 3).reshape(size, 3),
            tuple(lead),
        )


# --------------------------------------------------------------------------------------------------------- kinematics


def fronts(parents: Sequence[int]) -> Fronts:
    """A tree, as the parents' indices with -1 for the root in any order, cut into fronts of equal depth."""
    depth: dict[int, int] = {}
    for joint in range(len(parents)):
        path = [joint]
        while path[-1] not in depth and parents[path[-1]] >= 0:
            path.append(parents[path[-1]])
        for j in reversed(path):
            depth.setdefault(j, 0 if parents[j] < 0 else depth[parents[j]] + 1)
    levels: list[list[int]] = [[] for _ in range(max(depth.values()) + 1)]
    for joint in range(len(parents)):
        levels[depth[joint]].append(joint)
    order = torch.tensor([joint for level in levels for joint in level])
    above = tuple(
        torch.tensor([{j: i for i, j in enumerate(upper)}[parents[joint]] for joint in level])
        for upper, level in itertools.pairwise(levels)
    )
    return Fronts(torch.tensor(parents) + 1, order, above, order.argsort())


def forward_kinematics(rotations: Tensor, offsets: Tensor, tree: Fronts) -> tuple[Tensor, Tensor]:
    """Chain local rotations and offsets along a tree, one batched product per depth.

    rotations (B, J, 3, 3) and offsets (B, J, 3), each relative to the parent -> world rotations (B, J, 3, 3) and
    positions (B, J, 3)
    """
    bottom = torch.eye(4, dtype=rotations.dtype, device=rotations.device)[3:].expand(*rotations.shape[:2], 1, 4)
    local = torch.cat([torch.cat([rotations, offsets[..., None]], -1), bottom], -2).index_select(1, tree.order)
    first, *rest = local.split([1, *map(len, tree.above)], 1)
    world = [first]
    for front, above in zip(rest, tree.above, strict=True):
        world.append(world[-1].index_select(1, above) @ front)
    joined = torch.cat(world, 1).index_select(1, tree.restore)
    return joined[..., :3, :3], joined[..., :3, 3]


# ----------------------------------------------------------------------------------------------------------- skinning


def _vertices(factors: Tensor, bones: Tensor, template: Tensor, basis: Tensor, weights: Tensor) -> Tensor:
    """factors (B, .), bones (B, J, 3, 4), template (3 N), basis (., 3 N), weights (J, N) -> vertices (B, 3, N)."""
    basis = basis[: factors.shape[1]]
    planes = bones.permute(0, 2, 3, 1)
    if torch.compiler.is_compiling() or any(x.requires_grad for x in (template, basis, weights)):
        return _skin(torch.addmm(template, factors, basis).unflatten(-1, (3, -1)), planes, weights)
    return _Skin.apply(factors, planes, template, basis, weights)


def _skin(rest: Tensor, planes: Tensor, weights: Tensor) -> Tensor:
    """rest (B, 3, N), planes (B, 3, 4, J), weights (J, N) -> posed (B, 3, N)."""
    x, y, z, shift = (planes @ weights).unbind(2)
    posed = torch.addcmul(shift, x, rest[:, None, 0])
    return torch.addcmul(torch.addcmul(posed, y, rest[:, None, 1]), z, rest[:, None, 2])


class _Skin(Function):
    """Blend and skin, tile by tile through two workspaces; saves its inputs, and blends again on the way back.

    Where all bodies fit one tile, their blended vertices are kept instead.
    """

    @staticmethod
    def forward(ctx: Any, factors: Tensor, planes: Tensor, template: Tensor, basis: Tensor, weights: Tensor) -> Tensor:
        out = factors.new_empty(len(factors), 3, weights.shape[1])
        many, few = _tiles(out)
        blended, turned = out.new_empty(many, *out.shape[1:]), out.new_empty(few, 3, 4, out.shape[2])
        for i in range(0, len(out), many):
            rest = _blend(factors[i : i + many], template, basis, blended)
            for k in range(0, len(rest), few):
                v, posed = rest[k : k + few, None], out[i + k : i + min(k + few, len(rest))]
                t = _mix(planes[i + k : i + k + len(v)], weights, turned)
                torch.addcmul(t[:, :, 3], t[:, :, 0], v[:, :, 0], out=posed)
                posed.addcmul_(t[:, :, 1], v[:, :, 1]).addcmul_(t[:, :, 2], v[:, :, 2])
        ctx.save_for_backward(factors, planes, template, basis, weights, blended if many == len(out) else None)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(grad.device.type, enabled=False):
            return (*_skin_gradients(grad, ctx.saved_tensors, ctx.needs_input_grad[:2]), None, None, None)


def _skin_gradients(
    grad: Tensor, saved: tuple[Tensor, ...], needed: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """What a gradient (B, 3, N) of the vertices says to factors (B, .) and planes (B, 3, 4, J)."""
    factors, planes, template, basis, weights, kept = saved
    if torch.is_grad_enabled():  # this gradient will itself be differentiated: in plain operations, then
        posed = _skin(torch.addmm(template, factors, basis).unflatten(-1, (3, -1)), planes, weights)
        inputs = [x for x, need in zip((factors, planes), needed, strict=True) if need]
        found = iter(torch.autograd.grad(posed, inputs, grad, create_graph=True))
        return next(found) if needed[0] else None, next(found) if needed[1] else None
    d_factors, d_planes = torch.empty_like(factors), planes.new_empty(planes.shape)
    many, few = _tiles(grad)
    blended, turned = grad.new_empty(many, *grad.shape[1:]), grad.new_empty(few, 3, 4, grad.shape[2])
    for i in range(0, len(grad), many):
        rest = _blend(factors[i : i + many], template, basis, blended) if kept is None else blended.copy_(kept)
        for k in range(0, len(rest), few):
            v = rest[k : k + few]
            here = slice(i + k, i + k + len(v))
            g, outer = grad[here].contiguous(), turned[: len(v)]
            torch.mul(g[:, :, None], v[:, None], out=outer[:, :, :3])
            outer[:, :, 3] = g
            d_planes[here] = outer @ weights.T
            t = _mix(planes[here], weights, turned)
            torch.mul(t[:, 0, :3], g[:, None, 0], out=v)  # the gradient of v, in v's place
            v.addcmul_(t[:, 1, :3], g[:, None, 1]).addcmul_(t[:, 2, :3], g[:, None, 2])
        flat = rest.flatten(1)
        d_factors[i : i + many] = flat @ basis.T if len(rest) < 4 else (basis @ flat.T).T  # whichever BLAS likes
    return d_factors, d_planes


def _blend(factors: Tensor, template: Tensor, basis: Tensor, out: Tensor) -> Tensor:
    """Vertices at rest: template (3 N) + factors (B, .) @ basis (., 3 N), into out (B or more, 3, N) -> (B, 3, N)."""
    out = out[: len(factors)]
    torch.addmm(template, factors, basis, out=out.view(len(out), -1))
    return out


def _mix(planes: Tensor, weights: Tensor, out: Tensor) -> Tensor:
    """Every vertex's own transform: planes (B, 3, 4, J) @ weights (J, N), into out."""
    out = out[: len(planes)]
    torch.mm(planes.reshape(-1, len(weights)), weights, out=out.view(-1, out.shape[-1]))
    return out


def _tiles(x: Tensor) -> tuple[int, int]:
    """For x (B, 3, N): how many bodies to blend at once, and how many of these to skin at once."""
    blend, skin = TILES_CUDA if x.is_cuda else TILES_CPU
    many = min(max(1, blend // (3 * x.shape[-1])), max(1, len(x)))
    return many, min(max(1, skin // (12 * x.shape[-1])), many)


# ---------------------------------------------------------------------------------------------------------- keypoints


def compile_points(body: Body, names: Sequence[str], vertices: Tensor | None, joints: Tensor | None) -> Points:
    """Compile K keypoints, linear in vertices by (K, N) and in joints by (K, J), to (point, bone) pairs."""
    count, total = len(body.joints), body.weights.shape[1]
    if not names or (vertices is None and joints is None):
        raise ValueError("points need names, and rows over the vertices, over the joints, or both")
    vertices, joints = (None if rows is None else torch.as_tensor(rows) for rows in (vertices, joints))
    for what, rows, width in (("vertices", vertices, total), ("joints", joints, count)):
        if rows is not None and rows.shape != (len(names), width):
            raise ValueError(f"rows over {what} have shape {tuple(rows.shape)}, expected {(len(names), width)}")
        if rows is not None and not rows.isfinite().all():
            raise ValueError(f"rows over {what} are not finite")
    weights, template, basis = body.weights.double(), body.template.double(), body.basis.double()
    template, basis = template.view(3, -1), basis.unflatten(-1, (3, -1))
    rest = body.J.double().view(-1, 3)
    rest_basis = torch.zeros(len(body.basis), count, 3, dtype=torch.float64, device=weights.device)
    rest_basis[body.pose_width :] = body.J_shapedirs.double().unflatten(-1, (-1, 3))

    pairs: list[tuple[int, int, Tensor, Tensor, Tensor]] = []
    for point in range(len(names)):
        shares: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        if vertices is not None:
            row = vertices[point].to(weights)
            seen = row.nonzero()[:, 0]
            for bone in weights[:, seen].any(1).nonzero()[:, 0].tolist():
                share = row[seen] * weights[bone, seen]
                shares[bone] = share.sum(), template[:, seen] @ share, basis[..., seen] @ share
        if joints is not None:
            for bone in joints[point].nonzero()[:, 0].tolist():
                share = joints[point, bone].to(weights)
                mine = share, share * rest[bone], share * rest_basis[:, bone]
                before = shares.get(bone)
                shares[bone] = mine if before is None else tuple(a + b for a, b in zip(before, mine, strict=True))  # type: ignore[assignment]
        if not shares:
            raise ValueError(f"point {names[point]!r} is given by no vertex and no joint")
        pairs += [(point, bone, *share) for bone, share in sorted(shares.items())]
    owner, bone, mass, places, bases = zip(*pairs, strict=True)
    like = body.template
    return Points(
        names=tuple(names),
        owner=torch.tensor(owner, device=like.device),
        bone=torch.tensor(bone, device=like.device),
        mass=torch.stack(mass).to(like),
        template=torch.stack(places, -1).flatten().to(like),
        basis=torch.stack(bases, -1).flatten(1).to(like),
    )


def _points(factors: Tensor, bones: Tensor, points: Points) -> Tensor:
    """factors (B, .), bones (B, J, 3, 4) -> points (B, K, 3)."""
    rest = torch.addmm(points.template, factors, points.basis[: factors.shape[1]]).unflatten(-1, (3, -1))
    mine = bones.index_select(1, points.bone)  # (B, Q, 3, 4)
    held = torch.cat([rest.mT, points.mass[:, None].expand(len(rest), -1, 1)], -1)
    posed = (mine @ held[..., None])[..., 0]
    out = posed.new_zeros(len(posed), len(points.names), 3)
    return out.index_add(1, points.owner, posed)
