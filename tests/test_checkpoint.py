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
from kinlmr import checkpoint

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


# ----------------------------------------------------------------------------------------- models that know their input


def test_a_model_names_its_keypoints(tmp_path):
    path = tmp_path / "model.npz"
    model = kinlmr.build("smpl.yaml", keypoints="body25", fps=25, body="anny24_lo369", hidden=4)
    assert model.options["features"] == 75
    kinlmr.save(model, path)
    options = kinlmr.load(path).options
    assert (options["keypoints"], options["fps"], options["body"]) == ("body25", 25.0, "anny24_lo369")
    assert kinlmr.build("smpl.yaml", keypoints="coco17", features=51, hidden=4).options["body"] == "anny24"
    for wrong, message in (
        (dict(keypoints="coco"), "unknown keypoint set 'coco'; there are .*did you mean 'coco17'"),
        (dict(keypoints="coco17", features=34), "coco17 has 17 points, so 51 features, not 34; leave features out"),
        (dict(keypoints="coco17", fps=0), "fps must be a positive number of frames a second, not 0"),
    ):
        with pytest.raises(ValueError, match=message):
            kinlmr.build("smpl.yaml", hidden=4, **wrong)


def test_a_checkpoint_that_does_not_name_them_goes_into_a_model_that_does(tmp_path):
    path = tmp_path / "model.npz"
    kinlmr.save(kinlmr.build("smpl.yaml", features=51, hidden=4), path)
    assert "keypoints" not in kinlmr.load(path).options
    named = kinlmr.load(path, kinlmr.build("smpl.yaml", keypoints="coco17", hidden=4))
    kinlmr.save(named, path)
    with pytest.raises(ValueError, match="keypoints is 'coco17' there, 'h36m17' here"):
        kinlmr.load(path, kinlmr.build("smpl.yaml", keypoints="h36m17", hidden=4))


@KINDS
def test_half_the_room(suffix, tmp_path):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    model = kinlmr.build("smpl.yaml", features=5, hidden=32)
    kinlmr.save(model, tmp_path / f"full{suffix}")
    for kind in (torch.float32, torch.float64):
        kinlmr.save(model.to(kind), tmp_path / f"half{suffix}", half=True)
        half = kinlmr.load(tmp_path / f"half{suffix}")
        for name, value in model.state_dict().items():
            assert half.state_dict()[name].dtype == kind
            assert torch.equal(half.state_dict()[name], value.half().to(kind))
    assert (tmp_path / f"half{suffix}").stat().st_size < 0.6 * (tmp_path / f"full{suffix}").stat().st_size
    model.camera.head.bias.data[0] = 1e6
    with pytest.raises(ValueError, match=r"camera\.head\.bias has numbers beyond 65504.*half=False"):
        kinlmr.save(model, tmp_path / f"half{suffix}", half=True)


def test_unknown_types_are_refused(tmp_path):
    path = tmp_path / "model.npz"
    kinlmr.save(kinlmr.build("smpl.yaml", **SMALL), path, half=True)
    with np.load(path) as file:
        meta = str(file["kinlmr"])
    rewritten(path, kinlmr=np.array(meta.replace('"dtype": "float32"', '"dtype": "int8"')))
    with pytest.raises(ValueError, match="not a kinlmr checkpoint, or a damaged one"):
        kinlmr.load(path)


@pytest.mark.parametrize("zipped", [False, True])
def test_shipped_models_are_found_by_name(zipped, tmp_path, monkeypatch):
    """In a package of another name, as a folder and as a zip."""
    package = f"package_of_models_{zipped:d}"
    (tmp_path / package / "weights").mkdir(parents=True)
    (tmp_path / package / "__init__.py").write_text("")
    model = kinlmr.build("smpl.yaml", keypoints="coco17", hidden=4, shape_hidden=4)
    kinlmr.save(model, tmp_path / package / "weights" / "tiny-coco17.npz", half=True)
    where = tmp_path
    if zipped:
        where = tmp_path / "package.zip"
        with zipfile.ZipFile(where, "w") as archive:
            for file in sorted((tmp_path / package).rglob("*")):
                archive.write(file, file.relative_to(tmp_path))
    monkeypatch.syspath_prepend(str(where))
    monkeypatch.setattr(checkpoint, "PACKAGE", package)
    assert checkpoint.shipped() == ("tiny-coco17",)
    loaded = kinlmr.load("tiny-coco17")
    assert loaded.options["keypoints"] == "coco17"
    assert not loaded.training
    with pytest.raises(
        FileNotFoundError, match="tiny-coco71: no such checkpoint, .*there are tiny-coco17; did you mean"
    ):
        kinlmr.load("tiny-coco71")
    kinlmr.save(kinlmr.build("mano.yaml", **SMALL), tmp_path / "mine.npz")
    (tmp_path / "mine.npz").rename(tmp_path / "tiny-coco17")
    monkeypatch.chdir(tmp_path)
    assert kinlmr.load("tiny-coco17").plan.skeleton.name == "mano"  # a file goes first


def test_a_package_without_weights(tmp_path, monkeypatch):
    (tmp_path / "package_without_models").mkdir()
    (tmp_path / "package_without_models" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(checkpoint, "PACKAGE", "package_without_models")
    with pytest.raises(FileNotFoundError, match="there are none"):
        kinlmr.load("anny24-coco17")
