"""What a live frame costs: the shipped model frame by frame, against a window of 16 frames run again at every frame.

    python benchmarks/stream.py [--model anny24-coco17] [--rounds 100] [--people 1 8 32]
    python benchmarks/stream.py --frames 1000000 [--alone] [--model tiny] [--chunk 1]

The first prints milliseconds per frame, median and 95th percentile over rounds, of `kinlmr.recover` whole and of the
model alone (`model.step`). Both and their windows (what a method without state has to do to answer at every frame) run
one after another in every round; the clock is the process's CPU time (on CUDA, the wall's), the ratio the median of
the rounds'.

The second streams so many frames through `recover` (with ``--alone`` the model), ``--chunk`` at a time, while
one of two people leaves and another comes every thousand frames, and prints the memory of the process and the tensors
alive. ``tiny`` is a random model of a few thousand parameters.
"""

import argparse
import gc
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from engine import interleaved

import kinlmr

WINDOW, FPS, STAY = 16, 30.0, 1000


def load(name: str, device: str) -> kinlmr.LMR:
    if name != "tiny":
        return kinlmr.load(name).to(device).eval()
    torch.manual_seed(0)
    body = "anny24_lo369"
    sizes = {"hidden": 8, "shape_hidden": 8, "iterations": 1}
    return kinlmr.build("smpl_single.yaml", keypoints="coco17", body=body, **sizes).to(device).eval()


def seen(model: kinlmr.LMR, people: int, frames: int, device: str) -> torch.Tensor:
    """Keypoints (B, T, K, 3) of people who stand, with noise of a few pixels."""
    points = model.options["features"] // 3
    places = torch.rand(people, 1, points, 2) * torch.tensor([60, 180]) + 3 * torch.randn(people, frames, points, 2)
    return torch.cat([places + 200, torch.full((people, frames, points, 1), 0.9)], -1).to(device)


def streamer(job: Callable[[int, Any], Any], frames: int) -> Callable[[], None]:
    """Calls the job with the next frame's number and its last state."""
    frame, state = -1, None

    def run() -> None:
        nonlocal frame, state
        frame = (frame + 1) % frames
        with torch.inference_mode():
            state = job(frame, state)

    return run


def latency(args: argparse.Namespace) -> None:
    model = load(args.model, args.device)
    print(f"\n| {args.model}, a frame of | ms | 95th percentile | window of {WINDOW}, ms | 95th percentile | less |")
    print("|---|---|---|---|---|---|")
    for people in args.people:
        x = seen(model, people, 4 * WINDOW, args.device)
        features, _, _ = kinlmr.keypoints.normalise(x)
        pairs: dict[str, tuple[Callable[[int, Any], Any], Callable[[int, Any], Any]]] = {
            "recover": (
                lambda t, state, x=x: kinlmr.recover(model, x[:, t : t + 1], FPS, state)[1],
                lambda t, _, x=x: kinlmr.recover(model, x[:, t : t + WINDOW], FPS) and None,
            ),
            "the model alone": (
                lambda t, state, x=features: model.step(x[:, t], state)[1],
                lambda t, _, x=features: model(x[:, t : t + WINDOW]) and None,
            ),
        }
        for name, (one, window) in pairs.items():
            jobs = {"stream": streamer(one, 3 * WINDOW), "window": streamer(window, 3 * WINDOW)}
            figures = interleaved(jobs, args.rounds, 1, args.device, "window")
            cells = " | ".join(f"{figures[job]['ms']:.2f} | {figures[job]['late']:.2f}" for job in jobs)
            who = "1 person" if people == 1 else f"{people} people"
            print(f"| {who}, {name} | {cells} | {figures['stream']['ratio']:.1f}x |", flush=True)


@torch.inference_mode()
def memory(args: argparse.Namespace) -> None:
    model = load(args.model, args.device)
    x = seen(model, 2, 100 * args.chunk, args.device)
    features, _, _ = kinlmr.keypoints.normalise(x)
    fresh: Callable[[int], Any] = (
        model.initial_state if args.alone else lambda people: kinlmr.RecoveryState.initial(model, people)
    )
    state, began, done, first = fresh(2), time.perf_counter(), 0, 0.0
    marks = sorted({min(args.frames, 5000), *(args.frames * k // 10 for k in range(1, 11))})
    print("\n| frames | memory, MB | growth, MB | tensors alive | ms per frame |\n|---|---|---|---|---|")
    for mark in marks:
        while done < mark:
            at = done % (99 * args.chunk)
            if done // STAY < (done + args.chunk) // STAY:
                state = kinlmr.concat([state.select([1]), fresh(1)])
            if args.alone:
                _, state = model(features[:, at : at + args.chunk], state=state)
            else:
                _, state = kinlmr.recover(model, x[:, at : at + args.chunk], FPS, state)
            done += args.chunk
        gc.collect()
        alive = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
        now = resident()
        first = first or now
        each = (time.perf_counter() - began) / done * 1e3
        print(f"| {done:,} | {now:.1f} | {now - first:+.1f} | {alive} | {each:.2f} |", flush=True)


def resident() -> float:
    """MB of memory that the process holds now; where the system does not say, the most that it ever held."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmRSS:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a shipped model's name or a checkpoint; tiny")
    parser.add_argument("--people", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--frames", type=int, help="stream so many, and print the memory")
    parser.add_argument("--chunk", type=int, default=1, help="frames a call, of --frames")
    parser.add_argument("--alone", action="store_true", help="the model without recover, of --frames")
    args = parser.parse_args()
    args.model = args.model or ("tiny" if args.frames else "anny24-coco17")
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {args.device}, {args.threads} thread(s)")
    (memory if args.frames else latency)(args)


if __name__ == "__main__":
    main()
