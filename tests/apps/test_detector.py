"""The detector that comes along: who is followed, without a network; MoveNet on a few frames; files of a user's."""

import functools
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from people import person

import kinlmr
from kinlmr import checkpoint
from kinlmr.video import app, detectors, following, frames, movenet, persons, topdown

ROOT = Path(__file__).parents[2]
DATA = ROOT / "kinlmr/video/data"

# -------------------------------------------------------------------------------------------- a world without networks


class World:
    """People at truth (P, T, 17, 3), confidence 0 where away; frames are their numbers.

    steals: pixels that a close look is led astray: it gives the first of those so much farther than the nearest.
    """

    def __init__(self, truth, steals=0.0):
        self.truth, self.steals, self.looks, self.closes = truth, steals, 0, 0

    def here(self, frame):
        now = self.truth[:, int(frame[0, 0, 0])]
        return now[now[:, 0, 2] > 0]

    def look(self, frame):
        self.looks += 1
        return [(points, 0.5) for points in self.here(frame)]

    def close(self, frame, window):
        self.closes += 1
        people = self.here(frame)
        if not len(people):
            return np.zeros((17, 3))
        away = np.linalg.norm(people[:, :, :2].mean(1) - [window.x, window.y], axis=1)
        return people[np.flatnonzero(away <= away.min() + self.steals)[0]]

    def frames(self):
        return [np.full((1, 1, 3), t, np.uint8) for t in range(self.truth.shape[1])]


def middle(points):
    return persons.Window(*points[:, :2].mean(0).tolist(), 100.0, 100.0)


def followed(world, people=4, every=6):
    """The answers of every frame, each in order of x."""
    detect = following.Follower(world.look, world.close, middle, people, every)
    answers = [detect(frame) for frame in world.frames()]
    return [answer[np.argsort(answer[:, :, 0].mean(1), kind="stable")] for answer in answers]


def walks(ways, start=0.0):
    """People (P, T, 17, 3) at ways (P, T), x in pixels, -1: away."""
    truth = np.stack([[person(17, (x, 10)) for x in way] for way in np.asarray(ways, float)])
    truth[..., 2] *= (np.asarray(ways) >= 0)[:, :, None]
    return truth


def assert_everybody_is_seen(world, late=0, **options):
    """Whoever has been there for so many frames is found in every frame, once, where they are; and nobody else."""
    there = world.truth[:, :, 0, 2] > 0
    for t, answer in enumerate(followed(world, **options)):
        expected = world.truth[there[:, t], t]
        expected = expected[np.argsort(expected[:, :, 0].mean(1), kind="stable")]
        if not there[:, max(t - late, 0) : t + 1].all(1).any():
            continue
        if (there[:, max(t - late, 0) : t + 1].all(1) == there[:, t]).all():
            assert answer.shape == expected.shape, t
            np.testing.assert_allclose(answer, expected, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(*[st.integers(-8, 8)] * 3), min_size=5, max_size=40))
def test_whoever_is_there_is_followed(steps):
    paths = np.cumsum([(400, 800, 1200), *steps], 0).T
    assert_everybody_is_seen(World(walks(paths)))


def test_two_who_cross_stay_two_and_the_law_can_fail(monkeypatch):
    """A close look takes the one in front for both while they are near: the look over all tells them apart."""
    t = np.arange(60)
    world = World(walks([100 + 5 * t, 400 - 5 * t]), steals=40)
    apart = np.abs(world.truth[0, :, 0, 0] - world.truth[1, :, 0, 0]) > 20  # nearer, they are one to anybody
    counts = np.array([len(answer) for answer in followed(world)])
    assert (counts[apart] == 2).all()
    monkeypatch.setattr(following, "settle", lambda *_: None)
    monkeypatch.setattr(following, "checked", lambda answer, *_: answer)
    places = [{tuple(np.round(points[0, :2])) for points in answer} for answer in followed(world)]
    assert any(len(some) < 2 for some, far in zip(places, apart, strict=True) if far)


class Hidden(World):
    """Pictures in which the first hides those behind: near it a look sees the first alone, a close look too, unless
    most of the first's points are grey."""

    def look(self, frame):
        people = self.here(frame)
        far = np.linalg.norm((people - people[0])[:, :, :2].mean(1), axis=1) > self.steals
        return [(points, 0.5) for points in people[far | (np.arange(len(people)) == 0)]]

    def close(self, frame, window):
        people = self.here(frame)
        x, y = people[:, :, :2].round().astype(int).transpose(2, 0, 1)
        away = np.linalg.norm(people[:, :, :2].mean(1) - [window.x, window.y], axis=1)
        shown = (frame[y, x, 1] != persons.GREY).mean(1) > 0.2
        return people[np.flatnonzero((away <= away.min() + self.steals) & shown)[0]]

    def frames(self):
        pictures = np.zeros((self.truth.shape[1], 100, 400, 3), np.uint8)
        pictures[:, 0, 0, 0] = np.arange(len(pictures))
        return list(pictures)


def test_one_behind_another_is_found_with_the_other_painted_over(monkeypatch):
    t = np.arange(60)
    ways = [np.full(60, 100), np.maximum(300 - 5 * t, 120)]
    assert_everybody_is_seen(Hidden(walks(ways), steals=40))
    monkeypatch.setattr(following, "covered", lambda frame, people: frame)
    with pytest.raises(AssertionError):
        assert_everybody_is_seen(Hidden(walks(ways), steals=40))


def test_limbs_are_painted_over_and_nothing_else():
    points = person(17, (10, 10))
    frame = np.random.default_rng(0).integers(0, 100, (110, 50, 3)).astype(np.uint8)
    painted, expected, reach = (
        persons.covered(frame, [points]),
        frame.copy(),
        persons.THICK * persons.size(points),
    )
    y, x = np.mgrid[:110, :50]
    for one, two in points[persons.BONES][..., :2]:
        for share in np.linspace(0, 1, 40):
            expected[np.hypot(x - one[0] - share * (two - one)[0], y - one[1] - share * (two - one)[1]) < reach] = 128
    assert (painted != expected).any(-1).mean() < 0.01  # the loop takes steps
    assert 0.1 < (painted != frame).any(-1).mean() < 0.9


def test_a_limb_that_two_close_looks_take_is_whose_it_was():
    one, two = person(17, (100, 10)), person(17, (150, 10))
    stolen = one.copy()
    stolen[15] = two[15]
    people = [SimpleNamespace(keypoints=points) for points in (one, two)]
    for look, sure in ((one, 0.9), (None, 0.09)):
        answers = [stolen, two]
        following.settle(people, answers, [look, two])
        np.testing.assert_allclose(answers[0], np.where(np.arange(17)[:, None] == 15, one * [1, 1, sure / 0.9], one))
        np.testing.assert_allclose(answers[1], two)


def test_newcomers_are_found_soon_and_looks_are_rare_when_all_is_quiet():
    ways = np.full((3, 100), -1)
    ways[0], ways[1, 17:], ways[2, 61:] = 100, 300, 500
    world = World(walks(ways))
    assert_everybody_is_seen(world, late=6)
    assert world.looks < 40
    with pytest.raises(AssertionError):
        assert_everybody_is_seen(world)


def test_who_leaves_and_returns_is_seen_at_once_and_nobody_stays_of_who_left():
    ways = np.full((2, 80), 100)
    ways[1] = 300
    ways[1, 30:50] = -1
    world = World(walks(ways))
    seen = [len(answer) for answer in followed(world)]
    assert seen == [
        1 if 30 <= t < 50 + late else 2 for t, late in zip(range(80), [following.LOST] * 80, strict=True)
    ] or (seen[:30] == [2] * 30 and seen[30:50] == [1] * 20 and seen[53:] == [2] * 27)
    gone = walks(np.array([[100] * 10 + [-1] * 50]))
    assert [len(answer) for answer in followed(World(gone))] == [1] * 10 + [0] * 50


def test_of_too_many_the_large_are_followed_and_they_do_not_take_turns():
    """A small one is there first; a large one comes and takes the place; another small one changes nothing."""
    ways = np.full((3, 120), -1)
    ways[0], ways[1, 10:], ways[2, 60:] = 100, 400, 700
    truth = walks(ways)
    truth[1, :, :, :2] = (truth[1, :, :, :2] - [400, 10]) * 3 + [400, 10]
    world = World(truth)
    where = [answer[0, :, 0].min() for answer in followed(world, people=1)]
    change = next(t for t, x in enumerate(where) if x >= 400)
    assert 10 < change < 50
    assert all(x < 200 for x in where[:change])
    assert all(400 <= x < 700 for x in where[change:])
    assert world.closes < 130  # one close look a frame


def test_a_window_follows_more_steadily_than_the_points():
    rng = np.random.default_rng(0)
    points = person(17, (100, 100))[None].repeat(60, 0)
    points[:, :, :2] += rng.normal(0, 3, (60, 17, 2))
    wanted = [persons.about_hips(one) for one in points]
    window, windows = wanted[0], []
    for want in wanted:
        windows.append(window := persons.steadied(window, want, np.zeros(2), False))
    shaking = [np.abs(np.diff(np.array(some), 2, axis=0)).mean() for some in (windows, wanted)]
    assert shaking[0] < 0.35 * shaking[1]
    assert persons.steadied(windows[0], wanted[1], np.zeros(2), True) == wanted[1]


# ------------------------------------------------------------------------------------------------------ rows of a video


def rows_of(truth, people, kept=None):
    """The rows (P, T, 17, 3) of a video at 30 frames a second, of which those in ``kept`` (T) came, or all."""
    kept = np.arange(truth.shape[1]) if kept is None else kept
    shots = [frames.Shot(t, t / 30, np.zeros((4, 4, 3), np.uint8), None) for t in kept.tolist()]
    given = iter([now[now[:, 0, 2] > 0] for now in truth[:, kept].transpose(1, 0, 2, 3)])
    shots = detectors.detected(shots, lambda _: next(given), "coco17", 1.0, people, 30.0)
    return np.stack(frames.alike([shot.keypoints for shot in shots]), 1)


def test_bystanders_are_dropped_by_size_and_time_not_by_order():
    ways = np.full((2, 90), 100)
    ways[1, :10], ways[1, 10:] = -1, 400
    truth = walks(ways)
    assert len(rows_of(truth, 1)) == 1  # of one size: who was first stays
    truth[1, :, :, :2] = (truth[1, :, :, :2] - [400, 10]) * 3 + [400, 10]
    rows = rows_of(truth, 1)
    on = rows[..., 2].any(-1)
    assert on.sum(0).max() == 1
    assert on[1, 50:].all()  # the larger one takes the place within a second or so, and keeps it
    assert not on[0, 50:].any()
    truth[1, 60:75] = 0  # away for half a second: the place is kept
    on = rows_of(truth, 1)[..., 2].any(-1)
    assert len(on) == 2
    assert not on[0, 50:].any()
    assert on[1, 76:].all()


def some(count, most):
    """The numbers of frames, up to ``count``, that came where up to ``most - 1`` are dropped between two."""
    steps = np.random.default_rng(most).integers(1, most + 1, count)
    return np.cumsum(steps)[np.cumsum(steps) < count]


def runs(count, until):
    """Who begins to run, and is gone after ``until`` frames: (1, T, 17, 3)."""
    t = np.arange(count)
    return walks(np.where(t < until, 100 + 0.05 * t**2, -1)[None])


@pytest.mark.parametrize("most", [3, 7])
def test_seconds_are_seconds_however_many_frames_are_dropped(most):
    """Who is away for 0.7 s keeps the row, for 1.3 s gets another; who runs keeps it; a larger one takes the place."""
    kept = some(150, most)
    for away, rows in ((21, 1), (39, 2)):
        ways = np.full((1, 150), 100)
        ways[0, 60 : 60 + away] = -1
        assert len(rows_of(walks(ways), 1, kept)) == rows
    assert len(rows_of(runs(150, 150), 1, kept)) == 1
    ways = np.full((2, 150), 100)
    ways[1, :60], ways[1, 60:] = -1, 400
    truth = walks(ways)
    truth[1, :, :, :2] = (truth[1, :, :, :2] - [400, 10]) * 3 + [400, 10]
    on = rows_of(truth, 1, kept)[1, :, 2].any(-1)
    assert on[kept >= 60 + 5 * most + 3].all()


@pytest.mark.parametrize("most", [1, 3, 7])
def test_who_runs_is_followed_by_time_and_given_up_after_a_second(most):
    kept = some(200, most)
    world = World(runs(200, 150))
    detect, last, pictures = following.Follower(world.look, world.close, middle, 1), -1, world.frames()
    for t in kept.tolist():
        seen, last = len(detect(pictures[t], t - last)), t
        assert seen == (t < 150)
        assert bool(detect.persons) == (t - kept[kept < 150][-1] <= following.AWAY)
    if most > 3:  # by frames they are lost
        detect = following.Follower(world.look, world.close, middle, 1)
        assert any(not len(detect(pictures[t])) for t in kept[kept < 150])


# -------------------------------------------------------------------------------------------------------------- MoveNet


@functools.cache
def pictures():
    pytest.importorskip("av")
    return [shot.picture for shot in frames.open_video(DATA / "demo.mp4").shots][56:66]


def ran(people, count, fast=False, flip=False):
    pytest.importorskip("onnxruntime")
    detect = movenet.movenet(people, fast)
    return [detect(picture[:, ::-1] if flip else picture) for picture in pictures()[:count]]


def distance(found, expected):
    """The nearest of those found (P, 17, 3), in pixels, the mean over the points that are sure."""
    sure = expected[:, 2] > 0.5
    return min(np.linalg.norm((one - expected)[sure, :2], axis=1).mean() for one in found)


def truth(t, flip=False):
    """Both people of a frame (2, 17, 3), the woman first, of another detector; in a mirror left is right."""
    points = np.load(DATA / "demo.npz")["keypoints"][:, 56 + t]
    sides = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
    return points[:, sides] * [-1, 1, 1] + [639, 0, 0] if flip else points


@pytest.mark.parametrize("flip", [False, True])
def test_movenet_sees_both_people_of_the_clip_where_another_detector_does(flip):
    seen = ran(4, 5, flip=flip)
    assert [found.shape for found in seen] == [(2, 17, 3)] * 5
    assert all(0 <= found[..., 2].min() <= found[..., 2].max() <= 1 for found in seen)
    for p in range(2):
        assert np.median([distance(found, truth(t, flip)[p]) for t, found in enumerate(seen)]) < 20
        assert distance(seen[0], truth(0, not flip)[p]) > 20  # the measure can fail


def test_the_fast_one_sees_the_nearer_and_one_is_as_many_as_are_asked_for():
    for t, found in enumerate(ran(1, 10, fast=True)):
        assert len(found) == 1
        assert distance(found, truth(t)[0]) < 20


@pytest.mark.parametrize("shape", [(40, 900), (900, 40), (1, 1), (33, 31)])
def test_nobody_is_seen_in_an_empty_picture_of_any_size(shape):
    pytest.importorskip("onnxruntime")
    assert quick()(np.full((*shape, 3), 128, np.uint8)).shape == (0, 17, 3)


@functools.cache
def quick():
    return movenet.movenet(4, fast=True)


def test_a_crop_is_the_part_of_the_picture_and_black_beyond():
    picture = np.random.default_rng(0).integers(1, 255, (20, 30, 3)).astype(np.uint8)
    part, back = movenet.cropped(picture, persons.Window(12.0, 9.0, 8.0, 6.0), (6, 8))
    np.testing.assert_array_equal(part, picture[6:12, 8:16])
    np.testing.assert_array_equal(back, [8, 6, 1, 1])
    part, back = movenet.cropped(picture, persons.Window(0.0, 0.0, 8.0, 8.0), (16, 16))
    assert not part[:7].any()
    assert part[10:, 10:].all()
    np.testing.assert_array_equal(back, [-4, -4, 0.5, 0.5])
    assert not movenet.cropped(picture, persons.Window(500.0, 500.0, 8.0, 8.0), (4, 4))[0].any()


def test_the_command_uses_it(tmp_path, capsys):
    pytest.importorskip("av")
    pytest.importorskip("onnxruntime")
    some = [str(DATA / "demo.mp4"), "--fast", "--no-overlay", "--seconds", "0.3", "--out", str(tmp_path)]
    assert app.main(some) == 0
    assert "people: 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        app.main(["--fast", "--detector", "mediapipe"])
    assert "not allowed with" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------- what fails


def test_a_damaged_file_and_onnxruntimes_that_do_not_do_are_told(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    folder = tmp_path / "weights"
    folder.mkdir()
    for path in (ROOT / "kinlmr/weights").glob("movenet*"):
        shutil.copy(path, folder)
    with (folder / "movenet-lightning.onnx").open("r+b") as file:
        file.seek(1000)
        file.write(b"\0\0\0\0")
    monkeypatch.setattr(movenet.resources, "files", lambda package: tmp_path)
    with pytest.raises(
        ValueError, match=r"movenet-lightning.onnx: damaged, 4,680,557 bytes of sha256 .*install kinlmr"
    ):
        movenet.shipped("lightning")
    for module, said in (
        (None, r'needs onnxruntime .*pip install "kinlmr\[video\]"'),
        (SimpleNamespace(__version__="1.19.2", InferenceSession=1), "onnxruntime 1.19.2 is too old .* 1.20 or later"),
        (SimpleNamespace(), "is broken, .*pip uninstall onnxruntime"),
    ):
        monkeypatch.setitem(sys.modules, "onnxruntime", module)
        with pytest.raises(ImportError, match=said):
            movenet.movenet(1)


def test_a_build_for_gpus_runs_on_the_cpu(monkeypatch):
    asked = []
    fake = SimpleNamespace(
        __version__="1.23.2",
        SessionOptions=lambda: SimpleNamespace(add_session_config_entry=lambda *_: None),
        InferenceSession=lambda model, options, providers: asked.append(providers),
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    movenet.session(b"")
    assert asked == [["CPUExecutionProvider"]]


def test_the_files_are_no_models_and_the_list_is_theirs():
    import hashlib

    folder = ROOT / "kinlmr/weights"
    assert checkpoint.shipped() == ("anny24-coco17", "anny24-coco17@1")
    for line in (folder / "movenet.sha256").read_text().splitlines():
        number, name = line.split()
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == number
        for wanted in (name.removesuffix(".onnx"), folder / name):
            with pytest.raises((ValueError, FileNotFoundError), match="movenet"):
                kinlmr.load(wanted)


# ---------------------------------------------------------------------------------------------------- a user's own file


def network(path, outputs, size=(64, 48)):
    """An ONNX file that gives these arrays, a batch each, whatever the picture."""
    onnx = pytest.importorskip("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [helper.make_node("ReduceMean", ["picture", "axes"], ["mean"], "mean", keepdims=1)]
    nodes += [helper.make_node("Mul", ["mean", "none"], ["nothing"], "nothing")]
    values = [onnx.numpy_helper.from_array(np.array([1, 2, 3], np.int64), "axes")]
    values += [onnx.numpy_helper.from_array(np.zeros(1, np.float32), "none")]
    told = []
    for k, array in enumerate(outputs):
        rank = onnx.numpy_helper.from_array(np.array([1] * array.ndim, np.int64), f"rank{k}")
        values += [onnx.numpy_helper.from_array(array.astype(np.float32), f"c{k}"), rank]
        nodes += [helper.make_node("Reshape", ["nothing", f"rank{k}"], [f"flat{k}"], f"flat{k}")]
        nodes += [helper.make_node("Add", [f"c{k}", f"flat{k}"], [f"out{k}"], f"out{k}")]
        told += [helper.make_tensor_value_info(f"out{k}", kinds, ["n", *array.shape[1:]])]
    picture = helper.make_tensor_value_info("picture", kinds, ["n", 3, *size])
    graph = helper.make_graph(nodes, "tiny", [picture], told, values)
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
    )
    return path


def peaks(places, size, ratio=2):
    """SimCC's outputs and heatmaps (a quarter as large) with their peaks at places (K, 2) of an input (H, W)."""
    height, width = size
    axes = [np.arange(side * ratio) / ratio for side in (width, height)]
    simcc = [np.exp(-0.5 * (axis - at[:, None]) ** 2)[None] for axis, at in zip(axes, places.T, strict=True)]
    y, x = np.mgrid[: height // 4, : width // 4] * 4 + 1.5
    away = (x - places[:, 0, None, None]) ** 2 + (y - places[:, 1, None, None]) ** 2
    return simcc, [np.exp(-0.5 * away / 16)[None]]


def detections_of(found):
    """COCO's points of a frame (P, K, 3), as the command takes them."""
    shots = [frames.Shot(t, t / 30, np.zeros((4, 4, 3), np.uint8), None) for t in range(5)]
    return list(detectors.detected(shots, lambda _: found, "coco17", 1.0, 4, 30.0))[-1].keypoints


@pytest.mark.parametrize("count", [17, 26, 133])
@pytest.mark.parametrize("layout", [0, 1])
def test_a_top_down_network_of_a_user_gives_its_points_in_the_picture(tmp_path, count, layout, monkeypatch):
    pytest.importorskip("onnxruntime")
    body = person(17, (100, 40))
    monkeypatch.setattr(topdown, "multipose", lambda side: lambda frame: [(body, 0.5)])
    places = np.random.default_rng(0).uniform(8, 40, (count, 2))
    window = topdown.about_box(body, 48 / 64)
    places[:17] = (body[:, :2] - [window.x, window.y]) * 48 / window.width + [24, 32]
    file = network(tmp_path / "a.onnx", peaks(places, (64, 48))[layout])
    found = detectors.find_detector(f"onnx:{file}", 2)(np.zeros((200, 200, 3), np.uint8))
    assert found.shape == (1, count, 3)
    np.testing.assert_allclose(found[0, :17, :2], body[:, :2], atol=2.0 * window.width / 48)
    assert found[..., 2].min() > 0.5
    assert detections_of(found).shape == (1, 17, 3)


@pytest.mark.parametrize("layout", [0, 1])
def test_decoded_peaks_are_where_they_were_put(layout):
    places = np.random.default_rng(1).uniform(6, 40, (17, 2))
    points = topdown.decoded(peaks(places, (64, 48))[layout], (64, 48))
    np.testing.assert_allclose(points[:, :2], places, atol=1.1 if layout else 0.26)


def test_other_networks_are_refused_by_name(tmp_path):
    pytest.importorskip("onnxruntime")
    some = np.zeros((1, 16, 8))
    for outputs, said in (
        ([some, some], r"a.onnx: its outputs are .*16.*expected are heatmaps"),
        ([np.zeros((1, 17, 8))], "expected are heatmaps"),
        ([np.zeros((1, 51))], "expected are heatmaps"),
    ):
        with pytest.raises(ValueError, match=said):
            topdown.topdown(network(tmp_path / "a.onnx", outputs))
    with pytest.raises(ValueError, match=r"its input is picture .*expected is one, \(N, 3, H, W\)"):
        topdown.topdown(network(tmp_path / "a.onnx", [np.zeros((1, 17, 8, 8))], ("h", "w")))
    (tmp_path / "b.onnx").write_bytes(b"no network")
    with pytest.raises(ValueError, match="b.onnx: onnxruntime cannot read it"):
        topdown.topdown(tmp_path / "b.onnx")
    with pytest.raises(FileNotFoundError, match="none.onnx: no such file"):
        detectors.find_detector(f"onnx:{tmp_path / 'none.onnx'}", 1)
