"""A live snapshot computes what the paper's loop does with the weights that it was made of, a frame at a time."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import assert_same
from models import MODEL, SMALL, clip, lively, walker
from strategies import models

import kinlmr
from kinlmr.engine import live as room
from kinlmr.reference import estimate


def assert_live(model, features, tolerance=1e-10):
    """Frame by frame, from no state, the numbers of the paper's loop over the clip, and its memory."""
    live, state, found = model.live(), None, []
    for frame in features.unbind(1):
        one, state = live.step(frame, state)
        found.append(one)
    expected, after = estimate(model, features, state=model.initial_state(len(features)))
    assert_same([torch.stack(x, 1) for x in zip(*found, strict=True)], expected, tolerance)
    assert_same(state, after, tolerance)


@settings(max_examples=15)
@given(models(shapes=(0, 2), cameras=(0, 3)), st.integers(1, 3), st.integers(1, 3))
def test_a_live_step_is_the_papers_loop(model, people, frames):
    assert_live(lively(model), clip(people, frames))


@pytest.mark.parametrize("broken", ["units", "restore", "features"])
def test_the_law_can_fail(broken, monkeypatch):
    model = lively(kinlmr.build("smpl.yaml", **SMALL))
    assert_live(model, clip())
    made = room.snapshot(model.schedule, model.nodes(), model.initial_estimate())
    units = [unit._replace(reads=unit.reads.flip(0)) for unit in made.units]
    changed = {"units": units, "restore": made.restore.flip(0), "features": made.features.flip(0)}
    monkeypatch.setattr("kinlmr.engine.snapshot", lambda *_: made._replace(**{broken: changed[broken]}))
    with pytest.raises(AssertionError):
        assert_live(model, clip())


def test_later_edits_do_not_reach_it():
    model = lively(kinlmr.build("smpl.yaml", **SMALL))
    live, before = model.live(), model.step(clip()[:, 0])
    with torch.no_grad():
        for parameter in (*model.parameters(), *model.buffers()):
            parameter.mul_(0)
    model.to(torch.float32)
    assert_same(live.step(clip()[:, 0])[0], before[0], 1e-10)


@pytest.mark.parametrize("fps", [30, 25])
def test_recover_takes_it_as_the_model(fps):
    keypoints = walker(6, fps, 2)
    live, whole = MODEL.live(), kinlmr.recover(MODEL, keypoints, fps)
    assert_same(kinlmr.recover(live, keypoints, fps)[0], whole[0], 1e-4)
    state = kinlmr.RecoveryState.initial(live, 2)
    for t in range(6):
        one, state = kinlmr.recover(live, keypoints[:, t : t + 1], fps, state)
        assert_same([x[:, 0] for x in one], [x[:, t] for x in whole[0]], 1e-4)


def assert_for_autograd(function, *args):
    """Every tensor that a function returns can be a factor of what is trained, and holds its own memory only."""
    found = function(*args)
    for x in (x for part in found for x in ([part] if isinstance(part, torch.Tensor) else part)):
        assert not x.is_inference()
        assert x.untyped_storage().nbytes() == x.nbytes
        if x.is_floating_point():
            factor = torch.ones_like(x, requires_grad=True)
            (factor * x).sum().backward()
            assert torch.equal(factor.grad.nan_to_num(), x.nan_to_num())


def test_answers_of_inference_mode_are_ordinary_tensors():
    live, keypoints = MODEL.live(), walker(6, 30, 2)
    with torch.inference_mode():  # what is kept from call to call is no worse for it
        recovery, _ = kinlmr.recover(MODEL, keypoints, 30)
        kinlmr.to_world(recovery, 30, (640, 480), 700)
    assert_for_autograd(kinlmr.recover, MODEL, keypoints, 30)
    assert_for_autograd(kinlmr.recover, live, keypoints[:, :1], 30)
    assert_for_autograd(live.step, torch.rand(2, MODEL.options.features))
    recovery, _ = kinlmr.recover(MODEL, keypoints, 30)
    world = functools.partial(kinlmr.to_world, recovery, 30, (640, 480), 700)
    assert_for_autograd(world)
    assert_for_autograd(functools.partial(world, state=kinlmr.WorldState.initial(2)))
    with pytest.raises(AssertionError):
        assert_for_autograd(torch.inference_mode()(lambda: (torch.ones(2),)))


def test_weights_of_another_type():
    torch.manual_seed(0)
    model = kinlmr.build("smpl.yaml", features=16, hidden=16)
    x = clip(2, 1, 16, torch.float32)[:, 0]
    expected = model.step(x)[0]
    half, state = model.weights_as(torch.bfloat16).live().step(x)
    assert half.pose.dtype == state.memory.dtype == torch.float32
    assert_same(half, expected, 0.03)


def test_what_does_not_fit_is_refused():
    model = kinlmr.build("smpl.yaml", dropout=0.5, **SMALL)
    with pytest.raises(ValueError, match=r"drops numbers at random; call model\.eval"):
        model.live()
    live = model.eval().live()
    with pytest.raises(ValueError, match="features of clip 1 are not finite"):
        live.step(torch.tensor([[0.0] * 5, [0.0] * 4 + [torch.nan]]))
    with pytest.raises(ValueError, match=r"expected features \(B, F\) with F = 5"):
        live.step(torch.zeros(1, 4))
    with pytest.raises(ValueError, match="expected a State"):
        live.step(torch.zeros(2, 5), model.initial_state(3))
