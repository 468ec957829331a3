"""Let what another model recovered stand: its file in, everybody's motion on the floor out.

    python examples/stand.py FILE --out FOLDER --fps 30 --body SMPL_NEUTRAL.pkl

FILE is one of these, of a camera at rest:

    VIBE          vibe_output.pkl     {id: {pose, orig_cam or pred_cam and bboxes, betas, frame_ids}}: --size, --focal
    WHAM          wham_output.pkl     {id: {pose, trans, betas, frame_ids}}
    GVHMR         hmr4d_results.pt    {smpl_params_incam: {global_orient, body_pose, transl, betas}}: --body is SMPL-X's
    4D-Humans     demo_*.pkl          PHALP's {frame: {time, tid, tracked_time, smpl, camera, size}}: --focal
    one person    .npz                a row a frame, under the names that smooth.py knows

FOLDER gets person1.bvh, ..., body.glb with everybody, and stand.npz: y up, the floor at 0, metres. Frames have their
numbers' times, from the first on; where a person is away for more than half a second the clip is cut, and until they
come back they keep their last pose. The shape is that of the file's betas with --body, which is your file of the model
that they are of; else the mean of anny24.
"""

import argparse
import itertools
import math
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import smooth
import torch
from results import MOST, Person, View, read
from torch import Tensor

from kinlmr import World, camera, export, files, load_body
from kinlmr.body import Body, embedded
from kinlmr.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from kinlmr.world import settle

FPS = 30.0
GAP = smooth.GAP  # seconds without frames that cut a clip; shorter ones are filled
LEAST = 0.5  # seconds: who is there for less is left out
MODELS = {24: "SMPL", 52: "SMPL-H", 55: "SMPL-X"}  # by the joints of a body
PELVIS = {24: (0.0, -0.23, 0.03), 55: (0.0, -0.36, 0.01)}  # about where their mean bodies have it at rest, metres


def shape_of(path: Path, person: Person, body: Body, known: bool) -> Tensor:
    """A person's shape numbers on a body (S); known: it is the body that the betas are of."""
    shape = torch.zeros(body.shape_width)
    if not known or person.betas is None:
        return shape
    fits = {24: {24}, 22: {52, 55}}[person.rotations.shape[1]]
    if len(body.joints) not in fits:
        raise ValueError(
            f"{path}: its betas are of {' or '.join(MODELS[n] for n in sorted(fits))}, but --body has "
            f"{len(body.joints)} joints, as {MODELS.get(len(body.joints), 'none of these')}; give that model's file"
        )
    if len(person.betas) > len(shape):
        raise ValueError(f"{path}: {len(person.betas)} betas, but --body has {len(shape)} shape numbers")
    shape[: len(person.betas)] = person.betas
    return shape


def _gaps(person: Person, fps: float) -> list[int]:
    """Rows before which a person was away for more than `GAP` seconds."""
    return [int(row) + 1 for row in np.flatnonzero(np.diff(person.frames) > GAP * fps)]


def rows_of(
    person: Person, body: Body, shape: Tensor, known: bool, first: int, frames: int, fps: float
) -> list[tuple[Tensor, Tensor]]:
    """For every run of a person without a gap (rotations (T, J, 3, 3), translation (T, 3) with NaN outside of it)."""
    rest = body.joints_at_rest(shape[None])[0, body.root]
    model = 24 if person.rotations.shape[1] == 24 else 55
    root = person.translation + (rest if known else rest.new_tensor(PELVIS[model]))
    turned = torch.eye(3).repeat(len(root), len(body.joints), 1, 1)
    turned[:, : person.rotations.shape[1]] = person.rotations
    if person.cropped:
        turned[:, body.root] = camera.facing(root) @ turned[:, body.root]
    cuts = [0, *_gaps(person, fps), len(root)]
    found = []
    for start, end in itertools.pairwise(cuts):
        numbers = torch.from_numpy(person.frames[start:end] - first)
        at = torch.arange(frames)
        inside = (at >= numbers[0]) & (at <= numbers[-1])
        at = at.clamp(numbers[0], numbers[-1])
        high = torch.searchsorted(numbers, at)
        low = torch.where(numbers[high] == at, high, high - 1).clamp_min(0)
        part = (at - numbers[low]) / (numbers[high] - numbers[low]).clamp_min(1)
        one, two = turned[start + low], turned[start + high]
        between = one @ axis_angle_to_matrix(part[:, None, None] * matrix_to_axis_angle(one.mT @ two))
        place = torch.lerp(root[start + low], root[start + high], part[:, None]) - rest
        found.append((between, torch.where(inside[:, None], place, torch.nan)))
    return found


def standing(
    path: Path, people: list[Person], body: Body, known: bool, fps: float, height: float | None
) -> list[World]:
    """Everybody on one floor, as `kinlmr.world.settle` has them; each run between gaps by itself."""
    first = min(int(person.frames[0]) for person in people)
    frames = max(int(person.frames[-1]) for person in people) - first + 1
    runs = sum(1 + len(_gaps(person, fps)) for person in people)
    if frames * runs > MOST:
        raise ValueError(
            f"{path}: {runs} runs of {len(people)} people in {frames:,} frames, more than {MOST:,} together; cut the "
            "clip, or leave out by --least who is there briefly"
        )
    rows, names, shapes = [], [], []
    for person in people:
        shape = shape_of(path, person, body, known)
        own = rows_of(person, body, shape, known, first, frames, fps)
        rows += own
        names += [person.name] * len(own)
        shapes += [shape.expand(frames, -1)] * len(own)
    rotations, translation = (torch.stack(x) for x in zip(*rows, strict=True))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        worlds = settle(body, rotations, translation, torch.stack(shapes), fps, height=height)
    for text in dict.fromkeys(str(x.message) for x in said):
        print(re.sub(r"\bperson (\d+)", lambda found: f"person {names[int(found[1])]}", text))
    return [_one([k for k, name in enumerate(names) if name == person.name], worlds) for person in people]


def _one(rows: list[int], worlds: World) -> World:
    """The runs of a person one after another."""
    found = World(*(x[rows[0]] for x in worlds))
    for row in rows[1:]:
        here = worlds.translation[row].isfinite().all(-1)
        found = World(
            *(torch.where(here.view(-1, *[1] * (x.ndim - 1)), worlds[i][row], x) for i, x in enumerate(found))
        )
    return found


def write(folder: Path, body: Body, people: list[Person], worlds: list[World], fps: float) -> None:
    for k, world in enumerate(worlds, 1):
        export.save_bvh(folder / f"person{k}.bvh", body, world, fps=fps)
    if body.faces is not None:
        export.save_glb(folder / "body.glb", body, worlds, fps=fps)
    arrays = {name: torch.stack(x).numpy() for name, x in zip(World._fields, zip(*worlds, strict=True), strict=True)}
    first = min(int(person.frames[0]) for person in people)
    files.write_npz(
        folder / "stand.npz", **arrays, joints=np.array(body.joints), ids=np.array([x.name for x in people]),
        frames=np.arange(first, first + len(worlds[0].up)), fps=np.array(fps),
    )  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="what VIBE, WHAM, GVHMR or 4D-Humans wrote, or an .npz of one person")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write; it is made")
    parser.add_argument("--fps", type=float, help=f"the video's frames per second; {FPS:g} without it")
    parser.add_argument("--body", default="anny24", metavar="FILE", help="your file of the model: SMPL's, or SMPL-X's")
    parser.add_argument("--size", type=float, nargs=2, metavar=("WIDTH", "HEIGHT"), help="of the picture, in pixels")
    parser.add_argument("--focal", type=float, help="focal length in pixels; without it the picture's diagonal")
    parser.add_argument("--height", type=float, help="how tall everybody is, metres; it scales all")
    parser.add_argument("--least", type=float, default=LEAST, help="seconds: who is there for less is left out")
    args = parser.parse_args(argv)
    fps = FPS if args.fps is None else args.fps
    for name, values in (("fps", [fps]), ("size", args.size or [1]), ("focal", [args.focal or 1.0])):
        if not all(0 < x < math.inf for x in values) or (name == "fps" and not 1 <= fps <= 1000):
            expected = "1 to 1000 frames per second" if name == "fps" else "pixels above 0"
            raise ValueError(f"--{name} {' '.join(f'{x:g}' for x in values)}: expected {expected}")
    if args.out.exists() and not args.out.is_dir():
        raise ValueError(f"--out {args.out}: is a file, expected a folder")
    body, known = load_body(args.body), args.body not in embedded()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        everybody = read(args.file, View(args.size and tuple(args.size), args.focal))
    people = [x for x in everybody if len(x.frames) >= args.least * fps]
    if not people:
        raise ValueError(f"{args.file}: of {len(everybody)} people nobody is there for --least {args.least:g} s")
    worlds = standing(args.file, people, body, known, fps, args.height)
    args.out.mkdir(parents=True, exist_ok=True)
    write(args.out, body, people, worlds, fps)
    for line in dict.fromkeys(str(x.message) for x in said):
        print(line)
    if args.fps is None:
        print(f"no --fps: {FPS:g} frames per second are taken")
    if not (known and all(x.betas is not None for x in people)):
        why = "the file has no betas" if known else "the betas need your file of their model, --body"
        print(f"the shape is {body.name}'s mean: {why}")
    if len(people) < len(everybody):
        print(f"left out, there for less than {args.least:g} s: {len(everybody) - len(people)} people")
    for k, person in enumerate(people, 1):
        print(f"person{k}: {person.name}, frames {person.frames[0]} to {person.frames[-1]}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(str(error))
