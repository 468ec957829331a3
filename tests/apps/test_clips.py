import itertools
import math
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
from kinlmr import keypoints
from kinlmr.motion import clips
from kinlmr.motion.archives import load_motion
from kinlmr.motion.measured import lasting
from kinlmr.motion.names import sides
from kinlmr.motion.noise import numbers
from kinlmr.motion.recording import Motion
from kinlmr.rotations import axis_angle_to_matrix, matrix_to_axis_angle

BODY = kinlmr.load_body("anny24_lo369", keypoints="coco17")
MOTIONS = load_motion(Path(__file__).parents[2] / "examples/data/motion.npz", BODY)


NAMES = BODY.keypoints.names
ORDER = [1, 5, 0, 23, *(j for j in range(24) if j not in (0, 1, 5, 23))]  # of joints, the root third


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The same body, its joints in that order."""
    path = tmp_path_factory.mktemp("body") / "body.npz"
    kinlmr.save_body(kinlmr.load_body("anny24_lo369"), path)
    with np.load(path) as file:
        np.savez(path, **bodies.reordered(dict(file), ORDER))
    return kinlmr.load_body(path, keypoints="coco17")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(seed=0, batch=6, frames=8, noise=clips.USUAL, augment=True):
    return clips.sample(clips.bank(MOTIONS, frames), BODY, batch, frames, seeded(seed), noise, augment)


def assert_involution(mirror, x):
    """Mirrored twice, a motion is itself; once, it is not."""
    assert torch.equal(mirror(mirror(x)), x)
    assert not torch.equal(mirror(x), x)


def test_mirrored_twice_is_the_identity():
    rotations = axis_angle_to_matrix(torch.randn(3, 24, 3))
    assert_involution(lambda x: clips.mirror(x, BODY.joints), rotations)
    names = NAMES
    assert [clips.opposite(names)[i] for i in clips.opposite(names)] == list(range(17))


@pytest.mark.parametrize(
    "style", ["l_{}", "L_{}", "{}_l", "{}.L", "Left{}", "L{}", "{}Left", "mixamorig:Left{}", "left{}"]
)
def test_mirrors_know_the_names_of_other_tools(style):
    """The same motion under other names has the same mirror image."""
    other = (
        style.replace("Left", "Right")
        .replace("left", "right")
        .replace("L", "R")
        .replace("l_", "r_")
        .replace("_l", "_r")
    )

    def renamed(joint):
        side, _, rest = joint.partition("_")
        return {"left": style, "right": other}[side].format(rest.title()) if rest else joint

    rotations = axis_angle_to_matrix(torch.randn(3, 24, 3))
    names = [renamed(joint) for joint in BODY.joints]
    assert len(set(names)) == 24
    assert torch.equal(clips.mirror(rotations, names), clips.mirror(rotations, BODY.joints))


@pytest.mark.parametrize(
    "pair",
    ["hipl hipr", "thigh_l1 thigh_r1", "hipL1 hipR1", "upperleft upperright", "hip(l) hip(r)", "FL_hip FR_hip",
     "lf_hip rt_hip", "ThighLf ThighRt", "leg_lft leg_rgt", "lhip rhip"],
)  # fmt: skip
def test_names_that_differ_by_their_side_alone_are_a_pair(pair):
    assert clips.opposite(["pelvis", *pair.split(), "tail"]) == [0, 2, 1, 3]
    assert sides(["pelvis", pair.split()[0], "tail"])[1][0] == ""


@pytest.mark.parametrize(
    "names", ["LF RF LB RB LT RT", "leg_lf leg_rf leg_lt leg_rt", "ArmLL ArmRL ArmLR ArmRR", "fll frl flr frr"]
)
def test_names_of_two_letters_pair_by_the_first_that_fits(names):
    assert clips.opposite(names.split()) == [1, 0, 3, 2, 5, 4][: len(names.split())]
    assert clips.opposite(["x" + 100_000 * "l"]) == [0]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pelvis", "l_hip", "right_knee"], "without their other side: l_hip, right_knee; .* rename them"),
        (["pelvis", "LeftHip", "rechts"], "without their other side: LeftHip;"),
        (["left_hip", "LHip", "right_hip"], "without their other side: LHip"),
        (["left_hip", "left_hip", "right_hip"], "without their other side: left_hip"),
        (["joint0", "joint1", "joint2"], "joints joint0, joint1, ...; a mirror swaps sides by names"),
    ],
)
def test_mirrors_refuse_names_they_cannot_pair(names, message):
    with pytest.raises(ValueError, match=message):
        clips.mirror(torch.eye(3).repeat(3, 1, 1), names)


def test_a_hand_of_its_own_is_mirrored_in_place():
    names = kinlmr.load_skeleton("mano.yaml").joints
    assert clips.opposite(names) == list(range(16))
    assert_involution(lambda x: clips.mirror(x, names), axis_angle_to_matrix(torch.randn(3, 16, 3)))


@pytest.mark.parametrize("fps", [29.99, 30.003])
def test_rates_that_are_one(fps):
    source = clips.bank([MOTIONS[0], replace(MOTIONS[1], fps=fps)], 16)
    assert (source.fps, len(source.names)) == (30.0, 2)
    with pytest.raises(ValueError, match=r"rates \(25, 30 frames per second\); load them for one body"):
        clips.bank([MOTIONS[0], replace(MOTIONS[1], fps=25.0)], 16)


def test_the_law_can_fail():
    with pytest.raises(AssertionError):
        assert_involution(lambda x: x.mT * torch.tensor([1.0, 2, 1]), torch.randn(3, 3, 3))


def test_the_mirrored_body_is_the_bodys_mirror():
    rotations = axis_angle_to_matrix(0.5 * torch.randn(3, 24, 3))
    one, two = (BODY(r, want=("joints",)).joints for r in (rotations, clips.mirror(rotations, BODY.joints)))
    one, two = (x - x[:, :1] for x in (one, two))
    assert (two - one[:, clips.opposite(BODY.joints)] * torch.tensor([-1.0, 1, 1])).norm(dim=-1).max() < 2e-3


def test_the_same_seed_gives_the_same_clips_and_another_others():
    assert_same(drawn(1), drawn(1), 0.0)
    assert not torch.equal(drawn(1).features, drawn(2).features)


def test_shapes_and_frames_of_reference():
    clip = drawn()
    assert [tuple(x.shape) for x in clip] == [
        (6, 8, 51), (6, 8, 24, 3, 3), (6, 10), (6, 8, 24, 3), (6, 8, 17, 3), (6,), (6, 8, 3)
    ]  # fmt: skip
    mesh = BODY(clip.rotations, clip.shape[:, None], want=("joints",)).joints
    assert torch.allclose(clip.joints, mesh - mesh[:, :, :1], atol=1e-5)
    upright = drawn(batch=100, frames=2).joints[:, :, BODY.joints.index("head"), 1]
    assert (upright < 0).float().mean() > 0.8  # y points down, and heads are mostly up
    still = Motion("still", BODY.joints, 30.0, torch.zeros(4, 24, 3), torch.zeros(4, 3))
    face = clips.whole(still, BODY, 0.0, seeded(), clips.OFF)
    left, nose = (face.keypoints[0, 0, NAMES.index(n)] for n in ("left_shoulder", "nose"))
    assert left[0] > 0.1  # who faces the camera has the left hand on the image's right
    assert nose[1] < -0.5
    assert face.joints[0, 0, BODY.joints.index("left_foot"), 2] < 0  # toes point at the camera


def test_without_noise_the_features_are_the_truth():
    clip = drawn(noise=clips.OFF)
    found = clip.features.unflatten(-1, (17, 3))
    assert torch.equal(found, clip.keypoints)
    with pytest.warns(FutureWarning, match=r"Clips\.points is now Clips\.keypoints"):
        assert clip.points is clip.keypoints
    assert (found[..., 2] == 1).all()
    extent = (found[:, 0, :, :2].amax(1) - found[:, 0, :, :2].amin(1)).amax(-1)
    assert torch.allclose(extent, torch.tensor(2 / keypoints.BOX_MARGIN), atol=1e-5)  # the first box is the points' own


@pytest.mark.parametrize(
    ("noise", "still"),
    [
        (clips.OFF._replace(missing=0.2), "places"),
        (clips.OFF._replace(hidden=3.0), "places"),
        (clips.OFF._replace(jitter=0.02), "presence"),
        (clips.OFF._replace(swapped=2.0), "presence"),
    ],
)
def test_every_noise_does_its_own_and_nothing_else(noise, still):
    image = torch.rand(5, 60, 17, 2, generator=seeded())
    found, confidence = clips.disturb(image, torch.zeros(5, 60, 17, 3), NAMES, 30.0, seeded(), noise)
    if still == "places":
        assert torch.equal(found, image)
        assert 0.02 < (confidence == 0).float().mean() < 0.5
    else:
        assert (confidence > 0).all()
        assert not torch.equal(found, image)
    if noise.swapped:
        moved = (found != image).any(-1).any(0).any(0)
        assert not moved[[NAMES.index(n) for n in ("nose", "left_eye", "left_shoulder", "left_hip")]].any()
        assert moved[[NAMES.index(n) for n in ("left_wrist", "right_knee")]].all()
        members = torch.stack([found, image[:, :, clips.opposite(NAMES)], image])
        assert ((members[0] == members[1]) | (members[0] == members[2])).all()
    if noise.hidden:
        gone = confidence == 0
        arm = [NAMES.index(n) for n in ("left_elbow", "left_wrist")]
        assert torch.equal(gone[..., arm[0]], gone[..., arm[1]])  # a limb vanishes as a whole
        assert not gone[..., NAMES.index("nose")].any()


def test_how_much_noise_there_is():
    image = torch.rand(200, 30, 17, 2, generator=seeded())
    noise = clips.Noise()
    found, confidence = clips.disturb(image, torch.zeros(200, 30, 17, 3), NAMES, 30.0, seeded(), noise)
    extent = (image.amax(2) - image.amin(2)).amax(-1)[..., None, None]
    error = ((found - image) / extent).abs().median() / 0.6745
    assert abs(error / noise.jitter - 1) < 0.1
    missing = (confidence[..., 0] == 0).float().mean()
    assert abs(missing / noise.missing - 1) < 0.2
    sure, unsure = (
        confidence[(found - image).norm(dim=-1) < 0.005 * extent[..., 0]],
        confidence[(found - image).norm(dim=-1) > 0.03 * extent[..., 0]],
    )
    assert sure[sure > 0].mean() > unsure[unsure > 0].mean() + 0.1


def scene(seed=0):
    """Points of eight people, two seconds: image (8, 60, 17, 2), points (8, 60, 17, 3) in metres, and their extent."""
    start, motion = torch.rand(8, 1, 17, 2, generator=seeded(seed)), torch.linspace(0, 0.2, 60)[:, None, None]
    image = (start + motion).expand(8, 60, 17, 2)
    points = torch.cat([image, torch.randn(8, 60, 17, 1, generator=seeded(seed + 1))], -1)
    return image, points, (image.amax(2, True) - image.amin(2, True)).amax(-1, True)


def detected(noise, seed=0):
    image, points, extent = scene(seed)
    found, confidence = clips.disturb(image, points, NAMES, 30.0, seeded(seed), noise)
    return image, points, extent, found, confidence


def assert_cut(noise):
    """A clip's picture ends at one height: all that is missing lies below all that is seen, which is as it was."""
    image, _, _, found, confidence = detected(noise)
    gone = confidence == 0
    assert gone.flatten(1).any(1).all()
    seen = torch.where(gone, -torch.inf, image[..., 1]).amax((1, 2))
    assert (seen <= torch.where(gone, image[..., 1], torch.inf).amin((1, 2))).all()
    assert (seen > image[:, 0, :, 1].amin(1)).all()  # never above the head
    assert torch.equal(found, image)


def assert_guessed(noise):
    """No point is missing: a hidden one is near its place, and unsure; the others are where they are, and sure."""
    image, _, extent, found, confidence = detected(noise)
    moved = (found != image).any(-1)
    assert (confidence > 0).all()
    assert 0.02 < moved.float().mean() < 0.6
    assert confidence[moved].max() <= 0.32
    assert confidence[~moved].min() >= 0.95
    error = ((found - image) / extent).norm(dim=-1)
    assert 0.03 < error[moved].mean() < 0.15


def assert_occluded(noise):
    """What is missing lies behind the trunk and in front of no one: never shoulders and hips, nor what is nearer."""
    image, points, _, found, confidence = detected(noise)
    trunk = [NAMES.index(f"{side}_{name}") for side in ("left", "right") for name in ("shoulder", "hip")]
    box = image[:, :, trunk].amin(2, True), image[:, :, trunk].amax(2, True)
    within = ((image > box[0]) & (image < box[1])).all(-1)
    within[..., trunk] = False
    deep = points[..., 2] - points[:, :, trunk, 2].mean(2, True)
    gone = confidence == 0
    assert not gone[~(within & (deep > 0))].any()
    assert 0.8 < gone[within & (deep > 0.1)].float().mean() < 1
    assert torch.equal(found, image)


def assert_drifting(noise):
    """Every point errs slowly: far more over a clip than from frame to frame; and nobody is less sure for it."""
    image, _, extent, found, confidence = detected(noise)
    error = (found - image) / extent
    assert (confidence >= 0.95).all()
    assert 0 < error.abs().max() < 5 * noise.drift
    assert error.diff(dim=1).square().mean().sqrt() < 0.25 * error.square().mean().sqrt()


LAWS = {
    assert_cut: clips.OFF._replace(cut=1.0),
    assert_guessed: clips.OFF._replace(hidden=2.0, guess=1.0),
    assert_occluded: clips.OFF._replace(occluded=1.0),
    assert_drifting: clips.OFF._replace(drift=0.02),
}
WRONG = {
    assert_cut: clips.OFF._replace(missing=0.3),
    assert_guessed: clips.OFF._replace(hidden=2.0),
    assert_occluded: clips.OFF._replace(cut=1.0),
    assert_drifting: clips.OFF._replace(jitter=0.01, drift=0.02),
}


@pytest.mark.parametrize("law", LAWS)
def test_laws_of_noise(law):
    law(LAWS[law])
    with pytest.raises(AssertionError):
        law(WRONG[law])


def test_a_picture_that_ends_is_guessed_near_its_edge():
    image, _, extent, found, confidence = detected(clips.OFF._replace(cut=1.0, guess=1.0))
    out = confidence < 0.5
    assert (confidence > 0).all()
    assert torch.equal(found[~out], image[~out])
    low = torch.where(out, image[..., 1], torch.inf).amin((1, 2))
    near = low[:, None, None] + (0.05 + 5 * 0.06) * extent[..., 0]
    assert (found[..., 1] <= near)[out].all()


def test_half_of_the_clips_are_guessed_when_half_should_be():
    image, points = torch.rand(300, 20, 17, 2, generator=seeded()), torch.zeros(300, 20, 17, 3)
    noise = clips.OFF._replace(cut=1.0, guess=0.5)
    _, confidence = clips.disturb(image, points, NAMES, 30.0, seeded(), noise)
    left_out = (confidence == 0).flatten(1).any(1)
    guessed = ((confidence > 0) & (confidence < 0.5)).flatten(1).any(1)
    assert not (left_out & guessed).any()
    assert 0.4 < left_out.float().mean() < 0.6


def test_so_many_clips_are_seen_without_noise_and_the_others_as_before():
    image, points = torch.rand(300, 5, 17, 2, generator=seeded()), torch.zeros(300, 5, 17, 3)
    share = [clips.disturb(image, points, NAMES, 30.0, seeded(), clips.USUAL._replace(clean=c)) for c in (0.0, 0.5)]
    (noisy, unsure), (found, confidence) = share
    clean = (confidence == 1).flatten(1).all(1)
    assert 0.4 < clean.float().mean() < 0.6
    assert torch.equal(found[clean], image[clean])
    assert torch.equal(found[~clean], noisy[~clean])
    assert torch.equal(confidence[~clean], unsure[~clean])
    found, confidence = clips.disturb(image, points, NAMES, 30.0, seeded(), clips.OFF._replace(clean=0.5))
    assert torch.equal(found, image)
    assert (confidence == 1).all()  # nothing is left of a noise that is none


# --------------------------------------------------------------------------------------------- a detector as measured


def people(batch=40, frames=90, seed=0):
    """Pictures of a standing person who sways, and points in metres, as two clips of a real detector have them."""
    rest = BODY(torch.eye(3).expand(24, 3, 3), torch.zeros(10), want=("keypoints",)).keypoints
    rest = rest * torch.tensor([1.0, -1.0, -1.0])
    sway = 0.1 * torch.randn(batch, 1, 17, 3, generator=seeded(seed)) * torch.linspace(0, 1, frames)[:, None, None]
    return 300 * (rest + sway)[..., :2] + 500, rest + sway


def assert_as_measured(noise):
    """Confidence tells the scale of the error; both are slow, and neither is ever a zero."""
    image, points = people()
    found, confidence = clips.disturb(image, points, NAMES, 30.0, seeded(1), noise)
    extent = (image.amax(2) - image.amin(2)).amax(-1)[..., None]
    error = ((found - image) / extent[..., None])[:, :, 5:]
    distance, sure = error.norm(dim=-1), confidence[:, :, 5:]
    assert (confidence > 0).all()
    low, middle, high = (
        float(distance[(sure >= a) & (sure < b)].median()) for a, b in ((0, 0.3), (0.4, 0.6), (0.8, 1))
    )
    assert 0.03 < low < 0.08  # of the extent; measured were .035 to .065, .02 and .009
    assert 0.012 < middle < 0.03
    assert 0.005 < high < 0.013
    calm, apart = error.clamp(-0.07, 0.07), sure - sure.mean()
    after = [float((calm[:, lag:] * calm[:, :-lag]).mean() / calm.square().mean()) for lag in (1, 4, 15)]
    assert 0.65 < after[0] < 0.9  # measured were .8, .48 and .15
    assert 0.3 < after[1] < 0.6
    assert 0.0 < after[2] < 0.3
    assert float((apart[:, 1:] * apart[:, :-1]).mean() / apart.square().mean()) > 0.85


def assert_of_groups(noise):
    """What is missing is missing as a group: a face, a side, what is below the waist; the others are as they were."""
    image, points = people(200, 30)
    found, confidence = clips.disturb(image, points, NAMES, 30.0, seeded(), noise)
    gone = confidence == 0
    assert torch.equal(found, image)
    face, legs, left = ([i for i, n in enumerate(NAMES) if key(n)] for key in (
        lambda n: n.partition("_")[2] in ("", "eye", "ear"), lambda n: n.endswith(("knee", "ankle")),
        lambda n: n.startswith("left_")))  # fmt: skip
    kinds = [set(face), set(legs), set(left), {i for i in face if i in left}, {i for i in legs if "ankle" in NAMES[i]}]
    seen = {frozenset(frame.nonzero().flatten().tolist()) for frame in gone.flatten(0, 1).unique(dim=0)}
    assert seen == {frozenset(kind) for kind in (set(), *kinds)}
    assert 0.3 < gone.flatten(1).any(1).float().mean() < 0.7
    assert gone.diff(dim=1).flatten(1).any(1).any()


def assert_rescaled(noise):
    """Of every clip's frame, whoever is surer stays surer, or as sure; positions stay; nobody appears."""
    image, points = people(200, 4)
    clean = clips.disturb(image, points, NAMES, 30.0, seeded(), noise._replace(scale=0.0))
    found, confidence = clips.disturb(image, points, NAMES, 30.0, seeded(), noise)
    assert torch.equal(found, clean[0])
    order = clean[1].argsort(-1)
    assert (confidence.gather(-1, order).diff(dim=-1) >= 0).all()
    changed = (confidence - clean[1]).abs().flatten(1).amax(1) > 1e-6
    assert 0.3 < changed.float().mean() < 0.7
    assert (confidence == 0).any()


REALS = {
    assert_as_measured: (clips.REAL, clips.USUAL),
    assert_of_groups: (clips.OFF._replace(groups=0.5), clips.OFF._replace(hidden=2.0)),
    assert_rescaled: (clips.REAL._replace(scale=0.5), clips.REAL._replace(scale=0.5, groups=0.5)),
}


@pytest.mark.parametrize("law", REALS)
def test_laws_of_real_noise(law):
    law(REALS[law][0])
    with pytest.raises(AssertionError):
        law(REALS[law][1])


def test_real_noise_is_its_seeds():
    image, points = people(8, 20)
    one, two, other = (clips.disturb(image, points, NAMES, 30.0, seeded(s), clips.ANY) for s in (0, 0, 1))
    assert_same(one, two, 0.0)
    assert not torch.equal(one[0], other[0])


def test_hips_of_other_sets_stand_nearer_together():
    image, points = people(200, 3)
    found, _ = clips.disturb(image, points, NAMES, 30.0, seeded(), clips.OFF._replace(narrow=0.5))
    hips = [NAMES.index(f"{side}_hip") for side in ("left", "right")]
    others = [i for i in range(17) if i not in hips]
    assert torch.equal(found[:, :, others], image[:, :, others])
    assert torch.allclose(found[:, :, hips].mean(2), image[:, :, hips].mean(2), atol=1e-3)
    (share,) = ((x[:, :, hips[0]] - x[:, :, hips[1]]).norm(dim=-1) for x in (found,))
    share = share / (image[:, :, hips[0]] - image[:, :, hips[1]]).norm(dim=-1)
    assert 0.25 < share.min() < 0.5
    assert share.max() < 1.15
    assert 0.3 < (share < 0.99).float().mean() < 0.6


@pytest.mark.parametrize("fps", [15.0, 60.0])
def test_what_lasts_lasts_as_long_at_every_rate(fps):
    x = lasting((4000, 2 * int(fps), 1), 0.3, fps, numbers(seeded(), torch.zeros(()))[1])
    assert abs(float(x.square().mean()) - 1) < 0.05
    lag = round(0.2 * fps)
    assert abs(float((x[:, lag:] * x[:, :-lag]).mean()) - math.exp(-0.2 / 0.3)) < 0.05


def test_a_point_that_is_not_seen_has_no_position():
    seen = drawn(batch=60, frames=16, noise=clips.ANY).features.unflatten(-1, (17, 3))
    gone = seen[..., 2] == 0
    assert 0.02 < gone.float().mean() < 0.5
    assert (seen[gone] == 0).all()


def assert_limbs_whole(clip_of, joints):
    """Every limb of a clip is of one clip, the pelvis its own. clip_of (B, J): which clip a joint was taken from."""
    for limb in clips.LIMBS:
        at = [joints.index(name) for name in limb]
        assert (clip_of[:, at] == clip_of[:, at[:1]]).all()
    assert torch.equal(clip_of[:, 0], torch.arange(len(clip_of)))


def varied_only(monkeypatch, what, rotations, body, seed=0):
    """`clips.augment` with one of its four changes."""
    for name in {"MIX_CHANCE", "BEND_ANGLE", "TILT_CHANCE", "FOLD_CHANCE"} - {what}:
        monkeypatch.setattr(clips, name, 0.0)
    kept = rotations.clone()
    varied = clips.augment(rotations, body, 30.0, *numbers(seeded(seed), rotations))
    assert torch.equal(rotations, kept)
    return varied


def test_limbs_are_mixed_as_a_whole(monkeypatch):
    angle = torch.linspace(0, 1, 40)[:, None, None, None] * torch.tensor([1.0, 0, 0])
    rotations = axis_angle_to_matrix(angle.expand(40, 3, 24, 3))
    for joints in (BODY.joints, [name.title().replace("_", "") for name in BODY.joints]):
        mixed = varied_only(monkeypatch, "MIX_CHANCE", rotations, replace(BODY, joints=tuple(joints)))
        clip_of = ((mixed[:, 0, :, 2, 1].asin()) * 39).round().long()
        assert_limbs_whole(clip_of, BODY.joints)
        others = (clip_of != torch.arange(40)[:, None]).float().mean(0)
        assert 0.1 < others[BODY.joints.index("left_knee")] < 0.5
    with pytest.raises(AssertionError):
        assert_limbs_whole(clip_of[:, torch.randperm(24, generator=seeded())], BODY.joints)


@pytest.mark.parametrize("first", [True, False])
def test_joints_are_bent_slowly_and_the_root_is_not(monkeypatch, other, first):
    rotations, body = axis_angle_to_matrix(clip_of_turns(40, 30)), BODY if first else other
    bent = varied_only(monkeypatch, "BEND_ANGLE", rotations, body)
    assert torch.equal(bent[:, :, body.root], rotations[:, :, body.root])
    others = [j for j in range(24) if j != body.root]
    turns = rotations[:, :, others].mT @ bent[:, :, others]
    assert ((turns - torch.eye(3)).abs().amax((0, 1, 3, 4)) > 0.01).all()
    assert (turns - torch.eye(3)).flatten(2).norm(dim=-1).mean() > 0.1
    steps = (turns[:, 1:] - turns[:, :-1]).flatten(3).norm(dim=-1)
    assert steps.max() < 1.5
    assert steps.mean() < 0.12


@pytest.mark.parametrize("first", [True, False])
def test_some_clips_are_turned_as_a_whole(monkeypatch, other, first):
    rotations, body = axis_angle_to_matrix(clip_of_turns(200, 5)), BODY if first else other
    turned = varied_only(monkeypatch, "TILT_CHANCE", rotations, body)
    others = [j for j in range(24) if j != body.root]
    assert torch.equal(turned[:, :, others], rotations[:, :, others])
    before, after = rotations[:, :, body.root], turned[:, :, body.root]
    assert torch.allclose(after[:, :1].mT @ after, before[:, :1].mT @ before, atol=1e-5)  # the motion stays
    changed = (after - before).flatten(1).norm(dim=-1) > 1e-3
    assert 0.05 < changed.float().mean() < 0.3


def assert_within_limits(folded, rotations, joints):
    """Hips, knees and elbows bend towards their limits, never past them nor back; some by more than a radian."""
    most = 0.0
    for name in ("left_knee", "right_knee"):
        at = joints.index(name)
        before, after = (matrix_to_axis_angle(x[:, :, at])[..., 0] for x in (rotations, folded))
        assert (after >= before - 1e-3).all()
        assert (after <= before.clamp_min(clips.LIMITS["knee"][0]) + 1e-3).all()
        most = max(most, float((after - before).max()))
    assert most > 1


@pytest.mark.parametrize("first", [True, False])
def test_some_clips_are_folded_within_the_joints_limits(monkeypatch, other, first):
    angle = torch.linspace(-0.5, 2.8, 40)[:, None, None, None] * torch.tensor([1.0, 0, 0])
    rotations, body = axis_angle_to_matrix(angle.expand(40, 12, 24, 3)), BODY if first else other
    monkeypatch.setattr(clips, "FOLD_CHANCE", 1.0)
    folded = varied_only(monkeypatch, "FOLD_CHANCE", rotations, body)
    assert_within_limits(folded, rotations, body.joints)
    held = [body.joints.index(name) for name in ("left_wrist", "neck", "left_foot", "right_shoulder")]
    assert torch.allclose(folded[:, :, held], rotations[:, :, held], atol=1e-6)
    with pytest.raises(AssertionError):
        assert_within_limits(folded.mT, rotations, body.joints)


def reordered(clip):
    """A clip as a body of that order of joints has it."""
    return clip._replace(rotations=clip.rotations[:, :, ORDER], joints=clip.joints[:, :, ORDER])


@pytest.mark.parametrize("noise", [clips.OFF, clips.USUAL])
def test_the_order_of_joints_plays_no_part(other, noise):
    """A body whose root is not its first joint is seen as its twin, whose is: features, and all else in its order."""
    mine = [replace(m, joints=other.joints, axis_angle=m.axis_angle[:, ORDER]) for m in MOTIONS]
    one, two = (
        clips.sample(clips.bank(m, 8), b, 3, 8, seeded(), noise, False) for m, b in ((MOTIONS, BODY), (mine, other))
    )
    assert_same(two, reordered(one), 1e-4)
    for k, (first, second) in enumerate(zip(MOTIONS, mine, strict=True)):
        one, two = (clips.whole(m, b, 0.5, seeded(k), noise) for m, b in ((first, BODY), (second, other)))
        assert_same(two, reordered(one), 1e-4)
    turns = axis_angle_to_matrix(clip_of_turns(4, 6))
    one = clips.observe(turns, BODY, 30.0, seeded(), noise, augment=True)
    assert_same(clips.observe(turns[:, :, ORDER], other, 30.0, seeded(), noise, augment=True), reordered(one), 1e-4)


def test_recordings_are_those_of_the_body(other):
    for use in (lambda: clips.sample(clips.bank(MOTIONS, 8), other, 2, 8, seeded()),
                lambda: clips.whole(MOTIONS[0], other, 0.0, seeded())):  # fmt: skip
        with pytest.raises(
            ValueError, match=r"the recordings have joints pelvis, left_hip, .*; load them for that body"
        ):
            use()


def clip_of_turns(batch, frames):
    """Rotation vectors (B, T, 24, 3) of joints that turn at different paces."""
    pace = torch.randn(batch, 1, 24, 3, generator=seeded())
    return 0.02 * torch.arange(frames)[:, None, None] * pace


@given(
    cuts=st.sets(st.integers(1, 99), max_size=5),
    longest=st.none() | st.integers(1, 120),
    shortest=st.integers(1, 30),
)
def test_pieces_cross_no_cut_and_lose_nothing_else(cuts, longest, shortest):
    frame = torch.arange(100.0)[:, None, None].expand(100, 24, 3)
    motion = Motion("m", BODY.joints, 30.0, frame, frame[:, 0], tuple(sorted(cuts)), "walk", "someone")
    found = clips.pieces([motion], longest, shortest)
    for piece in found:
        places = piece.axis_angle[:, 0, 0].long().tolist()
        assert places == list(range(places[0], places[-1] + 1))
        assert not set(places[1:]) & cuts
        assert shortest <= len(piece) <= (longest or 100)
        assert (piece.name, piece.action, piece.subject, piece.cuts) == ("m", "walk", "someone", ())
        assert torch.equal(piece.translation, piece.axis_angle[:, 0])
    if shortest == 1:
        assert torch.equal(torch.cat([piece.axis_angle for piece in found]), frame)


def test_a_person_who_is_not_seen_at_all():
    clip = drawn(noise=clips.OFF._replace(missing=1.0))
    assert (clip.features == 0).all()
    assert clip.keypoints.isfinite().all()


def test_clips_cross_no_cut_and_no_recordings_end():
    source = clips.bank([replace(MOTIONS[0], cuts=(100, 105, 400)), MOTIONS[1]], 16)
    span = int(15 * clips.SPEEDS[1]) + 2
    edges = [0, 100, 105, 400, len(MOTIONS[0]), len(MOTIONS[0]) + len(MOTIONS[1])]
    for start in source.starts.tolist():
        assert any(low <= start and start + span <= high for low, high in itertools.pairwise(edges))
    assert source.where(0) == "cmu_01_01 from frame 0"
    assert source.where(len(MOTIONS[0]) + 7) == "cmu_01_03 from frame 7"


def test_actions_are_drawn_by_a_root_of_their_places():
    short = {name: getattr(MOTIONS[0], name)[:26] for name in ("axis_angle", "translation")}
    source = clips.bank([replace(MOTIONS[0], name="rare", **short), *[replace(MOTIONS[1], name="common")] * 3], 2)
    rare, common = source.count.tolist()
    start = clips.sample(source, BODY, 4000, 2, seeded(), clips.OFF, augment=False).start
    share = (
        (start < 26).float().mean() * (rare**clips.ACTION_POWER + common**clips.ACTION_POWER) / rare**clips.ACTION_POWER
    )
    assert 0.8 < share < 1.2
    assert common > 100 * rare  # drawn by places alone it would be rarer than this


@given(st.integers(0, 99))
def test_clips_follow_the_recording(seed):
    clip = drawn(seed, batch=2, noise=clips.OFF, augment=False)
    turns = axis_angle_to_matrix(torch.cat([m.axis_angle for m in MOTIONS]))
    for rotations, start in zip(clip.rotations, clip.start.tolist(), strict=True):
        assert torch.allclose(rotations[:, 1:], turns[start : start + 8, 1:], atol=1e-5)


def test_the_camera_and_the_speed_change_with_augmentation():
    one, two = drawn(augment=False), drawn(augment=True)
    assert (one.shape == 0).all()
    assert two.shape.std() > 0.5
    assert not torch.equal(one.rotations, two.rotations)
    assert all(x.isfinite().all() for x in (*one, *two))


def test_bad_input():
    with pytest.raises(ValueError, match="no recordings"):
        clips.bank([], 16)
    with pytest.raises(ValueError, match=r"no recording holds 2660 frames in a row \(the longest has 1128\)"):
        clips.bank(MOTIONS, 2000)
    with pytest.raises(ValueError, match="different joints or rates"):
        clips.bank([MOTIONS[0], replace(MOTIONS[1], fps=60.0)], 16)
    with pytest.raises(ValueError, match="recording 'cmu_01_01' is not finite"):
        clips.bank([replace(MOTIONS[0], axis_angle=MOTIONS[0].axis_angle * torch.nan)], 16)
    with pytest.raises(ValueError, match="has no keypoints"):
        clips.sample(clips.bank(MOTIONS, 8), kinlmr.load_body("anny24_lo369"), 2, 8, seeded())
