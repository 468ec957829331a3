import importlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import assert_rotations, assert_same
from models import BODY, MODEL, small, walker

import kinlmr
from kinlmr.body.points import keypoint_sets
from kinlmr.checkpoint import shipped

MOTION = Path(__file__).parents[2] / "examples/data/motion.npz"
DEMO = Path(__file__).parents[2] / "kinlmr/video/data/demo.npz"
RATES = (12, 24, 25, 29.97, 30, 50, 60, 120, 240)
room = importlib.import_module("kinlmr.recovery.recover")  # the package has a function of that name
recover, Recovery, RecoveryState = room.recover, kinlmr.Recovery, kinlmr.RecoveryState


def pieces(model, keypoints, fps, cuts):
    """What comes of chunks that end at these frames, and the last state."""
    found, state = [], None
    for low, high in zip((0, *cuts), (*cuts, keypoints.shape[-3]), strict=True):
        if high > low:
            one, state = recover(model, keypoints[..., low:high, :, :], fps, state)
            found.append(one)
    axis = keypoints.ndim - 4
    return Recovery(*(torch.cat(x, axis + 1) if axis == 0 else torch.cat(x) for x in zip(*found, strict=True))), state


def test_the_models_camera_is_for_the_body_about_its_root():
    """README's projection, on the demo's man, falls on what was seen; with the root where it is posed, it does not."""
    with np.load(DEMO) as file:
        seen = torch.from_numpy(file["keypoints"][1:, 20:120])
    model = kinlmr.load("anny24-coco17")
    features, _, _ = kinlmr.keypoints.normalise(seen)
    with torch.no_grad():
        estimate = model(features)
        mesh = kinlmr.load_body("anny24", keypoints="coco17")(
            model.matrices(estimate), estimate.shape, want=("joints", "keypoints")
        )
    image, weight = features.unflatten(-1, (17, 3)).split((2, 1), -1)
    off = lambda points: float(  # noqa: E731
        (weight * (kinlmr.project(points, estimate.camera) - image)).norm(dim=-1).sum() / weight.sum()
    )
    assert off(mesh.keypoints - mesh.joints[..., :1, :]) < 0.05
    assert off(mesh.keypoints) > 0.1
    estimate = estimate._replace(camera=kinlmr.camera.from_root(estimate.camera, mesh.joints[..., 0, :]))
    assert off(mesh.keypoints) < 0.05


def assert_chunks(model, keypoints, fps, cuts):
    """Cut anywhere, the numbers are the same."""
    whole, last = recover(model, keypoints, fps)
    parts, state = pieces(model, keypoints, fps, cuts)
    assert_same(whole, parts, 1e-5)
    assert_same(last, state, 1e-4)


def assert_sound(recovery, frames):
    """Rotations, numbers, and a camera in front of the body."""
    assert recovery.rotations.shape == (*frames, 24, 3, 3)
    assert [x.shape for x in recovery[1:]] == [(*frames, 10), (*frames, 3), (*frames, 3)]
    assert_rotations(recovery.rotations, 1e-4)
    assert all(x.isfinite().all() for x in recovery)
    assert (recovery.camera[..., 0] > 0).all()


@settings(max_examples=8)
@given(st.sampled_from(RATES), st.lists(st.integers(0, 16), max_size=4), st.integers(0, 9))
def test_whole_clips_and_chunks_are_the_same(fps, cuts, seed):
    assert_chunks(MODEL, walker(16, fps, 2, seed), fps, sorted(cuts))


@pytest.mark.parametrize("fps", RATES)
def test_whole_clips_and_single_frames_are_the_same(fps):
    keypoints = walker(12, fps)[0]
    assert_chunks(MODEL, keypoints, fps, range(1, 12))
    assert_sound(recover(MODEL, keypoints, fps)[0], (12,))


@pytest.mark.parametrize(
    ("cut", "broken"),
    [(7, name) for name in ("memory", "box", "keypoints", "measured", "pixels_per_metre", "away", "phase")]
    + [(16, name) for name in ("rotations", "shape", "camera", "seen")]
    + [(17, name) for name in ("doubted", "alike")],
)
def test_the_law_of_chunks_can_fail(cut, broken, monkeypatch):
    """Whatever part of the state is forgotten: in motion, between ticks, or while a person elsewhere is doubted."""

    def forgetful(model, keypoints, fps, state=None):
        kept = state and state._replace(**{broken: getattr(fresh, broken)})
        return recover_well(model, keypoints, fps, kept)

    recover_well = recover
    _, fresh = recover(MODEL, torch.zeros(1, 1, 17, 3), 50)
    monkeypatch.setitem(globals(), "recover", forgetful)
    keypoints = walker(20, 50)
    keypoints[:, 15:, :, :2] += 400
    with pytest.raises(AssertionError):
        assert_chunks(MODEL, keypoints, 50, [cut])


def test_rates_near_the_models_are_not_resampled():
    keypoints = walker(20)
    exact = recover(MODEL, keypoints, 30)[0]
    for fps in (29.97, Fraction(30000, 1001), np.float32(30), 29.8, 30.2):
        assert_same(recover(MODEL, keypoints, fps)[0], exact, 0.0)


@pytest.mark.parametrize("times", [2, 4, 8])
def test_a_frame_on_a_tick_is_what_it_is_at_30(times):
    keypoints = walker(5 * times, 30.0 * times)
    fast, slow = recover(MODEL, keypoints, 30 * times)[0], recover(MODEL, keypoints[:, ::times], 30)[0]
    assert_same([x[:, ::times] for x in fast], slow, 1e-5)


@pytest.mark.parametrize("fps", [25, 48.5])
def test_a_person_at_rest_is_the_same_at_any_rate(fps):
    keypoints = walker(1).expand(1, 40, 17, 3)
    last = [[x[:, -1] for x in recover(MODEL, keypoints, rate)[0]] for rate in (fps, 30)]
    assert_same(*last, 0.05)  # a random model still sways a little


def test_later_frames_change_nothing():
    keypoints = walker(20, 50)
    later = keypoints.clone()
    later[:, 11:, :, :2] += 40
    assert_same(*([x[:, :11] for x in recover(MODEL, k, 50)[0]] for k in (keypoints, later)), 0.0)


def test_arrays_and_other_types():
    keypoints = walker(6)[0]
    exact = recover(MODEL, keypoints, 30)[0]
    for same in (keypoints.numpy(), keypoints.double(), keypoints.numpy().astype(np.float64)):
        assert_same(recover(MODEL, same, 30)[0], exact, 1e-6)
    assert recover(MODEL, keypoints.round().int(), 30)[0].camera.dtype == torch.float32
    assert not any(x.requires_grad for x in exact)


def test_a_model_without_a_camera():
    assert_sound(recover(small(camera=0), walker(5), 30)[0], (1, 5))


# --------------------------------------------------------------------------------------------------------------- camera


def test_the_camera_stands_where_least_squares_puts_it():
    """The body of the estimate lies on the keypoints better than under any camera near this one, by Cauchy's cost."""
    keypoints = walker(1)
    found, _ = recover(MODEL, keypoints, 30)
    points = BODY(found.rotations, found.shape, want=("keypoints",)).keypoints
    seen = kinlmr.camera.to_crop(keypoints[..., :2], found.box)
    off = lambda c: (kinlmr.project(points, c) - seen).square().sum(-1) / room.HALF_DISTANCE**2  # noqa: E731
    error = lambda c: float((keypoints[..., 2] * off(c).log1p()).sum())  # noqa: E731
    for axis in range(3):
        for change in (-0.05, 0.05):
            other = found.camera.clone()
            other[..., axis] += change
            assert error(found.camera) < error(other)


def test_translation_brings_the_body_to_the_keypoints():
    """From afar, the pinhole sees it where the camera of the box does."""
    found, _ = recover(MODEL, walker(4), 30)
    size, focal = (640, 480), 50_000.0
    place = found.translation(size, focal)
    posed = BODY(found.rotations, found.shape, place, want=("keypoints",)).keypoints
    far = kinlmr.camera.perspective(posed, torch.zeros(3), focal) + torch.tensor(size) / 2
    points = BODY(found.rotations, found.shape, want=("keypoints",)).keypoints
    near = kinlmr.camera.from_crop(kinlmr.project(points, found.camera), found.box)
    assert torch.allclose(far, near, atol=1.5)
    assert (place[..., 2] > 0).all()


def test_distance_is_steady_but_follows_a_jump():
    generator = torch.Generator().manual_seed(1)
    keypoints = walker(1).expand(1, 60, 17, 3).clone()
    keypoints[..., :2] += 4 * torch.randn(1, 60, 17, 2, generator=generator)
    depth = recover(MODEL, keypoints, 30)[0].translation((640, 480), 1000.0)[0, 20:, 2]
    loose = pieces(MODEL, keypoints, 30, [])[0]
    points = BODY(loose.rotations, loose.shape, want=("keypoints",)).keypoints
    seen = kinlmr.camera.to_crop(keypoints[..., :2], loose.box)
    free = kinlmr.camera.fit(points, seen, keypoints[..., 2], loose.camera)
    free = kinlmr.camera.to_translation(free, loose.box, torch.tensor([640.0, 480.0]), 1000.0)[0, 20:, 2]
    assert depth.diff().abs().mean() < 0.4 * free.diff().abs().mean()
    keypoints[:, 30:, :, :2] *= 4
    jumped = recover(MODEL, keypoints, 30)[0].translation((640, 480), 1000.0)[0, :, 2]
    assert jumped[35] < 0.6 * jumped[29]  # when three frames agreed, and three ticks of them


# ---------------------------------------------------------------------------------------------------- bad frames


SHIPPED = kinlmr.load("anny24-coco17")
SIZE, FOCAL = (640, 360), 734.0


def demo(frames=60):
    """Keypoints (T, 17, 3) of the man of the demo."""
    with np.load(DEMO) as file:
        return torch.from_numpy(file["keypoints"][1, 20 : 20 + frames].copy())


BAD = {
    "upside down": lambda frame, g: torch.stack([frame[:, 0], 2 * frame[:, 1].mean() - frame[:, 1], frame[:, 2]], -1),
    "at one place": lambda frame, g: torch.cat(
        [frame[:1, :2] + 60 * torch.rand(2, generator=g) + 3 * torch.randn(17, 2, generator=g), frame[:, 2:]], 1
    ),
    "nearer": lambda frame, g: torch.cat([2.2 * frame[:, :2] - 200, frame[:, 2:]], 1),
    "farther": lambda frame, g: torch.cat([0.4 * frame[:, :2] + 100, frame[:, 2:]], 1),
    "elsewhere": lambda frame, g: frame + torch.tensor([220.0, 40.0, 0.0]),
    "anywhere": lambda frame, g: torch.cat(
        [torch.rand(17, 2, generator=g) * torch.tensor(SIZE), torch.rand(17, 1, generator=g)], 1
    ),
}  # fmt: skip


def assert_steady(recovering, keypoints, fps, frame):
    """A bad frame moves the body by less than 0.5 m, and the third frame after it by less than 0.15."""
    place = lambda k: recovering(SHIPPED, k, fps)[0].in_camera(SIZE, FOCAL)[1]  # noqa: E731
    off = (place(keypoints[1]) - place(keypoints[0])).norm(dim=-1)
    assert off.max() < 0.5
    assert off[frame + 3 :].max() < 0.15


@settings(max_examples=6)
@given(st.sampled_from(sorted(BAD)), st.integers(12, 22), st.sampled_from((25, 30, 60)), st.integers(0, 9))
def test_one_bad_frame_moves_nothing(kind, frame, fps, seed):
    """Of somebody who was seen for some frames: before, the distance has yet to settle."""
    keypoints = demo(28)
    broken = keypoints.clone()
    broken[frame] = BAD[kind](keypoints[frame], torch.Generator().manual_seed(seed))
    assert_steady(recover, (keypoints, broken), fps, frame)


def test_the_law_of_bad_frames_can_fail(monkeypatch):
    monkeypatch.setattr(room, "believed", lambda keypoints, seconds, gate: (keypoints, gate))
    keypoints = demo(36)
    broken = keypoints.clone()
    broken[20] = BAD["nearer"](keypoints[20], None)
    with pytest.raises(AssertionError):
        assert_steady(recover, (keypoints, broken), 30, 20)


@pytest.mark.parametrize("fps", [12, 30, 120])
def test_who_is_elsewhere_for_good_is_followed(fps):
    keypoints = demo(40)
    keypoints[15:, :, 0] += 300
    late = 15 + 2 + int(0.08 * fps)
    box = recover(SHIPPED, keypoints, fps)[0].box[late:, :2]
    middle = (keypoints[..., :2].amin(1) + keypoints[..., :2].amax(1))[late:] / 2
    assert (box - middle).abs().max() < 60


@settings(max_examples=10)
@given(st.integers(0, 16), st.floats(-1e5, 1e5), st.floats(1500, 1e5), st.sampled_from((30, 50)))
def test_a_point_far_off_counts_as_not_seen(point, x, y, fps):
    keypoints = demo(8)
    stray, without = keypoints.clone(), keypoints.clone()
    stray[5, point] = torch.tensor([x, y, 0.9])
    without[5, point] = 0
    assert_same(recover(SHIPPED, stray, fps)[0], recover(SHIPPED, without, fps)[0], 1e-5)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_too_few_points_tell_no_distance(count):
    keypoints = demo(40)
    keypoints[20:, count:, 2] = 0
    depth = recover(SHIPPED, keypoints, 30)[0].translation(SIZE, FOCAL)[:, 2]
    assert (depth[20:] / depth[19] - 1).abs().max() < 0.15


# ------------------------------------------------------------------------------------------------------ rates


def rendered(times, frames=45):
    """The same motion of a body at 30 frames a second times so many: keypoints (T, 17, 3), joints (T, 24, 3)."""
    body = kinlmr.load_body("anny24", keypoints="coco17")
    time = torch.arange(frames * times) / (30.0 * times)
    generator = torch.Generator().manual_seed(4)
    swing, phase, speed = torch.rand(3, 1, 24, 3, generator=generator)
    angles = 0.35 * swing * (6 * phase + (2 + 5 * speed) * time[:, None, None]).sin()
    angles[:, 0] = torch.tensor([torch.pi, 0.0, 0.0])
    mesh = body(kinlmr.rotations.axis_angle_to_matrix(angles), want=("joints", "keypoints"))
    joints, points = (x - mesh.joints[:, :1] for x in (mesh.joints, mesh.keypoints))
    image = kinlmr.camera.perspective(points, torch.tensor([0.0, 0.0, 5.0]), 1200.0) + 500
    return torch.cat([image, torch.full_like(image[..., :1], 0.9)], -1), joints


def assert_as_smooth(recovering, times):
    """Acceleration errors in m/s^2 are at most half above those at 30 frames a second, and the pose is as good."""
    found, body = [], kinlmr.load_body("anny24")
    for many in (1, times):
        keypoints, truth = rendered(many)
        recovery, _ = recovering(SHIPPED, keypoints, 30 * many)
        joints = body(recovery.rotations, recovery.shape).joints
        joints, truth = joints[10 * many :] - joints[10 * many :, :1], truth[10 * many :]
        accel = kinlmr.metrics.accel(joints, truth) / 1000 * (30 * many) ** 2
        found.append((float(accel), float(kinlmr.metrics.pa_mpjpe(joints, truth))))
    assert found[1][0] < 1.5 * found[0][0], found
    assert found[1][1] < 1.01 * found[0][1], found


@pytest.mark.parametrize("times", [2, 4])
def test_motion_is_as_smooth_at_any_rate(times):
    assert_as_smooth(recover, times)


def test_the_law_of_rates_can_fail(monkeypatch):
    look = lambda model, body, frame, rest, state: room._run(model, body, frame[:, None], state)[0]  # noqa: E731
    monkeypatch.setattr(room, "_look", look)
    with pytest.raises(AssertionError):
        assert_as_smooth(recover, 2)


# --------------------------------------------------------------------------------------------- beside the middle


@settings(max_examples=20)
@given(st.floats(-0.6, 0.6), st.floats(-0.4, 0.4), st.integers(0, 99))
def test_a_body_beside_the_middle_is_turned_onto_its_ray(right, down, seed):
    """Seen by a camera that looks at it, and turned, is seen by the camera itself; its root stays where it is."""
    focal, size = 900.0, (1200.0, 800.0)
    generator = torch.Generator().manual_seed(seed)
    rotations = kinlmr.rotations.axis_angle_to_matrix(0.6 * torch.randn(1, 24, 3, generator=generator))
    shape = torch.randn(1, 10, generator=generator)
    place = 5 * torch.tensor([[right, down, 1.0]])
    box = torch.tensor([[600 + focal * right, 400 + focal * down, 300.0]])
    camera = kinlmr.camera.from_translation(place, box, torch.tensor(size), focal)
    turned, translation = Recovery(rotations, shape, camera, box).in_camera(size, focal, BODY)
    before, after = (BODY(r, shape, translation).joints for r in (rotations, turned))
    assert_same([after[:, 0], translation], [before[:, 0], place], 1e-4)
    relative = after[0] - after[0, 0]
    ray = torch.nn.functional.normalize(after[0, 0], dim=0)
    assert_same([relative @ ray], [(before[0] - before[0, 0])[:, 2]], 1e-4)  # depth along the ray is depth before
    assert_same([turned[:, 1:]], [rotations[:, 1:]], 0.0)


def test_people_beside_the_middle_are_nearer_to_the_truth_when_turned():
    """A recording seen on four sides of the middle: its joints in the camera's frame are a tenth nearer."""
    size, focal, body = (2400.0, 1800.0), 1000.0, kinlmr.load_body("anny24", keypoints="coco17")
    recording = kinlmr.motion.load_motion(MOTION, body)[0]
    rotations = kinlmr.rotations.axis_angle_to_matrix(recording.axis_angle[200:290])
    rotations[:, 0] = torch.diag(torch.tensor([1.0, -1.0, -1.0])) @ rotations[:, 0]
    mesh = body(rotations, want=("joints", "keypoints"))
    sides = torch.tensor([(0.36, 0.0, 1.0), (-0.36, 0.0, 1.0), (0.0, 0.25, 1.0), (0.0, -0.25, 1.0)])
    places = 5 * sides[:, None] - mesh.joints[:, 0]
    pixels = kinlmr.camera.perspective(mesh.keypoints.expand(4, -1, -1, -1), places, focal) + torch.tensor(size) / 2
    found, _ = recover(SHIPPED, torch.cat([pixels, torch.full_like(pixels[..., :1], 0.9)], -1), 30)
    errors = []
    for turned in (found.rotations, found.in_camera(size, focal)[0]):
        joints = body(turned, found.shape).joints
        errors.append(kinlmr.metrics.mpjpe(joints[:, 30:], mesh.joints[30:].expand_as(joints[:, 30:])).mean())
    assert errors[1] < 0.9 * errors[0], errors


def test_a_single_frame_and_a_shape_of_fewer_numbers_are_turned_too():
    found, _ = recover(MODEL, walker(3), 30)
    turned, translation = found.in_camera((640, 480), 900.0, BODY)
    one = Recovery(*(x[0, 1] for x in found)).in_camera((640, 480), 900.0, BODY)
    assert_same(one, [turned[0, 1], translation[0, 1]], 1e-6)
    fewer = [found._replace(shape=shape).in_camera((640, 480), 900.0, BODY)[0]
             for shape in (found.shape[..., :4], found.shape * (torch.arange(10) < 4))]  # fmt: skip
    assert_same(fewer[:1], fewer[1:], 1e-6)


def test_in_the_middle_and_unseen_nothing_turns():
    keypoints = walker(4)
    keypoints[:, :2, :, 2] = 0
    found, _ = recover(MODEL, keypoints, 30)
    turned, place = found.in_camera((640, 480), 1000.0, BODY)
    assert_same([turned[:, :2]], [found.rotations[:, :2]], 0.0)
    assert place[:, :2].isnan().all()
    middle = found._replace(camera=torch.tensor([[[1.0, 0.0, 0.2]]]), box=torch.tensor([[[320.0, 240.0, 480.0]]]))
    assert_same([middle.in_camera((640, 480), 1000.0, BODY)[0]], [found.rotations], 1e-4)


# ----------------------------------------------------------------------------------------- what a confidence is worth


def test_the_network_sees_confidences_by_the_models_map():
    keypoints = walker(6)
    keypoints[:, 3, 4:8, 2] = 0
    mapped = small(confidence=(0.7, 0.2))
    assert mapped.options["confidence"] == (0.7, 0.2)
    assert "confidence" not in MODEL.options
    shown = keypoints.clone()
    shown[..., 2] = torch.where(shown[..., 2] > 0, 0.7 + 0.2 * shown[..., 2], 0)
    features = kinlmr.keypoints.normalise(keypoints)[0]
    exact = kinlmr.keypoints.reported(features, (0.7, 0.2)).unflatten(-1, (17, 3))
    assert torch.allclose(exact[..., 2], shown[..., 2], atol=1e-6)
    assert torch.equal(exact[..., :2], features.unflatten(-1, (17, 3))[..., :2])
    estimate = mapped(exact.flatten(-2))
    assert_same([recover(mapped, keypoints, 30)[0].rotations], [mapped.matrices(estimate)], 1e-6)


def test_a_map_is_kept_and_an_odd_one_refused(tmp_path):
    kinlmr.save(small(confidence=(0.85, 0.13)), tmp_path / "m.npz")
    assert kinlmr.load(tmp_path / "m.npz").options["confidence"] == (0.85, 0.13)
    assert SHIPPED.options["confidence"] == (0.85, 0.13)
    for odd in ((0.0, 0.0), (0.9, 0.2), (-0.1, 0.5), (0.5, -0.1), (1.0,), "ab", 3):
        with pytest.raises(ValueError, match=r"confidence is .*expected \(a, b\) of a \+ b c"):
            small(confidence=odd)


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize("fps", [24, 30, 50])
def test_nobody_in_the_first_second(fps):
    keypoints = walker(2 * fps, fps)
    keypoints[:, :fps] = torch.tensor([torch.nan, torch.nan, 0.0])
    found, _ = recover(MODEL, keypoints, fps)
    assert_sound(found, (1, 2 * fps))
    place = found.translation((640, 480), 1000.0)
    assert place[:, :fps].isnan().all()
    assert place[:, fps + 1 :].isfinite().all()


@pytest.mark.parametrize("late", [1, 40])
def test_who_comes_late_is_as_one_who_begins_then(late):
    """Beside somebody who was there all along."""
    keypoints = walker(30 + late, 30, 2)
    keypoints[0, :late] = 0
    found, last = recover(MODEL, keypoints, 30)
    alone, state = recover(MODEL, keypoints[:1, late:], 30)
    assert_same(Recovery(*(x[:1, late:] for x in found)), alone, 1e-5)
    assert_same(last.select([0]), state, 1e-4)
    with pytest.raises(AssertionError):
        assert_same(Recovery(*(x[1:, late:] for x in found)), alone, 1e-5)


@pytest.mark.parametrize(("gap", "fps"), [(1, 30), (10, 30), (100, 30), (1, 50), (10, 50)])
def test_a_person_lost_for_a_while(gap, fps):
    keypoints = walker(30 + gap, fps)
    keypoints[:, 20 : 20 + gap, :, 2] = 0
    found, _ = recover(MODEL, keypoints, fps)
    assert_sound(found, (1, 30 + gap))
    place = found.translation((640, 480), 1000.0)
    assert place.isfinite().all()
    assert (found.box[:, 21 : 20 + gap] == found.box[:, 20:21]).all()
    assert torch.allclose(place[:, 21 : 20 + gap, 2], place[:, 20:21, 2], rtol=1e-4)


@pytest.mark.parametrize("fps", [30, 60])
def test_nobody_at_all_and_few_points(fps):
    keypoints = walker(10, fps)
    keypoints[..., 2] = 0
    assert_sound(recover(MODEL, keypoints, fps)[0], (1, 10))
    for count in (1, 2, 3):
        keypoints[:, :, :count, 2] = 1
        assert_sound(recover(MODEL, keypoints, fps)[0], (1, 10))
    keypoints[..., :2] = 200.0
    assert_sound(recover(MODEL, keypoints, fps)[0], (1, 10))


def test_what_is_not_seen_may_be_anything():
    keypoints = walker(20, 50)
    keypoints[:, 5:12, 3:9, 2] = 0
    other = keypoints.clone()
    other[:, 5:12, 3:9, :2] = torch.nan
    other[:, 5:7, 3:9, :2] = torch.inf
    for fps in (30, 50):
        assert_same(recover(MODEL, keypoints, fps)[0], recover(MODEL, other, fps)[0], 0.0)


def changed(value, *place, of=None):
    keypoints = walker(4, people=2) if of is None else of
    keypoints[place] = value
    return keypoints


@pytest.mark.parametrize(
    ("keypoints", "message"),
    [
        (changed(torch.nan, 1, 2, 5, 0), r"point 5 of frame 2 of clip 1 is \[nan, .*set the confidence .* to 0"),
        (changed(torch.inf, 2, 5, 1, of=walker(4)[0]), r"point 5 of frame 2 is \["),
        (changed(torch.nan, 0, 0, 3, 2), "point 3 of frame 0 of clip 0 is .*not finite"),
        (torch.rand(4, 17, 3), "as if they were normalised to 0..1; kinlmr takes pixels: multiply"),
        (torch.rand(4, 17, 2), r"have shape \(T, K, 3\) or \(B, T, K, 3\): x, y, confidence; not \(4, 17, 2\)"),
        (torch.rand(17, 3), r"not \(17, 3\)"),
        (torch.rand(1, 1, 4, 17, 3) * 99, r"not \(1, 1, 4, 17, 3\)"),
        (torch.rand(0, 17, 3), r"at least one frame, not \(0, 17, 3\)"),
        (
            99 * torch.rand(4, 33, 3),
            r"33 points, the model takes coco17 with 17; sets of 33 points: mediapipe33; kinlmr\.keypoints\.convert\("
            r"keypoints, 'mediapipe33', 'coco17'\) brings",
        ),
        (99 * torch.rand(4, 5, 3), r"sets of 5 points: none; there are smpl24 \(24\), coco17 \(17\)"),
    ],
)
def test_keypoints_that_no_detector_gives(keypoints, message):
    with pytest.raises(ValueError, match=message):
        recover(MODEL, keypoints, 30)


def test_sets_of_the_models_own_size_are_told():
    with pytest.raises(ValueError, match="takes mediapipe33 with 33; sets of 17 points: coco17, h36m17"):
        recover(small("mediapipe33"), walker(2), 30)


@pytest.mark.parametrize("fps", [0, -30, float("nan"), float("inf"), None, "film"])
def test_the_rate_is_asked_for(fps):
    with pytest.raises(ValueError, match="fps is .*; give the keypoints' frames per second"):
        recover(MODEL, walker(2), fps)
    with pytest.raises(TypeError, match="fps"):
        recover(MODEL, walker(2))


def test_models_and_states_that_do_not_fit():
    with pytest.raises(ValueError, match=r"does not say which keypoints it takes; build it with keypoints='coco17'"):
        recover(kinlmr.build(features=51, hidden=4), walker(2), 30)
    with pytest.raises(TypeError, match="recover takes an LMR, not Linear"):
        recover(torch.nn.Linear(1, 1), walker(2), 30)
    with pytest.raises(ValueError, match=r"training mode, .*call model\.eval\(\) first"):
        recover(small(dropout=0.5).train(), walker(2), 30)
    hand = kinlmr.build("mano.yaml", keypoints="coco17", hidden=4, body="anny24_lo369")
    with pytest.raises(ValueError, match=r"poses 16 joints .* its body 'anny24_lo369' has 24 .*body= of its skeleton"):
        recover(hand, walker(2), 30)
    _, state = recover(MODEL, walker(2, people=2), 30)
    with pytest.raises(ValueError, match="state is of 2 people, the keypoints of 1; start with state None"):
        recover(MODEL, walker(2), 30, state)
    with pytest.raises(TypeError, match="state is what recover returned, or None, not State"):
        recover(MODEL, walker(2), 30, MODEL.initial_state(1))


def test_a_state_goes_on_with_the_weights_that_made_it(tmp_path):
    new, old = kinlmr.load("anny24-coco17"), kinlmr.load("anny24-coco17@1")
    _, state = recover(old, demo(2), 30)
    state = state.to(torch.float64).to(torch.float32)
    kinlmr.save(old, tmp_path / "copy.npz")
    recover(kinlmr.load(tmp_path / "copy.npz"), demo(2), 30, state)  # the same weights in another file
    recover(old.live(), demo(1), 30, state)
    for rows in (state, kinlmr.concat([RecoveryState.initial(new, 1), state])):
        with pytest.raises(ValueError, match="made by anny24-coco17@1, the model is anny24-coco17; .* state None"):
            recover(new, torch.zeros(len(rows.seen), 1, 17, 3), 30, rows)
    with torch.no_grad():
        old.camera.head.bias += 1
    kinlmr.save(old, tmp_path / "other.npz")
    with pytest.raises(ValueError, match="the model is a file of checksum [0-9]+"):
        recover(kinlmr.load(tmp_path / "other.npz"), demo(2), 30, state)
    built = small()  # made by hand, it has no weights to compare
    assert built.checksum == 0
    recover(built, demo(2), 30, recover(built, demo(2), 30)[1])


@pytest.mark.parametrize("name", [name for name in keypoint_sets() if name != "lsp14"])
def test_every_set_has_its_model(name):
    width = 3 * len(keypoint_sets()[name])
    assert small(name).options["features"] == width
    keypoints = kinlmr.keypoints.convert(walker(3), "coco17", name)
    assert_sound(recover(small(name), keypoints, 30)[0], (1, 3))


def test_a_saved_model_knows_its_input(tmp_path):
    kinlmr.save(MODEL, tmp_path / "model.npz")
    loaded = kinlmr.load(tmp_path / "model.npz")
    assert {k: loaded.options[k] for k in ("keypoints", "fps", "body")} == {
        "keypoints": "coco17", "fps": 30.0, "body": "anny24_lo369",
    }  # fmt: skip
    assert_same(recover(loaded, walker(3), 30)[0], recover(MODEL, walker(3), 30)[0], 0.0)


@pytest.mark.skipif("anny24-coco17" not in shipped(), reason="the weights are not in this tree")
def test_the_shipped_model():
    model = kinlmr.load("anny24-coco17")
    assert (model.options["keypoints"], model.options["fps"], model.options["body"]) == ("coco17", 30.0, "anny24")
    assert_sound(recover(model, walker(10), 30)[0], (1, 10))
