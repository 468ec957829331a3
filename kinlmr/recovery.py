"""From a detector's keypoints to a posed body: whole clips, chunks or single frames, at any rate.

A model runs at its own rate, 30 frames a second. Keypoints of another rate are interpolated at the model's ticks, each
of which lies between two frames and needs no later one. A frame between two ticks gets an estimate of its own: the
model looks at it from where the last tick left it, and forgets that it did. So every frame is answered at once,
without delay, and a frame on a tick has the numbers that it has at 30 frames a second.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from kinlmr.assets import load_body
from kinlmr.body import Body
from kinlmr.camera import LEAST, fit, to_translation
from kinlmr.files import Array
from kinlmr.keypoints import Track, check_keypoints, keypoint_sets, normalise
from kinlmr.model import LMR, Estimate, State
from kinlmr.rows import Rows, select

T = TypeVar("T", bound=tuple[Any, ...])

SAME = 0.01  # rates this near, such as 29.97 and 30, are taken for one
EXACT = 1e-6  # of a tick: a frame this near is on it
STEADY, AWAY = 0.2, 1.5  # how much of the way the span goes in a tick; a change by such a factor is taken at once
USUAL = 0.9, 0.0, 0.0  # the camera known before, of a model without one


class Recovery(NamedTuple):
    """A person in every frame, in the camera's frame: x right, y down, z forward. Leading axes as the keypoints' were.

    rotations (..., T, J, 3, 3), each relative to its joint's parent, the root's to the camera; shape (..., T, S);
    camera (..., T, 3) as (s, tx, ty) in units of the box (see `kinlmr.camera`), for the body as
    ``body(rotations, shape)`` poses it; box (..., T, 3) as (cx, cy, side) in pixels, zeros until somebody was seen.
    """

    rotations: Tensor
    shape: Tensor
    camera: Tensor
    box: Tensor

    def translation(self, size: Tensor | Sequence[float], focal: Tensor | float) -> Tensor:
        """Where the body stands, for ``body(rotations, shape, translation)``: (..., T, 3) in metres.

        size: the image's (width, height), focal: of its camera, both in pixels. NaN until somebody was seen.
        """
        place = to_translation(self.camera, self.box, torch.as_tensor(size).to(self.box), focal)
        return torch.where(self.box[..., 2:] > 0, place, torch.nan)


class Stream(NamedTuple):
    """What `recover` remembers of B people between frames: a plain tuple of tensors, and nothing writes to it.

    memory (B, V, M), the model's; box (B, 3) and points (B, K, 3), as `kinlmr.keypoints.Track` has them; span (B),
    pixels per metre: all as of the last tick. keypoints (B, K, 3): of the last frame. phase (B), float64: how long ago
    the last tick was when that frame came, in ticks; 1 of somebody who had no frame yet.

    A row, index b of every tensor, is one person, and knows nothing of the others. So people may come and go:

    >>> import kinlmr, torch
    >>> model = kinlmr.build("smpl.yaml", keypoints="coco17", body="anny24_lo369", hidden=4)
    >>> frames = torch.rand(3, 9, 17, 3) * 300  # of three people
    >>> _, state = kinlmr.recover(model, frames[:2, :5], 25)  # 0 and 1 are there
    >>> state = kinlmr.concat([state, kinlmr.Stream.initial(model, 1)])  # 2 comes
    >>> state = state.select([0, 2])  # 1 leaves
    >>> recovery, state = kinlmr.recover(model, frames[[0, 2], 5:], 25, state)

    ``torch.save(tuple(state), path)`` keeps it, ``Stream(*torch.load(path))`` brings it back.
    """

    memory: Tensor
    box: Tensor
    points: Tensor
    span: Tensor
    keypoints: Tensor
    phase: Tensor

    @classmethod
    def initial(cls, model: LMR, people: int) -> Stream:
        """Of so many people, before their first frame: what `recover` takes ``None`` for."""
        _check_model(model)
        points = model.start.pose.new_zeros(people, len(keypoint_sets()[model.options["keypoints"]]), 3)
        phase = torch.ones(people, dtype=torch.float64, device=points.device)
        return cls(model.initial_state(people).memory, points[:, 0], points, points[:, 0, 0], points, phase)

    def select(self, rows: Rows) -> Stream:
        """The state of these people, in this order. rows: numbers (n), which may repeat, or a mask (B) of bools."""
        return select(self, rows)

    def to(self, *args: Any, **kwargs: Any) -> Stream:
        """On another device or of another type; arguments as of `torch.Tensor.to`. The phase stays float64."""
        moved = Stream(*(x.to(*args, **kwargs) for x in self))
        return moved._replace(phase=self.phase.to(moved.phase.device))


@torch.no_grad()
def recover(model: LMR, keypoints: Tensor | Array, fps: float, state: Stream | None = None) -> tuple[Recovery, Stream]:
    """Pose, shape and camera of every frame, causally: the same for whole clips, chunks and single frames.

    model      of `kinlmr.load`, or of `kinlmr.build` with ``keypoints=``
    keypoints  (T, K, 3) of a person or (B, T, K, 3) of several: x, y in pixels and confidence, in the order of the
               model's set (`kinlmr.keypoints.convert` brings others there); a confidence of 0 is not seen, and its x
               and y may be anything
    fps        frames a second. Any rate; within 1 % of the model's there is no resampling, and it is fastest
    state      from the call before, None at first; people come and go between calls as `Stream` says
    -> `Recovery`, and the state for the next call. No gradients.

    A frame without keypoints is estimated from what was seen before. A ValueError names what does not fit: the model's
    set, the keypoints' shape, a number that is not finite, the rate, the state.
    """
    rate = _check_model(model)
    ratio = rate / _checked_rate(fps)
    x = torch.as_tensor(keypoints).to(model.start.pose)
    _check_points(x, model.options["keypoints"])
    x = torch.where(x[..., 2:] > 0, x, 0)
    rows = x if x.ndim == 4 else x[None]
    body = _body(model.options["body"], model.options["keypoints"], x.device, x.dtype)
    _check_body(model, body)
    state = Stream.initial(model, len(rows)) if state is None else state
    _check_state(state, rows)

    if abs(1 / ratio - 1) <= SAME:
        seen, state = _run(model, body, rows, state)
        state = state._replace(keypoints=rows[:, -1], phase=torch.zeros_like(state.phase))
    else:
        frames = []
        state = state._replace(phase=torch.where(state.phase < 1, state.phase, 1 - ratio))  # a first frame is a tick
        for frame in rows.unbind(1):
            one, state = _resampled(model, body, frame, ratio, state)
            frames.append(one)
        seen = Recovery(*(torch.cat(parts, 1) for parts in zip(*frames, strict=True)))

    return seen if x.ndim == 4 else Recovery(*(part[0] for part in seen)), state


# --------------------------------------------------------------------------------------------------------------- frames


def _run(model: LMR, body: Body, keypoints: Tensor, state: Stream) -> tuple[Recovery, Stream]:
    """Keypoints (B, T, K, 3) at the model's ticks."""
    features, box, track = normalise(keypoints, Track(state.box, state.points))
    estimate, after = model(features, state=State(state.memory))
    rotations = model.matrices(estimate)
    camera, span = _camera(body, rotations, estimate, features, box, state.span)
    state = state._replace(memory=after.memory, box=track.box, points=track.keypoints, span=span)
    return Recovery(rotations, estimate.shape, camera, box), state


def _resampled(model: LMR, body: Body, frame: Tensor, ratio: float, state: Stream) -> tuple[Recovery, Stream]:
    """One frame (B, K, 3), which comes ``ratio`` ticks after the last: the ticks up to it, and the frame itself."""
    phase = state.phase + ratio
    ticks = (phase + EXACT).floor()
    now, seen = state, None
    for tick in range(1, int(max(ticks.tolist(), default=0)) + 1):
        share = ((tick - state.phase) / ratio).clamp(0, 1).to(frame)
        one, after = _run(model, body, _between(state.keypoints, frame, share)[:, None], now)
        seen, now = one if seen is None else _chosen(ticks >= tick, one, seen), _chosen(ticks >= tick, after, now)
    phase = phase - ticks
    apart = phase > EXACT
    if seen is None or apart.any():
        looked, _ = _run(model, body, frame[:, None], now)
        seen = looked if seen is None else _chosen(apart, looked, seen)
    return seen, now._replace(keypoints=frame, phase=phase)


def _between(before: Tensor, after: Tensor, share: Tensor) -> Tensor:
    """Keypoints (B, K, 3) of a moment between two frames: the mean of both, weighted by nearness and confidence."""
    share = share[:, None, None]
    one, two = (1 - share) * before[..., 2:], share * after[..., 2:]
    total = one + two
    places = torch.lerp(before[..., :2], after[..., :2], two / torch.where(total > 0, total, 1))
    return torch.cat([places, total], -1)


def _chosen(where: Tensor, yes: T, no: T) -> T:
    """By rows: where (B), and two tuples of tensors alike."""
    pick = lambda a, b: torch.where(where.view(-1, *[1] * (a.ndim - 1)), a, b)  # noqa: E731
    return type(yes)(*map(pick, yes, no))


def _camera(
    body: Body, rotations: Tensor, estimate: Estimate, features: Tensor, box: Tensor, span: Tensor
) -> tuple[Tensor, Tensor]:
    """The camera (B, T, 3) by least squares of the body's points on those that were seen, and the span after it.

    The model's own camera, which is for the body about its root joint, decides what they leave open. The span, pixels
    per metre, is smoothed while points are seen: a person's distance changes slowly.
    """
    mesh = body(rotations, estimate.shape, want=("joints", "points"))
    own = estimate.camera if estimate.camera.shape[-1] == 3 else box.new_tensor(USUAL).expand_as(box)
    s = own[..., :1].clamp_min(LEAST)
    own = torch.cat([s, own[..., 1:] - s * mesh.joints[..., 0, :2]], -1)
    image, weight = features.unflatten(-1, (-1, 3)).split((2, 1), -1)
    found = mesh.points, image, weight[..., 0], own
    free, side = fit(*found)[..., 0], box[..., 2]
    spans = []
    for now, seen in zip((free * side).unbind(1), (weight > 0).any(2)[..., 0].unbind(1), strict=True):
        near = (now < AWAY * span) & (span < AWAY * now)
        span = torch.where(seen, torch.where(near, span + STEADY * (now - span), now), span)
        spans.append(span)
    known = torch.stack(spans, 1)
    scale = torch.where((side > 0) & (known > 0), known / side.clamp_min(1e-9), free)
    return fit(*found, scale), span


@functools.cache
def _body(name: str, points: str, device: torch.device, dtype: torch.dtype) -> Body:
    return load_body(name, points=points).to(device, dtype)


# --------------------------------------------------------------------------------------------------------------- checks


def _check_model(model: LMR) -> float:
    """The model's rate."""
    if not isinstance(model, LMR):
        raise TypeError(f"recover takes an LMR, not {type(model).__name__}; of a wrapped one, the model inside")
    if "keypoints" not in model.options:
        raise ValueError(
            "the model does not say which keypoints it takes; build it with keypoints='coco17' or another set, and "
            "load its weights into it"
        )
    if model.training and model.options["dropout"]:
        raise ValueError("the model is in training mode, and drops numbers at random; call model.eval() first")
    return float(model.options["fps"])


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


def _check_points(keypoints: Tensor, points: str) -> None:
    check_keypoints(keypoints)
    if keypoints.ndim > 4 or not keypoints.shape[-3]:
        raise ValueError(
            f"keypoints have shape (T, K, 3) or (B, T, K, 3) with at least one frame, not {tuple(keypoints.shape)}"
        )
    sets = {name: len(names) for name, names in keypoint_sets().items()}
    if (count := keypoints.shape[-2]) != sets[points]:
        alike = [name for name, size in sets.items() if size == count]
        mend = f"kinlmr.keypoints.convert(keypoints, {alike[0]!r}, {points!r}) brings one to the other" if alike else (
            "there are " + ", ".join(f"{name} ({size})" for name, size in sets.items())
        )  # fmt: skip
        raise ValueError(
            f"the keypoints have {count} points, the model takes {points} with {sets[points]}; sets of {count} points: "
            f"{', '.join(alike) or 'none'}; {mend}"
        )


def _check_state(state: Stream, rows: Tensor) -> None:
    if not isinstance(state, Stream):
        raise TypeError(f"state is what recover returned, or None, not {type(state).__name__}")
    if (people := len(state.keypoints)) != len(rows):
        raise ValueError(f"the state is of {people} people, the keypoints of {len(rows)}; start with state None")


def _check_body(model: LMR, body: Body) -> None:
    joints, shape = model.plan.skeleton.joints, model.options["shape"]
    if body.joints != joints or shape > body.shape_width:
        raise ValueError(
            f"the model poses {len(joints)} joints ({joints[0]}, ...) with {shape} shape numbers, its body "
            f"{body.name!r} has {len(body.joints)} ({body.joints[0]}, ...) and {body.shape_width}; build it with the "
            "body= of its skeleton"
        )
