"""AIST++: keypoints of dancers from nine sides with a 3D truth, read from files of either of two layouts.

    FOLDER/aist_*.npz            a clip each: kp2d (V, T, 17, 3) as x, y in pixels and confidence; joints3d_loo
                                 (V, T, 17, 3) in metres, y up, triangulated for each view from all others; good_loo
                                 (V, T, 17), which of them hold; R (V, 3, 3) and t (V, 3), so that a point X is at
                                 R X + t in the camera; fps; K (V, 3, 3), into the picture, if it is there
    FOLDER/keypoints2d/*.pkl     as AIST++ publishes them: keypoints2d (V, T, 17, 3)
    FOLDER/keypoints3d/*.pkl     keypoints3d_optim or keypoints3d (T, 17, 3) in centimetres, y up
    FOLDER/cameras/mapping.txt   a line a clip: its name, its setting
    FOLDER/cameras/SETTING.json  cameras: name, matrix (3, 3), rotation (3) axis-angle, translation (3) in centimetres
    FOLDER/ignore_list.txt       clips that AIST++ itself leaves out, where it is there

A view sees the dancer at 60 frames a second. Distortion is left as it is: models take a detector's pixels.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kinlmr.files.arrays import Array, read_npz
from kinlmr.files.pickles import read_pickle
from kinlmr.rotations import axis_angle_to_matrix

FPS, CENTIMETRES, OFF = 60.0, 0.01, 0.1  # of a person's extent: truths this far from their keypoints are not of them
WITHOUT = "triangulated for each view from all others"
WITHIN = (
    "AIST++'s own, from all views. It contains the view that is scored, so these figures are not comparable with those "
    "of a truth that leaves the view out"
)
LAYOUTS = "expected are aist_*.npz, or AIST++'s keypoints2d, keypoints3d and cameras"


class Clip(NamedTuple):
    """A clip of V views and T frames.

    keypoints (V, T, 17, 3) as x, y in pixels and confidence, zeros where a point was not found; truth (V, T, 17, 3) in
    metres, y up, NaN where it is not known; rotation (V, 3, 3), translation (V, 3): into the cameras' frames;
    matrix (V, 3, 3): from there into the picture, where the file has it.
    """

    name: str
    keypoints: Tensor
    truth: Tensor
    rotation: Tensor
    translation: Tensor
    fps: float
    matrix: Tensor | None = None

    def in_cameras(self) -> Tensor:
        """The truth in the frames of the cameras, x right, y down, z forward: (V, T, 17, 3)."""
        return self.truth @ self.rotation.mT[:, None] + self.translation[:, None, None]

    def in_picture(self) -> Tensor:
        """The truth in pixels (V, T, 17, 2)."""
        if self.matrix is None:
            raise ValueError(f"{self.name}: the file has no K, by which its cameras see the truth")
        image = self.in_cameras() @ self.matrix.mT[:, None]
        return image[..., :2] / image[..., 2:]


def paths(folder: Path, names: Sequence[str] = ()) -> tuple[list[Path], str]:
    """The files of a folder's clips, for `read`, and what their truth is.

    names: beginnings of clips' names, or .txt files that list them, as AIST++'s splits are; all without it.
    """
    found, truth = sorted(folder.glob("aist_*.npz")), WITHOUT
    if not found:
        found, truth = sorted((folder / "keypoints2d").glob("*.pkl")), WITHIN
        ignored = folder / "ignore_list.txt"
        ignore = ignored.read_text().split() if ignored.is_file() else []
        found = [path for path in found if path.stem not in ignore]
    if not found:
        raise FileNotFoundError(f"{folder}: no clips of AIST++ in it; {LAYOUTS}")
    wanted = [line for name in names for line in (Path(name).read_text().split() if name.endswith(".txt") else [name])]
    chosen = [path for path in found if not names or path.stem.startswith(tuple(wanted))]
    if not chosen:
        some = ", ".join(path.stem for path in found[:3])
        raise ValueError(f"{folder}: none of its {len(found)} clips ({some}, ...) begins with one of {list(names)}")
    return chosen, truth


def read(path: Path) -> Clip:
    """A clip by its path of `paths`. A ValueError names the file, what it has and what is expected."""
    return _leaving_one_out(path) if path.suffix == ".npz" else _published(path)


def _leaving_one_out(path: Path) -> Clip:
    arrays = read_npz(path, ["kp2d", "joints3d_loo", "good_loo", "R", "t", "fps", "K"])
    views, frames = _views_and_frames(path, "kp2d", arrays)
    shapes = {"joints3d_loo": (views, frames, 17, 3), "good_loo": (views, frames, 17)}
    shapes |= {"R": (views, 3, 3), "t": (views, 3), "fps": ()}
    shapes |= {"K": (views, 3, 3)} if "K" in arrays else {}
    for key, shape in shapes.items():
        _check(path, key, arrays, shape)
    matrix = _numbers(arrays["K"]) if "K" in arrays else None
    truth = np.where(arrays["good_loo"].astype(bool)[..., None], arrays["joints3d_loo"], np.nan)
    keypoints, fps = seen(arrays["kp2d"]), float(arrays["fps"])
    return Clip(path.stem, keypoints, _numbers(truth), _numbers(arrays["R"]), _numbers(arrays["t"]), fps, matrix)


def _published(path: Path) -> Clip:
    folder, solid = path.parent.parent, path.parent.parent / "keypoints3d" / path.name
    flat, points = read_pickle(path, ["keypoints2d"]), read_pickle(solid, ["keypoints3d_optim", "keypoints3d"])
    views, frames = _views_and_frames(path, "keypoints2d", flat)
    key = "keypoints3d_optim" if "keypoints3d_optim" in points else "keypoints3d"
    _check(solid, key, points, (frames, 17, 3))
    matrix, rotation, translation = _cameras(folder, path.stem, views)
    truth = CENTIMETRES * _numbers(points[key]).expand(views, -1, -1, -1)
    clip = Clip(path.stem, seen(flat["keypoints2d"]), truth, rotation, translation, FPS, matrix)
    off = _off(clip)
    if not off <= OFF:
        raise ValueError(
            f"{path}: its keypoints lie {off:.2f} of a person's extent from where its cameras see keypoints3d; "
            f"expected is less than {OFF}, of this clip's points and cameras, both in centimetres"
        )
    return clip


def _off(clip: Clip) -> float:
    """How far a clip's keypoints lie from the images of its truth, in the median, of the person's extent."""
    found = clip.keypoints[..., 2:] > 0
    places = torch.where(found, clip.keypoints[..., :2], torch.nan).double()
    extent = places.nan_to_num(-torch.inf).amax(2) - places.nan_to_num(torch.inf).amin(2)
    off = (clip.in_picture() - places).norm(dim=-1)
    return float((off / extent.amax(-1, keepdim=True)).nanmedian())


def _cameras(folder: Path, name: str, views: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of a clip's cameras by name, matrices (V, 3, 3), rotations (V, 3, 3) and translations (V, 3) in metres."""
    mapping = folder / "cameras" / "mapping.txt"
    if not mapping.is_file():
        raise FileNotFoundError(f"{mapping}: no such file, which says by what cameras {name} was seen; {LAYOUTS}")
    settings = dict(line.split()[:2] for line in mapping.read_text().splitlines() if len(line.split()) > 1)
    if name not in settings:
        raise ValueError(f"{mapping}: no line of {name}; expected is '{name} SETTING', among {len(settings)} lines")
    path = mapping.with_name(f"{Path(settings[name]).name}.json")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, the setting of {name} by {mapping.name}")
    try:
        cameras = sorted(json.loads(path.read_text()), key=lambda camera: camera["name"])
        matrix, rotation, translation = (
            _numbers([camera[key] for camera in cameras]) for key in ("matrix", "rotation", "translation")
        )
        if (shapes := [tuple(x.shape) for x in (matrix, rotation, translation)]) != [(views, 3, 3), *[(views, 3)] * 2]:
            raise ValueError(f"shapes {shapes} for {views} views")
    except (KeyError, TypeError, ValueError) as error:
        expected = f"a list of {views} cameras with name, matrix (3, 3), rotation (3) and translation (3)"
        raise ValueError(f"{path}: expected is {expected} ({type(error).__name__}: {error})") from None
    return matrix, axis_angle_to_matrix(rotation), CENTIMETRES * translation


def _views_and_frames(path: Path, key: str, arrays: dict[str, Array]) -> tuple[int, int]:
    shape = arrays[key].shape if key in arrays else ()
    _check(path, key, arrays, (*shape[:2], 17, 3) if len(shape) == 4 and min(shape[:2]) else ("V", "T", 17, 3))
    return shape[0], shape[1]


def _check(path: Path, key: str, arrays: dict[str, Array], shape: tuple[Any, ...]) -> None:
    if key not in arrays:
        raise ValueError(f"{path}: it lacks {key}; {LAYOUTS}")
    x = arrays[key]
    if x.shape != shape or x.dtype.kind not in "biuf":
        raise ValueError(f"{path}: {key} is {x.dtype} of {x.shape}; expected are numbers {shape}")


def _numbers(x: Any) -> Tensor:
    return torch.as_tensor(np.asarray(x, dtype=np.float64))


def seen(x: Array) -> Tensor:
    """Keypoints in single precision, zeros where one is not finite, or not found."""
    found = np.isfinite(x).all(-1) & (x[..., 2] > 0)
    return torch.from_numpy(np.where(found[..., None], x, 0).astype(np.float32))
