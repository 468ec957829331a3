"""What torch.compile, ONNX and bfloat16 make of the engine, and many steps of training: its tests that take long."""

import copy
import functools

import pytest
import torch
from laws import assert_same
from models import SMALL, Step, clip, lively, reference_of, weighted

import kinlmr


def test_twenty_steps_in_lockstep():
    model = lively(kinlmr.build("smpl.yaml", **SMALL))
    tensors = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    buffers = {n: b for n, b in model.state_dict().items() if n not in tensors}
    optimizers = [torch.optim.Adam(p, 1e-3) for p in (model.parameters(), tensors.values())]
    for step in range(20):
        x = clip(frames=2, seed=step)
        for optimizer, run in zip(
            optimizers, (model, lambda x: reference_of(model, x, tensors | buffers)), strict=True
        ):
            optimizer.zero_grad()
            sum(value.square().mean() for value in run(x)).backward()
            optimizer.step()
    for name, parameter in model.named_parameters():
        assert_same([parameter], [tensors[name]], 1e-9)


@functools.cache
def fitted(steps):
    """A model after so many steps of training, and what it was trained on."""
    torch.manual_seed(0)
    model = kinlmr.build("smpl.yaml", features=64, hidden=64)
    x, turns = clip(4, 12, 64, torch.float32), 0.5 * clip(4, 12, 72, torch.float32).unflatten(-1, (24, 3))
    target = model.rotation.from_matrix(kinlmr.rotations.axis_angle_to_matrix(turns))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x).pose - target).square().mean().backward()
        optimizer.step()
    return model, x


@pytest.mark.parametrize("steps", [0, 50])
@pytest.mark.parametrize("how", ["autocast", "weights"])
def test_bfloat16_products(steps, how):
    model, x = fitted(steps)
    expected = model.matrices(model(x))
    other = copy.deepcopy(model)
    if how == "weights":
        assert other.weights_as(torch.bfloat16) is other
        estimate, state = other(x, state=other.initial_state(4))
    else:
        with torch.autocast("cpu", torch.bfloat16):
            estimate, state = other(x, state=other.initial_state(4))
        weighted(estimate).backward()
        exact = torch.autograd.grad(weighted(model(x)), list(model.parameters()))
        for one, two in zip(other.parameters(), exact, strict=True):
            assert (one.grad - two).norm() < 0.1 * two.norm() + 1e-3  # a ReLU may flip where it is near zero
    assert all(value.dtype == torch.float32 for value in (*estimate, *state))
    error = (other.matrices(estimate) - expected).abs().max()
    assert 0 < error < 1e-2


def test_compiles_whole():
    model = lively(kinlmr.build("smpl.yaml", iterations=2, **SMALL))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = clip(frames=2)
    assert_same(compiled(x), model(x), 1e-12)
    weighted(compiled(x)).backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    weighted(model(x)).backward()
    assert_same(gradients, [p.grad for p in model.parameters()], 1e-11)


@pytest.mark.filterwarnings("ignore:.*assigned during export.*")
@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 7),
    reason="torch 2.6 traces an nn.LSTM's state with an axis too many",
)
def test_a_step_exports():
    """Of LSTMs; tests/apps/test_export_onnx.py makes its file of the same export, of GRUs."""
    model = lively(kinlmr.build("smpl.yaml", cell="lstm", **SMALL)).eval()
    frame, state = clip()[:, 0], model.initial_state(2)
    batch = torch.export.Dim("B", min=2, max=64)
    program = torch.export.export(
        Step(model), (frame, state.memory), dynamic_shapes=({0: batch}, {0: batch}), strict=False
    ).module()
    frame, state = clip(5)[:, 0], model.initial_state(5)
    estimate, after = model.step(frame, state)
    assert_same(program(frame, state.memory), (*estimate, *after), 1e-12)
    estimate, after = model.step(frame, after)
    assert_same(program(frame, program(frame, state.memory)[-1]), (*estimate, *after), 1e-12)
