"""examples/page: the JavaScript gives kinlmr's numbers, and its files are read back as kinlmr's.

In a browser, which takes minutes: KINLMR_BROWSER=1, after `npm ci` in examples/page, with Chromium installed.
"""

import functools
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from models import lively
from people import person

import kinlmr
from kinlmr import export
from kinlmr.body import rotate_joint
from kinlmr.body.points import keypoint_sets, read_sets
from kinlmr.keypoints import convert, normalise
from kinlmr.video import movenet
from kinlmr.video.following import Follower
from kinlmr.video.persons import Window, about_hips, covered

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "examples/page"
sys.path.insert(0, str(PAGE))
pytest.importorskip("onnxruntime")
import serve  # noqa: E402

MESH = "anny24_lo369"


def node(folder, code, given):
    """What a script prints as JSON; it finds its input in ``given``, and the page's modules as kinlmr and body."""
    if shutil.which("node") is None:
        pytest.skip("no node")
    head = "".join(
        f"import * as {'files' if name == 'export' else name} from {json.dumps((folder / f'{name}.js').as_uri())};\n"
        for name in ("kinlmr", "body", "world", "following", "movenet", "export")
    )
    head += "import { readFileSync } from 'node:fs'; const given = JSON.parse(readFileSync(0, 'utf8'));\n"
    command = ["node", "--input-type=module", "-e", head + code]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def broken(tmp_path, name, was, wrong):
    """A copy of the page in which something is otherwise."""
    folder = tmp_path / "page"
    shutil.copytree(PAGE, folder, ignore=shutil.ignore_patterns("node_modules", "dist"))
    text = (folder / name).read_text()
    assert was in text
    (folder / name).write_text(text.replace(was, wrong))
    return folder


def walk(frames, seed=0):
    """Keypoints (T, 17, 3) of somebody who moves, comes nearer, is lost, and is found elsewhere."""
    random = np.random.default_rng(seed)
    shape = random.uniform(-1, 1, (17, 2)) * [40, 90]
    sway = np.cumsum(random.normal(0, 2, (frames, 17, 2)), 0)
    size = np.linspace(1, 1.6, frames)[:, None, None]
    place = np.array([200.0, 150.0]) + np.cumsum(random.normal(0, 3, (frames, 1, 2)), 0)
    place[2 * frames // 3 :] += [300, 40]
    sure = np.clip(random.uniform(-0.2, 1.1, (frames, 17)), 0, 1)
    sure[frames // 3 : frames // 3 + 3] = 0
    return np.concatenate([size * shape + sway + place, sure[..., None]], -1)


def rows(tensor):
    return torch.as_tensor(tensor).double().tolist()


# ------------------------------------------------------------------------------------------------------------- the port


def test_convert_is_the_same_for_all_sets():
    sets = read_sets()["sets"]
    points = {name: rows(torch.rand(len(names), 3)) for name, names in keypoint_sets().items()}
    code = """const { sets, points } = given, all = {};
    for (const a in sets) for (const b in sets) all[`${a} ${b}`] = kinlmr.convert(points[a], sets[a], sets[b]);
    console.log(JSON.stringify(all))"""
    for pair, found in node(PAGE, code, {"sets": sets, "points": points}).items():
        one, two = pair.split()
        np.testing.assert_allclose(
            found, convert(torch.tensor(points[one]).double(), one, two), atol=1e-6, err_msg=pair
        )


def assert_normalise(folder):
    keypoints = walk(90)
    code = """let track = null; const all = [];
    for (const points of given) { const one = kinlmr.normalise(points, track); track = one.track; all.push(one) }
    console.log(JSON.stringify(all))"""
    found = node(folder, code, keypoints.tolist())
    features, box, _ = normalise(torch.from_numpy(keypoints)[None])
    np.testing.assert_allclose([one["features"] for one in found], features[0], atol=1e-9)
    np.testing.assert_allclose([one["box"] for one in found], box[0], atol=1e-9)


def test_normalise_is_the_same():
    assert_normalise(PAGE)


def test_another_margin_would_be_seen(tmp_path):
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_normalise(broken(tmp_path, "kinlmr.js", "BOX_MARGIN = 1.2", "BOX_MARGIN = 1.21"))


@pytest.mark.parametrize("fps", [30, 29.97, 24, 60, 11])
def test_recover_is_the_same_at_any_rate(fps, monkeypatch):
    options = {"hidden": 2, "shape_hidden": 2, "iterations": 1, "confidence": (0.8, 0.1)}
    model = lively(kinlmr.build(keypoints="coco17", **options), torch.float32).eval()
    asked, forward = [], type(model).forward

    def noted(self, features, lengths=None, state=None, every=False):
        estimate, after = forward(self, features, lengths, state, every)
        for row in range(len(features)):  # what a step would have been asked
            one = kinlmr.Estimate(*(x[row, 0] for x in estimate))
            answer = {"rotations": rows(model.matrices(one).flatten()), "shape": rows(one.shape)}
            answer |= {"camera": rows(one.camera), "memory": rows(after.memory[row].flatten())}
            asked.append(
                {"features": rows(features[row, 0]), "memory": rows(state.memory[row].flatten()), "answer": answer}
            )
        return estimate, after

    keypoints, state, expected = walk(30, seed=1).astype(np.float32), None, []
    keypoints[12, :, 1] *= -1  # a frame upside down, and a point far off
    keypoints[20, 3, :2] += 9000
    monkeypatch.setattr(type(model), "forward", noted)
    for frame in keypoints:
        recovery, state = kinlmr.recover(model, frame[None], fps, state)
        expected.append({name: rows(value[0].flatten()) for name, value in recovery._asdict().items()})
        turned, place = recovery.in_camera((640, 480), 800.0)
        expected[-1] |= {"turned": rows(turned.flatten()), "place": rows(place[0])}
    code = """let k = 0, state = null, far = 0; const all = [];
    const apart = (a, b) => { for (let i = 0; i < b.length; i++) far = Math.max(far, Math.abs(a[i] - b[i])) };
    const step = async (features, memory) => {
      const one = given.asked[k++];
      apart(features, one.features);
      apart(memory, one.memory);
      return one.answer;
    };
    const model = { body: given.body, step, memory: given.asked[0].memory.length, fps: 30, confidence: [0.8, 0.1] };
    for (const points of given.keypoints) {
      const one = await kinlmr.recover(model, points, given.ticks, state);
      state = one.state;
      const { rotations, translation } = kinlmr.inCamera(given.body, one.seen, [640, 480], 800);
      all.push({ ...one.seen, turned: rotations, place: translation });
    }
    console.log(JSON.stringify({ all, far, steps: k }))"""
    given = {"asked": asked, "body": serve.body("anny24", "coco17", MESH), "keypoints": rows(keypoints)}
    found = node(PAGE, code, given | {"ticks": 30 / fps})
    assert found["steps"] == len(asked)
    assert found["far"] < 1e-4
    for one, two in zip(found["all"], expected, strict=True):
        for name in ("rotations", "shape", "camera", "box", "turned", "place"):
            np.testing.assert_allclose(one[name], two[name], atol=1e-4, rtol=1e-5, err_msg=name)


def test_vertices_are_the_same():
    body, generator = kinlmr.load_body(MESH, keypoints="coco17"), torch.Generator().manual_seed(0)
    turns = kinlmr.ROTATIONS["axis_angle"].to_matrix(0.5 * torch.randn(24, 3, generator=generator))
    shape = torch.randn(10, generator=generator)
    code = (
        "console.log(JSON.stringify(body.pose(given.body, given.turns, given.shape, { points: true, vertices: true }),"
    )
    code += " (_, value) => (value instanceof Float64Array ? Array.from(value) : value)))"
    given = {"body": serve.body(MESH, "coco17", MESH), "turns": rows(turns.flatten()), "shape": rows(shape)}
    found, mesh = node(PAGE, code, given), body(turns, shape, want=("joints", "keypoints", "vertices"))
    np.testing.assert_allclose(found["joints"], mesh.joints, atol=2e-5)
    np.testing.assert_allclose(found["points"], mesh.keypoints, atol=2e-5)
    np.testing.assert_allclose(found["vertices"], mesh.vertices.flatten(), atol=2e-5)


@functools.cache
def recovered():
    """The demo's keypoints (2, 60, 17, 3), the first person comes late, and what Python recovers of them; float64."""
    keypoints = np.load(ROOT / "kinlmr/video/data/demo.npz")["keypoints"][:, 50:110].copy()
    keypoints[1, 30:33] = 0
    recovery, _ = kinlmr.recover(kinlmr.load("anny24-coco17"), keypoints, 30)
    return keypoints.astype(np.float64), kinlmr.Recovery(*(x.double() for x in recovery))


def stood(folder, fps, frames):
    """What the page makes of the demo's people: of each frame, and for the files in the end."""
    code = """const model = { body: given.body, world: given.world, fps: given.fps }, state = [null, null], all = [];
    const people = [0, 1].map(() => ({ frames: [] }));
    for (let t = 0; t < given.frames; t++) {
      const seen = [0, 1].map((k) => {
        const now = {};
        for (const name in given.seen) now[name] = given.seen[name][k][t];
        return now;
      });
      const here = [0, 1].filter((k) => seen[k].box[2] > 0), rows = [null, null];
      const now = here.map((k) => ({ state: state[k], seen: seen[k], points: given.keypoints[k][t] }));
      world.toWorld(model, now, [640, 360], 734).forEach(({ state: after, ...frame }, i) => {
        const k = here[i];
        [state[k], rows[k], people[k].ups] = [after, frame, after.evidence.ups];
        people[k].frames.push({ ...frame, time: t });
      });
      all.push(rows);
    }
    console.log(JSON.stringify({ all, files: world.levelled(model, people) }))"""
    keypoints, recovery = recovered()
    flat = {name: rows(value[:, :frames].flatten(2)) for name, value in recovery._asdict().items()}
    given = {"body": serve.body("anny24", "coco17", MESH), "world": serve.world("anny24"), "fps": fps, "frames": frames}
    return node(folder, code, given | {"seen": flat, "keypoints": keypoints[:, :frames].tolist()})


def standing(fps, frames, every):
    """What Python makes of them, so many frames a call: body, world, up and origin after each call, the last state."""
    (keypoints, recovery), body = recovered(), kinlmr.load_body("anny24").to("cpu", torch.float64)
    state = kinlmr.WorldState.initial(2)
    state = state._make(x.double() if x.is_floating_point() else x for x in state)
    worlds, told = [], []
    for t in range(0, frames, every):
        now, points = kinlmr.Recovery(*(x[:, t : t + every] for x in recovery)), keypoints[:, t : t + every]
        world, state = kinlmr.to_world(now, fps, (640, 360), 734.0, body=body, keypoints=points, state=state)
        worlds.append(world)
        told.append((state.up[0], state.origin))
    up, origin = (torch.stack(x) for x in zip(*told, strict=True))
    return body, kinlmr.World(*(torch.cat(x, 1) for x in zip(*worlds, strict=True))), up, origin.movedim(1, 0), state


def assert_stands(folder, fps, frames):
    """Both people of the demo stand where Python has them, in float64, to a tenth of a millimetre."""
    found, (_, expected, *_) = stood(folder, fps, frames)["all"], standing(fps, frames, frames)
    people = expected.translation.isfinite().all(-1)
    assert people.sum(1).tolist() == [frames - 6, frames]
    for k, t in people.nonzero().tolist():
        for name, wanted in expected._asdict().items():
            np.testing.assert_allclose(
                found[t][k][name], wanted[k, t].flatten(), atol=1e-4, err_msg=f"{name}, person {k}, frame {t}"
            )


@pytest.mark.parametrize(("fps", "frames"), [(30, 60), (60, 20)])
def test_people_stand_as_in_python(fps, frames):
    assert_stands(PAGE, fps, frames)


def test_another_softness_would_be_seen(tmp_path):
    with pytest.raises(AssertionError, match=r"person \d, frame"):
        assert_stands(broken(tmp_path, "world.js", "far * a * b", "0.9 * far * a * b"), 30, 8)


def assert_files_stand(folder, frames=24):
    """In the files everybody is in the world by all that was seen: one up, one shape each, the lowest floor at 0."""
    body, world, ups, origin, state = standing(30, frames, 1)
    seen = world.translation.isfinite().all(-1)
    root = world.translation + body.joints_at_rest(world.shape.flatten(0, 1))[:, 0].view(2, frames, 3)
    up = torch.nn.functional.normalize(state.up_sum.sum(0), dim=0)
    way = kinlmr.world.floor.to_world(up) @ kinlmr.world.floor.to_world(ups).mT  # of each frame
    root, rotations = (
        (way @ (root - origin)[..., None])[..., 0],
        rotate_joint(world.rotations, 0, way.expand(2, -1, 3, 3)),
    )
    shape = world.shape[:, -1:].expand_as(world.shape)
    translation = root - body.joints_at_rest(shape.flatten(0, 1))[:, 0].view(2, frames, 3)
    heights = body(rotations, shape, translation).joints[..., [7, 10, 8, 11], 1] - kinlmr.world.sole_heights(body)
    contact = world.contact.amax(-1)
    level = kinlmr.world.floor.level_of(
        heights.unflatten(-1, (2, 2)).amin(-1), torch.where(seen[..., None], contact, 0)
    )
    translation = translation - level * torch.tensor([0.0, 1, 0])
    for k, found in enumerate(stood(folder, 30, frames)["files"]):
        assert [one["time"] for one in found] == seen[k].nonzero().flatten().tolist()
        for name, wanted in {"rotations": rotations, "translation": translation, "shape": shape}.items():
            np.testing.assert_allclose(
                [one[name] for one in found], wanted[k, seen[k]].flatten(1), atol=1e-4, err_msg=f"{name}, person {k}"
            )


def test_files_stand_on_the_lowest_floor():
    assert_files_stand(PAGE)


def test_another_floor_would_be_seen(tmp_path):
    with pytest.raises(AssertionError, match="translation, person 0"):
        assert_files_stand(broken(tmp_path, "world.js", "a.level - b.level", "b.level - a.level"))


# --------------------------------------------------------------------------------------------------------- the detector


def crowd(frames, seed=0):
    """Keypoints (T, P, 17, 3) of three who cross; one comes late, one is away for some frames, which is NaN."""
    random = np.random.default_rng(seed)
    shape = random.uniform(-1, 1, (3, 1, 17, 2)) * [25, 80]
    time = np.arange(frames)[:, None, None]
    path = (
        np.array([[100.0, 180], [500, 200], [300, 170]])[:, None, None]
        + [[[[4, 0]]], [[[-5, 0.3]]], [[[0, 0.2]]]] * time
    )
    points = (shape + path + random.normal(0, 1.5, (3, frames, 17, 2))).swapaxes(0, 1)
    sure = random.uniform(0.3, 1, (frames, 3, 17, 1))
    sure[:20, 2], sure[45:52, 0] = np.nan, np.nan
    return np.concatenate([points, sure], -1)


def assert_following(folder):
    """Both followers ask for the same windows and answer alike; what they are told comes from one list."""
    people, asked = crowd(90), []
    random, number = np.random.default_rng(1), iter(range(10**6))

    def here():
        return [p for p in people[next_frame[0]] if np.isfinite(p).all()]

    def look(frame):
        found = [(p + random.normal(0, 2, p.shape) * [1, 1, 0], float(random.uniform(0.1, 0.6))) for p in here()]
        asked.append({"look": [[rows(p), score] for p, score in found]})
        return found

    def close(frame, window):
        middle = lambda p: np.hypot(*(p[[11, 12], :2].mean(0) - [window.x, window.y]))  # noqa: E731
        near = min(here(), key=middle)
        points = near * [1, 1, 1 if next(number) % 7 else 0.2]
        asked.append({"window": list(window), "close": rows(points)})
        return points

    next_frame = [0]
    follower, expected = Follower(look, close, about_hips, people=2), []
    for next_frame[0] in range(len(people)):
        expected.append(rows(follower(np.zeros((4, 4, 3), np.uint8))))
    code = """let k = 0, far = 0; const all = [];
    const look = async () => given.asked[k++].look;
    const close = async (frame, { x, y, width, height }) => {
      const one = given.asked[k++];
      [x, y, width, height].forEach((value, i) => (far = Math.max(far, Math.abs(value - one.window[i]))));
      return one.close;
    };
    const follower = new following.Follower(look, close, 2);
    for (let t = 0; t < given.frames; t++) {
      const found = await follower.detect({ width: 4, height: 4, data: new Uint8Array(64) });
      all.push({ keypoints: found.map(({ keypoints }) => keypoints), ids: found.map(({ person }) => person.id) });
    }
    console.log(JSON.stringify({ far, all, asked: k }))"""
    found = node(folder, code, {"asked": asked, "frames": len(people)})
    assert found["far"] < 1e-6
    assert found["asked"] == len(asked)
    assert any("look" in one for one in asked[60:])
    for one, two in zip(found["all"], expected, strict=True):
        np.testing.assert_allclose(one["keypoints"], two, atol=1e-4)
    return [one["ids"] for one in found["all"]]


def test_people_are_followed_as_in_python():
    ids = assert_following(PAGE)
    assert {len(one) for one in ids} >= {1, 2}


def test_another_pace_would_be_seen(tmp_path):
    with pytest.raises(AssertionError):
        assert_following(broken(tmp_path, "following.js", "LEARN = 0.3", "LEARN = 0.31"))


def test_limbs_are_painted_over_alike():
    frame = np.random.default_rng(0).integers(0, 100, (110, 50, 3)).astype(np.uint8)
    people = [person(17, at) for at in ((-10, -10), (15, 60))]
    code = "console.log(JSON.stringify(Array.from(following.covered(given.frame, given.people).data)))"
    found = node(PAGE, code, {"frame": rgba(frame), "people": [rows(one) for one in people]})
    np.testing.assert_array_equal(found, rgba(covered(frame, people))["data"])


def rgba(picture):
    """A picture (H, W, 3) as the page has it."""
    data = np.insert(picture, 3, 255, axis=2)
    return {"width": picture.shape[1], "height": picture.shape[0], "data": data.ravel().tolist()}


@pytest.mark.parametrize(
    "window", [(40, 30, 50.2, 50.2), (5, 60, 44, 44), (70, 10, 17, 17), (-90, 20, 60, 60), (40, 30, 200, 200)]
)
def test_pictures_are_cropped_alike(window):
    frame = np.random.default_rng(0).integers(0, 256, (61, 83, 3)).astype(np.uint8)
    expected, back = movenet.cropped(frame, Window(*window), (32, 32))
    code = """const [x, y, width, height] = given.window;
    const { picture, back } = movenet.cropped(given.frame, { x, y, width, height }, 32);
    console.log(JSON.stringify({ back, picture: Array.from(picture), evened: Array.from(movenet.evened(picture)) }))"""
    found = node(PAGE, code, {"frame": rgba(frame), "window": window})
    np.testing.assert_allclose(found["back"], back)
    np.testing.assert_allclose(np.reshape(found["picture"], (32, 32, 3)), expected, atol=1)  # torch rounds its weights
    evened = movenet.evened(np.reshape(found["picture"], (32, 32, 3)).astype(np.uint8))
    np.testing.assert_array_equal(np.reshape(found["evened"], (32, 32, 3)), evened)


def demo_frames(first, count):
    av = pytest.importorskip("av")
    with av.open(str(ROOT / "kinlmr/video/data/demo.mp4")) as video:
        frames = list(itertools.islice(video.decode(video=0), first, first + count))
    return [frame.to_ndarray(format="rgb24") for frame in frames]


def test_keypoints_of_the_demo_are_the_same(tmp_path, monkeypatch):
    frames, asked, shipped = demo_frames(70, 2), [], movenet.shipped

    def noted(name):
        session = shipped(name)

        def run(_, inputs):
            answer = session.run(None, inputs)
            asked.append({"name": name, "answer": answer[0].ravel().tolist(), "shape": inputs["input"].shape[1:3]})
            inputs["input"].tofile(tmp_path / str(len(asked) - 1))
            return answer

        return types.SimpleNamespace(run=run)

    monkeypatch.setattr(movenet, "shipped", noted)
    detect = movenet.movenet(2)
    expected = [rows(detect(frame)) for frame in frames]
    assert len(expected[0]) == 2
    code = """let k = 0, far = 0, off = 0; const all = [];
    const answers = (name) => async (data, height, width) => {
      const one = given.asked[k], wanted = readFileSync(`${given.folder}/${k++}`);
      if (one.name !== name || `${one.shape}` !== `${[height, width]}`) throw new Error(`${name} of ${height}`);
      const apart = Array.from(data, (x, i) => Math.abs(x - wanted[i]));
      far = Math.max(far, ...new Set(apart));
      off = Math.max(off, apart.reduce((a, b) => a + b) / apart.length);
      return Float32Array.from(one.answer);
    };
    const models = Object.fromEntries(["multipose", "thunder", "lightning"].map((name) => [name, answers(name)]));
    const detector = movenet.movenet(models, 2, false);
    for (let t = 0; t < given.frames; t++) {
      const frame = { width: given.size[0], height: given.size[1], data: readFileSync(`${given.folder}/frame${t}`) };
      all.push((await detector.detect(frame)).map(({ keypoints }) => keypoints));
    }
    console.log(JSON.stringify({ all, far, off, asked: k }))"""
    for k, frame in enumerate(frames):
        (tmp_path / f"frame{k}").write_bytes(np.insert(frame, 3, 255, axis=2).tobytes())
    given = {"asked": asked, "folder": str(tmp_path), "frames": len(frames), "size": frames[0].shape[1::-1]}
    found = node(PAGE, code, given)
    assert found["asked"] == len(asked)
    assert found["off"] < 0.1  # of 255: torch rounds its weights
    assert found["far"] <= 3
    for one, two in zip(found["all"], expected, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-3)


# ------------------------------------------------------------------------------------------------------------ the files


def taken(frames=7, seed=0):
    """Somebody in motion: the page's take and mesh, and the arrays that Python's writers take."""
    body, random = kinlmr.load_body(MESH), torch.Generator().manual_seed(seed)
    turns = 0.7 * torch.randn(frames, 24, 3, generator=random, dtype=torch.float64)
    turns[:, 0] += torch.tensor([3.0, 0, 0])
    rotations = kinlmr.ROTATIONS["axis_angle"].to_matrix(turns)
    shape = torch.randn(10, generator=random, dtype=torch.float64)
    translation = torch.randn(frames, 3, generator=random, dtype=torch.float64) + torch.tensor([0, 0, 4.0])
    return body, rotations, shape, translation


def written(tmp_path, start):
    body, rotations, shape, translation = taken()
    rotations, translation = export.upright(body.to("cpu", torch.float64), rotations, shape, translation)
    frames = [
        {"time": (start + k) / 30, "rotations": rows(one.flatten()), "translation": rows(place), "shape": rows(shape)}
        for k, (one, place) in enumerate(zip(rotations, translation, strict=True))
    ]
    code = """const fs = await import("node:fs"), { take, bvh, glb } = files;
    const one = take(given.body, given.frames, 30);
    fs.writeFileSync(given.out + "/page.bvh", bvh(given.body, one));
    fs.writeFileSync(given.out + "/page.glb", glb(given.body, [one, { ...one, start: 0 }]));
    console.log(JSON.stringify([one.start, one.rotations.length]))"""
    given = {"body": serve.body(MESH, "coco17", MESH), "frames": frames, "out": str(tmp_path)}
    assert node(PAGE, code, given) == [start, len(frames)]
    export.save_bvh(tmp_path / "python.bvh", body, rotations, shape, translation, start=start)
    both = [rotations] * 2, [shape] * 2, [translation] * 2
    export.save_glb(tmp_path / "python.glb", body, *both, start=[start, 0])


def test_bvh_is_read_back_as_pythons(tmp_path):
    written(tmp_path, 3)
    page, python = (kinlmr.motion.read_bvh(tmp_path / f"{name}.bvh") for name in ("page", "python"))
    assert page.fps == pytest.approx(python.fps)
    np.testing.assert_allclose(page.translation, python.translation, atol=1e-4)
    one, two = (kinlmr.ROTATIONS["axis_angle"].to_matrix(x.axis_angle) for x in (page, python))
    np.testing.assert_allclose(one, two, atol=1e-4)
    heads = [(tmp_path / f"{name}.bvh").read_text().split("MOTION")[0].split() for name in ("page", "python")]
    number = re.compile(r"[-\d.e]+").fullmatch
    assert [word for word in heads[0] if not number(word)] == [word for word in heads[1] if not number(word)]
    one, two = ([float(word) for word in head if number(word)] for head in heads)
    np.testing.assert_allclose(one, two, atol=1e-5)


def accessors(path):
    """Every accessor of a GLB, as an array, and what is not an accessor."""
    file = pytest.importorskip("pygltflib").GLTF2().load(path)
    blob, kinds = file.binary_blob(), {5121: "u1", 5123: "<u2", 5126: "<f4"}
    widths = {"SCALAR": 1, "VEC3": 3, "VEC4": 4, "MAT4": 16}
    found = []
    for one in file.accessors:
        width, view = widths[one.type], file.bufferViews[one.bufferView]
        values = np.frombuffer(blob, kinds[one.componentType], one.count * width, view.byteOffset).reshape(-1, width)
        assert view.byteLength == values.nbytes
        if one.min:
            np.testing.assert_allclose([values.min(0), values.max(0)], [one.min, one.max], rtol=1e-6)
        found.append(values)
    return found, file


def test_glb_is_read_back_as_pythons(tmp_path):
    written(tmp_path, 3)
    (page, one), (python, two) = (accessors(tmp_path / f"{name}.glb") for name in ("page", "python"))
    assert [node.name for node in one.nodes] == [node.name for node in two.nodes]
    assert [node.children or [] for node in one.nodes] == [node.children or [] for node in two.nodes]
    assert one.animations[0].channels == two.animations[0].channels
    for node, other in zip(one.nodes, two.nodes, strict=True):
        np.testing.assert_allclose(node.translation or 0, other.translation or 0, atol=1e-5)
    for values, others in zip(page, python, strict=True):
        assert values.dtype == others.dtype
        if (
            values.shape[1] == 4 and values.dtype == np.float32 and len(values) == 7
        ):  # quaternions: of one sign or the other
            values = values * np.sign((values * others).sum(1, keepdims=True))
        np.testing.assert_allclose(values, others, atol=1e-3)  # normals of small faces differ most


# -------------------------------------------------------------------------------------------------------- in a browser


slow = pytest.mark.skipif("KINLMR_BROWSER" not in os.environ, reason="takes minutes; set KINLMR_BROWSER=1")


@slow
def test_onnxruntime_web_sees_what_pythons_sees(tmp_path):
    if not (PAGE / "node_modules/onnxruntime-web").exists():
        pytest.skip("run npm ci in examples/page")
    (frame,) = demo_frames(70, 1)
    expected = movenet.movenet(2, fast=True)(frame)
    code = """const ort = await import(given.ort), models = {};
    ort.env.wasm.numThreads = 1;
    for (const name of ["multipose", "lightning"]) {
      const session = await ort.InferenceSession.create(readFileSync(`${given.weights}/movenet-${name}.onnx`));
      models[name] = async (data, height, width) => {
        const input = new ort.Tensor("uint8", data, [1, height, width, 3]);
        return (await session.run({ [session.inputNames[0]]: input }))[session.outputNames[0]].data;
      };
    }
    const found = await movenet.movenet(models, 2, true).detect(given.frame);
    console.log(JSON.stringify(found.map(({ keypoints }) => keypoints)))"""
    runtime = PAGE / "node_modules/onnxruntime-web/dist/ort.node.min.mjs"
    given = {"ort": runtime.as_uri(), "frame": rgba(frame), "weights": str(ROOT / "kinlmr/weights")}
    found = np.array(node(PAGE, code, given))
    assert found.shape == expected.shape == (2, 17, 3)
    assert np.median(np.linalg.norm((found - expected)[..., :2], axis=-1)) < 0.5  # pixels of 640
    assert np.median(np.abs(found - expected)[..., 2]) < 0.02


@slow
def test_the_page_recovers_as_python(tmp_path):
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not (chromium and shutil.which("node") and (PAGE / "node_modules/playwright-core").exists()):
        pytest.skip("needs node, chromium and npm ci in examples/page")
    command = ["node", PAGE / "test.mjs", "--chromium", chromium, "--python", sys.executable, "--out", tmp_path]
    subprocess.run(command, check=True)
    frames = json.loads((tmp_path / "numbers.json").read_text())
    people = {}
    for t, frame in enumerate(frames):
        for one in frame["people"]:
            people.setdefault(one["number"], {})[t] = one
    assert people
    for one in people.values():
        assert_recovered(list(one.values()))
    assert_settled(list(people.values()), len(frames))
    motion = kinlmr.motion.read_bvh(tmp_path / "person1.bvh")
    assert len(motion.translation) == len(frames)
    assert motion.axis_angle.isfinite().all()
    assert np.isfinite(np.concatenate([values.ravel() for values in accessors(tmp_path / "people.glb")[0]])).all()


def assert_recovered(person):
    """What the page made of somebody is what Python makes of the same keypoints."""
    keypoints = np.array([one["points"] for one in person], np.float32)
    recovery, _ = kinlmr.recover(kinlmr.load("anny24-coco17"), keypoints, 30)
    for name, atol in {"rotations": 1e-3, "shape": 1e-3, "camera": 1e-3, "box": 1e-2}.items():
        found = np.array([one["seen"][name] for one in person])
        np.testing.assert_allclose(found, getattr(recovery, name).flatten(1), atol=atol, err_msg=name)


def assert_settled(people, frames):
    """Where the page has people, until the first of them leaves, is where Python has them."""
    model, begins = kinlmr.load("anny24-coco17"), [min(person) for person in people]
    last = min([min(set(range(min(person), frames + 1)) - set(person)) for person in people])
    keypoints = torch.zeros(len(people), last, 17, 3)
    recovery = kinlmr.recover(model, keypoints, 30)[0]  # of nobody yet
    for k, begin in enumerate(begins):
        keypoints[k, begin:] = torch.tensor([people[k][t]["points"] for t in range(begin, last)])
        for rows_of, found in zip(recovery, kinlmr.recover(model, keypoints[k, begin:], 30)[0], strict=True):
            rows_of[k, begin:] = found
    size, state = (640, 360), kinlmr.WorldState.initial(len(people))
    world, _ = kinlmr.to_world(recovery, 30, size, float(np.hypot(*size)), keypoints=keypoints, state=state)
    for k, t in ((k, t) for k, begin in enumerate(begins) for t in range(begin, last)):
        for name in ("rotations", "translation", "shape"):
            wanted, what = getattr(world, name)[k, t].flatten(), f"{name}, person {k}, frame {t}"
            np.testing.assert_allclose(people[k][t]["world"][name], wanted, atol=1e-3, err_msg=what)
