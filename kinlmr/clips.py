"""From recorded motion to training clips: a body, a camera, keypoints, and the noise of a real detector.

A clip is drawn from recordings (re-timed, mirrored, seen from any side), given a random shape, seen by a camera that
moves a little, and its keypoints are disturbed as a detector's are. Everything is arrays and a seeded generator: one
seed, the same clips. The features of a frame are its K keypoints as (x, y, confidence) in units of the box around
those that are seen, so F = 3 K; a point that is not seen is (0, 0, 0).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from kinlmr.body import Body
from kinlmr.camera import to_crop
from kinlmr.keypoints import normalise
from kinlmr.motion import Motion
from kinlmr.recording import same_rate, sides
from kinlmr.rotations import axis_angle_to_matrix, matrix_to_quaternion, quaternion_to_matrix

SPEEDS = 0.75, 1.33  # how slow and how fast a recording is played
FOCAL = 1000.0  # pixels; the person stands FOCAL pixels right of and below the picture's corner
MIXED, BENT = 0.25, 0.1  # chance that a limb comes from another clip; radians by which every joint is bent


class Noise(NamedTuple):
    """How a detector errs. Lengths are fractions of the person's extent in the image; rates are per second.

    jitter   white error of every point; one in fifty is five times as large
    missing  chance that a point is not found in a frame
    hidden   how often a limb vanishes, for 0.2 to 1 second
    swapped  how often left and right are taken for one another, for 1 to 4 frames
    drift    slow error of every point, of up to one turn a second
    cut      chance that a clip's picture ends above the feet, at the knees or at the waist
    occluded chance that a clip's points behind the trunk are hidden
    guess    chance that a clip's hidden points are guessed, with low confidence, rather than left out
    """

    drift: float = 0.0
    cut: float = 0.0
    occluded: float = 0.0
    guess: float = 0.0
    jitter: float = 0.01
    missing: float = 0.02
    hidden: float = 0.5
    swapped: float = 0.1


USUAL, OFF = Noise(), Noise(jitter=0.0, missing=0.0, hidden=0.0, swapped=0.0)
WIDE = Noise(drift=0.015, cut=0.25, occluded=0.6, guess=0.5)


class Clips(NamedTuple):
    """B clips of T frames. The camera's frame is x right, y down, z forward.

    features (B, T, 3 K); rotations (B, T, J, 3, 3), the root's as the camera sees it; shape (B, S); joints (B, T, J, 3)
    in metres about the root; points (B, T, K, 3) as (x, y, visible): where the keypoints truly are, in the same units;
    start (B), where in its bank a clip begins (`Bank.where` names it).
    """

    features: Tensor
    rotations: Tensor
    shape: Tensor
    joints: Tensor
    points: Tensor
    start: Tensor


@dataclass(frozen=True, eq=False)
class Bank:
    """Recordings end to end, ready to draw from: quaternions (N, J, 4), and the places where a clip may start."""

    joints: tuple[str, ...]
    fps: float
    quaternions: Tensor
    starts: Tensor
    first: Tensor  # (actions) where an action's starts begin
    count: Tensor  # (actions) and how many there are
    names: tuple[str, ...]
    begins: tuple[int, ...]

    def where(self, start: int) -> str:
        """The recording and frame of a place in the bank."""
        which = max(i for i, begin in enumerate(self.begins) if begin <= start)
        return f"{self.names[which]} from frame {start - self.begins[which]}"

    def to(self, device: torch.device | str) -> Bank:
        """The bank on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("quaternions", "starts", "first", "count")}
        return replace(self, **moved)


def bank(motions: Sequence[Motion], frames: int) -> Bank:
    """Recordings of one body and one rate as a bank of clips of ``frames``. No clip crosses a cut or a recording's end.

    Clips are drawn action by action, so that what there is much of (standing, walking) does not drown the rest.
    """
    if not motions:
        raise ValueError("no recordings to draw clips from")
    if len({m.joints for m in motions}) != 1 or not all(same_rate(m.fps, motions[0].fps) for m in motions):
        rates = ", ".join(sorted({f"{m.fps:g}" for m in motions}))
        raise ValueError(
            f"the recordings have different joints or rates ({rates} frames per second); load them for one body "
            "and one rate, as load_motion(paths, body, fps=30) does"
        )
    span = int((frames - 1) * SPEEDS[1]) + 2
    actions: dict[str, list[Tensor]] = {}
    quaternions, place, begins = [], 0, []
    for motion in motions:
        if not motion.rotations.isfinite().all():
            raise ValueError(f"recording {motion.name!r} is not finite")
        q = matrix_to_quaternion(axis_angle_to_matrix(motion.rotations))
        flips = (q[1:] * q[:-1]).sum(-1, keepdim=True).sign().cumprod(0)  # q and -q turn alike: keep to one side
        quaternions.append(torch.cat([q[:1], q[1:] * torch.where(flips == 0, 1.0, flips)]))
        begins.append(place)
        edges = [0, *motion.cuts, len(motion)]
        for low, high in itertools.pairwise(edges):
            if high - low >= span:
                starts = torch.arange(place + low, place + high - span + 1)
                actions.setdefault(motion.action or motion.name, []).append(starts)
        place += len(motion)
    if not actions:
        longest = max(map(len, motions))
        raise ValueError(
            f"no recording holds {span} frames in a row (the longest has {longest}); ask for shorter clips"
        )
    groups = [torch.cat(starts) for starts in actions.values()]
    count = torch.tensor([len(group) for group in groups])
    return Bank(
        motions[0].joints, motions[0].fps, torch.cat(quaternions), torch.cat(groups), count.cumsum(0) - count, count,
        tuple(motion.name for motion in motions), tuple(begins),
    )  # fmt: skip


def draw(
    source: Bank,
    body: Body,
    batch: int,
    frames: int,
    generator: Generator,
    noise: Noise = USUAL,
    augment: bool = True,
) -> Clips:
    """Draw clips, each action as often as any other. ``augment``: re-time, mirror and turn them, and vary the shape."""
    device = source.quaternions.device
    rand = lambda *size: torch.rand(*size, generator=generator, device=generator.device).to(device)  # noqa: E731
    action = torch.multinomial(source.count.sqrt(), batch, True, generator=generator)
    start = source.starts[source.first[action] + (rand(batch) * source.count[action]).long()]
    speed = SPEEDS[0] + (SPEEDS[1] - SPEEDS[0]) * rand(batch) if augment else torch.ones(batch, device=device)
    at = speed[:, None] * torch.arange(frames, device=device)
    low = at.long()
    pair = source.quaternions[start[:, None] + low], source.quaternions[start[:, None] + low + 1]
    rotations = quaternion_to_matrix(torch.lerp(*pair, (at - low)[..., None, None]))
    if augment:
        rotations = torch.where(
            (rand(batch) < 0.5)[:, None, None, None, None], mirror(rotations, source.joints), rotations
        )
        rotations = _varied(rotations, source.joints, rand, lambda *n: torch.randn(*n, generator=generator))
    return see(rotations, body, source.fps, generator, noise, augment)._replace(start=start)


MIX = (
    ("left_collar", "left_shoulder", "left_elbow", "left_wrist", "left_hand"),
    ("right_collar", "right_shoulder", "right_elbow", "right_wrist", "right_hand"),
    ("left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "left_foot", "right_foot"),
    ("spine1", "spine2", "spine3", "neck", "head"),
)


def _varied(
    rotations: Tensor, joints: Sequence[str], rand: Callable[..., Tensor], normal: Callable[..., Tensor]
) -> Tensor:
    """Limbs mixed between the clips of a batch, and every joint bent a little, the same through a clip."""
    batch = len(rotations)
    for limb in MIX:
        at = [joints.index(name) for name in limb]
        mixed = (rand(batch) < MIXED)[:, None, None, None, None]
        other = rotations[rand(batch).argsort()][:, :, at]
        rotations[:, :, at] = torch.where(mixed, other, rotations[:, :, at])
    bend = BENT * normal(batch, 1, len(joints), 3).to(rotations)
    bend[:, :, 0] = 0
    return rotations @ axis_angle_to_matrix(bend)


def whole(motion: Motion, body: Body, yaw: float, generator: Generator, noise: Noise = USUAL) -> Clips:
    """A whole recording as one clip (B = 1), of mean shape, seen by a camera at rest from ``yaw`` radians around it."""
    rotations = axis_angle_to_matrix(motion.rotations)[None].to(body.template)
    turn = axis_angle_to_matrix(torch.tensor([0.0, yaw, 0.0], device=rotations.device))
    rotations = torch.cat([turn @ rotations[:, :, :1], rotations[:, :, 1:]], 2)
    return see(rotations, body, motion.fps, generator, noise, augment=False)


def mirror(rotations: Tensor, joints: Sequence[str]) -> Tensor:
    """The same motion in a mirror, left for right: rotations (..., J, 3, 3) -> the same. Twice is the identity.

    Sides are told from the joints' names (left_hip, LeftHip, l_hip, hip.L); a side without its other is refused.
    """
    pairs = opposite(joints)
    lone = [name for i, (name, (side, _)) in enumerate(zip(joints, sides(joints), strict=True))
            if side and (pairs[i] == i or pairs[pairs[i]] != i)]  # fmt: skip
    if lone or (len(joints) > 1 and all(re.fullmatch(r"joint\d+", name) for name in joints)):
        which = (
            f"joints without their other side: {', '.join(lone)}" if lone else f"joints {joints[0]}, {joints[1]}, ..."
        )
        raise ValueError(f"{which}; a mirror swaps sides by names like left_hip and right_hip: rename them")
    flip = torch.tensor([-1.0, 1.0, 1.0], dtype=rotations.dtype, device=rotations.device)
    return rotations[..., pairs, :, :] * flip[:, None] * flip


def opposite(names: Sequence[str]) -> list[int]:
    """For each name the place of its other side's: left_knee's of right_knee; its own in the middle, or without one."""
    found = sides(names)
    place = {name: i for i, name in enumerate(found)}
    other = {"left": "right", "right": "left", "": ""}
    return [place.get((other[side], rest), i) if side else i for i, (side, rest) in enumerate(found)]


def see(rotations: Tensor, body: Body, fps: float, generator: Generator, noise: Noise, augment: bool) -> Clips:
    """Put a shape and a camera to rotations (B, T, J, 3, 3) in the world's frame, and disturb what it sees."""
    if body.points is None:
        raise ValueError(f"body {body.name!r} has no keypoints; load_body(..., points='coco17') gives it some")
    batch, frames = rotations.shape[:2]
    normal = lambda *size: torch.randn(*size, generator=generator, device=generator.device).to(rotations)  # noqa: E731
    rand = lambda *size: torch.rand(*size, generator=generator, device=generator.device).to(rotations)  # noqa: E731
    shape = normal(batch, body.shape_width) if augment else rotations.new_zeros(batch, body.shape_width)
    yaw, pitch, roll, turn = torch.zeros(4, batch, 1, device=rotations.device, dtype=rotations.dtype)
    distance = rotations.new_full((batch, 1, 1), 4.0)
    if augment:
        yaw, turn = 2 * torch.pi * rand(batch, 1), 0.2 * normal(batch, 1)
        pitch, roll = 0.1 + 0.15 * normal(batch, 1), 0.05 * normal(batch, 1)
        distance = 2.5 * 8.0 ** rand(batch, 1, 1)
    time = torch.arange(frames, device=rotations.device) / fps
    rotations = torch.cat(
        [_camera(yaw + turn * time, pitch, roll)[:, :, None] @ rotations[:, :, :1], rotations[:, :, 1:]], 2
    )

    mesh = body(rotations, shape[:, None], want=("joints", "points"))
    joints, points = (x - mesh.joints[:, :, :1] for x in (mesh.joints, mesh.points))
    image = FOCAL * points[..., :2] / (points[..., 2:] + distance[..., None]) + FOCAL
    found, confidence = disturb(image, points, body.points.names, fps, generator, noise)
    features, box, _ = normalise(torch.cat([found, confidence[..., None]], -1))
    truth = to_crop(image, torch.where(box[..., 2:] > 0, box, 1))
    known = (box[..., None, 2:] > 0).to(truth).expand_as(truth[..., :1])
    place = torch.zeros(batch, dtype=torch.long, device=image.device)
    return Clips(features, rotations, shape, joints, torch.cat([truth, known], -1), place)


def _camera(yaw: Tensor, pitch: Tensor, roll: Tensor) -> Tensor:
    """From the world (y up) to a camera's frame: yaw (B, T), pitch and roll (B, 1), radians -> (B, T, 3, 3)."""
    zero = torch.zeros_like(yaw)
    about = lambda *v: axis_angle_to_matrix(torch.stack(torch.broadcast_tensors(*v), -1))  # noqa: E731
    return about(zero, zero, roll) @ about(torch.pi + pitch, zero, zero) @ about(zero, yaw, zero)


# -------------------------------------------------------------------------------------------------------------- noise

HAND = ("elbow", "wrist", "hand", "thumb", "index", "pinky")
FOOT = ("knee", "ankle", "foot", "heel", "foot_index", "big_toe", "small_toe")
LIMBS = [tuple(f"{side}_{name}" for name in names) for names in (HAND, FOOT) for side in ("left", "right")]


def disturb(
    image: Tensor, points: Tensor, names: Sequence[str], fps: float, generator: Generator, noise: Noise
) -> tuple[Tensor, Tensor]:
    """A detector's view of true points: image (B, T, K, 2), points (B, T, K, 3) in metres -> points as found
    (B, T, K, 2), confidence (B, T, K).

    Without noise the points come back as they are, with confidence one.
    """
    if noise == OFF:
        return image, torch.ones_like(image[..., 0])
    batch, frames, count, _ = image.shape
    on = generator.device
    rand = lambda *size: torch.rand(*size, generator=generator, device=on).to(image)  # noqa: E731
    normal = lambda *size: torch.randn(*size, generator=generator, device=on).to(image)  # noqa: E731
    low, high = image.aminmax(dim=2, keepdim=True)
    extent = (high - low).amax(-1, keepdim=True)
    wild = torch.where(rand(batch, frames, count, 1) < 0.02, 5.0, 1.0)
    error = noise.jitter * wild * normal(*image.shape)
    confidence = (1 - 5 * error.norm(dim=-1) + 0.05 * (rand(batch, frames, count) - 1)).clamp(0.05, 1)
    if noise.drift:
        error = error + noise.drift * rand(batch, 1, 1, 1) * _slow(image, fps, rand, normal)
    found = image + error * extent

    swapped = _spells(batch, frames, 2, noise.swapped / 2, (1, 4), fps, generator).to(image.device)  # arms, legs
    other = torch.tensor(opposite(names), device=image.device)
    limbs = [[name in members for name in names] for members in LIMBS]
    member = torch.tensor(limbs, device=image.device)  # (4, K)
    of = torch.stack([member[:2].any(0), member[2:].any(0)])
    swap = (swapped[..., None] & of).any(2)
    found = torch.where(swap[..., None], found[:, :, other], found)
    confidence = torch.where(swap, confidence[:, :, other], confidence)

    spells = _spells(batch, frames, 4, noise.hidden / 4, (0.2 * fps, fps), fps, generator).to(image.device)
    hidden = (spells[..., None] & member).any(2)
    guessed = rand(batch, 1, 1) < noise.guess
    if noise.occluded:
        trunk = torch.tensor([i for i, name in enumerate(names) if name.endswith(("shoulder", "hip"))])
        inner, outer = image[:, :, trunk].aminmax(dim=2, keepdim=True)
        behind = ((image > inner) & (image < outer)).all(-1) & (
            points[..., 2] > points[:, :, trunk, 2].mean(2, True) + 0.08
        )
        behind = behind & torch.ones(count, dtype=torch.bool).index_fill(0, trunk, False)
        half = rand(batch, frames, 1) < 0.9
        hidden = hidden | (behind & half & (rand(batch, 1, 1) < noise.occluded))
    if noise.cut:
        first = torch.where(rand(batch, 1, 1) < noise.cut, 0.3 + 0.65 * rand(batch, 1, 1), 2.0)
        line = low[:, :1, :, 1] + first * extent[:, :1, :, 0]
        out = image[..., 1] > line
        hidden = hidden | out
        found = torch.where(
            out[..., None] & guessed[..., None],
            torch.stack([found[..., 0], torch.minimum(found[..., 1], line + 0.05 * extent[..., 0])], -1),
            found,
        )
    if noise.guess:
        slow = 0.06 * _slow(image, fps, rand, normal)
        found = torch.where((hidden & guessed)[..., None], found + slow * extent, found)
        confidence = torch.where(
            hidden & guessed,
            (0.3 * rand(batch, 1, count) ** 2 + 0.02 * rand(batch, frames, count)).clamp_min(0.005),
            confidence,
        )
        hidden = hidden & ~guessed
    hidden = hidden | (rand(batch, frames, count) < noise.missing)
    return found, torch.where(hidden, 0.0, confidence)


def _slow(image: Tensor, fps: float, rand: Callable[..., Tensor], normal: Callable[..., Tensor]) -> Tensor:
    """A slow random walk about a constant error, of deviation one: (B, T, K, 2)."""
    batch, frames, count, _ = image.shape
    time = torch.arange(frames, device=image.device)[:, None, None] / fps
    phase = 2 * torch.pi * time * rand(batch, 1, count, 2)
    a, b, c = normal(3, batch, 1, count, 2)
    return (a * phase.sin() + b * phase.cos() + c) / 2**0.5


def _spells(
    batch: int, frames: int, kinds: int, rate: float, lengths: tuple[float, float], fps: float, generator: Generator
) -> Tensor:
    """When something holds that begins at a rate per second and lasts a while, in frames: (B, T, kinds) of bool."""
    before = int(lengths[1]) + 1  # what began before the clip may hold in it
    total = before + frames
    rand = lambda: torch.rand(batch, total, kinds, generator=generator, device=generator.device)  # noqa: E731
    begins = rand() < rate / fps
    now = torch.arange(total, device=generator.device)[None, :, None]
    ends = torch.where(begins, now + lengths[0] + (lengths[1] - lengths[0]) * rand(), 0.0)
    return (ends.cummax(1).values > now)[:, before:]
