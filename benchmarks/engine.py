"""The engine against the LMR that one would write with torch.nn, a single RNN of equal parameters, and VIBE's shape.

    python benchmarks/engine.py [--hidden 512] [--features 2048] [--threads 1] [--rounds 9] [--growth] [--json J]

All contenders run in one process, one after another in every round; each figure is the median over rounds of the
process's CPU time (on CUDA, of the wall clock), each ratio the median of that round's naive time over that round's.
Naive (benchmarks/baselines.py) computes the same numbers
from the same parameters. Floors are multiply-adds over the rate of a product of 1024 x 1024 here, and in a stream the
weights' bytes over the rate of reading them, both measured in the same run. Memory is what autograd saves
for backward, and the growth of the process over one forward pass (on CUDA, the allocator's). --growth tells how
time grows with frames, parts, joints and iterations instead, --compile what torch.compile and bfloat16 weights gain. On
CUDA both compute in float32, cuDNN too, and a second table has graphs and TF32; KINLMR_TRITON=0 before the command
measures kinlmr without its Triton kernels (kinlmr/kernels/halves.py).
"""

import argparse
import itertools
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from baselines import Naive, SingleRNN, Vibe
from torch import Tensor, nn

import kinlmr
from kinlmr.engine.sweep import choose_block
from kinlmr.skeleton import Part, Skeleton

CLIPS, STREAMS = ((32, 16), (16, 16), (8, 64), (1, 16), (1, 300)), (1, 3, 8)


def contenders(hidden: int, features: int, device: str) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    model = kinlmr.build("smpl.yaml", features=features, hidden=hidden).to(device)
    parameters = sum(p.numel() for p in model.parameters())
    found = {"kinlmr": model, "naive": Naive(model), "single RNN": SingleRNN(features, 157, parameters)}
    found = {name: x.to(device).eval() for name, x in (found | {"VIBE-shaped": Vibe(features)}).items()}
    for module in (m for x in found.values() for m in x.modules() if isinstance(m, nn.RNNBase)):
        module.train()  # else cuDNN has no backward; they have no dropout
    return found


def agree(found: dict[str, nn.Module], features: int, device: str) -> float:
    """The largest difference of the naive LMR's values from kinlmr's."""
    x = torch.randn(2, 7, features, device=device)
    with torch.no_grad():
        ours, theirs = found["kinlmr"](x), found["naive"](x)[0]
    pose = ours.pose[:, :, list(found["kinlmr"].plan.order)].flatten(2)
    return float((torch.cat([pose, ours.shape, ours.camera], -1) - theirs).abs().max())


def backward(network: nn.Module, x: Tensor) -> None:
    out = network(x)
    parts = out if isinstance(out, kinlmr.Estimate) else out[:1]
    sum(part.sum() for part in parts).backward()
    network.zero_grad()


def forward(network: nn.Module, x: Tensor) -> None:
    with torch.inference_mode():
        network(x)


def frame(network: nn.Module, x: Tensor) -> None:
    """The first of a stream (B, F)."""
    with torch.inference_mode():
        network.step(x) if hasattr(network, "step") else network(x[:, None])


def streamer(network: Any) -> Callable[[Any, Tensor], None]:
    """A function that takes one frame (B, F) more."""
    state: list[Any] = [None]

    def step(network: Any, x: Tensor) -> None:
        with torch.inference_mode():
            _, state[0] = network.step(x, state[0]) if hasattr(network, "step") else network(x[:, None], state[0])

    return step


def interleaved(
    jobs: dict[str, Callable[[], None]], rounds: int, repeat: int, device: str, base: str = "naive"
) -> dict[str, Any]:
    """Of each job: milliseconds, and the ratio of the base's to them, medians over rounds; ``late``, the milliseconds'
    95th percentile, and ``spread``, the ratio's 5th and 95th."""
    sync, clock = _clock(device)
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for round in range(rounds + 1):
        for name, job in jobs.items():
            sync()
            began = clock()
            for _ in range(repeat):
                job()
            sync()
            if round:  # the first warms up
                times[name].append((clock() - began) / repeat * 1e3)
    found: dict[str, Any] = {}
    for name, own in times.items():
        ratios = sorted(n / t for n, t in zip(times[base], own, strict=True))
        last = len(own) - 1
        found[name] = {
            "ms": statistics.median(own), "late": sorted(own)[int(0.95 * last)], "ratio": statistics.median(ratios),
            "spread": (ratios[math.floor(0.05 * last)], ratios[math.ceil(0.95 * last)]),
        }  # fmt: skip
    return found


def told(figure: dict[str, Any]) -> str:
    """A ratio and its spread in words."""
    low, high = figure["spread"]
    return f"{figure['ratio']:.2f}x ({low:.2f} to {high:.2f})"


def machine(device: str) -> str:
    """What the figures are of, in a line."""
    cpu = Path("/proc/cpuinfo")
    names = (
        [line.partition(": ")[2] for line in cpu.read_text().splitlines() if "model name" in line]
        if cpu.exists()
        else []
    )
    chip = torch.cuda.get_device_name() if device.startswith("cuda") else names[0] if names else platform.processor()
    load = ", load " + " ".join(f"{x:.1f}" for x in os.getloadavg()) if hasattr(os, "getloadavg") else ""
    return (
        f"torch {torch.__version__}, {chip}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s){load}, "
        f"kinlmr {kinlmr.__version__}"
    )


def _clock(device: str) -> tuple[Callable[[], None], Callable[[], float]]:
    """What waits for the device, and its clock: on a CPU the process's own seconds, which other jobs disturb less."""
    if device.startswith("cuda"):
        return torch.cuda.synchronize, time.perf_counter
    return lambda: None, time.process_time


def rates(device: str) -> tuple[float, float]:
    """Multiply-adds per ms of a 1024 x 1024 product, and bytes read per ms from 256 MB: the best of 20."""
    a, b = torch.randn(2, 1024, 1024, device=device)
    big = torch.randn(2**26, device=device)
    sync, clock = _clock(device)
    best = [float("inf")] * 2
    for _ in range(20):
        for i, job in enumerate((lambda: a @ b, lambda: big.sum())):
            sync()
            began = clock()
            job()
            sync()
            best[i] = min(best[i], (clock() - began) * 1e3)
    return 1024**3 / best[0], 2**28 / best[1]


def work(model: kinlmr.LMR) -> tuple[int, int]:
    """Multiply-adds of a frame, and the bytes of all weights: what features say counts once, the rest V times."""
    weights = [p for p in model.parameters() if p.ndim == 2]
    seen = sum(p.shape[0] for name, p in model.named_parameters() if name.endswith(("weight_ih_l0", "fc1.weight")))
    once, whole = seen * model.options.features, sum(p.numel() for p in weights)
    return once + model.options.iterations * (whole - once), 4 * whole


def saved(network: nn.Module, x: Tensor) -> float:
    """MB that autograd keeps for backward, without parameters and features."""
    known = {p.untyped_storage().data_ptr() for p in network.parameters()} | {x.untyped_storage().data_ptr()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = network(x)
    del out
    return sum(kept.values()) / 2**20


def peak_here(name: str, hidden: int, features: int, batch: int, frames: int, device: str) -> float:
    """MB that a forward pass adds to this process at its highest."""
    network = contenders(hidden, features, device)[name]
    x = torch.randn(batch, frames, features, device=device)
    forward(network, x[:, :2])
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        forward(network, x)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    status = lambda key: int(Path("/proc/self/status").read_text().split(key)[1].split()[0]) / 1024  # noqa: E731
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = status("VmRSS:")
    forward(network, x)
    return status("VmHWM:") - before


def peak(name: str, args: argparse.Namespace, batch: int, frames: int) -> float:
    options = "--hidden", "--features", "--threads", "--device"
    given = [str(x) for key in options for x in (key, getattr(args, key[2:]))]
    command = [sys.executable, __file__, *given, "--peak", name, str(batch), str(frames)]
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}  # what is freed goes back
    return float(subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout)


def compare(args: argparse.Namespace) -> list[dict[str, Any]]:
    found, rows = contenders(args.hidden, args.features, args.device), []
    difference = agree(found, args.features, args.device)
    per_ms, bytes_per_ms = rates(args.device)
    adds, weight_bytes = work(found["kinlmr"])
    sizes = ", ".join(f"{name} {sum(p.numel() for p in n.parameters()) / 1e6:.1f} M" for name, n in found.items())
    print(f"largest difference of naive from kinlmr {difference:.1e}; parameters {sizes}")
    print(f"{2 * per_ms / 1e6:.0f} GFLOP/s, {bytes_per_ms / 1e6:.1f} GB/s\n")
    names = " | ".join(f"{name}, ms" for name in found)
    print(f"| H = {args.hidden}, F = {args.features} | {names} | kinlmr over naive | over its floor |")
    print("|---|" + "---|" * (len(found) + 2))
    for batch, frames in CLIPS:
        x = torch.randn(batch, frames, args.features, device=args.device)
        for kind, job in (("forward", forward), ("forward+backward", backward)):
            jobs = {name: lambda job=job, n=network, x=x: job(n, x) for name, network in found.items()}
            floor = max(batch * frames * adds / per_ms, weight_bytes / bytes_per_ms) * (3 if job is backward else 1)
            block = choose_block(batch, frames, args.hidden, job is backward, args.device.startswith("cuda"))
            case = f"{batch} x {frames} (C = {block}), {kind}"
            rows.append(row(case, interleaved(jobs, args.rounds, 1, args.device), floor))
    for batch in STREAMS:
        x = torch.randn(batch, args.features, device=args.device)
        arms = {**found, "live": found["kinlmr"].live()}
        steps = {name: streamer(network) for name, network in arms.items()}
        jobs = {name: lambda s=step, n=arms[name], x=x: s(n, x) for name, step in steps.items()}
        floor = max(batch * adds / per_ms, weight_bytes / bytes_per_ms)
        figures, who = interleaved(jobs, args.rounds, 10, args.device), "1 person" if batch == 1 else f"{batch} people"
        live = figures.pop("live")
        rows.append(row(f"stream, {who}, per frame", figures, floor))
        rows.append(row(f"stream, {who}, by model.live()", figures | {"kinlmr": live}, floor))
    x = torch.randn(32, 16, args.features, device=args.device)
    both = {name: found[name] for name in ("kinlmr", "naive")}
    for kind, values in (
        ("32 x 16, saved for backward", {name: saved(network, x) for name, network in both.items()}),
        ("32 x 16, peak of a forward pass", {name: peak(name, args, 32, 16) for name in both}),
        ("32 x 300, peak of a forward pass", {name: peak(name, args, 32, 300) for name in both}),
    ):
        ratio = values["kinlmr"] / values["naive"]
        print(f"| {kind}, MB | {values['kinlmr']:.0f} | {values['naive']:.0f} | | | {ratio:.2f} of naive | |")
        rows.append({"case": kind, **values})
    if args.device.startswith("cuda"):
        graphs(found, args)
    return rows


def row(case: str, figures: dict[str, Any], floor: float) -> dict[str, Any]:
    cells = " | ".join(f"{value['ms']:.2f}" for value in figures.values())
    ours = figures["kinlmr"]
    print(f"| {case} | {cells} | {told(ours)} | {ours['ms'] / floor:.2f}x |", flush=True)
    return {"case": case, "floor_ms": floor, **figures}


def graphs(found: dict[str, nn.Module], args: argparse.Namespace) -> None:
    """On CUDA: how many kernels a call launches; kinlmr and naive in a CUDA graph, in float32 and in TF32, and kinlmr
    with bfloat16 weights."""
    ours, naive = found["kinlmr"], found["naive"]
    x = torch.randn(32, 16, args.features, device=args.device)
    for name, network in (("kinlmr", ours), ("naive", naive)):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            forward(network, x)
        print(f"{name}: {sum(e.device_time_total > 0 for e in profile.events())} kernels for a forward pass of 32 x 16")
    print(f"\n| H = {args.hidden}, F = {args.features}, in a CUDA graph | kinlmr, ms | naive, ms | kinlmr over naive |")
    print("|---|---|---|---|")
    for precision in ("highest", "high"):
        with_precision(precision)
        for case, size, job in (
            *((f"{b} x {t}, {name}", (b, t), job) for b, t in CLIPS for name, job in
              (("forward", forward), ("forward+backward", backward)) if t < 300 or job is forward),
            ("one frame of 1 person", (1,), frame),
        ):  # fmt: skip
            x = torch.randn(*size, args.features, device=args.device)
            jobs = {n: captured(lambda m=found[n], x=x, j=job: j(m, x)) for n in ("kinlmr", "naive")}
            kept = interleaved(jobs, args.rounds, 10, args.device)
            name = "float32" if precision == "highest" else "TF32"
            cells = " | ".join(f"{kept[n]['ms']:.3f}" for n in jobs)
            print(f"| {case}, {name} | {cells} | {kept['kinlmr']['ratio']:.2f}x |", flush=True)
    half = contenders(args.hidden, args.features, args.device)["kinlmr"]
    half.weights_as(torch.bfloat16)
    x = torch.randn(32, 16, args.features, device=args.device)
    jobs = {"kinlmr": captured(lambda: forward(half, x)), "naive": captured(lambda: forward(naive, x))}
    kept = interleaved(jobs, args.rounds, 10, args.device)
    print(f"| 32 x 16, forward, bfloat16 weights | {kept['kinlmr']['ms']:.3f} | | {kept['kinlmr']['ratio']:.2f}x |")
    with_precision("highest")


def with_precision(name: str) -> None:
    """Of every product, cuDNN's too: "highest" is float32, "high" is TF32."""
    torch.set_float32_matmul_precision(name)
    torch.backends.cudnn.allow_tf32 = name != "highest"


def captured(job: Callable[[], None]) -> Callable[[], None]:
    """A job as a CUDA graph, after three calls that compile and allocate what it needs."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            job()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        job()
    return graph.replay


def compiled(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A clip's forward pass and a stream's frame, as they are, compiled, and with bfloat16 weights."""
    rows = []
    exact, half = (contenders(args.hidden, args.features, args.device)["kinlmr"] for _ in range(2))
    half.weights_as(torch.bfloat16)
    clip = torch.randn(32, 16, args.features, device=args.device)
    state = exact.initial_state(1)
    for case, x, job in (
        ("32 x 16, forward", clip, lambda model, x: model(x)),
        ("stream, 1 person, per frame", clip[:1, 0], lambda model, x: model.step(x, state)[0]),
    ):
        fast = torch.compile(job, fullgraph=True)
        with torch.no_grad():
            began = time.perf_counter()
            fast(exact, x)
            seconds = time.perf_counter() - began
            truth = exact.matrices(job(exact, x))
            jobs = {
                "kinlmr": lambda j=job, x=x: j(exact, x),
                "compiled": lambda f=fast, x=x: f(exact, x),
                "bfloat16": lambda j=job, x=x: j(half, x),
            }
            figures = interleaved(jobs, args.rounds, 1 if x.ndim == 3 else 10, args.device, "kinlmr")
            error = float((half.matrices(job(half, x)) - truth).abs().max())
        plain, fast_one, small = (figures[name] for name in ("kinlmr", "compiled", "bfloat16"))
        print(f"{case}: {plain['ms']:.2f} ms; compiled {fast_one['ratio']:.2f}x, after {seconds:.0f} s of compiling")
        print(f"{case}: bfloat16 weights {small['ratio']:.2f}x, rotations differ by {error:.1e}", flush=True)
        rows.append({"case": case, "seconds": seconds, "error": error, **figures})
    return rows


def tree(joints: int, parts: int) -> Skeleton:
    """A root part and limbs that hang on it, of equal sizes."""
    names = [f"j{i}" for i in range(joints)]
    size = joints // parts
    groups = [names[i * size : (i + 1) * size if i < parts - 1 else None] for i in range(parts)]
    parents = {name: above for group in groups for above, name in itertools.pairwise(group)}
    parents |= {group[0]: names[0] for group in groups[1:]}
    split = tuple(Part(f"p{i}", tuple(group)) for i, group in enumerate(groups))
    return Skeleton("grown", tuple(names), tuple(parents.get(name) for name in names), split)


def growth(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Milliseconds per frame (of one clip of 64 frames), as one number grows."""
    rows = []

    def timed(what: str, value: Any, job: Callable[[], None], frames: int) -> None:
        figures = interleaved({"kinlmr": job}, max(3, args.rounds // 3), 1, args.device, "kinlmr")["kinlmr"]
        rows.append({"what": what, "value": value, "ms_per_frame": figures["ms"] / frames})
        print(f"| {what} | {value} | {figures['ms'] / frames:.3f} |", flush=True)

    def chunked(model: kinlmr.LMR, x: Tensor, size: int) -> None:
        state = model.initial_state(len(x))
        with torch.no_grad():
            for chunk in x.split(size, 1):
                _, state = model(chunk, state=state)

    print("| grows | to | ms per frame |\n|---|---|---|")
    model = kinlmr.build("smpl.yaml", features=51, hidden=128).to(args.device).eval()
    for frames in (10, 100, 1000, 10_000):
        x = torch.randn(1, frames, 51, device=args.device)
        timed("frames", frames, lambda x=x: forward(model, x), frames)
        if frames >= 1000:
            timed("frames, in chunks of 100", frames, lambda x=x: chunked(model, x, 100), frames)
    x = torch.randn(1, 64, 51, device=args.device)
    for parts in (1, 4, 16, 64):
        model = kinlmr.build(tree(64, parts), features=51, hidden=128).to(args.device).eval()
        timed("parts, of 64 joints", parts, lambda m=model: forward(m, x), 64)
    for joints in (24, 100, 400, 1000):
        model = kinlmr.build(tree(joints, 6), features=51, hidden=128).to(args.device).eval()
        timed("joints, in 6 parts", joints, lambda m=model: forward(m, x), 64)
    for iterations in (1, 2, 4, 8):
        model = kinlmr.build("smpl.yaml", features=51, hidden=128, iterations=iterations).to(args.device).eval()
        timed("iterations", iterations, lambda m=model: forward(m, x), 64)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--growth", action="store_true", help="how time grows, instead of the comparison")
    parser.add_argument("--compile", action="store_true", help="torch.compile and bfloat16, instead of the comparison")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with_precision("highest")
    if args.peak:
        name, batch, frames = args.peak
        print(peak_here(name, args.hidden, args.features, int(batch), int(frames), args.device))
        return
    print(f"{machine(args.device)}, {args.rounds} rounds")
    rows = (growth if args.growth else compiled if args.compile else compare)(args)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
