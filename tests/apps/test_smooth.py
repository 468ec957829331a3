"""examples/smooth.py: the filter, and the names under which other models write their parameters."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kinlmr.rotations import axis_angle_to_matrix, matrix_to_axis_angle, quaternion_to_matrix

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples"))
import smooth as room  # noqa: E402

FRAMES = 7


def walk(frames=FRAMES, joints=24, seed=0, people=1):
    """Rotations (B, T, J, 3, 3) that wander."""
    generator = torch.Generator().manual_seed(seed)
    steps = 0.2 * torch.randn(people, frames, joints, 3, generator=generator)
    return axis_angle_to_matrix(torch.randn(people, 1, joints, 3, generator=generator) + steps.cumsum(1))


# -------------------------------------------------------------------------------------------------------------- filters


def test_one_euro_is_its_equations():
    """Casiez et al. 2012, written out for one number."""
    x, fps, cutoff, beta = np.random.default_rng(0).normal(size=20), 25.0, 0.8, 0.6
    gain = lambda f: 1 / (1 + fps / (2 * np.pi * f))  # noqa: E731
    value, speed, expected = x[0], 0.0, []
    for now in x:
        speed += gain(1.0) * ((now - value) * fps - speed)
        value += gain(cutoff + beta * abs(speed)) * (now - value)
        expected.append(value)
    found = room.one_euro(torch.from_numpy(x)[None, :, None], fps, cutoff, beta)
    np.testing.assert_allclose(found[0, :, 0], expected, atol=1e-12)


@given(st.integers(0, 2**16), st.lists(st.booleans(), min_size=FRAMES, max_size=FRAMES))
def test_a_quaternion_and_its_negative_are_one_rotation(seed, negative):
    q = torch.nn.functional.normalize(
        torch.randn(1, FRAMES, 3, 4, generator=torch.Generator().manual_seed(seed)), dim=-1
    )
    other = torch.where(torch.tensor(negative)[:, None, None], -q, q)
    one, two = (quaternion_to_matrix(room.one_euro(x, 30.0, 1.0, 0.5, unit=True)) for x in (q, other))
    assert torch.allclose(one, two, atol=1e-5)


def assert_causal(method, rotations, at):
    """What comes after a frame changes nothing before it."""
    assert torch.equal(method(rotations)[:, :at], method(rotations[:, :at]))


@given(st.integers(0, 2**16), st.integers(1, FRAMES - 1))
def test_it_does_not_look_ahead(seed, at):
    assert_causal(lambda x: room.smooth(x, 30.0), walk(seed=seed, people=2).double(), at)


def test_that_law_can_fail():
    with pytest.raises(AssertionError):
        assert_causal(lambda x: x.flip(1).cumsum(1).flip(1), walk(), 3)


@given(st.integers(0, 2**16))
def test_where_the_camera_stands_plays_no_part(seed):
    rotations = walk(seed=seed).double()
    turn = walk(1, 1, seed + 1)[0, 0].double()
    plain, other = (
        room.smooth(x, 30.0) for x in (rotations, torch.cat([turn @ rotations[:, :, :1], rotations[:, :, 1:]], 2))
    )
    assert torch.allclose(other[:, :, :1], turn @ plain[:, :, :1], atol=1e-6)
    assert torch.equal(other[:, :, 1:], plain[:, :, 1:])
    assert not torch.allclose(plain, rotations, atol=0.05)


# ---------------------------------------------------------------------------------------------------------------- files


def vectors(rotations):
    return matrix_to_axis_angle(rotations).flatten(1).numpy()


LAYOUTS = {
    "VIBE": lambda r: {"pose": vectors(r)},
    "WHAM": lambda r: {"pose": vectors(r), "pose_world": vectors(r)},
    "SPIN": lambda r: {"pred_rotmat": r.numpy()},
    "HMR2": lambda r: {"global_orient": r[:, :1].numpy(), "body_pose": r[:, 1:].numpy()},
    "GVHMR": lambda r: {f"smpl_params_{k}_{name}": vectors(part) for k in ("incam", "global")
                        for name, part in (("global_orient", r[:, :1]), ("body_pose", r[:, 1:22]))},
    "PromptHMR": lambda r: {"smplx/root_orient": vectors(r[:, :1]), "smplx/pose_body": vectors(r[:, 1:22])},
    "WHAM's network": lambda r: {"poses_root_cam": r[:, :1].numpy(), "poses_root_world": r[:, :1].numpy(),
                                 "poses_body": r[:, 1:].numpy()},
    "AMASS": lambda r: {"poses": np.concatenate([vectors(r[:, :22]), np.ones((len(r), 90), np.float32)], 1)},
}  # fmt: skip


def smoothed(arrays, fps=30.0):
    """As the script does it, but for reading and writing."""
    poses, path = room.poses_of(Path("a.npz"), arrays), Path("a.npz")
    numbers = room.numbers_of(path, arrays, len(next(iter(poses.values()))))
    return room.smoothed(arrays, poses, room.cuts_of(numbers, fps), fps)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_smoothed_as_its_rotations_are(name):
    rotations = walk()
    arrays = LAYOUTS[name](rotations[0])
    if name in ("GVHMR", "PromptHMR", "AMASS"):  # they have no joints for the hands
        rotations[:, :, 22:] = torch.eye(3)
    expected = LAYOUTS[name](room.smooth(rotations, 30.0)[0])
    found = smoothed(arrays)
    assert found.keys() == arrays.keys()
    for key, x in found.items():
        assert x.dtype == arrays[key].dtype
        turns = [y if y.shape[-1] == 3 and y.ndim > 2 else axis_angle_to_matrix(torch.tensor(y).unflatten(-1, (-1, 3)))
                 for y in (x, expected[key])]  # fmt: skip
        np.testing.assert_allclose(*turns, atol=2e-4)


NUMBERED = """
    frame frames frame_id frame_ids frame_idx frame_idxs frame_ind frame_inds frame_index frame_indices frame_num
    frame_nums frame_number frame_numbers frame_no frameid frameIdx FrameNumber Frame video/frame_ids person.frames
"""


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.uint64, np.float32])
def test_frame_numbers_are_known_under_any_of_their_names(kind):
    numbers = np.array([3, 4, 5, 40, 41, 42, 44], kind)
    for key in NUMBERED.split():
        for shown in (numbers, numbers[:, None]):
            found = room.numbers_of(Path("a.npz"), {key: shown, "pose": np.zeros((FRAMES, 72))}, FRAMES)
            assert list(found) == [key]
            assert room.cuts_of(found, 30.0) == [3]


def test_after_a_gap_it_starts_afresh():
    """What comes after a second without frames is what it is alone."""
    rng = np.random.default_rng(0)
    arrays = {"pose": vectors(walk()[0]), "betas": rng.normal(size=(FRAMES, 10)), "trans": rng.normal(size=(FRAMES, 3))}
    found, joined = smoothed({**arrays, "frame": np.array([3, 4, 5, 40, 41, 42, 44])}), smoothed(arrays)
    alone = [smoothed({k: x[part] for k, x in arrays.items()}) for part in (slice(3), slice(3, None))]
    for name in arrays:
        np.testing.assert_allclose(found[name], np.concatenate([part[name] for part in alone]), atol=1e-5)
        assert np.abs(found[name] - joined[name]).max() > 1e-3


@pytest.mark.parametrize(
    ("key", "x"),
    [("frames", np.zeros((FRAMES, 2, 2, 3))), ("frames", np.array(240)), ("frame_num", np.array([240])),
     ("frame", np.array(["a.jpg"] * FRAMES)), ("frames", np.array([1, 240])), ("frame_rate", np.full(FRAMES, 30.0)),
     ("valid_frames", np.ones(FRAMES, bool)), ("keyframe", np.zeros(FRAMES)), ("frame_ids_of", np.zeros(FRAMES))],
)  # fmt: skip
def test_what_only_sounds_like_frame_numbers_is_passed_over(key, x):
    assert room.numbers_of(Path("a.npz"), {key: x}, FRAMES) == {}


def test_of_several_numbers_each_gap_counts():
    numbers = {"frame": np.arange(6.0), "frame_ids": np.array([0.0, 1, 90, 91, 92, 93]), "a.frame": np.arange(6.0) * 20}
    assert room.cuts_of(numbers, 30.0) == [1, 2, 3, 4, 5]
    assert room.cuts_of(numbers, 60.0) == [2]
    assert room.cuts_of({}, 30.0) == []


def test_what_else_a_file_has():
    rng = np.random.default_rng(0)
    arrays = {
        "pose": vectors(walk()[0]), "betas": rng.normal(size=(FRAMES, 10)), "pred_cam": rng.normal(size=(FRAMES, 3)),
        "bboxes": rng.normal(size=(FRAMES, 4)), "verts": rng.normal(size=(FRAMES, 5, 3)),
        "left_hand_pose": np.ones((FRAMES, 45)), "frame_ids": np.arange(FRAMES), "video": np.array("a.mp4"),
    }  # fmt: skip
    found = smoothed(arrays)
    assert found.keys() == arrays.keys() - {"verts"}
    assert all(found[key] is arrays[key] for key in ("bboxes", "left_hand_pose", "frame_ids", "video"))
    np.testing.assert_allclose(found["betas"][2], arrays["betas"][:3].mean(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pose": None, "theta": np.zeros((FRAMES, 85))}, r"no pose .* It has theta \(7, 85\)$"),
        ({"pose": np.zeros((FRAMES, 144))}, r"It has pose \(7, 144\)"),
        ({"pose": None, "body_pose_params": np.zeros((FRAMES, 133))}, "SAM-3D-Body's has other joints: convert it"),
        ({"pose": np.full((FRAMES, 72), np.nan)}, "pose is not finite in frame 0"),
        ({"pose_world": np.zeros((3, 72))}, "poses of different lengths: pose 7, pose_world 3"),
        ({"frame_ids": np.arange(FRAMES)[::-1]}, r"frame_ids of shape \(7,\), expected \(7,\) of rising"),
        ({"frame_ids": np.arange(FRAMES - 1)}, r"frame_ids of shape \(6,\), expected \(7,\) of rising"),
        ({"frame": np.zeros(FRAMES, np.uint8)}, r"frame of shape \(7,\), expected \(7,\) of rising"),
        ({"frame_idx": np.full(FRAMES, np.nan)}, r"frame_idx of shape \(7,\), expected \(7,\) of rising"),
    ],
)
def test_bad_files_are_refused(change, message):
    arrays = {key: x for key, x in {"pose": np.zeros((FRAMES, 72)), **change}.items() if x is not None}
    with pytest.raises(ValueError, match=rf"^a\.npz: .*{message}"):
        smoothed(arrays)


def test_from_file_to_file(tmp_path, capsys):
    pose = vectors(walk()[0])
    command = [str(tmp_path / "in.npz"), "--fps", "25", "--out", str(tmp_path / "out.npz")]
    for numbers, said in (
        (
            {},
            "copied: name\nleft out: verts\nno frame numbers were found (frame, frame_ids, frame_idx, ...)",
        ),
        (
            {"frame": np.arange(0, 140, 20)},
            "copied: frame, name\nleft out: verts\ngaps of more than 0.5 s by frame: 6\n",
        ),
    ):
        np.savez(tmp_path / "in.npz", pose=pose, verts=np.zeros((FRAMES, 4, 3)), name=np.array("x"), **numbers)
        room.main(command)
        assert capsys.readouterr().out.startswith(f"smoothed: pose\n{said}")
        with np.load(tmp_path / "out.npz") as file:
            np.testing.assert_allclose(file["pose"], smoothed({"pose": pose, **numbers}, 25.0)["pose"], atol=1e-6)
    for more, message in (
        (["--fps", "0"], "--fps 0: expected 1 to 1000 frames"),
        (["--out", "out.pkl"], "must end in .npz"),
    ):
        with pytest.raises(ValueError, match=message):
            room.main([*command, *more])
