"""Recorded motion: files of recordings onto a body, and training clips drawn from them."""

from typing import Any

from kinlmr import _moved
from kinlmr.motion import clips, noise, rigs
from kinlmr.motion.archives import load_motion, save_motion
from kinlmr.motion.names import opposite, plain_names, sides
from kinlmr.motion.recording import Motion, resampled, root_at_rest, same_rate
from kinlmr.motion.retarget import DIALECTS, read_bvh
from kinlmr.motion.vibe import read_database

__all__ = [
    "DIALECTS",
    "Motion",
    "clips",
    "load_motion",
    "noise",
    "opposite",
    "plain_names",
    "read_bvh",
    "read_database",
    "resampled",
    "rigs",
    "root_at_rest",
    "same_rate",
    "save_motion",
    "sides",
]


def __getattr__(name: str) -> Any:
    return _moved.moved(__name__, name)
