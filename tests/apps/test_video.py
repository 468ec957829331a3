"""The command `kinlmr`: videos in and out, people from frame to frame, the whole on a few frames."""

import contextlib
import itertools
import json
import re
import signal
import sys
import threading
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import assert_same
from people import assert_same_people, clip, person

import kinlmr
from kinlmr.keypoints import convert
from kinlmr.motion import load_motion
from kinlmr.video import app, crowd, detectors, draw, frames, pictures, readers, results

av = pytest.importorskip("av")
ROOT = Path(__file__).parents[2]
DATA = ROOT / "kinlmr/video/data"

# --------------------------------------------------------------------------------------------------------------- videos


def refused(capsys, *argv):
    """What the command says as it refuses."""
    assert app.main([*map(str, argv)]) == 1
    return capsys.readouterr().err


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
def test_variable_rates_become_constant_by_time(gaps, fps):
    assert_steady(frames, np.cumsum(gaps), fps)


class Counting:
    """Frames are counted, and their times not looked at."""

    NEAR, Shot = 0.05, staticmethod(lambda *parts: SimpleNamespace(keypoints=parts[3]))
    steady = staticmethod(lambda shots, fps: list(shots))


def test_between_two_frames_a_newcomer_has_a_row():
    one = person(17, (0, 0))
    found = frames.between(one[None], np.stack([one, one + 1]), 0.5)
    np.testing.assert_allclose(found, [one, (one + 1) * [1, 1, 0.5]], rtol=1e-6)


def test_a_constant_rate_stays_as_it_is_and_the_law_can_fail():
    given = shots(frames, np.arange(20) / 30)
    assert [t.number for t in frames.steady(given, 30.0)] == list(range(20))
    with pytest.raises(AssertionError):
        assert_steady(Counting(), np.cumsum([0.1, 0.01] * 5), 30.0)


def video_file(path, count=12):
    """A clip whose upper left quarter is white, and rotated files of it."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32] = 255
    with frames.Writer(path, 30.0) as writer:
        for _ in range(count):
            writer.add(picture)
    return path


def test_a_rotated_phone_video_comes_upright(tmp_path):
    path = video_file(tmp_path / "a.mp4")
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


def test_a_broken_file_is_used_as_far_as_it_goes_or_refused(tmp_path, caplog):
    data = (DATA / "demo.mp4").read_bytes()
    path = tmp_path / "short.mp4"
    path.write_bytes(data[: len(data) // 2])
    read = list(frames.open_video(path, None, 320).shots)
    assert 20 < len(read) < 170
    assert read[0].picture.shape == (180, 320, 3)
    assert "short.mp4 is truncated" in caplog.text or "short.mp4 broke off" in caplog.text
    for content in (b"", b"no video at all" * 100, data[:200]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="short.mp4"):
            frames.open_video(path, None, 320)
    with pytest.raises(FileNotFoundError, match="none.mp4: no such file"):
        frames.open_video(tmp_path / "none.mp4", None, 320)


def test_a_broken_frame_in_the_middle_is_left_out_and_the_others_keep_their_numbers(tmp_path, caplog):
    data = bytearray((DATA / "demo.mp4").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    (tmp_path / "broken.mp4").write_bytes(data)
    read = list(frames.open_video(tmp_path / "broken.mp4", None, 320).shots)
    whole = list(frames.open_video(DATA / "demo.mp4", None, 320).shots)
    assert "broken.mp4: 4 damaged packets were left out" in caplog.text
    assert len(read) == len(whole) - 4
    assert read[-1].number == whole[-1].number  # so keypoints of a file go on with their frames
    assert read[-1].time == pytest.approx(whole[-1].time)
    ticks = list(frames.steady(read, 30.0))  # the gap is filled with the nearest pictures
    assert len(ticks) == len(whole)


def squeezed(path, aspect, rate=30, size=(320, 240)):
    """A clip with a square of 120 pixels in the middle, as it looks, stored with pixels of another width."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        picture = np.zeros((size[1], size[0], 3), np.uint8)
        half = round(60 / float(aspect))
        picture[size[1] // 2 - 60 : size[1] // 2 + 60, size[0] // 2 - half : size[0] // 2 + half] = 255
        for _ in range(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("aspect", [Fraction(4, 3), Fraction(16, 11), Fraction(1, 2), Fraction(1, 1)])
def test_pixels_are_square_for_detectors_keypoints_and_pictures(tmp_path, aspect, monkeypatch):
    """What a detector sees, what it finds, a file of keypoints, and the overlay lie over one another."""
    path = squeezed(tmp_path / "a.mp4", aspect)
    wide = round(320 * aspect)
    opened = frames.open_video(path, None, 1280)
    assert opened.stored_size == (320, 240)
    assert opened.source_size == pytest.approx((wide, 240), abs=0.5)
    picture = next(opened.shots).picture
    assert picture.shape[:2] == pytest.approx((240, wide), abs=1)
    assert np.ptp(np.argwhere(picture[..., 0] > 128), 0) == pytest.approx([119, 119], abs=3)

    body = person(17, (wide / 2 - 15, 80))  # in square pixels
    monkeypatch.setattr(app, "find_detector", lambda name, people: lambda picture: body)
    app.main([str(path), "--out", str(tmp_path / "seen")])
    stored = [{"image_id": t, "keypoints": (body / [float(aspect), 1, 1]).ravel().tolist()} for t in range(12)]
    (tmp_path / "a.json").write_text(json.dumps(stored))
    app.main([str(path), "--keypoints", str(tmp_path / "a.json"), "--out", str(tmp_path / "read")])
    one, two = (np.load(tmp_path / name / "recovery.npz") for name in ("seen", "read"))
    np.testing.assert_allclose(one["keypoints"], two["keypoints"], atol=0.5)
    np.testing.assert_allclose(one["size"], opened.source_size)


@pytest.mark.parametrize("rate", [Fraction(1, 2), 12, 240, 480])
def test_any_rate_of_a_video_is_its_keypoints_rate(tmp_path, rate):
    opened = frames.open_video(squeezed(tmp_path / "a.mp4", Fraction(1), rate), None, 1280)
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


def test_a_camera_that_vanishes_ends_the_video_and_the_files_are_whole(tmp_path, monkeypatch, capsys):
    usual = av.open
    demo = str(DATA / "demo.mp4")
    camera = lambda name, *mode, **options: (  # noqa: E731
        usual(name, *mode, **options) if mode else Unplugged(usual(demo), 12)
    )
    monkeypatch.setattr(av, "open", camera)
    monkeypatch.setattr(app, "find_detector", lambda name, people: lambda picture: person(17, (100, 100)))
    app.main(["--camera", "0", "--out", str(tmp_path)])
    said = capsys.readouterr().err
    assert "warning: camera 0 broke off after" in said
    assert "No such device" in said
    monkeypatch.undo()
    count = len(list(frames.open_video(tmp_path / "overlay.mp4", None, 320).shots))
    assert 5 < count < 13
    assert np.load(tmp_path / "recovery.npz")["rotations"].shape[:2] == (1, count)


class Blocked(Unplugged):
    """A container that gives nothing more after a few packets, as a camera does whose cable is bad."""

    def demux(self, stream):
        yield from itertools.islice(self.container.demux(stream), self.packets)
        self.waiting.wait()


def test_a_camera_that_blocks_ends_the_video_and_the_files_are_whole(tmp_path, monkeypatch, capsys):
    usual, demo, Blocked.waiting = av.open, str(DATA / "demo.mp4"), threading.Event()
    monkeypatch.setattr(frames, "BLOCKED", 0.3)
    monkeypatch.setattr(app, "find_detector", lambda name, people: lambda picture: person(17, (100, 100)))
    for packets in (12, 0):
        monkeypatch.setattr(
            av, "open", lambda name, *mode, n=packets, **_: usual(name, *mode) if mode else Blocked(usual(demo), n)
        )
        if not packets:
            said = refused(capsys, "--camera", 0, "--out", tmp_path / "none")
            assert "not one frame of its video could be read; is it connected, and free?" in said
        else:
            assert app.main(["--camera", "0", "--out", str(tmp_path / "some")]) == 0
            assert "camera 0 broke off after" in capsys.readouterr().err
    Blocked.waiting.set()
    monkeypatch.undo()
    assert 5 < len(list(frames.open_video(tmp_path / "some/overlay.mp4").shots)) < 13


def test_without_a_camera_it_is_said(capsys, tmp_path):
    assert "camera 97: cannot be read as a video" in refused(capsys, "--camera", 97, "--out", tmp_path / "a")


@pytest.mark.parametrize(
    ("codec", "kind", "ending"),
    [("ffv1", "gray", "mkv"), ("ffv1", "bgra", "mkv"), ("ffv1", "yuv420p10le", "mkv"), ("ffv1", "gray16le", "mkv")],
)
def test_any_kind_of_pixel_becomes_rgb(tmp_path, codec, kind, ending):
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32] = 255
    with av.open(str(tmp_path / f"a.{ending}"), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, kind
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=kind)))
        container.mux(stream.encode())
    read = [shot.picture for shot in frames.open_video(tmp_path / f"a.{ending}").shots]
    assert [one.shape for one in read] == [(48, 64, 3)] * 3
    assert read[0].dtype == np.uint8
    assert np.abs(read[0].astype(int) - picture).max() < 12


def test_a_frame_of_another_size_is_made_as_large_as_the_first(tmp_path):
    path, shapes = video_file(tmp_path / "a.mp4", 3), []

    class Larger:
        """A packet whose frame is twice as large, but for the first."""

        def __init__(self, packet):
            self.packet = packet

        def decode(self):
            return [frame.reformat(128, 96) if shapes else frame for frame in self.packet.decode()]

    container = av.open(str(path))
    stream = container.streams.video[0]
    stream.thread_type = "NONE"
    given = (Larger(packet) for packet in container.demux(stream))
    for shot, *_ in frames._read(container, given, stream, "a.mp4", 1280, 1.0):
        shapes.append(shot.picture.shape)
        assert shot.picture[:20, :28].mean() > 200
    assert shapes == [(48, 64, 3)] * 3


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ([16_000, 12_000], "its frames are 16,000 x 12,000; at most are 134,217,728 pixels"),
        ([40_000, 30_000], "not one frame"),  # FFmpeg's own limit
    ],
)
def test_a_video_of_very_many_pixels_is_refused_before_memory_goes(tmp_path, size, said):
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    data = bytearray(path.read_bytes())
    at = data.index(b"strf") + 12  # BITMAPINFOHEADER: its size, width, height
    assert np.abs(np.frombuffer(data[at : at + 8], "<i4")).tolist() == [64, 48]
    data[at : at + 8] = np.array(size, "<i4").tobytes()
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"a.avi: .*{said}"):
        frames.open_video(path)


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
def test_a_full_disk_leaves_no_piece_of_a_video(tmp_path, size):
    noise = np.random.default_rng(0).integers(0, 255, (60, 120, 160, 3)).astype(np.uint8)

    def write():
        with frames.Writer(tmp_path / "a.mp4", 30.0) as writer:
            for picture in noise:
                writer.add(picture)

    with disk(size), pytest.raises(OSError, match="a.mp4: could not be written .*is the disk full"):
        write()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_whole_files_only(tmp_path, capsys):
    """The overlay fits, the sheet after it does not."""
    with disk(50_000):
        said = refused(capsys, "--out", tmp_path, "--size", 160, "--seconds", 0.3)
    assert re.search("error: .*could not be written, .*contact.png", said)
    assert [path.name for path in tmp_path.iterdir()] == ["overlay.mp4"]


def test_a_video_that_fails_leaves_nothing(tmp_path):
    def fail():
        with frames.Writer(tmp_path / "a.mp4", 30.0) as writer:
            writer.add(np.zeros((48, 64, 3), np.uint8))
            raise KeyError("in the middle")

    with pytest.raises(KeyError):
        fail()
    assert not list(tmp_path.iterdir())


# -------------------------------------------------------------------------------------------------------------- it all


def test_the_clip_becomes_bodies(tmp_path, capsys):
    app.main(["--out", str(tmp_path), "--seconds", "2.2"])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"overlay.mp4", "contact.png", "body.glb", "person1.bvh", "person2.bvh", "recovery.npz"}
    result = np.load(tmp_path / "recovery.npz")
    assert result["rotations"].shape == (2, 66, 24, 3, 3)
    known = np.isfinite(result["translation"]).all(-1)
    assert known[1].all()
    assert (known[0] == (np.arange(66) >= 56)).all()  # the woman comes at frame 56
    before = [s.picture for s in frames.open_video(DATA / "demo.mp4", None, 1280).shots][:66]
    after = [s.picture for s in frames.open_video(tmp_path / "overlay.mp4", None, 1280).shots]
    assert len(after) == 66
    changed = np.abs(after[60].astype(int) - before[60]).sum(2) > 60
    assert 0.005 < changed.mean() < 0.1
    for row in (0, 1):  # the body is drawn where the keypoints are
        x, y, sure = result["keypoints"][row, 60].T
        inside = [changed[int(b), int(a)] for a, b, s in zip(x, y, sure, strict=True) if s > 0.5]
        assert np.mean(inside) > 0.6
    assert tuple(result["joints"]) == kinlmr.load_body("anny24_lo1229").joints
    said = capsys.readouterr()
    assert re.search(r"\n66/66 frames, \d+ a second, people: 2\n$", said.err)
    files = "overlay.mp4, contact.png, body.glb, person1.bvh, person2.bvh, recovery.npz"
    assert said.out == f"{tmp_path}: {files}\n"


def tiny():
    """A random model of a few numbers."""
    torch.manual_seed(0)
    body = "anny24_lo369"
    sizes = {"hidden": 4, "shape_hidden": 4, "iterations": 1}
    return kinlmr.build("smpl_single.yaml", keypoints="coco17", body=body, **sizes).eval()


def crowded(model, points, fps, sizes):
    """What a crowd makes of keypoints (P, T, K, 3) in chunks of these sizes, and which frames show whom (P, T)."""
    people, frame = crowd.Crowd(model, fps), 0
    shown = np.zeros(points.shape[:2], bool)
    for size in itertools.islice(itertools.cycle(sizes), points.shape[1]):
        chunk = points[:, frame : frame + size]
        for low, rows, recovery, on in people.take(chunk, frame):
            assert recovery.box.shape[:2] == on.shape == (len(rows), on.shape[1])
            shown[rows, frame + low : frame + low + on.shape[1]] = on
        frame += chunk.shape[1]
    return people.takes(), shown


def test_people_of_a_video_come_go_and_return_and_chunks_change_nothing():
    """One is there throughout, one comes in the middle, one leaves for a moment and later for long, one never comes."""
    model, fps = tiny(), 10.0
    points = np.stack([[person(17, (100 * p + 2 * t, 10)) for t in range(50)] for p in range(4)])
    points[1, :13] = 0
    for low, high in ((5, 10), (20, 38), (45, 50)):
        points[2, low:high] = 0
    points[3] = 0
    takes, shown = crowded(model, points, fps, [16])
    assert [(take.start, len(take.recovery.box)) for take in takes] == [(0, 50), (13, 37), (0, 45)]
    for sizes in ([1, 4], [7, 3]):
        other, on = crowded(model, points, fps, sizes)
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
def test_who_was_away_for_long_does_not_depend_on_where_chunks_begin(seed, monkeypatch):
    """People leave for some frames, again and again, for less and for more than `AWAY`."""
    monkeypatch.setattr(crowd, "AWAY", 0.2)
    model, fps, draw = tiny(), 30.0, np.random.default_rng(seed)
    points = np.stack([[person(17, (100 * p + 2 * t, 10)) for t in range(40)] for p in range(3)])
    for row in points:
        at = 0
        while at < len(row):
            there, away = draw.integers(0, 9), draw.integers(1, 12)
            row[at + there : at + there + away] = 0
            at += there + away
    takes, shown = crowded(model, points, fps, [1])
    for size in (7, 16):
        other, on = crowded(model, points, fps, [size])
        assert (on == shown).all()
        assert [take.start for take in other] == [take.start for take in takes]
        for one, two in zip(takes, other, strict=True):
            assert_same(one.recovery, two.recovery, 1e-4)


def test_its_own_arrays_are_keypoints_and_another_size_is_said(tmp_path, capsys):
    np.savez(tmp_path / "a.npz", keypoints=np.load(DATA / "demo.npz")["keypoints"] * [3, 3, 1])
    demo = str(DATA / "demo.mp4")
    some = [demo, "--keypoints", str(tmp_path / "a.npz"), "--seconds", "0.2", "--out", str(tmp_path)]
    app.main(some)
    assert "another video's" in capsys.readouterr().err
    app.main([*some, "--keypoints-size", "1920x1080"])
    assert "another video's" not in capsys.readouterr().err


def test_any_detector_can_be_passed(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def find(frame):\n"
        "    y, x = np.mgrid[0:17, 0:17]\n"
        "    return np.stack([y[:, 0] * 10.0 + 50, x[0] * 17 % 200 + 50.0, np.ones(17)], 1)\n"
    )
    monkeypatch.chdir(tmp_path)
    demo = str(DATA / "demo.mp4")
    app.main([demo, "--detector", "mine:find", "--seconds", "0.1", "--out", str(tmp_path / "out")])
    assert (tmp_path / "out/person1.bvh").is_file()
    assert "module:function" in refused(capsys, demo, "--detector", "mine:other", "--out", tmp_path / "no")
    assert not (tmp_path / "no").exists()


def detections(seen, people=4, target="coco17"):
    """The rows (P, T, K, 3) of a detector that sees these arrays, one a frame, in pictures of half the size."""
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
def test_a_detectors_people_stay_rows_however_they_are_ordered(orders, data):
    steps = data.draw(st.lists(st.integers(-5, 5), min_size=len(orders), max_size=len(orders)))
    truth = np.stack([[person(17, (100 * p + x, 10)) for x in np.cumsum(steps)] for p in range(3)])
    assert_people_stay_rows(detections([truth[order, k] for k, order in enumerate(orders)]), truth)


def test_who_crosses_leaves_and_returns_keeps_the_row_and_who_is_away_for_long_is_new():
    t = np.arange(100)
    truth = np.stack([[person(17, (x, 10)) for x in way] for way in (100 + 4 * t, 500 - 4 * t, 900 + 0 * t)])
    truth[1, 46:54] = 0  # hidden by the other in front, while they cross
    truth[2, 20:45] = 0  # away for less than a second
    seen = [truth[truth[:, k, 0, 2] > 0, k] for k in t]
    assert_people_stay_rows(detections(seen), truth)
    with pytest.raises(AssertionError):  # a detector's order is nobody
        assert_people_stay_rows(2 * np.stack(frames.alike(seen), 1), truth)
    assert len(detections([*seen[:20], *[seen[0][:0]] * 40, *seen[60:]])) == 6
    seen = [[*people, person(17, (1300, 300))] if k in (8, 9, 10, 11, 60) else people for k, people in enumerate(seen)]
    assert_people_stay_rows(detections(seen), truth)  # a glimpse is nobody


def test_of_more_people_of_a_size_than_asked_for_the_first_comers_are_taken_and_keep_the_place_for_a_second():
    truth = np.stack([[person(17, (100 * p, 10))] * 30 for p in range(4)])
    rows = detections([truth[: 2 + (k > 9), k][::-1] for k in range(20)] + [truth[1:, 20]] * 60, people=2)
    expected = 2 * truth[:3, :, :, 0]
    np.testing.assert_allclose(rows[:2, 4:20, :, 0], expected[:2, 4:20])
    assert len(rows) == 3
    assert not rows[2, :20].any()
    assert not rows[0, 20:].any()
    assert not rows[2, :50].any()
    np.testing.assert_allclose(rows[1, 20:, :, 0], expected[1, [20] * 60])
    np.testing.assert_allclose(rows[2, 51:, :, 0], expected[2, [20] * 29])  # who comes when one has gone


def test_a_detectors_confidences_keep_their_order_and_points_in_space_are_refused():
    one = person(17, (10, 10))
    sure = np.linspace(1, 9, 17)
    rows = detections([np.column_stack([one[:, :2], share * sure]) for share in (0.1, 1, 0.5)])
    np.testing.assert_allclose(rows[0, :, :, 2], [0.1 * sure, sure / 9, sure / 18], rtol=1e-6)
    with pytest.raises(ValueError, match="third numbers go from .* points in space"):
        detections([np.column_stack([one[:, :2], 100 * sure])])


def test_one_persons_points_are_row_0_and_other_shapes_are_refused():
    one = person(17, (10, 10))
    np.testing.assert_allclose(detections([one, one * 0])[0], [one * [2, 2, 1], one * 0], rtol=1e-6)
    for nothing in ([], np.zeros((0, 17, 3)), np.zeros((0, 33, 3)), np.zeros((3, 17, 3))):
        assert detections([nothing] * 8).shape == (0, 8, 17, 3)
    wide = convert(person(33, (10, 10))[None], "mediapipe33", "coco17").numpy() * [2, 2, 1]
    np.testing.assert_allclose(detections([[person(33, (10, 10))]] * 5)[:, 4], wide, rtol=1e-5)
    for wrong, said in (
        (np.ones((17, 2)), r"shape \(17, 2\); expected are \(P, K, 3\) of P people, or \(K, 3\)"),
        (np.ones((1, 2, 17, 3)), r"shape \(1, 2, 17, 3\); expected"),
        (7, r"shape \(\); expected"),
        (np.ones((2, 16, 3)), "16 points a person; known are 17"),
        (np.full((2, 17, 3), np.nan), "point 0 of detection 0 is .*nan"),
    ):
        with pytest.raises(ValueError, match=said):
            detections([wrong])


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


def test_each_person_is_followed_by_a_detector_of_one():
    t = np.arange(60)
    ways = np.stack([20 + 5 * t, 320 - 5 * t, 500 + 0 * t])
    ways[2, 40:50] = -1
    seen = boxes_seen(ways)
    apart = [k for k in range(60) if abs(ways[0, k] - ways[1, k]) > 90]
    assert all(seen[k] == sorted(x for x in ways[:, k] if x >= 0) for k in apart if 8 < k < 40 or k > 53)
    assert all(len(boxes) == len(set(boxes)) for boxes in seen)  # nobody twice
    assert max(map(len, boxes_seen(ways, 2))) == 2
    assert boxes_seen(np.full((2, 5), -1)) == [[]] * 5


def test_people_of_a_detector_become_bodies_and_nobody_is_said(tmp_path, monkeypatch, capsys):
    seen = clip(17, 40)
    given = iter([seen[:, k] if k < 8 else [seen[1, k], person(17, (300, 200)), seen[0, k]] for k in range(40)])
    monkeypatch.setattr(app, "find_detector", lambda name, people: lambda picture: next(given))
    demo = str(DATA / "demo.mp4")
    app.main([demo, "--seconds", "0.8", "--out", str(tmp_path / "a")])
    result = np.load(tmp_path / "a/recovery.npz")
    known = np.isfinite(result["translation"]).all(-1)
    assert known.shape == (3, 24)
    assert (known == (np.arange(24) >= [[4], [4], [12]])).all()
    assert (tmp_path / "a/person3.bvh").is_file()
    monkeypatch.setattr(app, "find_detector", lambda name, people: lambda picture: [])
    assert "nobody was seen in 24 frames" in refused(capsys, demo, "--seconds", 0.8, "--out", tmp_path / "b/c")
    assert not (tmp_path / "b").exists()


def test_without_mediapipe_the_commands_that_bring_it_are_told_to_who_asks_for_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    install = [
        "-m pip install --no-deps mediapipe==0.10.21 ",
        '-m pip install absl-py attrs flatbuffers matplotlib "pro',
    ]
    for version, before in (((3, 11), sys.executable), ((3, 13), ".venv312/bin/python")):
        monkeypatch.setattr(detectors, "VERSION", version)
        with pytest.raises(ImportError, match="halted; None in sys.modules") as error:
            detectors.find_detector("mediapipe", 2)
        lines = str(error.value).splitlines()
        assert all(any(line.startswith(f"  {before} {command}") for line in lines) for command in install)
        assert any("python3.12 -m venv" in line for line in lines) == (version == (3, 13))


# --------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def seen(monkeypatch):
    """A detector that sees somebody in the middle of every picture."""
    monkeypatch.setattr(app, "find_detector", lambda name, people: lambda picture: person(17, (17, -16)))


def ran(*argv):
    """The files of a run that succeeds, by name."""
    *argv, out = map(str, argv)
    assert app.main([*argv, "--out", out]) == 0
    return {path.name: path for path in Path(out).iterdir()}


def test_several_videos_and_those_of_a_folder_have_a_folder_each(tmp_path, seen, capsys):
    films = tmp_path / "films"
    for folder in (films, films / "more"):
        folder.mkdir()
        video_file(folder / "a.mp4", 2)
    video_file(films / "A.MOV", 3)
    for name, content in (("b.mkv", b"broken"), ("notes.txt", b""), (".c.mp4", b"")):
        (films / name).write_bytes(content)
    out = tmp_path / "out"
    said = refused(capsys, films, films / "more/a.mp4", "--no-overlay", "--out", out)
    assert {path.name: len(np.load(path / "recovery.npz")["box"][0]) for path in out.iterdir()} == {
        "A": 3, "a_2": 2, "a_3": 2
    }  # fmt: skip
    assert re.search(r"error: \S+b\.mkv: cannot be read as a video", said)
    assert "recovery.npz" in ran(films / "more", "--no-overlay", tmp_path / "one")
    with pytest.raises(SystemExit, match="2"):
        app.main([str(films), "--keypoints", "k.npz"])
    assert "--keypoints are those of one video, not of 3" in capsys.readouterr().err


def test_without_an_overlay_no_video_is_written_and_all_else_is_the_same(tmp_path, monkeypatch):
    some = [video_file(tmp_path / "a.mp4"), "--keypoints", tmp_path / "k.npy"]
    np.save(tmp_path / "k.npy", np.repeat(person(17, (17, -16))[None, None], 12, 1))
    whole = ran(*some, tmp_path / "whole")
    monkeypatch.setattr(app, "Writer", None)
    less = ran(*some, "--no-overlay", tmp_path / "less")
    assert set(whole) - set(less) == {"overlay.mp4"}
    for name in ("contact.png", "body.glb", "person1.bvh"):
        assert whole[name].read_bytes() == less[name].read_bytes()
    one, two = (np.load(files["recovery.npz"]) for files in (whole, less))
    assert set(one) == set(two)
    for key in one:
        np.testing.assert_array_equal(one[key], two[key])


def offsets(path):
    """The numbers of a BVH's skeleton."""
    return np.array(re.findall(r"OFFSET (\S+) (\S+) (\S+)", path.read_text()), float)


def test_a_height_scales_all_lengths_of_the_files(tmp_path):
    demo = ["--seconds", 2, "--no-overlay"]
    usual, tall = ran(*demo, tmp_path / "a"), ran(*demo, "--height", 2.05, tmp_path / "b")
    one, two = (np.load(files["recovery.npz"]) for files in (usual, tall))
    body = kinlmr.load_body(app.BODY)
    assert (one["scale"] == 1).all()
    for p, scale in enumerate(two["scale"]):
        shape = torch.from_numpy(np.nanmean(one["shape"][p], 0))
        assert scale * results.tallness(body, shape) == pytest.approx(2.05, abs=1e-3)
        assert results.tallness(results.scaled(body, scale), shape) == pytest.approx(2.05, abs=1e-3)
        np.testing.assert_allclose(two["translation"][p], scale * one["translation"][p], rtol=1e-5)
        name = f"person{p + 1}.bvh"
        np.testing.assert_allclose(offsets(tall[name]), scale * offsets(usual[name]), atol=1e-5)
    for key in ("rotations", "rotations_in_camera", "shape", "camera", "box", "keypoints"):
        np.testing.assert_array_equal(one[key], two[key])


@pytest.mark.parametrize(("options", "focal"), [([], 80), (["--fov", "90"], 40), (["--focal", "55"], 55)])
def test_a_field_of_view_is_across_the_diagonal(tmp_path, seen, options, focal):
    found = ran(video_file(tmp_path / "a.mp4", 2), "--no-overlay", *options, tmp_path / "out")  # 64 x 48
    assert np.load(found["recovery.npz"])["focal"] == pytest.approx(focal)


def test_what_fits_no_option_is_told_with_code_2(capsys):
    for line, says in (
        ("--people 0", "'0' is not a whole number from 1 to 1,000"), ("--height 175", "not a number from 0.3 to 3"),
        ("--fov 180", "from 1 to 179"), ("--fov nan", "'nan'"), ("--focal x", "'x'"), ("--fov 5 --focal 5", "not all"),
        ("a.mp4 --camera 0", "not both"), ("a.mp4 --keypoints k --detector m:f", "give one of them"),
        ("--camera 0 --keypoints k", "give one of them"), ("a.mp4 --keypoints-set coco17", "give these too"),
        ("a.mp4 --keypoints k --keypoints-size 1920", "'1920' is not WIDTHxH"), (f"{ROOT}/docs", "without a video"),
    ):  # fmt: skip
        with pytest.raises(SystemExit, match="^2$"):
            app.main(line.split())
        assert says in capsys.readouterr().err


def test_help_fits_a_screen_and_the_version_is_told(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setitem(sys.modules, "av", None)
    for option, lines in (("--help", 40), ("--version", 1)):
        with pytest.raises(SystemExit, match="^0$"):
            app.main([option])
        said = capsys.readouterr().out.splitlines()
        assert len(said) <= lines
        assert max(map(len, said)) <= 80
    assert said == [f"kinlmr {kinlmr.__version__}"]


def test_without_the_extra_it_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    assert 'pip install "kinlmr[video]"' in refused(capsys, "--out", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_refused_run_leaves_no_folder_and_the_old_files_are_not_told_as_results(tmp_path, seen, capsys):
    film = video_file(tmp_path / "a.mp4", 2)
    np.savez(tmp_path / "nobody.npz", keypoints=np.zeros((1, 9, 17, 3)))
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    for wrong, says in (
        ([film, "--keypoints", tmp_path / "nobody.npz"], "nobody was seen in 2 frames"),
        ([film, "--keypoints", tmp_path / "none.npz"], "no such file"),
        ([film, "--model", "none"], "none"),
        ([tmp_path / "broken.mp4"], "cannot be read as a video"),
        ([tmp_path / "none.mp4"], "no such file"),
    ):
        assert says in refused(capsys, *wrong, "--out", tmp_path / "new/out")
        assert not (tmp_path / "new").exists()
    out = tmp_path / "old"
    out.mkdir()
    (out / "person9.bvh").write_text("old")
    assert "nobody" in refused(capsys, film, "--keypoints", tmp_path / "nobody.npz", "--out", out)
    assert [path.name for path in out.iterdir()] == ["person9.bvh"]
    ran(film, "--no-overlay", out)
    assert capsys.readouterr().out == f"{out}: contact.png, body.glb, person1.bvh, recovery.npz\n"
    assert (out / "person9.bvh").read_text() == "old"


def test_ctrl_c_finishes_the_files_and_begins_no_other_video(tmp_path, monkeypatch, capsys):
    films, usual = [video_file(tmp_path / f"{name}.mp4", 40) for name in "ab"], signal.getsignal(signal.SIGINT)
    pictures_seen = itertools.count()

    def detect(picture):
        if next(pictures_seen) == 20:
            signal.raise_signal(signal.SIGINT)
        return person(17, (17, -16))

    monkeypatch.setattr(app, "find_detector", lambda name, people: detect)
    found = ran(*films, tmp_path / "out")
    assert list(found) == ["a"]
    assert "stopped; 32/40 frames" in capsys.readouterr().err  # with the frames that were read together
    assert len(list(frames.open_video(found["a"] / "overlay.mp4").shots)) == 32
    assert np.load(found["a"] / "recovery.npz")["box"].shape[1] == 32
    assert signal.getsignal(signal.SIGINT) == usual


def test_progress_is_a_bar_on_a_terminal_and_a_line_now_and_then_in_a_log(capsys, monkeypatch, caplog):
    caplog.set_level("INFO", "kinlmr")
    bar = app.Progress(40)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    bar.show(10)
    assert capsys.readouterr().err.startswith("\r[#####...............] 10/40 frames, ")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    bar.show(20)
    assert caplog.messages == []
    bar.last -= 6
    bar.show(30)
    assert [text[:13] for text in caplog.messages] == ["30/40 frames,"]
    assert capsys.readouterr().err == ""


# ------------------------------------------------------------------------------------------------ in the camera's frame


def aside(count, seed=0):
    """Somebody with arms and legs about, far from the middle of a picture of 640 x 480, in ``count`` frames."""
    draw_from = torch.Generator().manual_seed(seed)
    body = kinlmr.load_body("anny24_lo369")
    turns = kinlmr.rotations.axis_angle_to_matrix(0.4 * torch.randn(count, 24, 3, generator=draw_from))
    box = torch.tensor([560.0, 60.0, 150.0]).expand(count, 3)
    camera = torch.tensor([0.9, 0.0, 0.0]).expand(count, 3)
    return body, kinlmr.Recovery(turns, torch.zeros(count, body.shape_width), camera, box)


def assert_on_its_ray(world, vertices, place, rest):
    """Along the ray to its root joint a body (N, 3) in the camera's frame is as deep as over the picture."""
    root = place + rest
    depth = (world - root) @ torch.nn.functional.normalize(root, dim=0)
    np.testing.assert_allclose(depth, (vertices - rest)[:, 2], atol=1e-4)


def test_from_the_side_bodies_are_turned_onto_their_rays(monkeypatch):
    size, focal, seen = (640.0, 480.0), 400.0, []
    body, recovery = aside(3)
    vertices = body(recovery.rotations, recovery.shape, want=("vertices",)).vertices
    place = recovery.translation(size, focal)
    rest = body.joints_at_rest(recovery.shape)[0, body.root]
    monkeypatch.setattr(draw, "side_view", lambda world, *_, **__: seen.extend(world.view_as(vertices)))
    pictures.beside(pictures.Scene([0, 1, 2], recovery, vertices), body, size, focal, (48, 64))
    for k in range(3):
        assert_on_its_ray(seen[k], vertices[k], place[k], rest)
        with pytest.raises(AssertionError):  # as it was recovered
            assert_on_its_ray(vertices[k] + place[k], vertices[k], place[k], rest)


def test_the_files_have_rotations_in_the_cameras_frame_beside_those_that_were_recovered(tmp_path):
    where = person(17, (600, 10))
    np.save(tmp_path / "k.npy", np.repeat(where[None, None], 12, 1))
    film = video_file(tmp_path / "a.mp4")
    found = ran(film, "--keypoints", tmp_path / "k.npy", "--fov", 90, "--no-overlay", tmp_path / "out")
    result, body = np.load(found["recovery.npz"]), kinlmr.load_body(app.BODY)
    alone, _ = kinlmr.recover(kinlmr.load("anny24-coco17"), np.repeat(where[None], 12, 0), 30)
    np.testing.assert_allclose(result["rotations"][0], alone.rotations, atol=1e-4)
    turned, place = alone.in_camera((64, 48), 40, body)
    assert (turned - alone.rotations).abs().max() > 0.5
    np.testing.assert_allclose(result["rotations_in_camera"][0], turned, atol=1e-4)
    np.testing.assert_allclose(result["translation"][0], place, rtol=1e-4)
    motion = load_motion(found["person1.bvh"], body)
    root = kinlmr.rotations.axis_angle_to_matrix(torch.as_tensor(motion[0].axis_angle[:, body.root]).float())
    np.testing.assert_allclose(root, (torch.diag(torch.tensor([1.0, -1.0, -1.0])) @ turned[:, body.root]), atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 59), max_size=3), st.floats(0.2, 5), st.sampled_from([24.0, 30.0, 60.0]))
def test_a_few_wrong_depths_move_nobody_in_the_files_at_the_ends_neither(wrong, factor, fps):
    body, recovery = aside(60)
    turned, place = recovery.in_camera((640, 480), 400.0, body)
    root = place + body.joints_at_rest(recovery.shape)[:, body.root]
    factors = torch.ones(60, 1)
    factors[wrong] = factor
    one = results.Placed(0, body, 1.0, turned, recovery.shape, place + (factors - 1) * root)
    settled = results.settled(one, recovery.shape[0], fps)
    np.testing.assert_allclose(settled, place, atol=1e-4)
    unknown = one._replace(translation=torch.cat([torch.full((5, 3), torch.nan), one.translation[5:]]))
    np.testing.assert_allclose(results.settled(unknown, recovery.shape[0], fps), place, atol=1e-4)


# ------------------------------------------------------------------------------------------------------ by the library


def test_the_same_in_a_few_calls(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import video

    film = video_file(tmp_path / "a.mp4")
    points = np.repeat(person(17, (17, -16))[None, None], 12, 1)
    points[:, :3] = 0
    np.save(tmp_path / "k.npy", points)
    video.main(film, tmp_path / "k.npy", tmp_path / "out")
    pictures = [shot.picture.astype(int) for shot in frames.open_video(tmp_path / "out/overlay.mp4").shots]
    assert len(pictures) == 12
    changed = [np.abs(picture - pictures[0]).max() > 60 for picture in pictures]
    assert changed == [False] * 3 + [True] * 9  # the first frames show nobody
    assert (tmp_path / "out/body.glb").read_bytes().startswith(b"glTF")
