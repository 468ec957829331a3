"""Keypoints of many videos in, bodies out: a manifest, an .npz for each line, by as many processes as there are.

    python examples/recover_many.py MANIFEST --out DIR
    torchrun --nproc-per-node N examples/recover_many.py MANIFEST --out DIR

A line of the manifest is one JSON object; paths are relative to the manifest's folder:

    keypoints   a file or folder of another detector, in a format of examples/README.md
    fps         frames per second
    name        of the result, NAME.npz; else the name of the keypoints' file
    set         one of kinlmr's keypoint sets, or body25b, where the number of points does not tell
    size        (width, height) of the video, which shares of the picture need, such as MediaPipe's landmarks
    frames      how many the video has, which tells whether a list of those with people counts them from 0 or from 1

NAME.npz has P people in T frames: pose (P, T, J, 3) as axis-angle, each joint's relative to its parent, the root's to
the camera; shape (P, T, S), camera (P, T, 3) and box (P, T, 3) as `kinlmr.Recovery`; fps, set, joints. NaN where a
person was not seen for a second or more. What was assumed of a file is printed. What cannot be recovered is passed
over, NAME.error (of a very long name, its SHA-256) says why, and the exit code is 1; it is tried again the next time.

A result is written whole or not at all, and what is there is not done again: kill it at any moment and start it again,
with another N too. A process takes every N-th line (RANK of WORLD_SIZE; a job array may set these two alone); on a
machine with GPUs they share these. Sequences of one rate run side by side in batches, which is several times as fast as
one at a time (docs/scale.md).
"""

import argparse
import contextlib
import errno
import io
import os
import resource
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import runs
import torch
from manifest import Job, error_of, jobs, left
from numpy.typing import NDArray
from torch import Tensor

import kinlmr
from kinlmr import files, keypoints, rotations
from kinlmr.video import readers

Array = NDArray[Any]
MODEL = "anny24-coco17"
AWAY = 1.0  # seconds without keypoints after which a person is followed no longer, and then starts afresh
CHUNK = 64  # frames at once
NO_NAME = errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ
MOST = 200_000  # frames of a batch: about 60 MB of keypoints, and 100 MB of results


class Track(NamedTuple):
    """One person from the first frame that is seen to the last: frames ``start`` on, keypoints (T, K, 3)."""

    person: int
    start: int
    keypoints: Array


class Sequence(NamedTuple):
    """What was read for a job: how many people and frames, and their tracks."""

    job: Job
    people: int
    frames: int
    tracks: list[Track]


class Done(NamedTuple):
    """Sequences, their frames (of every person), how many failed, bytes read and written, seconds of CPU."""

    sequences: float = 0
    frames: float = 0
    failed: float = 0
    read: float = 0
    written: float = 0
    cpu: float = 0


# ------------------------------------------------------------------------------------------------------------- the work


def tell(job: Job, text: str) -> None:
    """Print what is to be said of a job, whatever letters its name has."""
    print(f"{job.name}: {text}".encode(errors="backslashreplace").decode(), file=sys.stderr, flush=True)


def opened(job: Job, target: str) -> Sequence:
    """Read the keypoints of a job, as tracks of the set ``target``. ValueError, OSError: they are not good."""
    if job.wrong:
        raise ValueError(job.wrong)
    found = readers.read(job.keypoints, job.size, target, job.fps, job.frames, job.set)
    for note in found.notes:
        tell(job, note)
    x = found.keypoints
    keypoints.check_keypoints(torch.from_numpy(x))
    tracks = []
    for person, rows in enumerate(x):
        seen = np.flatnonzero((rows[..., 2] > 0).sum(1) > 1)
        if len(seen):
            for frames in np.split(seen, np.flatnonzero(np.diff(seen) > AWAY * job.fps) + 1):
                tracks.append(Track(person, int(frames[0]), rows[frames[0] : frames[-1] + 1]))
    if not tracks:
        raise ValueError(f"{job.keypoints}: nobody is seen in its {x.shape[1]} frames")
    return Sequence(job, x.shape[0], x.shape[1], tracks)


def recovered(model: kinlmr.LMR, tracks: list[Array], fps: float) -> list[kinlmr.Recovery]:
    """Keypoints (T, K, 3) of several people, the longest first -> their recoveries, as each alone has to rounding.

    They run side by side, `CHUNK` frames at a time; whose keypoints are over leaves.
    """
    parts: list[list[kinlmr.Recovery]] = [[] for _ in tracks]
    state = None
    for begin in range(0, len(tracks[0]), CHUNK):
        alive = [track[begin : begin + CHUNK] for track in tracks if len(track) > begin]
        rows = np.zeros((len(alive), len(alive[0]), *tracks[0].shape[1:]), np.float32)
        for row, track in zip(rows, alive, strict=True):
            row[: len(track)] = track
        state = None if state is None else first(state, len(alive))
        found, state = kinlmr.recover(model, torch.from_numpy(rows).to(model.start.pose.device), fps, state)
        for i, track in enumerate(alive):
            parts[i].append(kinlmr.Recovery(*(part[i, : len(track)] for part in found)))
    return [kinlmr.Recovery(*map(torch.cat, zip(*own, strict=True))) for own in parts]


def first(state: Any, count: int) -> Any:
    """The first rows of a state's tensors."""
    if isinstance(state, Tensor):
        return state[:count]
    return type(state)(*(first(part, count) for part in state))


def arrays(sequence: Sequence, found: list[kinlmr.Recovery], model: kinlmr.LMR) -> dict[str, Array]:
    """What is written of a sequence, from the recoveries of its tracks."""
    out: dict[str, Array] = {}
    for track, recovery in zip(sequence.tracks, found, strict=True):
        pose = rotations.matrix_to_axis_angle(recovery.rotations)
        for name, value in {"pose": pose, **recovery._asdict()}.items():
            if name == "rotations":
                continue
            if name not in out:
                out[name] = np.full((sequence.people, sequence.frames, *value.shape[1:]), np.nan, np.float32)
            out[name][track.person, track.start : track.start + len(value)] = value.cpu().numpy()
    names = {"fps": sequence.job.fps, "set": model.options["keypoints"], "joints": model.plan.skeleton.joints}
    return out | {name: np.array(value) for name, value in names.items()}


class Worker:
    """A model, and what it does with jobs: read, recovered side by side, written."""

    def __init__(self, out: Path, model: str = MODEL, device: str = "cpu") -> None:
        self.model, self.out = kinlmr.load(model).eval().to(device), out
        if "keypoints" not in self.model.options:
            raise ValueError(f"{model} does not say which keypoints it takes; build it with keypoints=")
        self.done, self.began = Done(), time.process_time()

    def timed(self) -> Done:
        """What was done since the start or the last call, with the CPU's time."""
        now = time.process_time()
        done, self.done, self.began = self.done._replace(cpu=now - self.began), Done(), now
        return done

    def open(self, job: Job) -> Sequence | None:
        """A job's keypoints, or None where they are not good, which its .error then says."""
        path = job.keypoints
        try:
            sequence = opened(job, self.model.options["keypoints"])
            size = sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size
        except Exception as error:  # a stranger's file can be wrong in any way, and must not end the run
            self.fail(job, error)
            return None
        self.done = self.done._replace(read=self.done.read + size)
        return sequence

    def fail(self, job: Job, error: Exception) -> None:
        text = str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
        with contextlib.suppress(ValueError):
            self.write(error_of(job), f"{text}\n".encode(errors="backslashreplace"))
        tell(job, text)
        self.done = self.done._replace(failed=self.done.failed + 1)

    def write(self, name: str, data: bytes) -> None:
        try:
            files.write_atomic(self.out / name, data)
        except OSError as error:
            if error.errno in NO_NAME:
                raise ValueError(f"{name!r} is no name for a file here ({error.strerror})") from None
            raise OSError(f"{self.out / name} is not written ({error}); make room, and start the same again") from None

    def work(self, batch: list[Sequence]) -> None:
        """Recover and write sequences of one rate; where they do not go together, each by itself."""
        tracks = [(len(t.keypoints), i, k) for i, s in enumerate(batch) for k, t in enumerate(s.tracks)]
        order = sorted(tracks, reverse=True)
        try:
            rows = recovered(self.model, [batch[i].tracks[k].keypoints for _, i, k in order], batch[0].job.fps)
        except (ValueError, RuntimeError) as error:
            if len(batch) == 1:
                self.fail(batch[0].job, error)
            else:
                for sequence in batch:
                    self.work([sequence])
            return
        found = {(i, k): row for (_, i, k), row in zip(order, rows, strict=True)}
        for i, sequence in enumerate(batch):
            own = [found[i, k] for k in range(len(sequence.tracks))]
            buffer = io.BytesIO()
            np.savez(buffer, **arrays(sequence, own, self.model))  # type: ignore[arg-type]
            try:
                self.write(f"{sequence.job.name}.npz", data := buffer.getvalue())
            except ValueError as error:
                self.fail(sequence.job, error)
                continue
            (self.out / error_of(sequence.job)).unlink(missing_ok=True)  # of an earlier run
            done, frames = self.done, sum(len(t.keypoints) for t in sequence.tracks)
            self.done = done._replace(
                sequences=done.sequences + 1, frames=done.frames + frames, written=done.written + len(data)
            )


def batches(worker: Worker, todo: list[Job], rows: int) -> Iterator[list[Sequence]]:
    """Sequences of one rate together, of about ``rows`` people and `MOST` frames at most."""
    waiting: dict[float, list[Sequence]] = {}
    for job in todo:
        if (sequence := worker.open(job)) is None:
            continue
        batch = waiting.setdefault(job.fps, [])
        batch.append(sequence)
        tracks = [track for held in batch for track in held.tracks]
        if len(tracks) >= rows or sum(len(track.keypoints) for track in tracks) >= MOST:
            yield waiting.pop(job.fps)
    yield from waiting.values()


def main(argv: list[str] | None = None) -> int:
    args, own = arguments(argv), runs.place()
    torch.set_num_threads(args.threads)
    device = f"cuda:{own.local % torch.cuda.device_count()}" if args.device == "cuda" else args.device
    group = own if "MASTER_ADDR" in os.environ else runs.Place()  # a job array's processes do not know one another
    with runs.joined(group, "cpu", timedelta(days=30)):
        args.out.mkdir(parents=True, exist_ok=True)
        worker, todo = Worker(args.out, args.model, device), left(jobs(args.manifest, own.rank, own.world), args.out)
        print(f"rank {own.rank} of {own.world}: {len(todo)} sequences to do", flush=True)
        began = told = time.perf_counter()
        for batch in batches(worker, todo, args.rows):
            worker.work(batch)
            if (now := time.perf_counter()) - told > 10:
                told, done = now, worker.done
                pace = f"{done.frames / (now - began):.0f} frames/s"
                print(f"rank {own.rank}: {done.sequences + done.failed:.0f} of {len(todo)}, {pace}", flush=True)
        spent = torch.tensor([time.perf_counter() - began, memory()], dtype=torch.float64)
        done = Done(*runs.reduced(torch.tensor(worker.timed(), dtype=torch.float64)).tolist())
        seconds, most = runs.reduced(spent, "MAX").tolist()
    if group.rank == 0:
        print(report(done, seconds, group.world, args.out) + f"; at most {most:.0f} MB of memory each")
    return 1 if done.failed else 0


def report(done: Done, seconds: float, processes: int, out: Path) -> str:
    failed = f"; {done.failed:.0f} failed, {out}/*.error say why" if done.failed else ""
    return (
        f"{done.sequences:.0f} sequences, {done.frames:.0f} frames in {seconds:.1f} s by {processes} processes: "
        f"{done.sequences / seconds:.2f} sequences/s, {done.frames / seconds:.0f} frames/s, "
        f"{done.frames / max(done.cpu, 1e-9):.0f} for a second of CPU; "
        f"read {done.read / 1e6:.1f} MB, wrote {done.written / 1e6:.1f} MB{failed}"
    )


def memory() -> float:
    """The most that this process had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="JSON lines")
    parser.add_argument("--out", type=Path, required=True, help="a folder for the results")
    parser.add_argument(
        "--model", default=MODEL, help="a shipped model's name, or a checkpoint with keypoints= (%(default)s)"
    )
    parser.add_argument(
        "--rows", type=int, default=64, help="people at once, about (%(default)s): more are faster and take more memory"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="%(default)s here")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU, for every process (%(default)s)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        sys.exit(str(error))
