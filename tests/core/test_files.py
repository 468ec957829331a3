"""Files from anywhere: old pickles of every kind, and what must never run."""

import io
import os
import pickle
import pickletools
import sys
import tracemalloc
import types
import zipfile
from pathlib import Path

import bodies
import numpy as np
import pytest
import torch
from hostile import Calls, npy, pickles
from hypothesis import given
from hypothesis import strategies as st

from kinlmr import load_body
from kinlmr.files.arrays import beside, read_npz, short_name, write_atomic, write_npz
from kinlmr.files.messages import about
from kinlmr.files.pickles import KNOWN, Record, Unpickler, read_pickle


class Ch:
    """Stands in for chumpy.ch.Ch while a pickle is written."""

    def __init__(self, x):
        self.x = x


class Select:
    """Stands in for chumpy.reordering.Select."""

    def __init__(self, a, idxs, shape):
        self.a, self.idxs, self.preferred_shape = a, idxs, shape


class Old2:
    """An object of Python 2's object protocol, whose class some pickles rebuild by copy_reg._reconstructor."""


@pytest.fixture
def chumpy(monkeypatch):
    """chumpy, as far as pickling needs it, importable only while the file is written."""
    modules = {name: types.ModuleType(name) for name in ("chumpy", "chumpy.ch", "chumpy.reordering")}
    for cls, module in ((Ch, "chumpy.ch"), (Select, "chumpy.reordering")):
        monkeypatch.setattr(cls, "__module__", module)
        setattr(modules[module], cls.__name__, cls)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    yield
    for name in modules:
        monkeypatch.delitem(sys.modules, name)


def official(sparse, select):
    """An SMPL-like dict as the official files hold it: chumpy, a sparse regressor, keys that nobody needs."""
    arrays = bodies.arrays((-1, 0, 1, 1), 20, 3)
    shapedirs = arrays["shapedirs"]
    flat = Select(Ch(shapedirs), np.arange(shapedirs.size), shapedirs.shape) if select else Ch(shapedirs)
    regressor = arrays["J_regressor"]
    if sparse:
        matrices = pytest.importorskip("scipy.sparse")
        regressor = getattr(matrices, sparse)(regressor)
    return arrays, {
        **arrays, "shapedirs": flat, "J_regressor": regressor, "posedirs": np.asfortranarray(arrays["posedirs"]),
        "bs_style": "lbs", "bs_type": "lrotmin", "vert_sym_idxs": np.arange(20), "seen": {1, 2}, "scale": np.float64(2),
    }  # fmt: skip


def test_a_frame_that_is_left_has_ended():
    reader = Unpickler(io.BytesIO())
    reader.leave_frame()  # before any, and in a Python that does not show its frames
    for rest in (b"", b"x"):
        reader._unframer = types.SimpleNamespace(current_frame=io.BytesIO(rest))
        if rest:
            with pytest.raises(ValueError, match="begin inside a frame"):
                reader.leave_frame()
        else:
            reader.leave_frame()


@pytest.mark.parametrize("protocol", range(5))
@pytest.mark.parametrize("sparse", [None, "csc_matrix", "csr_matrix", "coo_matrix", "csc_array", "coo_array"])
@pytest.mark.parametrize("select", [False, True])
def test_official_pickles_without_chumpy(tmp_path, chumpy, protocol, sparse, select):
    arrays, content = official(sparse, select)
    path = tmp_path / "SMPL.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    found = read_pickle(path, arrays)
    for key, value in arrays.items():
        assert found[key].dtype == value.dtype
        assert np.array_equal(found[key], value), key
    np.savez(tmp_path / "same.npz", **arrays)
    one, two = load_body(path), load_body(tmp_path / "same.npz")
    assert torch.equal(one.basis, two.basis)
    assert torch.equal(one.J, two.J)


def test_names_of_numpy_1_and_big_endian_bytes(tmp_path):
    data = pickle.dumps({"J": np.arange(6, dtype=">f4").reshape(2, 3), "n": np.int64(3), "x": 2.5}, 2)
    old = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (tmp_path / "a.pkl").write_bytes(old)
    found = read_pickle(tmp_path / "a.pkl", ["J", "n", "x"])
    assert found["J"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["J"].dtype == np.dtype("=f4")
    assert (int(found["n"]), float(found["x"])) == (3, 2.5)


@pytest.mark.parametrize("protocol", range(5))
def test_arrays_without_numbers_and_arrays_of_text(tmp_path, protocol):
    arrays = {"empty": np.zeros((0, 6890, 3)), "text": np.array(["a", "bc"]), "bytes": np.array([b"a", b"bc"])}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(arrays, protocol))
    np.savez(tmp_path / "a.npz", **arrays)
    for found in (read_pickle(tmp_path / "a.pkl", arrays), read_npz(tmp_path / "a.npz")):
        assert found["empty"].shape == (0, 6890, 3)
        assert found["text"].tolist() == found["bytes"].tolist() == ["a", "bc"]
        assert found["bytes"].dtype.kind == "U"


def test_python_2_strings_as_bytes(tmp_path):
    """Python 2 wrote an array's bytes as a str: protocol 2's BINSTRING."""
    raw = np.arange(3.0).tobytes()
    body = b"\x80\x02}q\x00U\x01Jcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    body += b"(K\x01K\x03\x85cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R"
    body += b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
    body += b"T" + len(raw).to_bytes(4, "little") + raw + b"tbs."
    (tmp_path / "p2.pkl").write_bytes(body)
    assert read_pickle(tmp_path / "p2.pkl", ["J"])["J"].tolist() == [0.0, 1.0, 2.0]


# ---------------------------------------------------------------------------------------------------- what must not run


def test_the_evil_files_are_pickles(tmp_path):
    """Python's own reader would have run the first of them."""
    data = next(data for what, data in pickles(tmp_path) if what == "os.system")
    pickle.loads(data)
    assert (tmp_path / "ran").exists()


def test_every_known_name_is_inert():
    for module, name in KNOWN:
        file = io.BytesIO(f"c{module}\n{name}\n(tR.".encode())
        assert isinstance(Unpickler(file, encoding="latin1").load(), Record)


@given(st.binary(max_size=60), st.integers(0, 400), st.integers(0, 5))
def test_a_damaged_pickle_gives_arrays_or_a_refusal(junk, at, cut):
    import tempfile

    good = pickletools.optimize(pickle.dumps({"J": np.arange(6.0).reshape(2, 3), "f": np.arange(3)}, 2))
    with tempfile.NamedTemporaryFile(suffix=".pkl") as file:
        file.write(good[:at] + junk + good[at + cut :])
        file.flush()
        try:
            found = read_pickle(file.name, ["J", "f"])
        except ValueError as error:
            assert "refused, nothing in it was run" in str(error)  # noqa: PT017
        else:
            assert all(isinstance(value, np.ndarray) for value in found.values())


# ------------------------------------------------------------------------------------------------------------- archives


def write(path, key, data, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(f"{key}.npy", data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (npy(np.array([Calls(os.system, "touch ran")], dtype=object)), "J holds object, not numbers"),
        (npy(np.zeros(2, dtype=[("a", "f4")])), "not numbers"),
        (npy(shape=(10**10,)), r"J claims shape \(10000000000,\) of float64, but holds 0 bytes"),
        (npy(shape=(4,), data=bytes(31)), "but holds 31 bytes"),
        (
            npy(np.array(["ab"])).replace("b".encode("utf-32-le"), b"\xff" * 4),
            "J holds text with a letter that there is",
        ),
        (b"\x93NUMPY\x09\x00", "format"),
        (b"hello", "magic"),
    ],
)
def test_archives_that_claim_too_much(tmp_path, data, message):
    path = tmp_path / "bad.npz"
    write(path, "J", data)
    with pytest.raises(ValueError, match=f"bad.npz: not an .npz archive of plain arrays.*{message}"):
        read_npz(path)
    assert read_npz(path, ["other"]) == {}


def test_a_zip_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "bomb.npz"
    write(path, "J", npy(shape=(8_000_000,), data=bytes(64_000_000)), zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    with pytest.raises(ValueError, match="would unpack to 64,"):
        read_npz(path, limit=10_000_000)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


@given(st.binary(min_size=1, max_size=20), st.integers(0, 700))
def test_a_damaged_archive_gives_arrays_or_a_refusal(junk, at):
    import tempfile

    buffer = io.BytesIO()
    np.savez_compressed(buffer, J=np.arange(60.0).reshape(20, 3), f=np.arange(3))
    good = buffer.getvalue()
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        file.write(good[:at] + junk + good[at + len(junk) :])
        file.flush()
        try:
            found = read_npz(file.name)
        except ValueError as error:
            assert "not an .npz archive" in str(error)  # noqa: PT017
        else:
            assert all(isinstance(value, np.ndarray) for value in found.values())


@pytest.mark.parametrize("letter", ["a", "\u6f22", "\U0001f57a"])
def test_names_as_long_as_the_file_system_takes_are_written(tmp_path, letter):
    stem = letter * (251 // len(letter.encode()))
    name = stem + "x" * (251 - len(stem.encode())) + ".npz"
    for data in (b"one", b"two"):
        write_atomic(tmp_path / name, data)
        assert (tmp_path / name).read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with pytest.raises(OSError, match="could not be written, File name too long"):
        write_atomic(tmp_path / f"x{name}", b"three")
    assert len({beside(tmp_path / name) for _ in range(9)}) == 9
    assert short_name("a.npz") == "a.npz"
    assert short_name(name) != short_name(f"y{name[1:]}")


def test_plain_archives_are_read(tmp_path):
    path = tmp_path / "good.npz"
    arrays = {"a": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "b": np.array("text"), "c": np.zeros((0, 2), ">i2")}
    write_npz(path, **arrays)
    found = read_npz(path)
    assert all(np.array_equal(found[key], value) for key, value in arrays.items())
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, arrays["a"], version=(2, 0))
    write(path, "a", buffer.getvalue())
    assert np.array_equal(read_npz(path)["a"], arrays["a"])
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_npz(tmp_path / "none.npz")


# ------------------------------------------------------------------------------------------------------------- messages


@pytest.mark.parametrize("said", ["no frames", "a.bvh:3: no frames", "a.bvh: no frames"])
@pytest.mark.parametrize("path", ["a.bvh", Path("a.bvh")])
def test_a_refusal_names_its_file_once(path, said):
    with pytest.raises(ValueError, match=r"^a\.bvh(:3)?: no frames$"), about("a.bvh"), about(path):
        raise ValueError(said)
    with pytest.raises(KeyError, match="^'no frames'$"), about(path):
        raise KeyError("no frames")
