"""What a live frame costs: the shipped model frame by frame, beside onnxruntime and a window run again at every frame.

    python benchmarks/stream.py [--model anny24-coco17] [--rounds 100] [--people 1 8 32]
    python benchmarks/stream.py --frames 1000000 [--alone] [--model tiny] [--chunk 1]

The first prints milliseconds per frame, median and 95th percentile over rounds, of the model alone and of
`kinlmr.recover` whole, each of the model (alone in inference mode) and of its snapshot (`LMR.live`); of the latter with
`kinlmr.to_world` after it; of onnxruntime's step of the same model, on as many threads, where it is installed
(`examples/export_onnx.py` makes the file); and of a window of 16 frames, which a method without state has to run again
at every frame; and how many of torch's operators a frame is. All run one after another in every round; the clock is
the process's CPU time (on CUDA, the wall's), the ratio the median of the rounds'.

The second streams so many frames through `recover` (with ``--alone`` the model), ``--chunk`` at a time, while
one of two people leaves and another comes every thousand frames, and prints the memory of the process and the tensors
alive. ``tiny`` is a random model of a few thousand parameters.
"""

import argparse
import gc
import importlib.util
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from engine import interleaved, machine
from torch.utils._python_dispatch import TorchDispatchMode

import kinlmr

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from export_onnx import exported

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
    points = model.options.features // 3
    places = torch.rand(people, 1, points, 2) * torch.tensor([60, 180]) + 3 * torch.randn(people, frames, points, 2)
    return torch.cat([places + 200, torch.full((people, frames, points, 1), 0.9)], -1).to(device)


def streamer(job: Callable[[int, Any], Any], frames: int) -> Callable[[], None]:
    """Calls the job with the next frame's number and its last state."""
    frame, state = -1, None

    def run() -> None:
        nonlocal frame, state
        frame = (frame + 1) % frames
        state = job(frame, state)

    return run


def standing(live: kinlmr.model.Live, x: torch.Tensor) -> Callable[[int, Any], Any]:
    """A frame recovered, and put into the world."""

    def job(t: int, states: Any) -> Any:
        state, world = states or (None, kinlmr.WorldState.initial(len(x)).to(x.device))
        recovery, state = kinlmr.recover(live, x[:, t : t + 1], FPS, state)
        _, world = kinlmr.to_world(recovery, FPS, (640, 480), 800, keypoints=x[:, t : t + 1], state=world)
        return state, world

    return job


class Operators(TorchDispatchMode):
    """Counts torch's operators."""

    count = 0

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), options: Any = None) -> Any:
        self.count += 1
        return operator(*args, **(options or {}))


def by_onnxruntime(model: kinlmr.LMR, threads: int) -> Callable[[torch.Tensor, Any], Any] | None:
    """The step of the model's ONNX file: a frame (B, F) and the last memory, None at first -> memory after."""
    if importlib.util.find_spec("onnxruntime") is None or next(model.parameters()).is_cuda:
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(exported(model), options, providers=["CPUExecutionProvider"])

    def step(frame: torch.Tensor, memory: Any) -> Any:
        memory = model.initial_state(len(frame)).memory.numpy() if memory is None else memory
        return session.run(None, {"frame": frame.numpy(), "memory": memory})[-1]

    return step


def latency(args: argparse.Namespace) -> None:
    model = load(args.model, args.device)
    live, other = model.live(), by_onnxruntime(model, args.threads)
    print(f"\n| {args.model}, a frame of | ms | 95th percentile | over the model's step | operators |")
    print("|---|---|---|---|---|")
    for people in args.people:
        x = seen(model, people, 4 * WINDOW, args.device)
        features, _, _ = kinlmr.keypoints.normalise(x)
        steps: dict[str, Callable[[int, Any], Any]] = {
            "model.step": torch.inference_mode()(lambda t, state, x=features: model.step(x[:, t], state)[1]),
            "model.live().step": lambda t, state, x=features: live.step(x[:, t], state)[1],
            "recover": lambda t, state, x=x: kinlmr.recover(model, x[:, t : t + 1], FPS, state)[1],
            "recover, live": lambda t, state, x=x: kinlmr.recover(live, x[:, t : t + 1], FPS, state)[1],
            "recover and to_world, live": standing(live, x),
            f"recover, a window of {WINDOW}": lambda t, _, x=x: (
                kinlmr.recover(model, x[:, t : t + WINDOW], FPS) and None
            ),
        }
        if other:
            steps["onnxruntime's step"] = lambda t, memory, x=features: other(x[:, t], memory)
        jobs = {name: streamer(job, 3 * WINDOW) for name, job in steps.items()}
        figures = interleaved(jobs, args.rounds, 1, args.device, "model.step")
        who = "1 person" if people == 1 else f"{people} people"
        for name, one in figures.items():
            with Operators() as operators:
                jobs[name]()
            cells = f"{one['ms']:.2f} | {one['late']:.2f} | {1 / one['ratio']:.2f}x | {operators.count or '-'}"
            print(f"| {who}, {name} | {cells} |", flush=True)


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
    print(machine(args.device))
    (memory if args.frames else latency)(args)


if __name__ == "__main__":
    main()
