"""The command `kinlmr`: videos in, bodies out, as an overlay, a contact sheet, a GLB, BVH files and arrays.

Everybody whom the detector sees for a few frames is followed, at most --people at once; who is away for over a second
is somebody new. A file is read twice: for the keypoints of all frames, of which everybody is recovered and set on the
floor, and to draw. Of a camera, and of a file with --show or --vmc, frames are recovered, drawn, shown and sent as they
come. Only a person's numbers are kept, about 2 kB a frame. `kinlmr.video.results` says what is in the files.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import kinlmr
from kinlmr.files import Array
from kinlmr.video import readers
from kinlmr.video.arguments import arguments
from kinlmr.video.crowd import Crowd, takes
from kinlmr.video.detectors import detected, find_detector, looked_up
from kinlmr.video.frames import Shot, Video, Writer, alike, open_video, pyav, steady
from kinlmr.video.live import Live, due
from kinlmr.video.pictures import Replay, Sheet, both, side
from kinlmr.video.process import Progress, folder, interruptible, told
from kinlmr.video.results import check_rig, save_bodies, save_numbers

BODY = "anny24_lo1229"
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
    if args.rig or args.scale:
        check_rig(body, args.rig, args.scale)
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


class Job(NamedTuple):
    """A video, and what becomes of it: focal in pixels of its source."""

    path: Path | None
    out: Path
    video: Video
    focal: float
    model: kinlmr.LMR
    body: kinlmr.Body
    args: argparse.Namespace

    @property
    def frames(self) -> int | None:
        """How many there are to be, as far as that is known."""
        return self.video.frames if self.limit is None else min(self.limit, self.video.frames or self.limit)

    @property
    def limit(self) -> int | None:
        seconds = self.args.seconds
        return None if seconds is None else max(1, round(seconds * self.video.fps))

    def shots(self, stopped: list[int]) -> Iterator[Shot]:
        """Frames with keypoints, at a constant rate, until they end or Ctrl-C fills ``stopped``."""
        shots = steady(seen(self.video, self.model.options["keypoints"], self.args), self.video.fps)
        for shot in itertools.islice(shots, self.limit):
            yield shot
            if stopped:
                return

    def place(self, recovery: kinlmr.Recovery, **more: Any) -> Any:
        """`kinlmr.to_world`, for this video; what it warns of is said."""
        with warnings.catch_warnings(record=True) as doubts:
            warnings.simplefilter("always")
            more |= {"body": self.body, "height": self.args.height}
            found = kinlmr.to_world(recovery, self.video.fps, self.video.source_size, self.focal, **more)
        for doubt in doubts:  # it counts people from 0, the files from 1
            log.warning("%s", re.sub(r"\bperson (\d+)", lambda m: f"person {int(m[1]) + 1}", str(doubt.message)))
        return found


def recover_video(path: Path | None, out: Path, model: kinlmr.LMR, body: kinlmr.Body, args: argparse.Namespace) -> bool:
    """One video, or the camera, to files in the folder ``out``. Whether Ctrl-C ended it."""
    if path is not None and path.exists() and not path.is_file():
        raise ValueError(f"{path}: not a file; a video is read twice, which a pipe cannot be: save it first")
    video = open_video(path, args.camera, args.size)
    diagonal = math.hypot(*video.source_size)
    focal = args.focal or (diagonal / 2 / math.tan(math.radians(args.fov) / 2) if args.fov else diagonal)
    job = Job(path, out, video, focal, model, body, args)
    log.info("%s: %s, %.4g frames a second", video.name, video.words, video.fps)
    with folder(out), interruptible() as stopped:
        at_once = path is None or args.show is not None or args.vmc is not None
        names = live(job, stopped) if at_once else whole(job, stopped)
    if stopped:
        log.info("stopped")
    print(f"{out}: {', '.join(names)}", flush=True)
    return bool(stopped)


def whole(job: Job, stopped: list[int]) -> list[str]:
    """A file, in two passes: first the keypoints, then, with all of them known, the overlay -> the files' names."""
    sheet, keypoints, bar = Sheet(), list[Array](), Progress(job.frames, "read")
    for shot in job.shots(stopped):
        keypoints.append(shot.keypoints.astype(np.float32))
        sheet.add(len(keypoints) - 1, shot.picture)
        bar.show(len(keypoints))
    together = np.stack(alike(keypoints), 1)
    people = takes(job.model, together, job.video.fps, job.place)
    replay = Replay(people, job.body, job.video.fps)
    log.info("%s, people: %d", bar.text(len(keypoints)), len(people))
    names = finish(job, replay, sheet, together)
    if job.args.no_overlay:
        return names
    drawn = draw(job, replay, len(keypoints), stopped)
    return ["overlay.mp4", *names] if drawn else names


def draw(job: Job, replay: Replay, frames: int, stopped: list[int]) -> int:
    """The overlay of a file, which is read again -> how many frames it has."""
    video, stage, bar = (
        open_video(job.path, None, job.args.size),
        replay.stage(side(job.video.size)),
        Progress(frames, "drawn"),
    )
    done, before = 0, len(stopped)
    with Writer(job.out / "overlay.mp4", job.video.fps) as writer:
        for shot in itertools.islice(steady(video.shots, job.video.fps), frames):
            writer.add(both(shot.picture, replay.scene(done), job.body, stage, job.video.scale))
            done += 1
            bar.show(done)
            if len(stopped) > before:
                break
    if done < frames and len(stopped) == before:
        log.warning("%s: %d of %d frames could be read again; overlay.mp4 ends there", job.video.name, done, frames)
    log.info(bar.text(done))
    return done


def live(job: Job, stopped: list[int]) -> list[str]:
    """A camera, or a file at its own rate, as its frames come -> the files' names.

    All but the overlay are made at the end, by all frames.
    """
    video, args, fps, target = job.video, job.args, job.video.fps, job.model.options["keypoints"]
    crowd, sheet, bar = Crowd(job.model.live(), fps, job.place), Sheet(), Progress(job.frames, "seen")
    keypoints, frame = list[Array](), 0
    names = [] if args.no_overlay else ["overlay.mp4"]
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(Writer(job.out / name, fps)) for name in names]
        with Live(video, job.body, job.path is not None, args.show, args.vmc) as now:
            shots = seen(video._replace(shots=now.shots), target, args)
            for chunk in due(shots, fps, job.limit, stopped):
                points = np.stack(alike([shot.keypoints for shot in chunk]), 1).astype(np.float32)  # (P, C, K, 3)
                keypoints.append(points)
                pictures = now.take(chunk, list(crowd.take(points, frame)), bool(writers))
                for writer, picture in itertools.product(writers, pictures):
                    writer.add(picture)
                for shot in chunk:
                    sheet.add(frame, shot.picture)
                    frame += 1
                bar.show(frame)
        together = np.concatenate(alike(keypoints), 1)
        replay = Replay(takes(job.model, together, fps, job.place), job.body, fps)
        names += finish(job, replay, sheet, together)
    log.info("%s, people: %d", bar.text(frame), len(replay.people))
    return names


def finish(job: Job, replay: Replay, sheet: Sheet, keypoints: Array) -> list[str]:
    """All but the overlay -> their names. keypoints (P, T, K, 3)."""
    people, out = replay.people, job.out
    if not people:
        raise ValueError(f"nobody was seen in {keypoints.shape[1]} frames of {job.video.name}; nothing is written")
    sheet.write(out / "contact.png", job.video, replay)
    names = save_bodies(out, job.body, people, job.video.fps, job.args.rig, job.args.scale)
    save_numbers(
        out / "recovery.npz", job.body, job.model.options["keypoints"], people, keypoints, job.video, job.focal,
        job.args.height,
    )  # fmt: skip
    return ["contact.png", *names, "recovery.npz"]


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
