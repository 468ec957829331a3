from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from laws import assert_same

import kinlmr
from kinlmr.motion import Motion, load_motion, read_bvh, save_motion, write_bvh
from kinlmr.rotations import axis_angle_to_matrix

DATA = Path(__file__).parents[1] / "examples/data/motion.npz"
SHARED = Path(__file__).parents[2] / "shared/motion"
BODY = kinlmr.load_body("anny24_lo369")


def recording(frames=20, fps=30.0, seed=0, name="made"):
    generator = torch.Generator().manual_seed(seed)
    steps = 0.1 * torch.randn(frames, 24, 3, generator=generator)
    return Motion(name, BODY.joints, fps, steps.cumsum(0), 0.01 * torch.randn(frames, 3, generator=generator).cumsum(0))


def assert_same_motion(one, two, tolerance):
    """Two recordings turn every joint alike and stand in the same places."""
    assert (one.joints, one.fps, len(one)) == (two.joints, two.fps, len(two))
    turns = [axis_angle_to_matrix(m.rotations) for m in (one, two)]
    assert_same(turns[:1], turns[1:], tolerance)
    assert torch.allclose(one.translation, two.translation, atol=max(tolerance, 1e-6))


@pytest.mark.parametrize("seed", range(3))
def test_bvh_written_then_read_is_the_same(tmp_path, seed):
    motion = recording(seed=seed)
    write_bvh(motion, tmp_path / "made.bvh", BODY)
    assert_same_motion(read_bvh(tmp_path / "made.bvh", BODY), motion, 1e-5)


def test_the_law_can_fail():
    with pytest.raises(AssertionError):
        assert_same_motion(recording(seed=0), recording(seed=1), 1e-5)


def test_archives_keep_everything_to_their_step(tmp_path):
    one = replace(recording(name="one"), cuts=(5, 9), action="walk", subject="s1")
    one = replace(one, rotations=one.rotations.clamp(-3.1, 3.1))
    two = replace(recording(31, seed=1, name="two"), rotations=recording(31, seed=1).rotations.clamp(-3.1, 3.1))
    save_motion([one, two], tmp_path / "m.npz")
    found = load_motion(tmp_path / "m.npz", BODY)
    assert [(m.name, m.cuts, m.action, m.subject) for m in found] == [
        ("one", (5, 9), "walk", "s1"),
        ("two", (), "", ""),
    ]
    for mine, theirs in zip((one, two), found, strict=True):
        assert (mine.rotations - theirs.rotations).abs().max() < 5e-5
        assert (mine.translation - theirs.translation).abs().max() < 6e-4
    with pytest.raises(ValueError, match="share their rate"):
        save_motion([one, replace(two, fps=60.0)], tmp_path / "m.npz")


def test_the_recordings_that_come_along():
    motions = load_motion(DATA, BODY)
    assert [(m.name, len(m), m.fps) for m in motions] == [("cmu_01_01", 688, 30.0), ("cmu_01_03", 1128, 30.0)]
    assert "mocap.cs.cmu.edu" in str(np.load(DATA)["note"])
    for motion in motions:  # hinges bend the way they do: knees about x, elbows about y, left and right mirrored
        mean = {joint: motion.rotations[:, i].mean(0) for i, joint in enumerate(motion.joints)}
        for side, sign in (("left", -1), ("right", 1)):
            assert mean[f"{side}_knee"][0] > 0.3
            assert mean[f"{side}_knee"][1:].abs().max() < 0.1
            assert sign * mean[f"{side}_elbow"][1] > 0.3


CMU = """HIERARCHY
ROOT Hips
{
 OFFSET 0 0 0
 CHANNELS 6 Xposition Yposition Zposition Zrotation Yrotation Xrotation
 %s
}
MOTION
Frames: 3
Frame Time: 0.0333333
0 0 0 %s
1 17 2 %s
2 17 2 %s
"""


def cmu_like(bend):
    """A file with CMU's names whose left knee is bent, with legs splayed at rest by 20 degrees."""
    from kinlmr.motion import DIALECTS

    parents = dict(zip(*[[DIALECTS["cmu"].get(j) for j in names] for names in (BODY.joints, [
        None if p < 0 else BODY.joints[p] for p in BODY.parents])], strict=True))  # fmt: skip
    places = {DIALECTS["cmu"].get(j): BODY.J.view(-1, 3)[i].tolist() for i, j in enumerate(BODY.joints)}
    names = [n for n in places if n]
    splay = torch.tensor(np.deg2rad(20.0), dtype=torch.float32)
    angles = {}

    def block(name):
        parent = parents[name]
        offset = torch.tensor(places[name]) - torch.tensor(places[parent]) if parent else torch.zeros(3)
        if name in ("LeftLeg", "LeftFoot"):
            offset = axis_angle_to_matrix(splay * torch.tensor([0.0, 0, 1])) @ offset
        angles[name] = bend if name == "LeftLeg" else 0.0
        inner = "".join(block(child) for child in names if parents[child] == name and child != name)
        channels = "CHANNELS 3 Zrotation Yrotation Xrotation\n"
        return f"JOINT {name}\n{{\nOFFSET {' '.join(map(str, (18 * offset).tolist()))}\n{channels}{inner}}}\n"

    inner = "".join(block(child) for child in names if parents.get(child) == "Hips" and child != "Hips")
    row = " ".join(["0 0 0"] + [f"0 0 {angle}" for angle in angles.values()])
    rest = " ".join(["0"] * len(row.split()))
    return CMU % (inner, rest, row, row)


def test_another_rest_pose_is_turned_into_the_bodys(tmp_path):
    path = tmp_path / "cmu.bvh"
    path.write_text(cmu_like(0.0))
    motion = read_bvh(path, BODY)
    assert len(motion) == 2  # the first frame at rest is dropped
    assert torch.equal(motion.rotations[0], motion.rotations[1])
    path.write_text(cmu_like(40.0))
    motion = read_bvh(path, BODY)
    assert len(motion) == 2
    mesh = BODY(axis_angle_to_matrix(motion.rotations[:1]))
    hip, knee = (mesh.joints[0, BODY.joints.index(f"left_{j}")] for j in ("hip", "knee"))
    direction = (knee - hip) / (knee - hip).norm()
    rest = BODY.J.view(-1, 3)[4] - BODY.J.view(-1, 3)[1]
    splayed = axis_angle_to_matrix(torch.tensor([0.0, 0, 20.0]).deg2rad()) @ rest
    assert torch.allclose(direction, splayed / splayed.norm(), atol=1e-3)
    assert torch.allclose(
        motion.rotations[0, BODY.joints.index("left_knee")].norm().rad2deg(), torch.tensor(40.0), atol=0.1
    )
    legs = 18 * 1.0
    assert torch.allclose(motion.translation[0], torch.tensor([1.0, 17, 2]) / legs, rtol=1e-3)


def test_amass(tmp_path):
    generator = torch.Generator().manual_seed(0)
    poses = 0.2 * torch.randn(9, 156, generator=generator, dtype=torch.float64)
    poses[:, :3] = torch.tensor([np.pi / 2, 0, 0])  # upright where z is up
    np.savez(
        tmp_path / "a.npz",
        poses=poses,
        trans=np.tile([1.0, 2.0, 3.0], (9, 1)),
        mocap_framerate=np.array(60.0),
        gender=np.array("male"),
    )
    (motion,) = load_motion(tmp_path / "a.npz", BODY)
    assert (len(motion), motion.fps, motion.name) == (5, 30.0, "a")
    assert torch.allclose(motion.translation[0], torch.tensor([1.0, 3.0, -2.0]), atol=1e-5)
    assert motion.rotations[:, 0].abs().max() < 1e-5
    assert torch.allclose(motion.rotations[:, 1:22], poses[::2, 3:66].float().view(5, 21, 3), atol=1e-4)
    assert (motion.rotations[:, 22:] == 0).all()


def test_rates_are_changed_by_the_shortest_turn():
    from kinlmr.motion import _resampled

    time = torch.arange(60.0)
    rotations = torch.zeros(60, 24, 3)
    rotations[:, 0, 1] = 0.05 * time
    motion = Motion("turn", BODY.joints, 50.0, rotations, torch.stack([time, time, time], 1), cuts=(26,))
    slower = _resampled(motion, 30.0)
    assert len(slower) == 36
    assert torch.allclose(slower.rotations[:, 0, 1], 0.05 * torch.arange(36) * 50 / 30, atol=1e-5)
    assert torch.allclose(slower.translation[:, 0], torch.arange(36) * 50 / 30, atol=1e-4)
    assert slower.cuts == (16,)
    assert len(_resampled(motion, 25.0)) == 30


@pytest.mark.skipif(not SHARED.is_dir(), reason="shared motion is not here")
def test_shared_motion_is_read():
    motions = load_motion(SHARED, BODY)
    assert sum(map(len, motions)) == 170159
    assert len({m.name for m in motions}) == len(motions)


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace("LeftUpLeg", "LeftUperLeg"), "it lacks 'LeftUpLeg'; did you mean 'LeftUperLeg'"),
        (lambda t: t[: len(t) // 2], "no MOTION section|promised"),
        (lambda t: t.rsplit(" ", 3)[0], "3 frames of .* numbers promised, 2.9. there; it is cut short"),
        (lambda t: t.replace("Frames: 3", "Frames: 0"), "0 frames of"),
        (lambda t: t.replace("1 17 2", "nan 17 2"), "frame 1 is not finite"),
        (lambda t: t.replace("Frame Time: 0.0333333", "Frame Time: 0"), "MOTION section is damaged"),
        (lambda t: t.replace("Frame Time", "Rate"), "MOTION section is damaged"),
        (lambda t: t.replace("CHANNELS 3 Zr", "CHANNELS three Zr", 1), r"cmu\.bvh:\d+: not BVH"),
        (lambda t: t.replace("Xrotation", "Wrotation", 1), "its hierarchy is damaged"),
        (lambda t: t.replace("JOINT LeftUpLeg\n{", "JOINT LeftUpLeg\n", 1), "not BVH|hierarchy is damaged"),
        (lambda t: "hello", "not a BVH file"),
    ],
)  # fmt: skip
def test_bvh_files_that_are_none(tmp_path, change, message):
    path = tmp_path / "cmu.bvh"
    path.write_text(change(cmu_like(10.0)))
    with pytest.raises(ValueError, match=message) as error:
        read_bvh(path, BODY)
    assert "cmu.bvh" in str(error.value)


def test_names_of_ones_own(tmp_path):
    from kinlmr.motion import DIALECTS

    path = tmp_path / "mine.bvh"
    path.write_text(cmu_like(10.0).replace("Hips", "Root"))
    names = {**DIALECTS["cmu"], "pelvis": "Root"}
    assert len(read_bvh(path, BODY, names=names)) == 2
    with pytest.raises(ValueError, match="body 'anny24_lo369' has no joint 'tail'"):
        read_bvh(path, BODY, names={**names, "tail": "Neck"})
    with pytest.raises(ValueError, match="must name the body's root"):
        read_bvh(path, BODY, names={"neck": "Neck"})
    with pytest.raises(ValueError, match="the recording's joints are not those"):
        write_bvh(replace(recording(), joints=("a",)), path, BODY)


def test_archives_that_are_none(tmp_path):
    path = tmp_path / "m.npz"
    motion = replace(recording(), rotations=recording().rotations.clamp(-3, 3))
    save_motion([motion], path)
    with np.load(path) as file:
        good = {key: file[key] for key in file.files}
    for change, message in (
        ({"clips": None}, "neither AMASS nor an archive of motion; clips missing"),
        ({"clips": np.array("[{]")}, "its list of clips is damaged"),
        ({"clips": np.array('[{"name": "a", "start": 0, "frames": 99}]')}, r"'a' has frames 0 \.\. 99, the file 20"),
        ({"clips": np.array('[{"name": "a", "start": 0, "frames": 0}]')}, "clip 'a' has frames 0"),
        ({"joints": np.array(["pelvis", "left_hipp", *BODY.joints[2:]])}, "'left_hipp'; did you mean 'left_hip'"),
        ({"joints": np.array(BODY.joints[::-1])}, "the same in another order"),
        ({"rot_delta": good["rot_delta"][:, :23]}, "do not fit 24 joints"),
        ({"poses": np.zeros((4, 50))}, r"poses \(4, 50\), expected"),
        ({"poses": np.zeros((0, 156)), "trans": np.zeros((0, 3)), "mocap_framerate": np.array(30.0)}, "no frames"),
        ({"poses": np.full((4, 156), np.nan), "trans": np.zeros((4, 3)), "mocap_framerate": np.array(30.0)},
         "not finite from frame 0"),
    ):  # fmt: skip
        np.savez(path, **{key: value for key, value in {**good, **change}.items() if value is not None})
        with pytest.raises(ValueError, match=message) as error:
            load_motion(path, BODY)
        assert "m.npz" in str(error.value)
    with pytest.raises(FileNotFoundError, match="no such motion file or folder"):
        load_motion(tmp_path / "none.bvh", BODY)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no \.bvh and no \.npz file in"):
        load_motion(tmp_path / "empty", BODY)
