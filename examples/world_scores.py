"""How motion stands in the world: what `evaluate.py --world` and `real.py --world` print."""

import argparse
import math
import multiprocessing
import resource
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aist
import torch
from networks import Network
from scores import HIPS, LIMBS, enough, fitted, smoothed, table, window
from torch import Tensor
from world_clips import CAMERAS, FOCAL, NOISES, SIZE, STILL, Seen, circling, feet, observe, standing, treadmill

import kinlmr
from kinlmr import files, metrics, motion
from kinlmr.motion import clips
from kinlmr.world import floor, knee_change, pose, sole_heights

COLUMNS = {
    "w": "W-MPJPE100, mm", "wa": "WA-MPJPE100", "rte": "RTE, %", "slide": "foot slide, mm/frame", "jitter": "jitter",
    "up": "up, degrees", "floor": "floor, mm",
}  # fmt: skip
STANDING = {
    "ankle precision": "ankles: precision, %", "ankle recall": "recall", "toe precision": "toes: precision, %",
    "toe recall": "recall", "knee": "knee by the lock, degrees", "knee at most": "at most",
}  # fmt: skip
PARTS = "ankle", "toe"
COUNTED = ["frames", *(f"{part} {what}" for part in PARTS for what in ("hits", "said", "true"))]
VIEWS = tuple(view for view in CAMERAS if view != "any")
METHODS = ("recover", "to_world", "to_world, keypoints", "live", "live, keypoints")
LONGEST, SHORTEST = 20.0, 3.4  # seconds of a clip
FEWER, MORE = 1000, 3000  # frames whose memory is compared
Row = dict[str, float]
Pair = tuple[kinlmr.Recovery, kinlmr.Recovery]


@torch.no_grad()
def recovered(model: kinlmr.LMR, keypoints: Tensor, fps: float) -> Pair:
    """By what was seen so far, and of the whole clip."""
    return kinlmr.recover(model, keypoints, fps)[0], kinlmr.recover_clip(model, keypoints, fps)


def level_camera(body: kinlmr.Body, recovery: kinlmr.Recovery) -> kinlmr.World:
    """What recover says, alone: a level camera assumed, one shape, feet where they come."""
    rotations, translation = recovery.in_camera(SIZE, FOCAL, body)
    shape = recovery.shape.mean(-2, keepdim=True).expand_as(recovery.shape)
    rotations, translation = kinlmr.export.upright(body, rotations, shape, translation)
    contact = translation.new_zeros(*translation.shape[:-1], 2, 2)
    return kinlmr.World(
        rotations, translation, shape, contact, translation.new_tensor((0.0, -1.0, 0.0)).expand_as(translation)
    )


def worlds(
    body: kinlmr.Body, seen: Seen, live: kinlmr.Recovery, whole: kinlmr.Recovery
) -> Iterator[tuple[str, kinlmr.World, Tensor]]:
    """Each method of METHODS, its world, and its rotations before standing feet were locked."""
    start = kinlmr.WorldState.initial(1)
    for method in METHODS:
        keypoints = seen.keypoints if "keypoints" in method else None
        if method == "recover":
            yield method, level_camera(body, live), live.rotations
        elif "live" in method:
            one = kinlmr.Recovery(*(x[None] for x in live))
            given = None if keypoints is None else keypoints[None]
            world, _ = kinlmr.to_world(one, seen.fps, SIZE, FOCAL, body=body, keypoints=given, state=start)
            loose, _ = pose.followed(one.rotations, one.box[..., 2] > 0, seen.fps, start.parts().pose)
            yield method, kinlmr.World(*(x[0] for x in world)), loose[0]
        else:
            loose = pose.smoothed(whole.rotations[None], whole.box[None, :, 2] > 0, seen.fps)
            yield method, kinlmr.to_world(whole, seen.fps, SIZE, FOCAL, body=body, keypoints=keypoints), loose[0]


def stood(body: kinlmr.Body, world: kinlmr.World, seen: Seen, loose: Tensor) -> Row:
    """Of ankles and toes, how often both say that one stands, the world does and the truth does; and how far the lock
    bends knees, degrees. loose (T, J, 3, 3): rotations before it."""
    stands, said = standing(seen.joints, body.joints, seen.fps), world.contact > 0.5
    found: Row = {}
    for i, part in enumerate(PARTS):
        for what, x in ("hits", stands & said), ("said", said), ("true", stands):
            found[f"{part} {what}"] = float(x[..., i].sum())
    found["knee"], found["knee at most"] = knee_change(body, loose, world.rotations)
    return found


def score(body: kinlmr.Body, world: kinlmr.World, seen: Seen, similarity: bool) -> Row:
    """The figures of one clip, from the frame on in which somebody was first seen."""
    from_here = int(world.translation.isfinite().all(-1).to(torch.int8).argmax())
    rotations, shape, translation = (x[from_here:] for x in (world.rotations, world.shape, world.translation))
    joints = body(rotations, shape, translation).joints
    truth, chosen = seen.joints[from_here:], feet(body.joints)
    count = round(100 * seen.fps / 30)
    stands = standing(truth, body.joints, seen.fps)
    up = seen.camera @ torch.tensor([0.0, 1.0, 0.0])
    heights = [own[:, chosen, 1] - sole_heights(body) for own in (joints, truth)]
    if not world.contact.any():  # recover alone: its floor is where it stands
        heights[0] = heights[0] - floor.level_of(
            heights[0].unflatten(1, (2, 2)).amin(-1)[None], stands.any(-1)[None].float()
        )
    heights[1] = heights[1] - floor.level_of(
        heights[1].unflatten(1, (2, 2)).amin(-1)[None], stands.any(-1)[None].float()
    )
    off = (heights[0] - heights[1]).abs()[stands.flatten(1)]
    cosine = (torch.nn.functional.normalize(world.up[-1], dim=0) * up).sum().clamp(-1, 1)
    return {
        "frames": float(len(truth)),
        "w": float(metrics.w_mpjpe(joints, truth, count, similarity=similarity).mean()),
        "wa": float(metrics.w_mpjpe(joints, truth, count, whole=True, similarity=similarity).mean()),
        "rte": float(metrics.rte(joints[:, body.root], truth[:, body.root])),
        "slide": float(metrics.foot_slide(joints[:, chosen], truth[:, chosen], STILL / seen.fps)),
        "jitter": float(metrics.jitter(joints, seen.fps)),
        "up": math.degrees(math.acos(float(cosine))),
        "floor": 1000 * float(off.mean()),
    }


def score_world(
    model: kinlmr.LMR, pieces: list[motion.Motion], body: kinlmr.Body, view: str, noise: str, similarity: bool
) -> dict[str, Row]:
    """The figures of each method over all pieces seen by one kind of camera: means over frames, of up the median."""
    rows: dict[str, list[Row]] = {}
    for number, piece in enumerate(pieces):
        seen = observe(piece, body, view, noise, number)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            for method, world, loose in worlds(body, seen, *recovered(model, seen.keypoints, seen.fps)):
                row = score(body, world, seen, similarity) | stood(body, world, seen, loose)
                rows.setdefault(method, []).append(row)
        print(f"{view}, {noise}: {number + 1} of {len(pieces)}", file=sys.stderr, end="\r", flush=True)
    return {method: mean(own) for method, own in rows.items()}


def mean(rows: list[Row]) -> Row:
    found = {}
    for name in rows[0]:
        pairs = [(row[name], row["frames"]) for row in rows if math.isfinite(row[name])]
        if name == "up":
            found[name] = float(torch.tensor([x for x, _ in pairs]).median())
        elif name == "knee at most":
            found[name] = max(x for x, _ in pairs)
        elif name in COUNTED:
            found[name] = sum(row[name] for row in rows)
        else:
            found[name] = sum(x * n for x, n in pairs) / max(sum(n for _, n in pairs), 1)
    for part in PARTS:
        for name, of in ("precision", "said"), ("recall", "true"):
            found[f"{part} {name}"] = 100 * found[f"{part} hits"] / max(found[f"{part} {of}"], 1)
    return found


def world_pieces(recordings: list[motion.Motion], body: kinlmr.Body, fps: float, thin: int) -> list[motion.Motion]:
    """Every thin-th piece of LONGEST seconds at most, SHORTEST at least, at a rate, without treadmills."""
    same = [m if motion.same_rate(m.fps, fps) else motion.resampled(m, fps) for m in recordings]
    found = clips.pieces(same, round(LONGEST * fps), round(SHORTEST * fps))
    return [piece for piece in found if not treadmill(piece, body)][::thin]


Setting = tuple[float, bool, str, str]


def settings(args: argparse.Namespace) -> list[Setting]:
    """Rate, whether paths are bent, noise and camera: the first of each, by every camera; and the first camera's, at
    every rate, straight and bent, with every noise."""
    views, paths = args.world or VIEWS, (False, True)[: 1 + args.circling]
    cameras = [(args.fps[0], False, args.detector[0], view) for view in views]
    others = [(fps, bent, noise, views[0]) for fps in args.fps for bent in paths for noise in args.detector]
    return list(dict.fromkeys(cameras + others))


def world_tables(
    networks: dict[str, Network], recordings: list[motion.Motion], body: kinlmr.Body, args: argparse.Namespace
) -> dict[str, Any]:
    """Every model's figures by setting and method, printed as tables as they come."""
    if unknown := set(args.detector) - set(NOISES):
        raise SystemExit(f"--detector {', '.join(unknown)}: there are {', '.join(NOISES)}")
    pieces = {fps: world_pieces(recordings, body, fps, args.thin) for fps in args.fps}
    if not all(pieces.values()):
        raise SystemExit(f"--world takes pieces of {SHORTEST:g} seconds, and there is none")
    first = pieces[args.fps[0]]
    minutes = sum(map(len, first)) / args.fps[0] / 60
    fit = "similarities" if args.similarity else "rigid motions"
    print(f"{minutes:.1f} minutes, {len(first)} pieces, {fit}\n")
    found: dict[str, Any] = {}
    for who, model in networks.items():
        if not isinstance(model, kinlmr.LMR):
            continue
        standing_rows: dict[str, list[float]] = {}
        for fps, bent, noise, view in settings(args):
            some = [circling(piece, body) for piece in pieces[fps]] if bent else pieces[fps]
            rows = score_world(model, some, body, view, noise, args.similarity)
            title = f"camera {view}, noise {noise}, {fps:g} fps" + ", circling" * bent
            found.setdefault(who, {})[title] = rows
            shown = {name: [row[key] for key in COLUMNS] for name, row in rows.items()}
            print(table(f"{who}, {title}", list(COLUMNS.values()), shown) + "\n", flush=True)
            for name in (name for name in METHODS if "keypoints" in name):
                standing_rows[f"{title}: {name}"] = [rows[name][key] for key in STANDING]
        print(table(f"{who}, what stands", list(STANDING.values()), standing_rows) + "\n", flush=True)
    if args.memory:
        found["memory"] = memory(args.model)
    return found


# ------------------------------------------------------------------------------------------------------------- memory


def memory(name: str) -> dict[str, int]:
    """Bytes of one person, printed: what a frame of a whole clip takes at most in `recover_clip` and `to_world`, what
    is kept of it, and what is remembered live."""
    context, peaks = multiprocessing.get_context("spawn"), []
    for frames in (FEWER, MORE):
        with context.Pool(1) as pool:
            peaks.append(pool.apply(peak, (name, frames)))
    (low, _), (high, kept) = peaks
    state = sum(x.numel() * x.element_size() for x in kinlmr.WorldState.initial(1))
    found = {"at most": (high - low) // (MORE - FEWER), "kept": kept // MORE, "live": state}
    print(f"memory, bytes of one person: {found['at most']} a frame at most, {found['kept']} of its keypoints, "
          f"Recovery and World; live {found['live']} in all\n")  # fmt: skip
    return found


@torch.no_grad()
def peak(name: str, frames: int) -> tuple[int, int]:
    """The most bytes that this process had once somebody in so many frames stood, and those of input and answers."""
    model = kinlmr.load(name)
    body = kinlmr.load_body("anny24", keypoints="coco17")
    points = body(model.rotation.to_matrix(model.start.pose), want=("keypoints",)).keypoints
    pixels = points * torch.tensor([1.0, -1.0, 1.0]) * FOCAL / 4 + torch.tensor([*SIZE, 0.0]) / 2
    pixels[..., 2] = 1
    keypoints = pixels + torch.randn(frames, 17, 1, generator=torch.Generator().manual_seed(0)) * pixels.new_tensor(
        [1, 1, 0]
    )
    recovery = kinlmr.recover_clip(model, keypoints, 30)
    world = kinlmr.to_world(recovery, 30, SIZE, FOCAL, body=body, keypoints=keypoints)
    kept = sum(x.untyped_storage().nbytes() for x in (keypoints, *recovery, *world))
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, kept


# ------------------------------------------------------------------------------------------------------- real: AIST++


def aist_table(who: str, model: kinlmr.LMR, args: argparse.Namespace) -> dict[str, Any]:
    """`score_aist`, printed by view: medians of up over the clips, means of the slide."""
    found = score_aist(model, args.aist, args.clips, args.fps)
    rows: dict[str, list[float]] = {}
    for view in sorted({view for _, view in found["up"]}):
        ups = torch.tensor([x for (_, v), x in found["up"].items() if v == view])
        slides = torch.tensor([x for (_, v), x in found["slide"].items() if v == view])
        rows[f"c{view + 1:02}"] = [float(ups.median()), *slides.nanmean(0).tolist()]
    slides = torch.tensor(list(found["slide"].values()))
    rows["all"] = [float(torch.tensor(list(found["up"].values())).median()), *slides.nanmean(0).tolist()]
    columns = ["up, degrees", "ankles slide, mm/frame: recover", "to_world"]
    print(table(f"{who}, {args.fps:g} frames a second", columns, rows) + "\n")
    return {"by view": rows}


def score_aist(model: kinlmr.LMR, folder: Path, names: list[str], fps: float) -> dict[str, Any]:
    """Up in degrees (clips, views) and the slide of ankles, mm a frame, of recover alone and of to_world."""
    body = kinlmr.load_body("anny24", keypoints="coco17")
    ups, slides = {}, {}
    paths, _ = aist.paths(folder, names)
    for path in paths:
        clip, arrays = aist.read(path), files.read_npz(path, ["K"])
        step = max(1, round(clip.fps / fps))
        seen, truth = clip.keypoints[:, ::step], clip.in_cameras()
        matrix = torch.as_tensor(arrays["K"]).float()
        for view in range(len(seen)):
            keypoints = seen[view].clone()
            keypoints[..., :2] -= matrix[view, :2, 2] - torch.tensor([960.0, 540.0])
            size, focal = (1920.0, 1080.0), float(matrix[view, 0, 0])
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                live, whole = recovered(model, keypoints, clip.fps / step)
                world = kinlmr.to_world(whole, clip.fps / step, size, focal, body=body, keypoints=keypoints)
                rotations, translation = live.in_camera(size, focal, body)
                points = [
                    body(*x, want=("keypoints",)).keypoints.double()
                    for x in ((rotations, live.shape, translation), (world.rotations, world.shape, world.translation))
                ]
            gravity = torch.as_tensor(clip.rotation[view]).double() @ torch.tensor([0.0, 1, 0], dtype=torch.float64)
            up = world.up[-1].double()
            ups[clip.name, view] = math.degrees(math.acos(float((up * gravity).sum().clamp(-1, 1))))
            slides[clip.name, view] = [ankle_slide(p, truth[view], clip.fps, step) for p in points]
    return {"up": ups, "slide": slides}


def ankle_slide(points: Tensor, truth: Tensor, fps: float, step: int) -> float:
    """Mean movement of predicted ankles (T, 17, 3), mm in ``step`` frames, where true ones (T step, 17, 3), smoothed,
    move under 10 mm in a thirtieth of a second; one scale of the whole clip."""
    calm = smoothed(truth[None], window(fps))[0][::step]
    known = enough(truth[None])[0][::step]
    middle = known[:, HIPS].mean(1, keepdim=True)
    mine = (points - points[:, HIPS].mean(1, keepdim=True))[:, LIMBS]
    scale = fitted(mine[None], (known[:, LIMBS] - middle)[None])[0]
    moved = (calm[1:, 15:17] - calm[:-1, 15:17]).norm(dim=-1) * fps / step / 30 < 0.010
    slid = 1000 * scale * (points[1:, 15:17] - points[:-1, 15:17])
    return float(slid.norm(dim=-1)[moved].mean())
