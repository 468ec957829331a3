"""kinlmr.inspect: what a pickle would import and call, told without running it."""

import io
import os
import pickle
import zlib

import numpy as np
import pytest
import torch
from hostile import Calls, columns_of_database, pickles
from hypothesis import given
from hypothesis import strategies as st

import kinlmr

NUMPY = {"numpy.ndarray", "numpy.dtype", "_codecs.encode", "numpy._core.numeric._frombuffer"}
NUMPY |= {f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")}
SYSTEM = f"{os.system.__module__}.system"


def inspected(data, path):
    path.write_bytes(data)
    return kinlmr.inspect(path)


class Recorder(pickle._Unpickler):
    """Python's own reader, which notes what it is asked for, and gives it: the peer, for harmless pickles only."""

    def __init__(self, data):
        super().__init__(io.BytesIO(data))
        self.names = []

    def find_class(self, module, name):
        self.names.append(f"{module}.{name}")
        return super().find_class(module, name)


@pytest.mark.parametrize("protocol", range(6))
def test_names_are_those_that_pythons_reader_imports(tmp_path, protocol):
    content = {
        **columns_of_database(),
        "more": [{1, 2}, frozenset((3,)), complex(1, 2), np.float64(2), bytearray(b"a"), 2**70],
    }
    data = pickle.dumps(content, protocol)
    peer = Recorder(data)
    found = inspected(data, tmp_path / "a.pkl")
    peer.load()
    assert set(found) == set(peer.names)


@pytest.mark.parametrize("protocol", range(6))
def test_a_call_is_listed_and_not_made(tmp_path, protocol):
    data = pickle.dumps(
        {"a": Calls(os.system, f"touch {tmp_path}/ran"), "b": [Calls(os.getpid), Calls(os.getpid)]}, protocol
    )
    found = inspected(data, tmp_path / "a.pkl")
    assert found == {SYSTEM: 1, f"{os.getpid.__module__}.getpid": 2}
    assert not (tmp_path / "ran").exists()


def test_calls_of_what_a_call_returned(tmp_path):
    data = b"c__builtin__\ngetattr\n(c__builtin__\n__import__\n(Vos\ntRVsystem\ntR(Vtrue\ntR."
    found = inspected(data, tmp_path / "a.pkl")
    assert found == {"__builtin__.getattr": 1, "__builtin__.__import__": 1, "__builtin__.getattr(...)": 1}
    hidden = b"\x80\x04" + b"c_codecs\nencode\n(Vos\ntR" + b"\x8c\x06system\x93" + b"\x8c\x04true\x85R."
    assert "(a name that the pickle computes)" in inspected(hidden, tmp_path / "a.pkl")


@pytest.mark.parametrize("compress", [0, 3, ("gzip", 3)])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_joblibs_arrays_are_passed_and_what_follows_is_seen(tmp_path, compress, protocol):
    joblib = pytest.importorskip("joblib")
    content = {"x": np.arange(300.0).reshape(100, 3), "o": np.array([Calls(os.system, "true"), "a"], dtype=object),
               "t": np.array(["a", "b"]), "last": Calls(os.getpid)}  # fmt: skip
    joblib.dump(content, tmp_path / "a.pt", compress=compress, protocol=protocol)
    found = kinlmr.inspect(tmp_path / "a.pt")
    assert found[SYSTEM] == 1
    assert found[f"{os.getpid.__module__}.getpid"] == 1
    assert set(found) - NUMPY == {SYSTEM, f"{os.getpid.__module__}.getpid", "joblib.numpy_pickle.NumpyArrayWrapper"}


@pytest.mark.parametrize("zipped", [True, False])
def test_torchs_files(tmp_path, zipped):
    content = {"weight": torch.zeros(3), "evil": Calls(os.system, f"touch {tmp_path}/ran")}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    found = kinlmr.inspect(tmp_path / "a.pt")
    assert found[SYSTEM] == 1
    assert found["torch._utils._rebuild_tensor_v2"] == 1
    assert not (tmp_path / "ran").exists()


def test_arrays_of_objects_and_files_without_pickles(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.array([Calls(os.system, "true")], dtype=object), b=np.zeros(3))
    assert kinlmr.inspect(tmp_path / "a.npz")[SYSTEM] == 1
    np.savez(tmp_path / "a.npz", b=np.zeros(3))
    assert kinlmr.inspect(tmp_path / "a.npz") == {}
    np.save(tmp_path / "a.npy", np.array([Calls(os.getpid)], dtype=object), allow_pickle=True)
    assert f"{os.getpid.__module__}.getpid" in kinlmr.inspect(tmp_path / "a.npy")
    with pytest.raises(FileNotFoundError, match="no such file"):
        kinlmr.inspect(tmp_path / "none.pkl")


def test_hostile_pickles_are_listed_or_refused(tmp_path):
    seen = {}
    for what, data in pickles(tmp_path):
        for packed in (data, zlib.compress(data))[: 2 if len(data) < 10_000 else 1]:
            try:
                seen[what] = inspected(packed, tmp_path / "a.pkl")
            except ValueError as error:
                seen[what] = str(error)
                assert "a.pkl: " in seen[what]
        assert not (tmp_path / "ran").exists(), what
    for what in ("os.system", "protocol 0", "a key nobody reads", "inst", "stack global"):
        assert any("system" in name for name in seen[what]), what
    assert "antigravity.fly" in seen["import"]
    assert "copyreg's extension" in str(seen["extension"])


def test_an_array_inside_a_frame_is_refused(tmp_path):
    """Bytes that Python's reader takes for instructions must not be passed over as an array's."""
    joblib = pytest.importorskip("joblib")
    joblib.dump({"x": np.zeros(4)}, tmp_path / "a.pt", protocol=4)
    data = (tmp_path / "a.pt").read_bytes()
    at = data.index(b"\x95")
    longer = (
        data[: at + 1] + (int.from_bytes(data[at + 1 : at + 9], "little") + 20).to_bytes(8, "little") + data[at + 9 :]
    )
    with pytest.raises(ValueError, match="begin inside a frame"):
        inspected(longer, tmp_path / "a.pt")


@given(st.binary(max_size=40), st.integers(0, 300), st.integers(0, 5))
def test_a_damaged_pickle_gives_names_or_a_refusal(tmp_path_factory, junk, at, cut):
    good = pickle.dumps({"J": np.arange(6.0), "f": np.arange(3)}, 2)
    path = tmp_path_factory.mktemp("damaged") / "a.pkl"
    try:
        found = inspected(good[:at] + junk + good[at + cut :], path)
    except ValueError as error:
        assert "a.pkl: not a pickle, or a damaged one" in str(error)  # noqa: PT017
    else:
        assert all(isinstance(name, str) and calls >= 0 for name, calls in found.items())
