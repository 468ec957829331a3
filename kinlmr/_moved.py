"""Modules that have moved are found under their old names for one version, with a warning that says the new one."""

from __future__ import annotations

import importlib
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


class Finder(MetaPathFinder, Loader):
    """Finds ``kinlmr.OLD`` where it is now."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        package, _, room = name.rpartition(".")
        return ModuleSpec(name, self) if package == "kinlmr" and room in MODULES else None

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = moved(module.__name__.removeprefix("kinlmr."))


def moved(room: str) -> ModuleType:
    """The module that was ``kinlmr.ROOM``; AttributeError if there was none."""
    if room not in MODULES:
        raise AttributeError(f"module 'kinlmr' has no attribute {room!r}")
    warnings.warn(f"kinlmr.{room} is now kinlmr.{MODULES[room]}", FutureWarning, stacklevel=3)
    return importlib.import_module(f"kinlmr.{MODULES[room]}")


def renamed(old: str, new: str, value: Any) -> Any:
    """A value under its old name."""
    warnings.warn(f"{old} is now {new}", FutureWarning, stacklevel=3)
    return value


sys.meta_path.append(Finder())
