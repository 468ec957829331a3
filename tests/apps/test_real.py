"""examples/real.py: figures against a truth with holes, and the files of AIST++ and 3DPW in their layouts."""

import functools
import importlib.util
import json
import math
import os
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import kinlmr
from kinlmr.body.points import set_rows
from kinlmr.rotations import axis_angle_to_matrix

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared/aist"
sys.path.insert(0, str(ROOT / "examples"))
import aist  # noqa: E402
import networks  # noqa: E402
import real  # noqa: E402
import scores  # noqa: E402
import threedpw  # noqa: E402

VIEWS, FRAMES, FPS = 2, 40, 60
OPENPOSE = """nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist right_hip right_knee
    right_ankle left_hip left_knee left_ankle right_eye left_eye right_ear left_ear""".split()  # noqa: SIM905


def numbers(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moving(seed, frames=FRAMES, views=VIEWS):
    """Points of a person (V, T, 17, 3), 4 m in front of the cameras, who moves smoothly."""
    t = torch.linspace(0, 1, frames, dtype=torch.float64)[:, None, None]
    a, b, c = numbers(seed, 3, views, 1, 17, 3) * torch.tensor([0.3, 0.5, 0.3])[:, None, None, None, None]
    return a + b * t + c * t**2 + torch.tensor([0.2, 0.1, 4.0], dtype=torch.float64)


def turned(seed, *batch):
    return axis_angle_to_matrix(numbers(seed, *batch, 3))


# -------------------------------------------------------------------------------------------------------------- figures


@given(st.integers(0, 2**16), st.lists(st.integers(0, 16), max_size=8), st.floats(0.2, 5))
@settings(max_examples=20, deadline=None)
def test_a_similarity_is_no_error_and_what_has_no_truth_does_not_count(seed, holes, scale):
    truth = moving(seed)
    truth[:, :, holes] = torch.nan
    prediction = scale * moving(seed) @ turned(seed, VIEWS, FRAMES).mT + numbers(seed, VIEWS, FRAMES, 1, 3)
    prediction[:, :, holes] += 9
    errors = scores.aligned_errors(prediction, truth)
    assert torch.equal(errors.isnan(), truth.isnan().any(-1))
    assert errors.nan_to_num().amax() < 1e-6


def test_holes_are_as_if_the_points_were_not_there():
    truth, prediction = moving(0), moving(1)
    kept = [0, 3, 5, 8, 11]
    holed = torch.full_like(truth, torch.nan)
    holed[:, :, kept] = truth[:, :, kept]
    alone = scores.aligned_errors(prediction[:, :, kept], truth[:, :, kept])
    torch.testing.assert_close(scores.aligned_errors(prediction, holed)[:, :, kept], alone)


@given(st.integers(0, 2**16), st.integers(2, 6))
@settings(max_examples=20, deadline=None)
def test_a_cubic_stays_as_it_is_and_has_its_derivative(seed, half):
    t, powers = torch.arange(30.0, dtype=torch.float64) / 30, numbers(seed, 4)
    x = sum(p * t**i for i, p in enumerate(powers))
    speed = sum(i * p * t ** (i - 1) for i, p in enumerate(powers) if i) / 30
    for order, right in enumerate((x, speed)):
        found = scores.smoothed(x[None], half, order)[0]
        assert found.isnan().sum() == 2 * half
        torch.testing.assert_close(found[half:-half], right[half:-half], atol=1e-9, rtol=0)


def test_what_a_camera_turned_to_the_hips_sees_of_any_scale_is_no_error():
    truth = moving(3)
    middle = truth[:, :, scores.HIPS].mean(2, keepdim=True)
    prediction = 0.7 * (truth - middle) @ scores.level(middle[:, :, 0]).mT
    figures, _ = scores.score(prediction, truth, FPS)
    found = dict(zip(scores.FIGURES, figures.flatten(0, 1).T, strict=True))
    for name in ("pa12", "pa17", "mpjpe", "plane", "depth"):
        assert found[name].amax() < 1e-6, name
    assert found["pck"].eq(100).all()
    assert found["scored"].eq(100).all()


def test_plane_and_depth_are_the_parts_of_an_error():
    truth = torch.zeros(1, 3, 17, 3, dtype=torch.float64) + torch.tensor([0.0, 0.0, 4.0], dtype=torch.float64)
    truth[..., :] += numbers(0, 17, 3)
    truth[..., scores.HIPS, :] = torch.tensor([[[-0.1, 0, 4.0], [0.1, 0, 4]]], dtype=torch.float64)  # straight ahead
    off = numbers(1, 17, 3) / 10
    off[scores.HIPS] = 0
    figures, _ = scores.score(truth + off, truth, FPS)
    found = dict(zip(scores.FIGURES, figures[0, 0], strict=True))
    scale = scores.fitted(*((x - torch.tensor([0, 0, 4.0]))[..., scores.LIMBS, :] for x in (truth + off, truth)))
    apart = 1000 * (scale * (truth + off - torch.tensor([0, 0, 4.0])) - truth + torch.tensor([0, 0, 4.0]))
    apart = apart[0, 0, scores.LIMBS]
    assert found["mpjpe"] == pytest.approx(float(apart.norm(dim=-1).mean()))
    assert found["plane"] == pytest.approx(float(apart[:, :2].norm(dim=-1).mean()))
    assert found["depth"] == pytest.approx(float(apart[:, 2].abs().mean()))


def test_accel_is_the_second_difference_that_the_truth_has_not():
    truth = moving(4)
    jerk = torch.tensor([1e-3, 0, 0], dtype=torch.float64) * (-1) ** torch.arange(FRAMES)[:, None, None]
    accel, metres = (scores.score(truth + jerk, truth, FPS)[0][..., list(scores.FIGURES).index(x)]
                     for x in ("accel", "metres"))  # fmt: skip
    assert accel.isnan().sum() == 2 * VIEWS * (scores.window(FPS) + 1)
    assert accel.nanmean() == pytest.approx(4, abs=0.02)
    assert metres.nanmean() == pytest.approx(4e-3 * FPS**2, abs=0.1)


def test_frames_with_few_points_are_not_scored():
    truth = moving(5)
    truth[:, 3, 5:8] = torch.nan  # nine of twelve are left
    truth[:, 4, 5:7] = torch.nan
    figures, errors = scores.score(moving(6), truth, FPS)
    assert figures[:, 3, :5].isnan().all()
    assert errors[:, 3].isnan().all()
    assert not figures[:, 4, :2].isnan().any()
    assert figures[:, [3, 4], -1].tolist() == [[0, 100]] * VIEWS


@given(st.floats(-5.5, 5.5))
@settings(max_examples=20, deadline=None)
def test_a_late_prediction_has_its_lag(late):
    def at(t):
        return torch.sin(t[:, None, None] / 40 * (1 + numbers(0, 17, 3).abs()) + numbers(1, 17, 3))[None]

    t = torch.arange(90.0, dtype=torch.float64)
    sums = scores.shifted(at(t - late), at(t), 8)
    assert scores.lag_of(sums[0] / sums[1], 50) == pytest.approx(20 * late, abs=4)


def test_a_prediction_that_does_not_move_has_no_lag():
    assert math.isnan(scores.lag_of(torch.ones(9), 30))
    assert math.isnan(scores.lag_of(torch.arange(9.0), 30))
    assert math.isnan(scores.lag_of(torch.full((9,), torch.nan), 30))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared clips are not here")
@pytest.mark.parametrize("step", [1, 2])
def test_the_figures_are_those_of_the_shared_script(step):
    spec = importlib.util.spec_from_file_location("eval_aist", SHARED / "eval_aist.py")
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    clip = aist.read(aist.paths(SHARED, ["aist_ch07"])[0][0])
    clip = real.at_rate(clip._replace(keypoints=clip.keypoints[:, :80], truth=clip.truth[:, :80]), 60 / step)
    truth = clip.in_cameras()
    prediction = torch.where(truth.isnan(), 0, truth) + numbers(0, *truth.shape) / 10
    figures, _ = scores.score(prediction, truth, clip.fps)
    names = {"pa12": "PA12", "pa17": "PA17", "mpjpe": "MPJPE12", "plane": "plane", "depth": "depth", "accel": "Accel"}
    for view in range(len(truth)):
        good, points = truth[view].isfinite().all(-1).numpy(), np.nan_to_num(truth[view].numpy())
        found = theirs.score(prediction[view].numpy(), points, good, step)
        for mine, other in {**names, "pck": "PCK"}.items():
            right = found[other] * (100 if mine == "pck" else 1)
            np.testing.assert_allclose(figures[view, :, list(scores.FIGURES).index(mine)], right, atol=1e-6)


# -------------------------------------------------------------------------------------------------------------- AIST++


def clip_of(seed=0, frames=FRAMES):
    """A clip of a standing person and her keypoints; a view's truth lacks a point, and one is not found."""
    body = kinlmr.load_body("anny24_lo369", keypoints="coco17")
    rest = body(torch.eye(3).expand(24, 3, 3), torch.zeros(10), want=("keypoints",)).keypoints.double()
    sway = 0.1 * torch.sin(torch.arange(frames, dtype=torch.float64) / 9)[:, None, None]
    truth = (rest + sway * numbers(seed, 17, 3)).expand(VIEWS, -1, -1, -1)
    rotation = torch.diag(torch.tensor([1.0, -1, -1], dtype=torch.float64)) @ axis_angle_to_matrix(
        torch.tensor([[0, 0, 0], [0, 1.2, 0]], dtype=torch.float64)
    )
    translation = torch.tensor([[0.1, 0.2, 4], [0, 0, 5]], dtype=torch.float64)
    clip = aist.Clip("aist_a", torch.zeros(0), truth, rotation, translation, FPS)
    image = clip.in_cameras() @ MATRIX.mT
    keypoints = torch.cat([image[..., :2] / image[..., 2:], torch.full_like(image[..., :1], 0.8)], -1).float()
    keypoints[0, 3, 2] = 0
    return clip._replace(keypoints=keypoints)


MATRIX = torch.tensor([[900.0, 0, 960], [0, 900, 540], [0, 0, 1]], dtype=torch.float64)


def write_leaving_one_out(clip, folder, **other):
    good = clip.truth.isfinite().all(-1).numpy()
    unseen = clip.keypoints.new_tensor((7, 7, 0))  # a place that means nothing
    arrays = {"kp2d": torch.where(clip.keypoints[..., 2:] > 0, clip.keypoints, unseen),
              "joints3d_loo": clip.truth.nan_to_num(), "good_loo": good, "R": clip.rotation,
              "t": clip.translation, "fps": np.float64(clip.fps)}  # fmt: skip
    np.savez(folder / f"{clip.name}.npz", **{**{k: np.asarray(x) for k, x in arrays.items()}, **other})


def write_published(clip, folder, name="gBR_sBM_cAll_d04_mBR0_ch01", protocol=4, **other):
    """The files of AIST++'s annotations."""
    for part in ("keypoints2d", "keypoints3d", "cameras", "splits"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    flat = {"keypoints2d": clip.keypoints.double().numpy(), "det_scores": np.ones((VIEWS, FRAMES)),
            "timestamps": np.arange(FRAMES)}  # fmt: skip
    flat["keypoints2d"][0, 3, 2] = np.nan  # what its detector did not find
    solid = {"keypoints3d": 100 * clip.truth[0].numpy() + 3, "keypoints3d_optim": 100 * clip.truth[0].numpy()}
    axis = [kinlmr.rotations.matrix_to_axis_angle(x).tolist() for x in clip.rotation]
    cameras = [{"name": f"c{i + 1:02}", "size": [1920, 1080], "matrix": MATRIX.tolist(), "rotation": axis[i],
                "translation": (100 * clip.translation[i]).tolist(), "distortions": [0.0] * 5}
               for i in reversed(range(VIEWS))]  # fmt: skip
    content = {
        "flat": flat,
        "solid": solid,
        "cameras": cameras,
        "mapping": f"other setting1\n{name} setting9\n",
        **other,
    }
    (folder / f"keypoints2d/{name}.pkl").write_bytes(pickle.dumps(content["flat"], protocol))
    (folder / f"keypoints3d/{name}.pkl").write_bytes(pickle.dumps(content["solid"], protocol))
    (folder / "cameras/setting9.json").write_text(json.dumps(content["cameras"]))
    (folder / "cameras/mapping.txt").write_text(content["mapping"])
    (folder / "splits/pose_test.txt").write_text(f"{name}\n")


@pytest.mark.parametrize("protocol", [2, 4])
def test_both_layouts_hold_the_same(tmp_path, protocol):
    clip = clip_of()
    write_leaving_one_out(clip, tmp_path)
    write_published(clip, tmp_path / "aistpp", protocol=protocol)
    for folder in (tmp_path, tmp_path / "aistpp"):
        (path,), truth = aist.paths(folder)
        found = aist.read(path)
        assert ("not comparable" in truth) == (folder != tmp_path)
        assert found.fps == FPS
        for mine, right in zip(found[1:5], clip[1:5], strict=True):
            torch.testing.assert_close(mine.double(), right.double(), atol=1e-4, rtol=0)
        assert found.keypoints[0, 3, 2].tolist() == [0, 0, 0]


def test_what_is_not_good_is_no_truth(tmp_path):
    good = np.ones((VIEWS, FRAMES, 17), bool)
    good[1, 5, 9] = False
    write_leaving_one_out(clip_of(), tmp_path, good_loo=good)
    assert aist.read(tmp_path / "aist_a.npz").truth.isnan().any(-1).nonzero().tolist() == [[1, 5, 9]]


def test_clips_are_chosen_by_name_and_by_split_and_the_ignored_are_left_out(tmp_path):
    for name in ("gBR_sBM_cAll_d04_mBR0_ch01", "gLO_ch02", "gLO_ch03"):
        write_published(clip_of(), tmp_path, name)
    (tmp_path / "ignore_list.txt").write_text("gLO_ch03\n")
    chosen = lambda *names: [path.stem for path in aist.paths(tmp_path, names)[0]]  # noqa: E731
    assert chosen() == ["gBR_sBM_cAll_d04_mBR0_ch01", "gLO_ch02"]
    assert chosen("gLO") == ["gLO_ch02"]
    (tmp_path / "mine.txt").write_text("gLO_ch02\ngKR_ch01\n")
    assert chosen(str(tmp_path / "mine.txt")) == ["gLO_ch02"]
    with pytest.raises(ValueError, match=r"none of its 2 clips .*gKR"):
        chosen("gKR")


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"flat": {"keypoints": np.ones(3)}}, r"ch01\.pkl: it lacks keypoints2d"),
        ({"flat": {"keypoints2d": np.ones((2, 9, 16, 3))}}, r"keypoints2d is float64 of \(2, 9, 16, 3\)"),
        ({"solid": {"keypoints3d": np.ones((9, 17, 3))}}, r"keypoints3d is float64 of \(9, 17, 3\)"),
        ({"mapping": "other setting1\n"}, r"mapping\.txt: no line of gBR"),
        ({"mapping": "gBR_sBM_cAll_d04_mBR0_ch01 ../setting7\n"}, r"setting7\.json: no such file"),
        ({"cameras": [{"name": "c01"}]}, r"setting9\.json: expected is a list of 2 cameras"),
        ({"cameras": {"c01": 3}}, r"setting9\.json: expected is a list"),
        ({"solid": {"keypoints3d": clip_of().truth[0].numpy()}}, r"lie 0\.\d+ of a person's extent from where"),
    ],
)
def test_published_files_that_differ_are_refused_by_name(tmp_path, other, said):
    write_published(clip_of(), tmp_path, **other)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        aist.read(aist.paths(tmp_path)[0][0])


@pytest.mark.parametrize("key", ["kp2d", "joints3d_loo", "good_loo", "R", "t", "fps"])
def test_archives_that_differ_are_refused_by_name(tmp_path, key):
    write_leaving_one_out(clip_of(), tmp_path, **{key: np.ones((2, 5))})
    with pytest.raises(ValueError, match=rf"aist_a\.npz: {key} is float64 of \(2, 5\)"):
        aist.read(tmp_path / "aist_a.npz")


def test_a_folder_without_clips_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no clips of AIST\+\+ in it; expected are aist_\*\.npz"):
        aist.paths(tmp_path)


class Evil:
    def __reduce__(self):
        return os.system, ("touch ran",)


def test_nothing_in_a_file_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_published(clip_of(), tmp_path, solid={"keypoints3d": Evil()})
    with pytest.raises(ValueError, match="nothing in it was run"):
        aist.read(aist.paths(tmp_path)[0][0])
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"poses2d": Evil()}, 2))
    with pytest.raises(ValueError, match=r"a\.pkl: refused, nothing in it was run.*sequence file"):
        threedpw.read(tmp_path / "a.pkl", threedpw.protocol("anny24_lo369"))
    assert not (tmp_path / "ran").exists()


# ---------------------------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return kinlmr.build("smpl.yaml", keypoints="coco17", body="anny24_lo369", hidden=4).eval()


def test_a_network_without_memory_sees_every_frame_by_itself(model):
    network, points = networks.PerFrame(model).eval(), clip_of().keypoints
    whole = real.recovered(network, points, 60)
    assert whole.rotations.shape == (VIEWS, FRAMES, 24, 3, 3)
    for first in (0, 1):
        half = real.recovered(network, points[:, first::2], 30)
        for mine, right in zip(whole, half, strict=True):
            torch.testing.assert_close(mine[:, first::2], right)


def test_a_confidence_is_set_where_a_point_was_found(model):
    points = clip_of().keypoints
    sure = torch.cat([points[..., :2], torch.where(points[..., 2:] > 0, 0.3, 0)], -1)
    found = real.answers({"a": model}, points, 30, confidence=0.3)
    torch.testing.assert_close(found["a"], real.answers({"a": model}, sure, 30, None)["a"], atol=0, rtol=0)
    assert not torch.equal(found["a"].rotations, real.answers({"a": model}, points, 30, None)["a"].rotations)


def test_the_results_are_means_over_frames_and_clips_apart(model):
    sums, clips = {}, [clip_of(0), clip_of(1, 60)]
    lying = axis_angle_to_matrix(torch.tensor([0, 0, 1.5], dtype=torch.float64))
    clips[1] = clips[1]._replace(name="aist_b", truth=clips[1].truth @ lying.mT)
    predictions = [moving(i, clip.truth.shape[1]) for i, clip in enumerate(clips)]
    for clip, prediction in zip(clips, predictions, strict=True):
        real.tally(sums, clip, {"a": prediction})
    results = real.results_of(sums, FPS)["a"]
    each = [scores.score(p, c.in_cameras(), FPS)[0][..., 0].flatten() for p, c in zip(predictions, clips, strict=True)]
    assert results["upright"]["overall"][""]["pa12"] == pytest.approx(float(each[0].mean()))
    assert results["floor"]["clip"]["aist_b"]["pa12"] == pytest.approx(float(each[1].mean()))
    assert results["all"]["overall"][""]["pa12"] == pytest.approx(float(torch.cat(each).mean()))
    assert results["all"]["overall"][""]["frames"] == VIEWS * (FRAMES + 60)
    assert results["floor"]["tilt"]["over 60"]["frames"] == VIEWS * 60
    assert sum(x["points"] for x in results["all"]["confidence"].values() if x) == 12 * VIEWS * (FRAMES + 60)
    assert "lag" in results["upright"]["overall"][""]
    assert "lag" not in results["floor"]["overall"][""]


def run(monkeypatch, capsys, *args):
    monkeypatch.setattr(sys, "argv", ["real.py", *map(str, args)])
    real.main()
    return capsys.readouterr().out


def test_the_command_prints_tables_and_keeps_the_figures(tmp_path, model, monkeypatch, capsys):
    kinlmr.save(model, tmp_path / "small.npz")
    full = networks.model_of({"hidden": 4})
    baseline = {"options": {"hidden": 4}, "weights": networks.PerFrame(full).state_dict()}
    torch.save(baseline, tmp_path / "baseline.pt")
    kinlmr.save(full, tmp_path / "full.npz")
    write_published(clip_of(), tmp_path / "aistpp")
    write_leaving_one_out(clip_of(), tmp_path)
    out = tmp_path / "out.json"
    told = run(monkeypatch, capsys, tmp_path / "full.npz", "--against", tmp_path / "baseline.pt", "--aist", tmp_path,
               "--fps", 30, "--confidence", 0.9, "--out", out)  # fmt: skip
    for part in ("every confidence set to 0.9", "### By view", "full, upright", "against baseline, upright", "c02"):
        assert part in told
    assert "mean pose: MPJPE" not in told
    found = json.loads(out.read_text(), parse_constant=pytest.fail)["aist"]
    assert set(found["results"]) == {"full", "against baseline", "mean pose"}
    assert found["results"]["full"]["all"]["overall"][""]["frames"] == VIEWS * FRAMES // 2
    told = run(monkeypatch, capsys, tmp_path / "small.npz", "--aist", tmp_path / "aistpp", "--out", out)
    assert "not comparable" in told
    with pytest.raises(SystemExit, match="60 frames a second, --fps asks for 25"):
        run(monkeypatch, capsys, tmp_path / "small.npz", "--aist", tmp_path, "--fps", 25, "--out", out)
    with pytest.raises(SystemExit, match="pose different bodies"):
        run(monkeypatch, capsys, tmp_path / "small.npz", "--against", tmp_path / "full.npz", "--aist", tmp_path)


# ----------------------------------------------------------------------------------------------------------------- 3DPW


class Python2(pickle._Pickler):
    """Writes text and bytes as Python 2 did, both as its str."""

    def save_str(self, x):
        data = x.encode("latin1") if isinstance(x, str) else x
        self.write(pickle.BINSTRING + len(data).to_bytes(4, "little") + data)
        self.memoize(x)

    dispatch = {**pickle._Pickler.dispatch, str: save_str, bytes: save_str}  # noqa: RUF012


def write_sequence(path, keypoints, joints, camera, valid, **other):
    """A sequence file of one person: coco17's keypoints (T, 17, 3), joints (T, 24, 3) in the camera's frame."""
    frames, names = len(keypoints), kinlmr.keypoints.keypoint_sets()["coco17"]
    flat = np.zeros((frames, 3, 18))
    for i, name in enumerate(OPENPOSE):
        flat[:, :, i] = keypoints[:, names.index(name)] if name in names else 7.0
    world = (joints - camera[:, None, :3, 3]) @ camera[:, :3, :3]  # R^T (x - t)
    content = {
        "sequence": path.stem, "genders": ["f"], "betas": [np.zeros(10)], "poses": [np.zeros((frames, 72))],
        "trans": [np.zeros((frames, 3))], "poses2d": [flat], "jointPositions": [np.asarray(world).reshape(frames, 72)],
        "campose_valid": [np.asarray(valid)], "cam_intrinsics": MATRIX.numpy(), "cam_poses": np.asarray(camera),
        "img_frame_ids": np.arange(frames), "v_template_clothed": [np.zeros((5, 3))], **other,
    }  # fmt: skip
    with open(path, "wb") as file:
        Python2(file, 2).dump({key: x for key, x in content.items() if x is not None})


def cameras_of(frames):
    camera = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    camera[:, :3, :3] = turned(5, frames)
    camera[:, :3, 3] = numbers(6, frames, 3)
    return camera


def test_a_sequence_is_read_as_it_was_written(tmp_path):
    keypoints = clip_of().keypoints[0].clone()
    keypoints[[0, 1, -1], :, 2] = 0  # nobody is there yet, and no more
    joints, valid = numbers(0, FRAMES, 24, 3), np.arange(FRAMES) % 5 > 0
    write_sequence(tmp_path / "walk_00.pkl", keypoints, joints, cameras_of(FRAMES), valid)
    (person,) = threedpw.people(tmp_path, threedpw.protocol("anny24_lo369"))
    known = torch.from_numpy(valid)
    known[[0, 1, -1]] = False
    assert person.name == "walk_00, person 0"
    assert (person.size, person.focal) == ((1920, 1080), 900)
    torch.testing.assert_close(person.keypoints, torch.where(keypoints[..., 2:] > 0, keypoints, 0))
    assert torch.equal(person.truth.isfinite().all(-1).all(-1), known)
    torch.testing.assert_close(person.truth[known], joints[known][:, threedpw.JOINTS])


def test_a_truth_that_is_the_answer_has_no_error(tmp_path, model, monkeypatch, capsys):
    keypoints = clip_of(0, 50).keypoints[0]
    recovery, _ = kinlmr.recover(model, keypoints, threedpw.FPS)
    rotations, translation = recovery.in_camera((1920, 1080), 900, "anny24_lo369")
    joints = kinlmr.load_body("anny24_lo369")(rotations, recovery.shape, translation).joints.double()
    folder = tmp_path / "sequenceFiles/test"
    folder.mkdir(parents=True)
    write_sequence(folder / "a.pkl", keypoints, joints, cameras_of(50), np.arange(50) != 9)
    kinlmr.save(model, tmp_path / "small.npz")
    out = tmp_path / "out.json"
    told = run(monkeypatch, capsys, tmp_path / "small.npz", "--3dpw", tmp_path, "--out", out)
    assert "### 3DPW: 14 of the 24 joints" in told
    found = json.loads(out.read_text())["3dpw"]["small"]["all"]
    assert found == {"frames": 49, "pa_mpjpe": pytest.approx(0, abs=0.01), "mpjpe": pytest.approx(0, abs=0.01)}


def test_the_14_points_of_papers_whichever_leg_a_regressor_begins_with(tmp_path, model, monkeypatch, capsys):
    body = kinlmr.load_body("anny24_lo369")
    kinlmr.save_body(body, tmp_path / "smpl.npz")
    rows = torch.softmax(numbers(0, 17, body.weights.shape[1]), -1).numpy()
    template = body.template.view(3, -1)[0].numpy()
    rows[[1, 2, 3]], rows[[4, 5, 6]] = (
        np.eye(len(template))[template.argmin()],
        np.eye(len(template))[template.argmax()],
    )
    pose = 0.2 * numbers(1, FRAMES, 72).float()
    poses = {"poses": [pose.numpy()], "trans": [np.ones((FRAMES, 3))], "betas": [numbers(2, 12).numpy()]}
    keypoints, kept = clip_of().keypoints[0], []
    write_sequence(
        tmp_path / "a.pkl", keypoints, numbers(0, FRAMES, 24, 3), cameras_of(FRAMES), np.ones(FRAMES), **poses
    )
    kinlmr.save(model, tmp_path / "small.npz")
    for i, order in enumerate((np.arange(17), np.r_[0, 4, 5, 6, 1, 2, 3, 7:17])):
        np.save(tmp_path / f"h36m{i}.npy", rows[order])
        smpl = tmp_path / "smpl.npz", tmp_path / "smpl.npz"
        told = run(monkeypatch, capsys, tmp_path / "small.npz", "--3dpw", tmp_path, "--smpl", *smpl, "--regressor",
                   tmp_path / f"h36m{i}.npy", "--out", tmp_path / "out.json")  # fmt: skip
        assert "Human3.6M's 17 points" in told
        kept.append(json.loads((tmp_path / "out.json").read_text())["3dpw"]["small"]["all"])
    assert kept[0]["pa_mpjpe"] > 1
    assert kept[1] == pytest.approx(kept[0], rel=1e-4)


def test_the_right_ankle_is_the_first_of_the_14_points():
    body = kinlmr.load_body("anny24_lo369")
    rows = set_rows("h36m17", body.name, body.joints, body.weights.shape[1])
    pose = torch.eye(3).expand(1, 24, 3, 3), torch.zeros(1, 10)
    ankle = body(*pose).joints[0, body.joints.index("right_ankle")]
    for order in (range(17), [0, 4, 5, 6, 1, 2, 3, *range(7, 17)]):
        named = body.with_keypoints([f"point{i}" for i in range(17)], *(x[list(order)] for x in rows))
        assert (threedpw.fourteen(named, *pose)[0, 0] - ankle).norm() < 0.05


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"poses2d": None}, "it lacks poses2d; it holds sequence"),
        (
            {"poses2d": [np.ones((FRAMES, 18, 3))]},
            r"poses2d\[0\] is float64 of \(40, 18, 3\), expected .*\(40, 3, 18\)",
        ),
        ({"jointPositions": [np.ones((FRAMES - 1, 72))]}, r"jointPositions\[0\] is float64 of \(39, 72\)"),
        ({"campose_valid": []}, "campose_valid is of 0 people, expected 1"),
        ({"cam_poses": np.ones((FRAMES, 3, 4))}, r"cam_poses is float64 of \(40, 3, 4\)"),
        ({"cam_intrinsics": np.ones(4)}, "cam_intrinsics is float64"),
        ({"jointPositions": "none"}, "jointPositions is a str, expected a list with an item a person"),
    ],
)
def test_sequences_that_differ_are_refused_by_name(tmp_path, other, said):
    keypoints, joints = clip_of().keypoints[0], numbers(0, FRAMES, 24, 3)
    write_sequence(tmp_path / "a.pkl", keypoints, joints, cameras_of(FRAMES), np.ones(FRAMES), **other)
    with pytest.raises(ValueError, match=rf"a\.pkl: refused.*{said}"):
        threedpw.read(tmp_path / "a.pkl", threedpw.protocol("anny24_lo369"))


def test_a_folder_without_sequences_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="no .*pkl in it, nor in sequenceFiles/test"):
        list(threedpw.people(tmp_path, threedpw.protocol("anny24_lo369")))


# ---------------------------------------------------------------------------------------------------------- confidence


@functools.cache
def ch02():
    """Three views of a real clip, the first six seconds."""
    clip = real.at_rate(aist.read(SHARED / "aist_ch02.npz"), 30)
    clip = clip._replace(keypoints=clip.keypoints[:3, :180], truth=clip.truth[:3, :180])
    return clip._replace(rotation=clip.rotation[:3], translation=clip.translation[:3])


def assert_no_scale_matters(model):
    """Another detector's scale of confidence changes PA12 by less than 2 mm, its threshold by less than 4."""
    clip = ch02()
    xy, c = clip.keypoints[..., :2], clip.keypoints[..., 2:]
    said = [c, c**2, c**0.5, torch.where(c < 0.3, 0, c)]
    found = real.recovered(model, torch.cat([torch.cat([xy, x], -1) for x in said]), clip.fps)
    body = kinlmr.load_body("anny24", keypoints="coco17")
    points = body(found.rotations, found.shape, want=("keypoints",)).keypoints.double().split(3)
    figures = [scores.score(x, clip.in_cameras(), clip.fps)[0] for x in points]
    own, squared, rooted, cut = (float(x[..., list(scores.FIGURES).index("pa12")].nanmean()) for x in figures)
    assert abs(squared - own) < 2
    assert abs(rooted - own) < 2
    assert abs(cut - own) < 4


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared clips are not here")
def test_no_scale_of_confidence_matters():
    model = kinlmr.load("anny24-coco17")
    assert_no_scale_matters(model)
    model.options = replace(kinlmr.load("anny24-coco17").options, confidence=None)
    with pytest.raises(AssertionError):
        assert_no_scale_matters(model)
