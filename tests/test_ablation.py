"""The ablation, on a few frames: what it trains and tests on, that it resumes, that its scores mean what they say."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import kinlmr
from kinlmr import clips
from kinlmr.motion import load_motion, save_motion

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))
import ablation  # noqa: E402


@pytest.fixture(scope="module")
def body():
    return kinlmr.load_body("anny24_lo369", points="coco17")


@pytest.fixture(scope="module")
def recordings(body):
    return load_motion(ROOT / "examples/data/motion.npz", body)


@pytest.fixture
def run(tmp_path, monkeypatch, recordings):
    short = [
        replace(m, rotations=m.rotations[:60], translation=m.translation[:60], name=name, subject=name)
        for m, name in zip(recordings, ("tested", "trained"), strict=True)
    ]
    save_motion([*short, replace(short[1], name="left_out", subject="someone")], tmp_path / "motion.npz")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ablation, "BATCH", 2)
    monkeypatch.setattr(ablation, "TOGETHER", 1)
    monkeypatch.setattr(ablation, "VIGOROUS", 20)
    monkeypatch.setattr(ablation, "WINDOW", 40)
    monkeypatch.setattr(ablation, "GRAPHS", {name: ablation.GRAPHS[name] for name in ("single RNN", "LMR", "ktd")})

    def call(*options):
        subjects = ["--test", "tested", "--leave", "someone"]
        defaults = ["--motion", "motion.npz", *subjects, "--hidden", "40", "--steps", "1"]
        monkeypatch.setattr(sys, "argv", ["ablation.py", *defaults, "--device", "cpu", "--out", "out", *options])
        ablation.main()

    return call


def test_it_compares_all_graphs_and_goes_on_where_it_was(run, tmp_path, capsys, monkeypatch):
    run("--seeds", "0")
    text = (tmp_path / "out/ablation.md").read_text()
    assert text in capsys.readouterr().out
    kept = {path.name: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")}
    assert len(kept) == 4
    lmr = next(r for r in kept.values() if r["graph"] == "LMR")
    for r in kept.values():
        assert "matched" not in r["sizings"] or abs(r["parameters"] / lmr["parameters"] - 1) <= 0.02
        assert "equal" not in r["sizings"] or r["hidden"] == 40
        assert all(r[metric] > 0 for metric in ablation.METRICS)
        assert set(r["local"]) == {"head", "left_arm", "right_arm", "left_leg", "right_leg"}
    for graph in ablation.GRAPHS:
        assert f"| {graph} |" in text

    def nothing_to_do(*args):
        raise AssertionError("trained again")

    monkeypatch.setattr(ablation, "learn", nothing_to_do)
    run("--seeds", "0")
    assert (tmp_path / "out/ablation.md").read_text() == text
    with pytest.raises(AssertionError, match="trained again"):
        run("--seeds", "0", "1")


def test_test_subjects_are_never_trained_on(run, monkeypatch):
    seen = []
    bank = clips.bank
    monkeypatch.setattr(clips, "bank", lambda motions, frames: seen.extend(motions) or bank(motions, frames))
    run("--seeds", "0")
    assert [m.name for m in seen] == ["trained"]


def test_hidden_sizes_match_the_parameters():
    wanted = ablation.size("smpl.yaml", 128)
    for graph in ablation.GRAPHS.values():
        assert abs(ablation.size(graph, ablation.matched(graph, wanted)) - wanted) <= 0.02 * wanted
    assert ablation.matched("smpl.yaml", wanted) == 128
    with pytest.raises(SystemExit, match="no hidden size gives 1,000 parameters"):
        ablation.matched("smpl.yaml", 1000)


def test_pieces_hold_every_frame_once_and_never_cross_a_cut(recordings):
    m = replace(recordings[0], cuts=(70, 71, 300))
    cut = clips.pieces([m], 100, 1)
    assert torch.equal(torch.cat([p.rotations for p in cut]), m.rotations)
    ends = torch.tensor([len(p) for p in cut]).cumsum(0).tolist()
    assert {70, 71, 300} <= set(ends)
    assert max(len(p) for p in cut) <= 100
    assert all(len(p) >= 16 for p in clips.pieces([m], 100, 16))


def test_isolated_joints_move_and_no_others():
    generator = torch.Generator().manual_seed(0)
    rotations = kinlmr.rotations.axis_angle_to_matrix(torch.randn(2, 5, 24, 3, generator=generator))
    alone = ablation.isolate(rotations, [3, 5])
    assert torch.equal(alone[:, :, [3, 5]], rotations[:, :, [3, 5]])
    still = [j for j in range(24) if j not in (3, 5)]
    assert torch.equal(alone[:, :, still], rotations[:, :1, still].expand(-1, 5, -1, -1, -1))
    assert torch.equal(ablation.isolate(rotations, range(24)), rotations)


def test_drift_of_what_holds_still_and_of_what_moves():
    still = torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(0)).expand(10, 4, 3)
    assert ablation.drift(still) < 1e-3
    swing = torch.tensor([1.0, -1.0]).repeat(5)[:, None, None] * torch.tensor([0.01, 0, 0])
    assert torch.allclose(ablation.drift(still + swing), torch.tensor(10.0), atol=1e-3)


def test_one_limb_moves_and_the_rest_of_the_body_is_still(recordings, body):
    limbs = ablation.vigorous(recordings, body)
    plan = kinlmr.compile(kinlmr.load_skeleton("smpl.yaml"))
    for part, joints in zip(plan.parts[1:], plan.joints[1:], strict=True):
        still = [j for j in range(24) if j not in joints]
        assert torch.equal(limbs[part][:, :, still], limbs[part][:, :1, still].expand_as(limbs[part][:, :, still]))
        places = body(limbs[part]).joints
        assert ablation.drift(places[..., still, :]).max() < 1e-3
        assert ablation.drift(places[..., list(joints)[1:], :]).mean() > 10


def test_a_perfect_model_does_not_drift(recordings, body):
    """The score of one that knows the truth is zero; of one that answers with another limb's motion it is not."""
    model = ablation.build("smpl.yaml", 4)
    limbs = ablation.vigorous(recordings, body)
    truths = [x for moving in limbs.values() for x in (moving, moving[:, :1].expand_as(moving))]

    def told(answers):
        queue = iter(answers)

        def answer(features):
            pose = model.rotation.from_matrix(next(queue))
            shape, camera = (x.expand(*pose.shape[:2], -1) for x in (model.start.shape, model.start.camera))
            return kinlmr.Estimate(pose, shape, camera)

        answer.matrices = model.matrices
        return answer

    for scores in ablation.local_dynamics(told(truths), limbs, body).values():
        assert max(scores["moving"], scores["nothing moving"]) < 1e-3
    swaying = [x if i % 2 else truths[(i + 2) % len(truths)] for i, x in enumerate(truths)]
    for scores in ablation.local_dynamics(told(swaying), limbs, body).values():
        assert scores["moving"] > 0.1
        assert scores["nothing moving"] < 1e-3


def test_runs_on_other_data_are_not_mixed_in(run):
    run("--seeds", "0")
    with pytest.raises(SystemExit, match="is a run on other data .*give this one another --out"):
        run("--seeds", "0", "--leave")


def test_what_cannot_be_done_is_said_before_training(run):
    with pytest.raises(SystemExit, match="0 recordings to test on and 2 to train on"):
        run("--test", "nobody")
    with pytest.raises(SystemExit, match="--out motion.npz/deeper cannot be written"):
        run("--out", "motion.npz/deeper")
