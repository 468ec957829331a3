"""examples/page: the JavaScript gives kinlmr's numbers, and the detector's models get their metadata.

In a browser, which takes minutes: KINLMR_BROWSER=1, after `npm ci && python prepare.py`, with Chromium installed.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from models import lively

import kinlmr
from kinlmr.body.points import keypoint_sets, read_sets
from kinlmr.keypoints import convert, normalise

PAGE = Path(__file__).parents[2] / "examples/page"
sys.path.insert(0, str(PAGE))
for module in ("flatbuffers", "onnxruntime"):
    pytest.importorskip(module)
import prepare  # noqa: E402

MESH = "anny24_lo369"


def node(folder, code, given):
    """What a script prints as JSON; it finds its input in ``given``, and the page's modules as kinlmr and body."""
    if shutil.which("node") is None:
        pytest.skip("no node")
    head = "".join(
        f"import * as {name} from {json.dumps((folder / f'{name}.js').as_uri())};\n" for name in ("kinlmr", "body")
    )
    head += "import { readFileSync } from 'node:fs'; const given = JSON.parse(readFileSync(0, 'utf8'));\n"
    command = ["node", "--input-type=module", "-e", head + code]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


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
    (tmp_path / "package.json").write_text('{"type": "module"}')
    shutil.copy(PAGE / "body.js", tmp_path)
    changed = (PAGE / "kinlmr.js").read_text().replace("BOX_MARGIN = 1.2", "BOX_MARGIN = 1.21")
    (tmp_path / "kinlmr.js").write_text(changed)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_normalise(tmp_path)


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
    given = {"asked": asked, "body": prepare.body("anny24", "coco17", MESH), "keypoints": rows(keypoints)}
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
    given = {"body": prepare.body(MESH, "coco17", MESH), "turns": rows(turns.flatten()), "shape": rows(shape)}
    found, mesh = node(PAGE, code, given), body(turns, shape, want=("joints", "keypoints", "vertices"))
    np.testing.assert_allclose(found["joints"], mesh.joints, atol=2e-5)
    np.testing.assert_allclose(found["points"], mesh.keypoints, atol=2e-5)
    np.testing.assert_allclose(found["vertices"], mesh.vertices.flatten(), atol=2e-5)


# ------------------------------------------------------------------------------------------------- the detector's file


def test_a_model_gets_its_scaling_and_keeps_the_rest():
    import flatbuffers
    from flatbuffers.table import Table

    def vector(file, items):
        file.StartVector(4, len(items), 4)
        for item in reversed(items):
            file.PrependUOffsetTRelative(item)
        return file.EndVector()

    file = flatbuffers.Builder(64)
    buffers = vector(file, [prepare.table(file, 1, {0: file.CreateByteVector(b"weights")})])
    file.StartObject(8)
    file.PrependUint32Slot(0, 3, 0)
    file.PrependUOffsetTRelativeSlot(4, buffers, 0)
    file.Finish(file.EndObject(), b"TFL3")
    old = bytes(file.Output())
    new = prepare.with_scaling(old, 127.5, 255.0)

    def root(data):
        return Table(data, int.from_bytes(data[:4], "little"))

    def item(table, slot, k):
        return Table(table.Bytes, table.Indirect(table.Vector(table.Offset(4 + 2 * slot)) + 4 * k))

    def data(buffer):
        start = buffer.Vector(buffer.Offset(4))
        return buffer.Bytes[start : start + buffer.VectorLen(buffer.Offset(4))]

    model = root(new)
    assert new[4:8] == b"TFL3"
    assert new.index(old) % 16 == 0  # kept whole, its arrays still aligned
    assert data(item(model, 4, 0)) == b"weights"
    assert model.VectorLen(model.Offset(4 + 2 * 6)) == 1
    told = data(item(model, 4, 1))
    assert told[4:8] == b"M001"
    unit = item(item(item(root(told), 3, 0), 2, 0), 4, 0)
    options = Table(told, unit.Indirect(unit.Offset(6) + unit.Pos))
    assert [np.frombuffer(told, "<f4", 1, options.Vector(options.Offset(slot)))[0] for slot in (4, 6)] == [127.5, 255.0]
    with pytest.raises(ValueError, match="not a TFLite model"):
        prepare.with_scaling(b"\0" * 64, 0.0, 1.0)


# -------------------------------------------------------------------------------------------------------- in a browser


@pytest.mark.skipif("KINLMR_BROWSER" not in os.environ, reason="takes minutes; set KINLMR_BROWSER=1")
def test_the_page_recovers_as_python(tmp_path):
    subprocess.run(["node", PAGE / "test.mjs", "--numbers", tmp_path / "run.json"], check=True)
    frames = json.loads((tmp_path / "run.json").read_text())
    model = kinlmr.load("anny24-coco17")
    seen = [frame for frame in frames if frame["seen"]]
    first = frames.index(seen[0])
    recovery, _ = kinlmr.recover(model, np.array([frame["points"] for frame in frames[first:]], np.float32), 30)
    for name, atol in {"rotations": 1e-3, "shape": 1e-3, "camera": 1e-3, "box": 1e-2}.items():
        found = np.array([frame["seen"][name] for frame in frames[first:]])
        np.testing.assert_allclose(found, getattr(recovery, name).flatten(1), atol=atol, err_msg=name)
