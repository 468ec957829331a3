"""Files from anywhere: old pickles of every kind, and what must never run."""

import io
import os
import pickle
import pickletools
import sys
import tracemalloc
import types
import zipfile

import bodies
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kinlmr import load_body
from kinlmr.files import read_npz
from kinlmr.pickles import KNOWN, Record, Unpickler, read_pickle


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


class Calls:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def pickle_of_selects(depth):
    """Select whose array and whose indices are the same Select, and so on: 2^depth to unfold."""
    data = b"\x80\x02}U\x01J" + b"I0\n"
    for _ in range(depth):
        data += b"q\x010cchumpy.reordering\nSelect\n)\x81}(U\x01ah\x01U\x04idxsh\x01U\x0fpreferred_shape(lub"
    return data + b"s."


def claim_dtype(code):
    """An array whose dtype's name is whatever ``code`` makes."""
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x03\x85cnumpy\ndtype\n"
    return made + code + b"K\x00K\x01\x87R\x89U\x01atb"


def sparse_claim(indptr, indices, data, shape):
    """A csc matrix with the given parts."""

    class csc_matrix:
        pass

    made = csc_matrix()
    made.__dict__ = {
        "indptr": np.array(indptr),
        "indices": np.array(indices, int),
        "data": np.array(data, float),
        "_shape": shape,
    }
    csc_matrix.__module__, csc_matrix.__qualname__ = "scipy.sparse._csc", "csc_matrix"
    module = types.ModuleType("scipy.sparse._csc")
    module.csc_matrix = csc_matrix
    before = sys.modules.get("scipy.sparse._csc")
    sys.modules["scipy.sparse._csc"] = module
    try:
        return pickle.dumps({"J": made}, 2)
    finally:
        sys.modules.pop("scipy.sparse._csc")
        if before is not None:
            sys.modules["scipy.sparse._csc"] = before


def evil(folder):
    touch = f"touch {folder}/ran"
    nested = Calls(getattr, Calls(__import__, "os"), "system")
    huge = np.arange(3.0)
    yield "os.system", pickle.dumps({"J": Calls(os.system, touch)})
    yield "protocol 0", pickle.dumps({"J": Calls(os.system, touch)}, 0)
    yield "eval", pickle.dumps({"J": Calls(eval, "__import__('os').system('ls')")})
    yield "nested reduces", pickle.dumps({"J": nested})
    yield "a key nobody reads", pickle.dumps({"nothing": Calls(os.system, touch), "J": huge})
    yield "not chumpy", b"cchumpy.ch_evil\nCh\n(tR."
    yield "chumpy.ch.os", b"cchumpy.ch\nos.system\n(V" + touch.encode() + b"\ntR."
    yield "scipy.sparse.csc.np", b"cscipy.sparse.csc\nnp\n."
    yield "import", b"cantigravity\nfly\n."
    yield "inst", b"(V" + touch.encode() + b"\nios\nsystem\n."
    yield "stack global", b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R."
    yield "extension", b"\x80\x02\x82\x01."
    yield "persistent", b"Pos.system\n."
    yield "build on a list", b"](dVa\nVb\nsb."
    yield "call of an array", b"cnumpy\nndarray\n(tR(tR."
    yield "truncated", pickle.dumps({"J": np.arange(1000.0)})[:-100]
    yield "empty", b""
    yield "text", b"hello world"
    yield "not a dict", pickle.dumps([1, 2])
    yield "100 GB bytearray", b"\x80\x05\x96" + (10**11).to_bytes(8, "little") + b"."
    yield "100 GB bytes", b"\x80\x04\x8e" + (10**11).to_bytes(8, "little") + b"."
    yield "memo index", b"\x80\x02K\x01r\xff\xff\xff\xff."
    yield "deep", b"(" * 100_000 + b"]" * 100_000 + b"."
    claim = pickle.dumps({"J": huge}, 2).replace(b"K\x03\x85", b"J\xff\xff\xff\x7f\x85")
    yield "100 GB array", claim
    yield "object array", pickle.dumps({"J": np.array([{}], dtype=object)})
    yield "records", pickle.dumps({"J": np.zeros(2, dtype=[("a", "f4")])})
    yield "subclass", pickle.dumps({"J": np.zeros((2, 2)).view(np.matrix)})
    bomb = b"\x80\x02}U\x01J" + b"X" + (10**6).to_bytes(4, "little") + b"a" * 10**6 + b"q\x000]"
    yield "deep tuple as a key", b"\x80\x02})" + b"\x85" * 300_000 + b"Ns."
    yield "a key that takes for ever to hash", b"\x80\x02})" + b"2\x86" * 40 + b"Ns."
    yield (
        "keys of one hash",
        b"\x80\x02}("
        + b"".join(b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") + b"N" for k in range(300))
        + b"u.",
    )
    yield "many steps", b"\x80\x02" + b"]0" * 600_000 + b"]."
    yield "chumpy in chumpy", pickle_of_selects(26)
    yield "a dtype of lists", b"\x80\x02}U\x01J" + claim_dtype(b"]" + b"(2" * 20 + b"e" * 20) + b"s."
    yield "sparse pointers", sparse_claim([0, 200_000_000], [0], [1.0], (1, 1))
    yield "sparse places", sparse_claim([0, 2], [-1, -1], [1.0, 1.0], (2, 1))
    yield "sparse shape", sparse_claim([0] * 11, [], [], (10**9, 10))
    yield "protocol 5", pickle.dumps({"J": np.asfortranarray(np.ones((2, 3)))}, 5)
    yield "amplified", bomb + b"(" + b"c_codecs\nencode\nh\x00U\x06latin1\x86R" * 3000 + b"es."


def test_nothing_in_a_pickle_runs_or_takes_memory(tmp_path, monkeypatch):
    before = set(sys.modules)
    for what, data in evil(tmp_path):
        path = tmp_path / "evil.pkl"
        path.write_bytes(data)
        monkeypatch.setattr(os, "system", lambda command: pytest.fail("os.system was called"))
        tracemalloc.start()
        with pytest.raises(ValueError, match=r"evil\.pkl: refused, nothing in it was run"):
            read_pickle(path, ["J"])
        assert tracemalloc.get_traced_memory()[1] < 64_000_000, what
        tracemalloc.stop()
        monkeypatch.undo()
        assert not (tmp_path / "ran").exists(), what
    assert "antigravity" not in set(sys.modules) - before


def test_the_evil_files_are_evil(tmp_path):
    """Python's own reader would have run the first of them."""
    data = next(data for what, data in evil(tmp_path) if what == "os.system")
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


def npy(array=None, shape=None, dtype="<f8", data=b""):
    buffer = io.BytesIO()
    if array is not None:
        np.lib.format.write_array(buffer, array, allow_pickle=True)
    else:
        np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
        buffer.write(data)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (npy(np.array([Calls(os.system, "touch ran")], dtype=object)), "J holds object, not numbers"),
        (npy(np.zeros(2, dtype=[("a", "f4")])), "not numbers"),
        (npy(shape=(10**10,)), r"J claims shape \(10000000000,\) of float64, but holds 0 bytes"),
        (npy(shape=(4,), data=bytes(31)), "but holds 31 bytes"),
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


def test_plain_archives_are_read(tmp_path):
    path = tmp_path / "good.npz"
    arrays = {"a": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "b": np.array("text"), "c": np.zeros((0, 2), ">i2")}
    np.savez_compressed(path, **arrays)
    found = read_npz(path)
    assert all(np.array_equal(found[key], value) for key, value in arrays.items())
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_npz(tmp_path / "none.npz")
