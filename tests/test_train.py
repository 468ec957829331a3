"""The main job, on a few frames: what it writes, what it refuses, and that a resumed run equals a whole one."""

import json
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import kinlmr
from kinlmr.motion import load_motion, save_motion

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))
import train_minimal  # noqa: E402


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the script in a folder of its own, on two short recordings, seen from one side."""
    motions = load_motion(ROOT / "examples/data/motion.npz", "anny24_lo369")
    short = [
        replace(m, rotations=m.rotations[:40], translation=m.translation[:40], name=name)
        for m, name in zip(motions, ("held", "kept"), strict=True)
    ]
    save_motion(short, tmp_path / "motion.npz")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_minimal, "BATCH", 3)
    monkeypatch.setattr(train_minimal, "VIEWS", (0.0,))

    def call(*options):
        defaults = ["--motion", "motion.npz", "--test", "held", "--hidden", "4", "--steps", "4", "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", ["train_minimal.py", *defaults, *map(str, options)])
        train_minimal.main()

    return call


def assert_same_checkpoint(one, two):
    """Two checkpoints hold the same numbers, to the last bit."""
    left, right = (torch.load(path, weights_only=True) for path in (one, two))
    assert left["step"] == right["step"]
    for name in ("model", "baseline"):
        for key, value in left[name].items():
            assert torch.equal(value, right[name][key]), key
        moments = [saved[f"{name} optimizer"]["state"] for saved in (left, right)]
        for i, state in moments[0].items():
            assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(moments[1][i][k])) for k, v in state.items())


def test_it_trains_scores_and_saves(run, capsys, tmp_path):
    run()
    out = capsys.readouterr().out
    for line in ("mean pose", "LMR, untrained", "one frame at a time", "LMR by part", "PA-MPJPE"):
        assert line in out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        ["checkpoint.pt", "lmr.npz", "run.json", *(["result.png"] if (tmp_path / "out/result.png").exists() else [])]
    )
    figures = json.loads((tmp_path / "out/run.json").read_text())["results"]
    assert set(figures) == {"mean pose", "LMR, untrained", "one frame at a time", "LMR"}
    assert set(figures["LMR"]["parts"]) == {"root", "head", "left_arm", "right_arm", "left_leg", "right_leg"}
    assert kinlmr.load("out/lmr.npz").options["features"] == 51


def test_resumed_equals_uninterrupted(run, monkeypatch, tmp_path):
    run("--out", "whole")
    step = torch.optim.AdamW.step
    taken = []

    def interrupted(self, *args, **kwargs):
        result = step(self, *args, **kwargs)
        taken.append(1)
        if len(taken) == 3:  # in the middle of the second step
            signal.raise_signal(signal.SIGINT)
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", interrupted)
    with pytest.raises(SystemExit, match="stopped at step 2; the same command with --resume goes on"):
        run("--out", "parts")
    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(AssertionError):
        assert_same_checkpoint(tmp_path / "whole/checkpoint.pt", tmp_path / "parts/checkpoint.pt")
    run("--out", "parts", "--resume")
    assert_same_checkpoint(tmp_path / "whole/checkpoint.pt", tmp_path / "parts/checkpoint.pt")


def test_a_loss_that_is_not_finite_stops_and_is_named(run, monkeypatch, tmp_path):
    run("--steps", 2)
    before = (tmp_path / "out/checkpoint.pt").read_bytes()
    draw = train_minimal.clips.draw

    def spoiled(*args, **kwargs):
        batch = draw(*args, **kwargs)
        if args[3] > 1:  # not where the mean pose is taken
            batch.rotations[1] = torch.nan
        return batch

    monkeypatch.setattr(train_minimal.clips, "draw", spoiled)
    with pytest.raises(
        SystemExit, match=r"the loss is nan at step 2, first in clip \d of the batch, kept from frame \d+; "
    ):
        run("--resume", "--skeleton", "smpl.yaml")
    assert (tmp_path / "out/checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--skeleton", "mano.yaml"], "skeleton mano.yaml has other joints than the body; examples/fit_clip.py"),
        (["--test", "nobody"], "--test nobody: 0 recordings to test on and 2 to train on; both need one"),
        (["--resume"], "--resume: there is no out/checkpoint.pt"),
        (["--out", "motion.npz/deeper"], "--out motion.npz/deeper cannot be written"),
    ],
)
def test_what_cannot_be_done_is_said_before_training(run, options, message):
    with pytest.raises(SystemExit, match=message):
        run(*options)


def test_a_checkpoint_that_does_not_fit(run):
    run("--steps", 1)
    with pytest.raises(SystemExit, match="--resume: out/checkpoint.pt does not fit this run"):
        run("--resume", "--hidden", 5)
