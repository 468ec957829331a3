"""A video, and keypoints of it in a file, to bodies: what `kinlmr VIDEO --keypoints FILE` does, in a few calls.

    python examples/video.py [VIDEO KEYPOINTS OUT]

Without arguments, on the clip that comes along. It leaves OUT/overlay.mp4 and body.glb. The command knows more: frames
at uneven times, people who leave for long and return, keypoints of another size.
"""

import math
import sys
from pathlib import Path

import kinlmr
from kinlmr.export import save_glb
from kinlmr.video import draw, frames, readers

DEMO = Path(kinlmr.__file__).parent / "video/data"


def main(path: str | Path = DEMO / "demo.mp4", keypoints: str | Path = DEMO / "demo.npz", out: str = "out") -> None:
    model, body = kinlmr.load("anny24-coco17"), kinlmr.load_body("anny24_lo1229")
    assert body.faces is not None
    video = frames.open_video(path)
    found = readers.read(keypoints, video.stored_size, "coco17", video.rate, video.frames)
    recovery = kinlmr.recover_clip(model, found.keypoints, video.rate)  # of P people in T frames
    Path(out).mkdir(parents=True, exist_ok=True)

    vertices = body(recovery.rotations, recovery.shape, want=("vertices",)).vertices
    with frames.Writer(Path(out) / "overlay.mp4", video.fps) as writer:
        for shot in video.shots:
            picture, t = shot.picture, shot.number
            for p, boxes in enumerate(recovery.box):
                if t < len(boxes) and boxes[t, 2] > 0:  # they were seen by then
                    seen = draw.weak(vertices[p, t], recovery.camera[p, t], boxes[t] * video.scale)
                    picture = draw.mesh(picture, seen, body.faces)
            writer.add(picture)

    size, focal = video.source_size, math.hypot(*video.source_size)
    world = kinlmr.to_world(recovery, video.rate, size, focal, body=body, keypoints=found.keypoints)
    save_glb(Path(out) / "body.glb", body, world, fps=video.fps)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:4])
    except (ValueError, OSError, ImportError) as error:
        sys.exit(str(error))
