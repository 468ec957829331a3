"""Checkpoints: a model as arrays and JSON in one .npz or .safetensors file, written whole or not. Never a pickle."""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kinlmr.build import build
from kinlmr.engine import CELLS
from kinlmr.files import nearest, read_npz, write_atomic
from kinlmr.model import LMR
from kinlmr.plan import compile
from kinlmr.rotations import ROTATIONS
from kinlmr.skeleton import Skeleton, parse

FORMAT = 1
META = PACKAGE = "kinlmr"
TYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
OTHERS = ("world",)  # files of kinlmr/weights that are no LMR
SOFT = (
    "allow_nan",
    "confidence",
    "dropout",
    "learn_start",
)  # options that two models of the same weights may differ in


class _Claim(NamedTuple):
    """What a checkpoint says that it is; dtype: the type that its numbers are loaded in, None for their own."""

    skeleton: Skeleton
    rotation: str
    options: dict[str, Any]
    dtype: torch.dtype | None


def save(model: LMR, path: str | os.PathLike[str], half: bool = False) -> None:
    """Write a model: every parameter and buffer under its name, and as JSON the format, skeleton and options.

    ``.npz`` needs nothing; ``.safetensors`` needs that package. The file appears whole or not at all. What `load` would
    not give back is refused: tensors that `kinlmr.build` does not make, such as a parametrization's or a pruning's, and
    types other than float16, bfloat16, float32 and float64. Hooks are code, and not kept.
    half: store float16, rounded, in half the room; `load` then gives back the model's own type.
    """
    if not isinstance(model, LMR):
        raise TypeError(f"save takes an LMR, not {type(model).__name__}; of a wrapped one, the model inside")
    name, state = os.fspath(path), model.state_dict()
    meta: dict[str, Any] = {
        "format": FORMAT,
        "skeleton": model.plan.skeleton.to_yaml(),
        "rotation": model.rotation.name,
        "options": model.options.as_json(),
    }
    _check_loads(name, model, state, meta)
    tensors = {key: value.cpu().resolve_neg().clone(memory_format=torch.contiguous_format)
               for key, value in state.items()}  # fmt: skip
    if half:
        meta["dtype"] = str(model.start.pose.dtype).removeprefix("torch.")
        tensors = {key: value.half() for key, value in tensors.items()}
        if large := [key for key, value in tensors.items() if not value.isfinite().all()]:
            raise ValueError(f"{name}: {large[0]} has numbers beyond 65504, float16's largest; save with half=False")
    write_atomic(path, _packed(tensors, json.dumps(meta), name))


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
    claim = _claim(name, text)
    if into is None:
        _check_count(name, claim, len(tensors))
    elif differences := _differences(into, claim):
        raise ValueError(f"{name}: a checkpoint of another model: {'; '.join(differences)}")
    model = _empty(name, claim) if into is None else into
    if unlike := _unlike(tensors, model.state_dict()):
        fault = "the file is damaged or was edited" if into is None else "one of the two is not as build makes it"
        raise ValueError(f"{name}: {unlike}; {fault}")
    kinds = {value.dtype for value in tensors.values()}
    if len(kinds) != 1 or not kinds <= set(TYPES.values()):
        raise ValueError(f"{name}: tensors of {', '.join(map(str, kinds))}; a model has one floating type")
    tensors = {key: value.to(claim.dtype or value.dtype) for key, value in tensors.items()}
    model.load_state_dict(tensors, assign=into is None)
    model.checksum = _checksum(tensors)
    return model


def _checksum(tensors: dict[str, Tensor]) -> int:
    """A number of weights, the same for a file of float16, float32 or float64: CRC-32 of them in float16."""
    number = 0
    for key in sorted(tensors):
        number = zlib.crc32(tensors[key].half().contiguous().numpy().data, number)
    return number


def shipped() -> tuple[str, ...]:
    """The names of the models that come with kinlmr."""
    folder = resources.files(PACKAGE) / "weights"
    names = [f.name[:-4] for f in folder.iterdir() if f.name.endswith(".npz")] if folder.is_dir() else []
    return tuple(sorted(name for name in names if name not in OTHERS))


def _claim(name: str, text: str) -> _Claim:
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
    return _Claim(skeleton, rotation, options, dtype)


def _check_count(name: str, claim: _Claim, count: int) -> None:
    """Refuse a file that claims a model of more tensors than it holds, before so many are made."""
    parts, layers = len(claim.skeleton.parts), claim.options.get("layers", 1)
    if isinstance(layers, int) and parts * (4 * layers + 2) > count:
        raise ValueError(
            f"{name}: {parts:,} parts of {layers:,} layers, and {count:,} tensors; the file is damaged or was edited"
        )


def _empty(name: str, claim: _Claim) -> LMR:
    """The claimed model without its numbers: nothing in a file makes it take memory."""
    try:
        with torch.device("meta"):
            model = build(claim.skeleton, rotation=claim.rotation, **{**claim.options, "start": None})
    except (TypeError, ValueError, RuntimeError) as error:
        said = str(error).partition("\n")[0]  # torch adds a list of its C++ calls
        raise ValueError(f"{name}: its options make no model ({said})") from None
    return model


def _unlike(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """The first of the tensors that are not those expected, in words; empty where there is none."""
    for key in sorted(expected.keys() | tensors.keys()):
        seen, wanted = (tuple(x.shape) if isinstance(x, Tensor) else x for x in (tensors.get(key), expected.get(key)))
        if seen != wanted:
            said = "no such tensor" if wanted is None else wanted
            return f"{key} is {'missing' if seen is None else seen}, expected {said}"
    return ""


def _check_loads(name: str, model: LMR, state: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """Refuse to save what `load` would not take, or would give back as something else."""
    for kind, record, known, where in (
        ("rotation", model.rotation, ROTATIONS, "kinlmr.ROTATIONS"),
        ("cell", model.cell, CELLS, "kinlmr.cells.CELLS"),
    ):
        if known.get(record.name) != record:
            raise ValueError(
                f"{name}: the {kind} {record.name!r} is not that of {where}, where load looks it up by name; "
                "add its record there first, under a name of its own"
            )
    try:
        empty = _empty(name, _claim(name, json.dumps(meta)))
    except TypeError as error:
        raise ValueError(
            f"{name}: model.options are not those of build ({error}); leave them as it wrote them"
        ) from None
    if unlike := _unlike(state, empty.state_dict()):
        raise ValueError(
            f"{name}: {unlike}, which load would not take. A checkpoint holds what build makes: first make "
            "parametrizations and prunings permanent (torch.nn.utils.parametrize.remove_parametrizations, "
            "torch.nn.utils.prune.remove), and keep tensors of your own elsewhere (register_buffer(persistent=False))"
        )
    if type(model) is not LMR or (empty.plan, empty.schedule) != (model.plan, model.schedule):
        raise ValueError(
            f"{name}: load would give an LMR of other code or options than this {type(model).__name__}; save "
            "kinlmr.build(...) with these options, after its load_state_dict(model.state_dict())"
        )
    _check_types(name, state)


def _check_types(name: str, state: Mapping[str, Tensor]) -> None:
    for key, value in state.items():
        if type(value) is not Tensor or value.layout != torch.strided or value.dtype not in TYPES.values():
            seen = f"{value.layout} {value.dtype}" if type(value) is Tensor else f"a {type(value).__name__}"
            raise ValueError(f"{name}: {key} is {seen}; a checkpoint holds plain tensors of {', '.join(TYPES)}")
        if value.is_meta:
            raise ValueError(f"{name}: {key} has no numbers, only a shape (it is on the meta device); load some first")
    if len(kinds := {value.dtype for value in state.values()}) > 1:
        raise ValueError(
            f"{name}: the model's weights are of several types ({', '.join(sorted(map(str, kinds)))}), a checkpoint's "
            "of one; save model.float(), and call weights_as again after loading"
        )


def _differences(model: LMR, claim: _Claim) -> list[str]:
    """What sets the checkpoint apart from the model, in words: parts first, then the tree, then options."""
    skeleton, rotation, options, _ = claim
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
    settings = {"rotation": model.rotation.name, **model.options.as_json()}
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
    if _by_torch(path):
        raise ValueError(
            f"{name}: written by torch.save, which can hold code; kinlmr reads .npz and .safetensors. Of a model whose "
            "options you know: model = kinlmr.build(...), model.load_state_dict(torch.load(file, weights_only=True)), "
            "kinlmr.save(model, 'model.npz')"
        )
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
    return {key: torch.from_numpy(np.require(value, requirements="C")) for key, value in arrays.items()}, meta


def _by_torch(path: str | os.PathLike[str]) -> bool:
    """Whether torch.save wrote a file: a zip archive that begins with data.pkl, before a pickle of a number."""
    with open(path, "rb") as file:
        head = file.read(400)
    return (head[:2] == b"PK" and b"/data.pkl" in head) or b"l\xfc\x9cF\xf9 j\xa8P\x19" in head[:32]


def _safetensors(name: str) -> tuple[Any, Any]:
    try:
        import safetensors
        import safetensors.torch
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"{name}: needs a package; pip install safetensors, or use .npz") from None
    return safetensors, safetensors.torch
