"""The people of a video, who come and go: recovered in whole, or live, and set on one floor."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

import kinlmr
from kinlmr.files import Array
from kinlmr.model import Live

SHOWN, AWAY = 0.3, 1.0  # seconds: how long somebody is drawn, and followed, without keypoints


class Place(Protocol):
    """`kinlmr.to_world`, for one video."""

    def __call__(self, recovery: kinlmr.Recovery, *, keypoints: Any, state: Any = None) -> Any: ...


class Take(NamedTuple):
    """Somebody from the first frame with keypoints, ``start`` of a video, to the last, T frames later.

    row: theirs among the keypoints. recovery and world (T, ...): while they are away for longer than `AWAY`, the box is
    zero, and the world's translation NaN. shown (T): whether keypoints are near enough for them to be drawn.
    """

    row: int
    start: int
    recovery: kinlmr.Recovery
    world: kinlmr.World
    shown: Array


def seen(keypoints: Array) -> Array:
    """Whether somebody's keypoints (..., K, 3) are more than one."""
    return np.asarray((keypoints[..., 2] > 0).sum(-1) > 1)


def _held(recovery: kinlmr.Recovery, frames: int) -> kinlmr.Recovery:
    """The last frame of (T, ...) for so many frames more, without a box."""
    rotations, shape, camera, box = (x[-1:].expand(frames, *x.shape[1:]) for x in recovery)
    return kinlmr.Recovery(rotations, shape, camera, torch.zeros_like(box))


def _one(parts: list[Any]) -> Any:
    return type(parts[0])(*map(torch.cat, zip(*parts, strict=True)))


# --------------------------------------------------------------------------------------------------- whose end is known


def takes(model: kinlmr.LMR, keypoints: Array, fps: float, place: Place) -> list[Take]:
    """Everybody in keypoints (P, T, K, 3), by all frames. Who is away for longer than `AWAY` comes back as if new."""
    found = {row: np.flatnonzero(frames) for row, frames in enumerate(seen(keypoints)) if frames.any()}
    alone = [_recovered(model, keypoints[row], frames, fps) for row, frames in found.items()]
    if not alone:
        return []
    lengths = [len(one.box) for one in alone]
    together = [_one([one, _held(one, max(lengths) - len(one.box))]) for one in alone]
    points = np.zeros((len(alone), max(lengths), *keypoints.shape[2:]), np.float32)
    for part, (row, frames), length in zip(points, found.items(), lengths, strict=True):
        part[:length] = keypoints[row, frames[0] : frames[0] + length]
    world = place(kinlmr.Recovery(*map(torch.stack, zip(*together, strict=True))), keypoints=points)
    worlds = [kinlmr.World(*(x[k, :length] for x in world)) for k, length in enumerate(lengths)]
    return [
        Take(row, int(frames[0]), one, stands, _near(frames, SHOWN * fps) & (one.box[:, 2] > 0).numpy())
        for (row, frames), one, stands in zip(found.items(), alone, worlds, strict=True)
    ]


def _recovered(model: kinlmr.LMR, keypoints: Array, frames: Array, fps: float) -> kinlmr.Recovery:
    """Somebody with keypoints (T, K, 3) in some frames, from the first to the last of these."""
    parts = list[kinlmr.Recovery]()
    for stretch in np.split(frames, np.flatnonzero(np.diff(frames) > AWAY * fps) + 1):
        if parts:
            parts.append(_held(parts[-1], int(stretch[0] - frames[0]) - sum(len(part.box) for part in parts)))
        parts.append(kinlmr.recover_clip(model, keypoints[stretch[0] : stretch[-1] + 1], fps))
    return _one(parts)


def _near(frames: Array, reach: float) -> Array:
    """Which numbers, from the first to the last of some frames, are no further than that from one of them."""
    at = np.arange(frames[0], frames[-1] + 1)
    after = np.searchsorted(frames, at)
    return np.minimum(frames[after] - at, at - frames[np.maximum(after - 1, 0)]) <= reach


# ----------------------------------------------------------------------------------------------------------------- live


class Piece(NamedTuple):
    """From frame ``low`` of a chunk on: who is there, their recovery and world (B, C, ...), and when each is shown
    (B, C)."""

    low: int
    rows: list[int]
    recovery: kinlmr.Recovery
    world: kinlmr.World
    shown: Array

    @property
    def end(self) -> int:
        """The frame of the chunk after the last."""
        return self.low + self.shown.shape[1]


class Crowd:
    """The people of a video as it comes, by row of its keypoints: who is there is a row of both states.

    last (P): each one's last frame with keypoints.
    """

    def __init__(self, model: kinlmr.LMR | Live, fps: float, place: Place) -> None:
        self.model, self.fps, self.place = model, fps, place
        self.here = list[int]()
        self.state, self.standing = kinlmr.RecoveryState.initial(model, 0), self.strangers(0)
        self.last = np.zeros(0, int)

    def strangers(self, people: int) -> kinlmr.WorldState:
        """What is known of their world."""
        return kinlmr.WorldState.initial(people, len(self.model.start.pose), self.model.options["shape"])

    def take(self, keypoints: Array, frame: int) -> Iterator[Piece]:
        """The next keypoints (P, C, K, 3), from ``frame`` on, in pieces: a new one begins where somebody comes or goes.

        Who is away for longer than `AWAY` has left, and starts afresh on return, wherever chunks begin.
        """
        noticed = seen(keypoints)
        self.last = np.pad(self.last, (0, len(keypoints) - len(self.last)), constant_values=-(10**9))
        clock = frame + np.arange(noticed.shape[1])
        before = np.concatenate([self.last[:, None], np.where(noticed, clock, -(10**9))], 1)
        before = np.maximum.accumulate(before, 1)  # (P, 1 + C): when each was last seen, before a frame and with it
        there = clock - before[:, 1:] <= AWAY * self.fps
        fresh = noticed & (clock - before[:, :-1] > AWAY * self.fps)
        changes = np.diff(there, axis=1, prepend=there[:, :1]) | fresh
        cuts = sorted({0, *(np.flatnonzero(changes[:, 1:].any(0)) + 1).tolist(), len(clock)})
        for low, high in itertools.pairwise(cuts):
            stay = [row for row, p in enumerate(self.here) if there[p, low] and not fresh[p, low]]
            new = np.flatnonzero(fresh[:, low]).tolist()
            if new or len(stay) < len(self.here):
                self.here = [*(self.here[row] for row in stay), *new]
                came = kinlmr.RecoveryState.initial(self.model, len(new))
                self.state = kinlmr.concat([self.state.select(stay), came])
                self.standing = kinlmr.concat([self.standing.select(stay), self.strangers(len(new))])
            if self.here:
                points = torch.from_numpy(keypoints[self.here, low:high])
                recovery, self.state = kinlmr.recover(self.model, points, self.fps, self.state)
                world, self.standing = self.place(recovery, keypoints=points, state=self.standing)
                near = clock[low:high] - before[self.here, 1 + low : 1 + high] <= SHOWN * self.fps
                yield Piece(low, self.here, recovery, world, near & (recovery.box[..., 2] > 0).numpy())
        self.last = before[:, -1]
