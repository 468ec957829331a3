"""From a detector's keypoints to a posed body: whole clips, chunks or single frames, at any rate.

A model runs at its own rate, 30 frames a second. Keypoints of another rate are interpolated at the model's ticks; each
tick needs only the frames around it. A frame between two ticks gets an estimate of its own, without delay: the model
runs on it from the last tick's state, and that run's state is dropped. The model also runs on the last tick's keypoints
from there. This second estimate of the tick differs from the first; the frame's answer is corrected by the difference,
less and less towards the next tick, so that answers are continuous. A frame on a tick has the numbers of 30 a second.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, TypeVar

import torch
from torch import Tensor

from kinlmr.body import Body, keypoint_sets
from kinlmr.camera import MIN_SCALE, at_scale, fit, fit_scale, project
from kinlmr.checkpoint import load, shipped
from kinlmr.files import Array
from kinlmr.keypoints import Track, check_keypoints, in_box, reported
from kinlmr.model import LMR, Live
from kinlmr.recovery.gating import believed
from kinlmr.recovery.records import Recovery, RecoveryState, body_of, rate_of
from kinlmr.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from kinlmr.state import Estimate, State, inference

T = TypeVar("T", bound=tuple[Any, ...])

SAME_RATE = 0.01  # rates this near, such as 29.97 and 30, are taken for one
ON_TICK = 1e-6  # of a tick: a frame this near is on it
SCALE_STEP, SCALE_JUMP = 0.3, 1.5  # how much of the way they go in a tick; a change by such a factor is taken at once
SCALE_POINTS = 4  # how many points must be seen to measure them
HALF_DISTANCE = 0.1  # crop units: a point this far from where the body has it counts half
USUAL_CAMERA = 0.9, 0.0, 0.0  # the camera known before, of a model without one


@inference
def recover(
    model: LMR | Live, keypoints: Tensor | Array, fps: float, state: RecoveryState | None = None
) -> tuple[Recovery, RecoveryState]:
    """Pose, shape and camera of every frame, causally: the same for whole clips, chunks and single frames.

    model      of `kinlmr.load`, or of `kinlmr.build` with ``keypoints=``; for single frames faster: ``model.live()``
    keypoints  (T, K, 3) of a person or (B, T, K, 3) of several: x, y in pixels and confidence, in the order of the
               model's set (`kinlmr.keypoints.convert` brings others there); a confidence of 0 is not seen, and its x
               and y may be anything
    fps        frames a second. Any rate; within 1 % of the model's there is no resampling, and it is fastest
    state      from the call before, None at first; people come and go between calls as `RecoveryState` says
    -> `Recovery`, and the state for the next call. No gradients.

    A frame without keypoints is estimated from what was seen before. A ValueError names what does not fit: the model's
    set, the keypoints' shape, a number that is not finite, the rate, the state.
    """
    rate = rate_of(model)
    fps = _checked_rate(fps)
    ratio = rate / fps
    x = checked(model, keypoints)
    rows = x if x.ndim == 4 else x[None]
    body = body_of(model.options.body, model.options.keypoints, x.device, x.dtype)
    _check_body(model, body)
    state = RecoveryState.initial(model, len(rows)) if state is None else state
    _check_state(model, state, rows)

    rows, gate = believed(rows, 1 / fps, state.gate())
    if abs(1 / ratio - 1) <= SAME_RATE:
        answer, state = _run(model, body, rows, state)
        state = state._replace(phase=torch.zeros_like(state.phase))
    else:
        answers, before = [], state.last_frame()
        state = state._replace(phase=torch.where(state.phase < 1, state.phase, 1 - ratio))  # a first frame is a tick
        for frame in rows.unbind(1):
            one, state = _resampled(model, body, before, frame, ratio, state)
            answers.append(one)
            before = frame
        answer = Recovery(*(torch.cat(parts, 1) for parts in zip(*answers, strict=True)))
    state = state._replace(**gate._asdict())
    return answer if x.ndim == 4 else Recovery(*(part[0] for part in answer)), state


# --------------------------------------------------------------------------------------------------------------- frames


def _run(model: LMR | Live, body: Body, keypoints: Tensor, state: RecoveryState) -> tuple[Recovery, RecoveryState]:
    """Keypoints (B, T, K, 3) at the model's ticks."""
    features, box, track = in_box(keypoints, Track(state.box, state.keypoints))
    estimate, memory = _estimated(model, reported(features.flatten(2), model.options.confidence), box, state.memory)
    rotations = model.matrices(estimate)
    camera, measured, smoothed = _camera(body, rotations, estimate, features, box, state)
    state = state._replace(
        memory=memory, box=track.box, keypoints=track.keypoints, measured=measured, pixels_per_metre=smoothed,
        rotations=rotations[:, -1], shape=estimate.shape[:, -1], camera=in_pixels(camera[:, -1], box[:, -1]),
    )  # fmt: skip
    return Recovery(rotations, estimate.shape, camera, box), state


def _estimated(model: LMR | Live, features: Tensor, box: Tensor, memory: Tensor) -> tuple[Estimate, Tensor]:
    """The model's answers to features (B, T, F), and its memory, which stays as it began until somebody was seen: who
    comes late is as one who begins then. box (B, T, 3), of side 0 until then."""
    unseen, parts = box[..., 2] <= 0, []
    frames = unseen.shape[1]
    starts = sorted({0, *unseen.sum(1).tolist()} - {frames})
    for begin, end in itertools.pairwise([*starts, frames]):
        estimate, after = model(features[:, begin:end], state=State(memory))
        memory = torch.where(unseen[:, begin, None, None], memory, after.memory)
        parts.append(estimate)
    return parts[0] if len(parts) == 1 else Estimate(*(torch.cat(x, 1) for x in zip(*parts, strict=True))), memory


def _resampled(
    model: LMR | Live, body: Body, before: Tensor, frame: Tensor, ratio: float, state: RecoveryState
) -> tuple[Recovery, RecoveryState]:
    """A frame (B, K, 3), which comes ``ratio`` ticks after the one before: the ticks up to it, and the frame itself."""
    phase = state.phase + ratio
    ticks = (phase + ON_TICK).floor()
    now, answer = state, None
    for tick in range(1, int(max(ticks.tolist(), default=0)) + 1):
        share = ((tick - state.phase) / ratio).clamp(0, 1).to(frame)
        one, after = _run(model, body, between(before, frame, share)[:, None], now)
        answer, now = one if answer is None else _chosen(ticks >= tick, one, answer), _chosen(ticks >= tick, after, now)
    phase = phase - ticks
    apart = phase > ON_TICK
    if answer is None or apart.any():
        look = _look(model, body, frame, 1 - phase.to(frame), now)
        answer = look if answer is None else _chosen(apart, look, answer)
    return answer, now._replace(phase=phase)


def _look(model: LMR | Live, body: Body, frame: Tensor, rest: Tensor, state: RecoveryState) -> Recovery:
    """A frame (B, K, 3) after the last tick, ``rest`` (B) ticks before the next, by a model that forgets it.

    Beside it the model runs on the last tick's keypoints again. ``rest`` of the difference between the tick's answer
    and this one is added to the frame's answer, so that answers are continuous at the tick.
    """
    twice = RecoveryState(*(torch.cat([x, x]) for x in state))
    both, _ = _run(model, body, torch.cat([frame, state.keypoints])[:, None], twice)
    look, again = (Recovery(*(x[half, 0] for x in both)) for half in (slice(len(frame)), slice(len(frame), None)))
    difference = matrix_to_axis_angle(again.rotations.mT @ state.rotations)
    rotations = look.rotations @ axis_angle_to_matrix(rest[:, None, None] * difference)
    shape = look.shape + rest[:, None] * (state.shape - again.shape)
    now, was = (in_pixels(r.camera, r.box) for r in (look, again))
    grown = (state.camera[:, :1] / was[:, :1].clamp_min(1e-9)) ** rest[:, None]
    moved = torch.cat([now[:, :1] * grown, now[:, 1:] + rest[:, None] * (state.camera - was)[:, 1:]], 1)
    known = (look.box[:, 2:] > 0) & (was[:, :1] > 0) & (state.camera[:, :1] > 0)
    camera = torch.where(known, in_crop(moved, look.box), look.camera)
    return Recovery(*(x[:, None] for x in (rotations, shape, camera, look.box)))


def in_pixels(camera: Tensor, box: Tensor) -> Tensor:
    """A box's camera (..., 3) as (pixels per metre, x, y in pixels)."""
    half = box[..., 2:] / 2
    return torch.cat([camera[..., :1] * half, camera[..., 1:] * half + box[..., :2]], -1)


def in_crop(camera: Tensor, box: Tensor) -> Tensor:
    """The inverse of `in_pixels`."""
    half = box[..., 2:].clamp_min(1e-9) / 2
    return torch.cat([camera[..., :1] / half, (camera[..., 1:] - box[..., :2]) / half], -1)


def between(before: Tensor, after: Tensor, share: Tensor) -> Tensor:
    """Keypoints (B, K, 3) of a moment between two frames: the mean of both, weighted by nearness and confidence.

    before, after (B, K, 3) as x, y, confidence; share (B), from 0 at the first to 1 at the second
    """
    share = share[:, None, None]
    one, two = (1 - share) * before[..., 2:], share * after[..., 2:]
    total = one + two
    positions = torch.lerp(before[..., :2], after[..., :2], two / torch.where(total > 0, total, 1))
    return torch.cat([positions, total], -1)


def _chosen(where: Tensor, yes: T, no: T) -> T:
    """By rows: where (B), and two tuples of tensors alike."""
    pick = lambda a, b: torch.where(where.view(-1, *[1] * (a.ndim - 1)), a, b)  # noqa: E731
    return type(yes)(*map(pick, yes, no))


def _camera(
    body: Body, rotations: Tensor, estimate: Estimate, features: Tensor, box: Tensor, state: RecoveryState
) -> tuple[Tensor, Tensor, Tensor]:
    """The camera (B, T, 3), by least squares from the body's keypoints to the image's features (B, T, K, 3); measured,
    pixels_per_metre.

    Where they leave it open, the model's own camera decides. A point far from where the body has it counts less.
    """
    mesh = body(rotations, estimate.shape, want=("joints", "keypoints"))
    own = estimate.camera if estimate.camera.shape[-1] == 3 else box.new_tensor(USUAL_CAMERA).expand_as(box)
    own = at_scale(own[..., 0].clamp_min(MIN_SCALE), mesh.joints[..., body.root, :2], own[..., 1:])  # as posed
    image, weight, side = features[..., :2], features[..., 2], box[..., 2]
    off = (project(mesh.keypoints, fit(mesh.keypoints, image, weight, own)) - image).square().sum(-1)
    free, middle, target = fit_scale(mesh.keypoints, image, weight / (1 + off / HALF_DISTANCE**2), own)
    count = (weight > 0).sum(-1)
    told = (count >= SCALE_POINTS) & (free > 1.001 * MIN_SCALE)
    held, measured = _smoothed(free * side / 2, told, count > 0, state)
    scale = torch.where(held * side > 0, 2 * held / side.clamp_min(1e-9), torch.where(told, free, own[..., 0]))
    return at_scale(scale, middle, target), measured, held[:, -1]


def _smoothed(now: Tensor, told: Tensor, seen: Tensor, state: RecoveryState) -> tuple[Tensor, Tensor]:
    """Pixels per metre (B, T), which follow the median of the latest ticks: a person's distance changes slowly.

    now (B, T), as measured; told (B, T), whether it was; seen (B, T), whether any point was -> and the latest (B, .)
    """
    measured, smoothed, every = state.measured, state.pixels_per_metre, []
    for one, ok, some in zip(now.split(1, 1), told.split(1, 1), seen.unbind(1), strict=True):
        measured = torch.where(ok, torch.cat([measured[:, 1:], one], 1), measured)
        middle = torch.where(measured > 0, measured, torch.nan).nanmedian(1).values
        near = (middle < SCALE_JUMP * smoothed) & (smoothed < SCALE_JUMP * middle)
        step = torch.where(near, smoothed.lerp(middle, SCALE_STEP), middle)
        smoothed = torch.where(some & (middle > 0), step, smoothed)  # a median of none is NaN
        every.append(smoothed)
    return torch.stack(every, 1), measured


# --------------------------------------------------------------------------------------------------------------- checks


def _checked_rate(fps: Any) -> float:
    try:
        rate = float(fps)
    except (TypeError, ValueError):
        rate = math.nan
    if not (math.isfinite(rate) and rate > 0):
        raise ValueError(
            f"fps is {fps!r}; give the keypoints' frames per second, a positive number such as 25 or 29.97"
        )
    return rate


def checked(model: LMR | Live, keypoints: Tensor | Array) -> Tensor:
    """Keypoints (T, K, 3) or (B, T, K, 3) of the model's set, type and device, zeros for a point not seen."""
    known, points = model.options.keypoints, model.options.features // 3
    x = check_keypoints(torch.as_tensor(keypoints).to(model.start.pose))
    if x.ndim > 4 or not x.shape[-3]:
        raise ValueError(
            f"keypoints have shape (T, K, 3) or (B, T, K, 3) with at least one frame, not {tuple(x.shape)}"
        )
    if (count := x.shape[-2]) != points:
        sets = {name: len(names) for name, names in keypoint_sets().items()}
        alike = [name for name, size in sets.items() if size == count]
        mend = f"kinlmr.keypoints.convert(keypoints, {alike[0]!r}, {known!r}) brings one to the other" if alike else (
            "there are " + ", ".join(f"{name} ({size})" for name, size in sets.items())
        )  # fmt: skip
        raise ValueError(
            f"the keypoints have {count} points, the model takes {known} with {points}; sets of {count} points: "
            f"{', '.join(alike) or 'none'}; {mend}"
        )
    return x


def _check_state(model: LMR | Live, state: RecoveryState, rows: Tensor) -> None:
    if not isinstance(state, RecoveryState):
        raise TypeError(f"state is what recover returned, or None, not {type(state).__name__}")
    if (people := len(state.seen)) != len(rows):
        raise ValueError(f"the state is of {people} people, the keypoints of {len(rows)}; start with state None")
    others = {number for number in state.weights.tolist() if number} - {model.checksum}
    if model.checksum and others:
        names = {load(name).checksum: name for name in shipped()}
        theirs, own = (names.get(number, f"a file of checksum {number}") for number in (others.pop(), model.checksum))
        raise ValueError(
            f"the state was made by {theirs}, the model is {own}; go on with the model that made it, or start with "
            "state None"
        )


def _check_body(model: LMR | Live, body: Body) -> None:
    joints, shape = model.plan.skeleton.joints, model.options.shape
    if body.joints != joints or shape > body.shape_width:
        raise ValueError(
            f"the model poses {len(joints)} joints ({joints[0]}, ...) with {shape} shape numbers, its body "
            f"{body.name!r} has {len(body.joints)} ({body.joints[0]}, ...) and {body.shape_width}; build it with the "
            "body= of its skeleton"
        )
