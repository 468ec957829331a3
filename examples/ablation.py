"""The paper's ablation (Li et al. 2021, table 1) on recorded motion, and what it never measured: lost and still limbs.

Every graph is trained with the losses and optimizers of examples/train.py, from the same seeds on the same clips, with
the hidden size that gives it as many parameters as LMR, to 2 %: the paper's three, and --own, a graph of your own.
Subjects in --test and --leave are never trained on. Scored is the averaged model, streamed, on the same test clips with
the same noise:

overall   pieces of 3 to 10 seconds, each from one of four sides
hidden    a limb's keypoints vanish for 0.5 s: the error of its joints by the time since, and for 0.2 s after they are
          back; "seen" are the same frames, had the limb stayed in view
swapped   the keypoints of both arms, or both legs, change sides for 3 frames: the same errors
still     one limb moves as recorded, the rest of the body holds still: how far the estimate of the rest strays (drift),
          and how far by the noise alone, when nothing moves
real      with --aist, what a detector found in AIST++'s videos, streamed by kinlmr.recover and scored as by real.py

Every finished run is kept in --out, and the same command goes on where it was interrupted. The tables are printed, as
Markdown, and are in --out too.
"""

import argparse
import itertools
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import aist
import limbs
import real
import torch
import train
from networks import Network
from runs import Progress, place

import kinlmr
from kinlmr import files, metrics, motion
from kinlmr.motion import clips
from kinlmr.rotations import nearest_rotation

GRAPHS = {"single RNN": "smpl_single.yaml", "LMR, no root": "smpl_independent.yaml", "LMR": "smpl.yaml"}
PAPER = {"mpjpe": {"LMR, no root": -1.6, "LMR": -6.8}, "accel": {"LMR, no root": -7.4, "LMR": -17.9}}  # %, on 3DPW
ON_AIST = {("upright", "pa12"): "PA12 upright, mm", ("floor", "pa12"): "PA12 floor, mm",
           ("all", "accel"): "Accel, mm/frame²"}  # fmt: skip
METRICS = {"mpjpe": "MPJPE, mm", "pa_mpjpe": "PA-MPJPE", "pve": "PVE", "accel": "Accel, mm/frame²"}
DATA = Path(__file__).parent / "data" / "motion.npz"
BATCH, AIST_FPS = 16, 30
Run = dict[str, Any]


def build(graph: str, hidden: int) -> kinlmr.LMR:
    return kinlmr.build(graph, keypoints="coco17", hidden=hidden, shape_hidden=64)


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


@torch.no_grad()
def overall(network: Network, seen: Sequence[clips.Clips], body: kinlmr.Body) -> dict[str, float]:
    """The metrics of table 1, in mm; PVE on every tenth frame."""
    predictions, distances = [], []
    for clip in seen:
        rotations, shape = limbs.answer(network, clip.features)
        predictions.append(body(rotations, shape).joints)
        pairs = (rotations, shape), (clip.rotations, clip.shape[:, None].expand_as(shape))
        meshes = [body(r[:, ::10], s[:, ::10], want=("joints", "vertices")) for r, s in pairs]
        mine, true = (m.vertices - m.joints[:, :, [body.root]] for m in meshes)
        distances.append(metrics.joint_errors(mine, true, root=None).mean(-1).flatten())
    found = metrics.evaluate(predictions, [c.joints for c in seen], root=body.root)
    return found | {"pve": float(torch.cat(distances).mean())}


def on_aist(network: Network, folder: Path) -> dict[str, Any]:
    """The figures of real.py on AIST++, of the network and of the pose and shape that it starts with, by group."""
    options = argparse.Namespace(aist=folder, clips=[], fps=AIST_FPS, confidence=None, clip=False)
    results = real.score_aist({"model": network.cpu()}, options)["results"]
    return {who: {group: kinds["overall"][""] for group, kinds in own.items()} for who, own in results.items()}


# --------------------------------------------------------------------------------------------------------------- tables


def spread(values: Sequence[float], form: str = ".1f") -> str:
    return f"{statistics.mean(values):{form}} ± {statistics.stdev(values) if len(values) > 1 else 0:.1f}"


def gain(own: Sequence[Run], other: Sequence[Run], value: Callable[[Run], float]) -> str:
    """By how many % a value is above another graph's, seed by seed; empty for a graph and itself."""
    base = {run["seed"]: value(run) for run in other}
    changes = [100 * (value(run) / base[run["seed"]] - 1) for run in own if run["seed"] in base]
    return spread(changes, "+.1f") if changes and own is not other else ""


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def overall_table(runs: dict[str, list[Run]]) -> str:
    """Table 1, and the gains over the single RNN beside those that the paper has."""
    head, rows = ["", "hidden", "parameters", *METRICS.values()], []
    for key in PAPER:
        head += [f"{METRICS[key].split(',')[0]} over single RNN, %", "the paper's"]
    for graph, own in runs.items():
        row = [graph, f"{own[0]['hidden']}", f"{own[0]['parameters']:,}"]
        row += [spread([run["overall"][key] for run in own]) for key in METRICS]
        for key, paper in PAPER.items():
            row.append(gain(own, runs.get("single RNN", ()), lambda run, key=key: run["overall"][key]))  # type: ignore[misc]
            row.append(f"{paper[graph]:+.1f}" if graph in paper else "")
        rows.append(row)
    return markdown(head, rows)


def lost_table(runs: dict[str, list[Run]], name: str, step: int) -> str:
    """A limb's error while it is lost, by ``step`` frames, and after; and how far it is above that of no root."""

    def mean(key: str, first: int, last: int) -> Callable[[Run], float]:
        return lambda run: statistics.mean(run["lost"][name][key][first:last])

    every = next(iter(runs.values()))[0]["lost"][name]["lost"]
    frames, end = len(every) - limbs.AFTER, len(every)
    columns = {"seen": mean("seen", 0, frames)}
    for i in range(0, frames, step):
        columns[f"frame {i + 1}" if step == 1 else f"{i / 30:.1f} to {(i + step) / 30:.1f} s"] = mean(
            "lost", i, i + step
        )
    columns |= {"lost": mean("lost", 0, frames), "after: seen": mean("seen", frames, end)}
    columns["after"] = mean("lost", frames, end)
    gains = {f"{key} over no root, %": columns[key] for key in ("lost", "after")}
    rows = [[graph, *(spread(list(map(value, own))) for value in columns.values())]
            + [gain(own, runs.get("LMR, no root", ()), value) for value in gains.values()]
            for graph, own in runs.items()]  # fmt: skip
    return markdown(["", *columns, *gains], rows)


def real_table(runs: dict[str, list[Run]]) -> str:
    """The errors on real keypoints, and how far they are above those of the single RNN and of no root."""
    groups = next(iter(runs.values()))[0]["real"]["model"]
    columns: dict[str, Callable[[Run], float]] = {
        name: lambda run, group=group, key=key: run["real"]["model"][group].get(key, math.nan)  # type: ignore[misc]
        for (group, key), name in ON_AIST.items()
        if group in groups
    }
    others = {"single RNN": "single RNN", "no root": "LMR, no root"}
    head = [f"{name.split(',')[0]} over {other}, %" for other in others for name in columns]
    rows = [[graph, *(spread([value(run) for run in own]) for value in columns.values())]
            + [gain(own, runs.get(other, ()), value) for other in others.values() for value in columns.values()]
            for graph, own in runs.items()]  # fmt: skip
    return markdown(["", *columns, *head], rows)


def report(every: Sequence[Run]) -> str:
    """All tables: means over seeds ± their deviation; a gain is of the same seed, and less is better."""
    runs = {graph: [run for run in every if run["graph"] == graph] for graph in {run["graph"]: 0 for run in every}}
    texts = [f"## Overall\n\n{overall_table(runs)}"]
    for name in every[0]["lost"]:
        step = 3 if name.endswith("hidden") else 1
        texts.append(f"## {name.capitalize()}: MPJPE of the limb's joints, mm\n\n{lost_table(runs, name, step)}")
    still = [[graph, *(spread([run["still"][key] for run in own]) for key in own[0]["still"])]
             for graph, own in runs.items()]  # fmt: skip
    head = ["", "drift of what holds still, mm", "of it noise", "MPJPE of what moves"]
    texts.append(f"## One limb moves\n\n{markdown(head, still)}")
    if all("real" in run for run in every):
        texts.append(f"## Real keypoints\n\n{real_table(runs)}")
    seeds, steps = (sorted({run[key] for run in every}) for key in ("seed", "steps"))
    texts.append(
        f"{len(every)} runs of {', '.join(map(str, steps))} steps of {BATCH} x {train.WINDOW} frames, seeds {seeds}; "
        f"{sum(run['seconds'] for run in every) / 60:.0f} minutes of training and scoring in all, torch "
        f"{torch.__version__} on {platform.machine()}, {torch.get_num_threads()} threads."
    )
    return "\n\n".join(texts) + "\n"


# ------------------------------------------------------------------------------------------------------------- training


def trained(model: kinlmr.LMR, args: argparse.Namespace, source: clips.Bank, body: kinlmr.Body, seed: int) -> Network:
    """The averaged model after --steps of the recipe, the last two fifths with a falling rate."""
    run = train.Run(model.to(args.device), {})
    progress, frames = Progress(args.steps, 0), train.WINDOW * train.WINDOWS
    while run.step < args.steps:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + run.step)
        clip = clips.sample(source, body, BATCH, frames, generator, train.NOISES[args.noise])
        run.learn(clip, source, body, args.steps, 2 * args.steps // 5, place())
        progress(run.step, run.loss)
    return run.average.eval()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--motion", nargs="+", default=[DATA], help="BVH, AMASS or archives; files or folders")
    parser.add_argument("--test", nargs="+", default=["cmu_01_01"], help="subjects or beginnings of names: to test on")
    parser.add_argument("--leave", nargs="*", default=[], help="subjects or beginnings of names: left out")
    parser.add_argument(
        "--own",
        default="smpl_pairs.yaml",
        help="a fourth graph, on SMPL's joints: a YAML file, or the name of an installed one (%(default)s)",
    )
    parser.add_argument(
        "--graphs",
        nargs="+",
        choices=[*GRAPHS, "own"],
        default=[*GRAPHS, "own"],
        help="which to train: the paper's, by their names in the tables, and own, which is --own's (all four)",
    )
    parser.add_argument(
        "--noise", default="wide", choices=train.NOISES, help="of the clips to train on, as in train.py (%(default)s)"
    )
    parser.add_argument("--aist", type=Path, metavar="FOLDER", help="of AIST++ (aist.py): score its keypoints, too")
    parser.add_argument(
        "--hidden", type=int, default=96, help="LMR's hidden size (%(default)s); the others' follow from it"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="a run each (0 1 2)")
    parser.add_argument("--steps", type=int, default=2500, help="of every run (%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="%(default)s here")
    parser.add_argument("--out", type=Path, default=Path("out/ablation"), help="where runs and tables go (%(default)s)")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    body = kinlmr.load_body("anny24_lo369", keypoints="coco17")
    graphs = {name: file for name, file in GRAPHS.items() if name in args.graphs}
    if "own" in args.graphs:
        graphs[Path(args.own).stem] = args.own
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        recordings = motion.load_motion(args.motion, body)
        test, left = train.chosen(recordings, args.test), train.chosen(recordings, args.leave)
        kept = [m for m in recordings if not any(m is other for other in (*test, *left))]
        source = clips.bank(kept, train.WINDOW * train.WINDOWS).to(args.device)
        if kinlmr.load_skeleton(args.own).joints != body.joints:
            raise ValueError(f"--own {args.own} has other joints than the body, which has those of smpl.yaml")
        if not clips.pieces(test, limbs.VIGOROUS, limbs.VIGOROUS):
            raise ValueError(f"--test {' '.join(args.test)}: no recording holds {limbs.VIGOROUS} frames between cuts")
        if args.aist:
            aist.paths(args.aist)
        wanted = size(GRAPHS["LMR"], args.hidden)
        sizes = {graph: matched(file, wanted) for graph, file in graphs.items()}
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from None
    body = body.to(args.device)
    seen, lost = train.watched(test, body, clips.USUAL), limbs.trials(test, body)
    moving = limbs.vigorous(test, body)
    start = clips.sample(source, body, 512, 1, torch.Generator().manual_seed(0)).rotations.mean((0, 1)).cpu()
    minutes = [sum(map(len, motions)) / source.fps / 60 for motions in (kept, test)]
    print(
        f"{minutes[0]:.1f} minutes to train on, {minutes[1]:.1f} to test on; limbs are lost in {len(lost.joints)} clips"
    )

    data: Run = {key: [str(value) for value in getattr(args, key)] for key in ("motion", "test", "leave")}
    data |= {"noise": args.noise, "aist": args.aist and str(args.aist)}
    runs = []
    for seed, (graph, hidden) in itertools.product(args.seeds, sizes.items()):
        path = args.out / f"{Path(graphs[graph]).stem}-{hidden}-{args.steps}-{seed}.json"
        if path.is_file():
            run: Run = json.loads(path.read_text())
            if run["data"] != data:
                raise SystemExit(f"{path} is a run on other data ({run['data']}); give this one another --out")
        else:
            print(f"{graph}, hidden {hidden}, seed {seed}", flush=True)
            torch.manual_seed(seed)
            model, began = build(graphs[graph], hidden), time.monotonic()
            model.start.pose.copy_(model.rotation.from_matrix(nearest_rotation(start)))
            network = trained(model, args, source, body, seed)
            run = {"graph": graph, "hidden": hidden, "seed": seed, "steps": args.steps, "data": data,
                   "parameters": sum(p.numel() for p in model.parameters()), "overall": overall(network, seen, body),
                   "lost": limbs.score_lost(network, lost, body),
                   "still": limbs.score_still(network, moving, body, source.fps),
                   **({"real": on_aist(network, args.aist)} if args.aist else {}),
                   "seconds": time.monotonic() - began}  # fmt: skip
            files.write_atomic(path, json.dumps(run, indent=1).encode())
        runs.append(run)
    files.write_atomic(args.out / "ablation.md", report(runs).encode())
    print(f"\n{report(runs)}\n{args.out}/ablation.md holds this, and a .json beside it every run")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("\ninterrupted; the same command keeps the finished runs and goes on") from None
