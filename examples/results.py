"""What VIBE, WHAM, GVHMR and 4D-Humans write, read: `stand.py` has the list."""

import math
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import smooth
import torch
from numpy.typing import NDArray
from torch import Tensor

from kinlmr import camera, files

Array = NDArray[Any]
MOST, NAMES = (
    1_000_000,
    100,
)  # people times frames of a file, and arrays of one person: pickles may repeat what they hold
PHALP_FOCAL, PHALP_SIDE = 5000.0, 256.0  # its camera's, in pixels of a picture padded to a square of that side
PHALP_ROW = ("time", "camera", "global_orient", "body_pose", "betas", "size")
PHALP_SHAPES = ((), (3,), (1, 3, 3), (23, 3, 3), (10,), (2,))
MOVED = re.compile(r"(|.*[._/])(trans|transl|translation)(_cam|_incam)?")  # in metres
NEEDED = (
    "expected VIBE's, WHAM's or PHALP's pickle, GVHMR's .pt, or an .npz of one person. SAM 3D Body's rig is not read: "
    "convert it to SMPL first, by tools/mhr_smpl_conversion of facebookresearch/MHR"
)


class Person(NamedTuple):
    """One person of a file in the camera's frame, N rows: frames (N), numbers; rotations (N, J, 3, 3), J 22 or 24;
    translation (N, 3) of the model's body; betas (S), None without. cropped: seen by a camera that looks at them."""

    name: str
    frames: Array
    rotations: Tensor
    translation: Tensor
    betas: Tensor | None
    cropped: bool


class View(NamedTuple):
    """What the caller says of the camera: size (width, height) and focal length in pixels, None where unknown."""

    size: tuple[float, float] | None = None
    focal: float | None = None

    def focal_of(self, width: float, height: float) -> float:
        """The focal length, or the picture's diagonal."""
        if self.focal is not None:
            return self.focal
        diagonal = math.hypot(width, height)
        warnings.warn(f"no --focal: the picture's diagonal, {diagonal:.0f} pixels, is taken", stacklevel=2)
        return diagonal


def read(path: Path, view: View) -> list[Person]:
    """Everybody in a file. A ValueError names the file and what does not fit; nothing in a file is run."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix == ".npz":
        content: dict[str, Any] = dict(files.read_npz(path))
        if rate := next((key for key in content if key.startswith("mocap_frame")), None):
            raise ValueError(f"{path}: {rate}: this is AMASS, which stands; kinlmr.motion.load_motion reads it")
        return [_person(path, "person", content, view)]
    try:
        if zipfile.is_zipfile(path):
            content = torch.load(path, map_location="cpu", weights_only=True)
        else:
            content = files.unpickled(path, "result of these models")
        content = files.as_dict(content)
    except Exception as error:
        raise ValueError(f"{path}: refused, nothing in it was run ({files.short(error)}); {NEEDED}") from None
    if any(key.startswith("smpl_params") for key in content):
        return [_person(path, "person", _gvhmr(path, content), view)]
    people: dict[str, dict[str, Array]]
    inner = {key: found for key, value in content.items() if (found := _dict(value)) is not None}
    if any("smpl" in value and "camera" in value for value in inner.values()):
        people = _phalp(path, inner, view)
    elif inner and len(inner) == len(content):
        people = {name: _arrays(value) for name, value in inner.items() if value}
    else:
        people = {"person": _arrays(content)}
    _check_rows(path, sum(max((len(x) for x in arrays.values() if x.ndim), default=0) for arrays in people.values()))
    return [_person(path, name, arrays, view) for name, arrays in people.items()]


def _check_rows(path: Path, rows: int) -> None:
    if rows > MOST:
        raise ValueError(f"{path}: more than {MOST:,} people times frames; cut the clip")


def _dict(value: Any) -> dict[str, Any] | None:
    try:
        return files.as_dict(value)
    except Exception:  # whatever a stranger's record holds: it is none
        return None


def _array(value: Any) -> Array | None:
    """What is an array or a number of a pickle or of torch, as an array; None: it is neither."""
    if isinstance(value, Tensor):
        return value.detach().float().numpy() if value.is_floating_point() else value.numpy()
    if isinstance(value, np.ndarray | int | float):
        return np.asarray(value)
    try:
        return files.numbers("", value)
    except Exception:
        return None


def _arrays(value: dict[str, Any]) -> dict[str, Array]:
    """The arrays of a dict; what is there under several names, under the first."""
    once = {id(item): key for key, item in reversed(value.items())}
    return {key: x for key, item in value.items() if once[id(item)] == key and (x := _array(item)) is not None}


def _gvhmr(path: Path, content: dict[str, Any]) -> dict[str, Array]:
    """GVHMR's parameters in the camera's frame, by their own names."""
    found = _dict(content.get("smpl_params_incam"))
    if found is None:
        raise ValueError(f"{path}: no smpl_params_incam, the person in the camera's frame; it has {', '.join(content)}")
    return _arrays(found)


def _phalp(path: Path, frames: dict[str, dict[str, Any]], view: View) -> dict[str, dict[str, Array]]:
    """PHALP's people, each as arrays with a row a frame; those that are only predicted are left out."""
    rows: dict[str, list[tuple[Array, ...]]] = {}
    tids = [frame.get("tid") for frame in frames.values()]
    _check_rows(path, sum(len(tid) for tid in tids if isinstance(tid, list)))
    for order, (name, frame) in enumerate(frames.items()):
        where, columns = f"{path}: frame {name}", {}
        for key in ("tid", "smpl", "camera", "size", "tracked_time"):
            columns[key] = frame.get(key, [])
            if not isinstance(columns[key], list) or len(columns[key]) not in {len(columns["tid"]), 0}:
                raise ValueError(f"{where}: {key} is no list of an item a person, expected as many as in tid")
        if not len(columns["tid"]) == len(columns["smpl"]) == len(columns["camera"]):
            raise ValueError(f"{where}: tid, smpl and camera of different lengths, expected an item a person")
        time = _array(frame.get("time", order))
        for k, who in enumerate(columns["tid"]):
            if columns["tracked_time"] and _array(columns["tracked_time"][k]) != 0:  # not seen: its last place
                continue
            smpl = _dict(columns["smpl"][k]) or {}
            size = columns["size"][k] if columns["size"] else view.size and view.size[::-1]
            sides = np.array([_array(x) for x in size]) if isinstance(size, list | tuple) else _array(size)
            row = (time, _array(columns["camera"][k]), *(_array(smpl.get(key)) for key in PHALP_ROW[2:5]), sides)
            shapes = tuple(None if x is None or x.dtype.kind not in "iuf" else x.shape for x in row)
            if shapes != PHALP_SHAPES:
                raise ValueError(
                    f"{where}: {', '.join(PHALP_ROW)} of tid {_array(who)} have shapes {shapes}, expected "
                    f"{PHALP_SHAPES} as PHALP writes them; --size says a size that is missing"
                )
            rows.setdefault(str(_array(who)), []).append(tuple(np.asarray(x, float) for x in row))
    found = {}
    for name, items in rows.items():
        times, places, root, rest, betas, sizes = (np.stack(x) for x in zip(*items, strict=True))
        focal = view.focal_of(*sizes[0, ::-1])
        places[:, 2] *= focal * PHALP_SIDE / PHALP_FOCAL / sizes.max(1)
        found[name] = {"frame": times, "global_orient": root, "body_pose": rest, "betas": betas, "cropped": places}
    return found


def _person(path: Path, name: str, arrays: dict[str, Array], view: View) -> Person:
    """One person out of arrays with a row a frame, under the names that smooth.py knows."""
    where = path if name == "person" else Path(f"{path}: person {name}")
    if len(arrays) > NAMES:
        raise ValueError(f"{where}: {len(arrays)} arrays, more than the {NAMES} that a person of these models has")
    found = smooth.poses_of(where, arrays)
    poses = {keys: x for keys, x in found.items() if all(map(_in_camera, keys))}
    if not poses:
        seen = ", ".join(key for keys in found for key in keys)
        raise ValueError(f"{where}: {seen}: in the world's axes; expected a pose in the camera's, such as pose (N, 72)")
    rotations = next(iter(poses.values()))
    rotations = rotations if rotations.shape[1] == 24 else rotations[:, :22]
    rows = len(rotations)
    numbers = smooth.numbers_of(where, arrays, rows)
    frames = next(iter(numbers.values()), np.arange(rows))
    translation, cropped = _translation(where, arrays, rows, view)
    if not np.isfinite(translation).all():
        row = int(np.argwhere(~np.isfinite(translation))[0, 0])
        raise ValueError(
            f"{where}: the place in row {row} is not finite; leave such frames out, and give frame_ids (N)"
        )
    shapes = [key for key, x in arrays.items() if smooth.matching(key, "shape") is not None and x.ndim in (1, 2)]
    betas = arrays[max(shapes, key=_in_camera)] if shapes else None
    if betas is not None:
        betas = betas.astype(np.float32).reshape(-1, betas.shape[-1]).mean(0)
    return Person(
        name, np.rint(frames).astype(np.int64), rotations, torch.from_numpy(translation.astype(np.float32)),
        None if betas is None or not np.isfinite(betas).all() else torch.from_numpy(betas), cropped,
    )  # fmt: skip


def _in_camera(key: str) -> bool:
    return not re.search(r"world|global(?!_orient)", key)


def _translation(where: Path, arrays: dict[str, Array], rows: int, view: View) -> tuple[Array, bool]:
    """Translations (N, 3) in the camera's frame, metres, and whether the model saw a crop alone."""
    plain = {key: x.reshape(rows, -1) for key, x in arrays.items() if x.dtype.kind in "iuf" and x.shape[:1] == (rows,)}
    if "cropped" in plain:
        return plain["cropped"], True
    for key, x in plain.items():
        if _in_camera(key) and MOVED.fullmatch(key) and x.shape[1] == 3:
            return x, False
    weak = {key: plain[key] for key, width in (("orig_cam", 4), ("pred_cam", 3), ("bboxes", 4))
            if key in plain and plain[key].shape[1] == width}  # fmt: skip
    if "orig_cam" not in weak and not {"pred_cam", "bboxes"} <= weak.keys():
        seen = ", ".join(f"{key} {x.shape}" for key, x in arrays.items())
        raise ValueError(
            f"{where}: no place in the camera's frame: expected trans or transl (N, 3), orig_cam (N, 4), or pred_cam "
            f"(N, 3) and bboxes (N, 4), of {rows} rows; it has {seen}"
        )
    if view.size is None:
        raise ValueError(f"{where}: its camera is in shares of the picture, whose size it does not say; give --size")
    size = np.array(view.size)
    focal = view.focal_of(*view.size)
    if "orig_cam" in weak:  # (sx, sy, tx, ty): the picture's half width is 1 / sx metres
        sx, _, x, y = weak["orig_cam"].T
        with np.errstate(divide="ignore"):
            return np.stack([x, y, 2 * focal / (size[0] * sx)], 1), True
    box = torch.from_numpy(weak["bboxes"][:, :3].astype(float))
    found = camera.to_translation(torch.from_numpy(weak["pred_cam"].astype(float)), box, torch.from_numpy(size), focal)
    return found.numpy(), True
