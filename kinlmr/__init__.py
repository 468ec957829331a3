"""kinlmr: local recurrent models for human mesh recovery, on a kinematic graph that you declare.

Shapes are written in these letters: B batch, T frames, F features, J joints, R numbers per rotation, S shape numbers,
V iterations, P parts, H hidden size, M numbers of memory, N vertices, K keypoints. Metres and radians. Where a letter
or a unit is another, the docstring says so.
"""

from typing import Any

from kinlmr import _moved, camera, export, keypoints, losses, metrics, motion, rotations, video
from kinlmr.body import Body, Mesh, load_body, save_body
from kinlmr.build import build
from kinlmr.camera import project
from kinlmr.checkpoint import load, save
from kinlmr.model import LMR
from kinlmr.motion import read_database
from kinlmr.plan import Plan, compile
from kinlmr.recovery import Recovery, RecoveryState, Tracks, recover, recover_clip, track
from kinlmr.rotations import ROTATIONS, Rotation
from kinlmr.skeleton import Part, Skeleton
from kinlmr.skeleton import load as load_skeleton
from kinlmr.state import Estimate, State, concat
from kinlmr.world import World, WorldState, to_world

__version__ = "0.2.0"

__all__ = [
    "LMR",
    "ROTATIONS",
    "Body",
    "Estimate",
    "Mesh",
    "Part",
    "Plan",
    "Recovery",
    "RecoveryState",
    "Rotation",
    "Skeleton",
    "State",
    "Tracks",
    "World",
    "WorldState",
    "build",
    "camera",
    "compile",
    "concat",
    "export",
    "keypoints",
    "load",
    "load_body",
    "load_skeleton",
    "losses",
    "metrics",
    "motion",
    "project",
    "read_database",
    "recover",
    "recover_clip",
    "rotations",
    "save",
    "save_body",
    "to_world",
    "track",
    "video",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
    return _moved.moved(__name__, name)
