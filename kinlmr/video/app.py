"""The command `kinlmr`: videos in, bodies out, as an overlay, a contact sheet, a GLB, BVH files and arrays.

Everybody whom the detector sees for a few frames is followed, at most --people at once; who is away for over a second
is somebody new. Frames are read, recovered, drawn and written a few at a time, as they come: only a person's numbers
are kept, about 1 kB a frame. `kinlmr.video.results` says what is in the files.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import math
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import kinlmr
from kinlmr.files import Array
from kinlmr.video import readers
from kinlmr.video.arguments import arguments
from kinlmr.video.crowd import Crowd
from kinlmr.video.detectors import detected, find_detector, looked_up
from kinlmr.video.frames import Shot, Video, Writer, alike, open_video, pyav, steady
from kinlmr.video.live import Live
from kinlmr.video.pictures import Scene, Sheet, over
from kinlmr.video.results import save

BODY = "anny24_lo1229"
CHUNK = 16  # frames at once of a file; live ones come one by one
log = logging.getLogger("kinlmr")


def main(argv: Sequence[str] | None = None) -> int:
    """0: every video was recovered; 1: one was not, and the log says why. SystemExit, 2: the arguments do not fit."""
    args = arguments(argv)
    with told():
        try:
            pyav()
            return work(args)
        except (ValueError, OSError, ImportError) as error:
            log.error("%s", error)
            return 1


# ------------------------------------------------------------------------------------------------------------- the work


def work(args: argparse.Namespace) -> int:
    """All videos, one after another, each to a folder of its own if they are several. One that fails is passed over."""
    model, body = kinlmr.load(args.model), kinlmr.load_body(BODY)
    if "keypoints" not in model.options:
        raise ValueError(f"--model {args.model}: it does not say which keypoints it takes; build it with keypoints=")
    jobs = zip(args.videos or [None], folders(args.videos, args.out), strict=True)
    failed = False
    for path, out in jobs:
        try:
            if recover_video(path, out, model, body, args):
                break
        except (ValueError, OSError) as error:
            log.error("%s", error)
            failed = True
    return int(failed)


def folders(videos: list[Path], out: Path) -> list[Path]:
    """Where each video's files go: the folder ``out`` for one, folders in it for more, by the videos' names."""
    if len(videos) < 2:
        return [out]
    names: list[str] = []
    for video in videos:
        tries = itertools.chain([video.stem], (f"{video.stem}_{k}" for k in itertools.count(2)))
        taken = {name.casefold() for name in names}  # some file systems do not tell A from a
        names.append(next(name for name in tries if name.casefold() not in taken))
    return [out / name for name in names]


def recover_video(path: Path | None, out: Path, model: kinlmr.LMR, body: kinlmr.Body, args: argparse.Namespace) -> bool:
    """One video, or the camera, to files in the folder ``out``. Whether Ctrl-C ended it."""
    video = open_video(path, args.camera, args.size)
    diagonal = math.hypot(*video.source_size)
    focal = args.focal or (diagonal / 2 / math.tan(math.radians(args.fov) / 2) if args.fov else diagonal)
    log.info("%s: %s, %.4g frames a second", video.name, video.words, video.fps)

    crowd, sheet, keypoints, frame = Crowd(model, video.fps), Sheet(), list[Array](), 0
    limit = None if args.seconds is None else max(1, round(args.seconds * video.fps))
    bar = Progress(video.frames if limit is None else min(limit, video.frames or limit))
    names = [] if args.no_overlay else ["overlay.mp4"]
    with folder(out), interruptible() as stopped:
        with contextlib.ExitStack() as stack:
            live = stack.enter_context(live_of(video, body, focal, args))
            shots = seen(video._replace(shots=live.shots) if live else video, model.options["keypoints"], args)
            writers = [stack.enter_context(Writer(out / name, video.fps)) for name in names]
            divided = live.chunks if live else chunks
            for chunk in divided(shots, video.fps, limit, stopped):
                points = np.stack(alike([shot.keypoints for shot in chunk]), 1).astype(np.float32)  # (P, C, K, 3)
                keypoints.append(points)
                found = scenes(crowd, body, points, frame)
                drawn = live.take(chunk, found, bool(writers)) if live else overlaid(chunk, found, body, video.scale)
                for writer in writers:
                    for picture in drawn:
                        writer.add(picture)
                for shot, scene in zip(chunk, found, strict=True):
                    sheet.add(frame, shot.picture, scene)
                    frame += 1
                bar.show(frame)
            if not (people := crowd.takes()):
                raise ValueError(f"nobody was seen in {frame} frames of {video.name}; nothing is written")
        sheet.write(out / "contact.png", video, body, focal)
        together = np.concatenate(alike(keypoints), 1)
        names += [
            "contact.png",
            *save(out, body, model.options["keypoints"], people, together, video, focal, args.height),
        ]
    log.info("%s%s, people: %d", "stopped; " if stopped else "", bar.text(frame), len(people))
    print(f"{out}: {', '.join(names)}", flush=True)
    return bool(stopped)


def seen(video: Video, target: str, args: argparse.Namespace) -> Iterator[Shot]:
    """The video's frames with the keypoints of the set ``target`` that a file has, or a detector finds."""
    if args.keypoints:
        return looked_up(video.shots, from_file(args, video, target).keypoints)
    detector = find_detector(args.detector, args.people)
    return detected(video.shots, detector, target, video.scale, args.people, video.rate)


def from_file(args: argparse.Namespace, video: Video, target: str) -> readers.Found:
    """The keypoints of --keypoints, in the video's pixels; says what looks wrong."""
    size = args.keypoints_size or video.stored_size
    found = readers.read(args.keypoints, size, target, video.rate, video.frames, args.keypoints_set)
    size, x = args.keypoints_size or found.size or size, found.keypoints
    if size != video.source_size:
        x[..., :2] *= np.array(video.source_size, np.float32) / np.array(size, np.float32)
        log.info("keypoints of a picture of %g x %g, scaled to %s", *size, video.words)
    log.info("%s: %s, people: %d, frames: %d", args.keypoints, found.format, *x.shape[:2])
    for note in found.notes:
        log.log(logging.WARNING if note.startswith("warning: ") else logging.INFO, note.removeprefix("warning: "))
    places = x[..., :2][x[..., 2] > 0]
    outside = (np.abs(places / np.array(video.source_size) - 0.5) > 0.75).any(1).mean() if len(places) else 0
    if outside > 0.1:
        log.warning(
            f"{outside:.0%} of the keypoints lie far outside the picture of {video.words}, up to "
            f"x {places[:, 0].max():.0f}, y {places[:, 1].max():.0f}: another video's, or of another size; "
            "--keypoints-size WIDTHxHEIGHT scales them"
        )
    return found


def live_of(video: Video, body: kinlmr.Body, focal: float, args: argparse.Namespace) -> Any:
    """A context: what is done at once with the frames of a camera, or with --show and --vmc of a file; else None."""
    if args.camera is None and args.show is None and args.vmc is None:
        return contextlib.nullcontext()
    return Live(video, body, focal, args.camera is None, args.height, args.show, args.vmc)


def chunks(shots: Iterator[Shot], fps: float, limit: int | None, stopped: list[int]) -> Iterator[list[Shot]]:
    """Shots at a constant rate, a few at a time, until they end, there were ``limit``, or Ctrl-C filled ``stopped``."""
    some = itertools.islice(steady(shots, fps), limit)
    while not stopped and (chunk := list(itertools.islice(some, CHUNK))):
        yield chunk


def overlaid(chunk: list[Shot], found: list[Scene | None], body: kinlmr.Body, scale: float) -> Iterator[Array]:
    """The bodies over their pictures, drawn one by one as they are asked for."""
    return (over(shot.picture, scene, body, scale) for shot, scene in zip(chunk, found, strict=True))


def scenes(crowd: Crowd, body: kinlmr.Body, keypoints: Array, frame: int) -> list[Scene | None]:
    """Who is to be drawn in each of the frames of keypoints (P, C, K, 3), from ``frame`` on; None for nobody."""
    found: list[Scene | None] = [None] * keypoints.shape[1]
    for low, rows, recovery, shown in crowd.take(keypoints, frame):
        vertices = body(recovery.rotations, recovery.shape, want=("vertices",)).vertices
        for k, on in enumerate((shown & (recovery.box[..., 2] > 0).numpy()).T):
            if on.any():
                here = torch.from_numpy(np.flatnonzero(on))
                now = kinlmr.Recovery(*(x[here, k] for x in recovery))
                found[low + k] = Scene(list(itertools.compress(rows, on)), now, vertices[here, k])
    return found


# ---------------------------------------------------------------------------------------------------------- the process


@contextlib.contextmanager
def folder(path: Path) -> Iterator[None]:
    """Makes a folder; on an error, what was made goes again, if nothing is in it."""
    made = [part for part in (path, *path.parents) if not part.exists()]
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            for part in made:
                part.rmdir()
        raise


@contextlib.contextmanager
def interruptible() -> Iterator[list[int]]:
    """A list that Ctrl-C puts something into; a second Ctrl-C ends the process."""
    stopped: list[int] = []
    usual = signal.signal(signal.SIGINT, lambda number, _: stopped.append(number) if not stopped else sys.exit(1))
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, usual)


class Lines(logging.Formatter):
    """A line a message, which says if it is a warning or an error; on a terminal, over a bar."""

    def format(self, record: logging.LogRecord) -> str:
        kind = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
        return f"\r{kind + record.getMessage():<79}" if sys.stderr.isatty() else kind + record.getMessage()


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Messages of kinlmr, as lines on stderr."""
    handler, level = logging.StreamHandler(), log.level
    handler.setFormatter(Lines())
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


class Progress:
    """A bar on a terminal, a line every few seconds in a log; how many frames a second there were."""

    def __init__(self, total: int | None) -> None:
        self.total, self.begun = total, time.perf_counter()
        self.last = self.begun

    def text(self, frame: int) -> str:
        of = f"/{self.total}" if self.total else ""
        return f"{frame}{of} frames, {frame / max(time.perf_counter() - self.begun, 1e-9):.0f} a second"

    def show(self, frame: int) -> None:
        if sys.stderr.isatty():
            done = min(20, 20 * frame // self.total) if self.total else 0
            bar = "[" + "#" * done + "." * (20 - done) + "] " if self.total else ""
            print(f"\r{bar + self.text(frame):<79}", end="", file=sys.stderr, flush=True)
        elif time.perf_counter() - self.last > 5:
            self.last = time.perf_counter()
            log.info(self.text(frame))
