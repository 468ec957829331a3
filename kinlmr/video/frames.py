"""Videos in and out: pictures with their times, turned as the file says, HDR made ordinary; frames at a constant rate.

`open_video` and `Writer` need PyAV, which the extra ``video`` brings.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import queue
import sys
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kinlmr.files import Array, beside
from kinlmr.video.hdr import ordinary

Size = tuple[float, float]  # width, height
CUT = 10.0  # seconds: a longer gap between two frames is a broken clock, not a pause
NEAR = 0.05  # of a frame: nearer is no difference in time
FASTEST = 1000.0  # frames a second: more is a clock's rate, not a camera's
LARGEST = 2**27  # pixels of a frame
BLOCKED = 5.0  # seconds that a camera may give nothing
DEVICES = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}"), "win32": ("dshow", "video={}")}
log = logging.getLogger("kinlmr")


class Shot(NamedTuple):
    """A frame: its number in the file (damaged ones count), time in seconds, picture (H, W, 3), keypoints (P, K, 3).

    Pixels are square, and keypoints are in those of the source. arrived: when a live frame came, by `time.monotonic`.
    """

    number: int
    time: float
    picture: Array
    keypoints: Array
    arrived: float = 0.0


class Video(NamedTuple):
    """size (width, height) of the pictures and source_size of the file's, both upright; scale: their ratio.

    stored_size: as the file has it, where source_size has its pixels made square: other detectors see that one. fps: of
    what is written; rate: of the file's own frames, which may be fewer than 1 a second.
    """

    name: str
    fps: float
    rate: float
    size: tuple[int, int]
    source_size: Size
    stored_size: Size
    scale: float
    frames: int | None
    shots: Iterator[Shot]

    @property
    def words(self) -> str:
        return f"{self.source_size[0]:g} x {self.source_size[1]:g}"


def pyav() -> Any:
    """The module ``av``; an ImportError says how to get it."""
    try:
        import av
    except ImportError as error:
        raise ImportError(f'videos need PyAV ({error}): pip install "kinlmr[video]"') from None
    return av


def open_video(path: str | Path | None = None, camera: str | None = None, longest: int = 1280) -> Video:
    """A file, or the camera of a number or name. Pictures are made smaller where a side is over ``longest`` pixels.

    FileNotFoundError, ValueError: nothing can be read. ImportError: PyAV is missing. What breaks later is logged, and
    ends the shots or leaves a few out.
    """
    av, name = pyav(), str(path) if camera is None else f"camera {camera}"
    mend = "a broken or truncated file?" if camera is None else "is it connected, and free?"
    if camera is None and not Path(name).is_file():
        raise FileNotFoundError(f"{name}: no such file")
    try:
        container = _opened(av, name, camera)
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        if stream.width * stream.height > LARGEST:
            container.close()
            raise ValueError(f"its frames are {stream.width:,} x {stream.height:,}; at most are {LARGEST:,} pixels")
        rate = float(stream.average_rate or stream.guessed_rate or 30)
        aspect = float(stream.sample_aspect_ratio or 1)
        packets = container.demux(stream) if camera is None else prompt(container.demux(stream), name)
        reading = _read(container, packets, stream, name, longest, aspect)
        first, source, stored = next(reading, (None, (0.0, 0.0), (0.0, 0.0)))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise ValueError(f"{name}: cannot be read as a video ({error}); {mend}") from None
    if first is None:
        raise ValueError(f"{name}: not one frame of its video could be read; {mend}")
    frames = int(stream.frames) or None
    rate = rate if 0 < rate <= FASTEST else 30.0
    height, width = first.picture.shape[:2]
    shots = itertools.chain([first], (shot for shot, *_ in reading))
    fps = rate if rate >= 1 else 30.0
    return Video(name, fps, rate, (width, height), source, stored, width / source[0], frames, shots)


def _opened(av: Any, name: str, camera: str | None) -> Any:
    """The container of a file or a camera."""
    if camera is None:
        container = av.open(name, metadata_errors="replace")
    else:
        form, device = DEVICES.get(sys.platform, DEVICES["linux"])
        container = av.open(device.format(camera) if camera.isdigit() else camera, format=form)
    if not container.streams.video:
        kinds = ", ".join(stream.type for stream in container.streams)
        raise ValueError(f"there is no video in it, only {kinds or 'nothing'}")
    return container


def prompt(packets: Iterator[Any], name: str) -> Generator[Any, None, None]:
    """Packets of a camera, read aside, until none comes for `BLOCKED` seconds."""
    ready, ended, last = queue.Queue[Any](2), threading.Event(), object()

    def put(item: Any) -> None:
        while not ended.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.1)
                break

    def read() -> None:
        try:
            for packet in packets:
                put(packet)
                if ended.is_set():
                    return
            put(last)
        except Exception as error:
            put(error)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        while (item := ready.get(timeout=BLOCKED)) is not last:
            if isinstance(item, Exception):
                raise item
            yield item
    except queue.Empty:
        raise TimeoutError(f"nothing came for {BLOCKED:g} s") from None
    finally:
        ended.set()
        reader.join(0.5)


def _read(
    container: Any, packets: Generator[Any, None, None], stream: Any, name: str, longest: int, aspect: float
) -> Iterator[tuple[Shot, Size, Size]]:
    """Shots without keypoints, and the upright size of the source: with its pixels made square, and as it is stored.

    aspect: a stored pixel's width over its height. A frame of another size than the first is made as large.
    """
    fault = pyav().error.FFmpegError
    broken, number, last, begun, step = 0, 0, -1.0, None, 1 / float(stream.average_rate or 30)
    blocked = False
    try:
        for packet in packets:
            try:
                frames = packet.decode()
            except fault:
                broken += 1
                continue
            for frame in frames:
                clock = last + step if frame.time is None else frame.time
                begun = clock if begun is None else begun
                clock -= begun
                if number and not last < clock < last + CUT:  # a clock that jumps or runs backwards
                    begun += clock - (last + step)
                    clock = last + step
                if not number:
                    square, stored = (
                        (frame.width * aspect, float(frame.height)),
                        (float(frame.width), float(frame.height)),
                    )
                    share = min(1.0, longest / max(square))
                    sides = [max(2, round(side * share / 2) * 2) for side in square]
                    turns = round(frame.rotation / 90) % 4
                    if turns % 2:
                        square, stored = square[::-1], stored[::-1]
                picture = frame.reformat(*sides, format="rgb24").to_ndarray()
                picture = np.ascontiguousarray(np.rot90(ordinary(picture, stream.codec_context.color_trc), turns))
                yield Shot(number + broken, clock, picture, np.zeros((0, 0, 3), np.float32)), square, stored
                number, last = number + 1, clock
    except (fault, OSError) as error:
        blocked = isinstance(error, TimeoutError)
        log.warning("%s broke off after %d frames (%s); they are used", name, number, error)
    finally:
        length = float(stream.duration * stream.time_base) if stream.duration else 0.0
        packets.close()
        if not blocked:  # else its reader is still at it
            container.close()
    if broken:
        log.warning("%s: %d damaged packets were left out", name, broken)
    if number and last + 2 * step + 0.5 < length:
        log.warning("%s is truncated: %.1f s of %.1f s could be read; they are used", name, last + step, length)


def steady(shots: Iterable[Shot], fps: float) -> Iterator[Shot]:
    """Frames at a constant rate, from frames at any times: the nearest picture; keypoints in between are interpolated.

    A tick that is within `NEAR` of a frame has that frame's own keypoints.
    """
    return itertools.chain.from_iterable(bursts(shots, fps))


def bursts(shots: Iterable[Shot], fps: float) -> Iterator[list[Shot]]:
    """As `steady`: for each frame, as soon as it comes, the ticks since the one before, which may be none."""
    before, tick, start = None, 0, 0.0
    for shot in shots:
        if before is None:
            before, start = shot, shot.time
        due = list[Shot]()
        while (now := start + tick / fps) <= shot.time + NEAR / fps:
            if now >= shot.time - NEAR / fps:
                due.append(shot._replace(time=now))
            else:
                share = (now - before.time) / (shot.time - before.time)
                points = between(before.keypoints, shot.keypoints, share)
                due.append((before if share < 0.5 else shot)._replace(time=now, keypoints=points))
            tick += 1
        yield due
        before = shot


def alike(parts: Sequence[Array]) -> list[Array]:
    """Keypoints (P, ...) with as many rows each as the longest of them has: zeros for who is yet to come."""
    most = max(len(part) for part in parts)
    return [np.pad(part, [(0, most - len(part)), *[(0, 0)] * (part.ndim - 1)]) for part in parts]


def between(before: Array, after: Array, share: float) -> Array:
    """Keypoints (P, K, 3) of a moment between two frames: the mean of both, weighted by nearness and confidence."""
    before, after = alike([before, after])
    one, two = (1 - share) * before[..., 2:], share * after[..., 2:]
    total = one + two
    places = (one * before[..., :2] + two * after[..., :2]) / np.where(total > 0, total, 1)
    return np.concatenate([places, total], -1)


class Writer:
    """An H.264 file of pictures, as wide and high as the first. It appears whole on leaving, or, on an error, not."""

    def __init__(self, path: Path, fps: float) -> None:
        self.av, self.path, self.rate = pyav(), path, Fraction(fps).limit_denominator(1001)
        self.aside = Path(f"{beside(path)}{path.suffix}")
        self.container: Any = None
        self.stream: Any = None
        self.count = 0

    def __enter__(self) -> Writer:
        self.container = self.av.open(str(self.aside), "w", options={"movflags": "+faststart"})
        return self

    def add(self, picture: Array) -> None:
        if self.stream is None:
            self.stream = self.container.add_stream("libx264", self.rate, options={"crf": "20", "preset": "veryfast"})
            self.stream.height, self.stream.width = (side // 2 * 2 for side in picture.shape[:2])
            self.stream.pix_fmt = "yuv420p"
        even = np.ascontiguousarray(picture[: self.stream.height, : self.stream.width])
        frame = self.av.VideoFrame.from_ndarray(even, format="rgb24")
        frame.pts, frame.time_base = self.count, 1 / self.rate
        self.count += 1
        try:
            self.container.mux(self.stream.encode(frame))
        except self.av.error.FFmpegError as error:
            raise self.refusal(error) from None

    def refusal(self, error: Any) -> OSError:
        return OSError(f"{self.path}: could not be written ({error.strerror}); is the disk full?")

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            if kind is None and self.count:
                self.container.mux(self.stream.encode())
            self.container.close()
            if kind is None and self.count:
                os.replace(self.aside, self.path)
        except self.av.error.FFmpegError as error:
            raise self.refusal(error) from None
        finally:
            self.aside.unlink(missing_ok=True)
