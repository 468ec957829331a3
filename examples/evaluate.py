"""Score a trained model on recorded motion: streamed whole at 30 fps, from four sides, with noise and without.

    python examples/evaluate.py CHECKPOINT --motion FOLDER --subjects SUBJECT --against OTHER

CHECKPOINT is a file or the name of a shipped model; OTHER is one too, or the baseline.pt of examples/train.py. Where a
recording jumps it is cut, and the state starts anew. PVE is taken of every tenth frame. Tables are printed as Markdown;
--out holds every figure as JSON. With --clip a model's answers to whole clips, by `kinlmr.recover_clip`, stand beside
its streamed ones.

With --shapes N it says what the shape is worth: N people of random shape are seen in three seconds of these recordings,
as in training. Their T-pose by the last frame's shape is compared with the true one, and so is the mean shape's.

With --world it says how motion stands in the world (`kinlmr.to_world`): the recordings, with their paths, are seen by
cameras at rest that look down, up or roll; true feet stand where they are slower than 0.3 m/s. What `kinlmr.recover`
says alone is scored, and what stands on the floor of it: without keypoints and with, whole and live. Every camera is
scored with the first rate and noise, the others with the first camera. Last comes how well contacts are found, of
ankles and toes, and how far knees are bent to hold them.

With --video the checkpoint is compared with what a detector of keypoints says in 3D of real videos (`kinlmr.recover` at
the file's rate): PA-MPJPE over shoulders, elbows, wrists, hips, knees and ankles. That is agreement between the two,
not truth. A file is an .npz of one person in T frames:

    coco17     (T, 17, 3)  x, y in pixels, and confidence, 0 where a point was not found
    world33    (T, 33, 3)  the detector's own 3D of the set mediapipe33 in metres, its axes and origin any right-handed
                           ones; frames that are NaN, or all zero, are not compared
    fps        frames a second
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from networks import Network, load_network
from scores import table
from train import NOISES, VIEWS, chosen
from world_scores import VIEWS as WORLD_VIEWS
from world_scores import world_tables

import kinlmr
from kinlmr import files, metrics, motion
from kinlmr.body.points import keypoint_sets
from kinlmr.camera import from_crop
from kinlmr.keypoints import reported
from kinlmr.motion import clips

SIDES = ("front", "right", "back", "left")  # where the camera stands, by VIEWS
METRICS = {"mpjpe": "MPJPE, mm", "pa_mpjpe": "PA-MPJPE", "pve": "PVE", "accel": "Accel, mm/frame²"}
LONGEST, SHORTEST, THINNED = 900, 3, 10  # frames in memory at once, frames that are scored at least, PVE's every tenth
SHAPED, SOME = 3.0, 50  # seconds; people at once
COMPARED = [f"{side}_{name}" for name in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
            for side in ("left", "right")]  # fmt: skip
Row = dict[str, Any]


@torch.no_grad()
def stream(network: Network, features: torch.Tensor) -> kinlmr.Estimate:
    """Estimates of clips (B, T, F), the state carried over chunks of LONGEST frames; confidences by a model's map."""
    confidence = network.options.get("confidence") if isinstance(network, kinlmr.LMR) else None
    state, parts = network.initial_state(len(features)), []
    features = reported(features, confidence)
    for chunk in features.split(LONGEST, 1):
        estimate, state = network(chunk, state=state)
        parts.append(estimate)
    return kinlmr.Estimate(*(torch.cat(x, 1) for x in zip(*parts, strict=True)))


@torch.no_grad()
def answered(network: Network, clip: clips.Clips, fps: float, whole: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotations (B, T, J, 3, 3) and shape (B, T, S) of clips, streamed, or ``whole`` by `kinlmr.recover_clip`."""
    if whole and isinstance(network, kinlmr.LMR):
        seen = clip.features.unflatten(2, (-1, 3))
        pixels = torch.cat([from_crop(seen[..., :2], clip.box), seen[..., 2:]], -1)
        return kinlmr.recover_clip(network, pixels, fps)[:2]
    estimate = stream(network, clip.features)
    return network.matrices(estimate), estimate.shape


def scored(
    network: Network, piece: motion.Motion, body: kinlmr.Body, plan: kinlmr.Plan, noise: clips.Noise, seed: int,
    whole: bool = False,
) -> list[Row]:  # fmt: skip
    """The figures of a piece of a recording from every side, in mm. A piece has the same noise for every network."""
    seen = [clips.whole(piece, body, yaw, torch.Generator().manual_seed(4 * seed + i), noise)
            for i, yaw in enumerate(VIEWS)]  # fmt: skip
    clip = clips.Clips(*map(torch.cat, zip(*seen, strict=True)))
    rotations, shape = answered(network, clip, piece.fps, whole)
    joints = body(rotations, shape).joints
    pairs = (rotations, shape), (clip.rotations, clip.shape[:, None].expand_as(shape))
    meshes = [body(r[:, ::THINNED], s[:, ::THINNED], want=("joints", "vertices")) for r, s in pairs]
    found = {
        "mpjpe": metrics.mpjpe(joints, clip.joints, body.root),
        "pa_mpjpe": metrics.pa_mpjpe(joints, clip.joints),
        "pve": metrics.pve(*(mesh.vertices - mesh.joints[..., [body.root], :] for mesh in meshes)),
        "accel": metrics.accel(joints, clip.joints),
    }
    errors = metrics.joint_errors(joints, clip.joints, body.root)
    parts = {name: x.mean(-1) for name, x in metrics.by_part(errors, plan).items()}
    return [
        {"recording": piece.name, "action": piece.action or piece.name, "view": side, "frames": len(piece)}
        | {name: float(x[i]) for name, x in (found | parts).items()}
        for i, side in enumerate(SIDES)
    ]


def mean(rows: Iterable[Row], name: str, lost: int = 0) -> float:
    """The mean over frames, where a figure needs ``lost`` frames more than it measures."""
    pairs = [(row[name], row["frames"] - lost) for row in rows]
    return sum(value * count for value, count in pairs) / sum(count for _, count in pairs)


def summary(rows: list[Row]) -> dict[str, float]:
    """The four metrics of rows, frame by frame alike."""
    return {name: mean(rows, name, 2 if name == "accel" else 0) for name in METRICS}


def grouped(rows: list[Row], key: str) -> dict[str, dict[str, float]]:
    """The summaries of rows by action or view, with the frames they were made of."""
    groups = {row[key]: [other for other in rows if other[key] == row[key]] for row in rows}
    return {name: {**summary(own), "frames": sum(r["frames"] for r in own)} for name, own in sorted(groups.items())}


def report(results: dict[str, dict[str, Row]]) -> str:
    """All tables: results by network and noise. By action and view: MPJPE and PA-MPJPE; by part: MPJPE."""
    runs = [(who, noise, result) for who, own in results.items() for noise, result in own.items()]
    overall = {f"{who}, noise {noise}": [r["overall"][name] for name in METRICS] for who, noise, r in runs}
    texts = ["### Overall\n\n" + table("", list(METRICS.values()), overall)]
    first = runs[0][2]
    for key in ("actions", "views", "parts"):
        columns: list[str] = []
        rows: dict[str, list[float]] = {name: [] for name in first[key]}
        for who, noise, result in runs:
            shown = ["mpjpe"] if key == "parts" else ["mpjpe", "pa_mpjpe"]
            columns += [f"{who}, {noise}: {METRICS[name]}" for name in shown]
            for name, row in rows.items():
                row += [result[key][name]] if key == "parts" else [result[key][name][x] for x in shown]
        texts.append(f"### By {key[:-1]}\n\n" + table("", columns, rows))
    return "\n\n".join(texts)


# -------------------------------------------------------------------------------------------------------------- shapes


@torch.no_grad()
def shaped(network: Network, source: clips.Bank, body: kinlmr.Body, count: int, noise: clips.Noise) -> dict[str, Row]:
    """Of ``count`` people of random shape, in mm: how far the T-pose's vertices and the height are off, by the shape of
    a clip's last frame, and by the mean shape."""
    true, said, frames = [], [], round(SHAPED * source.fps)
    for begin in range(0, count, SOME):  # whatever the noise, the same people in the same motion
        generator, size = torch.Generator().manual_seed(begin), min(SOME, count - begin)
        clip = clips.sample(source, body, size, frames, generator, noise)
        true.append(clip.shape)
        said.append(stream(network, clip.features).shape[:, -1])
    rest = torch.eye(3).expand(len(body.joints), 3, 3)
    shapes = torch.cat(true), torch.cat(said), torch.zeros(count, body.shape_width)
    truth, *others = (body(rest, shape, want=("joints", "vertices")) for shape in shapes)
    height = lambda mesh: mesh.vertices[..., 1].amax(-1) - mesh.vertices[..., 1].amin(-1)  # noqa: E731
    return {
        name: {
            "vertices": float(metrics.pve(*(m.vertices - m.joints[:, [body.root]] for m in (mesh, truth)))),
            "height": 1e3 * float((height(mesh) - height(truth)).abs().mean()),
        }
        for name, mesh in zip(("estimated", "mean shape"), others, strict=True)
    }


def shape_report(results: dict[str, dict[str, Row]]) -> str:
    rows = {run: [own[name][key] for name in own for key in ("vertices", "height")] for run, own in results.items()}
    columns = [f"{name}: {key}, mm" for name in ("estimated", "mean shape") for key in ("vertices", "height")]
    return "### Shape: people of random shape in the T-pose\n\n" + table("", columns, rows)


# --------------------------------------------------------------------------------------------------------------- video


def read_video(path: str) -> tuple[torch.Tensor, torch.Tensor, float]:
    """A file of --video: keypoints (T, 17, 3), world (T, 33, 3), frames a second."""
    arrays, shapes = files.read_npz(path), {"coco17": 17, "world33": 33}
    missing = [key for key in (*shapes, "fps") if key not in arrays]
    if missing:
        raise ValueError(f"{path} has {', '.join(arrays) or 'nothing'}; it lacks {', '.join(missing)}")
    frames = len(arrays["coco17"]) if arrays["coco17"].ndim else 0
    for key, points in shapes.items():
        seen = arrays[key]
        if seen.shape != (frames, points, 3) or seen.dtype.kind not in "fiu" or not frames:
            raise ValueError(f"{path}: {key} is {seen.dtype} of {seen.shape}; expected are numbers (T, {points}, 3)")
    if arrays["fps"].size != 1 or arrays["fps"].dtype.kind not in "fiu":
        raise ValueError(f"{path}: fps is {arrays['fps'].dtype} of {arrays['fps'].shape}; expected is one number")
    keypoints, world = (torch.from_numpy(arrays[key].astype(np.float32)) for key in shapes)
    return keypoints, world, arrays["fps"].item()


@torch.no_grad()
def agreement(model: kinlmr.LMR, path: str, body: kinlmr.Body) -> Row:
    """PA-MPJPE in mm between a model and the detector of a video, all COMPARED points and each; and the mean pose's."""
    keypoints, world, fps = read_video(path)
    assert body.keypoints is not None
    sets = keypoint_sets()
    recovery, _ = kinlmr.recover(model, keypoints, fps)
    start = model.rotation.to_matrix(model.start.pose), model.start.shape
    kept = world.isfinite().flatten(1).all(1) & world.flatten(1).any(1) & (recovery.box[:, 2] > 0)
    if not kept.any():
        raise ValueError(f"{path}: no frame has both keypoints and world33")
    truth = world[kept][:, [sets["mediapipe33"].index(name) for name in COMPARED]]
    errors = []
    for rotations, shape in ((recovery.rotations, recovery.shape), start):
        points = body(rotations, shape, want=("keypoints",)).keypoints.expand(len(world), -1, -1)[kept]
        mine = points[:, [body.keypoints.names.index(name) for name in COMPARED]]
        errors.append(metrics.joint_errors(metrics.procrustes(mine, truth), truth, root=None))
    named = {name: float(error) for name, error in zip(COMPARED, errors[0].mean(0), strict=True)}
    return {"frames": len(truth), "pa_mpjpe": float(errors[0].mean()), "mean pose": float(errors[1].mean()), **named}


def video_report(results: dict[str, dict[str, Row]]) -> str:
    """PA-MPJPE by network and video, and over the frames of all; the mean pose says how much there was to find."""
    first = next(iter(results.values()))
    columns = [*(f"{Path(path).stem}, {row['frames']} frames" for path, row in first.items()), "all frames"]
    rows = {}
    for who, own in results.items():
        for name, key in ((who, "pa_mpjpe"), (f"{who}: its mean pose", "mean pose")):
            rows[name] = [*(row[key] for row in own.values()), mean(own.values(), key)]
    return "### Real video: agreement with the detector's own 3D, not truth\n\n" + table("PA-MPJPE, mm", columns, rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a checkpoint, or the name of a shipped model")
    parser.add_argument("--motion", nargs="+", default=[], help="BVH, AMASS or archives; files or folders")
    parser.add_argument("--video", nargs="+", default=[], help=".npz of a detector's keypoints and own 3D, see above")
    parser.add_argument("--subjects", nargs="*", default=[], help="subjects or beginnings of names; all without it")
    parser.add_argument("--leave", nargs="*", default=[], help="subjects or beginnings of names: left out")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every N-th piece only (%(default)s)")
    parser.add_argument("--clip", action="store_true", help="whole clips by kinlmr.recover_clip, too")
    parser.add_argument("--shapes", type=int, default=0, metavar="N", help="how many people of random shape to score")
    parser.add_argument("--world", nargs="*", metavar="CAMERA", choices=WORLD_VIEWS,
                        help="in the world, by such cameras; all without any: " + ", ".join(WORLD_VIEWS))  # fmt: skip
    parser.add_argument(
        "--detector", nargs="+", default=["slow", "off", "limbs"], help="noises of --world (slow off limbs)"
    )
    parser.add_argument("--fps", type=float, nargs="+", default=[30.0], help="rates of --world (30)")
    parser.add_argument("--circling", action="store_true", help="in --world, on bent paths too: 35 degrees a second")
    parser.add_argument("--memory", action="store_true", help="in --world, the bytes of a frame and person too")
    parser.add_argument("--thin", type=int, default=1, metavar="N", help="every Nth piece of --world")
    parser.add_argument("--similarity", action="store_true", help="W- and WA-MPJPE with a scale, as WHAM's and GVHMR's")
    parser.add_argument("--against", help="a second checkpoint, or examples/train.py's baseline.pt")
    parser.add_argument(
        "--noise",
        nargs="+",
        default=["usual", "off", "wide"],
        choices=NOISES,
        help="of the keypoints, as training names it (usual off wide)",
    )
    parser.add_argument("--out", type=Path, default=Path("evaluation.json"), help="the figures as JSON (%(default)s)")
    args = parser.parse_args()
    if args.out.is_dir():
        parser.error(f"--out {args.out} is a folder; give a file in it, such as {args.out / 'evaluation.json'}")
    if args.every < 1:
        parser.error(f"--every {args.every}: give 1 or more")
    if args.shapes < 0 or (args.shapes and not args.motion):
        parser.error(f"--shapes {args.shapes}: give how many people, 1 or more, and recordings with --motion")
    return args


def wanted(recordings: list[motion.Motion], args: argparse.Namespace) -> list[motion.Motion]:
    """The recordings of --subjects without those of --leave, cut where they jump."""
    recordings = chosen(recordings, args.subjects) if args.subjects else recordings
    leave = chosen(recordings, args.leave)
    pieces = clips.pieces([m for m in recordings if not any(m is other for other in leave)], shortest=SHORTEST)
    pieces = pieces[:: args.every]
    if not pieces:
        raise SystemExit(f"no recording left to score, of {SHORTEST} frames between cuts at least")
    return pieces


def main() -> None:
    args = arguments()
    try:
        networks = {Path(name).stem if i == 0 else f"against {Path(name).stem}": load_network(name)
                    for i, name in enumerate(filter(None, (args.model, args.against)))}  # fmt: skip
        body = kinlmr.load_body("anny24", keypoints="coco17")
        recordings = motion.load_motion(args.motion, body) if args.motion else []
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from None
    if not args.motion and not args.video:
        raise SystemExit("nothing to score: give --motion, --video or both")
    for name, network in networks.items():
        takes = network.options if isinstance(network, kinlmr.LMR) else {"features": 51}
        if (takes["features"], len(network.start.pose)) != (51, len(body.joints)):
            seen = f"{takes['features']} features and {len(network.start.pose)} joints"
            raise SystemExit(f"{name} has {seen}; a model of coco17 has 51, and the body's {len(body.joints)}")
    pieces = wanted(recordings, args) if args.motion else []
    frames, names = sum(map(len, pieces)), sorted({m.name for m in pieces})
    found: Row = {"model": args.model, "against": args.against, "recordings": names, "frames": frames, "results": {}}
    if args.world is not None:
        found["world"] = world_tables(networks, pieces, body, args)
    elif pieces:
        what = f"{frames / pieces[0].fps / 60:.1f} minutes in {len(names)} recordings"
        print(f"{what}, {len(pieces)} pieces between cuts, each streamed whole from {len(SIDES)} sides\n", flush=True)
        plan = kinlmr.compile(kinlmr.load_skeleton("smpl.yaml"))
        runs = [(who, network, False) for who, network in networks.items()]
        runs += [(f"{who}, whole clips", n, True) for who, n, _ in runs if args.clip and isinstance(n, kinlmr.LMR)]
        for who, network, whole in runs:
            for noise in args.noise:
                rows = [row for i, m in enumerate(pieces)
                        for row in scored(network, m, body, plan, NOISES[noise], i, whole)]  # fmt: skip
                result = {"overall": summary(rows), "actions": grouped(rows, "action"), "views": grouped(rows, "view")}
                parts = {name: mean(rows, name) for name in plan.parts}
                found["results"].setdefault(who, {})[noise] = {**result, "parts": parts, "pieces": rows}
        print(report(found["results"]) + "\n")
    if pieces and args.shapes:
        try:
            source = clips.bank(pieces, round(SHAPED * pieces[0].fps))
        except ValueError as error:
            raise SystemExit(f"--shapes takes {SHAPED:g} seconds of a recording: {error}") from None
        found["shapes"] = {f"{who}, noise {noise}": shaped(network, source, body, args.shapes, NOISES[noise])
                           for who, network in networks.items() for noise in args.noise}  # fmt: skip
        print(shape_report(found["shapes"]) + "\n")
    if args.video:
        models = {who: model for who, model in networks.items() if isinstance(model, kinlmr.LMR)}
        if not models:
            raise SystemExit("--video takes models, by kinlmr.recover; a per-frame network is not one")
        try:
            found["video"] = {who: {path: agreement(model, path, body) for path in args.video}
                              for who, model in models.items()}  # fmt: skip
        except (OSError, ValueError) as error:
            raise SystemExit(str(error)) from None
        print(video_report(found["video"]) + "\n")
    files.write_atomic(args.out, json.dumps(found, indent=1).encode())
    print(f"{args.out} holds these figures, and those of every piece and point")


if __name__ == "__main__":
    main()
