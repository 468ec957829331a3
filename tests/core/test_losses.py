import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kinlmr import losses


def batch(seed=0, frames=(2, 5), joints=4):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *size: torch.randn(*size, generator=generator, dtype=torch.float64)  # noqa: E731
    return draw(*frames, joints, 3), draw(*frames, joints, 3)


def pose(prediction, truth, weight):
    """The loss of parameters, with the numbers of a batch as matrices and as shape."""
    matrices = [x[..., None] * torch.eye(3) for x in (prediction, truth)]
    return losses.parameters(matrices[0], prediction[..., 0], matrices[1], truth[..., 0], weight)


TERMS = {
    "parameters": (pose, False),
    "parameters_norm": (lambda p, t, w: losses.parameters_norm(p.flatten(-2), t.flatten(-2), w), False),
    "joints": (losses.joints, True),
    "keypoints": (lambda p, t, w: losses.keypoints(p[..., :2], t[..., :2], w), True),
}
EVERY = pytest.mark.parametrize("name", TERMS)


def assert_absent_does_not_count(term, prediction, truth, weight):
    """Where the weight is zero, prediction and truth may hold anything: value and gradient stay."""
    found = []
    there = weight.view(*weight.shape, *[1] * (truth.ndim - weight.ndim)) > 0
    for junk in ((0.0, 0.0), (0.0, 1e6), (0.0, torch.nan), (torch.nan, 1.0), (torch.inf, torch.inf)):
        guess, held = (torch.where(there, x, odd) for x, odd in zip((prediction, truth), junk, strict=True))
        x = guess.requires_grad_()
        value = term(x, held, weight)
        (gradient,) = torch.autograd.grad(value, x)
        assert gradient.isfinite().all()
        found.append((value.detach(), gradient))
    for value, gradient in found[1:]:
        assert torch.equal(value, found[0][0])
        assert torch.equal(gradient, found[0][1])


@EVERY
def test_a_perfect_prediction_scores_nothing(name):
    prediction, _ = batch()
    assert TERMS[name][0](prediction, prediction.clone(), None) == 0


@EVERY
@given(seed=st.integers(0, 99))
def test_what_is_absent_does_not_count(name, seed):
    term, per_point = TERMS[name]
    generator = torch.Generator().manual_seed(seed)
    weight = (torch.rand(2, 5, *[4] * per_point, generator=generator) < 0.5).double()
    if name == "joints":
        weight[..., 0] = 1
    assert_absent_does_not_count(term, *batch(seed), weight)


def test_the_law_can_fail():
    leaky = lambda p, t, w: (w[..., None, None] * (p - t).abs()).sum()  # noqa: E731
    with pytest.raises(AssertionError):
        assert_absent_does_not_count(leaky, *batch(), torch.tensor([[1.0, 0, 1, 0, 1]] * 2))


@EVERY
def test_no_target_gives_exactly_zero_and_a_finite_gradient(name):
    prediction, truth = batch()
    x = prediction.requires_grad_()
    value = TERMS[name][0](x, torch.full_like(truth, torch.nan), torch.zeros(2, 5))
    assert value == 0
    assert TERMS[name][0](torch.full_like(x, torch.nan), truth, torch.zeros(2, 5)) == 0
    assert torch.equal(torch.autograd.grad(value, x)[0], torch.zeros_like(x))


def test_equations_by_hand():
    prediction, truth = torch.zeros(1, 2, 2, 3), torch.zeros(1, 2, 2, 3)
    truth[0, 1, 1] = torch.tensor([0.3, -0.1, 0.2])
    assert torch.isclose(losses.joints(prediction, truth), torch.tensor(0.6 / 4))
    assert torch.isclose(losses.keypoints(prediction[..., :2], truth[..., :2]), torch.tensor(0.4 / 4))
    confidence = torch.tensor([[[1.0, 1.0], [1.0, 0.5]]])
    assert torch.isclose(losses.keypoints(prediction[..., :2], truth[..., :2], confidence), torch.tensor(0.2 / 3.5))
    assert torch.isclose(losses.joints(prediction, truth + 5), torch.tensor(0.6 / 4))  # centred on the root
    assert torch.isclose(losses.joints(prediction.flip(-2), truth.flip(-2) + 5, root=1), torch.tensor(0.6 / 4))
    assert torch.isclose(losses.joints(prediction.flip(-2), truth.flip(-2) + 5, root=-1), torch.tensor(0.6 / 4))
    norm = losses.parameters_norm(torch.zeros(2, 3, 4), torch.ones(2, 3, 4), torch.tensor([[1.0, 0, 0], [1, 1, 0]]))
    assert norm == 2
    norm = losses.parameters_norm(torch.zeros(2, 2), torch.tensor([[0.3, 0.4], [3.0, 4.0]]))
    assert torch.isclose(norm, torch.tensor(2.75))
    both = losses.parameters(
        torch.zeros(1, 2, 3, 3), torch.zeros(1, 10), torch.ones(1, 2, 3, 3), torch.full((1, 10), 2.0)
    )
    assert torch.isclose(both, torch.tensor(1 + 0.001 * 4))
    assert losses.total(torch.tensor(1.0), torch.tensor(2.0), torch.tensor(3.0), (1, 10, 100)) == 321
    assert losses.total(torch.tensor(2.0), torch.tensor(3.0), torch.tensor(4.0)) == 9


def test_a_joint_without_its_root_does_not_count():
    prediction, truth = batch()
    weight = torch.ones(2, 5, 4).double()
    weight[0, 0, 0] = 0
    without = weight.clone()
    without[0, 0] = 0
    assert torch.equal(losses.joints(prediction, truth, weight), losses.joints(prediction, truth, without))


@EVERY
def test_gradients(name):
    prediction, truth = batch()
    weight = torch.rand(2, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda p: TERMS[name][0](p, truth, weight), prediction.requires_grad_())


@EVERY
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-3, 1e4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_derivatives_are_finite_at_any_distance(name, size, dtype):
    """At a perfect prediction, next to it, and far from it: the gradient is finite and bounded, the second finite."""
    prediction, truth = (x.to(dtype) for x in batch())
    x = (truth + (size * (prediction - truth)).to(dtype)).requires_grad_()
    value = TERMS[name][0](x, truth, None)
    (gradient,) = torch.autograd.grad(value, x, create_graph=True)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert gradient.abs().max() < 1e6
    if gradient.requires_grad:
        (second,) = torch.autograd.grad(gradient.sum(), x, allow_unused=True)
        assert second is None or second.isfinite().all()


def assert_a_nan_stays_in_its_frame(term, prediction, truth):
    """A NaN of one frame shows in the loss, and in the gradient of that frame alone."""
    odd = prediction.clone()
    odd[1, 2] = torch.nan
    gradients = []
    for x in (prediction.clone().requires_grad_(), odd.requires_grad_()):
        value = term(x, truth, None)
        gradients.append(torch.autograd.grad(value, x)[0])
    assert value.isnan()
    others = torch.ones(2, 5, dtype=torch.bool)
    others[1, 2] = False
    assert torch.equal(*(gradient[others] for gradient in gradients))


@EVERY
@given(seed=st.integers(0, 99))
def test_a_nan_stays_in_its_frame(name, seed):
    assert_a_nan_stays_in_its_frame(TERMS[name][0], *batch(seed))


def test_the_law_of_nans_can_fail():
    with pytest.raises(AssertionError):
        assert_a_nan_stays_in_its_frame(lambda p, t, w: (p - t).square().sum().sqrt(), *batch())


@EVERY
@given(frames=st.tuples(st.integers(1, 4), st.integers(1, 4)), seed=st.integers(0, 99))
def test_a_weight_says_its_axes(name, frames, seed):
    """Of clips (B, 1), of frames (B, T) or (1, T): the same as written out; (B,) or (T,) is refused, B == T or not."""
    term, _ = TERMS[name]
    pair = batch(seed, frames)
    weight = torch.rand(frames, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for axis in (0, 1):
        one = weight.select(axis, 0)
        written = one.unsqueeze(axis).expand(frames).clone()
        assert torch.isclose(term(*pair, one.unsqueeze(axis)), term(*pair, written), rtol=1e-12)
        with pytest.raises(ValueError, match=r"a weight of shape \(\d,\) for .*weight\[:, None\] gives"):
            term(*pair, one)


def test_a_weight_of_clips_masks_clips():
    prediction, truth = batch(frames=(5, 5))
    truth[0] = torch.nan
    present = torch.tensor([0.0, 1, 1, 1, 1])
    assert torch.isclose(pose(prediction, truth, present[:, None]), pose(prediction[1:], truth[1:], None))


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(name, dtype):
    pair = [x.to(dtype) for x in batch(frames=(40, 50), joints=24)]
    weight = torch.ones(40, 50, dtype=dtype)
    found = TERMS[name][0](*pair, weight)
    assert found.dtype == torch.float32
    assert torch.isclose(found, TERMS[name][0](*(x.double() for x in pair), weight).float(), rtol=1e-5)


@EVERY
def test_shapes_are_named(name):
    prediction, truth = batch()
    with pytest.raises(ValueError, match=r"prediction \(2, 5, .*\) and truth \(1, 5, .*\) differ in shape; expand"):
        TERMS[name][0](prediction, truth[:1], None)
    with pytest.raises(ValueError, match=r"a weight of shape \(3, 5\) for \(2, 5, .*\); expected \(2, 5\), with 1 for"):
        TERMS[name][0](prediction, truth, torch.ones(3, 5))


@given(st.floats(1e-6, 1.0), st.integers(1, 4))
def test_the_unsquared_norm_of_short_differences_has_their_gradient(size, seed):
    """Below one too, and of a single frame: the gradient of a norm has length one."""
    truth = torch.randn(1, 6, generator=torch.Generator().manual_seed(seed)).double()
    away = torch.nn.functional.normalize(truth, dim=-1)
    prediction = (truth + size * away).requires_grad_()
    loss = losses.parameters_norm(prediction, truth)
    (gradient,) = torch.autograd.grad(loss, prediction)
    assert torch.allclose(loss.detach(), torch.tensor(size).double(), rtol=1e-6)
    assert torch.allclose(gradient, away, atol=1e-6)


def test_what_has_no_weight_costs_nothing_even_where_it_is_far():
    prediction, truth = batch()
    weight = torch.ones(2, 5, 4, dtype=torch.float64)
    weight[1] = 0
    for far in (1.0, 1e6):
        prediction[1] = truth[1] + far
        assert torch.equal(losses.joints(prediction, truth, weight), losses.joints(prediction[:1], truth[:1]))
    assert losses.joints(prediction, truth, 0 * weight) == 0


@pytest.mark.parametrize("name", sorted(TERMS.keys() - {"joints"}))  # a joint's weight is multiplied by its root's
@given(seed=st.integers(0, 99), size=st.floats(1e-6, 1))
def test_the_size_of_the_weights_does_not_matter(name, seed, size):
    term, _ = TERMS[name]
    weight = torch.rand(2, 5, generator=torch.Generator().manual_seed(seed)).double()
    assert torch.isclose(term(*batch(seed), size * weight), term(*batch(seed), weight))
