"""Smooth another model's body parameters, frame by frame, without looking ahead.

    python examples/smooth.py FILE.npz --out OUT.npz

FILE.npz holds one person's parameters of SMPL's 24 joints, one row a frame, under the names that such models write:

    pose, poses, pred_rotmat, ...       all joints: (T, 72) axis-angle or (T, 24, 3, 3) matrices; of (T, 156) or
                                        (T, 165), which are SMPL-H's and SMPL-X's, the 22 joints of the body
    global_orient and body_pose, ...    root and the rest: (T, 3) and (T, 63) or (T, 69); (T, 1, 3, 3) and (T, 23, 3, 3)
    betas, shape, ...                   (T, S): the mean of the frames so far
    pred_cam, trans, transl, ...        (T, N): a one-euro filter, as of the rotations
    frame, frame_ids, frame_idx, ...    (T): the frames' numbers. After half a second without frames it starts afresh

Before a name may stand another (smpl_params_incam_body_pose), and after it where the camera is (pose_world). OUT.npz
has the same arrays, smooth; what was made of them before (vertices, joints) is left out, all else is copied. The filter
does not know where the camera stands: roots in the camera's frame and in the world's do alike.
"""

import argparse
import io
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kinlmr import files
from kinlmr.rotations import (
    axis_angle_to_matrix,
    matrix_to_axis_angle,
    matrix_to_quaternion,
    nearest_rotation,
    quaternion_to_matrix,
)

Array = NDArray[Any]
FILTER = 2.0, 0.2  # of rotations: cutoff in Hz at rest, and how much it rises with speed (examples/README.md)
PLACES = 1.0, 1.0  # the same of cameras and translations
FPS = 30.0
GAP = 0.5  # seconds without frames after which a person is smoothed afresh
JOINTS = 24


# -------------------------------------------------------------------------------------------------------------- filters


def one_euro(x: Tensor, fps: float, cutoff: float, beta: float, unit: bool = False) -> Tensor:
    """The one-euro filter (Casiez et al. 2012), causal: x (B, T, ..., D) -> the same.

    cutoff in Hz, plus beta times the speed; with beta = 0 it is exponential smoothing.
    unit: x are unit quaternions, q and -q one rotation, and the speed is the angle's, in radians per second.
    """
    speed_gain, found = _gain(1.0, fps), []  # speeds are filtered at 1 Hz
    value, speed = x[:, 0], torch.zeros_like(x[:, 0])
    for now in x.unbind(1):
        if unit:
            now = torch.where((now * value).sum(-1, keepdim=True) < 0, -now, now)
        step = now - value
        speed = speed + speed_gain * (step * fps - speed)
        size = speed.norm(dim=-1, keepdim=True) * (2 if unit else 1)
        value = value + _gain(cutoff + beta * size, fps) * step
        value = value / value.norm(dim=-1, keepdim=True).clamp_min(1e-9) if unit else value
        found.append(value)
    return torch.stack(found, 1)


def _gain(cutoff: Any, fps: float) -> Any:
    """How much of the way a filter of this cutoff goes in a frame."""
    turn = 2 * torch.pi * cutoff / fps
    return turn / (turn + 1)


def smooth(rotations: Tensor, fps: float) -> Tensor:
    """The one-euro filter of every joint's quaternion: rotations (B, T, J, 3, 3) -> the same."""
    return quaternion_to_matrix(one_euro(matrix_to_quaternion(rotations), fps, *FILTER, unit=True))


def running_mean(x: Tensor) -> Tensor:
    """The mean of the frames so far: (B, T, S) -> the same. A person has one shape."""
    return x.cumsum(1) / torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]


# ---------------------------------------------------------------------------------------------------------------- files

NAMES = {
    "whole": ("pred_rotmat", "rotmat", "smpl_thetas", "thetas", "full_pose", "poses", "pose", "rotations"),
    "root": ("global_orient", "root_orient", "poses_root", "root_pose"),
    "rest": ("body_pose", "pose_body", "poses_body"),
    "shape": ("betas", "shape", "shapes"),
    "moved": ("pred_cam_t", "pred_cam", "orig_cam", "pred_camera", "cam_trans", "cam_t", "cam", "camera", "pred_trans",
              "transl", "translation", "trans", "global_t"),
    "made": ("verts", "vertices", "pred_vertices", "joints3d", "joints_3d", "pred_joints", "keypoints_3d",
             "pred_keypoints_3d"),
}  # fmt: skip
NUMBERS = re.compile(r"(?:|.*[._/])frames?(_?(?:id|idx|ind|index|indices|indexes|num|number|no)s?)?", re.IGNORECASE)
COUNTS = {"whole": (24, 52, 55), "root": (1,), "rest": (21, 23)}  # joints
MHR = "body_pose_params"  # of SAM-3D-Body, whose joints are not SMPL's


def matching(key: str, kind: str) -> str | None:
    """What stands before a key's name of a kind; None: it has another name."""
    found = re.fullmatch(rf"(|.*[._/])({'|'.join(NAMES[kind])})(_world|_cam|_incam|_global)?", key)
    return found and found[1]


def poses_of(path: Path, arrays: dict[str, Array]) -> dict[tuple[str, ...], Tensor]:
    """Every pose of a file: its keys, the root's first if it stands apart -> rotations (T, J, 3, 3), J as in the file.

    ValueError: there is none, and what there is instead.
    """
    parts = {
        (kind, key): _matrices(path, key, x, counts)
        for kind, counts in COUNTS.items()
        for key, x in arrays.items()
        if matching(key, kind) is not None
    }
    found: dict[tuple[str, ...], Tensor] = {
        (key,): x for (kind, key), x in parts.items() if kind == "whole" and x is not None
    }
    for (kind, root), one in parts.items():
        for (other, rest), two in parts.items():
            apart = (kind, other) == ("root", "rest") and matching(root, "root") == matching(rest, "rest")
            if apart and one is not None and two is not None and len(one) == len(two):
                found[root, rest] = torch.cat([one, two], 1)
    if not found:
        seen = ", ".join(f"{key} {value.shape}" for key, value in arrays.items()) or "nothing"
        whole, root, rest = (" or ".join(NAMES[kind]) for kind in COUNTS)
        mhr = "; SAM-3D-Body's has other joints: convert it first, by tools/mhr_smpl_conversion of facebookresearch/MHR"
        raise ValueError(
            f"{path}: no pose of SMPL's joints. Known are {whole}: (T, 72), (T, 24, 3, 3), (T, 156), (T, 165); or "
            f"{root}: (T, 3), (T, 1, 3, 3), with {rest}: (T, 63), (T, 69), (T, 23, 3, 3). It has {seen}"
            f"{mhr if MHR in arrays else ''}"
        )
    if len({len(x) for x in found.values()}) > 1:
        rows = ", ".join(f"{' and '.join(keys)} {len(x)}" for keys, x in found.items())
        raise ValueError(f"{path}: poses of different lengths: {rows}; one person's frames are expected")
    return found


def _matrices(path: Path, key: str, x: Array, counts: tuple[int, ...]) -> Tensor | None:
    """An array of rotations of so many joints as matrices (T, J, 3, 3); None: it is not one."""
    matrices = x.ndim > 2 and x.shape[-2:] == (3, 3)
    joints = int(np.prod(x.shape[1:])) / (9 if matrices else 3)
    if x.dtype.kind != "f" or x.ndim < 2 or not len(x) or joints not in counts:
        return None
    if not np.isfinite(x).all():
        frame = int(np.argwhere(~np.isfinite(x))[0, 0])
        raise ValueError(f"{path}: {key} is not finite in frame {frame}; leave such frames out, and give frame_ids (T)")
    flat = torch.from_numpy(x.astype(np.float32))
    if matrices:
        return nearest_rotation(flat.reshape(len(x), -1, 3, 3))
    return axis_angle_to_matrix(flat.reshape(len(x), -1, 3))


def numbers_of(path: Path, arrays: dict[str, Array], frames: int) -> dict[str, Array]:
    """The frames' numbers (T), under each name that the file has them by; none where it has none."""
    found = {}
    for key, x in arrays.items():
        name, fits = NUMBERS.fullmatch(key), x.shape in ((frames,), (frames, 1))
        if name is None or x.dtype.kind not in "iuf":
            continue
        if not fits and (name[1] is None or x.ndim != 1 or x.size == 1):  # such as pictures, or how many there are
            continue
        numbers = x.astype(float).ravel()
        if not fits or not (np.diff(numbers) > 0).all():
            raise ValueError(f"{path}: {key} of shape {x.shape}, expected ({frames},) of rising numbers, one person's")
        found[key] = numbers
    return found


def cuts_of(numbers: dict[str, Array], fps: float) -> list[int]:
    """Rows before which more than GAP seconds are missing, by any of the frames' numbers."""
    return sorted({int(i) + 1 for x in numbers.values() for i in np.flatnonzero(np.diff(x) > GAP * fps)})


def smoothed(
    arrays: dict[str, Array], poses: dict[tuple[str, ...], Tensor], cuts: list[int], fps: float
) -> dict[str, Array]:
    """The arrays of a file and its poses, smooth, each run between cuts by itself; without what was made of them."""
    frames, out = len(next(iter(poses.values()))), {}
    for keys, rotations in poses.items():
        body = JOINTS if rotations.shape[1] == JOINTS else JOINTS - 2  # the hands of others have fingers
        runs = rotations[None, :, :body].tensor_split(cuts, 1)
        answer = torch.cat([torch.cat([smooth(run, fps)[0] for run in runs]), rotations[:, body:]], 1)
        for key, part in zip(keys, answer.tensor_split([1] if len(keys) == 2 else [], 1), strict=True):
            x = arrays[key]
            part = part if x.ndim > 2 and x.shape[-2:] == (3, 3) else matrix_to_axis_angle(part)
            out[key] = part.numpy().reshape(x.shape).astype(x.dtype)
    for key, x in arrays.items():
        if key not in out and x.dtype.kind == "f" and x.ndim == 2 and len(x) == frames and np.isfinite(x).all():
            pieces = [piece[None] for piece in torch.from_numpy(x).tensor_split(cuts)]
            if matching(key, "shape") is not None:
                out[key] = torch.cat([running_mean(piece)[0] for piece in pieces]).numpy()
            elif matching(key, "moved") is not None:
                out[key] = torch.cat([one_euro(piece, fps, *PLACES)[0] for piece in pieces]).numpy()
    return out | {key: x for key, x in arrays.items() if key not in out and matching(key, "made") is None}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="an .npz of one person's parameters, a row a frame")
    parser.add_argument("--out", type=Path, required=True, help="the .npz to write")
    parser.add_argument("--fps", type=float, default=FPS, help=f"frames per second of the file; {FPS:g} without it")
    args = parser.parse_args(argv)
    if args.out.suffix != ".npz":
        raise ValueError(f"--out {args.out}: the name must end in .npz")
    if not 1 <= args.fps <= 1000:
        raise ValueError(f"--fps {args.fps:g}: expected 1 to 1000 frames per second")
    arrays = files.read_npz(args.file)
    poses = poses_of(args.file, arrays)
    numbers = numbers_of(args.file, arrays, len(next(iter(poses.values()))))
    cuts = cuts_of(numbers, args.fps)
    out = smoothed(arrays, poses, cuts, args.fps)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **out)  # type: ignore[arg-type]
    files.write_atomic(args.out, buffer.getvalue())
    same = [key for key in arrays if key in out and out[key] is arrays[key]]
    for what, keys in (("smoothed", out.keys() - same), ("copied", same), ("left out", arrays.keys() - out.keys())):
        if keys:
            print(f"{what}: {', '.join(sorted(keys))}")
    if numbers:
        print(f"gaps of more than {GAP:g} s by {', '.join(sorted(numbers))}: {len(cuts)}")
    else:
        print("no frame numbers were found (frame, frame_ids, frame_idx, ...), so the rows are taken to have no gaps")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(str(error))
