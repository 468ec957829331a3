"""The paper's loop, `kinlmr.reference`, against the tests' own, which knows nothing of plans and cells."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import assert_same
from models import SMALL, clip, lively, reference_of, weighted
from strategies import models

import kinlmr
from kinlmr.reference import estimate


def assert_equals_the_tests_loop(model, features):
    """Values, and the gradients of features and all parameters."""
    x, tensors = features.clone().requires_grad_(), dict(model.named_parameters())
    inputs = [x, *tensors.values()]
    ours, theirs = estimate(model, x), reference_of(model, x, model.state_dict() | tensors)
    assert_same(ours, theirs, 1e-10)
    both = [torch.autograd.grad(weighted(out), inputs, materialize_grads=True) for out in (ours, theirs)]
    assert_same(*both, 1e-10 * (1 + max(gradient.abs().max() for gradient in both[1])))


@settings(max_examples=15)
@given(models(), st.integers(1, 4))
def test_equals_the_tests_loop(model, frames):
    assert_equals_the_tests_loop(lively(model), clip(frames=frames))


@pytest.mark.parametrize("option", ["camera_input", "shape_input"])
def test_the_law_can_fail(option):
    model = lively(kinlmr.build("smpl.yaml", **SMALL))
    assert_equals_the_tests_loop(model, clip())
    model.options = replace(model.options, **{option: {"camera_input": "initial", "shape_input": "mean"}[option]})
    with pytest.raises(AssertionError):
        assert_equals_the_tests_loop(model, clip())


def test_a_batch_of_nobody():
    model = kinlmr.build("smpl.yaml", **SMALL).double()
    assert_same(estimate(model, clip(0)), model(clip(0)), 0)
