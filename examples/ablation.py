"""The paper's ablation (Li et al. 2021, table 1) on recorded motion, and what it never measured: local dynamics.

Every graph is trained on the same clips from the same seeds, twice: at one hidden size, as the paper did, and with
hidden sizes chosen so that all have as many parameters as LMR, to 2 % (graphs that the paper does not have, only so).
Subjects in --test and --leave are never trained on. Every finished run is kept in --out, so that the same command goes
on where it was interrupted; the tables are in --out too.

Local dynamics: one limb moves as recorded, vigorously, while the rest of the body holds still. Drift is how far the
estimate of the rest strays (mm); what detector noise alone causes is measured on the same clips with nothing moving.
"""

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from runs import Progress
from torch import Tensor, nn
from train import loss_of

import kinlmr
from kinlmr import clips, files, metrics, motion
from kinlmr.keypoints import keypoint_sets
from kinlmr.rotations import axis_angle_to_matrix

GRAPHS = {
    "single RNN": "smpl_single.yaml",
    "LMR, no root": "smpl_independent.yaml",
    "LMR": "smpl.yaml",
    "chain": "smpl_chain.yaml",
    "ktd": "smpl_ktd.yaml",
}
PAPER = {"LMR, no root": (-1.6, -7.4), "LMR": (-6.8, -17.9)}  # 3DPW, over the single RNN
BEYOND = ("chain", "ktd")  # not of the paper: with as many parameters only
POINTS = "coco17"
METRICS = ("mpjpe", "pa_mpjpe", "pve", "accel")
DATA = Path(__file__).parent / "data" / "motion.npz"
BATCH, FRAMES, RATE = 16, 16, 3e-3
WINDOW, VIGOROUS, TOGETHER = 150, 90, 8
Run = dict[str, Any]


def build(graph: str, hidden: int, start: kinlmr.Estimate | None = None) -> kinlmr.LMR:
    return kinlmr.build(graph, features=3 * len(keypoint_sets()[POINTS]), hidden=hidden, start=start)


def size(graph: str, hidden: int) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build(graph, hidden).parameters())


def matched(graph: str, wanted: int) -> int:
    """The hidden size that gives a graph's model the wanted number of parameters, within 2 %."""
    low, high = 1, 2
    while size(graph, high) < wanted:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(graph, middle) < wanted else (low, middle)
    best = min((low, high), key=lambda hidden: abs(size(graph, hidden) - wanted))
    if abs(size(graph, best) - wanted) > 0.02 * wanted:
        raise SystemExit(f"{graph}: no hidden size gives {wanted:,} parameters within 2 %; --hidden is too small")
    return best


def watch(motions: Sequence[motion.Motion], body: kinlmr.Body) -> list[clips.Clips]:
    """Test clips of any length, each seen from a side of its own by a noisy detector; equal lengths in one batch."""
    yaws = [2 * math.pi * ((0.618 * i) % 1) for i in range(len(motions))]
    together: dict[int, list[clips.Clips]] = {}
    for i, (m, yaw) in enumerate(zip(motions, yaws, strict=True)):
        together.setdefault(len(m), []).append(clips.whole(m, body, yaw, torch.Generator().manual_seed(i)))
    return [clips.Clips(*map(torch.cat, zip(*group, strict=True))) for group in together.values()]


def isolate(rotations: Tensor, joints: Sequence[int]) -> Tensor:
    """The same motion of these joints alone; all others hold still, as in the first frame. (..., T, J, 3, 3) -> same"""
    held = rotations[..., :1, :, :, :].expand_as(rotations).clone()
    held[..., list(joints), :, :] = rotations[..., list(joints), :, :]
    return held


def drift(motion: Tensor) -> Tensor:
    """How far points stray from their mean place, mm: 0 for what holds still. (..., T, K, 3) in metres -> (...)"""
    return 1000 * (motion - motion.mean(-3, keepdim=True)).norm(dim=-1).mean((-2, -1))


def vigorous(motions: Sequence[motion.Motion], body: kinlmr.Body) -> dict[str, Tensor]:
    """For every limb the clips (TOGETHER, VIGOROUS, J, 3, 3) in which it moves most, the rest of the body still."""
    plan = kinlmr.compile(kinlmr.load_skeleton(GRAPHS["LMR"]))
    windows = torch.stack(
        [axis_angle_to_matrix(m.rotations) for m in clips.pieces(motions, VIGOROUS, VIGOROUS)]
    ).float()
    found = {}
    for part, joints in zip(plan.parts[1:], plan.joints[1:], strict=True):
        alone = isolate(windows, joints)
        travel = body(alone).joints.diff(dim=1).norm(dim=-1).mean((1, 2))
        found[part] = alone[travel.topk(min(TOGETHER, len(travel))).indices]
    return found


@torch.no_grad()
def local_dynamics(model: kinlmr.LMR, limbs: dict[str, Tensor], body: kinlmr.Body) -> dict[str, dict[str, float]]:
    """By limb: the others' drift while it moves, and while nothing does; and how well it is followed (MPJPE, mm)."""
    plan = kinlmr.compile(kinlmr.load_skeleton(GRAPHS["LMR"]))
    of = dict(zip(plan.parts, plan.joints, strict=True))
    result = {}
    for seed, (part, moving) in enumerate(limbs.items()):
        rest = [j for j in range(len(body.joints)) if j not in of[part]]
        still = moving[:, :1].expand_as(moving)
        predictions, truths = [], []
        for rotations in (moving, still):
            noise = torch.Generator().manual_seed(seed)
            seen = clips.see(rotations, body, 30.0, noise, clips.USUAL, augment=False)
            estimate = model(seen.features)
            joints = body(model.matrices(estimate), estimate.shape).joints
            predictions.append(joints - joints[:, :, :1])
            truths.append(seen.joints)
        errors = metrics.joint_errors(predictions[0], truths[0])[..., list(of[part])]
        moves, noise_alone = (float(drift(p[..., rest, :]).mean()) for p in predictions)
        result[part] = {"moving": moves, "nothing moving": noise_alone, "follow": float(errors.mean())}
    return result


def mean_start(source: clips.Bank, body: kinlmr.Body) -> kinlmr.Estimate:
    """What refinement starts from: the mean pose of the clips to train on, and the library's shape and camera."""
    turns = clips.draw(source, body, 512, 1, torch.Generator().manual_seed(0)).rotations.mean((0, 1))
    usual = kinlmr.build(GRAPHS["LMR"], features=1, hidden=1)
    pose = usual.rotation.from_matrix(kinlmr.rotations.nearest_rotation(turns))
    return kinlmr.Estimate(pose, usual.start.shape, usual.start.camera)


def learn(
    model: kinlmr.LMR, optimizer: torch.optim.Optimizer, clip: clips.Clips, body: kinlmr.Body, done: float
) -> float:
    """One step, the loss before it. The rate warms up, then falls along a cosine; done: the share of the steps."""
    loss = loss_of(model, model(clip.features), clip, body)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.param_groups[0]["lr"] = RATE * min(1.0, 20 * done + 0.02) * 0.5 * (1 + math.cos(math.pi * done))
    optimizer.step()
    return loss.item()


@torch.no_grad()
def score(model: kinlmr.LMR, seen: list[clips.Clips], body: kinlmr.Body) -> dict[str, Any]:
    """The metrics of whole clips, in mm (PVE on every tenth frame), and the MPJPE of every part."""
    predictions: list[Tensor] = []
    truths: list[Tensor] = []
    errors: list[Tensor] = []
    for clip in seen:
        estimate = model(clip.features)
        rotations, shape = model.matrices(estimate), clip.shape[:, None].expand_as(estimate.shape)
        predictions += body(rotations, estimate.shape).joints
        truths += body(clip.rotations, shape).joints
        pairs = ((rotations, estimate.shape), (clip.rotations, shape))
        meshes = [body(r[:, ::10], s[:, ::10], want=("joints", "vertices")) for r, s in pairs]
        mine, true = (m.vertices - m.joints[:, :, :1] for m in meshes)
        errors.append(metrics.joint_errors(mine, true, root=None).flatten())
    distances = torch.cat([metrics.joint_errors(p, t) for p, t in zip(predictions, truths, strict=True)])
    parts = {name: float(error.mean()) for name, error in metrics.by_part(distances, model.plan).items()}
    return metrics.evaluate(predictions, truths) | {"pve": float(torch.cat(errors).mean()), "parts": parts}


def table(runs: list[Run]) -> str:
    """Runs of one sizing as Markdown: mean ± deviation over seeds; gains over the single RNN, seed by seed, in %."""
    spread = lambda x, form: f"{statistics.mean(x):{form}} ± {statistics.stdev(x) if len(x) > 1 else 0:.1f}"  # noqa: E731
    lines = [
        "| | hidden | parameters | MPJPE, mm | PA-MPJPE | PVE | Accel, mm/frame² | MPJPE gain, % | the paper's "
        "| Accel gain, % | the paper's | drift of what holds still, mm | of it noise | the limb's MPJPE |",
        "|" + "---|" * 14,
    ]
    single = {run["seed"]: run for run in runs if run["graph"] == "single RNN"}
    for graph in GRAPHS:
        own = [run for run in runs if run["graph"] == graph]
        if not own:
            continue
        cells = [graph, f"{own[0]['hidden']}", f"{own[0]['parameters']:,}"]
        cells += [spread([run[metric] for run in own], ".1f") for metric in METRICS]
        for i, metric in enumerate(("mpjpe", "accel")):
            pairs = [(run[metric], single[run["seed"]][metric]) for run in own if run["seed"] in single]
            shown = pairs and graph != "single RNN"
            cells += [spread([100 * (a / b - 1) for a, b in pairs], "+.1f") if shown else ""]
            cells += [f"{PAPER[graph][i]:+.1f}" if graph in PAPER else ""]
        for key in ("moving", "nothing moving", "follow"):
            cells.append(spread([statistics.mean(limb[key] for limb in run["local"].values()) for run in own], ".1f"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def report(runs: list[Run]) -> str:
    titles = {"equal": "One hidden size", "matched": "As many parameters as LMR (hidden sizes chosen)"}
    parts = []
    for sizing, title in titles.items():
        own = [run for run in runs if sizing in run["sizings"]]
        parts.append(f"## {title}\n\n{table(own)}")
    seeds, steps = sorted({run["seed"] for run in runs}), sorted({run["steps"] for run in runs})
    parts.append(
        f"{len(runs)} runs of {', '.join(map(str, steps))} steps of {BATCH} x {FRAMES} frames, seeds {seeds}; "
        f"{sum(run['seconds'] for run in runs) / 60:.0f} minutes of training and scoring in all, torch "
        f"{torch.__version__} on {platform.machine()}, {torch.get_num_threads()} threads."
    )
    return "\n\n".join(parts) + "\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--motion", nargs="+", default=[DATA], help="BVH, AMASS or archives; files or folders")
    parser.add_argument("--test", nargs="+", default=["cmu_01_01"], help="subjects, or beginnings of names, to test on")
    parser.add_argument("--leave", nargs="*", default=[], help="subjects, or beginnings of names, to leave out")
    parser.add_argument("--hidden", type=int, default=128, help="LMR's; the others' in the first table")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--threads", type=int, help="of every operation; torch's default otherwise")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("out/ablation"))
    return parser.parse_args()


def main() -> None:
    args = arguments()
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemExit(f"--out {args.out} cannot be written: {error}") from None
    if args.threads:
        torch.set_num_threads(args.threads)
    body = kinlmr.load_body("anny24_lo369", points=POINTS)
    recordings = motion.load_motion(args.motion, body)
    among = lambda m, who: any(m.subject == name or m.name.startswith(name) for name in who)  # noqa: E731
    test = [m for m in recordings if among(m, args.test)]
    kept = [m for m in recordings if not among(m, [*args.test, *args.leave])]
    if not test or not kept:
        raise SystemExit(f"{len(test)} recordings to test on and {len(kept)} to train on; both need one: see --test")
    source, seen, limbs = clips.bank(kept, FRAMES), watch(clips.pieces(test, WINDOW, 16), body), vigorous(test, body)
    start = mean_start(source, body)
    minutes = [sum(map(len, motions)) / source.fps / 60 for motions in (kept, test)]
    print(f"{minutes[0]:.1f} minutes to train on, {minutes[1]:.1f} to test on")
    body, source = body.to(args.device), source.to(args.device)
    seen = [clips.Clips(*(x.to(args.device) for x in batch)) for batch in seen]
    limbs = {name: x.to(args.device) for name, x in limbs.items()}

    wanted = size(GRAPHS["LMR"], args.hidden)
    sizings: dict[tuple[str, int], list[str]] = {}
    for graph, file in GRAPHS.items():
        sizings.setdefault((graph, matched(file, wanted)), []).append("matched")
        if graph not in BEYOND:
            sizings.setdefault((graph, args.hidden), []).append("equal")
    data = {key: [str(value) for value in getattr(args, key)] for key in ("motion", "test", "leave")}
    runs = []
    for seed in args.seeds:
        for (graph, hidden), which in sizings.items():
            path = args.out / f"{GRAPHS[graph].removesuffix('.yaml')}-{hidden}-{args.steps}-{seed}.json"
            if path.is_file():
                run = json.loads(path.read_text())
                if run["data"] != data:
                    raise SystemExit(f"{path} is a run on other data ({run['data']}); give this one another --out")
                runs.append({**run, "sizings": which})
                continue
            print(f"{graph}, hidden {hidden}, seed {seed}")
            torch.manual_seed(seed)
            model = build(GRAPHS[graph], hidden, start)
            model = model.to(args.device)
            optimizer = torch.optim.AdamW(model.parameters())
            progress, began = Progress(args.steps, 0), time.monotonic()
            for step in range(args.steps):
                batch = clips.draw(source, body, BATCH, FRAMES, torch.Generator().manual_seed(seed * 1_000_003 + step))
                progress(step + 1, learn(model, optimizer, batch, body, step / args.steps))
            model.eval()
            figures = score(model, seen, body)
            run = {
                "graph": graph, "hidden": hidden, "seed": seed, "steps": args.steps, "sizings": which, "data": data,
                "parameters": sum(p.numel() for p in model.parameters()), "parts": figures["parts"],
                **{metric: figures[metric] for metric in METRICS},
                "local": local_dynamics(model, limbs, body), "seconds": time.monotonic() - began,
            }  # fmt: skip
            files.write_atomic(path, json.dumps(run, indent=1).encode())
            runs.append(run)
    files.write_atomic(args.out / "ablation.md", report(runs).encode())
    print(f"\n{report(runs)}\n{args.out}/ablation.md holds this, and a .json beside it every run")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("\ninterrupted; the same command keeps the finished runs and goes on") from None
