import io
import json
import os
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from laws import assert_same
from strategies import skeletons
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import kinlmr
from kinlmr import checkpoint
from kinlmr.engine.cells import CELLS

SMALL = dict(features=5, hidden=4, shape=2)
KINDS = pytest.mark.parametrize("suffix", [".npz", ".safetensors"])


def clip():
    return torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))


def assert_survives(model, path, tolerance=0.0):
    """Saved and loaded, a model is the same model."""
    kinlmr.save(model, path)
    loaded = kinlmr.load(path)
    assert loaded.plan == model.plan
    assert loaded.options == model.options
    assert loaded.rotation == model.rotation
    assert_same(loaded(clip().to(loaded.start.pose)), model(clip().to(model.start.pose)), tolerance)


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


@pytest.mark.parametrize("name", ["model.pt", "model.npz", "model.safetensors", "model.ckpt"])
@pytest.mark.parametrize("old", [False, True])
def test_a_file_of_torch_save_is_known_by_its_bytes(name, old, tmp_path):
    path, model = tmp_path / name, kinlmr.build("smpl.yaml", **SMALL)
    for thing in (model.state_dict(), model, {"epoch": 3}, [1]):
        torch.save(thing, path, _use_new_zipfile_serialization=not old)
        with pytest.raises(ValueError, match=rf"{name}: written by torch\.save, .*load_state_dict.*kinlmr\.save"):
            kinlmr.load(path)
    np.savez(tmp_path / "other.npz", data=np.zeros(3))
    with pytest.raises(ValueError, match=r"other\.npz: not a kinlmr checkpoint"):
        kinlmr.load(tmp_path / "other.npz")


def test_what_a_checkpoint_does_not_say_is_the_default(arrays, tmp_path):
    """Each option left out of the JSON, as in files from before there was one."""
    path, meta = tmp_path / "model.npz", json.loads(str(arrays["kinlmr"]))
    defaults = kinlmr.build("smpl.yaml").options
    for name in set(meta["options"]) - {"features", "hidden", "shape_hidden", "keypoints", "fps", "body"}:
        less = {key: value for key, value in meta["options"].items() if key != name}
        np.savez(path, **{**arrays, "kinlmr": np.array(json.dumps({**meta, "options": less}))})
        assert getattr(kinlmr.load(path).options, name) == getattr(defaults, name)


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


def test_rotations_and_cells_of_ones_own_are_known_by_name(tmp_path, monkeypatch):
    path = tmp_path / "model.npz"
    mine, own = kinlmr.ROTATIONS["6d"]._replace(name="mine"), CELLS["lstm"]._replace(name="own")
    model = kinlmr.build("mano.yaml", rotation=mine, cell=own, **SMALL)
    for known, record, kind in ((kinlmr.ROTATIONS, mine, "rotation"), (CELLS, own, "cell")):
        with pytest.raises(
            ValueError, match=rf"the {kind} '{record.name}' is not that of kinlmr.*add its record there"
        ):
            kinlmr.save(model, path)
        monkeypatch.setitem(known, record.name, record)
    assert_survives(model, path)
    monkeypatch.delitem(CELLS, "own")
    with pytest.raises(ValueError, match="options make no model .unknown cell 'own'"):
        kinlmr.load(path)
    monkeypatch.delitem(kinlmr.ROTATIONS, "mine")
    with pytest.raises(ValueError, match=r"rotation 'mine' is unknown; add its record to kinlmr\.ROTATIONS"):
        kinlmr.load(path)


# --------------------------------------------------------------------------------------------- what is saved is loaded


def changed(what):
    """Makes a model to which something was done."""

    def make():
        model = kinlmr.build("smpl.yaml", **SMALL).eval()
        what(model)
        return model

    return make


def weight(view):
    """A weight whose numbers lie otherwise."""
    return changed(lambda m: setattr(m.shape.fc2, "weight", nn.Parameter(view(m.shape.fc2.weight.detach()))))


KEPT = {
    "an expanded bias": changed(lambda m: setattr(m.camera.head, "bias", nn.Parameter(torch.ones(1).expand(3)))),
    "a transposed weight": weight(lambda w: w.T.contiguous().T),
    "a part of another": weight(lambda w: torch.cat([w, w], 1)[:, : len(w)]),
    "a negative view": weight(torch._neg_view),
    "a weight of two parts": changed(
        lambda m: setattr(m.parts["left_arm"].rnn, "weight_hh_l0", m.parts["right_arm"].rnn.weight_hh_l0)
    ),
    "all in one piece of memory": weight(lambda w: torch.cat([w, w]).unflatten(0, (2, -1))[0]),
    "what does not learn": changed(lambda m: m.requires_grad_(False)),
    "a buffer that is not kept": changed(lambda m: m.register_buffer("seen", torch.zeros(1), persistent=False)),
    "a baked parametrization": changed(
        lambda m: parametrize.remove_parametrizations(parametrizations.spectral_norm(m.shape.fc1).eval(), "weight")
    ),
    "a baked pruning": changed(lambda m: prune.remove(prune.l1_unstructured(m.camera.head, "weight", 0.5), "weight")),
    "float64": changed(lambda m: m.double()),
}


@KINDS
@pytest.mark.parametrize("name", KEPT)
def test_what_is_saved_is_loaded(name, suffix, tmp_path):
    """However it lies in memory; what is loaded is contiguous, and of the same type."""
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    model, path = KEPT[name](), tmp_path / f"model{suffix}"
    assert_survives(model, path, 1e-5)
    found = kinlmr.load(path).state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(found[key], value)
        assert found[key].is_contiguous()
        assert found[key].dtype == value.dtype
    assert len({value.untyped_storage().data_ptr() for value in found.values()}) == len(found)


class Mine(kinlmr.LMR):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs)._replace(shape=torch.zeros(2))


class Wrapped(torch.Tensor):
    pass


def option(**options):
    return changed(lambda m: setattr(m, "options", replace(m.options, **options)))


def parametrized(module, name, parametrization):
    parametrize.register_parametrization(module, name, parametrization, unsafe=True)


def added(value):
    return changed(lambda m: m.shape.register_buffer("x", value))


OTHER = {
    "weight_norm": (
        changed(lambda m: parametrizations.weight_norm(m.camera.head)),
        r"original0 is \(3, 1\), expected no",
    ),
    "spectral_norm": (changed(lambda m: parametrizations.spectral_norm(m.shape.fc1)), r"_u is \(1024,\), expected no"),
    "orthogonal": (
        changed(lambda m: parametrizations.orthogonal(m.camera.head)),
        "expected no such.*remove_parametriz",
    ),
    "the start": (changed(lambda m: parametrized(m.start, "pose", nn.Identity())), "start.parametrizations.*no such"),
    "pruned": (changed(lambda m: prune.l1_unstructured(m.camera.head, "weight", 0.5)), r"is missing.*prune\.remove"),
    "a buffer": (added(torch.zeros(1)), r"shape\.x is \(1,\), expected no such tensor"),
    "a whole number": (added(torch.tensor(1)), r"shape\.x is \(\), expected no such tensor"),
    "a parameter": (added(nn.Parameter(torch.ones(2))), r"shape\.x is \(2,\), expected no such tensor"),
    "a module": (changed(lambda m: m.add_module("more", nn.Linear(1, 2))), r"more\.bias is \(2,\), expected no such"),
    "a lost part": (changed(lambda m: m.parts.update({"head": nn.Module()})), r"parts\.head\.head\.bias is missing"),
    "another size": (weight(lambda w: w[:9]), r"shape\.fc2\.weight is \(9, 1024\), expected \(1024, 1024\)"),
    "a subclass": (changed(lambda m: setattr(m, "__class__", Mine)), "an LMR of other code or options than this Mine"),
    "more iterations": (option(iterations=4), "other code or options than this LMR"),
    "another cell": (option(cell="lstm"), r"bias_hh_l0 is \(12,\), expected \(16,\)"),
    "an option that is no JSON": (option(cell=object()), "model.options are not those of build .*JSON"),
    "a type of ones own": (weight(lambda w: w.as_subclass(Wrapped)), "weight is a Wrapped; .*plain tensors of float32"),
    "complex": (weight(lambda w: w.to(torch.complex64)), r"torch\.complex64; a checkpoint holds plain tensors"),
    "float8": (weight(lambda w: w.to(torch.float8_e5m2)), r"torch\.float8_e5m2; a checkpoint"),
    "sparse": (weight(lambda w: w.to_sparse()), r"torch\.sparse_coo torch\.float32; a checkpoint"),
    "without numbers": (changed(lambda m: m.to("meta")), "has no numbers, only a shape"),
    "a rotation under a known name": (
        lambda: kinlmr.build("smpl.yaml", rotation=kinlmr.ROTATIONS["6d_rows"]._replace(name="6d"), **SMALL),
        r"the rotation '6d' is not that of kinlmr\.ROTATIONS",
    ),
    "a cell under a known name": (
        lambda: kinlmr.build("smpl.yaml", cell=CELLS["gru"]._replace(scan=None), **SMALL),
        r"the cell 'gru' is not that of kinlmr\.cells\.CELLS",
    ),
}


@KINDS
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, of sparse tensors
@pytest.mark.parametrize("name", OTHER)
def test_what_would_not_be_loaded_is_not_saved(name, suffix, tmp_path):
    make, message = OTHER[name]
    with pytest.raises(ValueError, match=rf"model\{suffix}: .*{message}"):
        kinlmr.save(make(), tmp_path / f"model{suffix}")
    assert not list(tmp_path.iterdir())


def test_arrays_of_another_order_and_byte_order(tmp_path):
    path = tmp_path / "model.npz"
    model = kinlmr.build("smpl.yaml", **SMALL)
    kinlmr.save(model, path)
    with np.load(path) as file:
        turned = {key: np.asfortranarray(value.astype(">f4")) for key, value in file.items() if key != "kinlmr"}
    rewritten(path, **turned)
    loaded = kinlmr.load(path)
    assert all(value.is_contiguous() and value.dtype == torch.float32 for value in loaded.state_dict().values())
    assert_same(loaded(clip()), model(clip()), 0.0)


CLAIMS = (0, -1, 101, 10**7, 2**31, 2**63, 10**30, 1e308, True, None, "x", [], {})
TAKEN = ("fps", 101), ("body", "x"), ("features", None)  # None: by the keypoints
BOUNDED = "features", "iterations", "layers", "hidden", "shape", "shape_hidden", "camera", "fps", "body"


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """Of a checkpoint that names its keypoints."""
    path = tmp_path_factory.mktemp("arrays") / "model.npz"
    kinlmr.save(kinlmr.build("smpl.yaml", keypoints="lsp14", hidden=4, shape_hidden=4), path)
    with np.load(path) as file:
        return dict(file)


@pytest.mark.parametrize(("option", "value"), [(o, v) for o in BOUNDED for v in CLAIMS if (o, v) not in TAKEN])
def test_what_a_checkpoint_claims_is_bounded(option, value, arrays, tmp_path):
    """Before anything is made of it."""
    path, meta = tmp_path / "model.npz", json.loads(str(arrays["kinlmr"]))
    meta["options"][option] = value
    np.savez(path, **{**arrays, "kinlmr": np.array(json.dumps(meta))})
    with pytest.raises(ValueError, match=r"model\.npz: (its options make no model|.* the file is damaged)"):
        kinlmr.load(path)


# ----------------------------------------------------------------------------------------- models that know their input


def test_a_model_names_its_keypoints(tmp_path):
    path = tmp_path / "model.npz"
    model = kinlmr.build("smpl.yaml", keypoints="body25", fps=25, body="anny24_lo369", hidden=4)
    assert model.options.features == 75
    kinlmr.save(model, path)
    options = kinlmr.load(path).options
    assert (options.keypoints, options.fps, options.body) == ("body25", 25.0, "anny24_lo369")
    assert kinlmr.build("smpl.yaml", keypoints="coco17", features=51, hidden=4).options.body == "anny24"
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
    assert kinlmr.load(path).options.keypoints is None
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
    assert loaded.options.keypoints == "coco17"
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
