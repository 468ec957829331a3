"""From a video to files and pictures: readers of keypoints, detectors, drawing, the application."""

from kinlmr.video import draw

__all__ = ["draw"]
