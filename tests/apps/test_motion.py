import re
from dataclasses import replace
from pathlib import Path

import bodies
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laws import assert_same

import kinlmr
from kinlmr.body.assembly import assemble
from kinlmr.export.bvh import write_bvh
from kinlmr.motion.archives import load_motion, save_motion
from kinlmr.motion.bvh import Bvh
from kinlmr.motion.dialects import DIALECTS
from kinlmr.motion.names import sides
from kinlmr.motion.recording import Motion, resampled
from kinlmr.motion.retarget import read_bvh
from kinlmr.motion.up import upright
from kinlmr.rotations import axis_angle_to_matrix, matrix_to_axis_angle

DATA = Path(__file__).parents[2] / "examples/data/motion.npz"
SHARED = Path(__file__).parents[2] / "shared/motion"
BODY = kinlmr.load_body("anny24_lo369")


def recording(frames=20, fps=30.0, seed=0, name="made"):
    generator = torch.Generator().manual_seed(seed)
    steps = 0.1 * torch.randn(frames, 24, 3, generator=generator)
    return Motion(name, BODY.joints, fps, steps.cumsum(0), 0.01 * torch.randn(frames, 3, generator=generator).cumsum(0))


def assert_same_motion(one, two, tolerance):
    """Two recordings turn every joint alike and stand in the same places."""
    assert (one.joints, one.fps, len(one)) == (two.joints, two.fps, len(two))
    turns = [axis_angle_to_matrix(m.axis_angle) for m in (one, two)]
    assert_same(turns[:1], turns[1:], tolerance)
    assert torch.allclose(one.translation, two.translation, atol=max(tolerance, 1e-6))


@pytest.mark.parametrize("seed", range(3))
def test_bvh_written_then_read_is_the_same(tmp_path, seed):
    motion = recording(seed=seed)
    write_bvh(motion, tmp_path / "made.bvh", BODY)
    assert_same_motion(read_bvh(tmp_path / "made.bvh", BODY), motion, 1e-5)


@given(
    st.integers(1, 12), st.integers(0, 99), st.booleans(), st.sampled_from([23.976, 24.0, 29.97, 30.0, 59.94, 120.0])
)
def test_every_frame_written_is_read(tmp_path_factory, frames, seed, still, rate):
    """No frame is dropped, not even a first one that happens to be the rest pose; the rate is exact too."""
    motion = replace(recording(frames, rate, seed), cuts=())
    motion.axis_angle[0 if still else slice(0)] = 0
    path = tmp_path_factory.mktemp("bvh") / "made.bvh"
    write_bvh(motion, path, BODY)
    assert_same_motion(read_bvh(path, BODY, fps=rate), motion, 1e-5)


def test_no_bone_is_written_without_length(tmp_path):
    write_bvh(recording(), tmp_path / "made.bvh", BODY)
    text = (tmp_path / "made.bvh").read_text()
    offsets = [[float(x) for x in line.split()] for line in re.findall(r"OFFSET (.*)", text)]
    assert len(offsets) == 24 + 5  # and the ends of two hands, two feet and the head
    assert all(np.linalg.norm(offset) > 1e-3 for offset in offsets[1:])
    assert_same_motion(read_bvh(tmp_path / "made.bvh", BODY), recording(), 1e-5)


def test_the_law_can_fail():
    with pytest.raises(AssertionError):
        assert_same_motion(recording(seed=0), recording(seed=1), 1e-5)


def test_archives_keep_everything_to_their_step(tmp_path):
    one = replace(recording(name="one"), cuts=(5, 9), action="walk", subject="s1")
    one = replace(one, axis_angle=one.axis_angle.clamp(-3.1, 3.1))
    two = replace(recording(31, seed=1, name="two"), axis_angle=recording(31, seed=1).axis_angle.clamp(-3.1, 3.1))
    save_motion([one, two], tmp_path / "m.npz")
    found = load_motion(tmp_path / "m.npz", BODY)
    assert [(m.name, m.cuts, m.action, m.subject) for m in found] == [
        ("one", (5, 9), "walk", "s1"),
        ("two", (), "", ""),
    ]
    for mine, theirs in zip((one, two), found, strict=True):
        assert (mine.axis_angle - theirs.axis_angle).abs().max() < 5e-5
        assert (mine.translation - theirs.translation).abs().max() < 6e-4
    with pytest.raises(ValueError, match="share their rate"):
        save_motion([one, replace(two, fps=60.0)], tmp_path / "m.npz")
    with pytest.raises(ValueError, match=r"m\.npz: .* share their rate .* no recording"):
        save_motion([], tmp_path / "m.npz")


@pytest.mark.parametrize("what", ["axis_angle", "translation"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_archives_refuse_what_is_not_finite(tmp_path, what, value):
    motion = recording()
    getattr(motion, what)[7, 0] = value
    with pytest.raises(ValueError, match=r"m\.npz: recording 'made' is not finite at frame 7; cut or fill"):
        save_motion([recording(name="fine"), motion], tmp_path / "m.npz")
    assert not (tmp_path / "m.npz").exists()


def test_rotations_of_a_recording_are_its_axis_angle_under_their_old_name():
    motion = recording()
    with pytest.warns(FutureWarning, match=r"Motion\.rotations is now Motion\.axis_angle"):
        assert motion.rotations is motion.axis_angle


def test_archives_keep_vectors_of_more_than_half_a_turn(tmp_path):
    motion = replace(recording(), axis_angle=recording().axis_angle * 9)
    assert motion.axis_angle.norm(dim=-1).max() > 7
    save_motion([motion], tmp_path / "m.npz")
    assert_same_motion(load_motion(tmp_path / "m.npz", BODY)[0], motion, 1e-3)


def test_archives_of_other_tools_names(tmp_path):
    save_motion([replace(recording(), joints=tuple(n.replace("left_", "L_") for n in BODY.joints))], tmp_path / "m.npz")
    assert load_motion(tmp_path / "m.npz", BODY)[0].joints == BODY.joints


def assert_paired(names, pairs):
    """The names that ``pairs`` puts beside one another are one another's other side; all others are in the middle."""
    found = sides(names)
    for one, two in pairs:
        (a, rest_a), (b, rest_b) = found[names.index(one)], found[names.index(two)]
        assert ({a, b}, rest_a) == ({"left", "right"}, rest_b)
    assert [name for name, (side, _) in zip(names, found, strict=True) if side] == [n for pair in pairs for n in pair]


@pytest.mark.parametrize(
    "pair",
    ["left_hip right_hip", "LeftHip RightHip", "l_hip r_hip", "L_Hip R_Hip", "LHip RHip", "lThigh rThigh", "lhip rhip",
     "hip_l hip_r", "hip.L hip.R", "HandLeft HandRight", "ElbowL ElbowR", "Bip01_L_Thigh Bip01_R_Thigh",
     "lefthip righthip", "LHIP RHIP", "mixamorig:LeftArm mixamorig:RightArm", "LEFT_HIP RIGHT_HIP"],
)  # fmt: skip
def test_sides_are_told_from_names(pair):
    names = [
        "pelvis",
        *pair.split(),
        "L5",
        "T12",
        "root",
        "lower_back",
        "ribs",
        "Lumbar",
        "Reference",
        "upright",
        "skull",
    ]
    assert_paired(names, [pair.split()])
    with pytest.raises(AssertionError):
        assert_paired(names, [])


@pytest.mark.parametrize("pair", ["root loot", "Root Loot", "ROOT LOOT", "root_01 loot_01", "RootJoint LootJoint"])
def test_the_root_has_no_side(pair):
    assert_paired([*pair.split(), "lfoot", "rfoot"], [["lfoot", "rfoot"]])
    assert_paired(["root", "lroot", "rroot"], [["lroot", "rroot"]])


def test_a_recording_says_what_it_is():
    assert repr(recording(7, 59.94)) == "Motion(made: 7 frames at 59.94 per second, 24 joints)"


def test_the_recordings_that_come_along():
    motions = load_motion(DATA, BODY)
    assert [(m.name, len(m), m.fps) for m in motions] == [("cmu_01_01", 688, 30.0), ("cmu_01_03", 1128, 30.0)]
    assert "mocap.cs.cmu.edu" in str(np.load(DATA)["note"])
    for motion in motions:  # no T-pose before it: no joint moves more than 30 cm in a thirtieth of a second
        places = BODY(axis_angle_to_matrix(motion.axis_angle), None, motion.origin(BODY)).joints
        steps = places.diff(dim=0).norm(dim=-1).amax(1)
        assert motion.cuts == ()
        assert steps[0] < 2 * steps[1:6].max()
        assert steps.max() < 0.3
    for motion in motions:  # hinges bend the way they do: knees about x, elbows about y, left and right mirrored
        mean = {joint: motion.axis_angle[:, i].mean(0) for i, joint in enumerate(motion.joints)}
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


T_POSE = " ".join(f"0 0 {17 * (i % 2)}" for i in range(20))  # not quite at rest: some joints at 17 degrees


@pytest.mark.parametrize("first", ["0 0 0 ", "1 17 2 " + T_POSE])
def test_a_first_pose_that_jumps_is_a_cut(tmp_path, first):
    """A rest pose or T-pose that a tool put first is kept, marked, and left out where it is asked for."""
    path = tmp_path / "cmu.bvh"
    lines = cmu_like(40.0).splitlines()
    start = lines.index("Frame Time: 0.0333333") + 1
    width = len(lines[start].split())
    lines[start] = " ".join((first.split() + ["0"] * width)[:width])
    path.write_text("\n".join(lines))
    motion = read_bvh(path, BODY)
    assert (len(motion), motion.cuts) == (3, (1,))
    motion = read_bvh(path, BODY, skip=1)
    assert (len(motion), motion.cuts) == (2, ())
    for skip in (-1, 3):
        with pytest.raises(ValueError, match=rf"cmu\.bvh: skip is {skip}, expected 0 \.\. 2"):
            read_bvh(path, BODY, skip=skip)


def test_a_first_pose_that_leads_into_the_second_is_no_cut(tmp_path):
    for seed in range(5):
        write_bvh(recording(seed=seed), tmp_path / "made.bvh", BODY)
        assert read_bvh(tmp_path / "made.bvh", BODY).cuts == ()


def cmu_like(bend):
    """A file with CMU's names whose left knee is bent, with legs splayed at rest by 20 degrees."""
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
    motion = read_bvh(path, BODY, skip=1)  # the frame at rest that comes first
    assert len(motion) == 2
    assert torch.equal(motion.axis_angle[0], motion.axis_angle[1])
    path.write_text(cmu_like(40.0))
    motion = read_bvh(path, BODY, skip=1)
    assert len(motion) == 2
    mesh = BODY(axis_angle_to_matrix(motion.axis_angle[:1]))
    hip, knee = (mesh.joints[0, BODY.joints.index(f"left_{j}")] for j in ("hip", "knee"))
    direction = (knee - hip) / (knee - hip).norm()
    rest = BODY.J.view(-1, 3)[4] - BODY.J.view(-1, 3)[1]
    splayed = axis_angle_to_matrix(torch.tensor([0.0, 0, 20.0]).deg2rad()) @ rest
    assert torch.allclose(direction, splayed / splayed.norm(), atol=1e-3)
    assert torch.allclose(
        motion.axis_angle[0, BODY.joints.index("left_knee")].norm().rad2deg(), torch.tensor(40.0), atol=0.1
    )
    legs = 18 * 1.0
    assert torch.allclose(motion.translation[0], torch.tensor([1.0, 17, 2]) / legs, rtol=1e-3)


UPRIGHT = axis_angle_to_matrix(torch.tensor([-np.pi / 2, 0, 0], dtype=torch.float32))  # z up to y up


def tree_body(skeleton, joint_names=None):
    """A small random body with the joints of one of the skeletons."""
    parents = bodies.parents_of(kinlmr.load_skeleton(skeleton))
    names = {} if joint_names is None else {"joint_names": np.array(joint_names)}
    return assemble({**bodies.arrays(parents, 40, 16, pose=False), **names}, skeleton)


def amass(path, joints=52, rate=60.0, frames=9, seed=0, **extra):
    """A file as AMASS writes it, z up, of random poses (T, J, 3) of somebody upright, trans (T, 3) and betas (16)."""
    rng = np.random.default_rng(seed)
    poses, trans = 0.3 * rng.standard_normal((frames, joints, 3)), rng.standard_normal((frames, 3))
    root = UPRIGHT.double().mT @ axis_angle_to_matrix(torch.from_numpy(poses[:, 0]))
    poses[:, 0] = matrix_to_axis_angle(root).numpy()
    betas = rng.standard_normal(16)
    content = {"poses": poses.reshape(frames, -1), "trans": trans, "betas": betas, "mocap_framerate": np.array(rate)}
    np.savez(path, **{**content, "gender": np.array(b"male"), **extra})
    return poses, torch.from_numpy(trans).float(), torch.from_numpy(betas).float()


def assert_stands_where(motion, body, joints):
    """Posed by the recording, the body's joints (T, J, 3) are at these places in the world, whatever its shape."""
    matrices = axis_angle_to_matrix(motion.axis_angle)
    for shape in (None, torch.ones(3)):
        mesh = body(matrices, shape, motion.origin(body, shape))
        root = body.parents.index(-1)
        assert torch.allclose(mesh.joints[:, root], joints[:, root], atol=1e-4)
        if shape is None:
            assert torch.allclose(mesh.joints, joints, atol=1e-4)


@pytest.mark.parametrize(
    ("skeleton", "joints", "extra"),
    [
        ("smplh.yaml", 52, {}),
        ("smplx.yaml", 55, {"surface_model_type": np.array("smplx_locked_head")}),
        ("smpl.yaml", 24, {}),
    ],
)
def test_amass_on_its_own_body_stands_where_its_model_puts_it(tmp_path, skeleton, joints, extra):
    body = tree_body(skeleton)
    poses, trans, betas = amass(tmp_path / "a.npz", joints, **extra)
    (motion,) = load_motion(tmp_path / "a.npz", body, fps=60.0)
    matrices = axis_angle_to_matrix(torch.from_numpy(poses).float())
    theirs = body(matrices, betas, trans).joints @ UPRIGHT.T  # AMASS's own formula, then y up
    mean = body(matrices, None, trans).joints
    mean = (mean - mean[:, :1]) @ UPRIGHT.T + theirs[:, :1]  # of mean shape, with the root in the same place
    assert_stands_where(motion, body, mean)


def test_the_law_of_places_can_fail(tmp_path):
    poses, trans, _ = amass(tmp_path / "a.npz")
    body = tree_body("smplh.yaml")
    (motion,) = load_motion(tmp_path / "a.npz", body, fps=60.0)
    joints = body(axis_angle_to_matrix(torch.from_numpy(poses).float()), None, trans).joints @ UPRIGHT.T
    with pytest.raises(AssertionError):
        assert_stands_where(replace(motion, translation=trans @ UPRIGHT.T), body, joints)


def test_the_same_place_from_every_reader(tmp_path):
    """AMASS, BVH and archive: one body, three files, the same joints in the world."""
    poses, trans, _ = amass(tmp_path / "a.npz", rate=30.0)
    (motion,) = load_motion(tmp_path / "a.npz", BODY)
    matrices = torch.eye(3).repeat(9, 24, 1, 1)
    matrices[:, :22] = axis_angle_to_matrix(torch.from_numpy(poses[:, :22]).float())
    joints = BODY(matrices, None, trans).joints @ UPRIGHT.T
    write_bvh(motion, tmp_path / "a.bvh", BODY)
    save_motion([motion], tmp_path / "archive.npz")
    for file, tolerance in (("a.npz", 1e-4), ("a.bvh", 1e-4), ("archive.npz", 2e-3)):
        (found,) = load_motion(tmp_path / file, BODY)
        posed = BODY(axis_angle_to_matrix(found.axis_angle), None, found.origin(BODY)).joints
        assert torch.allclose(posed, joints, atol=tolerance), file


def own_frame(poses):
    """AMASS's rotations (T, J, 3) with the root's turned from z up to y up, as matrices."""
    matrices = axis_angle_to_matrix(torch.from_numpy(poses).float())
    return torch.cat([UPRIGHT @ matrices[:, :1], matrices[:, 1:]], 1)


@pytest.mark.parametrize(("file", "joints"), [("smplh.yaml", 52), ("smplx.yaml", 55), ("smpl.yaml", 24)])
@pytest.mark.parametrize("body", ["smplh.yaml", "smplx.yaml", "smpl.yaml", "smal.yaml"])
def test_amass_joints_are_matched_by_name(tmp_path, file, joints, body):
    """left_index1 turns left_index1, never the jaw; what only one tree has is at rest or left out."""
    poses, *_ = amass(tmp_path / "a.npz", joints)
    layout, body = kinlmr.load_skeleton(file).joints, tree_body(body)
    (motion,) = load_motion(tmp_path / "a.npz", body, fps=60.0)
    found, theirs = axis_angle_to_matrix(motion.axis_angle), own_frame(poses)
    for j, name in enumerate(body.joints):
        expected = theirs[:, layout.index(name)] if name in layout else torch.eye(3).expand(9, 3, 3)
        assert torch.allclose(found[:, j], expected, atol=1e-5), name


def turned_amass(path, up, height=0.95, speed=0.25, lies=False, **extra):
    """A file of AMASS's layout with another axis up, of somebody who glides along, or lies on their back."""
    body = axis_angle_to_matrix(torch.tensor([-np.pi / 2 if lies else 0.0, 0, 0]).double())
    turn = torch.from_numpy(upright(up)).T
    poses = np.zeros((9, 156))
    poses[:, :3] = matrix_to_axis_angle(turn @ body).numpy()
    places = torch.stack([torch.zeros(9), torch.full((9,), height), speed * torch.arange(9)], 1).double()
    trans = (places @ turn.T - BODY.J.view(-1, 3)[0]).numpy()  # of the model's origin, not of the pelvis
    np.savez(path, poses=poses, trans=trans, mocap_framerate=np.array(60.0), **extra)
    return path


@pytest.mark.parametrize("up", ["y", "z", "-y", "-z", "x"])
def test_amass_files_with_another_axis_up_are_found(tmp_path, up):
    """As GVHMR's, of people before a camera, or turned by hand: the same as the file that is z up."""
    (plain,) = load_motion(turned_amass(tmp_path / "plain.npz", "z"), BODY)
    path = turned_amass(tmp_path / "turned.npz", up)
    for found in (*load_motion(path, BODY), *load_motion(path, BODY, up=up)):
        assert_same_motion(found, plain, 1e-5)


def test_amass_of_beat2_is_y_up_wherever_it_stands(tmp_path):
    path = turned_amass(tmp_path / "a.npz", "y", height=7.0, speed=0)
    with pytest.raises(ValueError, match=r"a\.npz: which axis is up cannot be told: .* give up='z' or up='y'"):
        load_motion(path, BODY)
    turned_amass(path, "y", height=7.0, speed=0, model=np.array("smplx2020"))
    assert_same_motion(load_motion(path, BODY)[0], load_motion(path, BODY, up="y")[0], 1e-6)


def test_who_lies_in_amass_is_asked_about(tmp_path):
    """They may as well stand with the pelvis at the origin, y up."""
    path = turned_amass(tmp_path / "a.npz", "z", height=0.2, speed=0, lies=True)
    with pytest.raises(ValueError, match=r"a\.npz: which axis is up cannot be told: .* give up='z' or up='y'"):
        load_motion(path, BODY)
    (motion,) = load_motion(path, BODY, up="z")
    assert axis_angle_to_matrix(motion.axis_angle)[:, 0, 1, 1].abs().max() < 1e-3
    assert torch.allclose(motion.translation[:, 1], torch.tensor(0.2))


def test_amass_knows_the_names_of_other_tools(tmp_path):
    poses, *_ = amass(tmp_path / "a.npz")
    names = [re.sub("^(left|right)_", lambda m: m[0][0].upper() + "_", n) for n in BODY.joints]
    (motion,) = load_motion(tmp_path / "a.npz", replace(BODY, joints=tuple(names)), fps=60.0)
    assert torch.allclose(axis_angle_to_matrix(motion.axis_angle)[:, :22], own_frame(poses)[:, :22], atol=1e-5)


def test_amass_is_resampled_and_named(tmp_path):
    amass(tmp_path / "a.npz", frames=9)
    (motion,) = load_motion(tmp_path / "a.npz", BODY)
    assert (len(motion), motion.fps, motion.name) == (5, 30.0, "a")


def test_a_folder_of_amass_holds_shapes_too(tmp_path):
    (tmp_path / "subject").mkdir()
    amass(tmp_path / "subject" / "walk_poses.npz")
    for name in ("shape.npz", "female_stagei.npz"):
        np.savez(tmp_path / "subject" / name, betas=np.zeros(16), gender=np.array("female"))
    assert [m.name for m in load_motion(tmp_path, BODY)] == ["walk_poses"]


@pytest.mark.parametrize(
    ("joints", "extra", "message"),
    [
        (52, {"surface_model_type": np.array("smplx")}, "156 numbers a frame of surface_model_type 'smplx'"),
        (55, {"surface_model_type": np.array("star")}, "of surface_model_type 'star', expected those of smpl"),
        (30, {}, r"poses have 90 numbers a frame, expected those of smpl \(72\), smplh \(156\), smplx \(165\)"),
        (52, {"trans": np.zeros((8, 3))}, r"with trans \(T, 3\), here \(8, 3\)"),
        (52, {"trans": np.full((9, 3), np.inf)}, "trans are not finite from frame 0"),
        (
            52,
            {"mocap_framerate": np.array(0.0)},
            "mocap_framerate is 0.0, expected frames per second, a number above zero",
        ),
    ],
)
def test_amass_files_that_are_none(tmp_path, joints, extra, message):
    amass(tmp_path / "a.npz", joints, **extra)
    with pytest.raises(ValueError, match=f"a.npz: .*{message}"):
        load_motion(tmp_path / "a.npz", BODY)


def test_another_tree_under_smpls_names_is_refused(tmp_path):
    """A chain of 24 joints is not SMPL's tree, whatever it calls them."""
    amass(tmp_path / "a.npz")
    arrays = bodies.arrays(range(-1, 23), 40, 16, pose=False)
    chain = assemble({**arrays, "joint_names": np.array(BODY.joints)}, "chain.npz")
    message = "'right_hip' hangs on 'pelvis' in smplh's tree, and on 'left_hip' in body 'body'"
    with pytest.raises(ValueError, match=message):
        load_motion(tmp_path / "a.npz", chain)
    with pytest.raises(ValueError, match="of which body 'mano' has no root: its own is 'wrist'"):
        load_motion(tmp_path / "a.npz", replace(tree_body("mano.yaml"), name="mano"))


def test_rates_are_changed_by_the_shortest_turn():
    time = torch.arange(60.0)
    rotations = torch.zeros(60, 24, 3)
    rotations[:, 0, 1] = 0.05 * time
    motion = Motion("turn", BODY.joints, 50.0, rotations, torch.stack([time, time, time], 1), cuts=(26,))
    slower = resampled(motion, 30.0)
    assert len(slower) == 36
    assert torch.allclose(slower.axis_angle[:, 0, 1], 0.05 * torch.arange(36) * 50 / 30, atol=1e-5)
    assert torch.allclose(slower.translation[:, 0], torch.arange(36) * 50 / 30, atol=1e-4)
    assert slower.cuts == (16,)
    assert len(resampled(motion, 25.0)) == 30


def test_nothing_is_interpolated_across_a_cut():
    rotations, places = torch.zeros(60, 24, 3), torch.zeros(60, 3)
    rotations[26:, 0, 1], places[26:] = 2.0, 5.0
    motion = Motion("cut", BODY.joints, 50.0, rotations, places, cuts=(26,))
    for fps in (30.0, 24.0, 70.0, 100.0):
        found = resampled(motion, fps)
        (cut,) = found.cuts
        turns, places = found.axis_angle[:, 0, 1], found.translation[:, 0]
        assert torch.allclose(turns, torch.where(torch.arange(len(found)) < cut, 0.0, 2.0), atol=1e-6)
        assert torch.equal(places, torch.where(torch.arange(len(found)) < cut, 0.0, 5.0))
    five = replace(motion, cuts=(5,))
    assert resampled(five, 30.0).cuts == (3,)  # 5 / (50 / 30) is 3, though not in floating point
    with pytest.raises(ValueError, match="fps is 0, expected a rate above zero"):
        resampled(motion, 0)


@pytest.mark.parametrize("written", [29.99, 30.0, 30.003])
def test_a_rate_is_what_was_asked_for(tmp_path, written):
    write_bvh(replace(recording(), fps=written), tmp_path / "a.bvh", BODY)
    write_bvh(recording(), tmp_path / "b.bvh", BODY)
    motions = load_motion(tmp_path, BODY, fps=30)
    assert [m.fps for m in motions] == [30.0, 30.0]
    save_motion(motions, tmp_path / "m.npz")
    assert len(kinlmr.motion.clips.bank(motions, 8).starts)


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
        (lambda t: t.replace("Frames: 3", "Frames: 2"), "2 frames .*, 3.00 there: more than promised; set Frames"),
        (lambda t: t + "1 2 3", "3 frames of .* numbers promised, 3.0. there: more than promised"),
        (lambda t: t.replace("OFFSET", "OFFSET nan", 2), "an OFFSET is not three finite numbers"),
        (lambda t: t.replace("JOINT LeftLeg", "End Site\n{\nJOINT LeftLeg"), "not BVH|hierarchy is damaged"),
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


@pytest.mark.parametrize(
    "change",
    [
        lambda t: "\ufeff" + t,
        lambda t: re.sub(r"((?:JOINT|ROOT) \w+)\n\{", r"\1 {", t),
        lambda t: re.sub(r"\n\}", " }", t),
        lambda t: t.replace("Frame Time:", "FrameTime:").replace("Frames:", "Frames :"),
        lambda t: t.replace("\n", "\r\n").replace("MOTION", "  MOTION  "),
        lambda t: t.replace("JOINT Neck\n", "JOINT Neck\n").replace("ToeBase", "MOTION_toe"),
    ],
)
def test_bvh_as_other_tools_write_it(tmp_path, change):
    good, other = tmp_path / "good.bvh", tmp_path / "other.bvh"
    good.write_text(cmu_like(10.0))
    other.write_bytes(change(cmu_like(10.0)).encode())
    assert other.read_bytes() != good.read_bytes()
    one, two = Bvh(good), Bvh(other)
    assert (one.parents, one.channels, one.fps) == (two.parents, two.channels, two.fps)
    assert [name.replace("MOTION_toe", "ToeBase") for name in two.names] == one.names
    assert np.array_equal(one.values, two.values)
    assert np.array_equal(one.offsets, two.offsets)


@pytest.mark.parametrize(
    ("written", "rate"),
    [("0.0333333", 30), ("0.0333", 30), ("0.033", 30.30303), ("0.008333", 120), ("8.333333e-03", 120),
     ("0.0166667", 60), (".04", 25), ("0.033367", 29.969731), ("0.0417", 24), ("1", 1), ("2.5", 0.4)],
)  # fmt: skip
def test_rates_are_read_as_they_are_meant(tmp_path, written, rate):
    (tmp_path / "a.bvh").write_text(cmu_like(0.0).replace("0.0333333", written))
    assert Bvh(tmp_path / "a.bvh").fps == rate


def test_names_of_ones_own(tmp_path):
    path = tmp_path / "mine.bvh"
    path.write_text(cmu_like(10.0).replace("Hips", "Root"))
    names = {**DIALECTS["cmu"], "pelvis": "Root"}
    assert len(read_bvh(path, BODY, names=names)) == 3
    with pytest.raises(ValueError, match="body 'anny24_lo369' has no joint 'tail'"):
        read_bvh(path, BODY, names={**names, "tail": "Neck"})
    with pytest.raises(ValueError, match="must name the body's root"):
        read_bvh(path, BODY, names={"neck": "Neck"})
    with pytest.raises(ValueError, match="the recording's joints are not those"):
        write_bvh(replace(recording(), joints=("a",)), path, BODY)


def test_archives_that_are_none(tmp_path):
    path = tmp_path / "m.npz"
    motion = replace(recording(), axis_angle=recording().axis_angle.clamp(-3, 3))
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
        ({"rot_delta": good["rot_delta"][:, :23]}, "whole numbers of 24 joints"),
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
