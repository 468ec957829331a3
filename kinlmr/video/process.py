"""What a command does around its work: a folder for its files, Ctrl-C, messages, and how far it is."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

log = logging.getLogger("kinlmr")


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


def once() -> Callable[[logging.LogRecord], bool]:
    """A filter: each warning is told once, though a video is read twice."""
    known = set[str]()

    def new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        fresh = record.levelno != logging.WARNING or text not in known
        known.add(text)
        return fresh

    return new


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Messages of kinlmr, as lines on stderr."""
    handler, level = logging.StreamHandler(), log.level
    handler.setFormatter(Lines())
    handler.addFilter(once())
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


class Progress:
    """A bar on a terminal, a line every few seconds in a log; how many frames a second there were."""

    def __init__(self, total: int | None, done: str) -> None:
        self.total, self.done, self.begun = total, done, time.perf_counter()
        self.last = self.begun

    def text(self, frame: int) -> str:
        of = f"/{self.total}" if self.total else ""
        return f"{frame}{of} frames {self.done}, {frame / max(time.perf_counter() - self.begun, 1e-9):.0f} a second"

    def show(self, frame: int) -> None:
        if sys.stderr.isatty():
            part = min(20, 20 * frame // self.total) if self.total else 0
            bar = "[" + "#" * part + "." * (20 - part) + "] " if self.total else ""
            print(f"\r{bar + self.text(frame):<79}", end="", file=sys.stderr, flush=True)
        elif time.perf_counter() - self.last > 5:
            self.last = time.perf_counter()
            log.info(self.text(frame))
