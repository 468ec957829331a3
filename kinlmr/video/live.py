"""Frames of a source that does not wait: the newest is taken, what comes late is dropped, and nothing queues."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import kinlmr
from kinlmr.video.crowd import Piece
from kinlmr.video.frames import Shot, Video, bursts
from kinlmr.video.pictures import Relay, both, side
from kinlmr.video.sheets import Picture
from kinlmr.video.show import Page
from kinlmr.video.stage import Stage
from kinlmr.video.vmc import Follower, Vmc

SAID, LAST = 5.0, 100  # seconds from one word about latency to the next, which is of so many frames
SIDE = 360  # pixels: how high the world from the side is drawn, at most
log = logging.getLogger("kinlmr")


class Newest:
    """Shots, read in a thread as they come: whoever asks for the next gets the newest, or waits for it.

    paced: the source is a file, and its frames come at their times. dropped: how many nobody asked for in time.
    """

    def __init__(self, shots: Iterator[Shot], paced: bool) -> None:
        self.shots, self.paced, self.dropped = shots, paced, 0
        self.slot: Shot | None = None
        self.error: Exception | None = None
        self.ended, self.changed = False, threading.Condition()
        self.thread: threading.Thread | None = None  # begins with the first frame that is asked for

    def _read(self) -> None:
        begun = time.monotonic()
        try:
            for shot in self.shots:
                with self.changed:
                    if self.paced:
                        self.changed.wait_for(lambda: self.ended, begun + shot.time - time.monotonic())
                    if self.ended:
                        return
                    self.dropped += self.slot is not None
                    self.slot = shot._replace(arrived=time.monotonic())
                    self.changed.notify_all()
        except Exception as error:
            self.error = error
        finally:
            with self.changed:
                self.ended = True
                self.changed.notify_all()

    def __iter__(self) -> Iterator[Shot]:
        return self

    def __next__(self) -> Shot:
        if self.thread is None:
            self.thread = threading.Thread(target=self._read, daemon=True)
            self.thread.start()
        with self.changed:
            while not self.changed.wait_for(lambda: self.slot is not None or self.ended, 0.5):
                pass  # a wait without an end is deaf to Ctrl-C on some systems
            shot, self.slot = self.slot, None
        if shot is not None:
            return shot
        if self.error is not None:
            raise self.error
        raise StopIteration

    def close(self) -> None:
        """The source is read no further."""
        with self.changed:
            self.ended = True
            self.changed.notify_all()
        if self.thread:
            self.thread.join(1.0)


class Latency:
    """Seconds from the arrival of frames until they went out ``how``."""

    def __init__(self, how: str) -> None:
        self.how, self.seconds = how, list[float]()

    def add(self, arrived: float) -> None:
        self.seconds.append(time.monotonic() - arrived)

    def text(self, last: int = 0) -> str:
        """Of the last few frames; 0: of all."""
        if not self.seconds:
            return f"{self.how}: none"
        middle, most = 1000 * np.percentile(self.seconds[-last:], [50, 95])
        return f"{self.how}: {len(self.seconds)}, latency {middle:.0f} ms in the median, {most:.0f} ms for 95 %"


def due(shots: Iterator[Shot], fps: float, limit: int | None, stopped: list[int]) -> Iterator[list[Shot]]:
    """The frames at a constant rate that are due together, until the shots end, there were ``limit``, or Ctrl-C filled
    ``stopped``."""
    left = sys.maxsize if limit is None else limit
    for some in bursts(shots, fps):
        if chunk := some[:left]:
            yield chunk
            left -= len(chunk)
        if stopped or not left:
            return


class Live:
    """What is done at once with the frames of a camera, or of a file at its own rate.

    shots: what is to be read instead of the video's. paced: it is a file. show: the port of this machine for a page, 0
    for a free one; vmc: host and port of a receiver; None: without.
    """

    def __init__(
        self, video: Video, body: kinlmr.Body, paced: bool, show: int | None = None, vmc: tuple[str, int] | None = None
    ) -> None:
        self.video, self.body = video, body
        high, wide = side(video.size)
        small = min(1.0, SIDE / high)
        self.relay = Relay(body, video.fps, Stage((round(small * high), round(small * wide))))
        self.follower = Follower(body)
        self.sent, self.served = Latency("sent"), Latency("served")
        self.vmc = None if vmc is None else Vmc(vmc)
        self.page: Page | None = None
        self.drawn: Picture | None = None
        self.said = time.monotonic()
        self.shots = Newest(video.shots, paced)
        if show is not None:
            self.page = Page(show, self.served.add, self.text)  # which asks for the text at once
            log.info("%s shows it", self.page.url)

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *_: Any) -> None:
        self.shots.close()
        for one in (self.page, self.vmc):
            if one:
                one.close()
        log.info(self.text(0))

    def take(self, chunk: Sequence[Shot], pieces: Sequence[Piece], drawn: bool) -> list[Picture]:
        """Sends and shows the last of a few frames that are due together -> pictures of all for the overlay.

        The others came too late to be drawn: in their place is the last picture that was. drawn: whether it is wanted.
        """
        shot = chunk[-1]
        if self.vmc:
            self.vmc.send(shot.time, self.body, self.follower.take(len(chunk), pieces))
            self.sent.add(shot.arrived)
        for piece in pieces:
            self.relay.add(piece)
        before, watched = self.drawn, self.page is not None and self.page.watched > 0
        if drawn or watched:
            there = pieces and pieces[-1].end == len(chunk)
            scene = self.relay.scene(pieces[-1]) if there else None
            self.drawn = both(shot.picture, scene, self.body, self.relay.stage, self.video.scale)
            if self.page and watched:
                self.page.put(self.drawn, shot.arrived)
        if time.monotonic() - self.said > SAID:
            self.said = time.monotonic()
            log.info(self.text())
        if not drawn or self.drawn is None:
            return []
        return [*([self.drawn if before is None else before] * (len(chunk) - 1)), self.drawn]

    def text(self, last: int = LAST) -> str:
        """Latencies of the last few frames, and how many were dropped."""
        outputs = [one.text(last) for one, used in ((self.served, self.page), (self.sent, self.vmc)) if used]
        return "; ".join([*outputs, f"dropped: {self.shots.dropped}"])
