"""From recorded motion to training clips: a body, a camera, keypoints, and the noise of a real detector.

A clip is sampled from recordings (re-timed, mirrored, limbs mixed with other clips'), given a random shape, observed by
a camera that moves a little, and its keypoints are disturbed as a detector's are. Everything is arrays and a seeded
generator: one seed, the same clips. Keypoints become features as those of a video do, by `kinlmr.keypoints.normalise`:
(x, y, confidence) in units of a box that follows the person, so F = 3 K; a point that is not seen is (0, 0, 0).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from kinlmr import _moved
from kinlmr.body import Body, rotate_joint
from kinlmr.camera import perspective, to_crop
from kinlmr.keypoints import normalise
from kinlmr.motion.measured import Numbers
from kinlmr.motion.names import opposite, plain_names, sides
from kinlmr.motion.noise import ANY, OFF, REAL, USUAL, WIDE, Noise, disturb, numbers, slow
from kinlmr.motion.recording import Motion, same_rate
from kinlmr.rotations import (
    axis_angle_to_matrix,
    continuous_quaternions,
    matrix_to_axis_angle,
    matrix_to_quaternion,
    quaternion_to_matrix,
)

__all__ = ["ANY", "OFF", "REAL", "USUAL", "WIDE", "Bank", "Clips", "Noise", "augment", "bank", "disturb", "mirror",
           "observe", "opposite", "pieces", "sample", "whole"]  # fmt: skip

SPEEDS = 0.75, 1.33  # how slow and how fast a recording is played
FASTEST = 2.0  # how fast at most, if it runs back where it has gone as far as at SPEEDS[1]
FOCAL = 1000.0  # pixels, of every camera; the root is seen FOCAL pixels right of and below the picture's corner
DISTANCES = 1.8, 20.0  # metres from the camera to the root: drawn between
REST_DISTANCE = 4.0  # the same without augmentation
MIX_CHANCE = 0.4  # that a clip gets a limb of LIMBS from another clip
BEND_ANGLE = 0.6  # radians: the largest deviation of slow rotations of every joint but the root
BEND_RATE = 1.5  # a second: how often they go to and fro at most
TILT_CHANCE = 0.2  # that a clip is rotated as a whole, any way up
FOLD_CHANCE = 0.4  # that a clip's hips, knees and elbows are bent further, and its trunk forward, as near the floor
BACKWARDS_CHANCE = 0.3  # that a clip runs backwards
PITCH = 0.1, 0.25  # radians: mean and spread of how far the camera looks down
LIMITS = {
    "hip": (2.2, (-1.0, 0.0, 0.0)),
    "knee": (2.5, (1.0, 0.0, 0.0)),
    "elbow": (2.4, (0.0, -1.0, 0.0)),
    "spine1": (0.5, (1.0, 0.0, 0.0)),
    "spine2": (0.5, (1.0, 0.0, 0.0)),
}  # radians about the left one's axis
ACTION_POWER = 0.3  # an action is drawn as often as its number of starts to this power
LIMBS = (
    ("left_collar", "left_shoulder", "left_elbow", "left_wrist", "left_hand"),
    ("right_collar", "right_shoulder", "right_elbow", "right_wrist", "right_hand"),
    ("left_hip", "left_knee", "left_ankle", "left_foot"),
    ("right_hip", "right_knee", "right_ankle", "right_foot"),
    ("spine1", "spine2", "spine3", "neck", "head"),
)


class Clips(NamedTuple):
    """B clips of T frames. The camera's frame is x right, y down, z forward.

    features (B, T, 3 K); rotations (B, T, J, 3, 3), the root's as the camera sees it; shape (B, S); joints (B, T, J, 3)
    in metres about the root; keypoints (B, T, K, 3) as (x, y, known): the true ones, in the features' units, known 1,
    or 0 while nobody was found yet; start (B), where in its bank a clip begins (`Bank.where` names it); box (B, T, 3),
    the features' units in pixels: (cx, cy, side), side 0 while nobody was found yet.
    """

    features: Tensor
    rotations: Tensor
    shape: Tensor
    joints: Tensor
    keypoints: Tensor
    start: Tensor
    box: Tensor

    @property
    def points(self) -> Tensor:
        return _moved.renamed("Clips.points", "Clips.keypoints", self.keypoints)


@dataclass(frozen=True, eq=False)
class Bank:
    """Recordings end to end, to sample from: quaternions (N, J, 4), and the frames at which a clip may start."""

    joints: tuple[str, ...]
    fps: float
    quaternions: Tensor
    starts: Tensor
    first: Tensor  # (actions) where an action's starts begin
    count: Tensor  # (actions) and how many there are
    names: tuple[str, ...]
    begins: tuple[int, ...]

    def where(self, start: int) -> str:
        """The recording and frame of a frame of the bank."""
        which = max(i for i, begin in enumerate(self.begins) if begin <= start)
        return f"{self.names[which]} from frame {start - self.begins[which]}"

    def to(self, device: torch.device | str) -> Bank:
        """The bank on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("quaternions", "starts", "first", "count")}
        return replace(self, **moved)


def bank(motions: Sequence[Motion], frames: int) -> Bank:
    """Recordings of one body and one rate as a bank of clips of ``frames``. No clip crosses a cut or a recording's end.

    An action is what the recordings say, or a recording's name where it says none; `sample` draws by them.
    """
    if not motions:
        raise ValueError("no recordings to draw clips from")
    if len({m.joints for m in motions}) != 1 or not all(same_rate(m.fps, motions[0].fps) for m in motions):
        rates = ", ".join(sorted({f"{m.fps:g}" for m in motions}))
        raise ValueError(
            f"the recordings have different joints or rates ({rates} frames per second); load them for one body "
            "and one rate, as load_motion(paths, body, fps=30) does"
        )
    needed = int((frames - 1) * SPEEDS[1]) + 2
    actions: dict[str, list[Tensor]] = {}
    quaternions, first, begins = [], 0, []
    for motion in motions:
        if not motion.axis_angle.isfinite().all():
            raise ValueError(f"recording {motion.name!r} is not finite")
        quaternions.append(continuous_quaternions(matrix_to_quaternion(axis_angle_to_matrix(motion.axis_angle))))
        begins.append(first)
        for low, high in itertools.pairwise([0, *motion.cuts, len(motion)]):
            if high - low >= needed:
                starts = torch.arange(first + low, first + high - needed + 1)
                actions.setdefault(motion.action or motion.name, []).append(starts)
        first += len(motion)
    if not actions:
        longest = max(map(len, motions))
        raise ValueError(
            f"no recording holds {needed} frames in a row (the longest has {longest}); ask for shorter clips"
        )
    groups = [torch.cat(starts) for starts in actions.values()]
    count = torch.tensor([len(group) for group in groups])
    return Bank(
        motions[0].joints, motions[0].fps, torch.cat(quaternions), torch.cat(groups), count.cumsum(0) - count, count,
        tuple(motion.name for motion in motions), tuple(begins),
    )  # fmt: skip


def pieces(motions: Sequence[Motion], longest: int | None = None, shortest: int = 1) -> list[Motion]:
    """Recordings cut where they jump, then to ``longest`` frames at most; pieces under ``shortest`` are left out."""
    found = []
    for motion in motions:
        for low, high in itertools.pairwise([0, *motion.cuts, len(motion)]):
            for start in range(low, high, longest or max(high - low, 1)):
                part = slice(start, min(start + (longest or high), high))
                if part.stop - start >= shortest:
                    axis_angle, translation = motion.axis_angle[part], motion.translation[part]
                    found.append(replace(motion, axis_angle=axis_angle, translation=translation, cuts=()))
    return found


def sample(
    source: Bank,
    body: Body,
    batch: int,
    frames: int,
    generator: Generator,
    noise: Noise = USUAL,
    augment: bool = True,
) -> Clips:
    """Sample ``batch`` clips of ``frames`` at the bank's rate, on its device, with ``noise`` on their keypoints.

    augment: re-time, mirror and `augment` them, and vary shape and camera.

    An action is drawn with a chance in proportion to its number of starts to the power of ACTION_POWER, so that
    frequent ones (standing, walking) do not crowd out the rest; then one of its starts, each with the same chance.
    """
    _check_joints(source.joints, body)
    rand, normal = numbers(generator, source.quaternions)
    action = torch.multinomial((source.count**ACTION_POWER).to(generator.device), batch, True, generator=generator)
    action = action.to(source.count.device)
    start = source.starts[source.first[action] + (rand(batch) * source.count[action]).long()]
    speed = SPEEDS[0] * (FASTEST / SPEEDS[0]) ** rand(batch) if augment else torch.ones(batch).to(source.quaternions)
    at = speed[:, None] * torch.arange(frames, device=start.device)
    at = torch.minimum(at, 2 * SPEEDS[1] * (frames - 1) - at)
    low = at.long()
    pair = source.quaternions[start[:, None] + low], source.quaternions[start[:, None] + low + 1]
    rotations = quaternion_to_matrix(torch.lerp(*pair, (at - low)[..., None, None].to(pair[0])))
    if augment:
        back = (rand(batch) < BACKWARDS_CHANCE)[:, None, None, None, None]
        rotations = torch.where(back, rotations.flip(1), rotations)
        rotations = _mirrored_and_augmented(rotations, source, body, rand, normal)
    return observe(rotations, body, source.fps, generator, noise, augment)._replace(start=start)


def _mirrored_and_augmented(rotations: Tensor, source: Bank, body: Body, rand: Numbers, normal: Numbers) -> Tensor:
    mirrored = (rand(len(rotations)) < 0.5)[:, None, None, None, None]
    rotations = torch.where(mirrored, mirror(rotations, source.joints), rotations)
    return augment(rotations, body, source.fps, rand, normal)


def augment(rotations: Tensor, body: Body, fps: float, rand: Numbers, normal: Numbers) -> Tensor:
    """Mix limbs between the clips of a batch, bend joints, tilt some clips: rotations (B, T, J, 3, 3) -> the same.

    The model is local, so the data may be: arms from one recording go with legs from another. rand and normal draw
    uniform and normal numbers of a size. Limbs are found by SMPL's names; one that the body lacks is not mixed.
    """
    (batch, frames), names, whole = rotations.shape[:2], plain_names(body.joints), rotations
    rotations = rotations.clone()
    for limb in LIMBS:
        at = [j for j, name in enumerate(names) if name in limb]
        mixed = (rand(batch) < MIX_CHANCE)[:, None, None, None, None]
        other = whole[rand(batch).argsort()]
        rotations[:, :, at] = torch.where(mixed, other[:, :, at], whole[:, :, at])
    bend = BEND_ANGLE * rand(batch, 1, 1, 1) ** 2 * slow((batch, frames, len(names), 3), fps / BEND_RATE, rand, normal)
    bend[:, :, body.root] = 0
    tilt = quaternion_to_matrix(normal(batch, 4))[:, None]
    tilted = (rand(batch) < TILT_CHANCE)[:, None, None, None, None]
    rotations = _folded(rotations @ axis_angle_to_matrix(bend), names, body.root, fps, rand, normal)
    return torch.where(tilted, rotate_joint(rotations, body.root, tilt), rotations)


def _folded(rotations: Tensor, names: Sequence[str], root: int, fps: float, rand: Numbers, normal: Numbers) -> Tensor:
    """Some clips with joints bent by a slow share of what is left to their LIMITS, and the trunk forward with them."""
    batch, frames = rotations.shape[:2]
    chosen = (rand(batch) < FOLD_CHANCE)[:, None, None]
    limb = torch.sigmoid(1.5 * slow((batch, frames, 4), fps / BEND_RATE, rand, normal))  # legs, arms, trunk
    forward = 2.2 * (rand(batch, 1) - 0.3) * limb[..., 3]
    angle = torch.zeros_like(rotations[..., 0])
    angle[:, :, root, 0] = torch.where(chosen[..., 0], forward, 0)
    for j, name in enumerate(names):
        side, _, kind = name.rpartition("_")
        if kind not in LIMITS:
            continue
        limit, of_left = LIMITS[kind]
        axis = rotations.new_tensor(of_left) * rotations.new_tensor([1.0, -1.0 if side == "right" else 1.0, 1.0])
        bent = (matrix_to_axis_angle(rotations[:, :, j]) * axis).sum(-1)
        share = limb[..., 3 if not side else 2 if kind == "elbow" else int(side == "right")] * rand(batch, 1)
        angle[:, :, j] = torch.where(chosen, (share * (limit - bent).clamp_min(0))[..., None] * axis, 0)
    turned = axis_angle_to_matrix(angle)
    at_root = torch.arange(len(names), device=angle.device)[:, None, None] == root
    return torch.where(at_root, rotations @ turned, turned @ rotations)


def whole(motion: Motion, body: Body, yaw: float, generator: Generator, noise: Noise = USUAL) -> Clips:
    """A whole recording as one clip (B = 1), of mean shape, rotated by ``yaw`` radians before a camera at rest.

    Its cuts are ignored: give `pieces` of it.
    """
    _check_joints(motion.joints, body)
    rotations = axis_angle_to_matrix(motion.axis_angle)[None].to(body.template)
    about_y = axis_angle_to_matrix(torch.tensor([0.0, yaw, 0.0], device=rotations.device))
    rotations = rotate_joint(rotations, body.root, about_y)
    return observe(rotations, body, motion.fps, generator, noise, augment=False)


def mirror(rotations: Tensor, joints: Sequence[str]) -> Tensor:
    """The same motion in a mirror, left for right: rotations (..., J, 3, 3) -> the same. Twice is the identity.

    Sides are read from the joints' names (left_hip, LeftHip, l_hip, hip.L); one without its opposite is refused.
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


def observe(rotations: Tensor, body: Body, fps: float, generator: Generator, noise: Noise, augment: bool) -> Clips:
    """Clips of rotations (B, T, J, 3, 3) in the world's frame, with a shape, a camera and disturbed keypoints.

    The camera is a pinhole of FOCAL pixels that looks at the root. ``augment``: from any side, a little tilted, slowly
    rotating, at a distance whose logarithm is uniform between those of DISTANCES, and a shape of normal numbers;
    otherwise level, from the front, at REST_DISTANCE, and the mean shape.
    """
    if body.keypoints is None:
        raise ValueError(f"body {body.name!r} has no keypoints; load_body(..., keypoints='coco17') gives it some")
    batch, frames = rotations.shape[:2]
    rand, normal = numbers(generator, rotations)
    shape = normal(batch, body.shape_width) if augment else rotations.new_zeros(batch, body.shape_width)
    yaw, pitch, roll, speed = rotations.new_zeros(4, batch, 1)
    distance = rotations.new_full((batch, 1, 1), REST_DISTANCE)
    if augment:
        yaw, speed = 2 * torch.pi * rand(batch, 1), 0.2 * normal(batch, 1)
        pitch, roll = PITCH[0] + PITCH[1] * normal(batch, 1), 0.05 * normal(batch, 1)
        distance = DISTANCES[0] * (DISTANCES[1] / DISTANCES[0]) ** rand(batch, 1, 1)
    time = torch.arange(frames, device=rotations.device) / fps
    rotations = rotate_joint(rotations, body.root, _camera(yaw + speed * time, pitch, roll))

    mesh = body(rotations, shape[:, None], want=("joints", "keypoints"))
    joints, keypoints = (x - mesh.joints[:, :, [body.root]] for x in (mesh.joints, mesh.keypoints))
    image = perspective(keypoints, pad(distance, (2, 0)), FOCAL) + FOCAL
    found, confidence = disturb(image, keypoints, body.keypoints.names, fps, generator, noise)
    features, box, _ = normalise(torch.cat([found, confidence[..., None]], -1))
    somebody = box[..., 2:] > 0
    truth = to_crop(image, torch.where(somebody, box, 1))
    known = somebody[..., None, :].to(truth).expand_as(truth[..., :1])
    start = torch.zeros(batch, dtype=torch.long, device=image.device)
    return Clips(features, rotations, shape, joints, torch.cat([truth, known], -1), start, box)


def _check_joints(joints: Sequence[str], body: Body) -> None:
    if tuple(joints) != body.joints and plain_names(joints) != plain_names(body.joints):
        raise ValueError(
            f"the recordings have joints {', '.join(joints[:3])}, ..., body {body.name!r} has "
            f"{', '.join(body.joints[:3])}, ...; load them for that body, as load_motion(paths, body) does"
        )


def _camera(yaw: Tensor, pitch: Tensor, roll: Tensor) -> Tensor:
    """From the world (y up) to a camera's frame: yaw (B, T), pitch and roll (B, 1), radians -> (B, T, 3, 3)."""
    zero = torch.zeros_like(yaw)
    about = lambda *v: axis_angle_to_matrix(torch.stack(torch.broadcast_tensors(*v), -1))  # noqa: E731
    return about(zero, zero, roll) @ about(torch.pi + pitch, zero, zero) @ about(zero, yaw, zero)


def __getattr__(name: str) -> Any:
    return _moved.moved(__name__, name)
