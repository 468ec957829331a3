"""Rotation representations: R numbers that stand for a rotation matrix, as records of pure functions.

Each record maps (..., R) numbers to (..., 3, 3) matrices that act on columns, and back. Every function is exact and
smooth where the representation is. Where it is not (angle pi, a zero or parallel input) a finite input decodes to some
rotation, with finite first and second derivatives, and a gradient of zero from what carries no information. Vectors
shorter than `SHORT`, or closer to parallel, get the gradient of vectors that are not: a gradient grows as 1 / length,
and one tiny vector would drown a batch. Half precision is computed in float32; a NaN stays in its rotation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kinlmr import _moved

TINY = 1e-18  # a vector of smaller numbers has no direction
SHORT = 1e-3  # the length, and the sine of an angle, below which a gradient stops growing
LONG = 1e18  # radians; longer rotation vectors, whose angle no float can tell, are cut to this


class Rotation(NamedTuple):
    """One way to write a rotation: its name, its R numbers, which of them mean "no rotation", and the two maps."""

    name: str
    dimension: int
    identity: tuple[float, ...]
    to_matrix: Callable[[Tensor], Tensor]
    from_matrix: Callable[[Tensor], Tensor]


# -------------------------------------------------------------------------------------------------------- axis-angle


def axis_angle_to_matrix(r: Tensor) -> Tensor:
    """Rodrigues' formula. r (..., 3) axis times angle in radians -> (..., 3, 3).

    cos t I + a [r] + b r r^T with a = sin t / t and b = (1 - cos t) / t^2 = (sin(t/2) / (t/2))^2 / 2, where t = |r|.
    """
    r = _checked(r, 3, "axis-angle")
    r = r * (LONG / r.detach().abs().amax(-1, keepdim=True)).clamp_max(1)
    square = (r * r).sum(-1, keepdim=True)
    a, half = _sinc(torch.stack((square, square / 4))).unbind()
    b = half * half / 2
    return rodrigues((1 - b * square)[..., 0], a * r, b * r, r)


def matrix_to_axis_angle(m: Tensor) -> Tensor:
    """The rotation vector of a matrix. m (..., 3, 3) -> (..., 3) radians, at most pi long."""
    w, v = matrix_to_quaternion(m).split((1, 3), -1)
    square = (v * v).sum(-1, keepdim=True)
    small = square < 1e-3
    length = torch.where(small, 1.0, square).sqrt()
    # asin(n) / n near zero, where atan2 has lost its digits and the square root its gradient
    series = 1 + square * (
        1 / 6 + square * (3 / 40 + square * (15 / 336 + square * (105 / 3456 + square * 945 / 42240)))
    )
    return 2 * v * torch.where(small, series, torch.atan2(length, w) / length)


def rodrigues(cosine: Tensor, skew: Tensor, one: Tensor, two: Tensor) -> Tensor:
    """cos I + [skew] + one two^T, of a number (...) and three vectors (..., 3) -> (..., 3, 3)."""
    x, y, z = skew.unbind(-1)
    rest = torch.stack((cosine, -z, y, z, cosine, -x, -y, x, cosine), -1).unflatten(-1, (3, 3))
    return torch.addcmul(rest, one[..., None], two[..., None, :])


def _sinc(square: Tensor) -> Tensor:
    """sin t / t as a smooth function of t^2."""
    small = square < 1e-3
    t = torch.where(small, 1.0, square).sqrt()
    square = torch.where(small, square, 0.0)  # its powers would leave the range
    series = 1 - square / 6 * (1 - square / 20 * (1 - square / 42))
    return torch.where(small, series, t.sin() / t)


# -------------------------------------------------------------------------------------------------------- quaternions


def quaternion_to_matrix(q: Tensor) -> Tensor:
    """q (..., 4) as (w, x, y, z), of any length -> (..., 3, 3); zero decodes to the identity."""
    q = _checked(q, 4, "quaternion")
    q, usable, _ = _scaled(q)
    s = torch.where(usable, 2 / torch.where(usable, (q * q).sum(-1, keepdim=True), 1.0), 0.0)
    w, v = q.split_with_sizes((1, 3), -1)
    twice = s * v
    return rodrigues(1 - (twice * v).sum(-1), w * twice, twice, v)


def matrix_to_quaternion(m: Tensor) -> Tensor:
    """m (..., 3, 3) -> unit (..., 4) as (w, x, y, z) with w >= 0.

    4 q q^T is linear in the matrix; its row of largest diagonal is q times at least 2, whatever the angle.
    """
    _check_matrix(m)
    m = _full(m)
    a, b, c, d, e, f, g, h, i = m.flatten(-2).unbind(-1)
    rows = (
        1 + a + e + i, h - f, c - g, d - b,
        h - f, 1 + a - e - i, b + d, c + g,
        c - g, b + d, 1 - a + e - i, f + h,
        d - b, c + g, f + h, 1 - a - e + i,
    )  # fmt: skip
    outer = torch.stack(rows, -1).unflatten(-1, (4, 4))
    best = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None]
    row = torch.take_along_dim(outer, best, -2)[..., 0, :]
    sign = torch.where(row[..., :1] < 0, -1.0, 1.0).to(row)
    return row * (sign / (row * row).sum(-1, keepdim=True).sqrt())


def continuous_quaternions(q: Tensor) -> Tensor:
    """q (T, ..., 4), each with the sign that is nearer to the one before: q and -q are one rotation."""
    flips = torch.where((q[1:] * q[:-1]).sum(-1, keepdim=True) < 0, -1.0, 1.0).to(q)
    return torch.cat([q[:1], q[1:] * flips.cumprod(0)])


# ----------------------------------------------------------------------------------------------------------------- 6D


def gram_schmidt(a: Tensor, b: Tensor) -> Tensor:
    """Gram-Schmidt on two columns. a, b (..., 3) -> (..., 3, 3) with columns along a, b less its share of a, and their
    cross product (Zhou et al. 2019, equation 15). Where a is zero, or b is zero or parallel to a, an axis stands in.
    """
    both, usable, size = _scaled(torch.stack((a, b), -2))
    (a, b), axes = both.unbind(-2), torch.eye(3, dtype=both.dtype, device=both.device)
    x = _unit(torch.where(usable[..., 0, :], a, axes[0]))
    rest = _without(b, x)
    apart = torch.linalg.vector_norm(rest.detach(), dim=-1, keepdim=True)
    parallel = apart <= 16 * torch.finfo(a.dtype).eps
    short = SHORT / size.amin(-2).clamp(SHORT, 1.0)  # so that both together do not pass 1 / SHORT
    rest = _divided(rest, torch.where(parallel, 1.0, apart), short)
    rest = torch.where(parallel, axes[x.detach().abs().argmin(-1)], rest)
    y = _unit(_without(rest, x))  # nearly parallel: once is not enough
    return torch.stack((x, y, torch.linalg.cross(x, y, dim=-1)), -1)


def _scaled(v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """v (..., n) over its largest number, so that no square leaves the range; whether it has a direction; its size.

    What is done to v next must not depend on its length: then the size needs no gradient.
    """
    size = v.detach().abs().amax(-1, keepdim=True)
    usable = ~(size <= TINY)  # a NaN passes, and is seen in the result
    size = torch.where(usable, size, 1.0)
    return _divided(v, size, SHORT), usable, size


def _divided(v: Tensor, length: Tensor, short: Tensor | float) -> Tensor:
    """v / length, with the gradient of v / max(length, short)."""
    if not torch.is_grad_enabled():
        return v / length
    fixed = v.detach()
    return fixed / length + (v - fixed) / length.clamp_min(short)


def _unit(v: Tensor) -> Tensor:
    """v (..., 3) at length one."""
    return v * (v * v).sum(-1, keepdim=True).rsqrt()


def _without(v: Tensor, x: Tensor) -> Tensor:
    """v (..., 3) less its share of the unit vector x (..., 3)."""
    return v - (x * v).sum(-1, keepdim=True) * x


def six_d_to_matrix(x: Tensor) -> Tensor:
    """The first two columns, row by row (SPIN's order). x (..., 6) -> (..., 3, 3).

    >>> six_d_to_matrix(torch.arange(1.0, 7.0))[:, 0]
    tensor([0.1690, 0.5071, 0.8452])
    """
    x = _checked(x, 6, "6D")
    return gram_schmidt(x[..., 0::2], x[..., 1::2])


def matrix_to_six_d(m: Tensor) -> Tensor:
    """m (..., 3, 3) -> its first two columns, row by row: (..., 6)."""
    _check_matrix(m)
    return m[..., :2].flatten(-2)


def six_d_columns_to_matrix(x: Tensor) -> Tensor:
    """The first column, then the second (Zhou et al.'s order). x (..., 6) -> (..., 3, 3)."""
    x = _checked(x, 6, "6D")
    return gram_schmidt(x[..., :3], x[..., 3:])


def matrix_to_six_d_columns(m: Tensor) -> Tensor:
    """m (..., 3, 3) -> its first column, then its second: (..., 6)."""
    _check_matrix(m)
    return m.mT[..., :2, :].flatten(-2)


def six_d_rows_to_matrix(x: Tensor) -> Tensor:
    """The first row, then the second (pytorch3d's order). x (..., 6) -> (..., 3, 3)."""
    return six_d_columns_to_matrix(x).mT


def matrix_to_six_d_rows(m: Tensor) -> Tensor:
    """m (..., 3, 3) -> its first row, then its second: (..., 6)."""
    _check_matrix(m)
    return m[..., :2, :].flatten(-2)


# ------------------------------------------------------------------------------------------------------------- matrix


class _Nearest(torch.autograd.Function):
    """The rotation nearest to a matrix, R = argmin |R - M| over SO(3), by SVD; with a gradient free of the SVD's.

    M = R P with P symmetric. A small change of M turns R by R [a] with (tr(P) I - P) a = axial(R^T dM - dM^T R), so the
    backward pass solves that 3 x 3 system; written in plain operations, it can be differentiated again.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(m: Tensor) -> Tensor:
        finite = m.isfinite().all(-1).all(-1)[..., None, None]
        m = torch.where(finite, m, torch.eye(3, dtype=m.dtype, device=m.device))
        u, _, vt = torch.linalg.svd(_scaled(m.flatten(-2))[0].unflatten(-1, (3, 3)))
        sign = torch.linalg.det(u @ vt)
        nearest = torch.cat((u[..., :2], u[..., 2:] * sign[..., None, None]), -1) @ vt
        return torch.where(finite, nearest, torch.nan)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        m, r = ctx.saved_tensors
        scaled, _, size = _scaled(m.flatten(-2))
        size = size[..., None]
        p = r.mT @ scaled.unflatten(-1, (3, 3))
        p = (p + p.mT) / 2
        skew = r.mT @ grad
        skew = skew - skew.mT
        axial = torch.stack((skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]), -1)
        k = p.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None] * torch.eye(3, dtype=m.dtype, device=m.device) - p
        one, two, three = k.unbind(-1)
        cofactors = torch.stack([torch.linalg.cross(*pair) for pair in ((two, three), (three, one), (one, two))], -1)
        det = (one * cofactors[..., 0]).sum(-1)
        short = SHORT / size[..., 0, 0].clamp(SHORT, 1.0) * cofactors.detach().abs().amax((-2, -1)).clamp_min(SHORT)
        steady = det / torch.maximum(det.abs(), short).square()  # 1 / det, and zero where the nearest is not unique
        a = (cofactors.mT @ axial[..., None])[..., 0] * steady[..., None]
        x, y, z = a.unbind(-1)
        o = torch.zeros_like(x)
        return r @ torch.stack((o, -z, y, z, o, -x, -y, x, o), -1).unflatten(-1, (3, 3)) / size.clamp_min(SHORT)


def nearest_rotation(m: Tensor) -> Tensor:
    """The rotation nearest to m (..., 3, 3) in the Frobenius norm: special orthogonal Procrustes, by SVD."""
    _check_matrix(m)
    with torch.autocast(m.device.type, enabled=False):
        rotation: Tensor = _Nearest.apply(_full(m))
    return rotation


def nine_to_matrix(x: Tensor) -> Tensor:
    """Nine numbers, a matrix row by row, projected on SO(3) (Levinson et al. 2020). x (..., 9) -> (..., 3, 3)."""
    x = _checked(x, 9, "matrix")
    return nearest_rotation(x.unflatten(-1, (3, 3)))


def matrix_to_nine(m: Tensor) -> Tensor:
    """m (..., 3, 3) -> its nine numbers row by row: (..., 9)."""
    _check_matrix(m)
    return m.flatten(-2)


class _Widened(torch.autograd.Function):
    """float16 to float32; on the way back, a gradient that float16 cannot hold becomes the largest that it can."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.float()

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
        pass

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        largest = torch.finfo(torch.float16).max
        return grad.clamp(-largest, largest).half()


def _full(x: Tensor) -> Tensor:
    """Half precision is too coarse to compute a rotation in: at least float32."""
    if x.dtype == torch.float16:
        wide: Tensor = _Widened.apply(x)
        return wide
    return x.float() if x.dtype == torch.bfloat16 else x


def _checked(x: Tensor, width: int, name: str) -> Tensor:
    if x.ndim < 1 or x.shape[-1] != width:
        raise ValueError(f"{name} rotations have {width} numbers in the last axis, not shape {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"{name} rotations are floating point, not {x.dtype}; call .float() on them")
    return _full(x)


def _check_matrix(m: Tensor) -> None:
    if m.shape[-2:] != (3, 3):
        raise ValueError(f"rotation matrices have shape (..., 3, 3), not {tuple(m.shape)}")


_EYE = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

ROTATIONS: dict[str, Rotation] = {
    rotation.name: rotation
    for rotation in (
        Rotation("axis_angle", 3, (0.0, 0.0, 0.0), axis_angle_to_matrix, matrix_to_axis_angle),
        Rotation("6d", 6, (1.0, 0.0, 0.0, 1.0, 0.0, 0.0), six_d_to_matrix, matrix_to_six_d),
        Rotation("6d_columns", 6, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), six_d_columns_to_matrix, matrix_to_six_d_columns),
        Rotation("6d_rows", 6, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), six_d_rows_to_matrix, matrix_to_six_d_rows),
        Rotation("quaternion", 4, (1.0, 0.0, 0.0, 0.0), quaternion_to_matrix, matrix_to_quaternion),
        Rotation("matrix", 9, _EYE, nine_to_matrix, matrix_to_nine),
    )
}


def __getattr__(name: str) -> Any:
    return _moved.moved(__name__, name)
