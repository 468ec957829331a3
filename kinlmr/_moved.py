"""What has moved is found under its old name for one version, with a warning that says the new one."""

from __future__ import annotations

import pkgutil
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MODULES = {
    "documents": "files.yaml_text",
    "pickles": "files.pickles",
    "gru_kernels": "kernels.gru",
    "chain_kernels": "kernels.chain",
    "skin_kernels": "kernels.skin",
    "cells": "engine.cells",
    "nodes": "engine.nodes",
    "schedule": "engine.schedule",
    "products": "engine.deferred",
    "matmul": "engine.matmul",
    "kinematics": "body.kinematics",
    "skinning": "body.skinning",
    "assembly": "body.assembly",
    "assets": "body.assets",
    "builder": "build",
    "rows": "state",
    "tracking": "recovery.tracking",
    "recording": "motion.recording",
    "bvh": "motion.bvh",
    "retarget": "motion.retarget",
    "database": "motion.vibe",
    "noise": "motion.noise",
    "clips": "motion.clips",
    "glb": "export.glb",
    "draw": "video.draw",
    "raster": "video.raster",
    "sheets": "video.sheets",
}
NAMES = {
    "Stream": "RecoveryState",
    "recovery.Stream": "recovery.RecoveryState",
    "body.Points": "body.Keypoints",
    "body.turn_joint": "body.rotate_joint",
    "losses.points": "losses.keypoints",
    "motion.write_bvh": "export.write_bvh",
    "motion.clips.draw": "motion.clips.sample",
    "motion.clips.see": "motion.clips.observe",
    "motion.clips.varied": "motion.clips.augment",
    "rotations.columns_to_matrix": "rotations.gram_schmidt",
}


class Finder(MetaPathFinder, Loader):
    """Finds ``kinlmr.OLD`` where it is now."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        package, _, room = name.rpartition(".")
        return ModuleSpec(name, self) if package == "kinlmr" and room in MODULES else None

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = moved(*module.__name__.split("."))


def moved(module: str, name: str) -> Any:
    """The module or name that was ``MODULE.NAME``; AttributeError if there was none."""
    old = f"{module}.{name}"
    new = {**MODULES, **NAMES}.get(old.removeprefix("kinlmr."))
    if new is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    warnings.warn(f"{old} is now kinlmr.{new}", FutureWarning, stacklevel=3)
    return pkgutil.resolve_name(f"kinlmr.{new}")


def renamed(old: str, new: str, value: Any) -> Any:
    """A value under its old name."""
    warnings.warn(f"{old} is now {new}", FutureWarning, stacklevel=3)
    return value


sys.meta_path.append(Finder())
