"""How motion stands in the world: what `evaluate.py --world` and `real.py --world` print."""

import argparse
import math
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
from world_clips import CAMERAS, FOCAL, NOISES, SIZE, STILL, Seen, feet, observe, standing, treadmill

import kinlmr
from kinlmr import files, metrics, motion
from kinlmr.motion import clips
from kinlmr.world import floor, sole_heights

COLUMNS = {
    "w": "W-MPJPE100, mm", "wa": "WA-MPJPE100", "rte": "RTE, %", "slide": "foot slide, mm/frame", "jitter": "jitter",
    "up": "up, degrees", "floor": "floor, mm",
}  # fmt: skip
VIEWS = tuple(view for view in CAMERAS if view != "any")
METHODS = ("recover", "to_world", "to_world, keypoints", "live", "live, keypoints")
LONGEST, SHORTEST = 20.0, 3.4  # seconds of a clip
Row = dict[str, float]


def recovered(model: kinlmr.LMR, keypoints: Tensor, fps: float) -> tuple[kinlmr.Recovery, kinlmr.Recovery]:
    """By what was seen so far, and of the whole clip."""
    live, _ = kinlmr.recover(model, keypoints, fps)
    clip = getattr(kinlmr, "recover_clip", None)
    return live, live if clip is None else clip(model, keypoints, fps)


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
    model: kinlmr.LMR, body: kinlmr.Body, seen: Seen, methods: tuple[str, ...]
) -> Iterator[tuple[str, kinlmr.World]]:
    live, whole = recovered(model, seen.keypoints, seen.fps)
    for method in methods:
        keypoints = seen.keypoints if "keypoints" in method else None
        if method == "recover":
            yield method, level_camera(body, live)
        elif "live" in method:
            one = kinlmr.Recovery(*(x[None] for x in live))
            some = None if keypoints is None else keypoints[None]
            state = kinlmr.WorldState.initial(1)
            world, _ = kinlmr.to_world(one, seen.fps, SIZE, FOCAL, body=body, keypoints=some, state=state)
            yield method, kinlmr.World(*(x[0] for x in world))
        else:
            yield method, kinlmr.to_world(whole, seen.fps, SIZE, FOCAL, body=body, keypoints=keypoints)


def score(body: kinlmr.Body, world: kinlmr.World, seen: Seen, similarity: bool) -> Row:
    """The figures of one clip, from the frame on in which somebody was first seen."""
    from_here = int(world.translation.isfinite().all(-1).to(torch.int8).argmax())
    joints = body(world.rotations[from_here:], world.shape[from_here:], world.translation[from_here:]).joints
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
    model: kinlmr.LMR, pieces: list[motion.Motion], body: kinlmr.Body, view: str, noise: str, similarity: bool,
    methods: tuple[str, ...] = METHODS,
) -> dict[str, Row]:  # fmt: skip
    """The figures of each method over all pieces seen by one kind of camera: means over frames, of up the median."""
    rows: dict[str, list[Row]] = {}
    for number, piece in enumerate(pieces):
        seen = observe(piece, body, view, noise, number)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            for method, world in worlds(model, body, seen, methods):
                rows.setdefault(method, []).append(score(body, world, seen, similarity))
        print(f"{view}, {noise}: {number + 1} of {len(pieces)}", file=sys.stderr, end="\r", flush=True)
    return {method: mean(own) for method, own in rows.items()}


def mean(rows: list[Row]) -> Row:
    found = {}
    for name in rows[0]:
        pairs = [(row[name], row["frames"]) for row in rows if math.isfinite(row[name])]
        if name == "up":
            found[name] = float(torch.tensor([x for x, _ in pairs]).median())
        elif name == "frames":
            found[name] = sum(row[name] for row in rows)
        else:
            found[name] = sum(x * n for x, n in pairs) / max(sum(n for _, n in pairs), 1)
    return found


def world_pieces(recordings: list[motion.Motion], body: kinlmr.Body, fps: float, thin: int) -> list[motion.Motion]:
    """Every thin-th piece of LONGEST seconds at most, SHORTEST at least, at a rate, without treadmills."""
    same = [m if motion.same_rate(m.fps, fps) else motion.resampled(m, fps) for m in recordings]
    found = clips.pieces(same, round(LONGEST * fps), round(SHORTEST * fps))
    return [piece for piece in found if not treadmill(piece, body)][::thin]


def world_tables(
    networks: dict[str, Network], pieces: list[motion.Motion], body: kinlmr.Body, args: argparse.Namespace
) -> dict[str, Any]:
    """Every model's figures by camera, noise and method, printed as tables as they come."""
    if unknown := set(args.detector) - set(NOISES):
        raise SystemExit(f"--detector {', '.join(unknown)}: there are {', '.join(NOISES)}")
    pieces, found = world_pieces(pieces, body, args.fps, args.thin), dict[str, Any]()
    if not pieces:
        raise SystemExit(f"--world takes pieces of {SHORTEST:g} seconds, and there is none")
    fit = "similarities" if args.similarity else "rigid motions"
    minutes = sum(map(len, pieces)) / args.fps / 60
    print(f"{minutes:.1f} minutes, {len(pieces)} pieces at {args.fps:g} frames a second, {fit}\n")
    for who, model in networks.items():
        if not isinstance(model, kinlmr.LMR):
            continue
        for noise in args.detector:
            for view in args.world or VIEWS:
                rows = score_world(model, pieces, body, view, noise, args.similarity)
                found.setdefault(who, {}).setdefault(noise, {})[view] = rows
                shown = {name: [row[key] for key in COLUMNS] for name, row in rows.items()}
                print(table(f"{who}, camera {view}, noise {noise}", list(COLUMNS.values()), shown) + "\n", flush=True)
    return found


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
