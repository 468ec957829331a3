import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import assert_rotations, assert_round_trip
from torch.autograd import gradcheck, gradgradcheck

from kinlmr import ROTATIONS
from kinlmr.rotations import (
    SHORT,
    axis_angle_to_matrix,
    continuous_quaternions,
    matrix_to_axis_angle,
    matrix_to_quaternion,
    nearest_rotation,
    quaternion_to_matrix,
    six_d_columns_to_matrix,
    six_d_rows_to_matrix,
    six_d_to_matrix,
)

EVERY = pytest.mark.parametrize("rotation", ROTATIONS.values(), ids=ROTATIONS)
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-14}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE)

numbers = st.floats(-4, 4, allow_subnormal=False)
vectors = st.tuples(numbers, numbers, numbers)


def turn(vector, angle):
    """The matrix of a rotation by ``angle`` about an axis, as two reflections half that angle apart."""
    axis = torch.tensor(vector, dtype=torch.float64) / math.hypot(*vector)
    one = torch.linalg.cross(axis, torch.eye(3, dtype=torch.float64)[axis.abs().argmin()])
    one = one / one.norm()
    two = math.cos(angle / 2) * one + math.sin(angle / 2) * torch.linalg.cross(axis, one)
    reflect = lambda n: torch.eye(3, dtype=torch.float64) - 2 * torch.outer(n, n) / n.dot(n)  # noqa: E731
    return reflect(two) @ reflect(one)


@st.composite
def matrices(draw):
    """Rotations of every kind, with many at angle 0, near it, at pi and near it."""
    axis = draw(vectors.filter(lambda v: math.hypot(*v) > 1e-3))
    special = st.sampled_from([0.0, 1e-12, 1e-6, 1e-3, 0.03, 0.1, math.pi - 1e-3, math.pi - 1e-7, math.pi])
    return turn(axis, draw(st.one_of(special, st.floats(0, math.pi))))


@EVERY
@DTYPES
@given(matrix=matrices())
def test_round_trip(rotation, dtype, matrix):
    assert_round_trip(rotation, matrix.to(dtype), TOLERANCE[dtype])


@st.composite
def numbers_of(draw, dimension):
    """Any numbers: zero, tiny, usual, huge; and vectors that are parallel, nearly so, or opposite."""
    size = draw(st.sampled_from([0.0, 1e-30, 1e-12, 1e-5, 1e-3, 1.0, 1e4, 1e15, 1e30]))
    part = st.one_of(st.sampled_from([0.0, 1.0, -1.0, 1e-9, 1e-3]), numbers)
    x = size * torch.tensor(draw(st.tuples(*[part] * dimension)), dtype=torch.float64)
    if dimension == 6 and draw(st.booleans()):
        apart = draw(st.sampled_from([0.0, 1e-12, 1e-7, 1e-6, 1e-5, 1e-3]))
        times = draw(st.sampled_from([1.0, -1.0, -2.0, 1e-5, 1e5]))
        x = torch.stack([x[:3], times * (x[:3] + apart * size * x[3:])], draw(st.sampled_from([0, 1]))).flatten()
    return x


def assert_tame(to_matrix, x, tolerance):
    """Finite numbers decode to a rotation, with gradients below 1e6 and finite second derivatives."""
    x = x.requires_grad_()
    matrix = to_matrix(x)
    assert_rotations(matrix, tolerance)
    weight = torch.linspace(-1, 1, 9, dtype=matrix.dtype).view(3, 3)
    (gradient,) = torch.autograd.grad((matrix * weight).sum(), x, create_graph=True)
    assert gradient.isfinite().all()
    assert gradient.abs().max() < 1e6
    (second,) = torch.autograd.grad((gradient * torch.linspace(-1, 1, len(x), dtype=x.dtype)).sum(), x)
    assert second.isfinite().all()


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@given(data=st.data())
def test_any_finite_numbers_decode_to_a_rotation_with_finite_derivatives(rotation, dtype, data):
    x = data.draw(numbers_of(rotation.dimension)).to(dtype)
    if x.isfinite().all():
        assert_tame(rotation.to_matrix, x, 20 * TOLERANCE.get(dtype, TOLERANCE[torch.float32]))


def test_the_law_of_tame_derivatives_can_fail():
    naive = lambda x: x.view(3, 3) / x.view(3, 3).norm(dim=0)  # noqa: E731
    steep = lambda x: axis_angle_to_matrix(1e7 * x)  # noqa: E731
    kinked = lambda x: axis_angle_to_matrix(x / x.norm())  # noqa: E731
    cases = ((naive, torch.zeros(9)), (steep, torch.tensor([1.0, 2.0, 3.0])), (kinked, torch.tensor([1e-9, 0, 0])))
    for broken, x in cases:
        with pytest.raises(AssertionError):
            assert_tame(broken, x, 1e-3)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@given(matrix=matrices())
def test_writing_has_finite_derivatives(rotation, dtype, matrix):
    matrix = matrix.to(dtype).requires_grad_()
    written = rotation.from_matrix(matrix)
    (gradient,) = torch.autograd.grad(written.sum(), matrix, create_graph=True)
    assert written.isfinite().all()
    assert gradient.isfinite().all()
    assert gradient.abs().max() < 1e6
    if gradient.requires_grad:  # else it is linear
        (second,) = torch.autograd.grad(gradient.sum(), matrix, allow_unused=True)
        assert second is None or second.isfinite().all()


@EVERY
@given(matrix=matrices())
def test_half_turns_and_all_others_come_back_in_half_precision(rotation, matrix):
    for dtype, tolerance in ((torch.float16, 4e-3), (torch.bfloat16, 3e-2)):
        assert torch.allclose(
            rotation.to_matrix(rotation.from_matrix(matrix.to(dtype))).double(), matrix, atol=tolerance
        )


@EVERY
def test_the_identity(rotation):
    identity = torch.tensor(rotation.identity, dtype=torch.float64)
    assert torch.equal(rotation.to_matrix(identity), torch.eye(3, dtype=torch.float64))
    assert torch.equal(rotation.from_matrix(torch.eye(3, dtype=torch.float64)), identity)


@EVERY
def test_gradients_of_both_orders(rotation):
    generator = torch.Generator().manual_seed(1)
    for scale in (0.01, 1.0):
        x = torch.tensor(rotation.identity, dtype=torch.float64).repeat(3, 1)
        x = x + scale * torch.randn(x.shape, generator=generator, dtype=torch.float64)
        assert gradcheck(rotation.to_matrix, x.requires_grad_())
        assert gradgradcheck(rotation.to_matrix, x)
        matrix = rotation.to_matrix(x.detach()).requires_grad_()
        assert gradcheck(rotation.from_matrix, matrix)


def test_axis_angle_is_smooth_at_zero_and_across_the_series():
    for length in (0.0, 1e-9, 0.0999999, 0.1, 0.1000001, 0.2, 2.0, math.pi, 2 * math.pi, 7.0):
        x = (torch.tensor([[0.6, 0.0, -0.8]], dtype=torch.float64) * length).requires_grad_()
        assert gradcheck(axis_angle_to_matrix, x)
        assert gradgradcheck(axis_angle_to_matrix, x)
        assert torch.allclose(axis_angle_to_matrix(x)[0], turn((0.6, 0, -0.8), length), atol=1e-14, rtol=0)


@given(st.floats(1e-9, 0.2), vectors.filter(lambda v: math.hypot(*v) > 1e-3))
def test_small_angles_keep_every_digit(angle, vector):
    axis = torch.tensor(vector, dtype=torch.float64) / math.hypot(*vector)
    for t in (angle, 0.0316, 0.0317, 0.0632, 0.0633):  # also where the series end
        m = axis_angle_to_matrix(t * axis)
        twice = torch.stack((m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]))
        assert torch.allclose(twice, 2 * math.sin(t) * axis, rtol=1e-14, atol=1e-15 * t)
        assert torch.allclose(m.trace(), torch.tensor(1 + 2 * math.cos(t), dtype=torch.float64), rtol=0, atol=2e-15)
        assert torch.allclose(matrix_to_axis_angle(m), t * axis, rtol=1e-14, atol=1e-15 * max(t, 0.01))


@given(st.integers(0, 99), st.sampled_from([1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0]), st.sampled_from([0.0, 1e-6, 1e-3, 0.1]))
def test_gradients_near_a_matrix_without_a_nearest_rotation_are_bounded(seed, size, apart):
    generator = torch.Generator().manual_seed(seed)
    u, v = nearest_rotation(torch.randn(2, 300, 3, 3, generator=generator, dtype=torch.float64))
    m = (size * (u * torch.tensor([1.0, 0.5, apart - 0.5]).double()) @ v).requires_grad_()
    weight = torch.linspace(-1, 1, 9, dtype=torch.float64).view(3, 3)
    assert torch.autograd.grad((nearest_rotation(m) * weight).sum(), m)[0].abs().max() < 4 / SHORT


@EVERY
@pytest.mark.parametrize("batch", [(), (0,), (5,), (2, 0, 3), (2, 3)])
def test_any_batch_shape(rotation, batch):
    x = torch.randn(*batch, rotation.dimension)
    matrix = rotation.to_matrix(x)
    assert matrix.shape == (*batch, 3, 3)
    assert rotation.from_matrix(matrix).shape == x.shape
    assert torch.allclose(torch.func.vmap(rotation.to_matrix)(x) if batch and x.numel() else matrix, matrix, atol=1e-6)


@DTYPES
def test_nearly_parallel_columns_decode_to_a_rotation(dtype):
    generator = torch.Generator().manual_seed(0)
    a, noise = torch.randn(2, 500, 3, generator=generator, dtype=dtype)
    for apart in (1e-1, 1e-2, 1e-3, 1e-4, 3e-6):
        assert_rotations(six_d_columns_to_matrix(torch.cat([a, -2 * a + apart * noise], -1)), 20 * TOLERANCE[dtype])


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_decoded_in_float32(rotation, dtype):
    x = torch.randn(20, rotation.dimension, generator=torch.Generator().manual_seed(0)).to(dtype)
    for scale in (1e-3, 1.0, 1e3) if rotation.name != "axis_angle" else (1e-3, 1.0):
        y = (scale * x).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            matrix = rotation.to_matrix(y)
        assert matrix.dtype == torch.float32
        assert_rotations(matrix, 1e-5)
        way = torch.randn(matrix.shape, generator=torch.Generator().manual_seed(1))
        (gradient,) = torch.autograd.grad(matrix, y, way)
        wide = y.detach().float().requires_grad_()
        (expected,) = torch.autograd.grad(rotation.to_matrix(wide), wide, way)
        assert torch.equal(gradient, expected.to(dtype))


def test_a_gradient_that_float16_cannot_hold_is_the_largest_that_it_can():
    x = torch.tensor([1.0, 0, 0, 0]).half().requires_grad_()
    for sign in (1, -1):
        way = torch.zeros(3, 3)
        way[1, 0] = sign * 1e6  # 2 w z
        (gradient,) = torch.autograd.grad(ROTATIONS["quaternion"].to_matrix(x), x, way)
        assert torch.equal(gradient, sign * torch.tensor([0, 0, 0, 65504]).half())


@pytest.mark.parametrize("name", ["6d", "6d_columns", "6d_rows", "quaternion"])
@pytest.mark.parametrize("scale", [1e-15, 1e15, 1e30])
def test_length_does_not_matter(name, scale):
    rotation = ROTATIONS[name]
    x = torch.randn(20, rotation.dimension, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(rotation.to_matrix(scale * x), rotation.to_matrix(x), atol=1e-6)


def assert_a_nan_stays_in_its_row(function, x, row):
    """A NaN is seen in its own row of the result and of the gradient, and changes no other."""
    odd = x.clone(memory_format=torch.contiguous_format)
    odd[row].view(-1)[1] = torch.nan
    found = []
    for y in (x.clone().requires_grad_(), odd.requires_grad_()):
        value = function(y)
        weight = torch.arange(1.0, 1 + value[0].numel()).view(value[0].shape)
        (gradient,) = torch.autograd.grad((value * weight).sum(), y)
        found.append((value.detach(), gradient))
    assert found[1][0][row].isnan().any()
    others = torch.arange(len(x)) != row
    for one, two in zip(*found, strict=True):
        assert torch.equal(one[others], two[others])


@EVERY
@given(seed=st.integers(0, 99), row=st.integers(0, 4))
def test_a_nan_stays_in_its_row(rotation, seed, row):
    x = torch.randn(5, rotation.dimension, generator=torch.Generator().manual_seed(seed))
    assert_a_nan_stays_in_its_row(rotation.to_matrix, x, row)
    assert_a_nan_stays_in_its_row(rotation.from_matrix, rotation.to_matrix(x), row)


@EVERY
@pytest.mark.parametrize("odd", [torch.nan, torch.inf])
def test_what_is_not_finite_is_seen(rotation, odd):
    x = torch.tensor(rotation.identity)
    x[1] = odd
    assert rotation.to_matrix(x).isnan().any()


def test_the_law_of_nans_can_fail():
    with pytest.raises(AssertionError):
        assert_a_nan_stays_in_its_row(lambda x: x - x.mean(), torch.randn(5, 3), 2)


def test_three_orders_of_6d():
    half = turn((0, 0, 1), math.pi / 6)
    written = {name: ROTATIONS[name].from_matrix(half) for name in ("6d", "6d_columns", "6d_rows")}
    c, s = math.cos(math.pi / 6), 0.5
    for name, expected in (
        ("6d", [c, -s, s, c, 0, 0]),
        ("6d_columns", [c, s, 0, -s, c, 0]),
        ("6d_rows", [c, -s, 0, s, c, 0]),
    ):
        assert torch.allclose(written[name], torch.tensor(expected, dtype=torch.float64))
    x = torch.arange(1.0, 7.0)
    assert torch.allclose(six_d_to_matrix(x)[:, 0], torch.tensor([0.169, 0.507, 0.845]), atol=1e-3)
    assert torch.allclose(six_d_columns_to_matrix(x)[:, 0], torch.tensor([0.267, 0.535, 0.802]), atol=1e-3)
    assert torch.equal(six_d_columns_to_matrix(x[[0, 2, 4, 1, 3, 5]]), six_d_to_matrix(x))
    assert torch.equal(six_d_rows_to_matrix(x), six_d_columns_to_matrix(x).mT)


def test_long_rotation_vectors_come_back_short():
    vector = torch.tensor([0.0, 0.0, 1.5 * math.pi])
    assert torch.allclose(
        matrix_to_axis_angle(axis_angle_to_matrix(vector)), torch.tensor([0, 0, -math.pi / 2]), atol=1e-6
    )


def test_the_nearest_rotation_is_nearest():
    generator = torch.Generator().manual_seed(0)
    m = torch.randn(200, 3, 3, generator=generator, dtype=torch.float64)
    best = nearest_rotation(m)
    assert_rotations(best, 1e-13)
    small = axis_angle_to_matrix(0.01 * torch.randn(200, 3, generator=generator, dtype=torch.float64))
    distance = lambda r: (r - m).square().sum((-2, -1))  # noqa: E731
    assert (distance(best) <= distance(best @ small) + 1e-12).all()


def test_peers_agree():
    roma = pytest.importorskip("roma")
    transform = pytest.importorskip("scipy.spatial.transform")
    scipy = transform.Rotation.random(500, random_state=0)
    matrix = torch.from_numpy(scipy.as_matrix())
    vector, quaternion = torch.from_numpy(scipy.as_rotvec()), torch.from_numpy(scipy.as_quat(canonical=True))
    assert torch.allclose(axis_angle_to_matrix(vector), matrix, atol=1e-14)
    assert torch.allclose(matrix_to_axis_angle(matrix), vector, atol=1e-13)
    assert torch.allclose(matrix_to_quaternion(matrix), quaternion[:, [3, 0, 1, 2]], atol=1e-14)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 3, 3, dtype=torch.float64, generator=generator)
    assert torch.allclose(six_d_to_matrix(x[..., :2].flatten(-2)), roma.special_gramschmidt(x[..., :2]), atol=1e-12)
    assert torch.allclose(nearest_rotation(x), roma.special_procrustes(x), atol=1e-12)
    x.requires_grad_()
    weight = torch.randn(500, 3, 3, dtype=torch.float64, generator=generator)
    ours, theirs = (
        torch.autograd.grad((f(x) * weight).sum(), x)[0] for f in (nearest_rotation, roma.special_procrustes)
    )
    steep = theirs.abs().amax((1, 2)) > 100  # near a matrix without a nearest rotation ours is bounded, roma's is not
    assert steep.sum() < 10
    assert torch.allclose(ours[~steep], theirs[~steep], rtol=1e-6, atol=1e-6)


def test_the_laws_can_fail():
    matrix = turn((1, 2, 3), 1.0)
    good = ROTATIONS["6d"]
    with pytest.raises(AssertionError):
        assert_round_trip(good._replace(to_matrix=six_d_columns_to_matrix), matrix, 1e-6)
    with pytest.raises(AssertionError):
        assert_rotations(-matrix, 1e-6)
    with pytest.raises(AssertionError):
        assert_rotations(matrix * 1.01, 1e-6)


def assert_continuous(function, q):
    """The same rotations, each quaternion on the side of the one before, and the first as it was."""
    found = function(q)
    assert torch.allclose(quaternion_to_matrix(found), quaternion_to_matrix(q), atol=1e-12)
    assert torch.equal(found[:1], q[:1])
    assert ((found[1:] * found[:-1]).sum(-1) >= 0).all()


@given(st.integers(1, 9), st.integers(0, 99))
def test_quaternions_of_a_motion_are_continuous(frames, seed):
    q = torch.randn(frames, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    q[frames // 2] = torch.eye(4, dtype=torch.float64)[seed % 4]  # at right angles to others: either side is near
    assert_continuous(continuous_quaternions, q)
    with pytest.raises(AssertionError):
        assert_continuous(lambda q: q, torch.stack([q[0], -q[0]]))


@EVERY
def test_wrong_shapes_are_named(rotation):
    with pytest.raises(ValueError, match=rf"{rotation.dimension} numbers in the last axis, not shape \(2, 5\)"):
        rotation.to_matrix(torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"\(\.\.\., 3, 3\), not \(4, 3\)"):
        rotation.from_matrix(torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"floating point, not torch\.int64"):
        rotation.to_matrix(torch.zeros(2, rotation.dimension, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"\(\.\.\., 3, 3\), not \(4, 3\)"):
        nearest_rotation(torch.zeros(4, 3))


@EVERY
def test_half_precision_maps_over_batches(rotation):
    x = torch.randn(5, rotation.dimension, generator=torch.Generator().manual_seed(0)).half()
    assert torch.allclose(torch.func.vmap(rotation.to_matrix)(x), rotation.to_matrix(x), atol=1e-6)
