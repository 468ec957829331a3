"""Databases as VIBE's tools write them, with joblib itself as the peer; and what must not run."""

import gzip
import os
import pickle
import pickletools
import tempfile
import tracemalloc
import zlib
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hostile import Calls, pickles
from hypothesis import given
from hypothesis import strategies as st

import kinlmr
from kinlmr.motion.vibe import read_database

LENGTHS = {"walk_0": 5, "walk_1": 3, "jump": 1, "again": 4}


def database(features=16, texts="U"):
    """A database's columns: videos end to end, one row a frame."""
    rng = np.random.default_rng(0)
    count = sum(LENGTHS.values())
    names = [name for name, length in LENGTHS.items() for _ in range(length)]
    images = [f"{name}/{i:05}.jpg" for i, name in enumerate(names)]
    text = {"U": np.array, "S": lambda x: np.array(x, "S"), "O": lambda x: np.array(x, dtype=object), "list": list,
            "scalars": lambda x: np.array([np.str_(item) for item in x], dtype=object)}[texts]  # fmt: skip
    return {
        "vid_name": text(names),
        "frame_id": np.concatenate([np.arange(10, 10 + n) for n in LENGTHS.values()]),
        "img_name": text(images),
        "joints3D": rng.standard_normal((count, 14, 3)),
        "joints2D": rng.standard_normal((count, 49, 3)).astype(np.float32),
        "pose": rng.standard_normal((count, 72)),
        "shape": np.asfortranarray(rng.standard_normal((count, 10))),
        "bbox": rng.standard_normal((count, 4)),
        "features": rng.standard_normal((count, features)).astype(np.float32),
        "valid": np.arange(count) % 3,
        "nobody_reads": np.zeros((2, 0)),
    }


def assert_read(videos, content):
    """The videos, end to end, are the database's columns; each is one name's rows."""
    assert [video.name for video in videos] == list(LENGTHS)
    assert [len(video.images) for video in videos] == list(LENGTHS.values())
    joined = {
        field: torch.cat([getattr(video, field) for video in videos]).double()
        for field in ("features", "shape", "joints3D", "joints2D", "frames")
    }
    joined |= {"bbox": torch.cat([v.box for v in videos]), "frame_id": joined.pop("frames")}
    joined |= {"pose": torch.cat([v.axis_angle for v in videos]).flatten(1)}
    for key, column in joined.items():
        assert torch.allclose(column.double(), torch.from_numpy(content[key]).double(), atol=1e-6), key
    assert torch.equal(torch.cat([v.valid for v in videos]), torch.from_numpy(content["valid"] > 0))
    assert [name for video in videos for name in video.images] == [
        item.decode() if isinstance(item, bytes) else str(item) for item in content["img_name"]
    ]


def write_plain(content, path, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol))


@pytest.mark.parametrize("texts", ["U", "S", "O", "list", "scalars"])
@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_plain_pickles(tmp_path, texts, protocol):
    write_plain(database(texts=texts), tmp_path / "a.pkl", protocol)
    assert_read(read_database(tmp_path / "a.pkl"), database(texts=texts))


@pytest.mark.parametrize("texts", ["U", "S", "O", "list", "scalars"])
@pytest.mark.parametrize("compress", [0, 3, ("gzip", 3)])
@pytest.mark.parametrize("protocol", [None, 2, 4])
def test_joblibs_pickles(tmp_path, texts, compress, protocol):
    joblib = pytest.importorskip("joblib")
    joblib.dump(database(texts=texts), tmp_path / "3dpw_test_db.pt", compress=compress, protocol=protocol)
    assert_read(read_database(tmp_path / "3dpw_test_db.pt"), database(texts=texts))


def test_joblibs_older_files(tmp_path, monkeypatch):
    """Before 1.3 arrays were not aligned; and scikit-learn carried a copy of joblib under a name of its own."""
    joblib = pytest.importorskip("joblib")
    init = joblib.numpy_pickle.NumpyArrayWrapper.__init__

    def unaligned(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self.__dict__.pop("numpy_array_alignment_bytes", None)

    monkeypatch.setattr(joblib.numpy_pickle.NumpyArrayWrapper, "__init__", unaligned)
    joblib.dump(database(), tmp_path / "a.pt", protocol=2)
    data = (tmp_path / "a.pt").read_bytes()
    assert b"numpy_array_alignment_bytes" not in data
    assert_read(read_database(tmp_path / "a.pt"), database())
    (tmp_path / "a.pt").write_bytes(data.replace(b"cjoblib.numpy_pickle", b"csklearn.externals.joblib.numpy_pickle"))
    assert_read(read_database(tmp_path / "a.pt"), database())


def test_the_law_can_fail(tmp_path):
    write_plain(database(), tmp_path / "a.pkl")
    other = database()
    other["features"] = other["features"][::-1].copy()
    with pytest.raises(AssertionError):
        assert_read(read_database(tmp_path / "a.pkl"), other)


def test_features_go_straight_into_a_model(tmp_path):
    write_plain(database(), tmp_path / "a.pt")
    model = kinlmr.build(skeleton="smpl.yaml", features=16, hidden=4)
    for video in read_database(tmp_path / "a.pt"):
        estimate = model(video.features[None])
        assert estimate.pose.shape == (1, len(video.images), 24, 6)
        truth = kinlmr.rotations.axis_angle_to_matrix(video.axis_angle[None])
        with pytest.warns(FutureWarning, match=r"Video\.rotations is now Video\.axis_angle"):
            assert video.rotations is video.axis_angle
        assert model.matrices(estimate).shape == truth.shape
        assert estimate.shape.shape == video.shape[None].shape


def test_columns_that_a_database_has_not(tmp_path):
    content = database()
    write_plain(OrderedDict((key, content[key]) for key in ("vid_name", "features")), tmp_path / "a.pkl")
    video, *_ = read_database(tmp_path / "a.pkl")
    assert video.features.shape == (5, 16)
    assert [x for x in vars(video).values() if x is not None] == ["walk_0", video.features]


def test_a_name_that_comes_again_is_another_video(tmp_path):
    write_plain({"vid_name": np.array(list("aabba")), "features": np.zeros((5, 2), ">f4")}, tmp_path / "a.pkl")
    assert [(v.name, len(v.features)) for v in read_database(tmp_path / "a.pkl")] == [("a", 2), ("b", 2), ("a", 1)]
    write_plain({"vid_name": np.array([], dtype=str)}, tmp_path / "a.pkl")
    assert read_database(tmp_path / "a.pkl") == []


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vid_name": None}, "no vid_name, which says what video a frame is of; it holds frame_id, img_name"),
        ({"pose": np.zeros((12, 72))}, "pose has 12 rows, vid_name 13; expected a row a frame"),
        ({"img_name": ["a"]}, "img_name has 1 rows, vid_name 13"),
        ({"pose": np.zeros((13, 71))}, "pose has 71 numbers a frame, expected three a joint"),
        ({"bbox": np.zeros((13, 3))}, "bbox has 3 numbers a frame, expected four"),
        ({"joints3D": np.zeros((13, 42))}, r"joints3D has shape \(13, 42\), expected 3 axes"),
        ({"features": np.array(["a"] * 13)}, "features holds <U1, expected numbers"),
        ({"valid": [1] * 12 + ["no"]}, "valid holds 'no', expected numbers"),
        ({"img_name": [{}] * 13}, "img_name holds a dict, expected text or numbers"),
        ({"frame_id": None, "valid": np.zeros((13, 2))}, r"valid has shape \(13, 2\), expected 1 axes"),
    ],
)
def test_columns_that_do_not_fit(tmp_path, change, message):
    write_plain({key: x for key, x in {**database(), **change}.items() if x is not None}, tmp_path / "a.pkl")
    with pytest.raises(ValueError, match=rf"a\.pkl: .*{message}"):
        read_database(tmp_path / "a.pkl")


def test_what_is_no_database_is_named(tmp_path):
    joblib = pytest.importorskip("joblib")
    path = tmp_path / "a.pt"
    torch.save({"vid_name": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"a\.pt: .*a zip archive \(torch.save's\); expected what joblib.dump writes"):
        read_database(path)
    for compress in ("bz2", "xz", "lzma"):
        joblib.dump(database(), path, compress=(compress, 3))
        with pytest.raises(ValueError, match=rf"compressed by {compress}; expected .* plain or with compress='zlib'"):
            read_database(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_database(tmp_path / "none.pt")
    write_plain([1, 2], path)
    with pytest.raises(ValueError, match="it holds a list, not a dict"):
        read_database(path)


def test_nothing_in_a_database_runs(tmp_path, monkeypatch):
    """The evil pickles of the body files, compressed, and as objects inside joblib's arrays."""
    joblib = pytest.importorskip("joblib")
    command = f"touch {tmp_path}/ran"
    cases = [("joblib's objects", "system", {"vid_name": np.array([Calls(os.system, command)], dtype=object)})]
    cases += [("joblib's dict", "system", {**database(), "nobody_reads": Calls(os.system, command)})]
    files = []
    for what, message, content in cases:
        for compress in (0, 3):
            joblib.dump(content, tmp_path / "evil.pt", compress=compress)
            files.append((what, f"it names (posix|nt).{message}, which no database needs",
                          (tmp_path / "evil.pt").read_bytes()))  # fmt: skip
    for what, data in pickles(tmp_path):
        if what not in ("many steps", "object array", "keys of one hash"):  # these are slow, a column, and below
            files.append((what, "refused|no vid_name", zlib.compress(data)))  # hostile.py has them plain
    monkeypatch.setattr(os, "system", lambda command: pytest.fail("os.system was called"))
    for what, message, data in files:
        (tmp_path / "evil.pt").write_bytes(data)
        tracemalloc.start()
        with pytest.raises(ValueError, match=rf"evil\.pt: .*({message})"):
            read_database(tmp_path / "evil.pt")
        assert tracemalloc.get_traced_memory()[1] < 64_000_000, what
        tracemalloc.stop()
        assert not (tmp_path / "ran").exists(), what


def test_the_evil_databases_are_evil(tmp_path):
    joblib = pytest.importorskip("joblib")
    joblib.dump({"vid_name": np.array([Calls(os.system, f"touch {tmp_path}/ran")], dtype=object)}, tmp_path / "evil.pt")
    joblib.load(tmp_path / "evil.pt")
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"K\x0dK\x10\x86", b"J\xff\xff\xff\x7fK\x10\x86", "does not fit the .* bytes left; it is cut short"),
        (b"K\x0dK\x10\x86", b"J\xff\xff\xff\xffK\x10\x86", "does not fit"),
        (b"U\x02f4", b"U\x02V4", "does not hold plain numbers"),
        (b"cnumpy\nndarray", b"cnumpy\nmatrix", "it names numpy.matrix, which no database needs"),
    ],
)
def test_joblibs_arrays_that_claim_too_much(tmp_path, old, new, message):
    joblib = pytest.importorskip("joblib")
    joblib.dump({"features": database()["features"]}, tmp_path / "a.pt", protocol=2)
    data = (tmp_path / "a.pt").read_bytes().replace(b"X\x02\x00\x00\x00f4", b"U\x02f4")
    assert old in data
    (tmp_path / "a.pt").write_bytes(data.replace(old, new))
    with pytest.raises(ValueError, match=f"refused, nothing in it was run .*{message}"):
        read_database(tmp_path / "a.pt")


def test_a_bomb_is_not_unpacked(tmp_path):
    for pack in (zlib.compress, gzip.compress):
        (tmp_path / "a.pt").write_bytes(pack(bytes(40_000_000)))
        with pytest.raises(ValueError, match="it would unpack to more than .* bytes, a hundred times its size"):
            read_database(tmp_path / "a.pt")


@given(st.binary(max_size=60), st.integers(0, 900), st.integers(0, 5))
def test_a_damaged_database_gives_videos_or_a_refusal(junk, at, cut):
    content = {"vid_name": np.array(["a", "a"]), "features": np.zeros((2, 3)), "img_name": ["x", "y"]}
    good = pickletools.optimize(pickle.dumps(content, 2))
    with tempfile.NamedTemporaryFile(suffix=".pkl") as file:
        file.write(good[:at] + junk + good[at + cut :])
        file.flush()
        try:
            found = read_database(file.name)
        except ValueError as error:
            assert file.name in str(error)  # noqa: PT017
        else:
            assert sum(len(video.features) for video in found if video.features is not None) in (0, 2)
