"""What lets a run share its work between processes, and survive: places, signals, dead processes, full disks.

Processes are found as torchrun starts them (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR). srun's own variables do too,
where the batch script says which machine is the first:

    export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    srun --kill-on-bad-exit=1 python examples/train.py ...
"""

import csv
import io
import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, distributed

from kinlmr import files

# The exit code of each signal that ends a run. Queues warn with SIGUSR1 or SIGTERM.
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143} | {
    getattr(signal, n): 143 for n in ("SIGUSR1",) if hasattr(signal, n)
}
PATIENTLY = 10  # seconds that the others give torchrun or srun to name the process that died


class Place(NamedTuple):
    """This process among the others: its rank of ``world``, and its number on this machine."""

    rank: int = 0
    world: int = 1
    local: int = 0


def place() -> Place:
    """By torchrun's variables, or by srun's where MASTER_ADDR is set; else alone."""
    own = os.environ
    if "RANK" not in own and {"MASTER_ADDR", "SLURM_PROCID", "SLURM_NTASKS"} <= own.keys():
        own["RANK"], own["WORLD_SIZE"] = own["SLURM_PROCID"], own["SLURM_NTASKS"]
        own["LOCAL_RANK"] = own.get("SLURM_LOCALID", "0")
        own.setdefault("MASTER_PORT", "29500")
    return Place(*(int(own.get(name, usual)) for name, usual in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))))


@contextmanager
def joined(own: Place, device: str, wait: timedelta | None = None) -> Iterator[None]:
    """The processes as a group: NCCL on GPUs, gloo on CPUs. wait: how long one waits for another at most."""
    if own.world == 1:
        yield
        return
    print(f"rank {own.rank} of {own.world}: process {os.getpid()} on {socket.gethostname()}", flush=True)
    distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=wait)
    yield
    distributed.destroy_process_group()
    time.sleep(0.1)  # gloo's threads may hold the last tensors a little longer, and abort if Python ends meanwhile


def reduced(value: Tensor, how: str = "SUM") -> Tensor:
    """A tensor summed over all processes (or "MAX"), in place.

    Where a process died the others cannot go on. They say so and wait a little, so that torchrun or srun finds and
    names the one that died, and not them.
    """
    if distributed.is_initialized():
        try:
            distributed.all_reduce(value, getattr(distributed.ReduceOp, how))
        except RuntimeError as error:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            why = str(error).split("] ", 1)[-1].split(". ")[0]
            print(f"\nrank {distributed.get_rank()}: another process died, its rank is named below ({why})", flush=True)
            time.sleep(PATIENTLY)
            raise SystemExit(1) from None
    return value


def average_gradients(parameters: list[torch.nn.Parameter], parts: int) -> None:
    """Turn the sum of the gradients of some of a batch's parts, in each process, into the mean of all of them."""
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = reduced(torch.cat([g.flatten() for g in grads])) / parts
    for grad, mean in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        grad.copy_(mean.view_as(grad))


@contextmanager
def signals() -> Iterator[list[int]]:
    """The exit codes of the signals that came, instead of a sudden end. More of them change nothing."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda n, _: came.append(CODES[signal.Signals(n)])) for number in CODES}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def saved(write: Callable[[], None], out: Path, step: int) -> bool:
    """Write into ``out``; where the disk does not take it, say so. Every file stays whole: the old one or the new."""
    try:
        write()
    except OSError as error:
        what = f"step {step} could not be saved: {error}; every file in {out} is whole, of this step or of before"
        print(f"\n{what}", file=sys.stderr, flush=True)
        return False
    return True


def save_curve(out: Path, rows: list[dict[str, float]], title: str) -> None:
    """What was measured as it went, as numbers (curve.csv) and, with matplotlib, all but the loss as curve.png."""
    if not rows:
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_atomic(out / "curve.csv", text.getvalue().encode())
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return
    figure = Figure(figsize=(8, 4), layout="tight")
    ax = figure.add_subplot(xlabel="steps", ylabel="mm", title=title)
    for key in list(rows[0])[2:]:
        ax.plot([row["step"] for row in rows], [row[key] for row in rows], label=key)
    ax.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=90)
    files.write_atomic(out / "curve.png", picture.getvalue())


def tidied(out: Path) -> None:
    """Take away what writers that were killed left half-written beside their files (`kinlmr.files.write_atomic`)."""
    for piece in out.glob(".*.part"):
        piece.unlink(missing_ok=True)


def command(own: Place) -> str:
    """What starts this run again."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", own.world))
    nodes = ["--nnodes", str(own.world // local)] if own.world > local else []
    srun = "LOCAL_WORLD_SIZE" not in os.environ and "SLURM_PROCID" in os.environ
    several = ["srun", "python"] if srun else ["torchrun", *nodes, "--nproc-per-node", str(local)]
    return shlex.join([*(several if own.world > 1 else ["python"]), *sys.argv])


class Progress:
    """A bar on a terminal; a line for every hundred steps in a log."""

    def __init__(self, steps: int, done: int) -> None:
        self.steps, self.first, self.began = steps, done, time.monotonic()

    def __call__(self, step: int, loss: float) -> None:
        pace = (step - self.first) / max(time.monotonic() - self.began, 1e-9)
        text = f"step {step}/{self.steps}  loss {loss:.4f}  {pace:.1f} steps/s"
        if sys.stderr.isatty():
            print(f"\r[{'#' * (20 * step // self.steps):20}] {text}   ", end="", file=sys.stderr, flush=True)
        elif step % 100 == 0:
            print(text, flush=True)
