"""The ablation, on a few frames: what it trains and tests on, that it resumes, that its scores mean what they say."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import kinlmr
from kinlmr.motion import clips
from kinlmr.motion.archives import load_motion, save_motion

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples"))
import ablation  # noqa: E402
import limbs  # noqa: E402
import real  # noqa: E402
import train  # noqa: E402

AIST = ROOT.parent / "shared/aist"


@pytest.fixture(scope="module")
def body():
    return kinlmr.load_body("anny24_lo369", keypoints="coco17")


@pytest.fixture(scope="module")
def recordings(body):
    return load_motion(ROOT / "examples/data/motion.npz", body)


@pytest.fixture
def run(tmp_path, monkeypatch, recordings):
    short = [
        replace(m, axis_angle=m.axis_angle[:90], translation=m.translation[:90], name=name, subject=name)
        for m, name in zip(recordings, ("tested", "trained"), strict=True)
    ]
    save_motion([*short, replace(short[1], name="left_out", subject="someone")], tmp_path / "motion.npz")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ablation, "BATCH", 2)
    monkeypatch.setattr(limbs, "TOGETHER", 1)

    def call(*options):
        subjects = ["--test", "tested", "--leave", "someone"]
        defaults = ["--motion", "motion.npz", *subjects, "--hidden", "24", "--steps", "4", "--seeds", "0"]
        monkeypatch.setattr(sys, "argv", ["ablation.py", *defaults, "--device", "cpu", "--out", "out", *options])
        ablation.main()

    return call


def test_it_compares_all_graphs_and_goes_on_where_it_was(run, tmp_path, capsys, monkeypatch):
    run()
    text = (tmp_path / "out/ablation.md").read_text()
    assert text in capsys.readouterr().out
    kept = {path.name: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")}
    graphs = [*ablation.GRAPHS, "smpl_pairs"]
    assert sorted(r["graph"] for r in kept.values()) == sorted(graphs)
    lmr = next(r for r in kept.values() if r["graph"] == "LMR")
    for r in kept.values():
        assert abs(r["parameters"] / lmr["parameters"] - 1) <= 0.02
        assert all(r["overall"][metric] > 0 for metric in ablation.METRICS)
        for limb in ("arm", "leg"):
            assert [len(x) for x in r["lost"][f"{limb} hidden"].values()] == [limbs.HIDDEN + limbs.AFTER] * 2
            assert [len(x) for x in r["lost"][f"{limb}s swapped"].values()] == [limbs.SWAPPED + limbs.AFTER] * 2
    assert all(text.count(f"| {graph} |") == 6 for graph in graphs)

    def nothing_to_do(*args):
        raise AssertionError("trained again")

    monkeypatch.setattr(ablation, "trained", nothing_to_do)
    run()
    assert (tmp_path / "out/ablation.md").read_text() == text
    with pytest.raises(AssertionError, match="trained again"):
        run("--seeds", "0", "1")
    with pytest.raises(SystemExit, match="is a run on other data .*give this one another --out"):
        run("--leave")


def test_it_trains_with_the_noise_that_is_asked_for(run, monkeypatch):
    sample = clips.sample

    def told(*args):
        if len(args) > 5:
            raise ValueError(f"trained with {[name for name, noise in train.NOISES.items() if args[5] is noise]}")
        return sample(*args)

    monkeypatch.setattr(clips, "sample", told)
    for options, name in ((), "wide"), (("--noise", "any"), "any"):
        with pytest.raises(ValueError, match=rf"trained with \['{name}'\]"):
            run(*options)


@pytest.mark.skipif(not AIST.is_dir(), reason="needs ../shared/aist")
def test_real_keypoints_are_scored_as_by_real_py(run, tmp_path, monkeypatch):
    for name in ("aist_ch02", "aist_ch07"):
        with np.load(AIST / f"{name}.npz") as file:
            arrays = {key: file[key] for key in ("kp2d", "joints3d_loo", "good_loo", "R", "t", "fps", "K")}
        cut = {key: x[:2, 200:260] if x.ndim > 1 and x.shape[1] > 60 else x[:2] if x.ndim else x
               for key, x in arrays.items()}  # fmt: skip
        np.savez(tmp_path / f"{name}.npz", **cut)
    trained = ablation.trained
    monkeypatch.setattr(ablation, "trained", lambda *args: kept.append(trained(*args)) or kept[-1])
    kept = []
    run("--graphs", "LMR", "--aist", str(tmp_path))
    kinlmr.save(kept[0], "model.npz")
    monkeypatch.setattr(sys, "argv", ["real.py", "model.npz", "--aist", str(tmp_path), "--fps", "30"])
    real.main()
    found = json.loads(Path("real.json").read_text())["aist"]["results"]
    (path,) = (tmp_path / "out").glob("*.json")
    own = json.loads(path.read_text())["real"]
    assert set(own) == {"model", "mean pose"}
    for who, groups in own.items():
        assert set(groups) == {"upright", "floor", "all"}
        for group, row in groups.items():
            assert row == pytest.approx(found[who][group]["overall"][""])
    assert json.loads(path.read_text())["graph"] == "LMR"
    text = (tmp_path / "out/ablation.md").read_text()
    assert f"| LMR | {own['model']['upright']['pa12']:.1f} ± 0.0 | {own['model']['floor']['pa12']:.1f} ± 0.0 |" in text
    for options in ((), ("--aist", str(tmp_path), "--noise", "any")):
        with pytest.raises(SystemExit, match="is a run on other data .*'noise': 'wide', 'aist': '"):
            run("--graphs", "LMR", *options)


def test_tables_hold_means_deviations_and_gains_of_the_same_seed():
    def a_run(graph, seed, error):
        lost = {"lost": [error] * (limbs.HIDDEN + limbs.AFTER), "seen": [10.0] * (limbs.HIDDEN + limbs.AFTER)}
        figures = {"hidden": 1, "parameters": 2, "overall": dict.fromkeys(ablation.METRICS, error), "steps": 3}
        still = dict.fromkeys(("moving", "nothing moving", "follow"), error)
        found = {"upright": {"pa12": error}, "floor": {"pa12": 2 * error}, "all": {"accel": 3 * error}}
        figures |= {"graph": graph, "seed": seed, "lost": {"arm hidden": lost}, "still": still, "seconds": 60}
        return figures | {"real": {"model": found}}

    single = [a_run("single RNN", seed, error) for seed, error in enumerate((100.0, 200.0))]
    lone = [a_run("LMR, no root", seed, error) for seed, error in enumerate((50.0, 100.0))]
    lmr = [a_run("LMR", seed, error) for seed, error in enumerate((55.0, 130.0))]
    text = ablation.report([*single, *lone, *lmr])
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| LMR |")]
    assert rows[0][3] == "92.5 ± 53.0"
    assert rows[0][-4:] == ["-40.0 ± 7.1", "-6.8", "-40.0 ± 7.1", "-17.9"]
    assert rows[1][1] == "10.0 ± 0.0"
    assert rows[1][-2:] == ["+20.0 ± 14.1", "+20.0 ± 14.1"]
    assert rows[-1][1:4] == ["92.5 ± 53.0", "185.0 ± 106.1", "277.5 ± 159.1"]
    assert rows[-1][4:] == ["-40.0 ± 7.1"] * 3 + ["+20.0 ± 14.1"] * 3
    assert "6 runs of 3 steps" in text
    without = [{key: x for key, x in run.items() if key != "real"} for run in lmr]
    assert "Real keypoints" in text
    assert "Real keypoints" not in ablation.report(without)


def test_test_subjects_are_never_trained_on(run, monkeypatch):
    def bank(motions, frames):
        raise ValueError(f"trained on {[m.name for m in motions]}")

    monkeypatch.setattr(clips, "bank", bank)
    with pytest.raises(SystemExit, match=r"trained on \['trained'\]"):
        run()


def test_hidden_sizes_match_the_parameters():
    wanted = ablation.size("smpl.yaml", 96)
    for graph in (*ablation.GRAPHS.values(), "smpl_chain.yaml"):
        assert abs(ablation.size(graph, ablation.matched(graph, wanted)) - wanted) <= 0.02 * wanted
    assert ablation.matched("smpl.yaml", wanted) == 96
    with pytest.raises(SystemExit, match="no hidden size gives 1,000 parameters"):
        ablation.matched("smpl.yaml", 1000)


def test_pieces_hold_every_frame_once_and_never_cross_a_cut(recordings):
    m = replace(recordings[0], cuts=(70, 71, 300))
    cut = clips.pieces([m], 100, 1)
    assert torch.equal(torch.cat([p.axis_angle for p in cut]), m.axis_angle)
    ends = torch.tensor([len(p) for p in cut]).cumsum(0).tolist()
    assert {70, 71, 300} <= set(ends)
    assert max(len(p) for p in cut) <= 100
    assert all(len(p) >= 16 for p in clips.pieces([m], 100, 16))


def test_isolated_joints_move_and_no_others():
    generator = torch.Generator().manual_seed(0)
    rotations = kinlmr.rotations.axis_angle_to_matrix(torch.randn(2, 5, 24, 3, generator=generator))
    alone = limbs.isolate(rotations, [3, 5])
    assert torch.equal(alone[:, :, [3, 5]], rotations[:, :, [3, 5]])
    still = [j for j in range(24) if j not in (3, 5)]
    assert torch.equal(alone[:, :, still], rotations[:, :1, still].expand(-1, 5, -1, -1, -1))
    assert torch.equal(limbs.isolate(rotations, range(24)), rotations)


def test_drift_of_what_holds_still_and_of_what_moves():
    still = torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(0)).expand(10, 4, 3)
    assert limbs.drift(still) < 1e-3
    swing = torch.tensor([1.0, -1.0]).repeat(5)[:, None, None] * torch.tensor([0.01, 0, 0])
    assert torch.allclose(limbs.drift(still + swing), torch.tensor(10.0), atol=1e-3)


def test_one_limb_moves_and_the_rest_of_the_body_is_still(recordings, body):
    moving = limbs.vigorous(recordings, body)
    plan = kinlmr.compile(kinlmr.load_skeleton("smpl.yaml"))
    for part, joints in zip(plan.parts[1:], plan.joints[1:], strict=True):
        still = [j for j in range(24) if j not in joints]
        assert torch.equal(moving[part][:, :, still], moving[part][:, :1, still].expand_as(moving[part][:, :, still]))
        places = body(moving[part]).joints
        assert limbs.drift(places[..., still, :]).max() < 1e-3
        assert limbs.drift(places[..., list(joints)[1:], :]).mean() > 10


class Told:
    """A network that answers with motions that it is told, one after another: rotations (B, T, J, 3, 3)."""

    def __init__(self, answers):
        self.model, self.answers = ablation.build("smpl.yaml", 4), iter(answers)

    def initial_state(self, batch):
        return None

    def matrices(self, estimate):
        return self.model.matrices(estimate)

    def __call__(self, features, state):
        start, pose = self.model.start, self.model.rotation.from_matrix(next(self.answers))
        assert len(pose) == len(features)
        shape, camera = (x.expand(*pose.shape[:2], -1) for x in (start.shape, start.camera))
        return kinlmr.Estimate(pose, shape, camera), state


def test_a_perfect_model_does_not_drift(recordings, body, monkeypatch):
    """The score of one that knows the truth is zero; of one that answers with another limb's motion it is not."""
    monkeypatch.setattr(limbs, "TOGETHER", 2)
    moving = limbs.vigorous(recordings, body)
    truths = [x for motion in moving.values() for x in (motion, motion[:, :1].expand_as(motion))]
    scores = limbs.score_still(Told(truths), moving, body, 30.0)
    assert max(scores["moving"], scores["nothing moving"]) < 1e-3
    swaying = [x if i % 2 else truths[(i + 2) % len(truths)] for i, x in enumerate(truths)]
    scores = limbs.score_still(Told(swaying), moving, body, 30.0)
    assert scores["moving"] > 0.1
    assert scores["nothing moving"] < 1e-3


def test_hidden_points_are_zero_in_their_frames_and_nothing_else_changes():
    keypoints = torch.rand(2, 9, 17, 3) + 1
    hidden = limbs.hide(keypoints, [7, 9], 4, 3)
    changed = (hidden != keypoints).any(-1)
    assert not hidden[:, 4:7, [7, 9]].any()
    assert changed[:, 4:7, [7, 9]].all()
    assert changed.sum() == 2 * 3 * 2


def test_swapped_points_are_on_the_other_side_and_swapping_twice_is_the_identity(body):
    keypoints, names = torch.rand(2, 9, 17, 3), body.keypoints.names
    arms = [names.index(f"{side}_{end}") for end in ("elbow", "wrist") for side in ("left", "right")]
    swapped = limbs.swap(keypoints, names, arms, 4, 3)
    for end in ("elbow", "wrist"):
        left, right = names.index(f"left_{end}"), names.index(f"right_{end}")
        assert torch.equal(swapped[:, 4:7, left], keypoints[:, 4:7, right])
        assert torch.equal(swapped[:, 4:7, right], keypoints[:, 4:7, left])
    assert (swapped != keypoints).any(-1).sum() == 2 * 3 * 4
    assert torch.equal(limbs.swap(swapped, names, arms, 4, 3), keypoints)


@pytest.fixture(scope="module")
def lost(recordings, body):
    short = [replace(m, axis_angle=m.axis_angle[:140], translation=m.translation[:140]) for m in recordings]
    return limbs.trials(short, body)


def test_trials_are_the_same_clips_until_the_limb_is_lost(lost, body):
    assert {trial.name for trial in lost.lost} == {"arm hidden", "arms swapped", "leg hidden", "legs swapped"}
    assert len(lost.lost) == 6
    assert len(lost.features) == len(lost.joints) == 4
    for trial in lost.lost:
        first, points = limbs.BEFORE, trial.features.unflatten(-1, (17, 3))
        assert torch.equal(trial.features[:, :first], lost.features[:, :first])
        assert not torch.equal(trial.features[:, first], lost.features[:, first])
        unseen = (points[:, first : first + trial.frames, :, 2] == 0).all((0, 1))
        names = {body.keypoints.names[k].split("_")[1] for k in unseen.nonzero()[:, 0]}
        assert names == ({"elbow", "wrist"} if trial.name == "arm hidden" else
                         {"knee", "ankle"} if trial.name == "leg hidden" else set())  # fmt: skip
        assert (points[:, first + trial.frames :, :, 2] == 0).float().mean() < 0.1


def test_the_detector_sees_the_joints_that_are_scored(recordings, body):
    """Without noise the keypoints are the truth's picture: wrists and ankles near the projected joints."""
    keypoints, joints = limbs.seen(clips.pieces(recordings, 66, 66)[:3], body)
    image = clips.FOCAL * joints[..., :2] / (joints[..., 2:] + clips.REST_DISTANCE) + clips.FOCAL
    for name in ("left_wrist", "right_wrist", "left_ankle", "right_ankle"):
        own = keypoints[:, :, body.keypoints.names.index(name)]
        apart = (own[..., :2] - image[:, :, body.joints.index(name)]).norm(dim=-1)
        assert apart[own[..., 2] > 0].median() < 15  # pixels, of a person of about 400


def test_lost_limbs_are_scored_where_they_are_lost(lost, recordings, body):
    """A perfect model scores zero; one that is wrong in one limb while it is lost scores there and then."""
    short = [replace(m, axis_angle=m.axis_angle[:140], translation=m.translation[:140]) for m in recordings]
    pieces = clips.pieces(short, 66, 66)
    truth = torch.cat([clips.whole(m, body, limbs.VIEWS[i % 4], torch.Generator(), clips.OFF).rotations
                       for i, m in enumerate(pieces)])  # fmt: skip
    for own in limbs.score_lost(Told([truth] * 7), lost, body).values():
        assert max(own["lost"] + own["seen"]) < 1e-2
    wrong = truth.clone()
    elbow = body.joints.index("left_elbow")
    wrong[:, limbs.BEFORE : limbs.BEFORE + 5, elbow] = (
        wrong[:, limbs.BEFORE : limbs.BEFORE + 5, elbow].mT @ wrong[:, :1, 1]
    )
    scores = limbs.score_lost(Told([truth, wrong] + [truth] * 5), lost, body)  # the first trial hides the left arm
    assert min(scores["arm hidden"]["lost"][:5]) > 1
    assert max(scores["arm hidden"]["lost"][5:] + scores["arm hidden"]["seen"]) < 1e-2
    assert all(max(own["lost"]) < 1e-2 for name, own in scores.items() if name != "arm hidden")


def test_what_cannot_be_done_is_said_before_training(run):
    with pytest.raises(SystemExit, match="no recording of nobody; the subjects are someone, tested, trained"):
        run("--test", "nobody")
    with pytest.raises(SystemExit, match="Not a directory"):
        run("--out", "motion.npz/deeper")
    with pytest.raises(SystemExit, match=r"nowhere: no clips of AIST\+\+ in it"):
        run("--aist", "nowhere")
    with pytest.raises(SystemExit, match="--own mano.yaml has other joints than the body"):
        run("--own", "mano.yaml")
    short = load_motion("motion.npz")
    save_motion([replace(m, cuts=(50,)) if m.subject == "tested" else m for m in short], "motion.npz")
    with pytest.raises(SystemExit, match="--test tested: no recording holds 90 frames between cuts"):
        run()
