import io
import os
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from laws import assert_same
from strategies import skeletons

import kinlmr

SMALL = dict(features=5, hidden=4, shape=2)
KINDS = pytest.mark.parametrize("suffix", [".npz", ".safetensors"])


def clip():
    return torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))


def assert_survives(model, path):
    """Saved and loaded, a model is the same model."""
    kinlmr.save(model, path)
    loaded = kinlmr.load(path)
    assert loaded.plan == model.plan
    assert loaded.options == model.options
    assert loaded.rotation == model.rotation
    assert_same(loaded(clip().to(loaded.start.pose)), model(clip().to(model.start.pose)), 0.0)


@KINDS
def test_saved_and_loaded(suffix, tmp_path):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    hidden = {"wrist": 3, "index": 4, "middle": 5, "pinky": 6, "ring": 7, "thumb": 8}
    model = kinlmr.build("mano.yaml", features=5, hidden=hidden, cell="lstm", rotation="axis_angle", learn_start=True)
    assert_survives(model, tmp_path / f"model{suffix}")
    assert_survives(model.double(), tmp_path / f"model{suffix}")
    assert [f.name for f in tmp_path.iterdir()] == [f"model{suffix}"]


@settings(max_examples=20)
@given(skeletons(most=8))
def test_any_skeleton_survives(skeleton):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        assert_survives(kinlmr.build(skeleton, **SMALL), os.path.join(folder, "model.npz"))


def test_the_law_can_fail(tmp_path, monkeypatch):
    model = kinlmr.build("smpl.yaml", **SMALL)
    monkeypatch.setattr(kinlmr, "load", lambda path: kinlmr.build("smpl.yaml", **SMALL))
    with pytest.raises(AssertionError):
        assert_survives(model, tmp_path / "model.npz")


def test_into_a_model(tmp_path):
    path = tmp_path / "model.npz"
    one, two = kinlmr.build("smpl.yaml", **SMALL), kinlmr.build("smpl.yaml", allow_nan=True, **SMALL)
    kinlmr.save(one, path)
    assert kinlmr.load(path, two) is two
    assert_same(one(clip()), two(clip()), 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            dict(skeleton="smpl_chain.yaml"),
            "only it has parts root, left_arm, .*only the model has parts pelvis, chest",
        ),
        (
            dict(skeleton="smpl_independent.yaml"),
            "parts head, left_arm, right_arm, left_leg, right_leg are given others",
        ),
        (dict(skeleton="smplh.yaml"), "part 'left_arm' has joints .*left_wrist, left_hand there"),
        (dict(cell="lstm"), "cell is 'gru' there, 'lstm' here"),
        (dict(rotation="axis_angle"), "rotation is '6d' there, 'axis_angle' here"),
        (dict(iterations=2), "iterations is 3 there, 2 here"),
    ],
)
def test_a_checkpoint_of_another_model(options, message, tmp_path):
    path = tmp_path / "model.npz"
    kinlmr.save(kinlmr.build("smpl.yaml", **SMALL), path)
    other = kinlmr.build(**{"skeleton": "smpl.yaml", **SMALL, **options})
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        kinlmr.load(path, other)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_joints_in_another_order(tmp_path):
    path = tmp_path / "model.npz"
    smpl = kinlmr.load_skeleton("smpl.yaml")
    turned = kinlmr.Skeleton("smpl", smpl.joints[::-1], smpl.parents[::-1], smpl.parts)
    kinlmr.save(kinlmr.build(smpl, **SMALL), path)
    with pytest.raises(ValueError, match="stand in another order"):
        kinlmr.load(path, kinlmr.build(turned, **SMALL))
    hung = replace(smpl, parents=tuple("spine2" if p == "spine3" else p for p in smpl.parents))
    with pytest.raises(ValueError, match="joints neck, left_collar, right_collar hang elsewhere"):
        kinlmr.load(path, kinlmr.build(hung, **SMALL))
    assert kinlmr.load(path, kinlmr.build(replace(smpl, name="other"), **SMALL)).plan.skeleton.name == "other"


def test_a_link_stays_one(tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "model.npz"
    link.symlink_to(tmp_path / "there" / "model.npz")
    kinlmr.save(kinlmr.build("mano.yaml", **SMALL), link)
    assert link.is_symlink()
    assert [f.name for f in (tmp_path / "there").iterdir()] == ["model.npz"]


def test_an_interrupted_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.npz"
    kinlmr.save(kinlmr.build("smpl.yaml", **SMALL), path)
    before = path.read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        kinlmr.save(kinlmr.build("smpl.yaml", **SMALL), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def rewritten(path, **changes):
    """The checkpoint with some members replaced, or taken out with None."""
    with np.load(path) as file:
        arrays = {**{key: file[key] for key in file.files}, **changes}
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})


def test_damaged_and_foreign_files(tmp_path):
    path = tmp_path / "model.npz"
    model = kinlmr.build("smpl.yaml", **SMALL)
    kinlmr.save(model, path)
    good = path.read_bytes()
    with np.load(path) as file:
        meta = str(file["kinlmr"])
    for bad in (b"", b"hello", good[: len(good) // 2], b"PK\x03\x04" + bytes(100)):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=r"model\.npz: not an \.npz archive"):
            kinlmr.load(path)
    path.write_bytes(good)
    rewritten(path, kinlmr=None)
    with pytest.raises(ValueError, match="not a kinlmr checkpoint"):
        kinlmr.load(path)
    for changes, message in (
        ({"kinlmr": np.array(meta.replace('"format": 1', '"format": 99'))}, "format 99, this kinlmr reads 1"),
        ({"camera.head.bias": None}, r"camera\.head\.bias is missing, expected \(3,\)"),
        ({"camera.head.bias": np.zeros(4, np.float32)}, r"camera\.head\.bias is \(4,\), expected \(3,\)"),
        ({"camera.head.bias": np.zeros(3, np.int64)}, "a model has one floating type"),
        ({"camera.head.bias": np.array(["a", "b", "c"])}, "is text"),
        ({"kinlmr": np.array(meta.replace('"layers": 1', '"layers": 2'))}, "the file is damaged"),
        ({"kinlmr": np.array(meta.replace('"layers": 1', '"lairs": 1'))}, "options make no model"),
        ({"kinlmr": np.array(meta.replace('"cell": "gru"', '"cell": "gnu"'))}, "options make no model.*unknown cell"),
        ({"kinlmr": np.array(meta.replace('"root": 4', '"root": 10000000'))}, "the file is damaged"),
        ({"kinlmr": np.array(meta.replace('"rotation": "6d"', '"rotation": []'))}, r"rotation '\[\]' is unknown"),
        ({"kinlmr": np.array("[" * 100_000)}, "not a kinlmr checkpoint"),
        ({"extra": np.zeros(4, np.float32)}, r"extra is \(4,\), expected no such tensor"),
    ):  # fmt: skip
        path.write_bytes(good)
        rewritten(path, **changes)
        with pytest.raises(ValueError, match=message):
            kinlmr.load(path)
    large = np.zeros(50_000_000, np.uint8)
    np.savez_compressed(path, kinlmr=np.array(meta), large=large)
    with pytest.raises(ValueError, match="would unpack to 50"):
        kinlmr.load(path)
    (tmp_path / "model.safetensors").write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"model\.safetensors: not a checkpoint"):
        kinlmr.load(tmp_path / "model.safetensors")
    with pytest.raises(TypeError, match="save takes an LMR, not Linear"):
        kinlmr.save(torch.nn.Linear(1, 1), path)
    with pytest.raises(ValueError, match=r"no bfloat16; save model\.float"):
        kinlmr.save(kinlmr.build("smpl.yaml", **SMALL).bfloat16(), path)
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        kinlmr.load(tmp_path / "none.npz")
    with pytest.raises(ValueError, match=r"ends in \.npz or \.safetensors"):
        kinlmr.save(model, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="the folder .* does not exist"):
        kinlmr.save(model, tmp_path / "none" / "model.npz")


def test_nothing_in_a_checkpoint_runs(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    path = tmp_path / "model.npz"
    with zipfile.ZipFile(path, "w") as archive:
        buffer = io.BytesIO()
        np.save(buffer, np.array([Evil()], dtype=object), allow_pickle=True)
        archive.writestr("kinlmr.npy", buffer.getvalue())
    with pytest.raises(ValueError, match="holds object, not numbers"):
        kinlmr.load(path)
    assert not (tmp_path / "ran").exists()


def test_unknown_rotations_can_be_added(tmp_path, monkeypatch):
    path = tmp_path / "model.npz"
    mine = kinlmr.ROTATIONS["6d"]._replace(name="mine")
    kinlmr.save(kinlmr.build("mano.yaml", rotation=mine, **SMALL), path)
    with pytest.raises(ValueError, match=r"rotation 'mine' is unknown; add its record to kinlmr\.ROTATIONS"):
        kinlmr.load(path)
    monkeypatch.setitem(kinlmr.ROTATIONS, "mine", mine)
    assert kinlmr.load(path).rotation is mine


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_weights_of_several_types_are_not_saved(tmp_path, ending):
    model = kinlmr.build("smpl.yaml", features=5, hidden=4).weights_as(torch.bfloat16)
    with pytest.raises(ValueError, match="of several types .*save model.float"):
        kinlmr.save(model, tmp_path / f"model{ending}")
    kinlmr.save(model.float(), tmp_path / f"model{ending}")
    assert kinlmr.load(tmp_path / f"model{ending}").weights_as(torch.bfloat16).start.pose.dtype == torch.float32
