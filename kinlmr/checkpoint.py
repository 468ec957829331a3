"""Checkpoints: a model as arrays and JSON in one .npz or .safetensors file, written whole or not. Never a pickle."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kinlmr.build import build
from kinlmr.model import LMR
from kinlmr.plan import compile
from kinlmr.rotations import ROTATIONS
from kinlmr.skeleton import Skeleton, parse

FORMAT = 1
META = "kinlmr"


def save(model: LMR, path: str | os.PathLike[str]) -> None:
    """Write a model: every parameter and buffer under its name, and as JSON the format, skeleton and options.

    ``.npz`` needs nothing; ``.safetensors`` needs that package. The file appears whole or not at all.
    """
    meta = {
        "format": FORMAT,
        "skeleton": model.plan.skeleton.to_yaml(),
        "rotation": model.rotation.name,
        "options": model.options,
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    write_atomic(path, _packed(tensors, json.dumps(meta), os.fspath(path)))


def load(path: str | os.PathLike[str], into: LMR | None = None) -> LMR:
    """The model of a checkpoint, on the CPU; or ``into``, after its weights were replaced by the checkpoint's.

    A checkpoint of another skeleton or with other options than ``into`` is refused, and ``into`` left as it was.
    """
    name = os.fspath(path)
    tensors, text = _unpacked(path)
    try:
        meta = json.loads(text)
        version, skeleton = meta["format"], parse(meta["skeleton"], f"{name} (its skeleton)")
        rotation, options = meta["rotation"], meta["options"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{name}: not a kinlmr checkpoint, or a damaged one ({error})") from None
    if version != FORMAT:
        raise ValueError(f"{name}: checkpoint format {version!r}, this kinlmr reads {FORMAT}; update kinlmr")
    if rotation not in ROTATIONS:
        raise ValueError(f"{name}: rotation {rotation!r} is unknown; add its record to kinlmr.ROTATIONS first")
    if into is None:
        model = build(skeleton, rotation=rotation, **options)
    else:
        model = into
        if differences := _differences(model, skeleton, rotation, options):
            raise ValueError(f"{name}: a checkpoint of another model: {'; '.join(differences)}")
    expected = model.state_dict()
    for key in expected.keys() | tensors.keys():
        if key not in tensors or key not in expected or tensors[key].shape != expected[key].shape:
            seen = tuple(tensors[key].shape) if key in tensors else "missing"
            wanted = tuple(expected[key].shape) if key in expected else "no such tensor"
            raise ValueError(f"{name}: {key} is {seen}, expected {wanted}; the file is damaged or was edited")
    if into is None:
        model.to(next(iter(tensors.values())).dtype)
    model.load_state_dict(tensors)
    return model


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write aside, then rename: a reader sees the old file or the new one, never a piece."""
    target = Path(path)
    if not target.parent.is_dir():
        raise ValueError(f"{target}: the folder {target.parent} does not exist; make it first")
    handle, aside = tempfile.mkstemp(dir=target.parent, prefix=target.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(aside, 0o666 & ~mask)
        os.replace(aside, target)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def _differences(model: LMR, skeleton: Skeleton, rotation: str, options: Mapping[str, Any]) -> list[str]:
    """What sets the checkpoint apart from the model, in words: parts first, then options."""
    mine = {part.name: part.joints for part in model.plan.skeleton.parts}
    theirs = {part.name: part.joints for part in skeleton.parts}
    found = []
    if extra := [name for name in theirs if name not in mine]:
        found.append(f"only it has parts {', '.join(extra)}")
    if lacking := [name for name in mine if name not in theirs]:
        found.append(f"only the model has parts {', '.join(lacking)}")
    for name in mine:
        if name in theirs and mine[name] != theirs[name]:
            found.append(f"part {name!r} has joints {', '.join(theirs[name])} there, {', '.join(mine[name])} here")
    if not found and model.plan != compile(skeleton):
        here, there = model.plan.skeleton.part_graph(), skeleton.part_graph()
        names = [name for name in mine if here[name] != there[name]]
        found.append(
            f"parts {', '.join(names)} are given others" if names else "joints or parts stand in another order"
        )
    if not found:
        settings = {"rotation": model.rotation.name, **model.options}
        found = [
            f"{key} is {value!r} there, {settings.get(key)!r} here"
            for key, value in {"rotation": rotation, **options}.items()
            if settings.get(key) != value and key not in ("allow_nan", "dropout", "learn_start")
        ]
    return found


def _packed(tensors: Mapping[str, Tensor], meta: str, name: str) -> bytes:
    if name.endswith(".safetensors"):
        from safetensors.torch import save as pack

        return bytes(pack(dict(tensors), {META: meta}))
    if not name.endswith(".npz"):
        raise ValueError(f"{name}: a checkpoint ends in .npz or .safetensors")
    buffer = io.BytesIO()
    np.savez(buffer, **{META: np.array(meta)}, **{key: value.numpy() for key, value in tensors.items()})  # type: ignore[arg-type]
    return buffer.getvalue()


def _unpacked(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], str]:
    name = os.fspath(path)
    if not Path(path).is_file():
        raise FileNotFoundError(f"{name}: no such checkpoint")
    if name.endswith(".safetensors"):
        from safetensors import safe_open

        with safe_open(name, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, (file.metadata() or {}).get(META, "")  # noqa: SIM118
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except Exception as error:
        raise ValueError(f"{name}: not a checkpoint, or a damaged one ({error})") from None
    meta = str(arrays.pop(META, ""))
    return {key: torch.from_numpy(value) for key, value in arrays.items()}, meta
