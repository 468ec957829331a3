"""The body against smplx, smplfitter and body-models, on random arrays of SMPL's size.

    python benchmarks/body.py [--threads 1] [--device cpu] [--rounds 15] [--json out.json]

All libraries run in one process, one after another in every round; each figure is the median over rounds of the
process's CPU time (on CUDA, of the wall clock), each ratio the median of that round's smplx time over that round's.
Inputs are axis-angle vectors and shape numbers, as users have them. Peak memory is the growth of the process over one
call, in its own process (on CUDA, the allocator's). On CUDA times are in microseconds; KINLMR_TRITON=0 before the
command measures kinlmr without its Triton kernels.
"""

import argparse
import json
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from engine import interleaved, machine, rates, told

import kinlmr
from kinlmr.body.assembly import assemble
from kinlmr.rotations import axis_angle_to_matrix

JOINTS, VERTICES, SHAPE, POINTS = 24, 6890, 10, 23
BATCHES, MORE = (1, 32, 512), (4096, 16384)  # more: on CUDA
TASKS = ("mesh", "joints", "joints+23")


def smpl_sized() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Random arrays under SMPL's names, and a regressor of 23 keypoints, three vertices each."""
    rng = np.random.default_rng(0)
    smpl = kinlmr.load_skeleton("smpl.yaml")
    parents = [-1 if p is None else smpl.joints.index(p) for p in smpl.parents]
    weights, regressor = np.zeros((VERTICES, JOINTS)), np.zeros((JOINTS, VERTICES))
    for row in weights:
        row[rng.choice(JOINTS, 4, replace=False)] = rng.dirichlet(np.ones(4))
    for row in regressor:
        row[rng.choice(VERTICES, 20, replace=False)] = rng.dirichlet(np.ones(20))
    points = np.zeros((POINTS, VERTICES))
    for row in points:
        row[rng.choice(VERTICES, 3, replace=False)] = rng.dirichlet(np.ones(3))
    arrays = {
        "v_template": 0.4 * rng.standard_normal((VERTICES, 3)),
        "shapedirs": 0.01 * rng.standard_normal((VERTICES, 3, SHAPE)),
        "posedirs": 0.01 * rng.standard_normal((VERTICES, 3, 9 * (JOINTS - 1))),
        "weights": weights,
        "J_regressor": regressor,
        "kintree_table": np.array([parents, range(JOINTS)], dtype=np.int64),
        "f": rng.integers(0, VERTICES, (13776, 3)).astype(np.uint32),
    }
    return arrays, points


def contenders(device: str) -> dict[str, dict]:
    """library -> task -> a function of (axis-angle (B, 24, 3), shape (B, 10)) that gives a tuple of tensors."""
    arrays, rows = smpl_sized()
    regressor = torch.tensor(rows, dtype=torch.float32, device=device)
    body = (
        assemble(arrays, "random").with_keypoints([f"p{i}" for i in range(POINTS)], torch.from_numpy(rows)).to(device)
    )

    def ours(want):
        def run(pose, shape):
            mesh = body(axis_angle_to_matrix(pose), shape, want=want)
            return tuple(getattr(mesh, name) for name in want)

        return run

    found = {"kinlmr": {
        "mesh": ours(("joints", "vertices")), "joints": ours(("joints",)), "joints+23": ours(("joints", "keypoints")),
    }}  # fmt: skip

    try:
        from smplx.lbs import lbs
    except ModuleNotFoundError:
        print("smplx is not installed: no ratios (pip install -e '.[bench]')", file=sys.stderr)
    else:
        f = lambda key: torch.tensor(arrays[key], dtype=torch.float32, device=device)  # noqa: E731
        kept = dict(v_template=f("v_template"), shapedirs=f("shapedirs"), posedirs=f("posedirs").flatten(0, 1).T,
                    J_regressor=f("J_regressor"), parents=torch.tensor(arrays["kintree_table"][0], device=device),
                    lbs_weights=f("weights"))  # fmt: skip

        def smplx(pose, shape):
            vertices, joints = lbs(shape, pose.flatten(1), **kept)
            return joints, vertices

        def smplx_points(pose, shape):
            joints, vertices = smplx(pose, shape)
            return joints, regressor @ vertices

        found["smplx"] = {"mesh": smplx, "joints": lambda p, s: smplx(p, s)[:1], "joints+23": smplx_points}

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "basicmodel_neutral_lbs_10_207_0_v1.1.0.pkl"
        path.write_bytes(pickle.dumps(arrays))
        np.save(Path(folder) / "kid_template.npy", np.zeros((VERTICES, 3)))
        try:
            from smplfitter.pt import BodyModel
        except ModuleNotFoundError:
            pass
        else:
            fitter = BodyModel("smpl", "neutral", model_root=folder).to(device)

            def smplfitter(pose, shape, vertices=True):
                out = fitter(pose_rotvecs=pose.flatten(1), shape_betas=shape, return_vertices=vertices)
                return (out["joints"], out["vertices"]) if vertices else (out["joints"],)

            def smplfitter_points(pose, shape):
                joints, vertices = smplfitter(pose, shape)
                return joints, regressor @ vertices

            found["smplfitter"] = {
                "mesh": smplfitter, "joints": lambda p, s: smplfitter(p, s, False), "joints+23": smplfitter_points,
            }  # fmt: skip
        try:
            from body_models.smpl.torch import SMPL
        except ModuleNotFoundError:
            pass
        else:
            np.savez(Path(folder) / "smpl.npz", **arrays)
            model = SMPL(model_path=Path(folder) / "smpl.npz").to(device)
            prepared = model.prepare_point_regressor(regressor)
            split = lambda pose, shape: dict(body_pose=pose[:, 1:], pelvis_rotation=pose[:, 0], shape=shape)  # noqa: E731
            places = lambda pose, shape: model.forward_skeleton(**split(pose, shape))[..., :3, 3]  # noqa: E731
            found["body-models"] = {
                "mesh": lambda p, s: (places(p, s), model.forward_vertices(**split(p, s))),
                "joints": lambda p, s: (places(p, s),),
                "joints+23": lambda p, s: (
                    places(p, s), model.forward_points(point_regressor=prepared, **split(p, s))),
            }  # fmt: skip
    return found


def inputs(batch: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(batch)
    pose = 0.3 * torch.randn(batch, JOINTS, 3, generator=generator)
    shape = torch.randn(batch, SHAPE, generator=generator)
    return pose.to(device).requires_grad_(), shape.to(device).requires_grad_()


def call(run, given, backward: bool, weights) -> None:
    if not backward:
        with torch.no_grad():
            run(*given)
    else:
        torch.autograd.grad(run(*given), given, weights)


def agree(found: dict, task: str, device: str) -> dict[str, float]:
    """The largest difference of any library's values from kinlmr's, in metres."""
    given = inputs(5, device)
    ours = found["kinlmr"][task](*given)
    return {
        name: max((a - b).abs().max().item() for a, b in zip(runs[task](*given), ours, strict=True))
        for name, runs in found.items()
    }


def measure(
    found: dict, task: str, batch: int, backward: bool, rounds: int, device: str
) -> dict[str, dict[str, float]]:
    given = inputs(batch, device)
    weights = tuple(torch.randn_like(x) for x in found["kinlmr"][task](*given))
    jobs = {name: lambda runs=runs: call(runs[task], given, backward, weights) for name, runs in found.items()}
    base = "smplx" if "smplx" in found else "kinlmr"
    figures = interleaved(jobs, rounds, max(1, 24 // batch), device, base)
    return {name: {**one, "ms": one["ms"] / batch} for name, one in figures.items()}


def peak_here(name: str, task: str, batch: int, backward: bool, device: str) -> float:
    """Megabytes that one call adds to this process at its highest."""
    found = contenders(device)
    given = inputs(batch, device)
    run = found[name][task]
    weights = tuple(torch.ones(1, device=device).expand(x.shape) for x in run(*inputs(1, device)))
    weights = tuple(w[:1].expand(batch, *w.shape[1:]) for w in weights)
    call(run, inputs(1, device), backward, tuple(w[:1] for w in weights))
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call(run, given, backward, weights)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    status = lambda key: int(Path("/proc/self/status").read_text().split(key)[1].split()[0]) / 1024  # noqa: E731
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = status("VmRSS:")
    call(run, given, backward, weights)
    return status("VmHWM:") - before


def peak(name: str, task: str, batch: int, backward: bool, device: str, threads: int) -> float:
    command = [
        sys.executable,
        __file__,
        "--device",
        device,
        "--threads",
        str(threads),
        "--peak",
        name,
        task,
        str(batch),
    ]
    done = subprocess.run([*command, str(int(backward))], capture_output=True, text=True, check=True)
    return float(done.stdout)


def floor(device: str) -> float:
    """Milliseconds of a mesh's multiply-adds, blend shapes and dense skinning, at the rate of a large product here."""
    per_ms, _ = rates(device)
    return VERTICES * (3 * (9 * (JOINTS - 1) + SHAPE) + 12 * JOINTS) / per_ms


def cuda_floor(found: dict, device: str) -> None:
    """On CUDA: what a mesh must move, against what this machine copies; kernels per call."""
    x = torch.empty(2**28, device=device)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(20):
        x[: 2**27].copy_(x[2**27 :])
    torch.cuda.synchronize()
    bandwidth = 20 * 2**30 / (time.perf_counter() - began)
    moved = 4 * (3 * VERTICES + 9 * JOINTS + SHAPE)
    print(f"\ncopy bandwidth {bandwidth / 1e12:.2f} TB/s; a mesh moves at least {moved / 1e3:.1f} kB: "
          f"{moved / bandwidth * 1e6:.3f} us per body")  # fmt: skip
    for name, runs in found.items():
        for backward in (False, True):
            given = inputs(512, device)
            weights = tuple(torch.randn_like(o) for o in runs["mesh"](*given))
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                call(runs["mesh"], given, backward, weights)
            launched = sum(event.device_time_total > 0 for event in profile.events())
            print(f"{name}: {launched} kernels, {'with' if backward else 'without'} backward")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", help="write the figures here too")
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak:
        name, task, batch, backward = args.peak
        print(peak_here(name, task, int(batch), bool(int(backward)), args.device))
        return

    found = contenders(args.device)
    print(f"{machine(args.device)}, {args.rounds} rounds")
    for task in TASKS:
        differences = {name: f"{value:.1e}" for name, value in agree(found, task, args.device).items()}
        print(f"{task}: largest difference from kinlmr, m: {differences}")
    unit, per_ms, digits = ("us", 1e3, 2) if args.device.startswith("cuda") else ("ms", 1, 3)
    print(f"\n| task | batch | pass | {' | '.join(f'{name}, {unit}/body' for name in found)} | kinlmr over smplx |")
    print(f"|---|---|---|{'---|' * (len(found) + 1)}")
    rows = []
    for task in TASKS:
        for batch in BATCHES + (MORE if args.device.startswith("cuda") else ()):
            for backward in (False, True):
                figures = measure(found, task, batch, backward, args.rounds, args.device)
                kind = "forward+backward" if backward else "forward"
                rows.append({"task": task, "batch": batch, "pass": kind, **figures})
                cells = " | ".join(f"{value['ms'] * per_ms:.{digits}f}" for value in figures.values())
                print(f"| {task} | {batch} | {kind} | {cells} | {told(figures['kinlmr'])} |", flush=True)
    if args.device == "cpu":
        whole = next(row for row in rows if (row["task"], row["batch"], row["pass"]) == ("mesh", 512, "forward"))
        print(f"\na mesh of 512, forward, takes {whole['kinlmr']['ms'] / floor(args.device):.2f} times its floor")
    print(f"\n| peak memory, batch 512, MB | {' | '.join(found)} |\n|---|{'---|' * len(found)}")
    for backward in (False, True):
        peaks = {name: peak(name, "mesh", 512, backward, args.device, args.threads) for name in found}
        rows.append({"task": "mesh", "batch": 512, "peak_mb": peaks, "backward": backward})
        kind = "forward+backward" if backward else "forward"
        print(f"| mesh {kind} | {' | '.join(f'{value:.0f}' for value in peaks.values())} |")
    if args.device.startswith("cuda"):
        cuda_floor(found, args.device)
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
