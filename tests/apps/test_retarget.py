"""BVH of any maker: neither the axes of its joints, nor its world, names or channels change the body."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import assert_same
from recordings import BODY, INDEX, NAMED, random_axes, walk, written

from kinlmr.export.bvh import write_bvh
from kinlmr.motion.archives import load_motion
from kinlmr.motion.dialects import DIALECTS
from kinlmr.motion.recording import Motion
from kinlmr.motion.retarget import read_bvh
from kinlmr.motion.up import upright
from kinlmr.rotations import axis_angle_to_matrix, matrix_to_axis_angle

UPS = ["y", "z", "x", "-y", "-z", "-x"]


def turns_of(motion):
    """World rotations (T, 24, 3, 3)."""
    world = []
    for j, local in enumerate(axis_angle_to_matrix(motion.axis_angle.double()).unbind(1)):
        world.append(local if BODY.parents[j] < 0 else world[BODY.parents[j]] @ local)
    return torch.stack(world, 1)


def joints_of(motion):
    return BODY(axis_angle_to_matrix(motion.axis_angle), None, motion.origin(BODY)).joints


def apart(one, two):
    """Metres between the joints of two recordings (T, 24)."""
    return (joints_of(one) - joints_of(two)).norm(dim=-1)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The walk from a file whose rest pose is the body's, y up."""
    return read_bvh(written(tmp_path_factory.mktemp("plain") / "plain.bvh", walk()), BODY)


@settings(max_examples=6)
@given(seed=st.integers(0, 10**6))
def test_the_axes_of_a_makers_joints_do_not_matter(tmp_path_factory, plain, seed):
    """Each joint's frame is turned by a rotation of its own: the body is the same, whatever the frames are; and it is
    near to the one from the plain file, whose rest pose says more."""
    path = tmp_path_factory.mktemp("axes") / "a.bvh"
    one, two = (read_bvh(written(path, walk(), random_axes(s)), BODY) for s in (seed, seed + 1))
    assert apart(one, two).max() < 1e-4
    assert_same([turns_of(one)], [turns_of(two)], 1e-4)
    assert apart(one, plain).mean() < 0.03
    lies = turns_of(plain).mT @ turns_of(one)  # the twist comes from the file, up to what is constant
    assert (lies - lies[:1]).abs().max() < 1e-4
    assert matrix_to_axis_angle(lies[0]).norm(dim=-1).rad2deg().max() < 40


@pytest.mark.parametrize("up", UPS)
@pytest.mark.parametrize("degrees", [37, 90])
def test_which_way_a_rest_pose_stands_and_faces_does_not_matter(tmp_path, plain, up, degrees):
    about = axis_angle_to_matrix(torch.tensor([0, np.deg2rad(degrees), 0])).numpy()
    axes = np.tile(upright(up) @ about, (24, 1, 1))
    found = read_bvh(written(tmp_path / "a.bvh", walk(), axes), BODY)
    assert apart(found, plain).max() < 1e-4


@pytest.mark.parametrize("up", UPS)
@pytest.mark.parametrize("rest", ["body", "file", "none"])
def test_which_way_is_up_does_not_matter(tmp_path, plain, up, rest):
    """z up by the motion, by the rest pose too, or with a rest pose that says nothing; found, or given."""
    motion, world, most = walk(), upright(up).T, 1e-4 if rest != "none" else 0.06
    axes = {"body": None, "file": np.tile(world.T, (24, 1, 1)), "none": random_axes(3)}[rest]
    path = written(tmp_path / "turned.bvh", motion, axes, world)
    for found in (read_bvh(path, BODY), *load_motion(path, BODY, up=up)):
        assert apart(found, plain).max() < most


def lying(height):
    """Somebody who lies still on their back, the head along z."""
    rotations, places = walk()
    rotations[:] = np.eye(3)
    rotations[:, 0] = axis_angle_to_matrix(torch.tensor([np.pi / 2, 0, 0])).numpy()
    return rotations, 0 * places + [0, 0, height]


def test_who_lies_is_asked_about(tmp_path):
    """They may as well stand, z up, with the pelvis at the origin; not so if they are moved along."""
    path = written(tmp_path / "a.bvh", lying(0.0))
    with pytest.raises(ValueError, match=r"a\.bvh: which axis is up cannot be told: .* give up='y' or up='z'"):
        read_bvh(path, BODY)
    lies, stands = (read_bvh(path, BODY, up=up) for up in "yz")
    assert lies.translation[:, 1].abs().max() < 1e-6
    assert apart(lies, stands).max() > 0.5
    rotations, places = lying(0.0)
    found = read_bvh(written(path, (rotations, places + np.linspace(-2, 2, 24)[:, None] * [0, 0, 1])), BODY)
    assert torch.allclose(found.axis_angle, lies.axis_angle, atol=1e-6)
    write_bvh(lies, path, BODY)  # what is written by us is y up
    assert torch.allclose(joints_of(read_bvh(path, BODY)), joints_of(lies), atol=1e-5)
    with pytest.raises(ValueError, match="up is 'Z', expected one of y, z, x, -y, -z, -x"):
        read_bvh(path, BODY, up="Z")


# --------------------------------------------------------------------------------------------------------------- names

MAKERS = {  # of upper leg, leg, foot, toes, collar, upper arm, forearm, hand; pelvis, three of the spine, neck, head
    "lafan1": "?UpLeg ?Leg ?Foot ?Toe ?Shoulder ?Arm ?ForeArm ?Hand Hips Spine Spine1 Spine2 Neck Head",
    "100style": "?Hip ?Knee ?Ankle ?Toe ?Collar ?Shoulder ?Elbow ?Wrist Hips Chest Chest2 Chest3 Neck Head",
    "rokoko": "?Thigh ?Shin ?Foot ?Toe ?Shoulder ?Arm ?ForeArm ?Hand Hips Spine1 Spine2 Spine3 Neck Head",
    "bandai": "UpperLeg_# LowerLeg_# Foot_# Toes_# Shoulder_# UpperArm_# LowerArm_# Hand_# Hips A B Chest Neck Head",
    "biped": "#_Thigh #_Calf #_Foot #_Toe0 #_Clavicle #_UpperArm #_Forearm #_Hand Pelvis Spine Spine1 Spine2 Neck Head",
    "smpl": "#_Hip #_Knee #_Ankle #_Foot #_Collar #_Shoulder #_Elbow #_Wrist Pelvis Spine1 Spine2 Spine3 Neck Head",
}
LIMBS = ("hip", "knee", "ankle", "foot", "collar", "shoulder", "elbow", "wrist")


def names_of(maker):
    *limbs, pelvis, spine1, spine2, spine3, neck, head = MAKERS[maker].split()
    names = {"pelvis": pelvis, "spine1": spine1, "spine2": spine2, "spine3": spine3, "neck": neck, "head": head}
    for side in ("left", "right"):
        names |= {f"{side}_{joint}": name.replace("?", side.title()).replace("#", side[0].upper())
                  for joint, name in zip(LIMBS, limbs, strict=True)}  # fmt: skip
    return {INDEX[joint]: name for joint, name in names.items()}


PREFIXES = ["", "mixamorig:", "mixamorig_", "mixamorig", "Bip01 ", "Character1_"]


@pytest.mark.parametrize(("maker", "prefix"), [*zip(MAKERS, PREFIXES, strict=True), *((m, "") for m in MAKERS)])
def test_makers_names_are_known(tmp_path, plain, maker, prefix):
    names = {j: prefix + name for j, name in names_of(maker).items()}
    path = written(tmp_path / "a.bvh", walk(), names=names)
    assert apart(read_bvh(path, BODY), plain).max() < 1e-6
    given = {BODY.joints[j]: name for j, name in names.items()}
    assert apart(*load_motion(path, BODY, names=given), plain).max() < 1e-6


@pytest.mark.parametrize("case", [str.upper, str.lower, str.swapcase])
def test_channels_in_any_case(tmp_path, plain, case):
    found = read_bvh(written(tmp_path / "a.bvh", walk(), channel=case), BODY)
    assert torch.equal(found.axis_angle, plain.axis_angle)


@pytest.mark.parametrize("without", [["foot"], ["wrist"], ["collar"], ["neck"], ["neck", "head"], ["spine2"],
                                     ["foot", "wrist", "collar", "neck", "spine1"]])  # fmt: skip
@pytest.mark.parametrize("axes", [None, random_axes(0)])
def test_what_makers_leave_out(tmp_path, plain, without, axes):
    joints = [j for j in NAMED if not any(BODY.joints[j].endswith(name) for name in without)]
    found = read_bvh(written(tmp_path / "a.bvh", walk(), axes, joints=joints), BODY)
    assert apart(found, plain).mean() < 0.05


def test_a_limb_that_is_lacking_is_named(tmp_path):
    path = written(tmp_path / "a.bvh", walk())
    path.write_text(path.read_text().replace("RightForeArm", "RightFourArm"))
    with pytest.raises(ValueError, match=r"a\.bvh: .* lacks 'RightForeArm'; did you mean 'RightFourArm'\?"):
        read_bvh(path, BODY)
    names = {joint: name for joint, name in DIALECTS["mixamo"].items() if name != "RightForeArm"}
    with pytest.raises(ValueError, match=r"a\.bvh: names= has joints that it lacks: 'RightForeArm'; did you mean"):
        read_bvh(path, BODY, names={**names, "right_elbow": "RightForeArm"})


def test_a_unit_that_is_not_known_is_asked_for(tmp_path):
    path = written(tmp_path / "a.bvh", walk())
    upper = {j: name for j, name in DIALECTS["mixamo"].items() if not re.search("knee|ankle|foot", j)}
    with pytest.raises(ValueError, match=r"a\.bvh: .* its unit is not known; give scale="):
        read_bvh(path, BODY, names=upper)
    (found,) = load_motion(path, BODY, names=upper, scale=0.01)
    assert torch.allclose(found.translation, torch.from_numpy(walk()[1]).float(), atol=1e-4)
    for scale in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=rf"a\.bvh: scale is {scale}, expected metres per unit"):
            read_bvh(path, BODY, scale=scale)


# ------------------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("degrees", [90, -90, 180])
@pytest.mark.parametrize("joint", ["pelvis", "left_knee", "head"])
def test_right_angles_are_written_exactly(tmp_path, axis, degrees, joint):
    """A joint turned by 90 degrees about y, as all of its turns about x, is where three angles are not unique."""
    turns = torch.eye(3, dtype=torch.float64).repeat(9, 24, 1, 1)
    about = torch.eye(3, dtype=torch.float64)[axis] * np.deg2rad(degrees)
    others = torch.linspace(-3, 3, 9, dtype=torch.float64)[:, None] * torch.tensor([1.0, 0, 0], dtype=torch.float64)
    turns[:, INDEX[joint]] = axis_angle_to_matrix(about) @ axis_angle_to_matrix(others)
    motion = Motion("a", BODY.joints, 30.0, matrix_to_axis_angle(turns), torch.zeros(9, 3))
    for kind in (torch.float64, torch.float32):
        write_bvh(replace(motion, axis_angle=motion.axis_angle.to(kind)), tmp_path / "a.bvh", BODY)
        found = axis_angle_to_matrix(read_bvh(tmp_path / "a.bvh", BODY).axis_angle.double())
        assert_same([found], [turns], 2e-6)


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("word", ["nan", "-1.#IND", "1.#QNAN", "12.3-4.5", "1e400", "1,5"])
def test_words_that_are_no_numbers_are_named_with_their_line(tmp_path, word):
    path = written(tmp_path / "a.bvh", walk())
    lines = path.read_text().splitlines()
    lines[-2] = " ".join([*lines[-2].split()[:-1], word])
    path.write_text("\n".join(lines))
    with pytest.raises(
        ValueError, match=rf"a\.bvh:{len(lines) - 1}: frame 22 is not finite numbers: '{re.escape(word)}'"
    ):
        read_bvh(path, BODY)


def test_a_frame_time_in_milliseconds_is_refused(tmp_path):
    path = written(tmp_path / "a.bvh", walk())
    path.write_text(path.read_text().replace("0.0333333", "33.333"))
    with pytest.raises(ValueError, match=r"a\.bvh: its Frame Time is 33\.3333, in seconds; .* write 0\.0333333$"):
        read_bvh(path, BODY)
