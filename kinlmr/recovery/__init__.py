"""From keypoints of a video to a body: who is whom, what is believed, and the pose, shape and place of everybody."""

from kinlmr.recovery.gating import Gate, believed
from kinlmr.recovery.recover import Recovery, Stream, recover
from kinlmr.recovery.tracking import Tracks, track

__all__ = ["Gate", "Recovery", "Stream", "Tracks", "believed", "recover", "track"]
