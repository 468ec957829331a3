"""Models, clips and keypoints that several tests share, and what the plain loop makes of them."""

import contextlib
from functools import partial

import pytest
import reference
import torch
from laws import assert_same
from torch import nn

import kinlmr
from kinlmr import Estimate, State
from kinlmr.engine import sweep
from kinlmr.reference import estimate

SMALL = dict(features=5, hidden=4, shape=2)


def lively(model, dtype=torch.float64, seed=0):
    """The model with every number drawn anew, so that no term is too small to matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            scale = 0.01 if name.startswith("shape") else 0.3
            value.copy_(scale * torch.randn(value.shape, generator=generator))
    return model.to(dtype)


def clip(batch=2, frames=4, features=5, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, frames, features, generator=generator, dtype=torch.float64).to(dtype)


def reference_of(model, features, tensors=None):
    """What the plain loop makes of a model's tensors, or of others in their place."""
    o = model.options
    settings = o["iterations"], o["cell"], o["camera_input"], o["shape_input"]
    return reference.lmr(tensors or model.state_dict(), model.plan.skeleton, features, *settings)


def assert_equals_reference(model, features, tolerance):
    """The model computes what the plain loop computes from its checkpoint."""
    assert_same(model(features), reference_of(model, features), tolerance)


class Step(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, frame, memory):
        estimate, state = self.model.step(frame, State(memory))
        return (*estimate, *state)


def weighted(tensors, seed=0):
    """A scalar that every number has its own share in."""
    generator = torch.Generator().manual_seed(seed)
    return sum((x * torch.randn(x.shape, generator=generator).to(x)).sum() for x in tensors)


def assert_gradients_equal_reference(model, features, tolerance, **call):
    """Estimates, states, and the gradients of all parameters and features are those of the paper's loop, relative to
    the largest."""
    x = features.clone().requires_grad_()
    names, inputs = zip(("features", x), *model.named_parameters(), strict=True)
    found = []
    for run in (model, partial(estimate, model)):
        out = run(x, **call)
        out = (*out[0], *out[1]) if "state" in call else out
        found.append([*torch.autograd.grad(weighted(out), inputs, allow_unused=True), *out])
    for name, one, two in zip((*names, *Estimate._fields, "memory"), *found, strict=False):
        one, two = (torch.zeros(1) if g is None or not g.numel() else g for g in (one, two))
        assert (one - two).abs().max() <= tolerance * (1 + two.abs().max()), name


@contextlib.contextmanager
def stacked(together):
    """Nodes of one level as one, their weights stacked, as on a GPU, or each with its own, as large ones on a CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "_stacked", lambda *_: together)
        yield


def small(keypoints="coco17", **options):
    """A random model of the small free body, upright before the camera, that answers to what it sees."""
    torch.manual_seed(0)
    pose = torch.eye(3).repeat(24, 1, 1)
    pose[0] = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    camera = (0.9, 0.0, 0.0)[: options.get("camera", 3)]
    options["start"] = kinlmr.ROTATIONS["6d"].from_matrix(pose), torch.zeros(10), torch.tensor(camera)
    model = kinlmr.build(
        "smpl.yaml", keypoints=keypoints, body="anny24_lo369", hidden=8, shape_hidden=8, iterations=2, **options
    )
    for node in model.nodes().values():
        node.head.weight.data.mul_(3)
    return model.eval()


MODEL = small()


BODY = kinlmr.load_body("anny24_lo369", keypoints="coco17")


def walker(frames, fps=30.0, people=1, seed=0):
    """Keypoints (B, T, 17, 3) in pixels of bodies that swing their limbs and drift to the right."""
    generator = torch.Generator().manual_seed(seed)
    time = (torch.arange(frames) / fps)[:, None, None]
    swing, phase = torch.rand(2, people, 1, 24, 3, generator=generator)
    turns = 0.5 * swing * (6 * phase + 4 * time).sin()
    turns[:, :, 0] = torch.tensor([torch.pi, 0.0, 0.0])
    points = BODY(kinlmr.rotations.axis_angle_to_matrix(turns), want=("keypoints",)).keypoints[..., :2]
    drift = torch.stack([60 * time[..., 0], 0 * time[..., 0]], -1)
    confidence = 0.5 + 0.5 * torch.rand(people, frames, 17, 1, generator=generator)
    return torch.cat([300 + 150 * points + drift, confidence], -1)
