"""examples/world_clips.py, world_scores.py and train_world.py: bent paths, pooled figures, windows as beginnings."""

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import BODY

from kinlmr import motion
from kinlmr.rotations import axis_angle_to_matrix
from kinlmr.world import network

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples"))
import train_world  # noqa: E402
import world_scores  # noqa: E402
from world_clips import CIRCLE, circling, feet, standing  # noqa: E402

WHOLE = motion.load_motion(ROOT / "examples/data/motion.npz", BODY)[0]
JUMP = replace(WHOLE, axis_angle=WHOLE.axis_angle[300:390], translation=WHOLE.translation[300:390], cuts=())


def joints_of(piece):
    joints = BODY(axis_angle_to_matrix(piece.axis_angle).float()).joints
    return joints - joints[:, [BODY.root]] + piece.translation.float()[:, None]


def assert_bent(straight, bent):
    """Frame by frame the same body, turned about the vertical more and more, and standing feet stand as before."""
    one, two = joints_of(straight), joints_of(bent)
    assert (one[..., 1] - two[..., 1]).abs().max() < 1e-4
    assert (torch.cdist(one, one) - torch.cdist(two, two)).abs().max() < 1e-4
    angle = torch.deg2rad(torch.tensor(CIRCLE * (len(straight) - 1) / straight.fps))
    turn = axis_angle_to_matrix(torch.stack([0 * angle, angle, 0 * angle]))
    assert ((one[-1] - one[-1, :1]) @ turn.mT - (two[-1] - two[-1, :1])).abs().max() < 1e-4
    stands = standing(one, BODY.joints, straight.fps).flatten(1)
    moved = [(x[1:] - x[:-1])[:, feet(BODY.joints)].norm(dim=-1)[stands[1:]].mean() for x in (one, two)]
    assert moved[1] < moved[0] + 0.003


def test_a_bent_path_is_that_of_the_same_steps():
    bent = circling(JUMP, BODY)
    assert_bent(JUMP, bent)
    with pytest.raises(AssertionError):
        assert_bent(JUMP, JUMP)


def test_precision_and_recall_are_of_all_clips_together():
    generator = torch.Generator().manual_seed(0)
    clips = [
        (torch.rand(n, 2, generator=generator) > 0.5, torch.rand(n, 2, generator=generator) > 0.3) for n in (7, 40)
    ]
    rows = []
    for said, true in clips:
        counts = {"hits": said & true, "said": said, "true": true}
        row = {
            f"{part} {what}": float(x[:, i].sum())
            for i, part in enumerate(world_scores.PARTS)
            for what, x in counts.items()
        }
        rows.append(
            row | {"frames": float(len(said)), "knee": 1.0, "knee at most": float(len(said)), "w": float(len(said))}
        )
    found = world_scores.mean(rows)
    said, true = (torch.cat(x) for x in zip(*clips, strict=True))
    for i, part in enumerate(world_scores.PARTS):
        hits = (said & true)[:, i].sum()
        assert found[f"{part} precision"] == pytest.approx(100 * float(hits / said[:, i].sum()))
        assert found[f"{part} recall"] == pytest.approx(100 * float(hits / true[:, i].sum()))
    assert found["knee at most"] == 40
    assert found["w"] == pytest.approx((7 * 7 + 40 * 40) / 47)


def test_every_setting_is_scored_once():
    args = argparse.Namespace(world=["level", "up 40"], fps=[30.0, 60.0], detector=["slow", "off"], circling=True)
    found = world_scores.settings(args)
    assert len(found) == len(set(found)) == 9
    assert (30.0, False, "slow", "up 40") in found
    assert {x[:3] for x in found if x[3] == "level"} == {
        (fps, bent, noise) for fps in (30.0, 60.0) for bent in (False, True) for noise in ("slow", "off")
    }


@settings(max_examples=5)
@given(st.sampled_from((15.0, 25.0, 30.0, 60.0, 100.0)), st.integers(0, 99))
def test_a_window_begins_as_somebody_who_is_first_seen(fps, seed):
    """Of somebody who moves evenly, velocities from a beginning are the settled ones times `begun`."""
    generator, every = torch.Generator().manual_seed(seed), max(1, round(fps / network.TICK))
    frames = train_world.WINDOW * every
    x = torch.arange(frames)[:, None] / fps * torch.randn(network.NUMBERS, generator=generator)
    means = network.start(1, x)[0]
    found, _ = network._velocities(x[None], torch.ones(1, frames, network.NUMBERS, dtype=torch.bool), 1 / fps, means)
    factor = train_world.begun(torch.tensor(network.TICK / fps).log())
    speed = (x[-1] - x[-2]) * fps
    for tau, part in enumerate(train_world.SPEEDS[:2]):
        assert (found[0, ::every, tau] - factor[:, part][:, :1] * speed).abs().max() < 1e-3
    assert (found[0, every, 1] - speed).abs().max() > 1e-2  # without it they are not


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_sample_shows_the_same_moments_at_every_rate(mirrored):
    """At 60 and 120 frames a second the network looks at the same moments, at 24 at others."""
    frames, generator = 120, torch.Generator().manual_seed(0)
    rand = lambda *size: torch.rand(1, frames, *size, generator=generator)  # noqa: E731
    seen, eye = torch.ones(1, frames, dtype=torch.bool), torch.eye(3).expand(1, frames, 3, 3)
    signals = network.Signals(rand(10, 3), 1 + rand(3), seen, eye, rand(6, 3), rand(6), eye)
    piece = (*signals, rand(4)[0] > 0.5, torch.tensor([0.0, -1.0, 0.0]), rand(3)[0], torch.tensor(60.0))
    one, two, slow = (train_world.sample_of(piece, ratio, mirrored) for ratio in (1.0, 0.5, 2.5))
    count = len(two.stands)
    assert torch.equal(one.stands[:count], two.stands)
    assert (one.features[:count, :30] - two.features[:, :30]).abs().max() < 1e-5
    assert slow.features[0, -1] == pytest.approx(math.log(network.TICK / 24))
    assert not torch.equal(slow.stands, one.stands[: len(slow.stands)])
