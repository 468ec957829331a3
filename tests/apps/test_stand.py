"""examples/stand.py: files as VIBE, WHAM, GVHMR and PHALP write them, made here, and the motion that stands."""

import collections
import os
import pickle
import sys
import warnings
from pathlib import Path

import bodies
import numpy as np
import pytest
import torch
from hostile import Calls, pickles
from hypothesis import given, settings
from hypothesis import strategies as st

from kinlmr import camera, load_body, load_skeleton, motion, save_body
from kinlmr.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from kinlmr.world import settle

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples"))
import results  # noqa: E402
import stand as room  # noqa: E402

joblib = pytest.importorskip("joblib")
FRAMES, SIZE, FOCAL = 24, (640, 480), 700.0
VIEW = results.View(SIZE, FOCAL)
BODY = load_body("anny24_lo369")


def wander(frames=FRAMES, seed=0):
    """Somebody upright in front of the camera: rotations (T, 24, 3, 3), translation (T, 3) and betas (10)."""
    generator = torch.Generator().manual_seed(seed)
    steps = 0.02 * torch.randn(frames, 24, 3, generator=generator)
    turns = axis_angle_to_matrix(0.1 * torch.randn(1, 24, 3, generator=generator) + steps.cumsum(0))
    turns[:, 0] = torch.diag(torch.tensor([1.0, -1.0, -1.0])) @ turns[:, 0]
    path = torch.tensor([0.4, 0.1, 4.0]) + 0.01 * torch.randn(frames, 3, generator=generator).cumsum(0)
    return turns, path, 0.5 * torch.randn(10, generator=generator)


def vectors(rotations):
    return matrix_to_axis_angle(rotations).flatten(1).numpy()


def vibe(turns, path, betas, frames):
    size = torch.tensor(SIZE, dtype=path.dtype)
    scale = 2 * FOCAL / (size * path[:, 2:])
    return {"7": {
        "pred_cam": np.zeros((len(path), 3)), "orig_cam": torch.cat([scale, path[:, :2]], 1).numpy(),
        "pose": vectors(turns), "betas": betas.expand(len(path), -1).numpy(), "frame_ids": frames,
        "bboxes": np.ones((len(path), 4)), "joints3d": np.zeros((len(path), 49, 3)),
    }}  # fmt: skip


def spin(turns, path, betas, frames):
    box = torch.tensor([300.0, 200.0, 180.0]).expand(len(path), -1)
    weak = camera.from_translation(path, box, torch.tensor(SIZE), FOCAL)
    both = {"pred_cam": weak.numpy(), "bboxes": torch.cat([box, box[:, 2:]], 1).numpy()}
    return {"7": {key: x for key, x in vibe(turns, path, betas, frames)["7"].items() if key != "orig_cam"} | both}


def wham(turns, path, betas, frames):
    found = collections.defaultdict(dict)
    found[np.int64(7)] = {
        "pose": vectors(turns), "trans": path.numpy(), "pose_world": np.zeros((len(path), 72), np.float32),
        "trans_world": np.zeros((len(path), 3)), "betas": betas.expand(len(path), -1).numpy(), "frame_ids": frames,
    }  # fmt: skip
    return found


def phalp(turns, path, betas, frames, least=()):
    """PHALP's camera has a focal length of 5000 pixels, on the picture as a square of 256; one is only predicted."""
    far = path[:, 2] * 5000 * max(SIZE) / 256 / FOCAL
    found = {}
    for k, number in enumerate(frames):
        smpl = {"global_orient": turns[k, :1].numpy(), "body_pose": turns[k, 1:].numpy(), "betas": betas.numpy()}
        place = np.array([*path[k, :2].tolist(), far[k]], np.float32)
        found[f"img/{number:06d}.jpg"] = {
            "time": int(number), "tid": [np.int64(7), 9], "smpl": [smpl, smpl], "camera": [place, place + 9],
            "center": [np.ones(2)] * 2, "scale": [np.ones(2)] * 2, "size": [[SIZE[1], SIZE[0]], list(SIZE[::-1])],
            "tracked_time": [0, 1], "mask": [{"size": [4, 4], "counts": b"ab"}], "shot": 0,
        }  # fmt: skip
    return found


JOBLIB = {"vibe": vibe, "spin": spin, "wham": wham, "phalp": phalp}


def gvhmr(turns, path, betas):
    inside = {"global_orient": vectors(turns[:, :1]), "body_pose": vectors(turns[:, 1:22]), "transl": path,
              "betas": betas.expand(len(path), -1)}  # fmt: skip
    inside = {key: torch.as_tensor(x) for key, x in inside.items()}
    return {
        "smpl_params_global": inside,
        "smpl_params_incam": inside,
        "K_fullimg": torch.eye(3).expand(len(path), 3, 3),
    }


# -------------------------------------------------------------------------------------------------------------- readers


def assert_read(person, turns, path, betas, frames):
    """A person is as the file was made."""
    assert torch.allclose(person.rotations, turns[:, : person.rotations.shape[1]], atol=1e-4)
    assert torch.allclose(person.translation, path, atol=1e-4)
    assert torch.allclose(person.betas, betas, atol=1e-5)
    assert person.frames.tolist() == list(frames)


@settings(max_examples=6)
@given(st.sampled_from(sorted(JOBLIB)), st.integers(0, 2**16), st.sets(st.integers(0, 999), min_size=2, max_size=9),
       st.sampled_from([0, 3, "plain"]))  # fmt: skip
def test_pickles_are_read_as_they_were_written(tmp_path_factory, kind, seed, frames, compress):
    made = (*wander(len(frames), seed), np.array(sorted(frames)))
    file = tmp_path_factory.mktemp("made") / "a.pkl"
    content = JOBLIB[kind](*made)
    if compress == "plain":
        file.write_bytes(pickle.dumps(content, 2))
    else:
        joblib.dump(content, file, compress=compress)
    (person,) = results.read(file, VIEW)
    assert (person.name, person.cropped) == ("7", kind != "wham")
    assert_read(person, *made)


def test_torchs_files_are_read_as_they_were_written(tmp_path):
    made = wander()
    torch.save(gvhmr(*made), tmp_path / "a.pt")
    (person,) = results.read(tmp_path / "a.pt", results.View())
    assert person.rotations.shape[1] == 22
    assert_read(person, *made, range(FRAMES))


def test_one_persons_archive_is_read_as_it_was_written(tmp_path):
    """GVHMR's parameters under their whole names, those of the world passed over."""
    turns, path, betas = wander()
    inside = {
        f"smpl_params_incam_{key}": x.numpy() for key, x in gvhmr(turns, path, betas)["smpl_params_incam"].items()
    }
    world = {key.replace("incam", "global"): x + 0.5 for key, x in inside.items()}
    np.savez(tmp_path / "a.npz", **world, **inside, frame_ids=np.arange(3, 3 + FRAMES))
    (person,) = results.read(tmp_path / "a.npz", VIEW)
    assert_read(person, turns, path, betas, range(3, 3 + FRAMES))


@pytest.mark.parametrize("kind", ["vibe", "phalp"])
def test_without_a_focal_length_the_diagonal_is_taken(tmp_path, kind):
    turns, path, betas = wander()
    joblib.dump(JOBLIB[kind](turns, path, betas, np.arange(FRAMES)), tmp_path / "a.pkl")
    with pytest.warns(UserWarning, match="no --focal: the picture's diagonal, 800 pixels, is taken"):
        (person,) = results.read(tmp_path / "a.pkl", results.View(SIZE))
    assert torch.allclose(person.translation, path * torch.tensor([1, 1, 800 / FOCAL]), atol=1e-4)


def test_that_law_can_fail():
    turns, path, betas = wander()
    person = results.Person("7", np.arange(FRAMES), turns, path + 0.01, betas, False)
    with pytest.raises(AssertionError):
        assert_read(person, turns, path, betas, range(FRAMES))


def test_cameras_put_the_person_where_the_model_drew_them(tmp_path):
    """VIBE draws x at (1 + sx (x + tx)) w / 2, PHALP at 128 + 5000 x / z of its square: that is where ours is seen."""
    turns, path, betas = wander()
    middle = torch.tensor(SIZE) / 2
    for kind in ("vibe", "phalp"):
        content = JOBLIB[kind](turns, path, betas, np.arange(FRAMES))
        joblib.dump(content, tmp_path / "a.pkl")
        (person,) = results.read(tmp_path / "a.pkl", VIEW)
        if kind == "vibe":
            scale, move = np.split(content["7"]["orig_cam"], 2, 1)
            drawn = (1 + torch.from_numpy(scale * move)) * middle
        else:
            place = np.stack([frame["camera"][0] for frame in content.values()])
            square = max(SIZE) / 256 * (128 + 5000 * place[:, :2] / place[:, 2:])
            drawn = torch.from_numpy(square - (max(SIZE) - np.array(SIZE)) / 2)
        ours = middle + FOCAL * person.translation[:, :2] / person.translation[:, 2:]
        assert torch.allclose(ours, drawn.float(), atol=1e-2)


@pytest.mark.parametrize(
    ("content", "view", "message"),
    [
        ({"1": {"pose": np.zeros((5, 72))}}, VIEW, r"person 1: no place in the camera's .* has pose \(5, 72\)"),
        ({"1": {"pose": np.zeros((5, 72)), "orig_cam": np.ones((5, 4))}}, results.View(), "does not say; give --size"),
        ({"1": {"pose": np.full((5, 72), np.nan)}}, VIEW, "pose is not finite in frame 0"),
        ({"1": {"pose": np.zeros((5, 72)), "trans": np.full((5, 3), np.nan)}}, VIEW, "place in row 0 is not finite"),
        ({"1": {"pose": np.zeros((5, 72)), "orig_cam": np.zeros((5, 4))}}, VIEW, "place in row 0 is not finite"),
        ({"1": {"pose_world": np.zeros((5, 72))}}, VIEW, "pose_world: in the world's axes; expected a pose in"),
        ({"1": {"pose": np.zeros((5, 72)), "frame_ids": np.zeros(5)}}, VIEW, "frame_ids .* of rising numbers"),
        ({"smpl_params_global": {}}, VIEW, "no smpl_params_incam, .* it has smpl_params_global"),
        ([{"body_pose_params": np.zeros(3)}], VIEW, "it holds a list, .*SAM 3D Body's rig is not read: convert it"),
        ({"body_pose_params": np.zeros((5, 133))}, VIEW, "SAM-3D-Body's has other joints: convert it"),
        ({"a.jpg": {"tid": [1], "smpl": [], "camera": []}}, VIEW, "frame a.jpg: tid, smpl and camera of different"),
        ({"a.jpg": {"tid": [1], "smpl": [{}], "camera": [np.ones(3)]}}, VIEW, "time, camera, .* of tid 1 have shapes"),
        ({"a.jpg": {"tid": 3, "smpl": [], "camera": []}}, VIEW, "a.jpg: tid is no list of an item a person"),
    ],
)  # fmt: skip
def test_bad_files_are_refused(tmp_path, content, view, message):
    joblib.dump(content, tmp_path / "a.pkl")
    with pytest.raises(ValueError, match=rf"a\.pkl: .*{message}"):
        results.read(tmp_path / "a.pkl", view)


def test_motion_of_the_world_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", poses=np.zeros((5, 156)), trans=np.zeros((5, 3)), mocap_framerate=120.0)
    with pytest.raises(ValueError, match=r"a\.npz: mocap_framerate: this is AMASS, which stands; .*load_motion"):
        results.read(tmp_path / "a.npz", VIEW)
    with pytest.raises(FileNotFoundError, match="none.pkl: no such file"):
        results.read(tmp_path / "none.pkl", VIEW)


def test_nothing_in_a_file_runs(tmp_path):
    evil = Calls(os.system, f"touch {tmp_path}/ran")
    joblib.dump({"1": {"pose": np.array([evil], dtype=object)}}, tmp_path / "a.pkl")
    torch.save({"smpl_params_incam": evil}, tmp_path / "b.pt")
    for k, (what, data) in enumerate(pickles(tmp_path)):
        if what not in (
            "many steps",
            "keys of one hash",
            "deep",
            "deep tuple as a key",
        ):  # these are slow; tests/core/test_files.py has them
            (tmp_path / f"c{k}.pkl").write_bytes(data)
    for file in sorted(tmp_path.glob("*.p*")):
        with pytest.raises(ValueError, match=rf"{file.name}: (refused, nothing in it was run|no pose)"):
            results.read(file, VIEW)
    assert not (tmp_path / "ran").exists()


def test_what_a_pickle_repeats_is_counted(tmp_path):
    """A small file may name the same array or list a million times."""
    pose, many = np.zeros((10_000, 72), np.float32), list(range(2000))
    frames = {str(k): {"tid": many, "smpl": many, "camera": many, "tracked_time": [1] * 2000} for k in range(501)}
    for content, message in (
        ({str(k): {"pose": pose, "trans": pose} for k in range(101)}, "more than 1,000,000 people times frames"),
        ({f"a{k}.pose": pose[:5] + k for k in range(101)}, "101 arrays, more than the 100 that a person"),
        ({f"a{k}.pose": many for k in range(101)}, "no pose of SMPL's joints"),
        (frames, "more than 1,000,000 people times frames"),
    ):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, 4))
        with pytest.raises(ValueError, match=rf"a\.pkl: .*{message}"):
            results.read(tmp_path / "a.pkl", VIEW)


# --------------------------------------------------------------------------------------------------------------- motion


def people_of(*frames):
    return [room.Person(str(k), np.array(x), *wander(len(x), k), False) for k, x in enumerate(frames)]


def quietly(*given):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return given[0](*given[1:])


def test_it_stands_as_settle_says():
    """Without gaps and with the betas' body it is `kinlmr.world.settle` of what the file has."""
    (person,) = people_of(range(5, 5 + FRAMES))
    (found,) = room.standing(Path("a.pkl"), [person], BODY, True, 30.0, None)
    shape = torch.zeros(FRAMES, BODY.shape_width)
    shape[:, :10] = person.betas
    expected = quietly(settle, BODY, person.rotations, person.translation, shape, 30.0)
    for one, two in zip(found, expected, strict=True):
        assert torch.allclose(one, two, atol=1e-4)


def test_a_gap_cuts_the_clip():
    """Each run is smoothed by itself, nobody is there between, and all stand on one floor."""
    (person,) = people_of([*range(10), *range(40, 60)])
    (found,) = room.standing(Path("a.pkl"), [person], BODY, False, 30.0, None)
    runs = [person._replace(frames=person.frames[x], rotations=person.rotations[x], translation=person.translation[x])
            for x in (slice(10), slice(10, None))]  # fmt: skip
    apart = room.standing(Path("a.pkl"), runs, BODY, False, 30.0, None)
    seen = found.translation.isfinite().all(-1)
    assert seen.tolist() == [True] * 10 + [False] * 30 + [True] * 20
    for part, run in zip((slice(10), slice(40, None)), apart, strict=True):
        assert all(torch.equal(x[part], y[part]) for x, y in zip(found, run, strict=True))


def test_a_short_gap_is_filled():
    (person,) = people_of([0, 1, 4, 5])
    ((rotations, translation),) = room.rows_of(person, BODY, torch.zeros(10), True, 0, 6, 30.0)
    assert torch.allclose(translation[[0, 1, 4, 5]], person.translation, atol=1e-6)
    assert torch.allclose(rotations[[0, 1, 4, 5]], person.rotations, atol=1e-4)
    step = matrix_to_axis_angle(person.rotations[1].mT @ person.rotations[2])
    expected = person.rotations[1] @ axis_angle_to_matrix(step / 3)
    assert torch.allclose(rotations[2], expected, atol=1e-4)
    assert torch.allclose(translation[2], torch.lerp(person.translation[1], person.translation[2], 1 / 3), atol=1e-6)


def test_who_was_seen_in_a_crop_is_rotated_onto_the_ray():
    (person,) = people_of(range(3))
    plain, cropped = (room.rows_of(person._replace(cropped=x), BODY, torch.zeros(10), True, 0, 3, 30.0)[0][0]
                      for x in (False, True))  # fmt: skip
    root = person.translation + BODY.joints_at_rest(torch.zeros(1, 10))[0, BODY.root]
    assert torch.allclose(cropped[:, 0], camera.facing(root) @ plain[:, 0], atol=1e-5)
    assert torch.equal(cropped[:, 1:], plain[:, 1:])


@pytest.mark.parametrize(
    ("joints", "betas", "message"),
    [(22, 10, "betas are of SMPL-H or SMPL-X, but --body has 24 joints, as SMPL;"),
     (24, 300, "300 betas, but --body has 10 shape numbers")],
)  # fmt: skip
def test_betas_of_another_body_are_refused(joints, betas, message):
    person = people_of(range(3))[0]
    person = person._replace(rotations=person.rotations[:, :joints], betas=torch.zeros(betas))
    with pytest.raises(ValueError, match=rf"a\.pkl: .*{message}"):
        room.shape_of(Path("a.pkl"), person, BODY, True)


def test_endless_numbers_of_frames_are_refused():
    with pytest.raises(ValueError, match=r"a\.pkl: 2 runs of 1 people in 2,000,000,001 frames, more than 1,000,000"):
        room.standing(Path("a.pkl"), people_of([0, 2_000_000_000]), BODY, False, 30.0, None)


def test_from_file_to_files(tmp_path, capsys):
    made = wander(40)
    content = {**wham(*made, np.arange(100, 140)), "late": wham(*wander(20, 1), np.arange(120, 140))[7]}
    content["brief"] = wham(*wander(3, 2), np.arange(3))[7]
    joblib.dump(content, tmp_path / "wham_output.pkl")
    save_body(BODY, tmp_path / "SMPL.npz")
    command = [str(tmp_path / "wham_output.pkl"), "--out", str(tmp_path / "out"), "--fps", "25"]
    room.main([*command, "--body", str(tmp_path / "SMPL.npz")])
    said = capsys.readouterr().out
    assert said.endswith("left out, there for less than 0.5 s: 1 people\nperson1: 7, frames 100 to 139\n"
                         "person2: late, frames 120 to 139\n")  # fmt: skip
    assert "mean" not in said
    with np.load(tmp_path / "out" / "stand.npz") as file:
        assert (file["ids"].tolist(), file["fps"], file["frames"][0]) == (["7", "late"], 25, 100)
        assert np.isfinite(file["translation"]).all(-1).sum(1).tolist() == [40, 20]
        body = BODY(*(torch.from_numpy(file[key][0]) for key in ("rotations", "shape", "translation")))
    assert (tmp_path / "out" / "body.glb").read_bytes()[:4] == b"glTF"
    for name in ("person1", "person2"):
        back = motion.read_bvh(tmp_path / "out" / f"{name}.bvh", BODY, fps=25, up="y", scale=1.0)
        assert len(back) == 40
        if name == "person1":
            assert torch.allclose(back.translation, body.joints[:, BODY.root], atol=1e-3)
    room.main([*command, "--body", "anny24_lo369"])
    assert (
        "the shape is anny24_lo369's mean: the betas need your file of their model, --body" in capsys.readouterr().out
    )


def test_gvhmr_stands_on_the_users_smplx(tmp_path, capsys):
    """A body of SMPL-X's size: its shape is the file's betas, its hands are at rest."""
    arrays = bodies.arrays(bodies.parents_of(load_skeleton("smplx.yaml")), 100, 20, pose=False)
    np.savez(tmp_path / "SMPLX.npz", **arrays)
    made = wander()
    torch.save(gvhmr(*made), tmp_path / "a.pt")
    room.main([str(tmp_path / "a.pt"), "--out", str(tmp_path), "--body", str(tmp_path / "SMPLX.npz"), "--fps", "30"])
    assert "mean" not in capsys.readouterr().out
    with np.load(tmp_path / "stand.npz") as file:
        np.testing.assert_allclose(file["shape"][0, 0], [*made[2].tolist(), *[0.0] * 10], atol=1e-6)
        np.testing.assert_allclose(file["rotations"][0, :, 22:] - np.eye(3), 0, atol=1e-5)


def test_ours_and_what_is_refused_of_the_command(tmp_path, capsys):
    turns, path, _ = wander()
    np.savez(tmp_path / "a.npz", pred_rotmat=turns.numpy(), pred_trans=path.numpy()[:, None], frame=np.arange(FRAMES))
    command = [str(tmp_path / "a.npz"), "--out", str(tmp_path / "out"), "--body", "anny24_lo369"]
    room.main(command)
    assert "no --fps: 30 frames per second are taken" in capsys.readouterr().out
    for more, message in (
        (["--fps", "0"], "--fps 0: expected 1 to 1000 frames per second"),
        (["--size", "0", "9"], "--size 0 9: expected pixels above 0"),
        (["--out", str(tmp_path / "a.npz")], "is a file, expected a folder"),
        (["--least", "9"], "of 1 people nobody is there for --least 9 s"),
    ):
        with pytest.raises(ValueError, match=message):
            room.main([*command, *more])
