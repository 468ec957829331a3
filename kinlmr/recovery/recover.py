"""From a detector's keypoints to a posed body: whole clips, chunks or single frames, at any rate.

A model runs at its own rate, 30 frames a second. Keypoints of another rate are interpolated at the model's ticks, each
of which lies between two frames and needs no later one. A frame between two ticks gets an estimate of its own, without
delay: the model looks at it from where the last tick left it, and forgets that it did. It looks at the last tick's
keypoints again from there too. What it says of them now and what it said at the tick differ; the answer makes up for
that, less and less towards the next tick, so that it is continuous. A frame on a tick has the numbers of 30 a second.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from kinlmr.body import Body, keypoint_sets, load_body
from kinlmr.camera import LEAST, facing, fit, project, to_translation
from kinlmr.files import Array
from kinlmr.keypoints import Track, check_keypoints, normalise, reported
from kinlmr.model import LMR, Estimate, State
from kinlmr.recovery.gating import Gate, believed
from kinlmr.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from kinlmr.state import Rows, select

T = TypeVar("T", bound=tuple[Any, ...])

SAME = 0.01  # rates this near, such as 29.97 and 30, are taken for one
EXACT = 1e-6  # of a tick: a frame this near is on it
MEDIAN = 5  # ticks whose median the pixels per metre follow
STEADY, JUMP = 0.3, 1.5  # how much of the way they go there in a tick; a change by such a factor is taken at once
ENOUGH = 4  # points that tell the scale
OFF = 0.1  # crop units: a point this far from where the body has it counts half
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

        `rotations` are as seen by a camera that looks at the body. Beside the picture's middle it must be turned, too,
        to stand in the camera's frame: `in_camera` gives both.
        """
        place = to_translation(self.camera, self.box, torch.as_tensor(size).to(self.box), focal)
        return torch.where(self.box[..., 2:] > 0, place, torch.nan)

    def in_camera(
        self, size: Tensor | Sequence[float], focal: Tensor | float, body: Body | str = "anny24"
    ) -> tuple[Tensor, Tensor]:
        """Rotations (..., T, J, 3, 3) and translation (..., T, 3) in the camera's frame, metres, for ``body(rotations,
        shape, translation)``: `rotations` turned about the root joint onto the ray on which it is seen.

        size and focal as of `translation`; body: the model's, or its name. Until somebody was seen, nothing is turned.
        """
        translation = self.translation(size, focal)
        body = _body(body, None, self.box.device, self.box.dtype) if isinstance(body, str) else body
        root = body.parents.index(-1)
        rest = body.J.view(-1, 3)[root] + self.shape @ body.J_shapedirs.view(len(body.J_shapedirs), -1, 3)[:, root]
        ray = torch.where(self.box[..., 2:] > 0, translation + rest, translation.new_tensor((0.0, 0.0, 1.0)))
        rotations = self.rotations.clone()
        rotations[..., root, :, :] = facing(ray) @ rotations[..., root, :, :]
        return rotations, translation


class Stream(NamedTuple):
    """What `recover` remembers of B people between frames: a plain tuple of tensors, and nothing writes to it.

    As of the last tick: memory (B, V, M), the model's; box (B, 3) and points (B, K, 3), as `kinlmr.keypoints.Track` has
    them; spans (B, M), pixels per metre as the latest ticks had them, zeros before, and span (B), smoothed; rotations
    (B, J, 3, 3), shape (B, S) and camera (B, 3), the answer, the camera in pixels. As of the last frame: seen, away,
    doubted and alike, as `kinlmr.gating.Gate` has them; phase (B), float64, how long ago the last tick was when it
    came, in ticks; 1 of somebody who had no frame yet.

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
    spans: Tensor
    span: Tensor
    rotations: Tensor
    shape: Tensor
    camera: Tensor
    seen: Tensor
    away: Tensor
    doubted: Tensor
    alike: Tensor
    phase: Tensor

    @classmethod
    def initial(cls, model: LMR, people: int) -> Stream:
        """Of so many people, before their first frame: what `recover` takes ``None`` for."""
        _check_model(model)
        pose, zeros = model.start.pose, model.start.pose.new_zeros
        points = zeros(people, len(keypoint_sets()[model.options["keypoints"]]), 3)
        rotations = torch.eye(3).to(pose).repeat(people, len(pose), 1, 1)
        box, number, shape = zeros(people, 3), zeros(people), zeros(people, model.options["shape"])
        phase = torch.ones(people, dtype=torch.float64, device=pose.device)
        return cls(
            model.initial_state(people).memory, box, points, zeros(people, MEDIAN), number, rotations, shape, box,
            points, number, points, number, phase,
        )  # fmt: skip

    def gate(self) -> Gate:
        """What is believed of the keypoints."""
        return Gate(self.seen, self.away, self.doubted, self.alike)

    def keypoints(self) -> Tensor:
        """The last frame (B, K, 3), zeros where it was not believed."""
        return torch.where(self.away[:, None, None] > 0, 0, self.seen)

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

    gate = state.gate()
    rows, gate = believed(rows, 1 / float(fps), gate)
    if abs(1 / ratio - 1) <= SAME:
        answer, state = _run(model, body, rows, state)
        state = state._replace(phase=torch.zeros_like(state.phase))
    else:
        answers, before = [], state.keypoints()
        state = state._replace(phase=torch.where(state.phase < 1, state.phase, 1 - ratio))  # a first frame is a tick
        for frame in rows.unbind(1):
            one, state = _resampled(model, body, before, frame, ratio, state)
            answers.append(one)
            before = frame
        answer = Recovery(*(torch.cat(parts, 1) for parts in zip(*answers, strict=True)))
    state = Stream(*map(_owned, state._replace(**gate._asdict())))
    return answer if x.ndim == 4 else Recovery(*(part[0] for part in answer)), state


# --------------------------------------------------------------------------------------------------------------- frames


def _run(model: LMR, body: Body, keypoints: Tensor, state: Stream) -> tuple[Recovery, Stream]:
    """Keypoints (B, T, K, 3) at the model's ticks."""
    features, box, track = normalise(keypoints, Track(state.box, state.points))
    estimate, after = model(reported(features, model.options.get("confidence")), state=State(state.memory))
    rotations = model.matrices(estimate)
    camera, spans, span = _camera(body, rotations, estimate, features, box, state)
    state = state._replace(
        memory=after.memory, box=track.box, points=track.keypoints, spans=spans, span=span, rotations=rotations[:, -1],
        shape=estimate.shape[:, -1], camera=_in_pixels(camera[:, -1], box[:, -1]),
    )  # fmt: skip
    return Recovery(rotations, estimate.shape, camera, box), state


def _resampled(
    model: LMR, body: Body, before: Tensor, frame: Tensor, ratio: float, state: Stream
) -> tuple[Recovery, Stream]:
    """A frame (B, K, 3), which comes ``ratio`` ticks after the one before: the ticks up to it, and the frame itself."""
    phase = state.phase + ratio
    ticks = (phase + EXACT).floor()
    now, answer = state, None
    for tick in range(1, int(max(ticks.tolist(), default=0)) + 1):
        share = ((tick - state.phase) / ratio).clamp(0, 1).to(frame)
        one, after = _run(model, body, _between(before, frame, share)[:, None], now)
        answer, now = one if answer is None else _chosen(ticks >= tick, one, answer), _chosen(ticks >= tick, after, now)
    phase = phase - ticks
    apart = phase > EXACT
    if answer is None or apart.any():
        look = _look(model, body, frame, 1 - phase.to(frame), now)
        answer = look if answer is None else _chosen(apart, look, answer)
    return answer, now._replace(phase=phase)


def _look(model: LMR, body: Body, frame: Tensor, rest: Tensor, state: Stream) -> Recovery:
    """A frame (B, K, 3) after the last tick, ``rest`` (B) ticks before the next, by a model that forgets it.

    The last tick's keypoints are looked at again beside it: what is said of them now is brought back to what was said
    at the tick, and the frame's answer moves by ``rest`` of that, so that answers are continuous at the tick.
    """
    both, _ = _run(model, body, torch.cat([frame, state.points])[:, None], Stream(*(torch.cat([x, x]) for x in state)))
    look, again = (Recovery(*(x[half, 0] for x in both)) for half in (slice(len(frame)), slice(len(frame), None)))
    turn = matrix_to_axis_angle(again.rotations.mT @ state.rotations)
    rotations = look.rotations @ axis_angle_to_matrix(rest[:, None, None] * turn)
    shape = look.shape + rest[:, None] * (state.shape - again.shape)
    now, was = (_in_pixels(r.camera, r.box) for r in (look, again))
    grown = (state.camera[:, :1] / was[:, :1].clamp_min(1e-9)) ** rest[:, None]
    moved = torch.cat([now[:, :1] * grown, now[:, 1:] + rest[:, None] * (state.camera - was)[:, 1:]], 1)
    known = (look.box[:, 2:] > 0) & (was[:, :1] > 0) & (state.camera[:, :1] > 0)
    camera = torch.where(known, _in_crop(moved, look.box), look.camera)
    return Recovery(*(x[:, None] for x in (rotations, shape, camera, look.box)))


def _in_pixels(camera: Tensor, box: Tensor) -> Tensor:
    """A box's camera (..., 3) as (pixels per metre, x, y in pixels)."""
    half = box[..., 2:] / 2
    return torch.cat([camera[..., :1] * half, camera[..., 1:] * half + box[..., :2]], -1)


def _in_crop(camera: Tensor, box: Tensor) -> Tensor:
    """The inverse of `_in_pixels`."""
    half = box[..., 2:].clamp_min(1e-9) / 2
    return torch.cat([camera[..., :1] / half, (camera[..., 1:] - box[..., :2]) / half], -1)


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


def _owned(x: Tensor) -> Tensor:
    """The tensor, or a copy of one that is a view of something larger."""
    return x if x.untyped_storage().nbytes() == x.nbytes else x.clone()


def _camera(
    body: Body, rotations: Tensor, estimate: Estimate, features: Tensor, box: Tensor, state: Stream
) -> tuple[Tensor, Tensor, Tensor]:
    """The camera (B, T, 3) by least squares of the body's points on those that were seen; spans and span after it.

    The model's own camera, which is for the body about its root joint, decides what they leave open. A point far from
    where the body has it counts less. The span, pixels per metre, follows the median of the last ticks that told it: a
    person's distance changes slowly.
    """
    mesh = body(rotations, estimate.shape, want=("joints", "points"))
    own = estimate.camera if estimate.camera.shape[-1] == 3 else box.new_tensor(USUAL).expand_as(box)
    s = own[..., :1].clamp_min(LEAST)
    own = torch.cat([s, own[..., 1:] - s * mesh.joints[..., body.parents.index(-1), :2]], -1)
    image, weight = features.unflatten(-1, (-1, 3)).split((2, 1), -1)
    weight = weight[..., 0]
    count = (weight > 0).sum(-1)
    off = (project(mesh.points, fit(mesh.points, image, weight, own)) - image).square().sum(-1)
    weight = weight / (1 + off / OFF**2)
    free, side = fit(mesh.points, image, weight, own)[..., 0], box[..., 2]
    told = (count >= ENOUGH) & (free > 1.001 * LEAST)
    spans, span, known = state.spans, state.span, []
    for now, ok, some in zip((free * side).unbind(1), told.unbind(1), (count > 0).unbind(1), strict=True):
        spans = torch.where(ok[:, None], torch.cat([spans[:, 1:], now[:, None]], 1), spans)
        middle = torch.where(spans > 0, spans, torch.nan).nanmedian(1).values
        near = (middle < JUMP * span) & (span < JUMP * middle)
        span = torch.where(some & middle.isfinite(), torch.where(near, span + STEADY * (middle - span), middle), span)
        known.append(span)
    held = torch.stack(known, 1)
    scale = torch.where((side > 0) & (held > 0), held / side.clamp_min(1e-9), torch.where(told, free, own[..., 0]))
    return fit(mesh.points, image, weight, own, scale), spans, span


@functools.cache
def _body(name: str, points: str | None, device: torch.device, dtype: torch.dtype) -> Body:
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
    if (people := len(state.seen)) != len(rows):
        raise ValueError(f"the state is of {people} people, the keypoints of {len(rows)}; start with state None")


def _check_body(model: LMR, body: Body) -> None:
    joints, shape = model.plan.skeleton.joints, model.options["shape"]
    if body.joints != joints or shape > body.shape_width:
        raise ValueError(
            f"the model poses {len(joints)} joints ({joints[0]}, ...) with {shape} shape numbers, its body "
            f"{body.name!r} has {len(body.joints)} ({body.joints[0]}, ...) and {body.shape_width}; build it with the "
            "body= of its skeleton"
        )
