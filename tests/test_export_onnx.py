"""examples/export_onnx.py: the step as a file, equal to PyTorch, and what the file says of itself."""

import json
import sys
from pathlib import Path

import pytest
import torch
from test_model import lively

import kinlmr
from kinlmr.skeleton import Part, Skeleton

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import export_onnx  # noqa: E402

ARM = Skeleton(
    "arm", ("shoulder", "elbow", "wrist"), (None, "shoulder", "elbow"),
    (Part("upper", ("shoulder", "elbow")), Part("lower", ("wrist",))),
)  # fmt: skip
SMALL = dict(hidden=3, shape_hidden=4, iterations=2)


@pytest.fixture(autouse=True)
def _tools():
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)


def saved(path, **options):
    kinlmr.save(lively(kinlmr.build(ARM, **{**SMALL, **options}), torch.float32), path)
    return str(path)


@pytest.mark.parametrize("options", [dict(keypoints="lsp14", fps=25, shape=4), dict(features=5, cell="lstm", camera=0)])
def test_the_file_steps_as_the_model_and_says_what_it_is(options, tmp_path, capsys):
    if options.get("cell") == "lstm" and tuple(map(int, torch.__version__.split(".")[:2])) < (2, 7):
        pytest.skip("torch 2.6 traces an nn.LSTM's state with an axis too many")
    import onnxruntime

    name, out = saved(tmp_path / "arm.npz", **options), tmp_path / "step.onnx"
    export_onnx.main([name, "--out", str(out)])
    assert "largest difference from PyTorch over 100 frames" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(str(out))
    told = json.loads(session.get_modelmeta().custom_metadata_map["kinlmr"])
    assert told["joints"] == ["shoulder", "elbow", "wrist"]
    assert told["parents"] == [-1, 0, 1]
    assert told["iterations"] == 2
    if "keypoints" in options:
        assert (told["keypoints"], told["fps"], told["body"]) == ("lsp14", 25, "anny24")
        assert len(told["points"]) == 14
    else:
        assert "keypoints" not in told
    model = kinlmr.load(name)
    for batch in (1, 3):
        frame, state = torch.rand(batch, model.options["features"]), model.initial_state(batch)
        estimate, after = model.step(frame, state)
        named = {**export_onnx.outputs(model, estimate), "memory_after": after.memory}
        assert [x.name for x in session.get_outputs()] == list(named)
        found = session.run(None, {"frame": frame.numpy(), "memory": state.memory.numpy()})
        for value, expected in zip(found, named.values(), strict=True):
            torch.testing.assert_close(torch.from_numpy(value), expected, atol=1e-5, rtol=0)


def test_another_models_file_is_refused_and_not_written(tmp_path, monkeypatch):
    """The check can fail: a file of other weights than the model's."""
    name, out = saved(tmp_path / "arm.npz", features=5), tmp_path / "step.onnx"
    right = export_onnx.exported
    monkeypatch.setattr(export_onnx, "exported", lambda model: right(lively(model, torch.float32, seed=1)))
    monkeypatch.setattr(export_onnx, "difference", lambda model, file, check=export_onnx.difference: check(
        lively(model, torch.float32, seed=0), file))  # fmt: skip
    with pytest.raises(ValueError, match=r"more than 0\.0001; .* is not written"):
        export_onnx.main([name, "--out", str(out)])
    assert not out.exists()


def test_what_does_not_export_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"rotation 'matrix' and cell 'gru' does not export .*such as '6d'"):
        export_onnx.main([saved(tmp_path / "arm.npz", features=5, rotation="matrix"), "--out", str(tmp_path / "x.onnx")])
