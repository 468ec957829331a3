"""Checkpoints: a model as arrays and JSON in one .npz or .safetensors file, written whole or not. Never a pickle."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kinlmr.build import build
from kinlmr.files import nearest, read_npz, write_atomic
from kinlmr.model import LMR
from kinlmr.plan import compile
from kinlmr.rotations import ROTATIONS
from kinlmr.skeleton import Skeleton, parse

FORMAT = 1
META = PACKAGE = "kinlmr"
TYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
SOFT = (
    "allow_nan",
    "confidence",
    "dropout",
    "learn_start",
)  # options that two models of the same weights may differ in


def save(model: LMR, path: str | os.PathLike[str], half: bool = False) -> None:
    """Write a model: every parameter and buffer under its name, and as JSON the format, skeleton and options.

    ``.npz`` needs nothing; ``.safetensors`` needs that package. The file appears whole or not at all.
    half: store float16, rounded, in half the room; `load` then gives back the model's own type.
    """
    if not isinstance(model, LMR):
        raise TypeError(f"save takes an LMR, not {type(model).__name__}; of a wrapped one, the model inside")
    meta: dict[str, Any] = {
        "format": FORMAT,
        "skeleton": model.plan.skeleton.to_yaml(),
        "rotation": model.rotation.name,
        "options": model.options,
    }
    if len(kinds := {value.dtype for value in model.state_dict().values()}) > 1:
        raise ValueError(
            f"{os.fspath(path)}: the model's weights are of several types ({', '.join(sorted(map(str, kinds)))}), a "
            "checkpoint's of one; save model.float(), and call weights_as again after loading"
        )
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    if half:
        meta["dtype"] = str(next(iter(kinds))).removeprefix("torch.")
        tensors = {name: value.half() for name, value in tensors.items()}
        if large := [name for name, value in tensors.items() if not value.isfinite().all()]:
            raise ValueError(
                f"{os.fspath(path)}: {large[0]} has numbers beyond 65504, float16's largest; save with half=False"
            )
    write_atomic(path, _packed(tensors, json.dumps(meta), os.fspath(path)))


def load(path: str | os.PathLike[str], into: LMR | None = None) -> LMR:
    """The model of a checkpoint, on the CPU; or ``into``, after its weights were replaced by the checkpoint's.

    path: a file, or the name of a model that comes with kinlmr (`shipped`), such as "anny24-coco17", which comes in
    evaluation mode. A checkpoint of another skeleton or with other options than ``into`` is refused, and ``into`` left
    as it was.
    """
    name = os.fspath(path)
    if not Path(name).suffix and not Path(name).is_file():
        if name not in shipped():
            raise FileNotFoundError(
                f"{name}: no such checkpoint, and no model of that name comes with kinlmr; there are "
                f"{', '.join(shipped()) or 'none'}{nearest(name, shipped())}"
            )
        with resources.as_file(resources.files(PACKAGE) / "weights" / f"{name}.npz") as file:
            return load(file, into).eval()
    tensors, text = _unpacked(path)
    try:
        meta = json.loads(text)
        version, rotation, options = meta["format"], str(meta["rotation"]), dict(meta["options"])
        skeleton = parse(str(meta["skeleton"]), f"{name} (its skeleton)")
        dtype = TYPES[meta["dtype"]] if "dtype" in meta else None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{name}: not a kinlmr checkpoint, or a damaged one ({error})") from None
    if version != FORMAT:
        raise ValueError(f"{name}: checkpoint format {version!r}, this kinlmr reads {FORMAT}; update kinlmr")
    if rotation not in ROTATIONS:
        raise ValueError(f"{name}: rotation {rotation!r} is unknown; add its record to kinlmr.ROTATIONS first")
    if into is not None and (differences := _differences(into, skeleton, rotation, options)):
        raise ValueError(f"{name}: a checkpoint of another model: {'; '.join(differences)}")

    if into is None:
        _check_count(name, skeleton, options, len(tensors))
    model = _empty(name, skeleton, rotation, options) if into is None else into
    expected = model.state_dict()
    for key in expected.keys() | tensors.keys():
        if key not in tensors or key not in expected or tensors[key].shape != expected[key].shape:
            seen = tuple(tensors[key].shape) if key in tensors else "missing"
            wanted = tuple(expected[key].shape) if key in expected else "no such tensor"
            raise ValueError(f"{name}: {key} is {seen}, expected {wanted}; the file is damaged or was edited")
    kinds = {value.dtype for value in tensors.values()}
    if len(kinds) != 1 or not next(iter(kinds)).is_floating_point:
        raise ValueError(f"{name}: tensors of {', '.join(map(str, kinds))}; a model has one floating type")
    if dtype is not None:
        tensors = {key: value.to(dtype) for key, value in tensors.items()}
    model.load_state_dict(tensors, assign=into is None)
    return model


def shipped() -> tuple[str, ...]:
    """The names of the models that come with kinlmr."""
    folder = resources.files(PACKAGE) / "weights"
    return tuple(sorted(f.name[:-4] for f in folder.iterdir() if f.name.endswith(".npz"))) if folder.is_dir() else ()


def _check_count(name: str, skeleton: Skeleton, options: Mapping[str, Any], count: int) -> None:
    """Refuse a file that claims a model of more tensors than it holds, before so many are made."""
    parts, layers = len(skeleton.parts), options.get("layers", 1)
    if isinstance(layers, int) and parts * (4 * layers + 2) > count:
        raise ValueError(
            f"{name}: {parts:,} parts of {layers:,} layers, and {count:,} tensors; the file is damaged or was edited"
        )


def _empty(name: str, skeleton: Skeleton, rotation: str, options: Mapping[str, Any]) -> LMR:
    """The model of these options without its numbers: nothing in a file makes it take memory."""
    try:
        with torch.device("meta"):
            model = build(skeleton, rotation=rotation, **{**options, "start": None})
    except (TypeError, ValueError, RuntimeError) as error:
        said = str(error).partition("\n")[0]  # torch adds a list of its C++ calls
        raise ValueError(f"{name}: its options make no model ({said})") from None
    return model


def _differences(model: LMR, skeleton: Skeleton, rotation: str, options: Mapping[str, Any]) -> list[str]:
    """What sets the checkpoint apart from the model, in words: parts first, then the tree, then options."""
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
    if found:
        return found
    here, there = model.plan, compile(skeleton)
    given = lambda plan: {n: {plan.parts[g] for g in plan.given(i)} for i, n in enumerate(plan.parts)}  # noqa: E731
    if others := [name for name, above in given(here).items() if given(there)[name] != above]:
        return [f"parts {', '.join(others)} are given others"]
    parents = lambda s: dict(zip(s.joints, s.parents, strict=True))  # noqa: E731
    if moved := [joint for joint, p in parents(skeleton).items() if parents(here.skeleton)[joint] != p]:
        return [f"joints {', '.join(moved)} hang elsewhere"]
    if here.order != there.order or here.parts != there.parts:
        return ["joints or parts stand in another order"]
    settings = {"rotation": model.rotation.name, **model.options}
    return [
        f"{key} is {value!r} there, {settings.get(key)!r} here"
        for key, value in {"rotation": rotation, **options}.items()
        if key not in SOFT and settings.get(key) != value
    ]


def _packed(tensors: Mapping[str, Tensor], meta: str, name: str) -> bytes:
    if name.endswith(".safetensors"):
        _, packing = _safetensors(name)
        return bytes(packing.save(dict(tensors), {META: meta}))
    if not name.endswith(".npz"):
        raise ValueError(f"{name}: a checkpoint ends in .npz or .safetensors")
    if any(value.dtype == torch.bfloat16 for value in tensors.values()):
        raise ValueError(f"{name}: .npz has no bfloat16; save model.float(), or as .safetensors")
    buffer = io.BytesIO()
    np.savez(buffer, **{META: np.array(meta)}, **{key: value.numpy() for key, value in tensors.items()})  # type: ignore[arg-type]
    return buffer.getvalue()


def _unpacked(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], str]:
    """The tensors of a checkpoint, and its JSON."""
    name = os.fspath(path)
    if not Path(path).is_file():
        raise FileNotFoundError(f"{name}: no such checkpoint")
    if name.endswith(".safetensors"):
        safetensors, _ = _safetensors(name)
        try:
            with safetensors.safe_open(name, "pt") as file:
                return {key: file.get_tensor(key).clone() for key in file.keys()}, (file.metadata() or {}).get(META, "")  # noqa: SIM118
        except safetensors.SafetensorError as error:
            raise ValueError(f"{name}: not a checkpoint, or a damaged one ({error})") from None
    arrays = read_npz(path, limit=4 * os.path.getsize(path) + 1_000_000)  # its arrays were stored, not compressed
    meta = str(arrays.pop(META, ""))
    if text := [key for key, value in arrays.items() if value.dtype.kind == "U"]:
        raise ValueError(f"{name}: not a kinlmr checkpoint, or a damaged one ({text[0]} is text)")
    return {key: torch.from_numpy(value) for key, value in arrays.items()}, meta


def _safetensors(name: str) -> tuple[Any, Any]:
    try:
        import safetensors
        import safetensors.torch
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"{name}: needs a package; pip install safetensors, or use .npz") from None
    return safetensors, safetensors.torch
