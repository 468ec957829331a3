"""examples/video.py: videos in and out, people from frame to frame, the whole on a few frames."""

import contextlib
import itertools
import json
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import assert_same
from test_readers import assert_same_people, clip, person

import kinlmr
from kinlmr.checkpoint import shipped
from kinlmr.keypoints import convert

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples"))
from kinlmr.video import readers

# --------------------------------------------------------------------------------------------------------------- videos


@pytest.fixture(scope="module")
def frames():
    pytest.importorskip("av")
    import frames

    return frames


def shots(frames, times, number=None):
    picture = np.zeros((4, 4, 3), np.uint8)
    return [frames.Shot(k, t, picture + k, np.array([[[10 * t, 0, 1.0]]])) for k, t in enumerate(times)]


def assert_steady(frames, times, fps):
    """Keypoints that move evenly do so at the constant rate, whatever the times of the frames; nothing is left out."""
    ticks = list(frames.steady(shots(frames, times), fps))
    expected = times[0] + np.arange(len(ticks)) / fps
    assert abs(len(ticks) - 1 - (times[-1] - times[0]) * fps) <= 1
    np.testing.assert_allclose([t.keypoints[0, 0, 0] / 10 for t in ticks], expected, atol=frames.NEAR / fps * 1.01)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.005, 0.5), min_size=2, max_size=30), st.sampled_from([15.0, 29.97, 60.0]))
def test_variable_rates_become_constant_by_time(frames, gaps, fps):
    assert_steady(frames, np.cumsum(gaps), fps)


class Counting:
    """Frames are counted, and their times not looked at."""

    NEAR, Shot = 0.05, staticmethod(lambda *parts: SimpleNamespace(keypoints=parts[3]))
    steady = staticmethod(lambda shots, fps: list(shots))


def test_between_two_frames_a_newcomer_has_a_row(frames):
    one = person(17, (0, 0))
    found = frames.between(one[None], np.stack([one, one + 1]), 0.5)
    np.testing.assert_allclose(found, [one, (one + 1) * [1, 1, 0.5]], rtol=1e-6)


def test_a_constant_rate_stays_as_it_is_and_the_law_can_fail(frames):
    given = shots(frames, np.arange(20) / 30)
    assert [t.number for t in frames.steady(given, 30.0)] == list(range(20))
    with pytest.raises(AssertionError):
        assert_steady(Counting(), np.cumsum([0.1, 0.01] * 5), 30.0)


def video_file(frames, path, count=12):
    """A clip whose upper left quarter is white, and rotated files of it."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32] = 255
    with frames.Writer(path, 30.0) as writer:
        for _ in range(count):
            writer.add(picture)
    return path


def test_a_rotated_phone_video_comes_upright(frames, tmp_path):
    path = video_file(frames, tmp_path / "a.mp4")
    plain = frames.open_video(path, None, 1280)
    assert (plain.size, plain.source_size, plain.fps) == ((64, 48), (64, 48), 30)
    assert len(list(plain.shots)) == 12
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: the matrix (ISO 14496-12, 8.3.2)
    turn = np.array([0, 0x10000, 0, -0x10000, 0, 0, 48 << 16, 0, 0x40000000], ">i4")  # 90 degrees clockwise
    data[at : at + 36] = turn.tobytes()
    path.write_bytes(data)
    turned = frames.open_video(path, None, 1280)
    picture = next(turned.shots).picture
    assert (turned.size, turned.source_size) == ((48, 64), (48, 64))
    assert picture[:24, 32:].mean() > 200  # the white quarter is at the upper right
    assert picture[40:, :].mean() < 50


def test_a_broken_file_is_used_as_far_as_it_goes_or_refused(frames, tmp_path, capsys):
    data = (ROOT / "examples/data/demo.mp4").read_bytes()
    path = tmp_path / "short.mp4"
    path.write_bytes(data[: len(data) // 2])
    read = list(frames.open_video(path, None, 320).shots)
    assert 20 < len(read) < 170
    assert read[0].picture.shape == (180, 320, 3)
    assert "short.mp4" in capsys.readouterr().out
    for content in (b"", b"no video at all" * 100, data[:200]):
        path.write_bytes(content)
        with pytest.raises(SystemExit, match="short.mp4"):
            frames.open_video(path, None, 320)
    with pytest.raises(SystemExit, match="no such file"):
        frames.open_video(tmp_path / "none.mp4", None, 320)


def test_a_broken_frame_in_the_middle_is_left_out_and_the_others_keep_their_numbers(frames, tmp_path, capsys):
    data = bytearray((ROOT / "examples/data/demo.mp4").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    (tmp_path / "broken.mp4").write_bytes(data)
    read = list(frames.open_video(tmp_path / "broken.mp4", None, 320).shots)
    whole = list(frames.open_video(ROOT / "examples/data/demo.mp4", None, 320).shots)
    assert "broken.mp4: 4 damaged packets were left out" in capsys.readouterr().out
    assert len(read) == len(whole) - 4
    assert read[-1].number == whole[-1].number  # so keypoints of a file go on with their frames
    assert read[-1].time == pytest.approx(whole[-1].time)
    ticks = list(frames.steady(read, 30.0))  # the gap is filled with the nearest pictures
    assert len(ticks) == len(whole)


def squeezed(frames, path, aspect, rate=30, size=(320, 240)):
    """A clip with a square of 120 pixels in the middle, as it looks, stored with pixels of another width."""
    with frames.av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        picture = np.zeros((size[1], size[0], 3), np.uint8)
        half = round(60 / float(aspect))
        picture[size[1] // 2 - 60 : size[1] // 2 + 60, size[0] // 2 - half : size[0] // 2 + half] = 255
        for _ in range(12):
            container.mux(stream.encode(frames.av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("aspect", [Fraction(4, 3), Fraction(16, 11), Fraction(1, 2), Fraction(1, 1)])
def test_pixels_are_square_for_detectors_keypoints_and_pictures(video, frames, tmp_path, aspect, monkeypatch):
    """What a detector sees, what it finds, a file of keypoints, and the overlay lie over one another."""
    path = squeezed(frames, tmp_path / "a.mp4", aspect)
    wide = round(320 * aspect)
    opened = frames.open_video(path, None, 1280)
    assert opened.stored_size == (320, 240)
    assert opened.source_size == pytest.approx((wide, 240), abs=0.5)
    picture = next(opened.shots).picture
    assert picture.shape[:2] == pytest.approx((240, wide), abs=1)
    assert np.ptp(np.argwhere(picture[..., 0] > 128), 0) == pytest.approx([119, 119], abs=3)

    body = person(17, (wide / 2 - 15, 80))  # in square pixels
    monkeypatch.setattr(video, "find_detector", lambda name, people: lambda picture: body)
    video.main([str(path), "--out", str(tmp_path / "seen")])
    stored = [{"image_id": t, "keypoints": (body / [float(aspect), 1, 1]).ravel().tolist()} for t in range(12)]
    (tmp_path / "a.json").write_text(json.dumps(stored))
    video.main([str(path), "--keypoints", str(tmp_path / "a.json"), "--out", str(tmp_path / "read")])
    one, two = (np.load(tmp_path / name / "recovery.npz") for name in ("seen", "read"))
    np.testing.assert_allclose(one["keypoints"], two["keypoints"], atol=0.5)
    np.testing.assert_allclose(one["size"], opened.source_size)


@pytest.mark.parametrize("rate", [Fraction(1, 2), 12, 240, 480])
def test_any_rate_of_a_video_is_its_keypoints_rate(frames, tmp_path, rate):
    opened = frames.open_video(squeezed(frames, tmp_path / "a.mp4", Fraction(1), rate), None, 1280)
    assert opened.rate == float(rate)
    assert opened.fps == (float(rate) if rate >= 1 else 30)


class Unplugged:
    """A container that ends as a camera does that is pulled out."""

    def __init__(self, container, packets):
        self.container, self.packets, self.streams = container, packets, container.streams

    def demux(self, stream):
        yield from itertools.islice(self.container.demux(stream), self.packets)
        raise OSError(19, "No such device")

    def close(self):
        self.container.close()


def test_a_camera_that_vanishes_ends_the_video_and_the_files_are_whole(video, frames, tmp_path, monkeypatch, capsys):
    usual = frames.av.open
    demo = str(ROOT / "examples/data/demo.mp4")
    camera = lambda name, *mode, **options: (  # noqa: E731
        usual(name, *mode, **options) if mode else Unplugged(usual(demo), 12)
    )
    monkeypatch.setattr(frames.av, "open", camera)
    monkeypatch.setattr(video, "find_detector", lambda name, people: lambda picture: person(17, (100, 100)))
    video.main(["--camera", "0", "--out", str(tmp_path)])
    out = capsys.readouterr().out
    assert "camera 0 broke off after" in out
    assert "No such device" in out
    monkeypatch.undo()
    count = len(list(frames.open_video(tmp_path / "overlay.mp4", None, 320).shots))
    assert 5 < count < 13
    assert np.load(tmp_path / "recovery.npz")["rotations"].shape[:2] == (1, count)


@contextlib.contextmanager
def disk(size):
    """Files may grow to so many bytes and no more, as on a full disk; ends before pytest writes of itself."""
    resource = pytest.importorskip("resource")
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


@pytest.mark.parametrize("size", [10, 20_000, 100_000])
def test_a_full_disk_leaves_no_piece_of_a_video(frames, tmp_path, size):
    noise = np.random.default_rng(0).integers(0, 255, (60, 120, 160, 3)).astype(np.uint8)

    def write():
        with frames.Writer(tmp_path / "a.mp4", 30.0) as writer:
            for picture in noise:
                writer.add(picture)

    with disk(size), pytest.raises(OSError, match="a.mp4: could not be written .*is the disk full"):
        write()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_whole_files_only(video, tmp_path):
    """The overlay fits, the sheet after it does not."""
    with disk(50_000), pytest.raises(OSError, match="could not be written, .*contact.png"):
        video.main(["--out", str(tmp_path), "--size", "160", "--seconds", "0.3"])
    assert [path.name for path in tmp_path.iterdir()] == ["overlay.mp4"]


def test_a_video_that_fails_leaves_nothing(frames, tmp_path):
    def fail():
        with frames.Writer(tmp_path / "a.mp4", 30.0) as writer:
            writer.add(np.zeros((48, 64, 3), np.uint8))
            raise KeyError("in the middle")

    with pytest.raises(KeyError):
        fail()
    assert not list(tmp_path.iterdir())


# -------------------------------------------------------------------------------------------------------------- it all


@pytest.fixture(scope="module")
def video(frames):
    if "anny24-coco17" not in shipped():
        pytest.skip("the model anny24-coco17 does not come with this checkout")
    import video

    return video


def test_the_clip_becomes_bodies(video, frames, tmp_path, capsys):
    video.main(["--out", str(tmp_path), "--seconds", "2.2"])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"overlay.mp4", "contact.png", "body.glb", "person1.bvh", "person2.bvh", "recovery.npz"}
    result = np.load(tmp_path / "recovery.npz")
    assert result["rotations"].shape == (2, 66, 24, 3, 3)
    known = np.isfinite(result["translation"]).all(-1)
    assert known[1].all()
    assert (known[0] == (np.arange(66) >= 56)).all()  # the woman comes at frame 56
    before = [s.picture for s in frames.open_video(ROOT / "examples/data/demo.mp4", None, 1280).shots][:66]
    after = [s.picture for s in frames.open_video(tmp_path / "overlay.mp4", None, 1280).shots]
    assert len(after) == 66
    changed = np.abs(after[60].astype(int) - before[60]).sum(2) > 60
    assert 0.005 < changed.mean() < 0.1
    for row in (0, 1):  # the body is drawn where the keypoints are
        x, y, sure = result["keypoints"][row, 60].T
        inside = [changed[int(b), int(a)] for a, b, s in zip(x, y, sure, strict=True) if s > 0.5]
        assert np.mean(inside) > 0.6
    assert tuple(result["joints"]) == kinlmr.load_body("anny24_lo1229").joints
    assert "66 frames, people: 2" in capsys.readouterr().out


def tiny():
    """A random model of a few numbers."""
    torch.manual_seed(0)
    body = "anny24_lo369"
    sizes = {"hidden": 4, "shape_hidden": 4, "iterations": 1}
    return kinlmr.build("smpl_single.yaml", keypoints="coco17", body=body, **sizes).eval()


def crowded(video, model, points, fps, sizes):
    """What a crowd makes of keypoints (P, T, K, 3) in chunks of these sizes, and which frames show whom (P, T)."""
    crowd, frame = video.Crowd(model, fps), 0
    shown = np.zeros(points.shape[:2], bool)
    for size in itertools.islice(itertools.cycle(sizes), points.shape[1]):
        chunk = points[:, frame : frame + size]
        for low, rows, recovery, on in crowd.take(chunk, frame):
            assert recovery.box.shape[:2] == on.shape == (len(rows), on.shape[1])
            shown[rows, frame + low : frame + low + on.shape[1]] = on
        frame += chunk.shape[1]
    return crowd.takes(), shown


def test_people_of_a_video_come_go_and_return_and_chunks_change_nothing(video):
    """One is there throughout, one comes in the middle, one leaves for a moment and later for long, one never comes."""
    model, fps = tiny(), 10.0
    points = np.stack([[person(17, (100 * p + 2 * t, 10)) for t in range(50)] for p in range(4)])
    points[1, :13] = 0
    for low, high in ((5, 10), (20, 38), (45, 50)):
        points[2, low:high] = 0
    points[3] = 0
    takes, shown = crowded(video, model, points, fps, [16])
    assert [(take.start, len(take.recovery.box)) for take in takes] == [(0, 50), (13, 37), (0, 45)]
    for sizes in ([1, 4], [7, 3]):
        other, on = crowded(video, model, points, fps, sizes)
        assert (on == shown).all()
        for one, two in zip(takes[:2], other[:2], strict=True):
            assert_same(one.recovery, two.recovery, 1e-4)
        assert_same([x[:20] for x in takes[2].recovery], [x[:20] for x in other[2].recovery], 1e-4)
        assert_same([x[38:] for x in takes[2].recovery], [x[38:] for x in other[2].recovery], 1e-4)
    for take, p in zip(takes, range(3), strict=True):  # as if alone, fresh on return after a second
        first = slice(take.start, 20)
        alone, _ = kinlmr.recover(model, torch.from_numpy(points[p, first]), fps)
        assert_same([x[: 20 - take.start] for x in take.recovery], alone, 1e-4)
    again, _ = kinlmr.recover(model, torch.from_numpy(points[2, 38:45]), fps)
    assert_same([x[38:] for x in takes[2].recovery], again, 1e-4)
    waits = np.zeros(50, bool)
    waits[[*range(5, 8), *range(20, 23), *range(45, 48)]] = True  # SHOWN seconds
    assert (shown[2] == ((points[2, :, :, 2] > 0).any(1) | waits)).all()
    assert not shown[3].any()


@pytest.mark.parametrize("seed", range(2))
def test_who_was_away_for_long_does_not_depend_on_where_chunks_begin(video, seed, monkeypatch):
    """People leave for some frames, again and again, for less and for more than `AWAY`."""
    import crowd

    monkeypatch.setattr(crowd, "AWAY", 0.2)
    model, fps, draw = tiny(), 30.0, np.random.default_rng(seed)
    points = np.stack([[person(17, (100 * p + 2 * t, 10)) for t in range(40)] for p in range(3)])
    for row in points:
        at = 0
        while at < len(row):
            there, away = draw.integers(0, 9), draw.integers(1, 12)
            row[at + there : at + there + away] = 0
            at += there + away
    takes, shown = crowded(video, model, points, fps, [1])
    for size in (7, 16):
        other, on = crowded(video, model, points, fps, [size])
        assert (on == shown).all()
        assert [take.start for take in other] == [take.start for take in takes]
        for one, two in zip(takes, other, strict=True):
            assert_same(one.recovery, two.recovery, 1e-4)


def test_its_own_arrays_are_keypoints_and_another_size_is_said(video, tmp_path, capsys):
    np.savez(tmp_path / "a.npz", keypoints=np.load(ROOT / "examples/data/demo.npz")["keypoints"] * [3, 3, 1])
    demo = str(ROOT / "examples/data/demo.mp4")
    some = [demo, "--keypoints", str(tmp_path / "a.npz"), "--seconds", "0.2", "--out", str(tmp_path)]
    video.main(some)
    assert "another video's" in capsys.readouterr().out
    video.main([*some, "--keypoints-size", "1920x1080"])
    assert "another video's" not in capsys.readouterr().out
    np.savez(tmp_path / "none.npz", keypoints=np.zeros((1, 9, 17, 3)))
    out = tmp_path / "new"
    with pytest.raises(SystemExit, match="nobody was seen"):
        video.main([demo, "--keypoints", str(tmp_path / "none.npz"), "--seconds", "0.2", "--out", str(out)])
    assert not list(out.iterdir())


def test_any_detector_can_be_passed(video, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def find(frame):\n"
        "    y, x = np.mgrid[0:17, 0:17]\n"
        "    return np.stack([y[:, 0] * 10.0 + 50, x[0] * 17 % 200 + 50.0, np.ones(17)], 1)\n"
    )
    monkeypatch.chdir(tmp_path)
    demo = str(ROOT / "examples/data/demo.mp4")
    video.main([demo, "--detector", "mine:find", "--seconds", "0.1", "--out", str(tmp_path / "out")])
    assert (tmp_path / "out/person1.bvh").is_file()
    with pytest.raises(SystemExit, match="module:function"):
        video.main([demo, "--detector", "mine:other", "--out", str(tmp_path)])


def detections(frames, seen, people=4, target="coco17"):
    """The rows (P, T, K, 3) of a detector that sees these arrays, one a frame, in pictures of half the size."""
    import detectors

    shots = [frames.Shot(k, k / 30, np.zeros((4, 4, 3), np.uint8), None) for k in range(len(seen))]
    given = iter(seen)
    shots = detectors.detected(shots, lambda _: next(given), target, 0.5, people, 30.0)
    return np.stack(frames.alike([shot.keypoints for shot in shots]), 1)


def assert_people_stay_rows(rows, truth):
    """Every person of the truth (P, T, K, 3) is one row, from the `LEAST`th frame on, and nobody else is."""
    late = truth.copy()
    for row in late:
        row[np.flatnonzero(row[..., 2].any(1))[: readers.LEAST - 1]] = 0
    assert_same_people(rows[:, ::-1] / [2, 2, 1], late[:, ::-1])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.permutations(range(3)), min_size=12, max_size=30), st.data())
def test_a_detectors_people_stay_rows_however_they_are_ordered(frames, orders, data):
    steps = data.draw(st.lists(st.integers(-5, 5), min_size=len(orders), max_size=len(orders)))
    truth = np.stack([[person(17, (100 * p + x, 10)) for x in np.cumsum(steps)] for p in range(3)])
    assert_people_stay_rows(detections(frames, [truth[order, k] for k, order in enumerate(orders)]), truth)


def test_who_crosses_leaves_and_returns_keeps_the_row_and_who_is_away_for_long_is_new(frames):
    t = np.arange(100)
    truth = np.stack([[person(17, (x, 10)) for x in way] for way in (100 + 4 * t, 500 - 4 * t, 900 + 0 * t)])
    truth[1, 46:54] = 0  # hidden by the other in front, while they cross
    truth[2, 20:45] = 0  # away for less than a second
    seen = [truth[truth[:, k, 0, 2] > 0, k] for k in t]
    assert_people_stay_rows(detections(frames, seen), truth)
    with pytest.raises(AssertionError):  # a detector's order is nobody
        assert_people_stay_rows(2 * np.stack(frames.alike(seen), 1), truth)
    assert len(detections(frames, [*seen[:20], *[seen[0][:0]] * 40, *seen[60:]])) == 6
    seen = [[*people, person(17, (1300, 300))] if k in (8, 9, 10, 11, 60) else people for k, people in enumerate(seen)]
    assert_people_stay_rows(detections(frames, seen), truth)  # a glimpse is nobody


def test_of_more_people_than_asked_for_the_first_comers_are_taken(frames):
    truth = np.stack([[person(17, (100 * p, 10))] * 30 for p in range(4)])
    rows = detections(frames, [truth[: 2 + (k > 9), k][::-1] for k in range(20)] + [truth[1:, 20]] * 10, people=2)
    expected = 2 * truth[:3, :, :, 0]
    np.testing.assert_allclose(rows[:2, 4:20, :, 0], expected[:2, 4:20])
    assert len(rows) == 3
    assert not rows[2, :20].any()
    assert not rows[0, 20:].any()
    np.testing.assert_allclose(rows[1:, 20:, :, 0], expected[1:, 20:])  # who comes when one has gone


def test_a_detectors_confidences_keep_their_order_and_points_in_space_are_refused(frames):
    one = person(17, (10, 10))
    sure = np.linspace(1, 9, 17)
    rows = detections(frames, [np.column_stack([one[:, :2], share * sure]) for share in (0.1, 1, 0.5)])
    np.testing.assert_allclose(rows[0, :, :, 2], [0.1 * sure, sure / 9, sure / 18], rtol=1e-6)
    with pytest.raises(ValueError, match="third numbers go from .* points in space"):
        detections(frames, [np.column_stack([one[:, :2], 100 * sure])])


def test_one_persons_points_are_row_0_and_other_shapes_are_refused(frames):
    one = person(17, (10, 10))
    np.testing.assert_allclose(detections(frames, [one, one * 0])[0], [one * [2, 2, 1], one * 0], rtol=1e-6)
    for nothing in ([], np.zeros((0, 17, 3)), np.zeros((0, 33, 3)), np.zeros((3, 17, 3))):
        assert detections(frames, [nothing] * 8).shape == (0, 8, 17, 3)
    wide = convert(person(33, (10, 10))[None], "mediapipe33", "coco17").numpy() * [2, 2, 1]
    np.testing.assert_allclose(detections(frames, [[person(33, (10, 10))]] * 5)[:, 4], wide, rtol=1e-5)
    for wrong, said in (
        (np.ones((17, 2)), r"shape \(17, 2\); expected are \(P, K, 3\) of P people, or \(K, 3\)"),
        (np.ones((1, 2, 17, 3)), r"shape \(1, 2, 17, 3\); expected"),
        (7, r"shape \(\); expected"),
        (np.ones((2, 16, 3)), "16 points a person; known are 17"),
        (np.full((2, 17, 3), np.nan), "point 0 of detection 0 is .*nan"),
    ):
        with pytest.raises(ValueError, match=said):
            detections(frames, [wrong])


class Pose:
    """As mediapipe's: finds a white box in a picture, and follows it for as long as it is near where it was."""

    def __init__(self):
        self.at = None

    def process(self, picture):
        white = np.argwhere(picture[..., 0] == 255)[:, ::-1]
        if self.at is None and len(white):
            self.at = white[0] + 5
        if self.at is not None:
            white = white[np.abs(white - self.at).max(1) < 25]
        self.at = white.mean(0) if len(white) else None
        if not len(white):
            return SimpleNamespace(pose_landmarks=None)
        corners = [white.min(0), white.max(0) + 1] / np.array(picture.shape[1::-1])
        marks = [SimpleNamespace(x=x, y=y, visibility=0.9) for x, y in corners]
        return SimpleNamespace(pose_landmarks=SimpleNamespace(landmark=marks))


def boxes_seen(ways, people=4):
    """The left sides, in order, of the boxes that are seen in each frame; they stand at ways (P, T), -1: not there."""
    import detectors

    made = []
    detect = detectors.several(lambda: made.append(Pose()) or made[-1], people)
    seen = []
    for frame in ways.T:
        picture = np.zeros((60, 600, 3), np.uint8)
        for x in frame[frame >= 0]:
            picture[10:50, x : x + 10] = 255
        seen.append(sorted(round(float(points[0, 0])) for points in detect(picture[:, ::-1, ::-1][:, ::-1])))
    assert len(made) <= people
    return seen


def test_each_person_is_followed_by_a_detector_of_one(frames):
    t = np.arange(60)
    ways = np.stack([20 + 5 * t, 320 - 5 * t, 500 + 0 * t])
    ways[2, 40:50] = -1
    seen = boxes_seen(ways)
    apart = [k for k in range(60) if abs(ways[0, k] - ways[1, k]) > 90]
    assert all(seen[k] == sorted(x for x in ways[:, k] if x >= 0) for k in apart if 8 < k < 40 or k > 53)
    assert all(len(boxes) == len(set(boxes)) for boxes in seen)  # nobody twice
    assert max(map(len, boxes_seen(ways, 2))) == 2
    assert boxes_seen(np.full((2, 5), -1)) == [[]] * 5


def test_people_of_a_detector_become_bodies_and_nobody_is_said(video, frames, tmp_path, monkeypatch, capsys):
    seen = clip(17, 40)
    given = iter([seen[:, k] if k < 8 else [seen[1, k], person(17, (300, 200)), seen[0, k]] for k in range(40)])
    monkeypatch.setattr(video, "find_detector", lambda name, people: lambda picture: next(given))
    demo = str(ROOT / "examples/data/demo.mp4")
    video.main([demo, "--seconds", "0.8", "--out", str(tmp_path / "a")])
    result = np.load(tmp_path / "a/recovery.npz")
    known = np.isfinite(result["translation"]).all(-1)
    assert known.shape == (3, 24)
    assert (known == (np.arange(24) >= [[4], [4], [12]])).all()
    assert (tmp_path / "a/person3.bvh").is_file()
    monkeypatch.setattr(video, "find_detector", lambda name, people: lambda picture: [])
    with pytest.raises(SystemExit, match="nobody was seen in 24 frames"):
        video.main([demo, "--seconds", "0.8", "--out", str(tmp_path / "b")])
    assert not list((tmp_path / "b").iterdir())
    with pytest.raises(SystemExit):
        video.main([demo, "--people", "0"])
    assert "--people 0: give 1 or more" in capsys.readouterr().err


def test_without_mediapipe_the_commands_that_bring_it_are_told(monkeypatch):
    import detectors

    monkeypatch.setitem(sys.modules, "mediapipe", None)
    install = [
        "-m pip install --no-deps mediapipe==0.10.21 ",
        '-m pip install absl-py attrs flatbuffers matplotlib "pro',
    ]
    for version, before in (((3, 11), sys.executable), ((3, 13), ".venv312/bin/python")):
        monkeypatch.setattr(detectors, "VERSION", version)
        with pytest.raises(SystemExit, match="halted; None in sys.modules") as error:
            detectors.find_detector(None, 2)
        lines = str(error.value).splitlines()
        assert all(any(line.startswith(f"  {before} {command}") for line in lines) for command in install)
        assert any("python3.12 -m venv" in line for line in lines) == (version == (3, 13))
