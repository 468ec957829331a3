"""Keypoint files as detectors write them: whose frame it is, who is nobody, who is who, and what a number is."""

import itertools
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from people import assert_same_people, clip, person

import kinlmr
from kinlmr.body.points import keypoint_sets
from kinlmr.keypoints import convert
from kinlmr.video import readers

SIZE = (200.0, 100.0)


def openpose(folder, people):
    folder.mkdir(exist_ok=True)
    for frame in range(people.shape[1]):
        rows = people[:: 1 if frame % 2 else -1, frame]  # in any order
        text = json.dumps({"people": [{"pose_keypoints_2d": row.ravel().tolist()} for row in rows]})
        (folder / f"clip_{frame:012d}_keypoints.json").write_text(text)
    return folder


def coco(path, people, first=0):
    entries = [
        {"image_id": f"{frame + first}.jpg", "category_id": 1, "keypoints": row.ravel().tolist(), "score": 1.0}
        for frame in range(people.shape[1])
        for row in people[:: 1 if frame % 2 else -1, frame]
    ]
    path.write_text(json.dumps(entries))
    return path


def mediapipe(path, people, names=None):
    def mark(k, point):
        x, y, sure = point
        return {"x": x / SIZE[0], "y": y / SIZE[1], "visibility": sure} | ({"name": names[k]} if names else {})

    frames = [[[mark(k, p) for k, p in enumerate(row.tolist())] for row in frame] for frame in people.swapaxes(0, 1)]
    path.write_text(json.dumps({"frames": [{"landmarks": frame} for frame in frames]}))
    return path


def test_every_format_gives_the_same_people(tmp_path):
    body, wide = clip(25), clip(33)
    expected = convert(body, "body25", "coco17").numpy()
    assert_same_people(readers.read(openpose(tmp_path / "op", body), SIZE).keypoints, expected)
    expected = convert(wide, "mediapipe33", "coco17").numpy()
    assert_same_people(readers.read(mediapipe(tmp_path / "mp.json", wide), SIZE).keypoints, expected)
    for count in (17, 26, 133, 136):
        people = clip(count)
        for first in (0, 1):  # the video has 8 frames
            found = readers.read(coco(tmp_path / "coco.json", people, first), SIZE, frames=8)
            assert_same_people(found.keypoints, people[:, :, :17])
        assert_same_people(readers.read(openpose(tmp_path / "op", people), SIZE).keypoints, people[:, :, :17])
    np.savez(tmp_path / "a.npz", keypoints=clip(17), set="coco17", size=SIZE)
    found = readers.read(tmp_path / "a.npz", SIZE)
    np.testing.assert_allclose(found.keypoints, clip(17), rtol=1e-6)
    assert found.size == SIZE
    with pytest.raises(AssertionError):  # the law can fail
        assert_same_people(clip(17)[:, ::-1], clip(17))


def test_openposes_18_points_are_cocos(tmp_path):
    named = "nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist right_hip right_knee"
    named += " right_ankle left_hip left_knee left_ankle right_eye left_eye right_ear left_ear"
    assert tuple(named.split()[k] for k in readers.COCO18) == keypoint_sets()["coco17"]
    people = clip(18)
    found = readers.read(openpose(tmp_path / "op", people), SIZE)
    assert_same_people(found.keypoints, people[:, :, list(readers.COCO18)])


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        ('{"shapes": [], "flags": 1}', "an object with shapes, flags"),
        ("[1, 2]", "a list of 2, first int '1'"),
        ('[{"id": 3}]', "a list of 1, first an object with id"),
        ("[[", "not JSON"),
        ("[]", "a list of 0"),
        ('[{"image_id": 1}]', "entry 0"),
        ('[{"image_id": "a", "keypoints": []}]', "entry 0"),
        ('[{"image_id": 0, "keypoints": [1, 2, 3]}]', "1 points a person; known are 17"),
        ('[{"image_id": 397133, "keypoints": [1, 2, 3]}]', "pictures up to number 397133"),
    ],
)
def test_what_is_no_keypoint_file_is_refused_with_what_was_seen(tmp_path, content, seen):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="x.json") as error:
        readers.read(path, SIZE)
    assert seen in str(error.value)


def test_names_that_do_not_match_are_listed(tmp_path):
    names = list(keypoint_sets()["mediapipe33"])
    plain = [name.replace("_", " ").upper() for name in names]
    found = readers.read(mediapipe(tmp_path / "a.json", clip(33), plain), SIZE)
    assert found.keypoints.shape == (2, 8, 17, 3)
    names[3], names[5] = "tail", "paw"
    with pytest.raises(ValueError, match=r"tail \(.*paw \("):
        readers.read(mediapipe(tmp_path / "a.json", clip(33), names), SIZE)


def test_names_of_an_npz_that_do_not_match_are_listed(tmp_path):
    names = list(keypoint_sets()["coco17"])
    names[4], names[9] = "tail", "paw"
    np.savez(tmp_path / "a.npz", keypoints=clip(17), names=names)
    with pytest.raises(
        ValueError, match=r"a.npz: its 17 names .* coco17, 17; .* tail \(right_ear\), paw \(left_wrist\)"
    ):
        readers.read(tmp_path / "a.npz", SIZE)


def test_people_of_a_file_who_cross_keep_their_rows(tmp_path):
    """As OpenPose writes them: in no order, and for a few frames only the one in front."""
    one = np.stack([person(25, (10 + 5 * t, 10)) for t in range(40)])
    two = np.stack([person(25, (210 - 5 * t, 12)) for t in range(40)])
    hidden = np.abs(np.arange(40) - 20) < 4
    two[hidden] = 0
    folder = openpose(tmp_path / "op", np.stack([one, two]))
    found = readers.read(folder, SIZE, "coco17", fps=25)
    expected = convert(np.stack([one, two]), "body25", "coco17").numpy()
    assert_same_people(found.keypoints, expected)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.permutations(range(3)), min_size=6, max_size=20), st.data())
def test_people_keep_their_rows_however_detections_are_ordered(orders, data):
    steps = data.draw(st.lists(st.integers(-5, 5), min_size=len(orders), max_size=len(orders)))
    way = np.cumsum(steps)
    truth = np.stack([[person(17, (100 * p + x, 10)) for x in way] for p in range(3)])
    found = readers.follow([[truth[p, k] for p in order] for k, order in enumerate(orders)])
    assert_same_people(found, truth)


def test_a_person_who_leaves_for_a_moment_returns_to_the_row_and_a_glimpse_is_nobody():
    people = clip(17, 40)
    frames = [[people[0, k], people[1, k]] if k < 10 or k > 11 else [people[0, k]] for k in range(20)]
    frames[3] = [*frames[3], person(17, (400, 300))]
    found = readers.follow(frames)
    assert found.shape[:2] == (2, 20)
    assert (found[1, 10:12] == 0).all()
    gone = [[people[0, k]] if k < 5 or k > 36 else [] for k in range(42 - 2)]
    assert len(readers.follow([*gone, *[[people[0, 0]]] * 5])) == 2  # away for too long: somebody new


# --------------------------------------------------------------------------------------------------------- whose frame

BODY = np.array(
    [[0, -80], [5, -85], [-5, -85], [10, -80], [-10, -80], [25, -50], [-25, -50], [35, -20], [-35, -20], [40, 10],
     [-40, 10], [15, 20], [-15, 20], [18, 70], [-18, 70], [20, 120], [-20, 120]], float
)  # fmt: skip
PICTURE = (1280.0, 720.0)


def standing(x, sure=0.9):
    """COCO's points (17, 3) of somebody whose nose is at x."""
    return np.column_stack([BODY + np.array([x, 300]), np.full(17, sure)])


def marks(x):
    """MediaPipe's landmarks of the same, in shares of the picture."""
    points = convert(standing(x)[None], "coco17", "mediapipe33")[0].tolist()
    return [{"x": a / PICTURE[0], "y": b / PICTURE[1], "z": 0.1, "visibility": c} for a, b, c in points]


def way(t):
    return 300 + 2 * t


def noses(found, person=0):
    """x of somebody's nose in every frame, None where not seen."""
    return [round(float(frame[0, 0])) if frame[0, 2] > 0 else None for frame in found.keypoints[person]]


def expected(seen, frames):
    return [way(t) if t in seen else None for t in range(frames)]


def instance(x, scores=None):
    """As MMPose writes somebody."""
    points = standing(x)
    return {"keypoints": points[:, :2].tolist(), "keypoint_scores": scores or points[:, 2].tolist(), "bbox": [[0, 0]]}


def result(x, **more):
    """As Ultralytics writes somebody."""
    a, b, c = standing(x).T.tolist()
    return {"name": "person", "class": 0, "box": {"x1": 0.0}, "keypoints": {"x": a, "y": b, "visible": c}, **more}


def label(x, more=""):
    """As Ultralytics writes somebody in a file of labels."""
    points = standing(x) / [*PICTURE, 1]
    return "0 0.5 0.5 0.1 0.4 " + " ".join(f"{value:.6f}" for value in points.ravel()) + more + "\n"


def read(tmp_path, content, *, name="a.json", **options):
    """What `readers.read` makes of a JSON, or of a folder of them by name."""
    if isinstance(content, dict) and name == "folder":
        folder = tmp_path / f"folder{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for file, one in content.items():
            (folder / file).write_text(one if isinstance(one, str) else json.dumps(one))
        return readers.read(folder, PICTURE, **options)
    (tmp_path / name).write_text(json.dumps(content))
    return readers.read(tmp_path / name, PICTURE, **options)


NAMES = (
    "clip_{:012d}_keypoints.json", "{:06d}.json", "cam2_{}.json", "clip_1080p_{:04d}.json", "{}_1080p.json",
    "video30fps_{}.json", "VID_20240501_123456_{:06d}.json", "2024-05-01_take3_{}.json", "1920x1080-{:05d}.json",
)  # fmt: skip


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(NAMES), st.integers(0, 1), st.integers(0, 3), st.sampled_from("fpm"))
def test_a_folder_counts_from_its_first_file_whoever_is_in_it(name, first, begin, kind):
    """In frames without anybody are no people, a person of NaN, or nothing."""
    nobody = {"f": {"people": []}, "p": {"people": [{"pose_keypoints_2d": [float("nan")] * 51}]}, "m": {}}[kind]
    people = lambda t: {"people": [{"person_id": [-1], "pose_keypoints_2d": standing(way(t)).ravel().tolist()}]}  # noqa: E731
    seen = {*range(begin, 10)} - {6, 7}
    files = {name.format(t + first): people(t) if t in seen else nobody for t in range(10)}
    with tempfile.TemporaryDirectory() as folder:
        found = read(Path(folder), files, name="folder")
    assert noses(found) == expected(seen, 10)
    assert found.notes == ()


def listed(kind, seen, first):
    """A list of those frames with somebody, or all, of which each says its number."""
    flat = lambda t: standing(way(t)).ravel().tolist()  # noqa: E731
    if kind == "AlphaPose":
        return [{"image_id": f"{t + first}.jpg", "keypoints": flat(t)} for t in sorted(seen)]
    if kind == "COCO":
        return [{"image_id": t + first, "category_id": 1, "keypoints": flat(t), "score": 1.0} for t in sorted(seen)]
    return [{kind: t + first, "landmarks": marks(way(t))} for t in sorted(seen)]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize(
    "kind", ["AlphaPose", "COCO", "frame", "frame_number", "frameIndex", "frame_id", "frame_idx", "Frame No", "index"]
)
def test_a_list_of_frames_with_people_counts_from_0_or_1_as_the_video_says_or_tells_what_it_assumed(
    tmp_path, kind, first
):
    seen = {*range(2, 14)} - {6, 7}
    found = read(tmp_path, listed(kind, seen, first), frames=14)
    if first:
        assert noses(found) == expected(seen, 14)  # number 14 is none of 0 to 13
        assert found.notes == ()
    found = read(tmp_path, listed(kind, seen, first))
    assert noses(found) == [None] * first + expected(seen, 14)
    assert f"number {2 + first}" in found.notes[0]
    found = read(tmp_path, listed(kind, {0, 1, *seen}, 0))
    assert noses(found) == expected({0, 1, *seen}, 14)
    assert found.notes == ()


def test_alphaposes_pictures_and_an_index_count_from_0(tmp_path):
    seen = range(1, 10)
    for kind, base in (("AlphaPose", 0), ("frame_index", 0), ("frame", 1), ("COCO", 1)):
        found = read(tmp_path, listed(kind, seen, 0))
        assert noses(found) == expected(seen, 10)[base:]
        assert f"counted from {base}" in found.notes[0]


def test_frames_that_go_beyond_the_video_are_told(tmp_path):
    assert "the video has 9" in read(tmp_path, listed("COCO", range(14), 0), frames=9).notes[0]
    files = {f"clip_{t + 100}.json": [result(way(t))] if t else [] for t in range(8)}
    found = read(tmp_path, files, name="folder", frames=8)  # a cut of a longer video
    assert noses(found) == expected(range(1, 8), 8)
    assert "100 to 107" in found.notes[0]


SEVERAL = {
    "names": ["walk_a_{}", "walk_b_{}"], "numbers": ["clip1_{}", "clip2_{}"], "cameras": ["cam{}", "cam1{}"],
    "dates": ["2024-05-01_{}", "2024-05-02_{}"], "sizes": ["{}_1080p", "{}_720p"], "lengths": ["a{}", "a{}_{}"],
}  # fmt: skip


@pytest.mark.parametrize("names", SEVERAL.values(), ids=SEVERAL)
@pytest.mark.parametrize("apart", [0, 12])
def test_several_videos_in_one_are_refused_by_name(tmp_path, names, apart):
    """Also where their frames have different numbers."""
    one = {name.format(t + apart * v, t): [result(way(t))] for v, name in enumerate(names) for t in range(12)}
    for content, form in (
        ({f"{name}.json": people for name, people in one.items()}, "folder"),
        ([{"image_id": f"{name}.jpg", **people[0]} for name, people in one.items()], "a.json"),
    ):
        with pytest.raises(ValueError, match="several videos"):
            read(tmp_path, content, name=form)


def test_videos_that_are_named_beside_the_frames_are_refused_too(tmp_path):
    with pytest.raises(ValueError, match="several videos, a, b"):
        read(tmp_path, [{"frame": t, "video": video, "landmarks": marks(way(t))} for t in range(9) for video in "ab"])


@pytest.mark.parametrize("name", ["clip_1080p.mp4", "video30fps", "_cam2", "2024-05-01", "1920x1080", "walk"])
def test_a_number_that_is_no_frames_is_not_taken_for_one(tmp_path, name):
    people = [{"image_id": name, "keypoints": standing(way(t)).ravel().tolist()} for t in range(9)]
    with pytest.raises(ValueError, match="entry 0: .* has no frame number"):
        read(tmp_path, people)
    found = read(tmp_path, [{**one, "frame_number": t} for t, one in enumerate(people)])
    assert noses(found) == expected(range(9), 9)


def test_people_of_a_list_without_frame_numbers_are_refused_and_a_whole_video_in_a_folder(tmp_path):
    with pytest.raises(ValueError, match="entry 0 has no people, or no frame number"):
        read(tmp_path, [result(way(t)) for t in range(9)])
    with pytest.raises(ValueError, match=r"a\.json is of a whole video, .*give that file by itself"):
        read(tmp_path, {"a.json": listed("COCO", range(9), 0)}, name="folder")
    each = {f"{t}.json": listed("COCO", [t], 0) for t in range(9)}
    assert noses(read(tmp_path, each, name="folder")) == expected(range(9), 9)
    found = read(tmp_path, [{"time": t + 5 * (t > 3), "landmarks": marks(way(t))} for t in range(9)])
    assert "times go from 3 to 9" in found.notes[0]


# ---------------------------------------------------------------------------------------------- nobody, and who is who

NOBODY = [None, {}, [], [{}], [None], {"people": []}, {"people": None}, {"landmarks": []}, {"pose_landmarks": None},
          {"pose_landmarks": [[]]}, "[]", [{"box": {}, "name": "person"}],
          {"instances": [{"keypoints": [[None, None]] * 17, "keypoint_scores": [None] * 17}]},
          [{"keypoints": {"x": [float("nan")] * 17, "y": [0] * 17, "visible": [0.9] * 17}}]]  # fmt: skip


@pytest.mark.parametrize("nobody", NOBODY, ids=json.dumps)
def test_nobody_is_nobody(tmp_path, nobody):
    for somebody in (
        lambda t: {"people": [instance(way(t))]}, lambda t: [result(way(t))], lambda t: json.dumps([result(way(t))])
    ):  # fmt: skip
        frames = [nobody if t in (0, 4, 5) else somebody(t) for t in range(12)]
        assert noses(read(tmp_path, frames)) == expected({*range(12)} - {0, 4, 5}, 12)
    with pytest.raises(ValueError, match=r"a.json: .*without a person"):
        read(tmp_path, [nobody] * 9)


def test_nan_is_nobody_in_arrays_too(tmp_path):
    rows = np.stack([standing(way(t)) for t in range(12)])
    rows[[2, 3]] = np.nan
    rows[5, 9, 2] = np.nan
    rows[6, 8, :2] = np.nan
    np.save(tmp_path / "a.npy", rows)
    np.savez(tmp_path / "a.npz", keypoints=rows)
    for name in ("a.npy", "a.npz"):
        found = readers.read(tmp_path / name)
        assert noses(found) == expected({*range(12)} - {2, 3}, 12)
        assert not found.keypoints[0, [5, 6], [9, 8]].any()
    rows[7, 1, 0] = np.inf
    np.save(tmp_path / "a.npy", rows)
    with pytest.raises(ValueError, match="point 1 of person 0 in frame 7 is .*not finite"):
        readers.read(tmp_path / "a.npy")


def turning(t):
    """Two who meet, are hidden from 16 to 22, and turn back: x of the first."""
    return 300 + 10 * t if t < 16 else 450 - 10 * (t - 23)


def met(key, value):
    """Those two, with ids under a key."""
    return [{"image_id": t, "keypoints": standing(x).ravel().tolist(), key: value(who)}
            for t in [*range(16), *range(23, 39)] for who, x in ((1, turning(t)), (2, 900 - turning(t)))]  # fmt: skip


@pytest.mark.parametrize("key", ["idx", "track_id", "person_id", "instance_id", "trackId", "tracking_id", "id"])
@pytest.mark.parametrize("value", [int, float, str, lambda who: [who]], ids=["int", "float", "str", "list"])
def test_ids_of_a_tracker_make_the_rows(tmp_path, key, value):
    found = read(tmp_path, met(key, value))
    assert [noses(found, p)[-1] for p in (0, 1)] == [turning(38), 900 - turning(38)]


def test_ids_that_do_not_say_who_is_who_are_not_used(tmp_path):
    by_motion = read(tmp_path, met("none", int)).keypoints
    count = itertools.count()
    for value, why in (
        (lambda who: 7, None), (lambda who: [-1], None), (lambda who: [1, 2], None), (lambda who: None, None),
        (lambda who: next(count), "nearly all differ"), (lambda who: who if who == 1 else None, None),
    ):  # fmt: skip
        found = read(tmp_path, met("person_id", value))
        np.testing.assert_array_equal(found.keypoints, by_motion)
        assert [note for note in found.notes if "ids" in note] == ([] if why is None else [found.notes[-1]])
        assert why is None or why in found.notes[-1]
    some = met("idx", int)
    del some[5]["idx"]
    assert "some have none" in read(tmp_path, some).notes[-1]
    assert "two of a frame have the same" in read(tmp_path, [*met("idx", int), met("idx", int)[0]]).notes[-1]


def test_one_second_of_patience_is_in_the_files_own_frames(tmp_path):
    frames = [[] if 60 <= t < 105 else [result(300 + 0.5 * t)] for t in range(160)]
    assert [len(read(tmp_path, frames, fps=fps).keypoints) for fps in (30, 60, 240)] == [2, 1, 1]


# -------------------------------------------------------------------------------------------------- what a number is


@pytest.mark.parametrize(
    "key",
    ["visibility", "presence", "score", "confidence", "inFrameLikelihood", "vis", "likelihood", "conf", "visible"],
)
def test_a_confidence_has_many_names(tmp_path, key):
    frames = [[{"x": m["x"], "y": m["y"], "z": 5.0, key: 0.01 + 0.02 * k} for k, m in enumerate(marks(way(t)))]
              for t in range(6)]  # fmt: skip
    found = read(tmp_path, frames, target="mediapipe33")
    np.testing.assert_allclose(found.keypoints[0, 3, :, 2], 0.01 + 0.02 * np.arange(33), rtol=1e-5)


@given(st.lists(st.floats(0, 1, width=16), min_size=17, max_size=17), st.sampled_from([1, 1.3, 10, 100]))
def test_confidences_keep_their_order_and_come_into_0_to_1(scores, scale):
    given = np.column_stack([BODY, scale * np.array(scores)]).astype(np.float32)
    found = readers.points.cleaned(given, str)
    np.testing.assert_allclose(found[:, 2], given[:, 2] / max(1, given[:, 2].max()), rtol=1e-6)
    assert ((found[:, 2] > 0) == (given[:, 2] > 0)).all()


SPACE = {
    "millimetres": np.array([0, 0, 900]) + 1000 * np.random.default_rng(0).normal(size=(33, 3)) * [0.2, 0.1, 0.4],
    "metres about the hips": np.random.default_rng(0).normal(size=(33, 3)) * 0.4,
    "metres before a camera": np.random.default_rng(0).uniform(size=(33, 3)) * [1, 2, 1] + [0, 0, 3],
    "root-relative millimetres": 1000 * np.random.default_rng(0).normal(size=(33, 3)) * 0.4,
    "with confidences": np.c_[np.random.default_rng(0).normal(size=(33, 2)) * 400, np.full(33, 0.9)],
    "landmarks with a z": np.random.default_rng(0).uniform(size=(33, 3)) * [1, 1, 0.4] - [0, 0, 0.2],
}


@pytest.mark.parametrize("points", SPACE.values(), ids=SPACE)
def test_points_in_space_are_refused(tmp_path, points):
    rows = np.tile(points, (30, 1, 1))
    np.save(tmp_path / "a.npy", rows)
    np.savez(tmp_path / "a.npz", keypoints=rows)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(ValueError, match=rf"{name}: .* points in space"):
            readers.read(tmp_path / name)
    with pytest.raises(ValueError, match=r"a.json: .* points in space"):
        read(tmp_path, [{"image_id": t, "keypoints": row.ravel().tolist()} for t, row in enumerate(rows)])


def test_world_landmarks_are_refused_and_those_of_the_picture_beside_them_are_read(tmp_path):
    body = convert(standing(0)[None], "coco17", "mediapipe33")[0, :, :2]
    world = [{"x": x, "y": y, "z": 0.1, "visibility": 0.9} for x, y in ((body - body[23:25].mean(0)) / 120).tolist()]
    for frames in ([world] * 9, [{"pose_world_landmarks": world}] * 9, [{"worldLandmarks": [world]}] * 9):
        with pytest.raises(ValueError, match="world landmarks"):
            read(tmp_path, frames)
    for one in ({"pose_landmarks": marks(400)}, {"poseLandmarks": marks(400)}, {"landmarks": [marks(400)]}):
        assert noses(read(tmp_path, [{"poseWorldLandmarks": world, **one}] * 9)) == [400] * 9


def test_mmposes_points_in_space_are_refused(tmp_path):
    one = {"keypoints": np.c_[BODY, BODY[:, 0]].tolist(), "keypoint_scores": [0.9] * 17}
    with pytest.raises(ValueError, match="three numbers, and confidences beside them.*points in space"):
        read(tmp_path, {"instance_info": [{"frame_id": t, "instances": [one]} for t in range(9)]})


def test_shares_of_the_picture_need_its_size(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([marks(400)] * 9))
    with pytest.raises(ValueError, match="a.json: MediaPipe landmarks are shares of the picture; give its size"):
        readers.read(tmp_path / "a.json")


# ---------------------------------------------------------------------------------------------------- sets and names

MEDIAPIPE = ["MOUTH_LEFT" if name == "left_mouth" else "MOUTH_RIGHT" if name == "right_mouth" else name.upper()
             for name in keypoint_sets()["mediapipe33"]]  # fmt: skip
H36M = ["root", "right_hip", "right_knee", "right_foot", "left_hip", "left_knee", "left_foot", "spine", "thorax",
        "neck_base", "head", "left_shoulder", "left_elbow", "left_wrist", "right_shoulder", "right_elbow",
        "right_wrist"]  # fmt: skip


@pytest.mark.parametrize("spelled", [str, str.lower, lambda name: name.title().replace("_", "")])
def test_mediapipes_own_names_are_known(tmp_path, spelled):
    frames = [[{**mark, "name": spelled(name)} for mark, name in zip(marks(way(t)), MEDIAPIPE, strict=True)]
              for t in range(6)]  # fmt: skip
    assert noses(read(tmp_path, frames)) == expected(range(6), 6)
    by_name = [{"frame": t, "landmarks": dict(zip(map(spelled, MEDIAPIPE), marks(way(t)), strict=True))}
               for t in range(6)]  # fmt: skip
    assert noses(read(tmp_path, by_name)) == expected(range(6), 6)


def seen_as(name):
    """People (1, T, K, 3) of a body that turns around and bends, as points of a set, in pixels."""
    body = kinlmr.load_body("anny24_lo369", keypoints="coco17" if name == "body25b" else name)
    axis = torch.zeros(24, len(body.joints), 3)
    axis[:, 0] = torch.tensor([0.0, 1, 0]) * torch.linspace(0, 6, 24)[:, None]
    axis[:, 1:] = 0.3 * torch.randn(24, len(body.joints) - 1, 3, generator=torch.Generator().manual_seed(0))
    turns = kinlmr.rotations.axis_angle_to_matrix(axis)
    points = body(turns, torch.zeros(24, body.shape_width), want=("keypoints",)).keypoints[..., :2].numpy()
    x = np.concatenate([points * [200, -200] + [500, 300], np.ones((*points.shape[:2], 1))], -1)[None]
    return np.concatenate([x, np.repeat(x[:, :, :1], 8, 2)], 2) if name == "body25b" else x


@pytest.mark.parametrize(("name", "usual"), [("h36m17", "coco17"), ("body25b", "body25")])
def test_sets_of_as_many_points_are_told_apart_by_name_or_by_the_body_and_warned_of(tmp_path, name, usual):
    np.save(tmp_path / "usual.npy", seen_as(usual))
    np.save(tmp_path / "a.npy", seen_as(name))
    assert readers.read(tmp_path / "usual.npy").notes == ()
    (note,) = readers.read(tmp_path / "a.npy").notes
    assert f"look like {name}" in note
    found = readers.read(tmp_path / "a.npy", source=name.upper())
    assert found.notes == ()
    shoulders = found.keypoints[0, :, 5:7]
    truth = convert(seen_as(name), name, "coco17").numpy() if name == "h36m17" else seen_as(name)[:, :, :17]
    np.testing.assert_allclose(shoulders, truth[0, :, 5:7], rtol=1e-5)
    with pytest.raises(ValueError, match="the set 'mediapipe33' with .* points; there are"):
        readers.read(tmp_path / "a.npy", source="mediapipe33")


def test_names_in_a_file_decide_the_set(tmp_path):
    x = seen_as("h36m17")
    np.savez(tmp_path / "a.npz", keypoints=x, names=H36M)
    found = readers.read(tmp_path / "a.npz", target="h36m17")
    np.testing.assert_allclose(found.keypoints, x, rtol=1e-5)
    info = {"keypoint_id2name": {str(k): name for k, name in enumerate(H36M)}}
    frames = [{"frame_id": t, "instances": [{"keypoints": x[0, t, :, :2].tolist(), "keypoint_scores": [0.9] * 17}]}
              for t in range(24)]  # fmt: skip
    found = read(tmp_path, {"meta_info": info, "instance_info": frames}, target="h36m17")
    np.testing.assert_allclose(found.keypoints[0, ..., :2], x[0, ..., :2], rtol=1e-5)
    order = np.random.default_rng(0).permutation(17)
    names = np.array(keypoint_sets()["coco17"])[order]
    np.savez(tmp_path / "b.npz", keypoints=standing(300)[None, order], names=names)
    np.testing.assert_allclose(readers.read(tmp_path / "b.npz").keypoints[0, 0], standing(300), rtol=1e-6)


# ------------------------------------------------------------------------------------------------------------- formats


def test_mmposes_and_ultralytics_files_are_read(tmp_path):
    seen = {*range(12)} - {0, 5}
    there = lambda t, people: people if t in seen else []  # noqa: E731
    for first in (0, 1):
        frames = [{"frame_id": t + first, "instances": there(t, [instance(way(t))])} for t in range(12)]
        for content in (frames, {"meta_info": {}, "instance_info": frames}):
            found = read(tmp_path, content)
            assert noses(found) == expected(seen, 12)
            assert (found.format, found.notes) == ("MMPose JSON", ())
    frames = [there(t, [result(way(t), track_id=1)]) for t in range(12)]
    share = [there(t, [result(way(t))]) for t in range(12)]
    for columns in (one["keypoints"] for people in share for one in people):
        columns |= {"x": [x / PICTURE[0] for x in columns["x"]], "y": [y / PICTURE[1] for y in columns["y"]]}
    for content in (frames, [json.dumps(people) for people in frames], share):
        assert noses(read(tmp_path, content)) == expected(seen, 12)
    files = {f"clip_{t}.json": people for t, people in enumerate(frames)}
    assert noses(read(tmp_path, files, name="folder")) == expected(seen, 12)
    zero = result(way(0))
    zero["keypoints"]["x"][3] = zero["keypoints"]["y"][3] = 0.0
    assert not read(tmp_path, [[zero]] * 6).keypoints[0, :, 3].any()


def test_ultralytics_labels_count_from_1_and_keep_their_tracks(tmp_path):
    files = {f"clip_{t + 1}.txt": label(way(t), " 0.91 2") + label(900 - way(t), " 0.8 5") for t in range(2, 12)}
    found = read(tmp_path, files, name="folder", frames=12)
    assert [noses(found, p)[2] for p in (0, 1)] == [way(2), 900 - way(2)]
    assert noses(found)[:2] == [None] * 2
    assert "counted from 1" in read(tmp_path, files, name="folder").notes[0]
    with pytest.raises(ValueError, match=r"a_1.txt: line 1 has 3 numbers; expected are class"):
        read(tmp_path, {"a_1.txt": "0 1 2\n"}, name="folder")


def test_arrays_say_who_is_where(tmp_path):
    rows = np.stack([standing(way(t)) for t in range(12)]).astype(np.float16)
    for x in (rows, rows[None]):
        np.save(tmp_path / "a.npy", x)
        assert readers.read(tmp_path / "a.npy").keypoints.shape == (1, 12, 17, 3)
    np.save(tmp_path / "a.npy", np.repeat(rows[:, None], 30, 0))
    with pytest.raises(ValueError, match=r"360 people in 1 frames.*\(P, T, K, 3\)"):
        readers.read(tmp_path / "a.npy")


SPORTS2D = "Hip RHip RKnee RAnkle RBigToe LHip LKnee LAnkle LBigToe Neck Head Nose RShoulder RElbow RWrist LShoulder"
SPORTS2D = [*SPORTS2D.split(), "LElbow", "LWrist"]
WHERE = {"Hip": "mid_hip", "Head": "head_top"}


def trc(unit="px", scale=(1.0, 1.0), first=0, gaps=()):
    """As Sports2D writes somebody, with empty cells where nobody is."""
    points = convert(np.stack([standing(way(t)) for t in range(12)]), "coco17", "halpe26").numpy()
    sides = {"R": "right_", "L": "left_"}
    plain = [WHERE.get(m) or (m.lower() if m in ("Neck", "Nose") else sides[m[0]] + m[1:].lower()) for m in SPORTS2D]
    order = [keypoint_sets()["halpe26"].index(name.replace("bigtoe", "big_toe")) for name in plain]
    lines = ["PathFileType\t4\t(X/Y/Z)\ta.trc", "DataRate\tNumFrames\tNumMarkers\tUnits",
             f"30\t12\t{len(order)}\t{unit}", "Frame#\tTime\t" + "\t\t\t".join(SPORTS2D), "\t\tX1\tY1\tZ1"]  # fmt: skip
    for t, frame in enumerate(points[:, order]):
        cells = ["" if t in gaps else f"{v:.6g}" for p in frame for v in (*(p[:2] * scale), 0.0)]
        lines.append("\t".join([str(t + first), f"{t / 30:.3f}", *cells]))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("unit", ["px", "m"])
def test_sports2ds_pixels_are_read_and_its_metres_refused(tmp_path, unit, first):
    (tmp_path / "a.trc").write_text(trc(unit, first=first, gaps=(0, 4)))
    found = readers.read(tmp_path / "a.trc", target="halpe26")
    assert noses(found) == expected({*range(12)} - {0, 4}, 12)
    assert not found.keypoints[..., 1:5, 2].any()  # it has no eyes and no ears
    for scale, unit in (((0.005, -0.005), "m"), ((0.005, 0.005), "m"), ((5, 5), "mm"), ((1, -1), "px")):
        (tmp_path / "a.trc").write_text(trc(unit, scale, first))
        with pytest.raises(ValueError, match=r"a.trc: its markers look like points in space"):
            readers.read(tmp_path / "a.trc")
