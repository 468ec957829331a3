"""The people of a video who come and go, recovered together: a chunk of frames at a time, whatever its length."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

import kinlmr
from kinlmr.files import Array

SHOWN, AWAY = 0.3, 1.0  # seconds: how long somebody is drawn, and followed, without keypoints


class Take(NamedTuple):
    """What was recovered of somebody, from frame ``start`` on."""

    start: int
    recovery: kinlmr.Recovery


class Piece(NamedTuple):
    """From frame ``low`` of a chunk on: who is there, their recovery (B, C, ...), and when each is shown (B, C)."""

    low: int
    rows: list[int]
    recovery: kinlmr.Recovery
    shown: Array


class Crowd:
    """The people of a video, by row of its keypoints: who is there is a row of one stream.

    last (P): each one's last frame with keypoints; pieces: what was recovered, by the frame it begins with.
    """

    def __init__(self, model: kinlmr.LMR, fps: float) -> None:
        self.model, self.fps = model, fps
        self.here, self.stream = list[int](), kinlmr.RecoveryState.initial(model, 0)
        self.last = np.zeros(0, int)
        self.pieces: list[tuple[int, Piece]] = []

    def take(self, keypoints: Array, frame: int) -> Iterator[Piece]:
        """The next keypoints (P, C, K, 3), from ``frame`` on, in pieces: a new one begins where somebody comes or goes.

        Who is away for longer than `AWAY` has left, and starts afresh on return, wherever chunks begin.
        """
        seen = (keypoints[..., 2] > 0).sum(-1) > 1
        self.last = np.pad(self.last, (0, len(keypoints) - len(self.last)), constant_values=-(10**9))
        clock = frame + np.arange(seen.shape[1])
        before = np.concatenate([self.last[:, None], np.where(seen, clock, -(10**9))], 1)
        before = np.maximum.accumulate(before, 1)  # (P, 1 + C): when each was last seen, before a frame and with it
        there = clock - before[:, 1:] <= AWAY * self.fps
        fresh = seen & (clock - before[:, :-1] > AWAY * self.fps)
        changes = np.diff(there, axis=1, prepend=there[:, :1]) | fresh
        cuts = sorted({0, *(np.flatnonzero(changes[:, 1:].any(0)) + 1).tolist(), len(clock)})
        for low, high in itertools.pairwise(cuts):
            stay = [row for row, p in enumerate(self.here) if there[p, low] and not fresh[p, low]]
            new = np.flatnonzero(fresh[:, low]).tolist()
            self.here = [*(self.here[row] for row in stay), *new]
            self.stream = kinlmr.concat([self.stream.select(stay), kinlmr.RecoveryState.initial(self.model, len(new))])
            if self.here:
                points = torch.from_numpy(keypoints[self.here, low:high])
                recovery, self.stream = kinlmr.recover(self.model, points, self.fps, self.stream)
                latest = before[self.here, 1 + low : 1 + high]
                piece = Piece(low, self.here, recovery, clock[low:high] - latest <= SHOWN * self.fps)
                self.pieces.append((frame + low, piece))
                yield piece
        self.last = before[:, -1]

    def takes(self) -> list[Take]:
        """Everybody who was seen, from the first frame with keypoints to the last; who is away stays as before."""
        found: dict[int, tuple[int, list[kinlmr.Recovery]]] = {}
        for frame, piece in self.pieces:
            for row, p in enumerate(piece.rows):
                start, parts = found.setdefault(p, (frame, []))
                if gap := frame - start - sum(len(part.box) for part in parts):
                    parts.append(kinlmr.Recovery(*(x[-1:].expand(gap, *x.shape[1:]) for x in parts[-1])))
                parts.append(kinlmr.Recovery(*(x[row] for x in piece.recovery)))
        return [
            Take(start, kinlmr.Recovery(*(torch.cat(x)[: self.last[p] + 1 - start] for x in zip(*parts, strict=True))))
            for p, (start, parts) in sorted(found.items())
        ]
