"""The lines of a manifest as jobs, and which of them have no result yet."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from kinlmr import files

LONGEST = 251  # bytes of a name, which with .npz has 255


class Job(NamedTuple):
    """A line of the manifest, or what is wrong with it."""

    name: str
    keypoints: Path
    fps: float = 0.0
    size: tuple[float, float] | None = None
    set: str | None = None
    frames: int | None = None
    wrong: str = ""


def jobs(manifest: Path, rank: int = 0, world: int = 1) -> Iterator[Job]:
    """The lines of a manifest that are this process's."""
    names: set[str] = set()
    with open(manifest, encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            if not line.strip():
                continue
            job = parsed(line, f"line-{number + 1}", manifest.parent)
            if job.name in names:
                wrong = f"line {number + 1}: a second {job.name!r}; give each line a name of its own"
                job = job._replace(name=f"line-{number + 1}", wrong=wrong)
            names.add(job.name)
            if number % world == rank:
                yield job


def parsed(line: str, place: str, folder: Path) -> Job:
    try:
        entry = json.loads(line)
        path = folder / str(entry["keypoints"])
        name = str(entry.get("name", path.stem if path.suffix else path.name))
        fps, size = float(entry["fps"]), entry.get("size")
        size = None if size is None else (float(size[0]), float(size[1]))
        frames = None if entry.get("frames") is None else int(entry["frames"])
        data = os.fsencode(name)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        what = f'expected {{"keypoints": file, "fps": number}}, not {line.strip()[:100]} ({error})'
        return Job(place, folder, wrong=f"{place}: {what}")
    if not name or name.startswith(".") or "/" in name or "\\" in name or "\0" in name or len(data) > LONGEST:
        return Job(
            place, path, wrong=f"{place}: {name[:200]!r} names no file; give it a plain name of {LONGEST} bytes at most"
        )
    points = entry.get("set")
    if not 0 < fps < float("inf"):
        return Job(name, path, wrong=f"{place}: fps is {fps}; give frames per second, such as 25 or 29.97")
    return Job(name, path, fps, size, None if points is None else str(points), frames)


def error_of(job: Job) -> str:
    """The name of the file that says why a job failed."""
    return f"{files.short_name(job.name)}.error"


def left(found: Iterator[Job], out: Path) -> list[Job]:
    """The jobs without a result; what a killed process left half-written of theirs is taken away."""
    there = {path.name for path in out.iterdir()}
    open_jobs = [job for job in found if f"{job.name}.npz" not in there]
    own = {files.short_name(f"{job.name}.npz") for job in open_jobs}
    for name in there:
        if name.startswith(".") and name.endswith(".part") and name[1:].rsplit(".", 2)[0] in own:
            (out / name).unlink(missing_ok=True)
    return open_jobs
