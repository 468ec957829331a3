"""From keypoints of a video to a body: who is whom, what is believed, and the pose, shape and place of everybody."""

from typing import Any

from kinlmr import _moved
from kinlmr.recovery.clip import recover_clip
from kinlmr.recovery.gating import Gate, believed
from kinlmr.recovery.records import Recovery, RecoveryState
from kinlmr.recovery.recover import between, recover
from kinlmr.recovery.tracking import Tracks, track

__all__ = ["Gate", "Recovery", "RecoveryState", "Tracks", "believed", "between", "recover", "recover_clip", "track"]


def __getattr__(name: str) -> Any:
    return _moved.moved(__name__, name)
