"""From a video to files and pictures: the command `kinlmr`, and its parts.

draw        bodies over a picture and from the side, skeletons, contact sheets, PNG files
readers     keypoints that other people's detectors wrote
detectors   what a detector of keypoints is, and those that are known by name: MoveNet, which comes along, and others
frames      videos in and out; needs the extra, ``pip install "kinlmr[video]"``
main        the command
"""

from __future__ import annotations

from collections.abc import Sequence

from kinlmr.video import detectors, draw, frames, readers

__all__ = ["detectors", "draw", "frames", "main", "readers"]


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``kinlmr`` (`kinlmr.video.app`), of these arguments or those of the process -> its exit code."""
    from kinlmr.video import app

    return app.main(argv)
