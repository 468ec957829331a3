"""Products: the same numbers by whichever operator, and each operator where it gains."""

import contextlib
import functools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import assert_equals_reference, assert_gradients_equal_reference, clip, lively, stacked, weighted
from torch import nn

import kinlmr
from kinlmr.engine import matmul


def numbers(*shape, dtype, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def assert_product(product, x, weight, added, tolerance):
    """A product of rows by a weight is torch.nn.functional.linear's, and so are its gradients."""
    tensors = x, weight, added

    def plain(x, weight, added):
        return torch.nn.functional.linear(x, weight) + added

    with torch.no_grad():
        wanted = plain(*tensors)
        assert product(*tensors).shape == wanted.shape
        torch.testing.assert_close(product(*tensors), wanted, atol=tolerance, rtol=tolerance)
    tensors = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    ours, theirs = (torch.autograd.grad(weighted([f(*tensors)]), tensors) for f in (product, plain))
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


@settings(max_examples=100)
@given(
    rows=st.integers(1, 6), out=st.integers(1, 8), size=st.integers(1, 5), bias=st.booleans(), whole=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]), sizes=st.tuples(*[st.integers(0, 40)] * 2),
    cached=st.booleans(),
)  # fmt: skip
def test_every_product_is_torchs(rows, out, size, bias, whole, dtype, sizes, cached):
    """Whatever a weight's size, its type, whether it is a part of another, or in the cache."""
    x, weight = (numbers(n, size + 1, dtype=dtype, seed=n) for n in (rows, out))
    if not whole:
        x, weight = x[:, :size], weight[:, :size]
    added = numbers(*(() if bias else (rows,)), out, dtype=dtype, seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matmul, "LARGE", sizes[0])
        patch.setattr(matmul, "HUGE", (sizes[1],) * 4)
        product = functools.partial(matmul.product, cached=cached)
        assert_product(product, x, weight, added, 1e-5 if dtype == torch.float32 else 1e-12)


def test_the_law_of_products_can_fail():
    tensors = [numbers(*shape, dtype=torch.float32, seed=0) for shape in ((2, 3), (4, 3), (4,))]
    with pytest.raises(AssertionError):
        assert_product(lambda x, weight, added: matmul.product(x, weight, 1.001 * added), *tensors, 1e-5)


@contextlib.contextmanager
def large():
    """Every weight counts as large."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matmul, "LARGE", 0)
        patch.setattr(matmul, "HUGE", (0,) * 4)
        yield


@settings(max_examples=20)
@given(
    batch=st.integers(1, 2),
    frames=st.integers(1, 4),
    block=st.integers(1, 4),
    layers=st.integers(1, 2),
    cell=st.sampled_from(["gru", "lstm"]),
    training=st.booleans(),
)
def test_large_weights_equal_the_plain_reference(batch, frames, block, layers, cell, training):
    """A model's values and gradients, of one row, whose weights are read in halves, and of more; of one frame also."""
    model = kinlmr.build("smpl.yaml", features=5, hidden=4, cell=cell, layers=layers, shape_hidden=4)
    model, x = lively(model, torch.float32), clip(batch, frames, 5, torch.float32)
    model.block = block
    check = assert_gradients_equal_reference if training else torch.no_grad()(assert_equals_reference)
    with large(), stacked(False):
        check(model, x, 1e-5)


@pytest.mark.skipif(not matmul._onednn(), reason="this torch has no oneDNN")
@pytest.mark.parametrize(
    ("rows", "bias", "cached", "wanted"),
    [
        (1, True, False, "baddbmm"),
        (1, False, False, "baddbmm"),
        (1, True, True, "addmm"),
        (2, False, False, "addmm"),
        (2, True, False, "_linear_pointwise"),
        (9, True, True, "_linear_pointwise"),
    ],
)
def test_large_weights_are_read_by_the_operator_that_fits(rows, bias, cached, wanted):
    added = torch.ones(4) if bias else torch.ones(rows, 4)
    with large():
        assert wanted in operators(torch.ones(rows, 3), torch.ones(4, 3), added, cached)


def operators(*arguments):
    """The operators of torch that a product calls."""
    with torch.no_grad(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        matmul.product(*arguments)
    return {event.key.split("::")[-1] for event in profile.key_averages()}


@pytest.mark.skipif(not matmul._onednn(), reason="this torch has no oneDNN")
@pytest.mark.parametrize(
    ("size", "wanted"),
    [(2**7, "aaaaa"), (2**9, "hllla"), (7 * 2**7, "hlllo"), (2**10, "hlooo"), (2**10 + 1, "hoooo")],
)
def test_the_table_of_products(size, wanted):
    """Of a weight (2^10, size) the operators for one to five rows: addmm, halves, left, oneDNN."""
    weight, bias = torch.ones(2**10, size), torch.ones(2**10)
    for rows, way in enumerate(wanted, 1):
        name = {"h": "baddbmm", "o": "_linear_pointwise"}.get(way, "addmm")
        found = operators(torch.ones(rows, size), weight, bias)
        assert name in found, (size, rows, found)
        assert ("contiguous" in found or "unsqueeze" in found) == (way == "l"), (size, rows, found)


# ---------------------------------------------------------------------------------------------- layouts, types, devices

LAYOUTS = {  # where in a larger room the numbers lie; what has fewer than asked for is expanded
    "contiguous": None,
    "part": lambda shape: [slice(1, n + 1) for n in shape],
    "strided": lambda shape: [slice(1, 3 * n, 3) for n in shape],
    "transposed": lambda shape: [slice(n) for n in shape],
    "negative": lambda shape: [slice(n) for n in shape],
    "rows expanded": lambda shape: [slice(1), *map(slice, shape[1:])],
    "columns expanded": lambda shape: [*map(slice, shape[:-1]), slice(1)],
    "all expanded": lambda shape: [slice(1) for _ in shape],
}


def laid(layout, *shape):
    """Numbers that lie in memory as the layout says, with NaN all around."""
    room = torch.full([3 * max(shape) + 1] * len(shape), torch.nan)
    if layout == "contiguous":
        part = room.flatten()[1 : math.prod(shape) + 1].view(shape)
    else:
        part = (room.mT if layout == "transposed" and len(shape) > 1 else room)[tuple(LAYOUTS[layout](shape))]
    part.copy_(0.3 * numbers(*part.shape, dtype=torch.float32, seed=sum(shape)))
    return (torch._neg_view(part) if layout == "negative" else part).expand(shape)


def assert_right_or_refused(function, *tensors):
    """function(x, weight, added) is x weight^T + added, or an error."""
    try:
        found = function(*tensors)
    except (RuntimeError, NotImplementedError):
        return
    x, weight, added = (tensor.double() for tensor in tensors)
    tolerance = 2e-2 if found.dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(found, x @ weight.mT + added, atol=tolerance, rtol=tolerance, check_dtype=False)


def operators_alone(x, weight, added):
    """Without a look at what is given: reads memory that is nobody's."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, added, "none", [], "")


def arranged_alone(x, weight, added):
    """The product of a scan's frame, twice, for the first is apart."""
    add = matmul.recurrence(weight, 2, matmul.Layouts())
    add(y := torch.zeros(len(x), len(weight)), x)
    add(z := torch.zeros(len(x), len(weight)), x)
    torch.testing.assert_close(y, z, atol=1e-4, rtol=1e-4)
    return y + added


WAYS = {"product": matmul.product, "cached": functools.partial(matmul.product, cached=True), "scan": arranged_alone}
CHANGES = {
    "float64": lambda x: x.double(), "bfloat16": lambda x: x.bfloat16(), "int64": lambda x: x.long(),
    "wider": lambda x: torch.cat([x, x], -1), "one number": lambda x: x.flatten()[:1],
}  # fmt: skip
layouts = st.one_of(st.just("contiguous"), st.sampled_from(list(LAYOUTS)))
faults = st.none() | st.tuples(st.integers(0, 2), st.sampled_from(list(CHANGES)))


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=60)
@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 7), st.tuples(layouts, layouts, layouts), faults)
def test_no_product_reads_what_it_was_not_given(way, rows, out, size, laid_out, fault):
    """Whatever the layout of x, weight and bias, and where the type or size of one of them does not fit."""
    shapes = (rows, size), (out, size), (out,)
    tensors = [laid(layout, *shape) for layout, shape in zip(laid_out, shapes, strict=True)]
    if fault:
        tensors[fault[0]] = CHANGES[fault[1]](tensors[fault[0]])
    with large(), torch.no_grad():
        assert_right_or_refused(WAYS[way], *tensors)


@pytest.mark.skipif(not matmul._onednn(), reason="this torch has no oneDNN")
def test_that_law_can_fail():
    for layout in ("strided", "columns expanded"):
        with pytest.raises(AssertionError):
            assert_right_or_refused(operators_alone, torch.randn(3, 5), torch.randn(4, 5), laid(layout, 4))


@pytest.mark.skipif(not matmul._onednn(), reason="this torch has no oneDNN")
@pytest.mark.parametrize("which", range(3))
def test_onednn_gets_plain_numbers_of_the_cpu_only(which):
    tensors = [torch.ones(3, 5), torch.ones(4, 5), torch.ones(4)]
    with torch.no_grad():
        assert matmul._onednn_takes_as_it_is(*tensors)
        other = tensors[which].as_subclass(type("Other", (torch.Tensor,), {}))
        for odd in (other, *(getattr(tensors[which], name)() for name in ("double", "half", "to_sparse", "to_mkldnn"))):
            assert not matmul._onednn_takes_as_it_is(*tensors[:which], odd, *tensors[which + 1 :])
        assert not matmul._onednn_takes_as_it_is(*tensors[:which], tensors[which].to("meta"), *tensors[which + 1 :])


@contextlib.contextmanager
def arranged(smallest=0, worth=0):
    """Weights of so many numbers, times frames, are arranged by oneDNN; what was, in order: sizes (out, in)."""
    sizes, arrange = [], matmul._arrange
    if not matmul._onednn():  # asked once a process, by an arrangement of its own
        pytest.skip("this torch has no oneDNN")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matmul, "ARRANGED", smallest)
        patch.setattr(matmul, "WORTH", worth)
        patch.setattr(matmul, "_arrange", lambda weight: sizes.append(tuple(weight.shape)) or arrange(weight))
        yield sizes


@pytest.mark.parametrize("which", ["weight", "bias"])
def test_a_model_of_odd_parameters_has_their_numbers(which):
    """Its weights, or its biases, in every layout: no product sees more than their numbers."""
    model = kinlmr.build("smpl.yaml", features=5, hidden=4, shape_hidden=4, layers=2)
    for layout in LAYOUTS:
        for module in model.modules():
            for name, value in [*module._parameters.items()]:
                shown = laid(layout if name.startswith(which) else "contiguous", *value.shape)
                module._parameters[name] = nn.Parameter(shown)
        for rows in (1, 3):
            with large(), stacked(False), arranged(), torch.no_grad():
                assert_equals_reference(model, clip(rows, 3, 5, torch.float32), 1e-4)


@settings(max_examples=10)
@given(st.integers(2, 3), st.integers(2, 5), st.integers(1, 2), st.integers(1, 2), st.booleans())
def test_arranged_weights_equal_the_plain_reference(block, frames, iterations, layers, training):
    """Each recurrent weight is arranged once a pass, as it is then; its transpose once in backward; values stay."""
    model = kinlmr.build("smpl.yaml", features=5, hidden=4, shape_hidden=4, layers=layers, iterations=iterations)
    model, x = lively(model, torch.float32), clip(2, frames, 5, torch.float32)
    model.block = block
    check = assert_gradients_equal_reference if training else torch.no_grad()(assert_equals_reference)
    for _ in range(2):
        with stacked(False), arranged() as sizes:
            check(model, x, 1e-5)
        assert sizes == [(12, 4)] * 7 * layers + [(4, 12)] * 7 * layers * training
        model.camera.rnn.weight_hh_l0.data.mul_(-1)


def test_a_second_call_of_backward_arranges_anew():
    """What a weight is then counts, as where nothing is arranged, if somebody wrote to it past autograd's eyes."""
    model, found = lively(kinlmr.build("smpl.yaml", features=5, hidden=4, shape_hidden=4), torch.float32), []
    weight, x = model.parts["root"].rnn.weight_hh_l0, clip(2, 4, 5, torch.float32).requires_grad_()
    for context in (contextlib.nullcontext([]), arranged()):
        with stacked(False), context as sizes:
            loss = weighted(model(x))
            for scale in (1.0, 3.0):
                weight.data.mul_(scale)
                found.append(torch.autograd.grad(loss, x, retain_graph=True)[0])
            weight.data.div_(3.0)
    assert sizes.count((4, 12)) == 14
    assert (found[0] - found[1]).abs().max() > 1e-3
    torch.testing.assert_close(found[:2], found[2:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("wrong", [AttributeError, NotImplementedError, None])
def test_a_torch_without_the_operators_goes_on(monkeypatch, wrong):
    """Absent, not made for this machine, or of other values."""

    def arrange(weight):
        if wrong:
            raise wrong
        return 2 * weight

    assert matmul._onednn.__wrapped__() == torch.backends.mkldnn.is_available()
    monkeypatch.setattr(matmul, "_arrange", arrange)
    assert not matmul._onednn.__wrapped__()


def test_only_what_gains_is_arranged():
    weight = torch.ones(3, 2)
    with arranged(6, 24) as sizes:
        kept = matmul.layouts(weight, 4)
        assert kept == matmul.Layouts()
        assert matmul.layouts(torch.nn.Parameter(weight), 4) == matmul.Layouts()
        assert matmul.layouts(weight, 3) is None
        other = weight.as_subclass(type("Other", (torch.Tensor,), {}))
        for refused in (weight[:2], weight.double(), weight.bfloat16(), weight[None], other):
            assert matmul.layouts(refused, 99) is None
        torch.backends.mkldnn.set_flags(False)
        try:
            assert matmul.layouts(weight, 4) is None
        finally:
            torch.backends.mkldnn.set_flags(True)
        matmul.recurrence(weight, 1, kept)  # one row is multiplied without
        matmul.recurrence(weight, 2, None)
        assert sizes == []
        for _ in range(2):
            matmul.recurrence(weight, 2, kept)
            matmul.recurrence(weight, 2, kept, backward=True)
        assert sizes == [(3, 2), (2, 3)]
