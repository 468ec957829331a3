"""A video in, bodies out: who is seen in every frame, as an overlay, a GLB, BVH files and arrays.

Without arguments it runs on a clip of two people that comes with kinlmr. With a video or a camera it needs a detector
of keypoints (mediapipe, or --detector), or --keypoints from any other (examples/README.md says which). Everybody whom
the detector sees for a few frames is followed, at most --people at once; who is away for over a second is somebody new.
Frames are read, recovered, drawn and written a few at a time, as they come: only a person's numbers are kept, about
1 kB a frame. Ctrl-C ends the video there, and finishes the files.

recovery.npz has P people in T frames, NaN where somebody is not there: keypoints (P, T, K, 3) of the set ``set``;
rotations (P, T, J, 3, 3), shape, camera and box as of `kinlmr.Recovery`, translation (P, T, 3) in metres, all in the
camera's frame, y down; joints (J), their names. body.glb and the .bvh files are y up, the lowest joint at y = 0, with
depths averaged over half a second. Every .bvh begins with the video: who comes later stands still until then.
"""

import argparse
import io
import itertools
import math
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import kinlmr
from kinlmr import export, files
from kinlmr.video import draw, readers
from kinlmr.video.crowd import Crowd, Take
from kinlmr.video.detectors import detected, find_detector, looked_up
from kinlmr.video.frames import Video, Writer, alike, open_video, steady
from kinlmr.video.pictures import Scene, Sheet, scene

Array = NDArray[Any]
DATA = Path(__file__).parent / "data"
MODEL, BODY = "anny24-coco17", "anny24_lo1229"
PEOPLE = 4  # at once, at most, that a detector finds
CHUNK = 16  # frames at once of a file; a camera's come one by one
OPACITY, DEPTH = 0.85, 0.5  # of the bodies drawn; seconds that depths are averaged over in the files


# ------------------------------------------------------------------------------------------------------------- the work


def from_file(args: argparse.Namespace, video: Video, target: str) -> readers.Found:
    """The keypoints of --keypoints, in the video's pixels; says what looks wrong."""
    size = args.keypoints_size or video.stored_size
    found = readers.read(args.keypoints, size, target, video.rate, video.frames, args.keypoints_set)
    size, x = args.keypoints_size or found.size or size, found.keypoints
    if size != video.source_size:
        x[..., :2] *= np.array(video.source_size, np.float32) / np.array(size, np.float32)
        print(f"keypoints of a picture of {size[0]:g} x {size[1]:g}, scaled to {video.words}")
    print("\n".join((f"{args.keypoints}: {found.format}, people: {len(x)}, frames: {x.shape[1]}", *found.notes)))
    places = x[..., :2][x[..., 2] > 0]
    outside = (np.abs(places / np.array(video.source_size) - 0.5) > 0.75).any(1).mean() if len(places) else 0
    if outside > 0.1:
        print(
            f"warning: {outside:.0%} of the keypoints lie far outside the picture of {video.words}, up to "
            f"x {places[:, 0].max():.0f}, y {places[:, 1].max():.0f}: another video's, or of another size; "
            "--keypoints-size WIDTHxHEIGHT scales them"
        )
    return found


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv)
    model, body = kinlmr.load(args.model), kinlmr.load_body(BODY)
    video = open_video(args.video, args.camera, args.size)
    focal = args.focal or math.hypot(*video.source_size)
    target = model.options["keypoints"]
    if args.keypoints:
        shots = looked_up(video.shots, from_file(args, video, target).keypoints)
    else:
        shots = detected(
            video.shots, find_detector(args.detector, args.people), target, video.scale, args.people, video.rate
        )
    print(f"{video.name}: {video.words}, {video.fps:.4g} frames a second")
    args.out.mkdir(parents=True, exist_ok=True)

    stopped: list[int] = []
    usual = signal.signal(signal.SIGINT, lambda number, _: stopped.append(number) if not stopped else sys.exit(1))
    begun, crowd = time.perf_counter(), Crowd(model, video.fps)
    keypoints: list[Array] = []
    sheet, frame, spent = Sheet(), 0, 0.0
    bar = Progress(video.frames)
    limit = math.inf if args.seconds is None else max(1, round(args.seconds * video.fps))
    ticks = steady(shots, video.fps)
    try:
        with Writer(args.out / "overlay.mp4", video.fps) as writer:
            while frame < limit and not stopped:
                size = int(min(CHUNK if args.camera is None else 1, limit - frame))
                if not (chunk := list(itertools.islice(ticks, size))):
                    break
                clock = time.perf_counter()
                points = np.stack(alike([shot.keypoints for shot in chunk]), 1).astype(np.float32)  # (P, C, K, 3)
                keypoints.append(points)
                scenes = list[Scene | None]([None] * len(chunk))
                for low, rows, recovery, shown in crowd.take(points, frame):
                    vertices = body(recovery.rotations, recovery.shape, want=("vertices",)).vertices
                    for k, on in enumerate(shown.T):
                        now = [
                            (p, kinlmr.Recovery(*(x[row, k] for x in recovery)), vertices[row, k])
                            for row, p in enumerate(rows)
                            if on[row]
                        ]
                        scenes[low + k] = scene(body, now, video, focal)
                spent += time.perf_counter() - clock
                for shot, drawn in zip(chunk, scenes, strict=True):
                    clock, picture = time.perf_counter(), shot.picture
                    if drawn is not None:
                        picture = draw.mesh(picture, drawn.image, drawn.faces, drawn.color, opacity=OPACITY)
                    spent += time.perf_counter() - clock
                    writer.add(picture)
                    sheet.add(frame, picture, drawn)
                    frame += 1
                bar.show(frame, spent)
            if not (found := crowd.takes()):
                raise SystemExit(f"nobody was seen in {frame} frames of {video.name}; nothing is written")
    finally:
        signal.signal(signal.SIGINT, usual)
    sheet.write(args.out / "contact.png", video.fps)
    save(args.out, body, model, found, np.concatenate(alike(keypoints), 1), video, focal)
    print(
        f"\r{'stopped; ' if stopped else ''}{frame} frames, people: {len(found)}, "
        f"{frame / max(spent, 1e-9):.0f} frames a second to recover and draw, "
        f"{frame / (time.perf_counter() - begun):.0f} "
        f"with reading and writing\n{args.out}: {', '.join(sorted(path.name for path in args.out.iterdir()))}"
    )


class Progress:
    """A bar on a terminal, a line every few seconds in a log; how fast it is to recover and draw."""

    def __init__(self, total: int | None) -> None:
        self.total, self.told = total, time.perf_counter()

    def show(self, frame: int, seconds: float) -> None:
        of = f"/{self.total}" if self.total else ""
        text = f"{frame}{of} frames, {frame / max(seconds, 1e-9):.0f} a second to recover and draw"
        if sys.stdout.isatty():
            done = min(20, 20 * frame // self.total) if self.total else 0
            print(f"\r{'[' + '#' * done + '.' * (20 - done) + '] ' if self.total else ''}{text} ", end="", flush=True)
        elif time.perf_counter() - self.told > 5:
            self.told = time.perf_counter()
            print(text, flush=True)


# ---------------------------------------------------------------------------------------------------------------- files


def save(
    out: Path, body: kinlmr.Body, model: kinlmr.LMR, people: list[Take], keypoints: Array, video: Video, focal: float
) -> None:
    """body.glb with everybody, a .bvh each, recovery.npz; y up, the lowest point of all at y = 0."""
    takes = []
    for start, whole in people:
        place = whole.translation(video.source_size, focal)
        place = settled(torch.where(place.isfinite(), place, 0), whole.box[:, 2] > 0, video.fps)
        shape = whole.shape.mean(0)
        takes.append((*export.upright(body, whole.rotations, shape, place), shape, start))
    joints = [body(turns, shape, place).joints for turns, place, shape, _ in takes]
    everything = torch.cat([x.flatten(0, 1) for x in joints])
    floor = torch.stack([everything[:, 0].mean(), everything[:, 1].min(), everything[:, 2].mean()])
    turns, places, shapes, starts = map(list, zip(*takes, strict=True))
    places = [place - floor for place in places]
    export.save_glb(out / "body.glb", body, turns, shapes, places, video.fps, starts)
    for k in range(len(people)):
        export.save_bvh(out / f"person{k + 1}.bvh", body, turns[k], shapes[k], places[k], video.fps, starts[k])

    frames = keypoints.shape[1]
    arrays: dict[str, Array] = {"keypoints": keypoints}
    for name in ("rotations", "shape", "camera", "box", "translation"):
        rows = []
        for start, whole in people:
            value = whole.translation(video.source_size, focal) if name == "translation" else getattr(whole, name)
            row = np.full((frames, *value.shape[1:]), np.nan, np.float32)
            row[start : start + len(value)] = value.numpy()
            rows.append(row)
        arrays[name] = np.stack(rows)
    more = {"set": model.options["keypoints"], "fps": video.fps, "size": video.source_size, "focal": focal}
    arrays |= {name: np.array(value) for name, value in more.items()} | {"joints": np.array(body.joints)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    files.write_atomic(out / "recovery.npz", buffer.getvalue())


def settled(places: torch.Tensor, known: torch.Tensor, fps: float) -> torch.Tensor:
    """Places (T, 3) along their rays, with depths averaged over `DEPTH` seconds: one view leaves them uncertain."""
    if not known.any():
        return places
    z = torch.where(known, places[:, 2], places[known, 2].mean())
    reach = int(DEPTH * fps / 2)
    padded = torch.cat([z[:1].expand(reach), z, z[-1:].expand(reach)])
    smooth = padded.unfold(0, 2 * reach + 1, 1).mean(-1)
    return places * (smooth / z)[:, None]


def arguments(argv: list[str] | None) -> argparse.Namespace:
    def size(text: str) -> tuple[float, float]:
        width, _, height = text.partition("x")
        return float(width), float(height)

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", nargs="?", type=Path, help="a video file; without it, the clip of kinlmr")
    parser.add_argument("--camera", help="a camera instead: its number, or its name")
    parser.add_argument(
        "--keypoints", type=Path, help="a file or folder of another detector's keypoints, of the stored picture"
    )
    parser.add_argument("--keypoints-size", type=size, metavar="WxH", help="of the picture that they were found in")
    parser.add_argument(
        "--keypoints-set", metavar="SET", help="their set, such as body25b or h36m17, if their number does not tell"
    )
    parser.add_argument(
        "--detector",
        help="module:function, a frame (H, W, 3) uint8, RGB, to keypoints (P, K, 3) of P people, or (K, 3) of one",
    )
    parser.add_argument(
        "--people",
        type=int,
        default=PEOPLE,
        metavar="N",
        help="that a detector may find at once, at most (%(default)s)",
    )
    parser.add_argument(
        "--model", default=MODEL, help="a shipped model's name, or a checkpoint with keypoints= (%(default)s)"
    )
    parser.add_argument("--focal", type=float, help="of the camera, in pixels; else the picture's diagonal")
    parser.add_argument("--seconds", type=float, help="stop after so many")
    parser.add_argument(
        "--size", type=int, default=1280, help="the overlay's longest side in pixels, at most (%(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("out"), help="where the files go (%(default)s)")
    args = parser.parse_args(argv)
    if args.people < 1:
        parser.error(f"--people {args.people}: give 1 or more")
    if args.video and args.camera is not None:
        parser.error("a video or a camera, not both")
    if args.video is None and args.camera is None:
        args.video, args.keypoints = DATA / "demo.mp4", args.keypoints or DATA / "demo.npz"
    return args


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(str(error))
