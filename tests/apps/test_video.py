"""The command `kinlmr`: videos in and out, people from frame to frame, the whole on a few frames."""

import contextlib
import functools
import itertools
import json
import logging
import re
import signal
import sys
import threading
import time
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
from kinlmr.video import app, crowd, detectors, frames, hdr, pictures, process, readers, results, stage

av = pytest.importorskip("av")
ROOT = Path(__file__).parents[2]
DATA = ROOT / "kinlmr/video/data"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Bodies of few vertices."""
    monkeypatch.setattr(app, "BODY", "anny24_lo369")


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


@pytest.mark.parametrize(("quarters", "matrix"), [(1, (0, 1, -1, 0)), (2, (-1, 0, 0, -1)), (3, (0, -1, 1, 0))])
def test_a_rotated_phone_video_comes_upright(tmp_path, quarters, matrix):
    path = video_file(tmp_path / "a.mp4")
    plain = frames.open_video(path, None, 1280)
    assert (plain.size, plain.source_size, plain.fps) == ((64, 48), (64, 48), 30)
    stored = [shot.picture for shot in plain.shots]
    assert len(stored) == 12
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: the matrix (ISO 14496-12, 8.3.2)
    a, b, c, d = (0x10000 * one for one in matrix)
    data[at : at + 36] = np.array([a, b, 0, c, d, 0, 48 << 16, 0, 0x40000000], ">i4").tobytes()  # turns clockwise
    path.write_bytes(data)
    turned = frames.open_video(path, None, 1280)
    picture = next(turned.shots).picture
    assert (turned.size, turned.source_size) == (((48, 64), (48, 64)) if quarters % 2 else ((64, 48), (64, 48)))
    np.testing.assert_array_equal(picture, np.rot90(stored[0], -quarters))
    assert (picture != stored[0].reshape(picture.shape)).any()


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


@pytest.mark.parametrize("aspect", [Fraction(16, 11), Fraction(1, 2)])
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
        for packet in itertools.islice(self.container.demux(stream), self.packets):
            time.sleep(1 / 30)  # a camera's frames come at its rate
            yield packet
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


def encoded(light, transfer):
    """PQ's or HLG's value of RGB light (..., 3) of a display, in nits of BT.2020 (BT.2100, tables 4 and 5)."""
    if transfer == hdr.PQ:
        power = (light / 10000) ** 0.1593017578125
        return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    shown = light / 1000
    scene = shown * np.maximum(shown @ hdr.LUMINANCE, 1e-9)[..., None] ** (1 / 1.2 - 1)
    high = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), high)


def hdr_file(path, value, transfer):
    """A video of 10 bits with one colour, of values (3) from 0 to 1, by BT.2020."""
    red, _, blue = value
    grey = float(value @ hdr.LUMINANCE)
    stored = [64 + 876 * grey, 512 + 896 * (blue - grey) / 1.8814, 512 + 896 * (red - grey) / 1.4746]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv444p10le"
        context = stream.codec_context
        context.colorspace, context.color_trc, context.color_primaries, context.color_range = 9, transfer, 9, 1
        frame = av.VideoFrame(16, 16, "yuv444p10le")
        for plane, one in zip(frame.planes, stored, strict=True):
            plane.update(np.full(plane.buffer_size // 2, round(one), np.uint16).tobytes())
        frame.colorspace, frame.color_range = 9, 1
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("transfer", [hdr.PQ, hdr.HLG])
@pytest.mark.parametrize("color", [(0.5, 0.5, 0.5), (0.5, 0.2, 0.1), (0.05, 0.4, 0.3), (0.01, 0.02, 0.5)])
def test_hdr_of_ordinary_light_becomes_the_ordinary_picture(tmp_path, transfer, color):
    """Light of BT.709's colours, 1 for white paper of 203 nits, comes back as sRGB's values; the law can fail."""
    light = np.linalg.inv(hdr.COLORS.astype(float)) @ color * 203
    expected = 255 * (1.055 * np.array(color) ** (1 / 2.4) - 0.055)
    for told in (transfer, 1):
        path = hdr_file(tmp_path / f"{told}.mkv", encoded(light, transfer), told)
        error = np.abs(next(frames.open_video(path).shots).picture[8, 8] - expected)
        assert (error.max() < 8) == (told == transfer)


@pytest.mark.parametrize("transfer", [hdr.PQ, hdr.HLG])
def test_more_light_is_never_darker_and_the_brightest_is_white(transfer):
    grey = np.arange(256, dtype=np.uint8)[:, None, None].repeat(3, 2)
    seen = hdr.ordinary(grey, transfer)[:, 0].astype(int)
    assert (np.ptp(seen, axis=1) <= 1).all()
    assert (np.diff(seen[:, 1]) >= 0).all()
    assert (seen[0] == 0).all()
    assert (seen[-1] == 255).all()
    assert (hdr.ordinary(grey, 1) == grey).all()


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
    """The sheet fits, the bodies after it do not."""
    film = video_file(tmp_path / "a.mp4", 3)
    np.save(tmp_path / "k.npy", np.repeat(person(17, (17, -16))[None, None], 3, 1))
    with disk(20_000):
        said = refused(capsys, film, "--keypoints", tmp_path / "k.npy", "--out", tmp_path / "out")
    assert re.search("error: .*could not be written, .*body.glb", said)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["contact.png"]


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
    app.main(["--out", str(tmp_path), "--seconds", "2.2", "--size", "320"])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"overlay.mp4", "contact.png", "body.glb", "person1.bvh", "person2.bvh", "recovery.npz"}
    result = np.load(tmp_path / "recovery.npz")
    assert result["rotations"].shape == (2, 66, 24, 3, 3)
    known = np.isfinite(result["translation"]).all(-1)
    assert known[1].all()
    assert (known[0] == (np.arange(66) >= 56)).all()  # the woman comes at frame 56
    stands = torch.from_numpy(result["world_translation"]), torch.from_numpy(result["world_shape"])
    body = kinlmr.load_body(app.BODY)
    joints = body(torch.from_numpy(result["world_rotations"]), stands[1], stands[0]).joints
    assert joints[0, 56:, :, 1].amin(1).abs().max() < 0.15  # the woman on the floor
    assert (joints[1, :, :, 1].amin(1) > 1).all()  # the man on the roof
    assert 0.2 < (result["contact"][1].max((1, 2)) > 0.5).mean() < 0.8  # who jumps
    np.testing.assert_allclose(np.linalg.norm(result["up"][1], axis=-1), 1, atol=1e-5)
    before = [s.picture for s in frames.open_video(DATA / "demo.mp4", None, 320).shots][:66]
    after = [s.picture for s in frames.open_video(tmp_path / "overlay.mp4", None, 1280).shots]
    assert len(after) == 66
    assert after[60].shape == (180, 320 + 180, 3)
    changed = np.abs(after[60][:, :320].astype(int) - before[60]).sum(2) > 60
    assert 0.005 < changed.mean() < 0.1
    for row in (0, 1):  # the body is drawn where the keypoints are
        x, y, sure = result["keypoints"][row, 60].T
        inside = [changed[int(b / 2), int(a / 2)] for a, b, s in zip(x, y, sure, strict=True) if s > 0.5]
        assert np.mean(inside) > 0.6
    assert tuple(result["joints"]) == body.joints
    said = capsys.readouterr()
    assert re.search(r"\n66/66 frames read, \d+ a second, people: 2\n66/66 frames drawn, \d+ a second\n$", said.err)
    files = "overlay.mp4, contact.png, body.glb, person1.bvh, person2.bvh, recovery.npz"
    assert said.out == f"{tmp_path}: {files}\n"


def tiny():
    """A random model of a few numbers."""
    torch.manual_seed(0)
    body = "anny24_lo369"
    sizes = {"hidden": 4, "shape_hidden": 4, "iterations": 1}
    return kinlmr.build("smpl_single.yaml", keypoints="coco17", body=body, **sizes).eval()


def placed(fps):
    """`to_world` for a video of 640 x 480 pixels."""
    body = kinlmr.load_body("anny24_lo369")
    return functools.partial(kinlmr.to_world, fps=fps, size=(640, 480), focal=800.0, body=body)


def crowded(model, points, fps, sizes):
    """What a crowd makes of keypoints (P, T, K, 3) in chunks of these sizes: recovery and world by row and frame; and
    which frames show whom (P, T)."""
    people, frame, found = crowd.Crowd(model, fps, placed(fps)), 0, {}
    shown = np.zeros(points.shape[:2], bool)
    for size in itertools.islice(itertools.cycle(sizes), points.shape[1]):
        chunk = points[:, frame : frame + size]
        for low, rows, recovery, world, on in people.take(chunk, frame):
            assert recovery.box.shape[:2] == on.shape == (len(rows), on.shape[1])
            shown[rows, frame + low : frame + low + on.shape[1]] = on
            for k, t in np.ndindex(on.shape):
                found[rows[k], frame + low + t] = [x[k, t] for x in recovery], [x[k, t] for x in world]
        frame += chunk.shape[1]
    return found, shown


def recovered(found, row, frames):
    """Somebody's recovery (T, ...) in these frames."""
    return [torch.stack(x) for x in zip(*(found[row, frame][0] for frame in frames), strict=True)]


@pytest.fixture
def crossing(monkeypatch):
    """One is there throughout, one comes in the middle, one leaves for a moment and later for long, one never comes."""
    monkeypatch.setattr(crowd, "AWAY", 1 / 3)  # 10 frames
    monkeypatch.setattr(crowd, "SHOWN", 0.1)  # 3
    points = np.stack([[person(17, (100 * p + 2 * t, 10)) for t in range(50)] for p in range(4)])
    points[1, :13] = 0
    for low, high in ((5, 10), (20, 38), (45, 50)):
        points[2, low:high] = 0
    points[3] = 0
    return points


def assert_same_crowd(one, two, atol=1e-4):
    assert one.keys() == two.keys()
    for key, (recovery, world) in one.items():
        assert_same(recovery, two[key][0], atol)
        for x, y in zip(world, two[key][1], strict=True):
            torch.testing.assert_close(x, y, atol=20 * atol, rtol=1e-4, equal_nan=True)  # knees have square roots


def test_people_of_a_camera_come_go_and_return_and_chunks_change_nothing(crossing):
    model, fps, points = tiny(), 30.0, crossing
    found, shown = crowded(model, points, fps, [16])
    there = {0: range(50), 1: range(13, 50), 2: [*range(30), *range(38, 50)]}  # who leaves is estimated further
    assert found.keys() == {(row, frame) for row, frames in there.items() for frame in frames}
    for sizes in ([1, 4], [7]):
        other, on = crowded(model, points, fps, sizes)
        assert (on == shown).all()
        assert_same_crowd(found, other)
    for row, some in ((0, range(20)), (1, range(13, 20)), (2, range(20)), (2, range(38, 45))):  # as if new
        alone, _ = kinlmr.recover(model, torch.from_numpy(points[row, some]), fps)
        assert_same(recovered(found, row, some), alone, 1e-4)
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
    found, shown = crowded(model, points, fps, [1])
    for size in (7, 16):
        other, on = crowded(model, points, fps, [size])
        assert (on == shown).all()
        assert_same_crowd(found, other)


def test_people_of_a_file_are_recovered_by_all_their_frames_and_stand_on_one_floor(crossing):
    model, fps, points = tiny(), 30.0, crossing
    place = placed(fps)
    given = []
    takes = crowd.takes(model, points, fps, lambda *x, **more: given.append((x, more)) or place(*x, **more))
    assert [(take.row, take.start, len(take.shown)) for take in takes] == [(0, 0, 50), (1, 13, 37), (2, 0, 45)]
    for take, stretches in zip(takes, ([(0, 50)], [(13, 50)], [(0, 20), (38, 45)]), strict=True):
        there = np.zeros(50, bool)
        for low, high in stretches:
            alone = kinlmr.recover_clip(model, points[take.row, low:high], fps)
            assert_same([x[low - take.start : high - take.start] for x in take.recovery], alone, 1e-5)
            there[low:high] = True
        there = there[take.start :][: len(take.shown)]
        assert ((take.recovery.box[:, 2] > 0).numpy() == there).all()
        assert (take.world.translation.isfinite().all(1).numpy() == there).all()
        assert not take.shown[~there].any()
    assert takes[2].shown.tolist() == [k not in range(20, 38) for k in range(45)]  # 5 frames away: 3 to either side
    ((recovery,), more), (one, *others) = given[0], takes
    whole = place(recovery, **more)
    for k, take in enumerate(takes):
        for x, y in zip(take.world, whole, strict=True):
            torch.testing.assert_close(x, y[k, : len(x)], equal_nan=True)
    assert all(torch.equal(take.world.up[0], one.world.up[0]) for take in others)


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(0, 8))
def test_who_is_near_enough_to_keypoints_is_shown(seen, reach):
    frames = np.flatnonzero([True, *seen, True])
    found = crowd._near(frames, reach)
    assert found.tolist() == [bool(min(abs(frames - k)) <= reach) for k in range(frames[-1] + 1)]


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


@pytest.fixture
def standing(tmp_path):
    """A film of somebody who stands, and what the command takes for it."""
    np.save(tmp_path / "k.npy", np.repeat(person(17, (17, -16))[None, None], 4, 1))
    return [video_file(tmp_path / "a.mp4", 4), "--keypoints", tmp_path / "k.npy", "--no-overlay"]


def test_a_height_scales_all_lengths_of_the_files(tmp_path, standing):
    usual, tall = ran(*standing, tmp_path / "a"), ran(*standing, "--height", 2.05, tmp_path / "b")
    one, two = (np.load(files["recovery.npz"]) for files in (usual, tall))
    body = kinlmr.load_body(app.BODY)
    assert (one["scale"] == 1).all()
    before = results.tallness(body, torch.from_numpy(one["shape"][0].mean(0)))
    assert two["scale"] * before == pytest.approx(2.05, abs=1e-3)
    assert results.tallness(body, torch.from_numpy(two["world_shape"][0, 0])) == pytest.approx(2.05, abs=0.02)
    np.testing.assert_allclose(two["translation"], two["scale"] * one["translation"], rtol=1e-5)
    rest = body.joints_at_rest(torch.from_numpy(two["world_shape"][0, :1]))[0].numpy()
    bones = np.linalg.norm(rest[1:] - rest[list(body.parents[1:])], axis=1)
    written = np.linalg.norm(offsets(tall["person1.bvh"]), axis=1)
    assert np.abs(written[:, None] - bones).min(0).max() < 1e-5
    for key in ("rotations", "rotations_in_camera", "shape", "camera", "box", "keypoints"):
        np.testing.assert_array_equal(one[key], two[key])


def test_bones_of_other_characters(tmp_path, standing, capsys):
    usual = ran(*standing, tmp_path / "usual")["person1.bvh"]
    found = ran(*standing, "--rig", "mixamo", tmp_path / "mixamo")
    assert b"mixamorig:Hips" in found["body.glb"].read_bytes()
    assert "ROOT mixamorig:Hips" in (text := found["person1.bvh"].read_text())
    assert text.count("mixamorig:") == 24
    np.testing.assert_allclose(offsets(found["person1.bvh"]), 100 * offsets(usual), atol=1e-4)
    found = ran(*standing, "--rig", "vrm", "--scale", 10, tmp_path / "vrm")
    np.testing.assert_allclose(offsets(found["person1.bvh"]), 10 * offsets(usual), atol=1e-5)
    found = ran(*standing, "--rig", tmp_path / "usual/body.glb", tmp_path / "mesh")
    assert {"body.glb", "person1.bvh"} <= set(found)
    found = ran(*standing, "--rig", tmp_path / "mixamo/person1.bvh", tmp_path / "bvh")
    assert "ROOT mixamorig:Hips" in found["person1.bvh"].read_text()
    assert b"mixamorig" not in found["body.glb"].read_bytes()
    capsys.readouterr()
    for wrong, says in (
        (["--rig", "mixmo"], "error: --rig: body.glb: rig is 'mixmo', expected mixamo"),
        (["--rig", tmp_path / "none.glb"], "none.glb: no such file"),
        (["--rig", standing[0]], "a rig is a file of .bvh"),
        (["--rig", usual, "--scale", 100], "leave out scale=100"),
    ):
        assert says in refused(capsys, *standing, *wrong, "--out", tmp_path / "no")
        assert not (tmp_path / "no").exists()


def test_of_several_people_a_character_of_a_file_is_a_file_each(tmp_path):
    body, pose = kinlmr.load_body("anny24_lo369"), torch.eye(3).expand(3, 24, 3, 3)
    world = kinlmr.World(pose, torch.zeros(3, 3), torch.zeros(3, 10), torch.zeros(3, 2, 2), torch.zeros(3, 3))
    people = [crowd.Take(0, 0, None, world, None), crowd.Take(1, 2, None, world, None)]
    assert results.save_bodies(tmp_path, body, people, 30.0) == ["body.glb", "person1.bvh", "person2.bvh"]
    rig = str(tmp_path / "body.glb")
    names = results.save_bodies(tmp_path, body, people, 30.0, rig)
    assert names == ["body1.glb", "body2.glb", "person1.bvh", "person2.bvh"]
    assert {path.name for path in tmp_path.iterdir()} == {*names, "body.glb"}


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
    assert "21/40 frames read" in (said := capsys.readouterr().err)
    assert "21/21 frames drawn" in said
    assert said.endswith("stopped\n")
    assert len(list(frames.open_video(found["a"] / "overlay.mp4").shots)) == 21
    assert np.load(found["a"] / "recovery.npz")["box"].shape[1] == 21
    assert signal.getsignal(signal.SIGINT) == usual


def test_progress_is_a_bar_on_a_terminal_and_a_line_now_and_then_in_a_log(capsys, monkeypatch, caplog):
    caplog.set_level("INFO", "kinlmr")
    bar = process.Progress(40, "read")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    bar.show(10)
    assert capsys.readouterr().err.startswith("\r[#####...............] 10/40 frames read, ")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    bar.show(20)
    assert caplog.messages == []
    bar.last -= 6
    bar.show(30)
    assert [text[:18] for text in caplog.messages] == ["30/40 frames read,"]
    assert capsys.readouterr().err == ""


# ------------------------------------------------------------------------------------------------ in the camera's frame


def test_the_files_have_the_recovery_the_camera_frame_and_the_world(tmp_path):
    where = person(17, (600, 10))
    np.save(tmp_path / "k.npy", np.repeat(where[None, None], 12, 1))
    film = video_file(tmp_path / "a.mp4")
    found = ran(film, "--keypoints", tmp_path / "k.npy", "--fov", 90, "--no-overlay", tmp_path / "out")
    result, body = np.load(found["recovery.npz"]), kinlmr.load_body(app.BODY)
    alone = kinlmr.recover_clip(kinlmr.load("anny24-coco17"), np.repeat(where[None], 12, 0), 30)
    np.testing.assert_allclose(result["rotations"][0], alone.rotations, atol=1e-4)
    turned, place = alone.in_camera((64, 48), 40, body)
    assert (turned - alone.rotations).abs().max() > 0.5
    np.testing.assert_allclose(result["rotations_in_camera"][0], turned, atol=1e-4)
    np.testing.assert_allclose(result["translation"][0], place, rtol=1e-4)
    world = kinlmr.to_world(alone, 30, (64, 48), 40, body=body, keypoints=np.repeat(where[None], 12, 0))
    for name, expected in zip(
        ("world_rotations", "world_translation", "world_shape", "contact", "up"), world, strict=True
    ):
        np.testing.assert_allclose(result[name][0], expected, atol=1e-3)
    motion = load_motion(found["person1.bvh"], body)
    root = kinlmr.rotations.axis_angle_to_matrix(torch.as_tensor(motion[0].axis_angle[:, body.root]).float())
    np.testing.assert_allclose(root, world.rotations[:, body.root], atol=1e-3)


# ---------------------------------------------------------------------------------------------------- in the world


def looking(size=(180, 160)):
    """A stage that holds somebody who walks, and where."""
    way = np.column_stack([np.linspace(-1, 2, 20), np.full(20, 0.9), np.linspace(-5, -4, 20)])
    view = stage.Stage(size)
    view.hold(way)
    return view, way


def test_all_who_are_held_are_in_the_picture_and_the_floor_under_them():
    view, way = looking()
    scale, middle = view.window([way[0]])
    points = np.concatenate([way, way * [1, 0, 1], way + np.array([0, 0.9, 0])])
    pixels = (stage.seen(points)[:, :2] - middle) * scale + np.array(view.size)[::-1] / 2
    assert (pixels > 0).all()
    assert (pixels < np.array(view.size)[::-1]).all()
    np.testing.assert_allclose(view.window([way[-1]])[1], middle)
    far = way[-1] + [40, 0, 0]  # who goes far is followed
    view.hold(far)
    scale, middle = view.window([far])
    assert scale == pytest.approx(view.size[0] / stage.LARGEST)
    assert (np.abs((stage.seen(far)[:2] - middle) * scale) < np.array(view.size)[::-1] / 2).all()


def test_the_floor_has_a_line_a_metre():
    view, _ = looking((360, 320))
    scale, middle = view.window([])
    picture = view.floor(scale, middle)
    for x, z in itertools.product((-0.5, 0.0, 0.5, 1.0), (-5.0, -4.5, -4.0)):
        at = (stage.seen(np.array([x, 0, z]))[:2] - middle) * scale + np.array([320, 360]) / 2
        value = picture[int(at[1]), int(at[0])].mean()
        assert (value < 215) == (x % 1 == 0 or z % 1 == 0)
    assert view.floor(scale, middle) is picture
    assert np.ptp(stage.Stage((8, 8)).draw()) < 5  # nobody was there yet


def test_in_the_world_people_stand_with_shadow_and_path(monkeypatch):
    body = kinlmr.load_body("anny24_lo369")
    view, way = looking()
    rest = body.joints_at_rest(torch.zeros(1, 10))[0, body.root]
    world = kinlmr.World(
        torch.eye(3).expand(20, 24, 3, 3), torch.from_numpy(way).float() - rest, torch.zeros(20, 10),
        torch.zeros(20, 2, 2), torch.zeros(20, 3),
    )  # fmt: skip
    zeros = torch.zeros(20, 3)
    recovery = kinlmr.Recovery(world.rotations, world.shape, zeros, zeros + 1)
    take = crowd.Take(0, 5, recovery, world, np.arange(20) != 3)
    replay = pictures.Replay([take], body, 30.0)
    assert [replay.scene(frame) is None for frame in (0, 4, 8, 25)] == [True] * 4
    scene = replay.scene(24)
    torch.testing.assert_close(
        scene.standing[0],
        body(*(x[-1] for x in (world.rotations, world.shape, world.translation)), want=("vertices",)).vertices,
    )
    np.testing.assert_allclose(scene.paths[0], way[[0, 5, 10, 15, 19]], atol=1e-5)
    relay = pictures.Relay(body, 30.0, stage.Stage(view.size))
    for t in range(20):
        parts = (type(x)(*(y[None, t : t + 1] for y in x)) for x in (recovery, world))
        piece = crowd.Piece(0, [0], *parts, np.ones((1, 1), bool))
        relay.add(piece)
    last = relay.scene(piece)
    assert_same([last.vertices, last.standing], [scene.vertices, scene.standing], 1e-6)
    np.testing.assert_allclose(last.paths[0], scene.paths[0], atol=1e-5)
    drawn, floor = pictures.beside(scene, body, replay.stage(view.size)), replay.stage(view.size).draw()
    changed = np.abs(drawn.astype(int) - floor).sum(2) > 30
    scale, middle = replay.stage(view.size).window([])
    for point in (way[19], way[12] * [1, 0, 1]):  # the body, and the path behind it
        x, y = ((stage.seen(point)[:2] - middle) * scale + np.array(view.size)[::-1] / 2).astype(int)
        assert changed[y - 1 : y + 2, x - 1 : x + 2].any()


# ------------------------------------------------------------------------------------------------------- read again


def test_a_file_that_ends_earlier_the_second_time_is_drawn_so_far(tmp_path, standing, monkeypatch, capsys):
    usual, reads = app.open_video, itertools.count()

    def other(*given):
        video = usual(*given)
        return video._replace(shots=itertools.islice(video.shots, 2 if next(reads) else None))

    monkeypatch.setattr(app, "open_video", other)
    found = ran(*standing[:3], tmp_path / "out")
    assert "2 of 4 frames could be read again; overlay.mp4 ends there" in capsys.readouterr().err
    assert len(list(frames.open_video(found["overlay.mp4"]).shots)) == 2
    assert np.load(found["recovery.npz"])["box"].shape[1] == 4
    monkeypatch.setattr(app, "open_video", usual)
    assert (
        app.main([*map(str, standing[:3]), "--seconds", "0.1", "--out", str(tmp_path / "b")]) == 0
    )  # more than before
    assert len(list(frames.open_video(tmp_path / "b/overlay.mp4").shots)) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes")
def test_a_pipe_cannot_be_read_twice(tmp_path, capsys):
    import os

    os.mkfifo(tmp_path / "a.mp4")
    assert "a.mp4: not a file; a video is read twice" in refused(capsys, tmp_path / "a.mp4", "--out", tmp_path / "out")


def test_what_the_floor_is_doubted_for_is_said_once_and_counts_from_1(tmp_path, standing, capsys):
    said = (capsys.readouterr(), ran(*standing[:3], "--fov", 170, tmp_path / "out"), capsys.readouterr())[-1].err
    assert said.count("warning: focal") == 1
    with process.told():
        for _ in range(2):
            logging.getLogger("kinlmr").warning("damaged")
    assert capsys.readouterr().err.count("damaged") == 1
    job = app.Job(
        None, tmp_path, SimpleNamespace(fps=30, source_size=(64, 48)), 80, None, None, SimpleNamespace(height=None)
    )
    import warnings

    with process.told(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(kinlmr, "to_world", lambda *_, **__: warnings.warn("person 0 never stands", stacklevel=1))
        job.place(None)
    assert "warning: person 1 never stands" in capsys.readouterr().err


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
