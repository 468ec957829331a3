"""A video, and keypoints of it in a file, to bodies: what `kinlmr VIDEO --keypoints FILE` does, in a few calls.

    python examples/video.py [VIDEO KEYPOINTS OUT]

Without arguments, on the clip that comes along. It leaves OUT/overlay.mp4 and body.glb. The command knows more: frames
at uneven times, people who leave for long, keypoints of another size, depths that are smoothed.
"""

import math
import sys
from pathlib import Path

import kinlmr
from kinlmr.export import save_glb, upright
from kinlmr.video import draw, frames, readers

DEMO = Path(kinlmr.__file__).parent / "video/data"


def main(path: str | Path = DEMO / "demo.mp4", keypoints: str | Path = DEMO / "demo.npz", out: str = "out") -> None:
    model, body = kinlmr.load("anny24-coco17"), kinlmr.load_body("anny24_lo1229")
    assert body.faces is not None
    video = frames.open_video(path)
    found = readers.read(keypoints, video.stored_size, "coco17", video.rate, video.frames)
    recovery, _ = kinlmr.recover(model, found.keypoints, video.rate)  # of P people in T frames
    starts = [int((box[:, 2] > 0).int().argmax()) for box in recovery.box]  # when each is first seen
    Path(out).mkdir(parents=True, exist_ok=True)

    vertices = body(recovery.rotations, recovery.shape, want=("vertices",)).vertices
    with frames.Writer(Path(out) / "overlay.mp4", video.fps) as writer:
        for shot in video.shots:
            picture, t = shot.picture, shot.number
            for p, start in enumerate(starts):
                if start <= t < len(vertices[p]):
                    seen = draw.weak(vertices[p, t], recovery.camera[p, t], recovery.box[p, t] * video.scale)
                    picture = draw.mesh(picture, seen, body.faces)
            writer.add(picture)

    rotations, translation = recovery.in_camera(video.source_size, math.hypot(*video.source_size), body)
    shapes = [recovery.shape[p, t:] for p, t in enumerate(starts)]
    moves = [upright(body, rotations[p, t:], shapes[p], translation[p, t:]) for p, t in enumerate(starts)]
    turned, places = zip(*moves, strict=True)
    save_glb(Path(out) / "body.glb", body, turned, shapes, places, video.fps, starts)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:4])
    except (ValueError, OSError, ImportError) as error:
        sys.exit(str(error))
