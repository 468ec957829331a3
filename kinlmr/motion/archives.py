"""Recorded motion onto a body's joints: BVH files, AMASS archives, and kinlmr's own compact archives.

A recording is its joints' rotations relative to their parents, in the body's joint order and rest pose, and the root
joint's position in the world, at an even rate. Y is up, z where the T-pose faces, x to the body's left.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from einops import rearrange

from kinlmr.body import Body, load_body
from kinlmr.files import Array, about, nearest, read_npz, write_npz
from kinlmr.motion.dialects import DIALECTS
from kinlmr.motion.names import plain_names
from kinlmr.motion.recording import Motion, resampled, root_at_rest, same_rate
from kinlmr.motion.retarget import read_bvh
from kinlmr.motion.up import find_up, upright
from kinlmr.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from kinlmr.skeleton import Skeleton
from kinlmr.skeleton import load as load_skeleton

__all__ = ["DIALECTS", "Motion", "load_motion", "read_bvh", "save_motion"]

STEP = np.pi / 32767  # radians per unit in an archive
ARCHIVE = ("rot_delta", "trans_delta_mm", "fps", "joints", "clips")
AMASS = ("poses", "trans", "betas", "mocap_framerate", "mocap_frame_rate", "surface_model_type", "model")
LAYOUTS = {"smpl": 24, "smplh": 52, "smplx": 55}  # the joints of `poses`, by the body model that a file was made with


def load_motion(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    body: Body | str = "anny24",
    fps: float = 30.0,
    up: str | None = None,
    names: Mapping[str, str] | None = None,
    scale: float | None = None,
) -> list[Motion]:
    """Every recording of files (.bvh, AMASS's .npz, `save_motion`'s .npz) or folders of them, on a body's joints.

    up             the axis that is up in .bvh and AMASS's files: x, y, z, -x, -y or -z; None: found, and a ValueError
                   where it cannot be told
    names, scale   of .bvh files, as for `read_bvh`

    AMASS's joints are matched by name; what only one of the two trees has is left at rest. Of a folder, AMASS's files
    of shapes (``shape.npz``, ``..._stagei.npz``) are passed over. `save_motion`'s archives are y up.
    """
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    body = load_body(body) if isinstance(body, str) else body
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such motion file or folder")
        files += sorted(f for f in path.rglob("*") if _is_motion(f)) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"no .bvh and no .npz file in {', '.join(map(str, paths))}")
    motions: list[Motion] = []
    for file in files:
        if file.suffix.lower() == ".bvh":
            motions.append(read_bvh(file, body, fps, names, scale, up=up))
            continue
        arrays = read_npz(file, (*AMASS, *ARCHIVE))
        with about(file):
            found = [_from_amass(arrays, file.stem, body, up)] if "poses" in arrays else _from_archive(arrays, body)
            motions += [resampled(motion, fps) for motion in found]
    return motions


def _is_motion(file: Path) -> bool:
    shapes = file.stem == "shape" or file.stem.endswith("_stagei")
    return file.suffix.lower() == ".bvh" or (file.suffix.lower() == ".npz" and not shapes)


# ----------------------------------------------------------------------------------------------------------- archives


def save_motion(motions: Sequence[Motion], path: str | os.PathLike[str], note: str = "") -> None:
    """Write recordings of one rate and one body compactly (about 60 kB per minute): 16-bit differences, deflated."""
    with about(path):
        _check_alike(motions)
    axis_angle = torch.cat([m.axis_angle for m in motions]).double().numpy()
    angle = np.linalg.norm(axis_angle, axis=-1, keepdims=True)
    turns = np.rint(angle / (2 * np.pi))  # whole turns, which an archive's units do not reach
    axis_angle = axis_angle * (1 - 2 * np.pi * turns / np.where(turns, angle, 1))
    positions = torch.cat([m.translation for m in motions]).double().numpy()
    clips, start = [], 0
    for m in motions:
        clips.append({"name": m.name, "subject": m.subject, "action": m.action, "start": start, "frames": len(m),
                      "jumps": list(m.cuts)})  # fmt: skip
        start += len(m)
    units, millimetres = np.rint(axis_angle / STEP).astype(np.int16), np.rint(1000 * positions).astype(np.int32)
    write_npz(
        path,
        rot_delta=np.diff(units, axis=0, prepend=np.zeros_like(units[:1])),
        trans_delta_mm=np.diff(millimetres, axis=0, prepend=np.zeros_like(millimetres[:1])),
        fps=np.array(motions[0].fps),
        joints=np.array(motions[0].joints),
        clips=np.array(json.dumps(clips)),
        note=np.array(note),
    )


def _check_alike(motions: Sequence[Motion]) -> None:
    if len({m.joints for m in motions}) != 1 or not all(same_rate(m.fps, motions[0].fps) for m in motions):
        rates = ", ".join(sorted({f"{m.fps:g}" for m in motions})) or "no recording"
        raise ValueError(f"the recordings of one archive share their rate and their joints, not {rates}")
    for m in motions:
        finite = m.axis_angle.flatten(1).isfinite().all(1) & m.translation.isfinite().all(1)
        if not finite.all():
            frame = int((~finite).nonzero()[0])
            raise ValueError(f"recording {m.name!r} is not finite at frame {frame}; cut or fill such frames first")


def _from_archive(arrays: Mapping[str, Array], body: Body) -> list[Motion]:
    missing = [key for key in ARCHIVE if key not in arrays]
    if missing:
        raise ValueError(f"neither AMASS nor an archive of motion; {', '.join(missing)} missing")
    names, own = plain_names(list(map(str, arrays["joints"].ravel().tolist()))), plain_names(body.joints)
    if names != own:
        odd = [f"{n!r}{nearest(n, own)}" for n in names if n not in own] or ["the same in another order"]
        raise ValueError(f"joints of another tree than body {body.name!r}: {', '.join(odd)}")
    deltas, steps = arrays["rot_delta"], arrays["trans_delta_mm"]
    shapes = deltas.ndim == 3 and deltas.shape[1:] == (len(names), 3) and steps.shape == (len(deltas), 3)
    if not shapes or deltas.dtype.kind not in "iu" or steps.dtype.kind not in "iu":
        raise ValueError(
            f"rot_delta {deltas.dtype} {deltas.shape} and trans_delta_mm {steps.dtype} {steps.shape} are not "
            f"whole numbers of {len(names)} joints and of one position a frame"
        )
    rate = _rate(arrays, "fps")
    units, millimetres = np.cumsum(deltas, 0, dtype=np.int16), np.cumsum(steps, 0, dtype=np.int32)
    try:
        clips = [
            (str(c["name"]), int(c["start"]), int(c["frames"]), sorted(map(int, c.get("jumps", ()))), c)
            for c in json.loads(str(arrays["clips"]))
        ]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"its list of clips is damaged ({error})") from None
    for name, start, frames, jumps, _ in clips:
        if frames < 1 or start < 0 or start + frames > len(units):
            raise ValueError(f"clip {name!r} has frames {start} .. {start + frames}, the file {len(units)}")
        if jumps and not 0 <= jumps[0] <= jumps[-1] < frames:
            raise ValueError(f"clip {name!r} jumps at {jumps[0]} .. {jumps[-1]}, it has {frames} frames")
    if (claimed := sum(frames for _, _, frames, _, _ in clips)) > len(units):
        raise ValueError(f"its clips have {claimed:,} frames in all, the file {len(units):,}; they overlap")
    motions = []
    for name, start, frames, jumps, clip in clips:
        part = slice(start, start + frames)
        motions.append(Motion(
            name, body.joints, rate, torch.from_numpy((units[part] * STEP).astype(np.float32)),
            torch.from_numpy((millimetres[part] / 1000).astype(np.float32)), tuple(jumps),
            str(clip.get("action", "")), str(clip.get("subject", "")),
        ))  # fmt: skip
    return motions


def _rate(arrays: Mapping[str, Array], key: str) -> float:
    """A file's frames per second: one number above zero."""
    value = arrays[key]
    rate = float(value.item()) if value.size == 1 and value.dtype.kind in "iuf" else 0.0
    if not 0 < rate < float("inf"):
        shown = f"{value.dtype} of {value.shape}" if value.size != 1 else repr(value.item())[:40]
        raise ValueError(f"{key} is {shown}, expected frames per second, a number above zero")
    return rate


# -------------------------------------------------------------------------------------------------------------- AMASS


def _from_amass(arrays: Mapping[str, Array], name: str, body: Body, up: str | None) -> Motion:
    """AMASS: poses (T, 3 J) of SMPL+H's 52 joints, SMPL-X's 55 or SMPL's 24; trans (T, 3), the model's origin; z up.

    BEAT2's and EMAGE's files, with ``model`` instead of ``surface_model_type``, are y up.
    """
    given = [arrays.get(key, np.zeros(0)) for key in ("poses", "trans")]
    for key, values in zip(("poses", "trans"), given, strict=True):
        if values.dtype.kind not in "iuf":
            raise ValueError(f"{key} holds {values.dtype}, expected numbers")
    with np.errstate(over="ignore"):  # to infinity, which is refused below
        poses, trans = (values.astype(np.float32) for values in given)
    if poses.ndim != 2 or trans.shape != (len(poses), 3):
        raise ValueError(
            f"poses {poses.shape}, expected (T, 156 or 165) of AMASS, with trans (T, 3), here {trans.shape}"
        )
    rated = next((key for key in ("mocap_framerate", "mocap_frame_rate") if key in arrays), None)
    if rated is None:
        raise ValueError("no mocap_framerate, frames per second")
    rate = _rate(arrays, rated)
    if not len(poses):
        raise ValueError("no frames")
    for key, values in (("poses", poses), ("trans", trans)):
        if not np.isfinite(values).all():
            raise ValueError(f"{key} are not finite from frame {int(np.argwhere(~np.isfinite(values))[0, 0])} on")
    layout = _layout(arrays, poses.shape[1])
    shared = _shared(layout, body)
    axis_angle = torch.zeros(len(poses), len(body.joints), 3)
    axis_angle[:, list(shared)] = torch.from_numpy(rearrange(poses, "t (j c) -> t j c", c=3))[:, list(shared.values())]
    betas = None
    if layout.joints == plain_names(body.joints) and arrays.get("betas", np.zeros(0)).dtype.kind == "f":
        betas = torch.from_numpy(arrays.get("betas", np.zeros(0)).ravel()[: len(body.J_shapedirs)])
        if not betas.isfinite().all():
            raise ValueError("betas are not finite")
    motion = Motion(name, body.joints, rate, axis_angle, torch.from_numpy(trans) + root_at_rest(body, betas).float())
    likely = "y" if str(arrays.get("model", "")).startswith("smplx") and "surface_model_type" not in arrays else "z"
    to_y = torch.from_numpy(upright(_up(motion, body, likely) if up is None else up)).float()
    axis_angle[:, body.root] = matrix_to_axis_angle(to_y @ axis_angle_to_matrix(axis_angle[:, body.root]))
    return replace(motion, translation=motion.translation @ to_y.T)


def _up(motion: Motion, body: Body, likely: str) -> str:
    """The axis that is up in a recording, most of whose frames show somebody upright."""
    body = body.to("cpu", torch.float32)
    rotations = axis_angle_to_matrix(motion.axis_angle)
    positions = body(rotations, None, motion.origin(body)).joints.numpy()
    own, names = body.J.view(-1, 3), plain_names(body.joints)
    bones = [("left_hip", "left_knee"), ("left_knee", "left_ankle")]
    leg = [float((own[names.index(a)] - own[names.index(b)]).norm()) for a, b in bones if {a, b} <= set(names)]
    return find_up(rotations[:, body.root, :, 1].numpy(), positions, sum(leg) or float("nan"), likely)


def _layout(arrays: Mapping[str, Array], width: int) -> Skeleton:
    """The tree of a file's poses: by its surface_model_type (``smplx_locked_head`` is SMPL-X), else by their count."""
    kind = str(arrays.get("surface_model_type", ""))
    known = ", ".join(f"{name} ({3 * count})" for name, count in LAYOUTS.items())
    if kind:
        name = max((name for name in LAYOUTS if kind.lower().startswith(name)), key=len, default=None)
    else:
        name = next((name for name, count in LAYOUTS.items() if 3 * count == width), None)
    if name is None or 3 * LAYOUTS[name] != width:
        claim = f" of surface_model_type {kind!r}" if kind else ""
        raise ValueError(f"poses have {width} numbers a frame{claim}, expected those of {known}")
    return load_skeleton(f"{name}.yaml")


def _shared(layout: Skeleton, body: Body) -> dict[int, int]:
    """The body's joint -> the file's, for the names that both have; they must hang on one another alike."""
    names = plain_names(body.joints)
    index = {name: j for j, name in enumerate(layout.joints)}
    root = names[body.root]
    if root != layout.joints[layout.parents.index(None)]:
        raise ValueError(f"{layout.name}'s joints, of which body {body.name!r} has no root: its own is {root!r}")
    for j, name in enumerate(names):
        above = body.parents[j]
        while above >= 0 and names[above] not in index:
            above = body.parents[above]
        ours, theirs = names[above] if above >= 0 else None, layout.parents[index[name]] if name in index else None
        if name in index and ours != theirs:
            raise ValueError(
                f"{name!r} hangs on {theirs!r} in {layout.name}'s tree, and on {ours!r} in body {body.name!r}: "
                "another tree under the same names; load the body with names of its own (joint_names)"
            )
    return {j: index[name] for j, name in enumerate(names) if name in index}
