"""What a GPU does: meshes, a stream's frame, recover and to_world of many people, the recipe's training step.

    python benchmarks/gpu.py [--rounds 10]
    python benchmarks/gpu.py --device cpu --small

Four tables, each figure the median over rounds, with the 5th and 95th percentile of the ratios. Meshes and frames run
in a CUDA graph, in float32 and in TF32; the rest as it is called. ``--small`` takes sizes that a CPU does in seconds:
it tries the script, and says nothing of a GPU.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import body as bodies
import engine
import stream
import torch

import kinlmr
from kinlmr import motion
from kinlmr.motion import clips

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import networks
import runs
import train

RECORDINGS = Path(__file__).parents[1] / "examples/data/motion.npz"
SIZE, FOCAL = (640.0, 480.0), 700.0  # of the picture of `people`


def captured(job: Callable[[], Any], device: str) -> Callable[[], Any]:
    """A job as a CUDA graph; on a CPU as it is."""
    return engine.captured(job) if device.startswith("cuda") else job


def meshes(args: argparse.Namespace) -> None:
    run, batch = bodies.contenders(args.device)["kinlmr"]["mesh"], 64 if args.small else 16_384
    given, jobs = bodies.inputs(batch, args.device), {}
    print(f"\n| {batch:,} meshes from axis-angle | ms | M meshes a second | over float32 |\n|---|---|---|---|")
    for name, precision in (("float32", "highest"), ("TF32", "high")):
        engine.with_precision(precision)  # a graph keeps what it was captured with
        jobs[name] = captured(lambda: bodies.call(run, given, False, ()), args.device)
    for name, one in engine.interleaved(jobs, args.rounds, 5, args.device, "float32").items():
        print(f"| {name} | {one['ms']:.2f} | {batch / one['ms'] / 1e3:.3f} | {engine.told(one)} |", flush=True)
    engine.with_precision("highest")


def frames(args: argparse.Namespace) -> None:
    hidden, features = (32, 51) if args.small else (512, 2048)
    found = engine.contenders(hidden, features, args.device)
    found = {"model.step": found["kinlmr"], "model.live().step": found["kinlmr"].live(), "naive": found["naive"]}
    print(f"\n| H = {hidden}, F = {features}, a frame of | ms | over naive |\n|---|---|---|")
    for people in engine.STREAMS:
        x = torch.randn(people, features, device=args.device)
        jobs = {
            name: captured(lambda n=network, x=x: engine.frame(n, x), args.device) for name, network in found.items()
        }
        for name, one in engine.interleaved(jobs, args.rounds, 20, args.device).items():
            print(f"| {people}, {name} | {one['ms']:.3f} | {engine.told(one)} |", flush=True)


def people(args: argparse.Namespace) -> None:
    count, length = (4, 8) if args.small else (8192, 16)
    model = stream.load("anny24-coco17", args.device)
    keypoints = stream.seen(model, count, length, args.device)
    recovery, _ = kinlmr.recover(model, keypoints, stream.FPS)
    jobs: dict[str, Callable[[], Any]] = {
        "recover": lambda: kinlmr.recover(model, keypoints, stream.FPS),
        "to_world": lambda: kinlmr.to_world(recovery, stream.FPS, SIZE, FOCAL, keypoints=keypoints),
    }
    print(
        f"\n| {count:,} people, {length} frames | ms | frames of a person a second | over recover |\n|---|---|---|---|"
    )
    for name, one in engine.interleaved(jobs, min(args.rounds, 3), 1, args.device, "recover").items():
        print(
            f"| {name} | {one['ms']:.1f} | {count * length / one['ms'] * 1e3:,.0f} | {engine.told(one)} |", flush=True
        )


def training(args: argparse.Namespace) -> None:
    batch, length = 4 if args.small else 1024, train.WINDOW * train.WINDOWS
    body = kinlmr.load_body("anny24", keypoints="coco17")
    recordings = motion.load_motion(RECORDINGS, body)
    body, source = body.to(args.device), clips.bank(recordings, length).to(args.device)
    sizes = {"hidden": 32, "shape_hidden": 32} if args.small else {"hidden": 256, "shape_hidden": 128}
    run = train.Run(networks.model_of(sizes).to(args.device), {})
    generator, noise = torch.Generator().manual_seed(0), clips.ANY._replace(clean=train.CLEAN)
    clip = clips.sample(source, body, batch, length, generator, noise)
    jobs: dict[str, Callable[[], Any]] = {
        "clips sampled": lambda: clips.sample(source, body, batch, length, generator, noise),
        "steps": lambda: run.learn(clip, source, body, 100_000, 0, runs.Place()),
    }
    print(f"\n| the recipe, batch {batch:,}, {train.WINDOW} frames | ms a step | samples a second | over the steps |")
    print("|---|---|---|---|")
    for name, one in engine.interleaved(jobs, min(args.rounds, 5), 1, args.device, "steps").items():
        ms = one["ms"] / train.WINDOWS
        print(f"| {name} | {ms:.1f} | {batch / ms * 1e3:,.0f} | {engine.told(one)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--small", action="store_true", help="sizes that a CPU does in seconds")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(engine.machine(args.device))
    for table in (meshes, frames, people, training):
        table(args)


if __name__ == "__main__":
    main()
