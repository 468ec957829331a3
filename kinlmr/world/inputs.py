"""`settle` and `to_world`: what comes in, checked, and what goes out."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import Tensor

from kinlmr.body import Body, keypoint_sets, load_body, rotate_joint
from kinlmr.files import Array, checked_rate
from kinlmr.keypoints import convert
from kinlmr.recovery import Recovery
from kinlmr.state import inference
from kinlmr.world import network
from kinlmr.world.records import World, WorldState
from kinlmr.world.standing import Take, live, stand_of, whole

VIEWS = 5.0, 120.0  # degrees that a camera sees across the picture's width: others are doubted
HEIGHTS = 0.3, 3.0  # metres


@overload
def to_world(
    recovery: Recovery, fps: float, size: Tensor | Sequence[float], focal: float | None, *, body: Body | str = ...,
    keypoints: Tensor | Array | None = ..., height: float | Tensor | Sequence[float] | None = ...,
    camera_rotation: Tensor | Array | None = ..., state: None = ...,
) -> World: ...  # fmt: skip
@overload
def to_world(
    recovery: Recovery, fps: float, size: Tensor | Sequence[float], focal: float | None, *, body: Body | str = ...,
    keypoints: Tensor | Array | None = ..., height: float | Tensor | Sequence[float] | None = ...,
    camera_rotation: Tensor | Array | None = ..., state: WorldState,
) -> tuple[World, WorldState]: ...  # fmt: skip


def to_world(
    recovery: Recovery,
    fps: float,
    size: Tensor | Sequence[float],
    focal: float | None,
    *,
    body: Body | str = "anny24",
    keypoints: Tensor | Array | None = None,
    height: float | Tensor | Sequence[float] | None = None,
    camera_rotation: Tensor | Array | None = None,
    state: WorldState | None = None,
) -> World | tuple[World, WorldState]:
    """From what `recover` answers to motion that stands in the world: y up, the floor at 0, metres. A camera at rest.

    recovery        of one person (T, ...) or of several (B, T, ...), who then stand on one floor
    fps             frames a second
    size, focal     the picture's (width, height) and its camera's focal length, in pixels; without one (None) the
                    picture's diagonal is taken, and a warning says so
    body            the model's, or its name
    keypoints       what `recover` was given, (T, K, 3) or (B, T, K, 3): they make contacts sharper
    height          of the people, metres: a number or (B); it sets the scale of everything
    camera_rotation (T, 3, 3) or (B, T, 3, 3), from the camera's axes in each frame to those of one that does not turn,
                    for a camera that does; where it moves cannot be known from keypoints
    state           None for a whole clip, smoothed by what comes after too; live, ``WorldState.initial(people)`` at
                    first, then what the call before returned
    -> `World`; with a state, the world and the state for the next call, the same numbers whatever the chunks. No
    gradients.

    A ValueError says what does not fit. A view under 5 or over 120 degrees is doubted by a warning.
    """
    body = _named(body) if isinstance(body, str) else body
    width, tall = (float(x) for x in size)
    focal = _checked_focal(focal, width, tall)
    with torch.inference_mode():
        rotations, translation = recovery.in_camera((width, tall), focal, body)
    return settle(
        body, rotations, translation, recovery.shape, fps, keypoints=keypoints, size=(width, tall), focal=focal,
        height=height, camera_rotation=camera_rotation, state=state,
    )  # fmt: skip


@inference
def settle(
    body: Body,
    rotations: Tensor,
    translation: Tensor,
    shape: Tensor,
    fps: float,
    *,
    keypoints: Tensor | Array | None = None,
    size: Tensor | Sequence[float] | None = None,
    focal: float | None = None,
    height: float | Tensor | Sequence[float] | None = None,
    camera_rotation: Tensor | Array | None = None,
    state: WorldState | None = None,
) -> Any:
    """As `kinlmr.to_world`, for a body that any model posed in the frame of a camera: x right, y down, z forward.

    rotations (T, J, 3, 3) or (B, T, J, 3, 3), translation (T, 3) in metres, NaN where nobody was seen yet, and shape
    (T, S), as ``body(rotations, shape, translation)`` takes them; the body has legs with SMPL's names. keypoints, in
    pixels, need size and focal.
    """
    stand_of(body)
    several = _check_shapes(body, rotations, translation, shape)
    rotations, translation, shape = (x if several else x[None] for x in (rotations, translation, shape))
    fps = checked_rate(fps)
    people, frames = translation.shape[:2]
    _check_state(state, people, body)
    seen = translation.isfinite().all(-1)
    if not (bool(rotations.isfinite().all()) and bool(shape.isfinite().all())):
        raise ValueError("rotations and shape are finite numbers, NaN is for the translation of somebody not yet seen")
    shape, state = _mean_shape(body, shape, seen, state)
    if height is not None:
        shape, grown = _of_height(body, shape, height)
        translation = translation * grown[..., None]
    rest = body.joints_at_rest(shape.flatten(0, 1))[:, body.root].view_as(translation)
    root = torch.where(seen[..., None], translation + rest, 0)
    if camera_rotation is None:
        camera = torch.eye(3).to(root).expand(people, frames, 3, 3)
    else:
        camera = _checked_camera(camera_rotation, root)
        root = (camera @ root[..., None])[..., 0]
        rotations = rotate_joint(rotations, body.root, camera)
    rays, confidence, noticed = _rays(keypoints, several, seen, size, focal, root)
    take = Take(rotations, root, shape, rest, seen, noticed, camera, rays, confidence)
    if state is None:
        world = whole(body, take, fps)
        _say(world, take, keypoints is not None)
        return world if several else World(*(x[0] for x in world))
    world, state = live(body, take, fps, state)
    return world if several else World(*(x[0] for x in world)), state


def _mean_shape(body: Body, shape: Tensor, seen: Tensor, state: WorldState | None) -> tuple[Tensor, WorldState | None]:
    """One shape of each person (B, T, S): the mean of those seen, in the clip or so far."""
    known = torch.where(seen[..., None], shape, 0)
    if state is None:
        mean = known.sum(1, keepdim=True) / seen.sum(1)[:, None, None].clamp_min(1)
        return mean.expand_as(shape), None
    width = shape.shape[-1]
    total = state.shape_sum[:, None, :width] + known.cumsum(1)
    count = state.frames[:, None] + seen.cumsum(1)
    after = state.shape_sum.clone()
    after[:, :width] = total[:, -1]
    mean = total / count[..., None].clamp_min(1)
    return mean, state._replace(shape_sum=after, frames=count[:, -1].to(state.frames))


def _of_height(body: Body, shape: Tensor, height: Any) -> tuple[Tensor, Tensor]:
    """Shapes (B, T, S) of people so tall, the nearest to theirs, and by how much they grew (B, T)."""
    stand = stand_of(body)
    wanted = torch.as_tensor(height, dtype=shape.dtype, device=shape.device)
    if (
        wanted.ndim > 1
        or (wanted.ndim and len(wanted) != len(shape))
        or not bool(((wanted > HEIGHTS[0]) & (wanted < HEIGHTS[1])).all())
    ):
        raise ValueError(
            f"height is {height!r}; expected metres from {HEIGHTS[0]} to {HEIGHTS[1]}, one number or one for each of "
            f"{len(shape)} people"
        )
    wanted = wanted.expand(len(shape))[:, None]
    growth = stand.growth[: shape.shape[-1]]
    before = stand.stature + shape @ growth
    return shape + ((wanted - before) / growth.square().sum())[..., None] * growth, wanted / before


def _rays(
    keypoints: Any, several: bool, seen: Tensor, size: Any, focal: float | None, like: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Rays (B, T, 6, 3), their confidence (B, T, 6), and whether any keypoint was found (B, T)."""
    people, frames = seen.shape
    count = len(network.KEYPOINTS)
    if keypoints is None:
        return like.new_zeros(people, frames, count, 3), like.new_zeros(people, frames, count), torch.ones_like(seen)
    x = torch.as_tensor(keypoints).to(like)
    x = x if several else x[None]
    if x.ndim != 4 or x.shape[:2] != seen.shape or x.shape[-1] != 3:
        expected = ("B", "T", "K", 3) if several else ("T", "K", 3)
        raise ValueError(
            f"keypoints have shape {tuple(torch.as_tensor(keypoints).shape)}, expected {expected} of the same "
            f"{frames} frames as the recovery: {people} x {frames}"
        )
    if size is None or focal is None:
        raise ValueError("keypoints are in pixels: give size=(width, height) and focal= with them")
    sets = {len(names): name for name, names in reversed(keypoint_sets().items())} | {17: "coco17"}
    if x.shape[2] not in sets:
        raise ValueError(f"keypoints of {x.shape[2]} points; there are sets of {', '.join(map(str, sorted(sets)))}")
    x = torch.where(x[..., 2:] > 0, x, 0)
    if not bool(x.isfinite().all()):
        raise ValueError("keypoints that are not finite have a confidence of 0")
    noticed = (x[..., 2] > 0).any(-1)
    rays, confidence = network.rays_of(convert(x, sets[x.shape[2]], "coco17"), size, focal)
    return rays, confidence, noticed


# --------------------------------------------------------------------------------------------------------------- checks


@functools.cache
def _named(name: str) -> Body:
    return load_body(name)


def _checked_focal(focal: float | None, width: float, height: float) -> float:
    if not (width > 0 and height > 0 and math.isfinite(width + height)):
        raise ValueError(f"size is ({width:g}, {height:g}), expected the picture's width and height in pixels")
    if focal is None:
        focal = math.hypot(width, height)
        warnings.warn(f"no focal length is known: the picture's diagonal, {focal:.0f} pixels, is taken", stacklevel=3)
    focal = float(focal)
    if not (focal > 0 and math.isfinite(focal)):
        raise ValueError(f"focal is {focal}, expected a positive number of pixels")
    view = 2 * math.degrees(math.atan(width / 2 / focal))
    if not VIEWS[0] <= view <= VIEWS[1]:
        warnings.warn(
            f"focal {focal:g} of a picture {width:g} wide is a view of {view:.1f} degrees; most cameras see 30 to 90. "
            "Is it in pixels of this picture?",
            stacklevel=3,
        )
    return focal


def _check_shapes(body: Body, rotations: Tensor, translation: Tensor, shape: Tensor) -> bool:
    """Whether there are several people (B, T, ...), or a ValueError."""
    lead = translation.shape[:-1]
    fits = translation.shape[-1:] == (3,) and rotations.shape == (*lead, len(body.joints), 3, 3)
    if not fits or shape.shape[:-1] != lead or len(lead) not in (1, 2) or not all(lead[-1:]):
        raise ValueError(
            f"rotations {tuple(rotations.shape)}, translation {tuple(translation.shape)} and shape "
            f"{tuple(shape.shape)}; expected (T, {len(body.joints)}, 3, 3), (T, 3) and (T, S) of at least one frame, "
            "or the same after one axis of people"
        )
    return len(lead) == 2


def _check_state(state: WorldState | None, people: int, body: Body) -> None:
    if state is None:
        return
    if not isinstance(state, WorldState):
        raise TypeError(
            f"state is WorldState.initial(people) or what the call before returned, not {type(state).__name__}"
        )
    if (rows := len(state.frames)) != people:
        raise ValueError(f"the state is of {rows} people, the recovery of {people}")
    if (joints := state.quaternion.shape[1]) != len(body.joints):
        raise ValueError(
            f"the state is of {joints} joints, body {body.name!r} has {len(body.joints)}; begin with "
            f"WorldState.initial(people, joints={len(body.joints)}, shape={body.shape_width})"
        )


def _checked_camera(camera: Tensor | Array, root: Tensor) -> Tensor:
    x = torch.as_tensor(camera).to(root)
    if x.shape[-2:] != (3, 3) or x.ndim > 4 or x.shape[:-2] not in ((), root.shape[1:2], root.shape[:2]):
        raise ValueError(
            f"camera_rotation has shape {tuple(x.shape)}, expected (T, 3, 3) of {root.shape[1]} frames: from the "
            "camera's axes in each to those of one that does not turn"
        )
    if not bool(((x @ x.mT - torch.eye(3).to(x)).abs() < 1e-2).all() & (torch.linalg.det(x) > 0).all()):
        raise ValueError("camera_rotation holds matrices that are no rotations")
    return x.expand(*root.shape[:2], 3, 3)


def _say(world: World, take: Take, told: bool) -> None:
    """A warning about people who never stand: their floor and path are not the feet's."""
    for number, (contact, seen, confidence) in enumerate(zip(world.contact, take.seen, take.confidence, strict=True)):
        who = f"person {number}" if len(world.contact) > 1 else "the person"
        if told and bool(seen.any()) and not bool((confidence[..., :2] > 0).any()):
            warnings.warn(f"the feet of {who} are never seen: where {who} stands is guessed", stacklevel=5)
        elif bool(seen.any()) and not bool((contact > 0.5).any()):
            warnings.warn(
                f"{who} never stands: the path is the camera's, the floor where the lowest foot comes", stacklevel=5
            )
