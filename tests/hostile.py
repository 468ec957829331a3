"""Files that mean harm or were damaged, made in code; and small sound files of every kind, to damage.

As a program, `python tests/hostile.py FOLDER` hands every case of `cases` to its reader, in one process whose memory
may grow by `MEMORY` at most, and prints what came of each as a line of JSON. `tests/apps/test_hostile.py` judges it.
"""

import contextlib
import io
import json
import os
import pickle
import struct
import sys
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import bodies
import numpy as np
import torch

import kinlmr
from kinlmr.export.bvh import write_bvh
from kinlmr.files.yaml_text import MAX_BYTES
from kinlmr.motion.archives import load_motion, save_motion
from kinlmr.motion.recording import Motion
from kinlmr.video import frames, readers

ROOT = Path(__file__).parents[1]
SECONDS, MEMORY = 5.0, 512 * 2**20
SIZE = (200.0, 100.0)
BODY = kinlmr.load_body("anny24_lo369")
TREE = (-1, 0, 1, 1)


def read_video(path):
    """A video's frames, one by one, as `kinlmr` takes them."""
    for _ in frames.open_video(path, None, 320).shots:
        pass


READERS = {
    "skeleton": kinlmr.load_skeleton,
    "plan": lambda path: kinlmr.compile(kinlmr.load_skeleton(path)),
    "body": kinlmr.load_body,
    "regressor": lambda path: kinlmr.load_body("anny24_lo369", keypoints=str(path)),
    "checkpoint": kinlmr.load,
    "start": lambda path: kinlmr.build("smpl.yaml", start=path, features=5, hidden=4),
    "motion": lambda path: load_motion(path, BODY),
    "database": kinlmr.read_database,
    "keypoints": lambda path: readers.read(path, SIZE),
    "video": read_video,
}


class Case(NamedTuple):
    """What is wrong, who reads it, the file's ending, its bytes, and what the refusal says besides the file's name."""

    what: str
    reader: str
    suffix: str
    data: bytes
    says: str


# ---------------------------------------------------------------------------------------------------------- sound files


def npz(compressed=False, **arrays):
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def npy(array=None, shape=None, dtype="<f8", data=b""):
    """An .npy file of an array, or one whose header claims a shape."""
    buffer = io.BytesIO()
    if array is not None:
        np.lib.format.write_array(buffer, array, allow_pickle=True)
    else:
        np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
        buffer.write(data)
    return buffer.getvalue()


def archive(compression=zipfile.ZIP_STORED, **members):
    """A zip archive of .npy members, given as bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, data in members.items():
            file.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def written(suffix, write):
    """The bytes that ``write(path)`` leaves at a path."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        write(path)
        return path.read_bytes()


def recording(frames=4):
    generator = torch.Generator().manual_seed(0)
    turns, places = (torch.randn(frames, *size, 3, generator=generator) for size in ((24,), ()))
    return Motion("made", BODY.joints, 30.0, 0.3 * turns, places)


def arrays_of_body():
    return bodies.arrays(TREE, 20, 3)


def arrays_of_amass(frames=4):
    rng = np.random.default_rng(0)
    poses, trans = 0.3 * rng.standard_normal((frames, 156)), rng.standard_normal((frames, 3))
    poses[:, 0] += np.pi / 2  # somebody upright, z up
    return {"poses": poses, "trans": trans, "betas": np.zeros(16), "mocap_framerate": np.array(30.0)}


def columns_of_database(frames=4):
    return {
        "vid_name": np.array(["a", "a", "b", "b"])[:frames], "frame_id": np.arange(frames), "img_name": ["x"] * frames,
        "features": np.zeros((frames, 3), np.float32), "pose": np.zeros((frames, 72)), "shape": np.zeros((frames, 10)),
        "bbox": np.zeros((frames, 4)), "joints3D": np.zeros((frames, 4, 3)), "joints2D": np.zeros((frames, 4, 3)),
        "valid": np.ones(frames),
    }  # fmt: skip


def model():
    return kinlmr.build(skeleton("small"), features=3, hidden=2, shape=2, shape_hidden=2)


def skeleton(name):
    return kinlmr.Skeleton(name, ("a", "b"), (None, "a"), (kinlmr.Part("p", ("a",)), kinlmr.Part("q", ("b",))))


def coco(frames=3):
    points = np.random.default_rng(0).uniform(10, 90, (1, 17, 3)).round(2) + 0.5 * np.arange(frames)[:, None, None]
    return [{"image_id": f"{t}.jpg", "keypoints": points[t].ravel().tolist()} for t in range(frames)]


def landmarks(frames=3):
    return {
        "frames": [{"landmarks": [{"x": 0.1 * k, "y": 0.2 + 0.02 * k, "visibility": 0.9} for k in range(33)]}] * frames
    }


def mmpose(frames=3):
    points = [{"keypoints": [[9.0 * k, 7 + 5 * k] for k in range(17)], "keypoint_scores": [0.9] * 17}]
    return {"meta_info": {}, "instance_info": [{"frame_id": t + 1, "instances": points} for t in range(frames)]}


def ultralytics(frames=3):
    columns = {"x": [9.0 * k for k in range(17)], "y": [7.0 + 5 * k for k in range(17)], "visible": [0.9] * 17}
    return [[{"name": "person", "class": 0, "box": {}, "keypoints": columns, "track_id": 1}]] * frames


def trc(frames=3):
    names = readers.points.LIMBS
    rows = [[str(t), "0.1", *(str(9.0 * k) for k in range(3 * len(names)))] for t in range(frames)]
    head = ["PathFileType\t4", "DataRate\tUnits", "30\tpx", "Frame#\tTime\t" + "\t\t\t".join(names), "\t\tX1"]
    return "\n".join([*head, *("\t".join(row) for row in rows)])


def sound():
    """(reader, suffix, bytes) of a small sound file of every kind that is read."""
    means = {"pose": np.tile([1.0, 0, 0, 1, 0, 0], 24), "shape": np.zeros(10), "cam": np.array([0.9, 0, 0])}
    people = np.stack([np.reshape([row["keypoints"] for row in coco()], (3, 17, 3))])
    yield "skeleton", ".yaml", (ROOT / "skeletons/smpl.yaml").read_bytes()
    yield "body", ".npz", npz(**arrays_of_body())
    yield "body", ".pkl", pickle.dumps(arrays_of_body(), 2)
    yield "body", ".npz", written(".npz", lambda path: kinlmr.save_body(small_body(), path))
    yield "regressor", ".npy", npy(np.random.default_rng(0).random((2, 369)))
    yield "checkpoint", ".npz", written(".npz", lambda path: kinlmr.save(model(), path))
    yield "start", ".npz", npz(**means)
    yield "motion", ".bvh", written(".bvh", lambda path: write_bvh(recording(), path, BODY))
    yield "motion", ".npz", written(".npz", lambda path: save_motion([recording()], path))
    yield "motion", ".npz", npz(**arrays_of_amass())
    yield "database", ".pt", pickle.dumps(columns_of_database(), 4)
    yield "database", ".pt", zlib.compress(pickle.dumps(columns_of_database(), 2))
    yield "keypoints", ".json", json.dumps(coco()).encode()
    yield "keypoints", ".json", json.dumps(landmarks()).encode()
    yield "keypoints", ".json", json.dumps(mmpose()).encode()
    yield "keypoints", ".json", json.dumps(ultralytics()).encode()
    yield "keypoints", ".trc", trc().encode()
    yield "keypoints", ".npy", npy(people)
    yield "keypoints", ".npz", npz(keypoints=people, set=np.array("coco17"), size=np.array(SIZE))
    try:
        import joblib
    except ModuleNotFoundError:
        pass
    else:
        yield "database", ".pt", written(".pt", lambda path: joblib.dump(columns_of_database(), path))
    try:
        import safetensors  # noqa: F401
    except ModuleNotFoundError:
        pass
    else:
        yield "checkpoint", ".safetensors", written(".safetensors", lambda path: kinlmr.save(model(), path))
    try:
        import av  # noqa: F401
    except ModuleNotFoundError:
        pass
    else:
        yield "video", ".mp4", written(".mp4", small_film)


def small_film(path):
    with frames.Writer(path, 30.0) as writer:
        for k in range(4):
            writer.add(np.full((48, 64, 3), 60 * k, np.uint8))


def small_body():
    from kinlmr.body.assembly import assemble

    return assemble(arrays_of_body(), "made").with_keypoints("ab", torch.rand(2, 20))


# -------------------------------------------------------------------------------------------------------------- pickles


class Calls:
    """An object whose pickle is a call."""

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


class csc_matrix:
    """Stands in for scipy's while a pickle is written."""


def sparse_claim(indptr, indices, data, shape):
    """A csc matrix with the given parts."""
    made = csc_matrix()
    parts = {"indptr": np.array(indptr), "indices": np.array(indices, int), "data": np.array(data, float)}
    made.__dict__ = {**parts, "_shape": shape}
    own, scipys = f"c{__name__}\ncsc_matrix\n".encode(), b"cscipy.sparse._csc\ncsc_matrix\n"
    return pickle.dumps({"J": made}, 2).replace(own, scipys)


def pickles(folder):
    """(what, bytes): pickles that run a command which leaves ``ran`` in a folder, claim what they have not, or hang."""
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


# ---------------------------------------------------------------------------------------------------------- everything


def yaml_bombs():
    """Small texts that unfold without end, or take all there is."""
    laughs = "a: &a [x, x]\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    merge = "a0: &a0 {k: v}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 30))
    yield from (laughs, merge, "[" * 100_000, "{a: " * 100_000, "? " * 10_000, "- " * 100_000)
    yield "name: " + "a" * (MAX_BYTES - 10)
    yield "name: a\n" * 400_000


def bomb(size=64_000_000):
    """A member that unpacks to ``size`` zeros."""
    return npy(shape=(size // 8,), data=bytes(size))


def lying_zip(**change):
    """An archive whose directory says something else than its members: fields of its entries, by offset and form."""
    data = bytearray(archive(J=npy(np.arange(3.0))))
    at = data.index(b"PK\1\2")
    for place, form, value in change.values():
        struct.pack_into(form, data, at + place, value)
    return bytes(data)


def archives():
    """(what, bytes, what is said): .npz files that no reader takes."""
    keys = ("v_template", "pose", "poses", "keypoints", "J")
    yield "a bomb", archive(zipfile.ZIP_DEFLATED, **dict.fromkeys(keys, bomb())), "would unpack to"
    for key in ("v_template", "pose", "poses", "keypoints"):
        one = lambda data, key=key: archive(**{key: data})  # noqa: E731
        yield f"{key}: objects", one(npy(np.array([Calls(os.system, "true")], dtype=object))), "holds object, not num"
        yield f"{key}: 80 GB claimed", one(npy(shape=(10**10,))), r"claims shape \(10000000000,\) of float64"
        yield f"{key}: a negative shape", one(npy(shape=(-3, -1), data=bytes(24))), "claims a shape|claims shape"
        yield f"{key}: 40 axes", one(npy(shape=(1,) * 40, data=bytes(8))), "claims a shape"
        yield f"{key}: a shape of floats", one(npy(shape=(3.0,), data=bytes(24))), "shape is not valid|claims"
        yield f"{key}: a header of 64 kB", one(b"\x93NUMPY\1\0\xff\xff" + b"[" * 65535), "archive of plain arrays"
        yield f"{key}: format 9", one(b"\x93NUMPY\x09\0"), "format"
        yield f"{key}: records", one(npy(np.zeros(2, dtype=[("a", "f4")]))), "not numbers"
    yield "a directory that lies of its size", lying_zip(size=(24, "<I", 2**32 - 2)), "would unpack|holds|damaged"
    yield (
        "a directory that lies of its packed size",
        lying_zip(size=(20, "<I", 2**32 - 2)),
        "packed bytes in an archive",
    )
    yield "no such compression", lying_zip(method=(10, "<H", 99)), "archive of plain arrays"
    yield "encrypted", lying_zip(flags=(8, "<H", 1)), "archive of plain arrays"
    yield "an offset outside", lying_zip(offset=(42, "<I", 2**31)), "archive of plain arrays"
    yield "a wrong sum", lying_zip(crc=(16, "<I", 7)), "archive of plain arrays"
    yield "cut short", npz(a=np.arange(100.0))[:-40], "archive of plain arrays"
    yield "60,000 names", archive_of_many(), "archive|missing|no numbers|unknown|neither"
    yield "no archive", b"hello", "archive of plain arrays|not a checkpoint"


def archive_of_many():
    """An archive whose directory names one member 60,000 times."""
    data = archive(J=npy(np.arange(3.0)))
    at, end = data.index(b"PK\1\2"), data.index(b"PK\5\6")
    entry, many = data[at:end], 60_000
    tail = bytearray(data[end:])
    struct.pack_into("<HHII", tail, 8, many, many, many * len(entry), at)
    return data[:at] + entry * many + bytes(tail)


def yaml_of_ancestors(parts=10_000):
    """A chain in which every part is given all above it: 50 million pairs."""
    names = [f"j{i}" for i in range(parts)]
    joints = "".join(f"  {n}: {above}\n" for n, above in zip(names, ["null", *names[:-1]], strict=True))
    return (
        f"name: hostile\njoints:\n{joints}parts:\n{''.join(f'  {n}: [{n}]' + chr(10) for n in names)}given: ancestors\n"
    )


def edited_body(**change):
    return npz(True, **{key: value for key, value in {**arrays_of_body(), **change}.items() if value is not None})


def checkpoint_with(old, new, **arrays):
    """A checkpoint whose JSON says ``new`` where it said ``old``."""
    data = written(".npz", lambda path: kinlmr.save(model(), path))
    with np.load(io.BytesIO(data)) as file:
        held = {key: file[key] for key in file.files}
    text = str(held["kinlmr"])
    assert old in text
    return npz(**{**held, "kinlmr": np.array(text.replace(old, new)), **arrays})


def archive_of_motion(**change):
    data = written(".npz", lambda path: save_motion([recording()], path))
    with np.load(io.BytesIO(data)) as file:
        held = {key: file[key] for key in file.files}
    return npz(**{**held, **change})


def bvh(old="", new=""):
    text = written(".bvh", lambda path: write_bvh(recording(), path, BODY)).decode()
    assert old in text
    return text.replace(old, new, 1).encode()


def clips(**change):
    return np.array(json.dumps([{"name": "a", "start": 0, "frames": 4, "jumps": [], **change}]))


def cases(folder):
    """Every case. ``folder``: where a file would leave ``ran``, if something in it ran."""
    refused = "refused, nothing in it was run"
    for number, text in enumerate(yaml_bombs()):
        yield Case(f"YAML {number}", "skeleton", ".yaml", text.encode(), "a skeleton|not YAML|not read")
    yield Case(
        "ancestors", "plan", ".yaml", yaml_of_ancestors().encode(), "skeleton 'hostile': .* 49,995,000 ancestors"
    )
    yield Case("no UTF-8", "skeleton", ".yaml", b"name: \xff", ":1: not UTF-8")
    yield Case("zeros", "skeleton", ".yaml", bytes(3_000_000), "not YAML")

    for what, data in pickles(folder):
        yield Case(what, "body", ".pkl", data, refused)
        if what != "object array":  # of a column that nobody reads
            yield Case(what, "database", ".pt", data, f"{refused}|no vid_name")
        if len(data) < 100_000:
            yield Case(f"{what}, packed", "database", ".pt", zlib.compress(data), f"{refused}|no vid_name")
    yield Case("a bomb", "database", ".pt", zlib.compress(bytes(60_000_000)), "would unpack to more than")
    otherwise = "missing|no numbers|unknown|neither AMASS|not a kinlmr|refused"  # what is wrong was not even read
    for what, data, says in archives():
        for reader in ("body", "start", "motion", "keypoints", "checkpoint"):
            yield Case(what, reader, ".npz", data, f"{says}|{otherwise}")

    big = {"v_template": np.zeros((1, 3)), "weights": None, "f": np.zeros((1, 3), int)}
    chain = np.stack([np.arange(-1, 99_999), np.arange(100_000)])
    yield Case("an outer product of 240 GB", "body", ".npz", edited_body(
        **{**big, "shapedirs": np.zeros((1, 3, 100_000)), "J_regressor": np.zeros((100_000, 1)), "kintree_table": chain,
           "weights_index": np.zeros((1, 1), int), "weights_value": np.ones((1, 1)), "posedirs": None}),
        "joints .* shape")  # fmt: skip
    yield Case("no vertices, 2^31 directions", "body", ".npz", edited_body(
        v_template=np.zeros((0, 3)), weights=np.zeros((0, 4)), shapedirs=np.zeros((0, 3, 2**31 - 1)),
        posedirs=None, J_regressor=np.zeros((4, 0))), "without vertices")  # fmt: skip
    yield Case("weights of 80 GB", "body", ".npz", edited_body(
        v_template=np.zeros((100_000, 3)), shapedirs=np.zeros((100_000, 3, 1)), weights=None, posedirs=None,
        J_regressor=None, J=np.zeros((100_000, 3)), J_shapedirs=np.zeros((100_000, 3, 1)), kintree_table=chain,
        weights_index=np.zeros((100_000, 1), int), weights_value=np.ones((100_000, 1))),
        "joints .* vertices")  # fmt: skip
    yield Case("text for numbers", "body", ".npz", edited_body(hands_mean=np.array(["a"] * 45)), "hands_mean holds <U1")
    yield Case("a chain of 100,000", "body", ".npz", edited_body(kintree_table=chain), "joints|joint_names|shape")
    letters = npy(np.array(["ab"])).replace("b".encode("utf-32-le"), b"\xff\xff\xff\xff")
    whole = {f"{key}": npy(value) for key, value in arrays_of_body().items()}
    yield Case("no letters", "body", ".npz", archive(**whole, name=letters), "name holds text with a letter")
    yield Case("far away", "body", ".npz", edited_body(v_template=np.full((20, 3), 1e300)), "v_template holds 1e.300")
    for key, value in (("parents", np.array(["a"] * 4)), ("parents", np.array([np.nan, 0, 1, 1])), ("f", np.array(3)),
                       ("kintree_table", np.array(7)), ("weights", np.full((20, 4), np.inf))):  # fmt: skip
        yield Case(f"{key} {value.dtype} {value.shape}", "body", ".npz", edited_body(**{key: value}), key[:7])
    yield Case("text", "regressor", ".npy", b"hello", "not a .npy file of numbers")
    yield Case("8 GB claimed", "regressor", ".npy", npy(shape=(10**9,)), "claims shape")
    yield Case("objects", "regressor", ".npy", npy(np.array([{}], dtype=object)), "holds object")
    yield Case("another mesh", "regressor", ".npy", npy(np.zeros((2, 3))), "369")

    for old, new in (
        ('"layers": 1', '"layers": 100000000'), ('"camera": 3', '"camera": 9999999999'),
        ('"features": 3', '"features": 1' + "0" * 30), ('"shape": 2', '"shape": 99999999999999999999'),
        ('"shape_hidden": 2', '"shape_hidden": 1e9'), ('"p": 2', '"p": 1' + "0" * 18),
        ('"dropout": 0.0', '"dropout": NaN'), ('"iterations": 3', '"iterations": 1000000000'),
        ('"allow_nan": false', '"allow_nan": "no"'), ('"cell": "gru"', '"cell": ["gru"]'),
        ('"format": 1', '"format": {}'),
        ('"options": {', '"options": {"skeleton": 1, '), ('"rotation": "6d"', '"rotation": "quaternion"'),
    ):  # fmt: skip
        yield Case(new[:40], "checkpoint", ".npz", checkpoint_with(old, new), "options make no model|damaged|format")
    deep = json.dumps(yaml_of_ancestors())
    text = json.dumps(skeleton("small").to_yaml())
    yield Case("ancestors", "checkpoint", ".npz", checkpoint_with(text, deep), "options make no model|ancestors|parts")
    yield Case(
        "10,000 parts",
        "checkpoint",
        ".npz",
        checkpoint_with(text, deep.replace("ancestors", "parents")),
        "parts|damaged",
    )
    yield Case(
        "NaN", "checkpoint", ".npz", checkpoint_with("1", "1", **{"camera.head.bias": np.full(4, 1.0)}), "is .4,"
    )
    for junk in (b"", b"\xff" * 100, struct.pack("<Q", 2**62) + b"{}", struct.pack("<Q", 90_000_000) + b"{" * 100):
        yield Case(f"safetensors {junk[:9]!r}", "checkpoint", ".safetensors", junk, "not a checkpoint")

    for key in ("pose", "shape", "cam"):
        means = {"pose": np.zeros(144), "shape": np.zeros(10), "cam": np.zeros(3)}
        yield Case(f"{key} of text", "start", ".npz", npz(**{**means, key: np.array("a")}), f"no numbers under '{key}'")
        if key != "pose":
            yield Case(
                f"one {key}", "start", ".npz", npz(**{**means, key: np.array(1.0)}), "shape .1,., this model needs"
            )
        yield Case(f"{key} of NaN", "start", ".npz", npz(**{**means, key: means[key] + np.nan}), "not finite")

    for old, new, says in (
        ("Frame Time: 0.033333333333", "Frame Time: 1e9", "Frame Time|frames a second|rate"),
        ("Frame Time: 0.033333333333", "Frame Time: 1e-300", "Frame Time|frames a second|rate|MOTION"),
        ("Frame Time: 0.033333333333", "Frame Time: 1" + "0" * 400, "MOTION section is damaged"),
        ("Frame Time: 0.033333333333", "Frame Time: nan", "MOTION section is damaged"),
        ("Frames: 4", "Frames: 99999999999999999999", "it is cut short"),
        ("CHANNELS 6", "CHANNELS 600000000000000000000", "promised|hierarchy|not BVH"),
        ("CHANNELS 3", "CHANNELS -3", "promised|hierarchy|not BVH"),
        ("ROOT pelvis", "ROOT pelvis\n{\n" * 50_000, "hierarchy is damaged|not BVH"),
        ("OFFSET", "OFFSET 1e400", "an OFFSET is not three finite numbers"),
        ("MOTION", "}", "no MOTION|not BVH"),
        ("OFFSET", "OFFSET 1e308 -1e308 1e308", "OFFSET|promised|far|finite"),
    ):  # fmt: skip
        yield Case(f"{new[:30]!r}", "motion", ".bvh", bvh(old, new), says)
    yield Case("zeros", "motion", ".bvh", bytes(3_000_000), "no MOTION")
    yield Case(
        "a million braces",
        "motion",
        ".bvh",
        b"HIERARCHY\nROOT a\n" + b"{" * 1_000_000 + b"\nMOTION\n",
        "damaged|not BVH",
    )
    amass = arrays_of_amass()
    for what, change, says in (
        ("a rate of text", {"mocap_framerate": np.array("x")}, "mocap_framerate"),
        ("two rates", {"mocap_framerate": np.array([30.0, 30.0])}, "mocap_framerate"),
        ("1e-30 frames a second", {"mocap_framerate": np.array(1e-30)}, "mocap_framerate|frames"),
        ("poses of text", {"poses": np.array([["a"] * 156] * 4)}, "poses"),
        ("poses of complex", {"poses": amass["poses"].astype(complex)}, "poses"),
        ("poses beyond float32", {"poses": amass["poses"] * 1e300}, "poses .* finite|float32"),
        ("no numbers", {"poses": np.zeros((0, 156)), "trans": np.zeros((0, 3))}, "no frames"),
        ("0 axes", {"poses": np.array(1.0)}, "poses"),
        ("another model", {"surface_model_type": np.array("flame")}, "surface_model_type 'flame'"),
    ):
        yield Case(what, "motion", ".npz", npz(**{**amass, **change}), says)
    for what, change, says in (
        ("clips are a number", {"clips": np.array("7")}, "list of clips"),
        ("clips without end", {"clips": np.array("[" * 100_000)}, "list of clips"),
        ("a start of 1e999", {"clips": np.array('[{"name": "a", "start": 1e999, "frames": 4}]')}, "list of clips"),
        ("clips that overlap", {"clips": np.array(json.dumps(json.loads(str(clips())) * 9))}, "36 frames in all, .* 4"),
        ("jumps of text", {"clips": clips(jumps=["a"])}, "list of clips"),
        ("jumps of nothing", {"clips": clips(jumps=None)}, "list of clips"),
        ("jumps outside", {"clips": clips(jumps=[2**70])}, "list of clips|jumps"),
        ("a rate of 0", {"fps": np.array(0.0)}, "fps"),
        ("a rate of NaN", {"fps": np.array(np.nan)}, "fps"),
        ("a rate of 1e-30", {"fps": np.array(1e-30)}, "fps|frames"),
        ("a rate of text", {"fps": np.array("x")}, "fps"),
        ("rates", {"fps": np.array([1.0, 2.0])}, "fps"),
        ("rotations of text", {"rot_delta": np.array("x")}, "rot_delta|rotations"),
        ("rotations of no axis", {"rot_delta": np.array(1)}, "rot_delta|rotations"),
        ("translations of floats", {"trans_delta_mm": np.full((4, 3), np.nan)}, "trans_delta_mm|translations"),
        ("one joint", {"joints": np.array(1.0)}, "joints of another tree"),
        ("joints of numbers", {"joints": np.arange(24)}, "joints of another tree"),
    ):
        yield Case(what, "motion", ".npz", archive_of_motion(**change), says)

    for what, text, says in (
        ("brackets", "[" * 1_000_000, "not JSON"),
        ("objects", '{"a":' * 100_000, "not JSON"),
        ("a number of 10,000 digits", "[" + "1" * 10_000 + "]", "not JSON|unknown"),
        ("no UTF-8", b"\xff\xfe".decode("latin1"), "not JSON"),
        ("frame 10^18", json.dumps([{"image_id": 10**18, "keypoints": [1.0] * 51}]), "pictures up to number"),
        ("frame of many digits", json.dumps([{"image_id": "9" * 5000, "keypoints": [1.0] * 51}]), "entry 0|image_id"),
        ("frame -3", json.dumps([{"image_id": -3, "keypoints": [1.0] * 51}]), "image_id|without a person|entry"),
        ("infinite", '[{"image_id": 0, "keypoints": [' + ", ".join(["1e999"] * 51) + "]}]", "not finite|entry 0"),
        ("NaN", '[{"image_id": 0, "keypoints": [' + ", ".join(["NaN"] * 51) + "]}]", "without a person|not finite"),
        ("beyond float32", '[{"image_id": 0, "keypoints": [' + ", ".join(["1e300"] * 51) + "]}]", "not finite"),
        ("keypoints ragged", '[{"image_id": 0, "keypoints": [1, [2], 3]}]', "entry 0"),
        ("keypoints of text", '[{"image_id": 0, "keypoints": "abc"}]', "entry 0"),
        ("landmarks of text", json.dumps(landmarks()).replace("0.2,", '"a",'), "not numbers"),
        ("landmarks of lists", json.dumps(landmarks()).replace("0.2,", "[1, 2],"), "not numbers"),
        ("landmarks infinite", json.dumps(landmarks()).replace("0.2,", "1e999,"), "not finite|without"),
        ("17 landmarks", json.dumps({"frames": [landmarks()["frames"][0]["landmarks"][:17]]}), "17 landmarks"),
        ("entries of several kinds", json.dumps([coco()[0], 7, None]), "entry 1"),
    ):  # fmt: skip
        yield Case(what, "keypoints", ".json", text.encode("latin1"), says)
    people = np.stack([np.reshape([row["keypoints"] for row in coco()], (3, 17, 3))])
    for what, change, says in (
        ("begins at frame 10^12", {"frame_start": np.array(10**12)}, "frame_start"),
        ("begins at frame -1", {"frame_start": np.array(-1)}, "frame_start"),
        ("begins at frames", {"frame_start": np.arange(3)}, "frame_start"),
        ("size of text", {"size": np.array(["a", "b"])}, "size"),
        ("one size", {"size": np.array(3.0)}, "size"),
        ("size 0", {"size": np.zeros(2)}, "size"),
        ("infinite", {"keypoints": people + np.inf}, "not finite"),
        ("objects", {"keypoints": np.array([{}], dtype=object)}, "holds object"),
        ("a set of another size", {"set": np.array("body25")}, "'body25' with 17 points"),
        ("names of nobody", {"names": np.array("x")}, "names"),
        ("no frames", {"keypoints": people[:, :0]}, "without a person"),
    ):
        yield Case(what, "keypoints", ".npz", npz(**{"keypoints": people, **change}), says)
    yield Case("80 GB claimed", "keypoints", ".npy", npy(shape=(10**10,)), "not a .npy file of numbers")
    for what, text, says in (
        ("no markers", "PathFileType\n" * 9, "lack some of|its rows"),
        ("frame 10^15", trc().replace("\n2\t", f"\n{10**15}\t"), "numbered 0 to 1000000000000000"),
        ("frame 10^400", trc().replace("\n2\t", f"\n{10**400}\t"), "its rows are not a frame"),
        ("numbers beyond float32", trc().replace("\t9.0\t", "\t1e300\t"), "points in space|not finite"),
        ("a frame twice", trc().replace("\n2\t", "\n1\t"), "numbered 0 to 1"),
        ("markers of text", trc().replace("9.0", "a"), "its rows are not a frame"),
        ("another file", "HIERARCHY", "does not begin with PathFileType"),
    ):
        yield Case(what, "keypoints", ".trc", text.encode(), says)

    data = columns_of_database()
    for what, change, says in (
        ("features of lists", {"features": [[1.0], [1.0, 2.0]] * 2}, "features holds"),
        ("frame numbers beyond any", {"frame_id": [10**400] * 4}, "frame_id"),
        ("frame numbers of NaN", {"frame_id": np.full(4, np.nan)}, "frame_id"),
        ("a name of its own", {"vid_name": "abc"}, "vid_name"),
        ("names without rows", {"vid_name": np.array("abc")}, "row"),
    ):
        yield Case(what, "database", ".pt", pickle.dumps({**data, **change}, 2), says)

    try:
        import av  # noqa: F401
    except ModuleNotFoundError:
        return
    film = (ROOT / "kinlmr/video/data/demo.mp4").read_bytes()
    for what, content in (
        ("nothing", b""),
        ("text", b"no video" * 1000),
        ("its head alone", film[:200]),
        ("its tail", film[-5000:]),
        ("zeros", film[:4000] + bytes(100_000)),
        ("a picture", b"\x89PNG\r\n\x1a\n" + bytes(100)),
    ):
        yield Case(what, "video", ".mp4", content, "broken|truncated|no video|frame")


# ------------------------------------------------------------------------------------------------------------ the child


def grown(limit):
    """Let this process's memory grow by ``limit`` bytes from now on. Linux."""
    import resource

    now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + limit, now + limit))


def outcome(reader, path) -> dict[str, Any]:
    """What came of reading a file: the error and its words, the seconds, and whether memory ran out on the way."""
    begun = time.process_time()
    error: BaseException | None = None
    try:
        with contextlib.redirect_stdout(sys.stderr):
            READERS[reader](path)
    except (Exception, SystemExit) as caught:
        error = caught
    seconds = time.process_time() - begun  # of this process, whatever else the machine does
    kind = type(error).__name__ if error is not None else ""
    return {"error": kind, "text": str(error or ""), "seconds": seconds, "starved": starved(error)}


def starved(error):
    """Whether memory ran out behind an error: readers may have turned that into words."""
    while error is not None:
        if isinstance(error, MemoryError) or "bad_alloc" in str(error) or "allocate memory" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def main(folder):
    torch.set_num_threads(1)
    made = list(cases(folder))
    grown(MEMORY)
    for case in made:
        path = Path(folder) / f"hostile{case.suffix}"
        path.write_bytes(case.data)
        found = outcome(case.reader, path)
        found |= {"what": f"{case.reader}: {case.what}", "says": case.says, "ran": (Path(folder) / "ran").exists()}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
