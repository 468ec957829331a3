"""kinlmr: local recurrent models for human mesh recovery, on a kinematic graph that you declare.

Shapes are written in these letters: B batch, T frames, F features, J joints, R numbers per rotation, S shape numbers,
V iterations, P parts, H hidden size, M numbers of memory, N vertices, K keypoints. Metres and radians. Where a letter
or a unit is another, the docstring says so.
"""

from kinlmr import camera, clips, draw, export, keypoints, losses, metrics, motion, rotations
from kinlmr.assets import load_body, save_body
from kinlmr.body import Body, Mesh
from kinlmr.builder import build
from kinlmr.camera import project
from kinlmr.checkpoint import load, save
from kinlmr.database import read_database
from kinlmr.model import LMR, Estimate, State
from kinlmr.plan import Plan, compile
from kinlmr.recovery import Recovery, Stream, recover
from kinlmr.rotations import ROTATIONS, Rotation
from kinlmr.rows import concat
from kinlmr.skeleton import Part, Skeleton
from kinlmr.skeleton import load as load_skeleton
from kinlmr.tracking import Tracks, track

__version__ = "0.1.0"

__all__ = [
    "LMR",
    "ROTATIONS",
    "Body",
    "Estimate",
    "Mesh",
    "Part",
    "Plan",
    "Recovery",
    "Rotation",
    "Skeleton",
    "State",
    "Stream",
    "Tracks",
    "build",
    "camera",
    "clips",
    "compile",
    "concat",
    "draw",
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
    "rotations",
    "save",
    "save_body",
    "track",
]
