"""Whole clips: the mean of four answers, and its laws."""

import pytest
import torch
from laws import assert_rotations, assert_same
from models import MODEL, walker

import kinlmr
from kinlmr.motion import clips, opposite
from kinlmr.recovery import clip as room

JOINTS, NAMES = MODEL.plan.skeleton.joints, kinlmr.keypoints.keypoint_sets()["coco17"]
LEFT = torch.tensor([-1.0, 1.0, 1.0])
recover_clip = kinlmr.recover_clip


def mirrored(keypoints):
    return keypoints[..., opposite(NAMES), :] * LEFT


def assert_mirrors(keypoints, fps):
    """Who is mirrored is answered by the mirrored body in the mirrored place."""
    one, two = recover_clip(MODEL, keypoints, fps), recover_clip(MODEL, mirrored(keypoints), fps)
    assert_same([clips.mirror(one.rotations, JOINTS), one.shape, one.box * LEFT], [two[0], two[1], two[3]], 1e-5)
    assert_same([one.camera * torch.tensor([1.0, -1.0, 1.0])], [two.camera], 1e-5)


def assert_reverses(keypoints, fps, frames=slice(None)):
    """Played backwards, the same answers come backwards."""
    one, two = recover_clip(MODEL, keypoints, fps), recover_clip(MODEL, keypoints.flip(-3), fps)
    back = (two[0].flip(-4), *(x.flip(-2) for x in two[1:]))
    assert_same([x[:, frames] for x in one], [x[:, frames] for x in back], 1e-5)


def late(frames=24, first=9):
    """Two people, of whom the second is seen from frame ``first`` on, and until six frames before the end."""
    keypoints = walker(frames, 30.0, 2)
    keypoints[1, :first, :, 2] = 0
    keypoints[1, -6:, :, 2] = 0
    keypoints[1, :first, :, :2] = torch.nan
    return keypoints


@pytest.mark.parametrize("fps", [12, 30, 50])
def test_a_mirror_mirrors_the_answer(fps):
    assert_mirrors(walker(14 if fps == 30 else 6, fps, 2), fps)


def test_a_clip_played_backwards_is_answered_backwards():
    assert_reverses(walker(14, 30.0, 2), 30)
    assert_reverses(late(), 30, slice(9, -9))


def test_the_laws_can_fail(monkeypatch):
    keypoints = walker(8, 30.0)
    with monkeypatch.context() as patch:
        patch.setattr(room, "opposite", lambda names: list(range(len(names))))
        with pytest.raises(AssertionError):
            assert_mirrors(keypoints, 30)
    with monkeypatch.context() as patch:
        late = lambda x: torch.cat([x[:2], x[2:].roll(1, 1)])  # noqa: E731  backwards, a frame later
        patch.setattr(room, "recover", lambda model, x, fps, state: kinlmr.recover(model, late(x), fps, state))
        with pytest.raises(AssertionError):
            assert_reverses(keypoints, 30)


def test_it_is_the_mean_of_the_plain_answers():
    """As four calls of recover say, one after another."""
    keypoints = walker(9, 30.0)
    four = [kinlmr.recover(MODEL, x, 30)[0] for x in (keypoints, mirrored(keypoints))]
    four += [kinlmr.recover(MODEL, x.flip(1), 30)[0] for x in (keypoints, mirrored(keypoints))]
    rotations = [clips.mirror(x.rotations, JOINTS) if i % 2 else x.rotations for i, x in enumerate(four)]
    forward, backward = rotations[0] + rotations[1], (rotations[2] + rotations[3]).flip(1)
    age = torch.arange(1.0, 10.0).clamp_max(30 * room.EASE)[:, None]
    share = (age / (age + age.flip(0)))[..., None, None]
    mean = kinlmr.rotations.nearest_rotation(share * forward + (1 - share) * backward)
    found = recover_clip(MODEL, keypoints, 30)
    assert_same([found.rotations], [mean], 1e-5)
    ones = [(age * x.shape[0]).sum(0) / age.sum() for x in four]
    assert_same([found.shape[0, 0]], [sum(ones) / 4], 1e-5)


def test_the_shape_is_one_and_chunks_do_not_show(monkeypatch):
    keypoints = late(14, 4)
    whole = recover_clip(MODEL, keypoints, 25)
    assert_rotations(whole.rotations, 1e-4)
    assert (whole.shape == whole.shape[:, :1]).all()
    assert all(x.isfinite().all() for x in whole)
    assert (whole.camera[..., 0] > 0).all()
    monkeypatch.setattr(room, "LONGEST", 5)
    assert_same(recover_clip(MODEL, keypoints, 25), whole, 1e-5)


def test_who_comes_late_has_no_box_before_and_counts_one_direction():
    keypoints = late()
    found = recover_clip(MODEL, keypoints, 30)
    assert (found.box[1, :9] == 0).all()
    assert (found.box[1, 9:, 2] > 0).all()
    assert found.translation((640, 360), 800.0)[1, :9].isnan().all()
    assert found.translation((640, 360), 800.0)[1, 9:].isfinite().all()
    backwards = torch.stack([keypoints[1].flip(0), mirrored(keypoints[1]).flip(0)])
    alone, _ = kinlmr.recover(MODEL, backwards, 30)
    mean = alone.rotations[0] + clips.mirror(alone.rotations[1], JOINTS)
    before = kinlmr.rotations.nearest_rotation(mean / 2).flip(0)[:9]
    assert_same([found.rotations[1, :9]], [before], 1e-5)
    assert_same([x[:1] for x in found], recover_clip(MODEL, keypoints[:1], 30), 1e-5)  # nobody depends on another


def test_nobody_and_other_shapes():
    nobody = recover_clip(MODEL, torch.zeros(5, 17, 3), 30)
    assert nobody.rotations.shape == (5, 24, 3, 3)
    assert (nobody.box == 0).all()
    assert (nobody.camera[..., 0] > 0).all()
    assert_rotations(nobody.rotations, 1e-4)
    keypoints = walker(6, 30.0)
    one = recover_clip(MODEL, keypoints[0].numpy(), 30)
    assert_same([x[None] for x in one], recover_clip(MODEL, keypoints, 30), 0.0)
    assert [len(x) for x in recover_clip(MODEL, keypoints[:0], 30)] == [0, 0, 0, 0]
    with pytest.raises(ValueError, match="the keypoints have 25 points, the model takes coco17"):
        recover_clip(MODEL, torch.zeros(5, 25, 3), 30)
    with pytest.raises(ValueError, match="fps is 0"):
        recover_clip(MODEL, keypoints, 0)


def test_a_wrong_depth_of_somebodys_first_frames_does_not_count():
    """Backwards, the last three frames have the person ten times as far away; one frame is as far as both have seen."""
    near, far = torch.tensor([80.0, 5.0, 5.0]), torch.tensor([8.0, 50.0, 5.0])
    cameras = near.repeat(2, 1, 6, 1)
    cameras[1, 0, 3:] = far
    age = torch.stack([torch.arange(1, 7), torch.arange(6, 0, -1)])[:, None]
    share = (age / age.sum(0))[..., None]
    assert torch.allclose((room._trusted(cameras, age, share) * cameras).sum(0), near.expand(1, 6, 3))
    alike = cameras.clone()
    alike[1, 0, 3:] = near * 1.2
    assert torch.equal(room._trusted(alike, age, share), share)
    tie = torch.ones_like(age)
    assert torch.equal(room._trusted(cameras, tie, share)[:, 0, 3:], torch.full((2, 3, 1), 0.5))


def test_what_is_empty_before_and_after_turns_nobody():
    """As in a file of several people: rows are as long as the video."""
    keypoints = walker(40, 30.0)
    empty = torch.zeros_like(keypoints)
    padded = torch.cat([empty[:, :10], keypoints, empty[:, :25]], 1)
    alone, among = recover_clip(MODEL, keypoints, 30), recover_clip(MODEL, padded, 30)
    assert_same([among.rotations[:, 10:50], among.box[:, 10:50]], [alone.rotations, alone.box], 1e-5)
    with pytest.raises(AssertionError):
        assert_same([among.rotations[:, 11:51]], [alone.rotations], 1e-5)
