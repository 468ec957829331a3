"""From a body in the camera's frame to motion that stands in the world, whole clips and live."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from kinlmr.body import Body, rotate_joint
from kinlmr.motion import plain_names
from kinlmr.world import floor, lock, network, path
from kinlmr.world.lock import Legs, legs_of
from kinlmr.world.pose import followed, gaussian, smoothed
from kinlmr.world.records import Parts, World, WorldState

RATE = 30.0  # frames a second for which the weights below are said
ALONG, ACROSS = (0.03, 0.15), (0.01, 0.05)  # metres: the least and largest softness of the camera's place
GRAVITY = 9.81  # m/s^2
LONGEST_FLIGHT = 0.8  # seconds: who stands on nothing for longer does not fly
UNSEEN = 1e-3  # how much the camera's place counts in a frame without keypoints


class Weights(NamedTuple):
    """Of the path, for one frame: metres that a standing foot moves, metres that acceleration moves the root, and the
    camera's place in what the network says it is off."""

    still: float
    calm: float
    trust: float


WHOLE, LIVE = Weights(0.008, 0.007, 1.5), Weights(0.03, 0.006, 0.4)


class Stand(NamedTuple):
    """What of a body stands: its legs, the indices of the network's joints, the heights (4) of ankle and foot of each
    side over the sole; its stature, and how each shape number changes that."""

    legs: Legs
    joints: list[int]
    sole: Tensor
    stature: Tensor
    growth: Tensor


@functools.lru_cache(maxsize=8)
@torch.inference_mode(False)  # it is kept
@torch.no_grad()
def stand_of(body: Body) -> Stand:
    """A body that can stand, or a ValueError."""
    legs = legs_of(body)
    names = plain_names(body.joints)
    if missing := [name for name in network.JOINTS if name not in names]:
        raise ValueError(f"body {body.name!r} has no joint {', '.join(missing)}; contacts are read from SMPL's joints")
    heights = body.template.view(3, -1)[1]
    top, bottom = heights.argmax(), heights.argmin()
    moves = body.basis[body.pose_width :].unflatten(-1, (3, -1))[:, 1]
    sole = body.J.view(-1, 3)[legs.feet, 1] - heights[bottom]
    return Stand(legs, [names.index(name) for name in network.JOINTS], sole, heights[top] - heights[bottom],
                 moves[:, top] - moves[:, bottom])  # fmt: skip


def sole_heights(body: Body) -> Tensor:
    """How high left ankle and foot, right ankle and foot (4) of a body are over its sole, metres."""
    return stand_of(body).sole


class Take(NamedTuple):
    """B people in T frames, in axes that do not turn: rotations (B, T, J, 3, 3), root (B, T, 3), where that joint is,
    shape (B, T, S), rest (B, T, 3): the root joint in the T-pose, seen (B, T): whether there is a place, noticed
    (B, T): whether there are keypoints; camera (B, T, 3, 3), rays (B, T, 6, 3) and confidence (B, T, 6) as of
    `kinlmr.world.network.Signals`."""

    rotations: Tensor
    root: Tensor
    shape: Tensor
    rest: Tensor
    seen: Tensor
    noticed: Tensor
    camera: Tensor
    rays: Tensor
    confidence: Tensor


def whole(body: Body, take: Take, fps: float) -> World:
    """A whole clip: poses smoothed two-sided, the path by all frames, one up and one floor."""
    stand, seconds = stand_of(body), 1 / fps
    people = len(take.seen)
    means, ticks = network.start(people, take.root)
    rotations = smoothed(take.rotations, take.seen, fps)
    raw, about = _about_root(body, take, rotations)
    answer, _, _ = _answered(body, stand, take, raw, fps, means, ticks)
    contact, up = answer[..., :4].sigmoid() * take.seen[..., None], _turned(take.camera, answer[..., 4:7])
    common = normalize((up * take.seen[..., None]).sum((0, 1)) + up.new_tensor(floor.DEFAULT_UP) * 1e-6, dim=0)
    start = path.start(people, 4, take.root)
    system, _ = _terms(take, about[..., stand.legs.feet, :], contact, answer, common.expand_as(up), fps, start, WHOLE)
    _, gone, state = path.forward(system, seconds, start)
    root = path.backward(gone, state).to(take.root)
    feet = (root[..., None, :] + about[..., stand.legs.feet, :])[take.seen]
    common = floor.levelled(common, feet, stand.sole, contact[take.seen], fps)
    turn = floor.to_world(common)
    root, about = root @ turn.mT, about @ turn.mT
    rotations = rotate_joint(rotations, body.root, turn)
    feet = (root[..., None, :] + about[..., stand.legs.feet, :]).unflatten(2, (2, 2))
    bottoms = (feet[..., 1] - stand.sole.view(2, 2)).amin(-1)
    bottoms = torch.where(take.seen[..., None], bottoms, torch.nan)
    level = floor.level_of(bottoms, contact.unflatten(2, (2, 2)).amax(-1))
    root = torch.cat([root[..., :1], root[..., 1:2] - level, root[..., 2:]], -1)
    held = _firm(contact, fps).unflatten(2, (2, 2))
    offset = lock.hold(torch.where(take.seen[..., None, None, None], feet, 0), held, fps)
    rotations = lock.bend(stand.legs, rotations, about, offset)
    return _answer(take, rotations, root, contact, _turned(take.camera.mT, common))


def live(body: Body, take: Take, fps: float, state: WorldState) -> tuple[World, WorldState]:
    """The next frames, by what was seen so far: the same whatever chunks they come in."""
    stand, seconds = stand_of(body), 1 / fps
    parts = state.parts()
    rotations, pose = followed(take.rotations, take.seen, fps, parts.pose)
    raw, about = _about_root(body, take, rotations)
    answer, means, ticks = _answered(body, stand, take, raw, fps, parts.means, parts.ticks)
    contact, up = answer[..., :4].sigmoid() * take.seen[..., None], _turned(take.camera, answer[..., 4:7])
    feet = about[..., stand.legs.feet, :]
    own = normalize(state.up_sum[:, None] + (up * take.seen[..., None]).cumsum(1), dim=-1)
    system, aloft = _terms(take, feet, contact, answer, own, fps, parts.filter, LIVE)
    root, _, filtered = path.forward(system, seconds, parts.filter)
    filtered = filtered._replace(contact=contact[:, -1].double(), aloft=aloft)
    root = root.to(take.root)
    common, origin, evidence = floor.refine(
        up, root[..., None, :] + feet, stand.sole, contact, take.seen, fps, parts.evidence
    )
    turn = floor.to_world(common)
    root, about = _turned(turn, root) + origin, about @ turn.mT
    rotations = rotate_joint(rotations, body.root, turn.expand(len(rotations), -1, 3, 3))
    feet = (root[..., None, :] + about[..., stand.legs.feet, :]).unflatten(2, (2, 2))
    before = torch.cat([parts.filter.seen[:, None], take.seen[:, :-1]], 1)
    offset, held = lock.follow(feet, contact.unflatten(2, (2, 2)), fps, parts.held, before)
    rotations = lock.bend(stand.legs, rotations, about, offset)
    world = _answer(take, rotations, root, contact, _turned(take.camera.mT, common))
    return world, state.with_parts(Parts(means, ticks, pose, filtered, evidence, held))


def _turned(camera: Tensor, x: Tensor) -> Tensor:
    return (camera @ x[..., None])[..., 0]


def _about_root(body: Body, take: Take, smooth: Tensor) -> tuple[Tensor, Tensor]:
    """Joints (B, T, J, 3) about the root joint, of the poses as they came and of smooth ones (B, T, J, 3, 3)."""
    joints = body(torch.stack([take.rotations, smooth]), take.shape).joints
    raw, about = (joints - joints[..., body.root, None, :]).unbind()
    return raw, about


def _answered(
    body: Body, stand: Stand, take: Take, joints: Tensor, fps: float, means: network.Means, ticks: network.Ticks
) -> tuple[Tensor, network.Means, network.Ticks]:
    """What the network says of every frame (B, T, 9), and what it remembers; joints (B, T, J, 3) about the root."""
    about, root = joints[..., stand.joints, :], take.rotations[..., body.root, :, :]
    signals = network.Signals(about, take.root, take.seen, root, take.rays, take.confidence, take.camera)
    x, means = network.features(signals, 1 / fps, means)
    net = network.shipped(x.device, x.dtype)
    answer, ticks = network.run(net, x, fps, ticks, take.seen)
    return answer, means, ticks


def _terms(
    take: Take,
    feet: Tensor,
    contact: Tensor,
    answer: Tensor,
    up: Tensor,
    fps: float,
    state: path.Filter,
    weights: Weights,
) -> tuple[path.Terms, Tensor]:
    """The system of the path; contact (B, T, 4), the network's answer (B, T, 9), up (B, T, 3); and for how many seconds
    (B) nobody stood at the end."""
    frame = fps / RATE
    along, across = (
        (weights.trust * x.exp()).clamp(*bounds)[..., None, None]
        for x, bounds in zip(answer[..., 7:9].unbind(-1), (ALONG, ACROSS), strict=True)
    )
    ray = normalize(torch.where(take.seen[..., None], take.root, 1), dim=-1)
    eye = torch.eye(3).to(ray)
    certainty = eye / across**2 + (along**-2 - across**-2) * ray[..., :, None] * ray[..., None, :]
    share = take.seen * torch.where(take.noticed, 1, UNSEEN) / frame
    before = torch.cat([state.contact[:, None].to(contact), contact[:, :-1]], 1)
    still = torch.minimum(contact, before) * take.seen[..., None] * frame / weights.still**2
    calm = torch.full_like(share, frame**3 / weights.calm**2)
    flight, aloft = _flight(before.amax(-1), fps, state.aloft)
    gravity = -GRAVITY / fps**2 * flight[..., None] * up
    return path.Terms(take.root, certainty * share[..., None, None], feet, still, calm, gravity, take.seen), aloft


def _flight(contact: Tensor, fps: float, aloft: Tensor) -> tuple[Tensor, Tensor]:
    """How surely each flies, of the most that a foot stands (B, T), and for how long (B) nobody stood at the end."""
    flies, found = (1 - 2 * contact).clamp_min(0), []
    for one in flies.unbind(1):
        aloft = torch.where(one > 0, aloft + 1 / fps, 0)
        found.append(one * (aloft < LONGEST_FLIGHT))
    return torch.stack(found, 1), aloft


def _firm(contact: Tensor, fps: float) -> Tensor:
    """Contacts (B, T, 4) of a whole clip without flicker."""
    return gaussian(contact.movedim(1, -1), fps).movedim(-1, 1)


def _answer(take: Take, rotations: Tensor, root: Tensor, contact: Tensor, up: Tensor) -> World:
    translation = torch.where(take.seen[..., None], root - take.rest, torch.nan)
    return World(rotations, translation, take.shape, contact.unflatten(2, (2, 2)), up)
