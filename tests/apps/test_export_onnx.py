"""examples/export_onnx.py: the step as a file, equal to PyTorch, and what the file says of itself."""

import json
import sys
from pathlib import Path

import pytest
import torch
from models import lively

import kinlmr
from kinlmr.skeleton import Part, Skeleton

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import export_onnx

ARM = Skeleton(
    "arm", ("shoulder", "elbow", "wrist"), (None, "shoulder", "elbow"),
    (Part("upper", ("shoulder", "elbow")), Part("lower", ("wrist",))),
)  # fmt: skip
MODELS = {
    "gru": dict(iterations=2, keypoints="lsp14", fps=25, shape=4),
    "lstm": dict(iterations=1, features=5, cell="lstm", shape=0, camera=0),
}


@pytest.fixture(scope="module", params=MODELS)
def written(request, tmp_path_factory):
    """A checkpoint, and the file that was made of it."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    if request.param == "lstm" and tuple(map(int, torch.__version__.split(".")[:2])) < (2, 7):
        pytest.skip("torch 2.6 traces an nn.LSTM's state with an axis too many")
    folder = tmp_path_factory.mktemp(request.param)
    model = kinlmr.build(ARM, hidden=3, shape_hidden=4, **MODELS[request.param])
    kinlmr.save(lively(model, torch.float32), folder / "arm.npz")
    export_onnx.main([str(folder / "arm.npz"), "--out", str(folder / "step.onnx")])
    return folder / "arm.npz", folder / "step.onnx"


def test_the_file_steps_as_the_model_and_says_what_it_is(written):
    import onnxruntime

    model, session = kinlmr.load(written[0]), onnxruntime.InferenceSession(str(written[1]))
    told = json.loads(session.get_modelmeta().custom_metadata_map["kinlmr"])
    assert told["joints"] == ["shoulder", "elbow", "wrist"]
    assert told["parents"] == [-1, 0, 1]
    assert told["iterations"] == model.options["iterations"]
    assert [told.get(name) for name in ("keypoints", "fps", "body")] == [
        model.options.get(name) for name in ("keypoints", "fps", "body")
    ]
    assert len(told.get("points", ())) == (14 if "keypoints" in told else 0)
    for batch in (1, 3):
        frame, state = torch.rand(batch, model.options["features"]), model.initial_state(batch)
        estimate, after = model.step(frame, state)
        named = {**export_onnx.outputs(model, estimate), "memory_after": after.memory}
        assert [x.name for x in session.get_outputs()] == list(named)
        found = session.run(None, {"frame": frame.numpy(), "memory": state.memory.numpy()})
        for value, expected in zip(found, named.values(), strict=True):
            torch.testing.assert_close(torch.from_numpy(value), expected, atol=1e-5, rtol=0)


def test_a_file_that_differs_is_refused_and_not_written(written, tmp_path, monkeypatch):
    checkpoint, right = written
    other = tmp_path / "other.npz"
    kinlmr.save(lively(kinlmr.load(checkpoint), torch.float32, seed=1), other)
    monkeypatch.setattr(export_onnx, "exported", lambda _: right.read_bytes())
    export_onnx.main([str(checkpoint), "--out", str(tmp_path / "same.onnx")])
    with pytest.raises(ValueError, match=r"more than 0\.0001; .* is not written"):
        export_onnx.main([str(other), "--out", str(tmp_path / "other.onnx")])
    assert [path.name for path in tmp_path.glob("*.onnx")] == ["same.onnx"]


def test_what_does_not_export_is_named(monkeypatch):
    pytest.importorskip("onnxscript")

    def fail(*_, **__):
        raise torch.onnx.OnnxExporterError("step 3") from RuntimeError("no decomposition of the SVD\nand more")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(ValueError, match=r"'matrix' and cell 'gru' does not export \(no decomposition of the SVD\);"):
        export_onnx.exported(kinlmr.build(ARM, hidden=3, features=5, rotation="matrix"))
