"""Score a model on keypoints that a detector found in real video, against a 3D truth.

    python examples/real.py anny24-coco17 --aist FOLDER
    python examples/real.py anny24-coco17 --3dpw FOLDER

--aist: AIST++ (`aist.py` says in what files), every view streamed from its first frame. Frames in which 10 of the 12
points of the limbs have a truth are scored, errors are over points that have one. Clips are upright, or floor work
where the trunk is tilted by 30 degrees or more in the median. Tables are Markdown; --out holds all figures as JSON.

    PA12, PA17   PA-MPJPE over the 12 points of the limbs, and over coco17's 17, mm
    MPJPE        over the 12, centred on the hips, in the frame of a camera turned to look at them, with one scale per
                 clip and view, mm; in the picture's plane and in depth
    Accel        error of the second difference over the 12, the truth smoothed (a cubic over 1/6 s)
    PCK          the share of the 12 points within 100 mm, once aligned
    lag          by how much later the prediction fits best, by PA12 at shifts of whole frames and a parabola through
                 the least; upright clips only
    mean pose    the model's pose and shape before it saw anything: how much there was to find

--clip: a model's answers to whole clips (`kinlmr.recover_clip`) stand beside those streamed by `kinlmr.recover`.

--3dpw: 3DPW (`threedpw.py`), over 14 points in the camera's frame. --smpl and --regressor, licensed files of your own,
make them the points that papers take.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import aist
import threedpw
import torch
from networks import Network, load_network
from scores import FIGURES, LIMBS, TRUNK, enough, lag_of, score, shifted, smoothed, summed, table, window
from torch import Tensor
from world_scores import aist_table

import kinlmr
from kinlmr import files, keypoints, metrics

GROUPS, STEEP = ("upright", "floor"), 30.0  # degrees of the trunk's median tilt that make a clip floor work
BINS: dict[str, dict[str, tuple[float, float]]] = {
    "tilt": {"0 to 30 degrees": (0, 30), "30 to 60": (30, 60), "over 60": (60, 181)},
    "speed": {"under 0.5 m/s": (0, 0.5), "0.5 to 1": (0.5, 1), "1 to 2": (1, 2), "over 2": (2, math.inf)},
    "confidence": {"under 0.3": (0, 0.3), "0.3 to 0.6": (0.3, 0.6), "0.6 to 0.8": (0.6, 0.8), "over 0.8": (0.8, 9)},
}
TABLES = {"clip": "By clip", "view": "By view", "tilt": "By the trunk's tilt", "speed": "By the speed of a point",
          "confidence": "By the confidence of a point"}  # fmt: skip
LATEST = 0.2  # seconds: the largest lag that is looked for, either way
MEAN, OF_MEAN = "mean pose", ("frames", "points", "pa12", "pa17", "pck", "scored", "pa_mpjpe")  # it faces nowhere
Sums = dict[tuple[str, ...], Tensor]  # by network, group, kind and name: sums and counts (2, F)


# ------------------------------------------------------------------------------------------------------------- answers


@torch.no_grad()
def recovered(network: Network, points: Tensor, fps: float) -> kinlmr.Recovery:
    """What a network makes of coco17's keypoints (V, T, 17, 3); one without memory looks at every frame by itself."""
    if isinstance(network, kinlmr.LMR):
        takes = network.options.get("keypoints", "coco17")
        return kinlmr.recover(network, keypoints.convert(points, "coco17", takes), fps)[0]
    step = max(1, round(fps / keypoints.FPS))  # so that its box, too, moves as at 30 frames a second
    order = torch.cat([torch.arange(first, points.shape[1], step) for first in range(step)]).argsort()
    parts = []
    for first in range(min(step, points.shape[1])):
        features, box, _ = keypoints.normalise(points[:, first::step])
        estimate, _ = network(features, network.initial_state(len(points)))
        parts.append(kinlmr.Recovery(network.matrices(estimate), estimate.shape, estimate.camera, box))
    return kinlmr.Recovery(*(torch.cat(x, 1)[:, order] for x in zip(*parts, strict=True)))


@torch.no_grad()
def whole(network: kinlmr.LMR, points: Tensor, fps: float) -> kinlmr.Recovery:
    """What a model makes of coco17's keypoints (V, T, 17, 3) by `kinlmr.recover_clip`."""
    takes = network.options.get("keypoints", "coco17")
    return kinlmr.recover_clip(network, keypoints.convert(points, "coco17", takes), fps)


def answers(
    networks: dict[str, Network], points: Tensor, fps: float, confidence: float | None, clip: bool = False
) -> dict[str, kinlmr.Recovery]:
    """What each network makes of keypoints (V, T, 17, 3), and the mean pose of the first, where that has the person.

    confidence: of every point that was found, instead of its own; clip: models' answers to whole clips, too.
    """
    if confidence is not None:
        points = torch.cat([points[..., :2], torch.where(points[..., 2:] > 0, confidence, 0)], -1)
    found = {who: recovered(network, points, fps) for who, network in networks.items()}
    found |= {f"{who}, whole clips": whole(network, points, fps)
              for who, network in networks.items() if clip and isinstance(network, kinlmr.LMR)}  # fmt: skip
    network, first = next(iter(networks.values())), next(iter(found.values()))
    rotations, shape = network.rotation.to_matrix(network.start.pose), network.start.shape
    mean = first._replace(rotations=rotations.expand_as(first.rotations), shape=shape.expand_as(first.shape))
    return {**found, MEAN: mean}


def body_of(networks: dict[str, Network]) -> str:
    """The name of the body that all networks pose."""
    names = {who: n.options["body"] if isinstance(n, kinlmr.LMR) else "anny24" for who, n in networks.items()}
    if len(set(names.values())) > 1:
        raise ValueError(f"the networks pose different bodies, {names}; compare those of one")
    return next(iter(names.values()))


# -------------------------------------------------------------------------------------------------------------- AIST++


def score_aist(networks: dict[str, Network], args: argparse.Namespace) -> dict[str, Any]:
    """The results of all clips in a folder, by network, group, kind and name."""
    paths, truth = aist.paths(args.aist, args.clips)
    body, sums = kinlmr.load_body(body_of(networks), keypoints="coco17"), Sums()
    for i, path in enumerate(paths):
        print(f"{i + 1} of {len(paths)}: {path.stem}", file=sys.stderr, flush=True)
        clip = at_rate(aist.read(path), args.fps)
        with torch.no_grad():
            found = answers(networks, clip.keypoints, clip.fps, args.confidence, args.clip)
            points = {
                who: body(x.rotations, x.shape, want=("keypoints",)).keypoints.double() for who, x in found.items()
            }
        tally(sums, clip, points)
    told = "" if args.confidence is None else f", every confidence set to {args.confidence:g}"
    print(f"{len(paths)} clips of AIST++, {args.fps:g} frames a second{told}. Truth: {truth}.\n")
    return {"truth": truth, "fps": args.fps, "confidence": args.confidence, "results": results_of(sums, args.fps)}


def at_rate(clip: aist.Clip, fps: float) -> aist.Clip:
    """A clip at that rate, or a ValueError: every so many frames of it."""
    step = max(1, round(clip.fps / fps))
    if abs(step * fps - clip.fps) > 0.01 * clip.fps:
        raise ValueError(
            f"{clip.name} has {clip.fps:g} frames a second, --fps asks for {fps:g}; give a whole part of it"
        )
    return clip._replace(keypoints=clip.keypoints[:, ::step], truth=clip.truth[:, ::step], fps=clip.fps / step)


def tally(sums: Sums, clip: aist.Clip, predictions: dict[str, Tensor]) -> None:
    """Add a clip to the sums; predictions (V, T, 17, 3) by network."""
    truth, trunk = clip.in_cameras(), clip.truth[:, :, TRUNK]
    up = trunk[:, :, :2].mean(2) - trunk[:, :, 2:].mean(2)
    measured = {
        "tilt": torch.rad2deg(torch.acos((up[..., 1] / up.norm(dim=-1)).clamp(-1, 1))),
        "speed": smoothed(enough(truth)[:, :, LIMBS], window(clip.fps), 1).norm(dim=-1) * clip.fps,
        "confidence": clip.keypoints[:, :, LIMBS, 2],
    }
    group, most = GROUPS[int(not measured["tilt"].nanmedian() < STEEP)], round(LATEST * clip.fps)
    whole = torch.ones_like(measured["tilt"], dtype=torch.bool)
    masks: dict[tuple[str, str], Tensor] = {("overall", ""): whole, ("clip", clip.name): whole}
    masks |= {("view", f"c{v + 1:02}"): whole & (torch.arange(len(whole)) == v)[:, None] for v in range(len(whole))}
    masks |= {(kind, name): (measured[kind] >= low) & (measured[kind] < high)
              for kind, bins in BINS.items() for name, (low, high) in bins.items()}  # fmt: skip
    for who, prediction in predictions.items():
        figures, errors = score(prediction, truth, clip.fps)
        new = {key: summed((figures if mask.ndim == 2 else errors[..., None])[mask]) for key, mask in masks.items()}
        if group == GROUPS[0] and truth.shape[1] > 2 * most:
            new["lag", ""] = shifted(prediction, truth, most)
        for key, value in new.items():
            whose = (who, group, *key)
            sums[whose] = sums.get(whose, torch.zeros_like(value)) + value


def results_of(sums: Sums, fps: float) -> dict[str, Any]:
    """The means by network, group (upright, floor, all), kind and name. A frame's figures count for frames, a point's
    for points; what nothing was measured of is left out."""
    results: dict[str, Any] = {}
    whole = dict(sums)
    for (who, _, *key), value in sums.items():
        everywhere = (who, "all", *key)
        whole[everywhere] = whole.get(everywhere, torch.zeros_like(value)) + value
    for (who, group, kind, name), (total, count) in whole.items():
        if kind == "lag":
            row = {"lag": lag_of(total / count, fps)} if group == GROUPS[0] else {}
            kind = "overall"
        elif len(total) == 1:
            row = {"pa12": float(total / count), "points": int(count)}
        else:
            row = dict(zip(FIGURES, (total / count).tolist(), strict=True)) | {"frames": int(count[0])}
        row = {key: x for key, x in row.items() if not math.isnan(x) and (who != MEAN or key in OF_MEAN)}
        results.setdefault(who, {}).setdefault(group, {}).setdefault(kind, {}).setdefault(name, {}).update(row)
    return results


def report_aist(results: dict[str, Any]) -> str:
    """All tables: every figure by network and group; then PA12, and MPJPE but of points, by what TABLES names."""
    columns = {"frames": "frames", **FIGURES, "lag": "lag, ms"}
    rows = {f"{who}, {group}": [own[group]["overall"][""].get(key, math.nan) for key in columns]
            for who, own in results.items() for group in (*GROUPS, "all") if group in own}  # fmt: skip
    texts = ["### Overall\n\n" + table("", list(columns.values()), rows)]
    first = next(iter(results.values()))
    for kind, title in TABLES.items():
        groups = ["all"] if kind == "clip" else [group for group in GROUPS if group in first]
        shown = ("pa12",) if kind in ("speed", "confidence") else ("pa12", "mpjpe")
        runs = [(group, who, key) for group in groups for who in results for key in shown
                if who != MEAN or key in OF_MEAN]  # fmt: skip
        names = [f"{who}: {FIGURES[key]}" if kind == "clip" else f"{group}, {who}: {FIGURES[key]}"
                 for group, who, key in runs]  # fmt: skip
        rows = {name: [results[who][group][kind].get(name, {}).get(key, math.nan) for group, who, key in runs]
                for name in first["all"][kind]}  # fmt: skip
        texts.append(f"### {title}\n\n" + table("", names, rows))
    return "\n\n".join(texts)


# ---------------------------------------------------------------------------------------------------------------- 3DPW


@torch.no_grad()
def score_3dpw(networks: dict[str, Network], args: argparse.Namespace) -> dict[str, Any]:
    """PA-MPJPE and MPJPE, mm, of every person and, under "all", over the frames of all: by network."""
    protocol = threedpw.protocol(body_of(networks), args.smpl, args.regressor)
    errors: dict[str, dict[str, Tensor]] = {}
    for person in threedpw.people(args.threedpw, protocol):
        print(person.name, file=sys.stderr, flush=True)
        found = answers(networks, person.keypoints[None], threedpw.FPS, args.confidence, args.clip)
        for who, answer in found.items():
            rotations, _ = answer.in_camera(person.size, person.focal, protocol.body)
            points = protocol.points(rotations[0], answer.shape[0]).double()
            known = person.truth.isfinite().flatten(1).all(1) & (answer.box[0, :, 2] > 0)
            points, truth = points[known], person.truth[known]
            centred = [x - x[:, threedpw.HIPS].mean(1, keepdim=True) for x in (points, truth)]
            pairs = (metrics.procrustes(points, truth), truth), (centred[0], centred[1])
            both = [metrics.joint_errors(*pair, root=None).mean(-1) for pair in pairs]
            errors.setdefault(who, {})[person.name] = torch.stack(both)
    rows = {who: {**own, "all": torch.cat(list(own.values()), 1)} for who, own in errors.items()}
    if not rows or not rows[next(iter(rows))]["all"].numel():
        raise ValueError(f"{args.threedpw}: no frame has keypoints and a valid camera")
    return {who: {name: {"frames": x.shape[1], "pa_mpjpe": float(x[0].mean())}
                  | ({} if who == MEAN else {"mpjpe": float(x[1].mean())})
                  for name, x in own.items() if x.numel()} for who, own in rows.items()}  # fmt: skip


def report_3dpw(results: dict[str, Any], papers: bool) -> str:
    what = "14 of Human3.6M's 17 points, from the mesh" if papers else "14 of the 24 joints"
    columns = {"frames": "frames", "pa_mpjpe": "PA-MPJPE, mm", "mpjpe": "MPJPE"}
    rows = {who: [own["all"].get(key, math.nan) for key in columns] for who, own in results.items()}
    return f"### 3DPW: {what}\n\n" + table("", list(columns.values()), rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "model", nargs="?", default="anny24-coco17", help="a checkpoint, or a shipped model (%(default)s)"
    )
    parser.add_argument("--against", help="a second checkpoint, or the baseline.pt of examples/train.py")
    parser.add_argument("--aist", type=Path, metavar="FOLDER", help="of AIST++, see above")
    parser.add_argument("--clips", nargs="+", default=[], help="beginnings of names, or AIST++'s splits/*.txt")
    parser.add_argument(
        "--fps", type=float, default=60, help="of AIST++'s 60 frames a second: 60, 30, 20 (%(default)s)"
    )
    parser.add_argument("--confidence", type=float, help="of every point that was found, instead of its own")
    parser.add_argument("--clip", action="store_true", help="whole clips by kinlmr.recover_clip, too")
    parser.add_argument("--3dpw", type=Path, dest="threedpw", metavar="FOLDER", help="of 3DPW, see above")
    parser.add_argument(
        "--smpl", nargs=2, metavar=("MALE", "FEMALE"), help="SMPL's files, for 3DPW's 14 points of papers"
    )
    parser.add_argument("--regressor", help="J_regressor_h36m.npy, with --smpl")
    parser.add_argument(
        "--world", action="store_true", help="how AIST++'s dancers stand (`world_scores.py`), and no more"
    )
    parser.add_argument("--out", type=Path, default=Path("real.json"), help="the figures as JSON (%(default)s)")
    args = parser.parse_args()
    if args.out.is_dir():
        parser.error(f"--out {args.out} is a folder; give a file in it, such as {args.out / 'real.json'}")
    if not args.aist and not args.threedpw:
        parser.error("nothing to score: give --aist, --3dpw or both")
    if not args.fps > 0 or not 0 < (1 if args.confidence is None else args.confidence) <= 1:
        parser.error(f"--fps {args.fps:g} is positive, --confidence {args.confidence} above 0 and at most 1")
    if (args.smpl is None) != (args.regressor is None):
        parser.error("--smpl and --regressor go together")
    return args


def main() -> None:
    args = arguments()
    found: dict[str, Any] = {"model": args.model, "against": args.against}
    try:
        networks = {Path(name).stem if i == 0 else f"against {Path(name).stem}": load_network(name)
                    for i, name in enumerate(filter(None, (args.model, args.against)))}  # fmt: skip
        if args.aist and args.world:
            models = {who: model for who, model in networks.items() if isinstance(model, kinlmr.LMR)}
            found["world"] = {who: aist_table(who, model, args) for who, model in models.items()}
        elif args.aist:
            found["aist"] = score_aist(networks, args)
            print(report_aist(found["aist"]["results"]) + "\n")
        if args.threedpw:
            found["3dpw"] = score_3dpw(networks, args)
            print(report_3dpw(found["3dpw"], args.regressor is not None) + "\n")
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from None
    files.write_atomic(args.out, json.dumps(found, indent=1).encode())
    print(f"{args.out} holds these figures, and those of every group")


if __name__ == "__main__":
    main()
