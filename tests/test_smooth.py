"""examples/smooth.py: filters, the smoother's laws, and the names under which other models write their parameters."""

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import kinlmr
from kinlmr.rotations import axis_angle_to_matrix, matrix_to_axis_angle, quaternion_to_matrix

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))
import smooth as room  # noqa: E402

FRAMES = 7


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = room.built(hidden=8).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # a fresh one would hardly turn the slow filter's answer
    return model


@pytest.fixture(scope="module")
def method(model):
    return lambda x: room.smooth(model, x)[0]


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
    found, _ = room.one_euro(torch.from_numpy(x)[None, :, None], fps, cutoff, beta)
    np.testing.assert_allclose(found[0, :, 0], expected, atol=1e-12)


@given(st.integers(0, 2**16), st.lists(st.booleans(), min_size=FRAMES, max_size=FRAMES))
def test_a_quaternion_and_its_negative_are_one_rotation(seed, negative):
    q = torch.nn.functional.normalize(
        torch.randn(1, FRAMES, 3, 4, generator=torch.Generator().manual_seed(seed)), dim=-1
    )
    other = torch.where(torch.tensor(negative)[:, None, None], -q, q)
    one, two = (quaternion_to_matrix(room.one_euro(x, 30.0, 1.0, 0.5, unit=True)[0]) for x in (q, other))
    assert torch.allclose(one, two, atol=1e-5)


# -------------------------------------------------------------------------------------------------------- the smoother


def assert_streams(method, rotations, at):
    """Chunks give what the whole gives: nothing looks ahead, and all that is remembered is passed on."""
    whole, _ = method(rotations, None)
    first, memory = method(rotations[:, :at], None)
    second, _ = method(rotations[:, at:], memory)
    assert torch.allclose(torch.cat([first, second], 1), whole, atol=1e-9)


@settings(max_examples=20)
@given(st.integers(0, 2**16), st.integers(1, FRAMES - 1))
def test_it_does_not_look_ahead(model, seed, at):
    exact = copy.deepcopy(model).double()  # a random model enlarges float32's rounding beyond any bound
    assert_streams(lambda x, memory: room.smooth(exact, x, memory), walk(seed=seed, people=2).double(), at)


def test_that_law_can_fail(model):
    for broken in (
        lambda x, memory: room.smooth(model, x),  # forgets
        lambda x, memory: (x.flip(1).cumsum(1).flip(1), None),  # looks ahead
    ):
        with pytest.raises(AssertionError):
            assert_streams(broken, walk(), 3)


@settings(max_examples=20)
@given(st.integers(0, 2**16))
def test_where_the_camera_stands_plays_no_part(model, seed):
    rotations = walk(seed=seed)
    turn = walk(1, 1, seed + 1)[0, 0]
    turned = torch.cat([turn @ rotations[:, :, :1], rotations[:, :, 1:]], 2)
    plain, other = (room.smooth(model, x)[0] for x in (rotations, turned))
    assert torch.allclose(other[:, :, :1], turn @ plain[:, :, :1], atol=1e-4)
    assert torch.allclose(other[:, :, 1:], plain[:, :, 1:], atol=1e-4)
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


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_smoothed_as_its_rotations_are(method, name):
    rotations = walk()
    arrays = LAYOUTS[name](rotations[0])
    if name in ("GVHMR", "PromptHMR", "AMASS"):  # they have no joints for the hands
        rotations[:, :, 22:] = torch.eye(3)
    expected = LAYOUTS[name](method(rotations)[0].detach())
    found = room.smoothed(Path("a.npz"), arrays, method, 30.0)
    assert found.keys() == arrays.keys()
    for key, x in found.items():
        assert x.dtype == arrays[key].dtype
        turns = [y if y.shape[-1] == 3 and y.ndim > 2 else axis_angle_to_matrix(torch.tensor(y).unflatten(-1, (-1, 3)))
                 for y in (x, expected[key])]  # fmt: skip
        np.testing.assert_allclose(*turns, atol=2e-4)


def test_what_else_a_file_has(method):
    rng = np.random.default_rng(0)
    arrays = {
        "pose": vectors(walk()[0]), "betas": rng.normal(size=(FRAMES, 10)), "pred_cam": rng.normal(size=(FRAMES, 3)),
        "bboxes": rng.normal(size=(FRAMES, 4)), "verts": rng.normal(size=(FRAMES, 5, 3)),
        "left_hand_pose": np.ones((FRAMES, 45)),
        "frame_ids": np.array([3, 4, 5, 40, 41, 42, 44]), "video": np.array("a.mp4"),
    }  # fmt: skip
    found = room.smoothed(Path("a.npz"), arrays, method, 30.0)
    assert found.keys() == arrays.keys() - {"verts"}
    assert all(found[key] is arrays[key] for key in ("bboxes", "left_hand_pose", "frame_ids", "video"))
    for key in ("pose", "betas", "pred_cam"):  # where a second is missing it starts afresh
        parts = [
            {**arrays, key: arrays[key][part], "pose": arrays["pose"][part]} for part in (slice(3), slice(3, None))
        ]
        parts = [{k: x for k, x in part.items() if k in ("pose", key)} for part in parts]
        alone = [room.smoothed(Path("a.npz"), part, method, 30.0)[key] for part in parts]
        np.testing.assert_allclose(found[key], np.concatenate(alone), atol=1e-5)
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
    ],
)
def test_bad_files_are_refused(method, change, message):
    arrays = {key: x for key, x in {"pose": np.zeros((FRAMES, 72)), **change}.items() if x is not None}
    with pytest.raises(ValueError, match=rf"^a\.npz: .*{message}"):
        room.smoothed(Path("a.npz"), arrays, method, 30.0)


def test_from_file_to_file(model, method, tmp_path, capsys):
    kinlmr.save(model, tmp_path / "model.npz")
    kinlmr.save(kinlmr.build(features=3, hidden=2), tmp_path / "other.npz")
    np.savez(tmp_path / "in.npz", pose=vectors(walk()[0]), verts=np.zeros((FRAMES, 4, 3)), name=np.array("x"))
    command = [str(tmp_path / "in.npz"), "--fps", "25", "--out", str(tmp_path / "out.npz")]
    filtered = room.filtered(25.0, *room.FILTER)
    for more, way in (([], filtered), (["--model", str(tmp_path / "model.npz")], method)):
        room.main([*command, *more])
        assert capsys.readouterr().out == "smoothed: pose\ncopied: name\nleft out: verts\n"
        with np.load(tmp_path / "out.npz") as file:
            expected = room.smoothed(Path("a.npz"), {"pose": vectors(walk()[0])}, way, 25.0)
            np.testing.assert_allclose(file["pose"], expected["pose"], atol=1e-6)
    for more, message in (
        (["--fps", "12", "--model", "model.npz"], "--fps 12: expected 20 to 65 frames"),
        (["--fps", "0"], "--fps 0: expected 1 to 1000 frames"),
        (["--out", "out.pkl"], "must end in .npz"),
        (["--model", str(tmp_path / "other.npz")], "not a checkpoint of train_smoother.py"),
    ):
        with pytest.raises(ValueError, match=message):
            room.main([*command, *more])
