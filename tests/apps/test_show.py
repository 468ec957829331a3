"""Live: the newest frame and no queue, the page, and VMC read by a receiver of our own."""

import functools
import http.client
import itertools
import queue
import re
import socket
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import kinlmr
from kinlmr.video import app, crowd, frames, live, pictures, show, stage, vmc
from kinlmr.video.arguments import arguments

av = pytest.importorskip("av")
DATA = Path(__file__).parents[2] / "kinlmr/video/data"
BODY = kinlmr.load_body("anny24_lo369")
NOBODY = np.zeros((0, 17, 3), np.float32)


def shot(number, at=None, value=0):
    picture = np.full((16, 32, 3), value, np.uint8)
    return frames.Shot(number, number / 30 if at is None else at, picture, NOBODY)


def until(true):
    """Waits for a thread."""
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


# ------------------------------------------------------------------------------------------------ nothing is in a queue


def assert_newest(reader, groups):
    """Of each group of frames that comes between two questions the last is answered; the others are dropped."""
    gate, asked = threading.Semaphore(1), []

    def source():
        for k in range(1 + sum(groups)):
            asked.append(k)
            gate.acquire()
            yield shot(k)
        asked.append(-1)

    found = reader(source(), False)
    answers, expected = [next(found).number], [0, *np.cumsum(groups)]
    for size, count in zip(groups, np.cumsum(groups) + 2, strict=True):
        gate.release(size)
        until(lambda count=count: len(asked) == count)  # the last has been taken from the source
        answers.append(next(found).number)
    assert answers == expected
    assert next(found, None) is None
    assert found.dropped == sum(groups) - len(groups)


class Queue:
    """Frames wait in a queue."""

    def __init__(self, shots, _):
        self.waiting = queue.Queue()
        threading.Thread(target=lambda: [self.waiting.put(one) for one in shots], daemon=True).start()

    def __next__(self):
        return self.waiting.get()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_of_frames_that_come_late_the_newest_is_taken(groups):
    assert_newest(live.Newest, groups)


def test_the_law_of_the_newest_can_fail():
    with pytest.raises(AssertionError):
        assert_newest(Queue, [3, 2])


def test_a_reader_that_fails_says_so_and_one_that_is_closed_reads_no_further():
    def broken():
        yield shot(0)
        raise ValueError("the camera fell")

    found = live.Newest(broken(), False)
    with pytest.raises(ValueError, match="the camera fell"):
        list(found)
    endless = live.Newest(map(shot, itertools.count()), True)
    assert next(endless).number == 0
    endless.close()
    assert not endless.thread.is_alive()


def test_a_file_comes_at_its_own_rate():
    begun = time.monotonic()
    found = list(live.Newest(iter([shot(0), shot(1, 0.2)]), True))
    assert [one.number for one in found] == [0, 1]
    assert found[1].arrived - begun >= 0.2


def assert_prompt(bursts, times, fps):
    """After each frame everything is out that is due with it, and nothing that is not."""
    near, last = frames.NEAR / fps + 1e-9, -1.0
    for time_, group in zip(times, bursts([shot(k, at) for k, at in enumerate(times)], fps), strict=True):
        assert all(tick.time <= time_ + near for tick in group)
        last = group[-1].time if group else last
        assert time_ - last < 1 / fps + near


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.005, 0.5), min_size=2, max_size=9), st.sampled_from([15.0, 29.97, 60.0]))
def test_what_is_due_with_a_frame_waits_for_no_other(gaps, fps):
    assert_prompt(frames.bursts, np.cumsum(gaps), fps)


@pytest.mark.parametrize("late", [lambda groups: [[], *groups[:-1]], lambda groups: [*groups[1:], []]])
def test_the_law_of_what_is_due_can_fail(late):
    with pytest.raises(AssertionError):
        assert_prompt(lambda *given_: late(list(frames.bursts(*given_))), [0.0, 0.1, 0.2, 0.3], 30.0)


def video(count=30, size=(32, 16)):
    return frames.Video("a", 30.0, 30.0, size, size, size, 1.0, count, iter(map(shot, range(count))))


def test_in_the_place_of_pictures_that_come_too_late_is_the_last_that_was_drawn():
    with live.Live(video(), BODY, 40.0, True, show=0) as now:
        some = [shot(k, value=k) for k in range(5)]
        assert [x[:, :32].max() for x in now.take(some[:3], [None] * 3, True)] == [2, 2, 2]
        assert [x[:, :32].max() for x in now.take(some[3:], [None] * 2, True)] == [2, 4]
        assert now.take(some[3:], [None] * 2, False) == []
        assert now.page.newest is None  # nobody looked
        now.page.watched = 1
        now.take(some[3:], [None] * 2, False)
        assert now.page.newest[1].shape == (16, 48, 3)  # with the view from the side


@pytest.mark.parametrize(("limit", "stop", "count"), [(None, 99, 30), (7, 99, 7), (None, 4, 5)])
def test_live_frames_end_with_the_source_at_a_limit_or_by_ctrl_c(limit, stop, count):
    with live.Live(video(), BODY, 40.0, True) as now:
        stopped, seen = [], []
        for chunk in now.chunks(iter(map(shot, range(30))), 30.0, limit, stopped):
            seen += chunk
            stopped += [2] * (len(seen) > stop)
    assert [one.number for one in seen] == list(range(count))


# ------------------------------------------------------------------------------------------------------------- the page


@pytest.fixture
def page():
    served = []
    found = show.Page(0, served.append, lambda: "all is well")
    found.told = served
    yield found
    found.close()


def asked(page, path, **headers):
    connection = http.client.HTTPConnection(*page.server.server_address, timeout=20)
    connection.request("GET", path, headers=headers)
    return connection.getresponse()


def test_the_page_is_for_this_machine_alone(page):
    assert page.server.server_address[0] == "127.0.0.1"
    assert page.url == f"http://127.0.0.1:{page.server.server_address[1]}"
    answer = asked(page, "/")
    html = answer.read().decode()
    assert 'src="/stream"' in html
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert not re.search(r"https?://", html)  # nothing from elsewhere
    assert asked(page, "/state").read() == b"all is well"
    assert asked(page, "/etc/passwd").status == 404
    assert asked(page, "/stream", Host="elsewhere.example").status == 403
    with pytest.raises(ValueError, match=r"--show \d+: the port cannot be had .*a free one"):
        show.Page(page.server.server_address[1], page.told.append, str)


def part(answer):
    """The next picture of a stream."""
    while not (line := answer.readline()).startswith(b"Content-Length:"):
        assert line
    answer.readline()
    data = answer.read(int(line.split(b":")[1]))
    assert answer.readline() == b"\r\n"
    assert answer.readline() == b"--next\r\n"  # the next has begun: browsers show this one
    picture = av.CodecContext.create("mjpeg", "r").decode(av.Packet(data))[0]
    return picture.to_ndarray(format="rgb24").astype(float)


def test_a_stream_has_each_picture_as_it_comes_and_ends_with_the_page(page):
    ramp = np.linspace(0, 200, 64 * 48 * 3).reshape(48, 64, 3).astype(np.uint8)
    page.put(ramp, 1.0)
    answer = asked(page, "/stream")
    assert answer.headers["Content-Type"] == "multipart/x-mixed-replace; boundary=next"
    assert np.abs(part(answer) - ramp).mean() < 3
    page.put(255 - ramp, 2.0)
    assert np.abs(part(answer) - (255.0 - ramp)).mean() < 3
    until(lambda: len(page.told) == 2)
    assert page.told == [1.0, 2.0]
    assert page.watched == 1
    page.close()
    assert answer.read() == b""
    until(lambda: page.watched == 0)


def test_a_browser_that_is_slow_gets_the_newest_picture(page):
    page.put(np.zeros((2, 2, 3), np.uint8), 0)
    reading = page.pictures()
    assert next(reading)[1] == 0
    for k in range(1, 4):
        page.put(np.zeros((2, 2, 3), np.uint8), k)
    assert next(reading)[1] == 3
    page.close()
    assert next(reading, None) is None


# ------------------------------------------------------------------------------------------------------------------ OSC


def decoded(packet):
    """The messages of an OSC 1.0 packet, from its specification."""
    if not packet.startswith(b"#bundle\0"):
        return [decoded_message(packet)]
    assert packet[8:16] == struct.pack(">Q", 1)  # at once
    found, at = [], 16
    while at < len(packet):
        (size,) = struct.unpack_from(">i", packet, at)
        assert size % 4 == 0
        found += decoded(packet[at + 4 : at + 4 + size])
        at += 4 + size
    assert at == len(packet)
    return found


def decoded_message(data):
    at = 0

    def text():
        nonlocal at
        end = data.index(b"\0", at)
        value, after = data[at:end].decode(), at + (end - at) // 4 * 4 + 4
        assert not any(data[end:after])
        at = after
        return value

    address, kinds, values = text(), text(), []
    assert kinds[0] == ","
    for kind in kinds[1:]:
        if kind == "s":
            values.append(text())
        else:
            values += struct.unpack_from(f">{kind}", data, at)
            at += 4
    assert at == len(data)
    return (address, *values)


VALUES = st.one_of(
    st.integers(-(2**31), 2**31 - 1), st.floats(width=32, allow_nan=False), st.text("abcXYZ-_ 09", max_size=9)
)
MESSAGES = st.lists(
    st.tuples(st.sampled_from(["/a", "/abc", "/VMC/Ext/OK"]), st.lists(VALUES, max_size=8)), max_size=40
)


@settings(max_examples=40, deadline=None)
@given(MESSAGES)
def test_a_receiver_gets_what_was_sent_in_packets_that_are_not_split(given_):
    sent = list(vmc.packets([vmc.message(address, *values) for address, values in given_]))
    assert [one for packet in sent for one in decoded(packet)] == [(address, *values) for address, values in given_]
    assert all(len(packet) <= 1400 for packet in sent)


# ---------------------------------------------------------------------------------------------------------------- bones

SIDE = {  # Unity's HumanBodyBones, the limbs: each one's parent
    "Shoulder": "UpperChest", "UpperArm": "Shoulder", "LowerArm": "UpperArm", "Hand": "LowerArm", "UpperLeg": "Hips",
    "LowerLeg": "UpperLeg", "Foot": "LowerLeg", "Toes": "Foot",
}  # fmt: skip
PARENTS = {"Hips": None, "Spine": "Hips", "Chest": "Spine", "UpperChest": "Chest", "Neck": "UpperChest", "Head": "Neck"}
PARENTS |= {
    f"{side}{bone}": parent if parent in PARENTS else f"{side}{parent}"
    for side in ("Left", "Right")
    for bone, parent in SIDE.items()
}


def turned(q, p):
    """A point turned by a quaternion (x, y, z, w), as Unity does it."""
    axis = np.cross(q[:3], p)
    return p + 2 * (q[3] * axis + np.cross(q[:3], axis))


def product(a, b):
    """First b, then a."""
    return np.array([*(a[3] * b[:3] + b[3] * a[:3] + np.cross(a[:3], b[:3])), a[3] * b[3] - a[:3] @ b[:3]])


def posed(bones):
    """Where each bone is, of positions and quaternions relative to the parents'."""
    places, turns = {}, {}
    for name, parent in PARENTS.items():
        p, q = np.array(bones[name][:3]), np.array(bones[name][3:])
        places[name] = p if parent is None else places[parent] + turned(turns[parent], p)
        turns[name] = q if parent is None else product(turns[parent], q)
    return places


def pose(seed):
    """A body somewhere: rotations (J, 3, 3), shape (S), translation (3)."""
    made = torch.Generator().manual_seed(seed)
    axis_angle = torch.randn(24, 3, generator=made)
    return (
        kinlmr.rotations.axis_angle_to_matrix(axis_angle),
        torch.randn(BODY.shape_width, generator=made),
        torch.randn(3, generator=made),
    )


def assert_mirrored(bones, seed):
    """Unity's skeleton, put together from the bones, is ours in a mirror across x."""
    rotations, shape, translation = pose(seed)
    found = posed(bones(BODY, rotations, shape, translation))
    joints = BODY(rotations[None], shape, translation[None]).joints[0].numpy()
    for joint, name in vmc.BONES.items():
        np.testing.assert_allclose(found[name], joints[BODY.joints.index(joint)] * [-1, 1, 1], atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31))
def test_the_bones_are_our_joints_in_unitys_axes(seed):
    assert_mirrored(vmc.bones, seed)


def test_the_law_of_bones_can_fail(monkeypatch):
    monkeypatch.setattr(vmc, "mirrored", lambda p, m: (p, kinlmr.rotations.matrix_to_quaternion(m)[..., [1, 2, 3, 0]]))
    with pytest.raises(AssertionError):
        assert_mirrored(vmc.bones, 0)


def test_every_bone_has_unitys_name_and_is_not_turned_in_the_t_pose():
    assert set(vmc.BONES.values()) == set(PARENTS)
    rest = vmc.bones(BODY, torch.eye(3).expand(24, 3, 3), torch.zeros(BODY.shape_width), torch.zeros(3))
    for numbers in rest.values():
        assert numbers[3:] == pytest.approx((0, 0, 0, 1))
    places = posed(rest)
    assert places["LeftHand"][0] < -0.4  # x to the right of somebody who looks along z
    assert places["RightHand"][0] > 0.4
    assert places["LeftToes"][2] > places["LeftFoot"][2] + 0.05
    assert places["Head"][1] > places["Hips"][1] > places["LeftFoot"][1]


# ------------------------------------------------------------------------------------------------------ who is followed


@functools.cache
def scenes(count=40):
    """The first frames of the clip that comes along, with its man, as the application has them."""
    keypoints = np.load(DATA / "demo.npz")["keypoints"][1:, :count].astype(np.float32)
    place = functools.partial(kinlmr.to_world, fps=30.0, size=(640, 360), focal=734.0, body=BODY)
    people = crowd.Crowd(kinlmr.load("anny24-coco17"), 30.0, place).take(keypoints, 0)
    found = pictures.Relay(BODY, 30.0, stage.Stage((90, 90))).scenes(people, count)
    return [shot(k)._replace(keypoints=keypoints[:, k]) for k in range(count)], found


def followed(sizes, count=40):
    """Worlds after chunks of these sizes, by frame."""
    follower, (shots, found) = vmc.Follower(BODY, 30.0, (640.0, 360.0), 734.0, None), scenes()
    worlds, at, size = {}, 0, itertools.cycle(sizes)
    while at < count:
        low, at = at, min(at + next(size), count)
        worlds[at - 1] = follower.take(shots[low:at], found[low:at])
    return worlds


def test_somebody_stands_over_the_origin_whatever_the_chunks():
    one, other = followed([1]), followed([3, 1])
    first = vmc.bones(BODY, *one[0][:1], one[0].shape, one[0].translation)["Hips"]
    assert first[:3:2] == pytest.approx((0, 0), abs=1e-5)
    assert 0.5 < first[1] < 1.3
    for at, world in other.items():
        for x, y in zip(one[at], world, strict=True):
            np.testing.assert_allclose(x, y, atol=2e-3)


def test_who_leaves_is_followed_by_the_next_who_begins_over_the_origin():
    shots, found = scenes()
    second = [scene._replace(rows=[1]) for scene in found]
    both = [scene._replace(rows=[0, 1], recovery=kinlmr.Recovery(*(torch.cat([x, x]) for x in scene.recovery)))
            for scene in found]  # fmt: skip
    shots = [one._replace(keypoints=one.keypoints.repeat(2, 0)) for one in shots]
    follower = vmc.Follower(BODY, 30.0, (640.0, 360.0), 734.0, None)
    assert follower.take(shots[:1], [None]) is None
    assert follower.take(shots[:2], both[:2]) is not None
    assert follower.row == 0
    assert follower.take(shots[:20], second[:20]) is None  # they may come back
    assert follower.take(shots[:1], both[:1]) is not None
    assert follower.row == 0
    assert follower.take(shots[:20], second[:20]) is None
    world = follower.take(shots[:20], second[:20])
    assert follower.row == 1
    assert world is not None
    assert torch.linalg.vector_norm(world.translation[[0, 2]]) < 1.0


def received(receiver):
    """The messages that wait at a socket."""
    receiver.settimeout(0.2)
    found = []
    while True:
        try:
            found += decoded(receiver.recv(2048))
        except TimeoutError:
            return found


@pytest.fixture
def receiver():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.bind(("127.0.0.1", 0))
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        yield found


def test_a_frame_of_somebody_and_one_of_nobody(receiver):
    sender = vmc.Vmc(receiver.getsockname())
    world = followed([8])[39]
    sender.send(1.5, BODY, world)
    sender.send(2.5, BODY, None)
    sender.close()
    *somebody, ok, clock = received(receiver)
    assert (ok, clock) == (("/VMC/Ext/OK", 1), ("/VMC/Ext/T", 2.5))
    assert somebody[:2] == [("/VMC/Ext/OK", 1), ("/VMC/Ext/T", 1.5)]
    assert somebody[2] == ("/VMC/Ext/Root/Pos", "root", 0, 0, 0, 0, 0, 0, 1)
    assert {one[0] for one in somebody[3:]} == {"/VMC/Ext/Bone/Pos"}
    places = posed({name: numbers for _, name, *numbers in somebody[3:]})
    joints = BODY(*(x[None] for x in (world.rotations, world.shape, world.translation))).joints[0].numpy()
    for joint, name in vmc.BONES.items():
        np.testing.assert_allclose(places[name], joints[BODY.joints.index(joint)] * [-1, 1, 1], atol=1e-5)


def test_what_cannot_be_sent_is_said_once_and_a_host_that_is_none_is_refused(caplog):
    sender = vmc.Vmc(("127.0.0.1", 9))
    sender.close()
    for _ in range(3):
        sender.send(0.0, BODY, None)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    with pytest.raises(ValueError, match="--vmc no host:9: there is no such host"):
        vmc.Vmc(("no host", 9))


# ---------------------------------------------------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("line", "videos", "show", "vmc"),
    [
        ("", 1, None, None), ("--show", 1, 0, None), ("--show 8000", 1, 8000, None),
        ("--vmc", 1, None, ("127.0.0.1", 39539)), ("--vmc 9000 --show", 1, 0, ("127.0.0.1", 9000)),
        ("--vmc 10.0.0.2", 1, None, ("10.0.0.2", 39539)), ("--vmc a.b:70", 1, None, ("a.b", 70)),
        (f"--show {DATA}/demo.mp4", 1, 0, None), (f"--vmc {DATA}/demo.mp4", 1, None, ("127.0.0.1", 39539)),
        ("--camera 0 --show --vmc :71", 0, 0, ("127.0.0.1", 71)),
    ],
)  # fmt: skip
def test_ports_and_hosts_have_defaults_and_a_file_is_the_video(line, videos, show, vmc):
    args = arguments(line.split())
    assert (len(args.videos), args.show, args.vmc) == (videos, show, vmc)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--show 70000", "--show 70000: a port is a number up to 65535"), ("--show a.mp4", "there is no such file"),
        ("--vmc a:b", "--vmc a:b: expected HOST:PORT"), ("a.mp4 b.mp4 --show", "for one video or a camera, not for 2"),
    ],
)  # fmt: skip
def test_what_is_no_port_is_refused(line, says, capsys):
    with pytest.raises(SystemExit, match="^2$"):
        arguments(line.split())
    assert says in capsys.readouterr().err


def test_a_clip_is_shown_and_sent_while_it_runs_and_its_files_are_written(tmp_path, monkeypatch, capsys, receiver):
    pages, seen = [], []

    class Looked(show.Page):
        def __init__(self, *given_):
            super().__init__(*given_)
            pages.append(self)
            answer = asked(self, "/stream")
            threading.Thread(target=lambda: seen.append(part(answer)), daemon=True).start()
            until(lambda: self.watched)

    monkeypatch.setattr(live, "Page", Looked)
    port = receiver.getsockname()[1]
    assert app.main(["--show", "--vmc", str(port), "--seconds", "1", "--size", "320", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().err
    assert f"{pages[0].url} shows it" in said
    assert re.search(r"served: \d+, latency \d+ ms in the median, \d+ ms for 95 %; sent: \d+, .*; dropped: \d+\n", said)
    assert seen[0].shape == (180, 500, 3)
    names = {message[1] for message in received(receiver) if message[0] == "/VMC/Ext/Bone/Pos"}
    assert names == set(PARENTS)
    assert {path.name for path in tmp_path.iterdir()} >= {"overlay.mp4", "body.glb", "recovery.npz"}
    assert len(list(frames.open_video(tmp_path / "overlay.mp4").shots)) == 30
    assert np.load(tmp_path / "recovery.npz")["box"].shape[1] == 30
