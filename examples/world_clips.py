"""Recordings with their paths, seen by cameras at rest: for `train_world.py` and `evaluate.py --world`."""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

import kinlmr
from kinlmr import motion
from kinlmr.camera import perspective
from kinlmr.motion import clips
from kinlmr.rotations import axis_angle_to_matrix, matrix_to_axis_angle

SIZE, FOCAL = (1280.0, 720.0), 1200.0  # pixels
STILL = 0.3  # m/s: a joint that is slower stands
WALKS, STAYS, STANDS = 0.5, 0.25, 0.3  # m/s of feet about the root, m/s of the root, share of frames with a still foot
NEAR = 3.0, 6.0  # metres from the camera to where a path comes nearest
# What a detector adds: "slow" is the prototype's, white and slow noise of 0.7 % of the extent, 2 % of points not found.
NOISES = {"slow": None, "off": clips.OFF, "limbs": clips.USUAL._replace(jitter=0.007, drift=0.01), "wide": clips.WIDE}
# Where cameras look, degrees: down from the level (low, high) uniformly, and a normal roll.
CAMERAS = {"down 1 to 15": (1.0, 15.5, 1.7), "level": (0.0, 0.0, 0.0), "up 40": (-40.0, -40.0, 0.0),
           "down 40": (40.0, 40.0, 0.0), "rolled 10": (5.0, 5.0, 10.0), "any": (-42.0, 42.0, 6.0)}  # fmt: skip
CIRCLE = 35.0  # degrees a second: what a bent path turns


class Seen(NamedTuple):
    """A recording before a camera: keypoints (T, 17, 3) in pixels, the true joints (T, J, 3) in the world, y up, the
    camera's rotation (3, 3) from the world's axes to its own, and frames a second."""

    keypoints: Tensor
    joints: Tensor
    camera: Tensor
    fps: float


def camera(kind: str, number: int, generator: Generator) -> Tensor:
    """A camera (3, 3) of CAMERAS; each number looks from another side."""
    low, high, spread = (math.radians(x) for x in CAMERAS[kind])
    pitch = low + (high - low) * float(torch.rand(1, generator=generator))
    roll = spread * float(torch.randn(1, generator=generator)) if kind != "rolled 10" else spread
    about = [[0, 0, roll], [math.pi + pitch, 0, 0], [0, 2 * math.pi * ((0.618 * number) % 1), 0]]
    one, two, three = axis_angle_to_matrix(torch.tensor(about))
    return one @ two @ three


def observe(piece: motion.Motion, body: kinlmr.Body, view: str, noise: str, number: int) -> Seen:
    """A piece of a recording before the camera ``view`` of CAMERAS, with a noise of NOISES; a number, the same clip."""
    generator = Generator().manual_seed(number)
    turn = camera(view, number, generator)
    mesh = body(axis_angle_to_matrix(piece.axis_angle).float(), want=("joints", "keypoints"))
    shift = piece.translation.float()[:, None] - mesh.joints[:, [body.root]]
    joints, points = mesh.joints + shift, mesh.keypoints + shift
    root = joints[:, body.root]
    middle = (root.amin(0) + root.amax(0)) / 2
    near = NEAR[0] + (NEAR[1] - NEAR[0]) * float(torch.rand(1, generator=generator))
    away = torch.tensor([0.0, 0.0, near + float((root - middle).norm(dim=-1).max())])
    points = (points - middle) @ turn.mT + away
    image = perspective(torch.cat([points[..., :2], points[..., 2:].clamp_min(0.3)], -1), torch.zeros(3), FOCAL)
    image = image + torch.tensor(SIZE) / 2
    return Seen(_disturbed(image, points, body, piece.fps, noise, generator), joints, turn, piece.fps)


def _disturbed(
    image: Tensor, points: Tensor, body: kinlmr.Body, fps: float, noise: str, generator: Generator
) -> Tensor:
    assert body.keypoints is not None
    if (kind := NOISES[noise]) is not None:
        found, confidence = clips.disturb(image[None], points[None], body.keypoints.names, fps, generator, kind)
        return torch.cat([found[0], confidence[0, ..., None]], -1)
    extent = (image.amax(1) - image.amin(1)).amax(-1)[:, None, None]
    slow = torch.randn(len(image) // 10 + 3, *image.shape[1:], generator=generator)
    time = torch.arange(len(image)) / 10 * (30 / fps)
    low, share = time.long(), (time % 1)[:, None, None]
    white = torch.randn(*image.shape, generator=generator)
    image = image + 0.007 * extent * (white + torch.lerp(slow[low], slow[low + 1], share))
    confidence = 0.6 + 0.4 * torch.rand(*image.shape[:2], generator=generator)
    confidence[torch.rand(*confidence.shape, generator=generator) < 0.02] = 0
    return torch.cat([image, confidence[..., None]], -1)


def circling(piece: motion.Motion, body: kinlmr.Body) -> motion.Motion:
    """The piece on a path bent by CIRCLE: from frame to frame all of it turns about the foot that stands."""
    joints = body(axis_angle_to_matrix(piece.axis_angle).float()).joints
    joints = joints - joints[:, [body.root]] + piece.translation.float()[:, None]
    chosen = joints[:, feet(body.joints)]
    speed = (chosen[1:] - chosen[:-1]).norm(dim=-1) * piece.fps
    share = torch.softmax(-torch.cat([speed, speed[-1:]]) / STILL, 1)
    pivots = (share[..., None] * chosen).sum(1).double()
    angles = torch.arange(len(piece)) * math.radians(CIRCLE) / piece.fps
    turns = axis_angle_to_matrix(angles[:, None] * torch.tensor([0.0, 1.0, 0.0])).double()
    ahead = ((turns[:-1] - turns[1:]) @ pivots[:-1, :, None])[..., 0].cumsum(0)
    path = (turns @ piece.translation.double()[..., None])[..., 0]
    path[1:] += ahead
    turned = piece.axis_angle.clone()
    turned[:, body.root] = matrix_to_axis_angle(turns @ axis_angle_to_matrix(turned[:, body.root]).double()).to(turned)
    return dataclasses.replace(piece, axis_angle=turned, translation=path.to(piece.translation))


def feet(joints: Sequence[str]) -> list[int]:
    """The indices of left ankle and toe, right ankle and toe."""
    return [joints.index(f"{side}_{name}") for side in ("left", "right") for name in ("ankle", "foot")]


def standing(joints: Tensor, names: Sequence[str], fps: float) -> Tensor:
    """Which ankles and toes (T, 2, 2) are slower than STILL, before and after a frame, of joints (T, J, 3)."""
    chosen = joints[:, feet(names)]
    speed = (chosen[1:] - chosen[:-1]).norm(dim=-1) * fps
    slower = torch.minimum(torch.cat([speed[:1], speed]), torch.cat([speed, speed[-1:]]))
    return (slower < STILL).unflatten(1, (2, 2))


def treadmill(piece: motion.Motion, body: kinlmr.Body) -> bool:
    """Whether feet travel while the root stays: such a piece teaches nothing about standing."""
    joints = body(axis_angle_to_matrix(piece.axis_angle).float()).joints
    about = joints - joints[:, [body.root]]
    chosen = feet(body.joints)
    travel = (about[1:, chosen] - about[:-1, chosen]).norm(dim=-1).mean() * piece.fps
    level = piece.translation[:, [0, 2]]
    speed = (level[15:] - level[:-15]).norm(dim=-1).mean() * piece.fps / 15
    still = standing(about + piece.translation.float()[:, None], body.joints, piece.fps).flatten(1).any(1)
    return bool((travel > WALKS) & (speed < STAYS) & (still.float().mean() < STANDS))
