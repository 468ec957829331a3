"""Which detection is whom: a detector's people of one frame, in no order, to rows that stay from frame to frame."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from kinlmr._moved import renamed
from kinlmr.files import Array
from kinlmr.keypoints import SURE
from kinlmr.state import inference

REACH = 0.35  # of a person's size: as far from where one is expected, a detection may still be that person
FIRM = 2  # frames that make a person one who is waited for
LEARN = 0.3  # how much of the way the velocity goes to the last frame's motion


class Tracks(NamedTuple):
    """The people that `track` follows, P of them, by ascending row: as large as they are many, however long it runs.

    row (P): their rows. keypoints (P, K, 3): where each was last seen, moved on with the person since; confidence 0 if
    never. velocity (P, 2): in pixels a frame. seen, away (P): how often, and for how many frames not. next (): the
    row of the next who comes.
    """

    row: Tensor
    keypoints: Tensor
    velocity: Tensor
    seen: Tensor
    away: Tensor
    next: Tensor

    @property
    def points(self) -> Tensor:
        return renamed("Tracks.points", "Tracks.keypoints", self.keypoints)


@inference
def track(keypoints: Tensor | Array, tracks: Tracks | None = None, patience: int = 30) -> tuple[Tensor, Tracks]:
    """Whose detections these are: the next frame of a video, causally.

    keypoints  (D, K, 3) of D people in any order: x, y in pixels and confidence, 0 for a point that was not seen. Boxes
               go in as their corners, K = 2. Of any type; nobody is D = 0, or an empty list
    tracks     from the frame before, None at first
    patience   frames that somebody may be away and keep the row: 30 are a second at 30 frames a second
    -> the row (D) of each detection, -1 of one with fewer than two points; tracks

    A row is a number, from 0, and none is given twice. Whoever comes gets the next; people who come together get theirs
    from left to right. A person who is away for longer than ``patience`` is given up, and gets a new row on return; one
    who was seen in a single frame, likely a false detection, is given up at once.

    A person is expected where last seen, moved on with constant velocity, and a detection within `REACH` of there is
    theirs (after a gap also one on the way back to where they were lost). The distance is the mean over points, in
    units of the person's size. The nearest pair is matched first, then the next (greedy); people who were seen in one
    frame only are matched last. People who cross are told apart, unless they turn back while hidden.

    With `kinlmr.RecoveryState`, its rows being the people of ``tracks`` in their order:

    >>> import kinlmr, torch
    >>> model = kinlmr.build("smpl.yaml", keypoints="coco17", body="anny24_lo369", hidden=4)
    >>> tracks, state = None, kinlmr.RecoveryState.initial(model, 0)
    >>> before = torch.zeros(0, dtype=torch.long)
    >>> for detections in torch.rand(3, 2, 17, 3) * 300:  # D = 2 in each of 3 frames
    ...     rows, tracks = kinlmr.track(detections, tracks)
    ...     new = kinlmr.RecoveryState.initial(model, int((~torch.isin(tracks.row, before)).sum()))
    ...     state = kinlmr.concat([state.select(torch.isin(before, tracks.row)), new])
    ...     before = tracks.row
    ...     people = detections.new_zeros(len(before), 1, 17, 3)
    ...     people[torch.searchsorted(before, rows), 0] = detections
    ...     recovery, state = kinlmr.recover(model, people, 30, state)
    """
    x = _checked(keypoints, tracks, patience)
    rows = torch.full((len(x),), -1)
    if tracks is None or not len(tracks.row):
        nobody, first = torch.zeros(0, dtype=torch.long), torch.zeros((), dtype=torch.long)
        tracks = Tracks(nobody, x[:0], x[:0, 0, :2], nobody, nobody, first if tracks is None else tracks.next)
    there = ((x[..., 2] > 0).sum(1) > 1).nonzero()[:, 0].tolist()
    order = sorted(there, key=lambda d: (float(_middle(x[d])), x[d].flatten().tolist()))  # the detector's says nothing
    x = x[order]

    expected = tracks.keypoints + pad(tracks.velocity, (0, 1))[:, None]
    away = tracks.away + 1
    p, d, trust = _pairs(x, tracks._replace(keypoints=expected, away=away))
    was, now = expected[p], x[d]
    weight = was[..., 2:] * now[..., 2:]
    missed = (weight * (now - was)[..., :2]).sum(1) / weight.sum(1)
    rate = trust * (1 / tracks.seen[p]).clamp_min(LEARN) / away[p]
    tracks = tracks._replace(
        keypoints=expected.index_copy(0, p, torch.where(now[..., 2:] > 0, now, was + pad(missed, (0, 1))[:, None])),
        velocity=tracks.velocity.index_add(0, p, rate[:, None] * missed),
        seen=tracks.seen.index_add(0, p, torch.ones_like(p)),
        away=away.index_fill(0, p, 0),
    )

    new = sorted(set(range(len(x))) - set(d.tolist()))
    came = tracks.next + torch.arange(len(new))
    rows[[order[k] for k in (*d.tolist(), *new)]] = torch.cat([tracks.row[p], came])
    stays = (tracks.away == 0) | ((tracks.away <= patience) & (tracks.seen >= FIRM))
    fresh = (came, x[new], x.new_zeros(len(new), 2), torch.ones_like(came), torch.zeros_like(came))
    row, last, velocity, seen, away = (torch.cat([old[stays], one]) for old, one in zip(tracks, fresh, strict=False))
    return rows, Tracks(row, last, velocity, seen, away, tracks.next + len(new))


def _pairs(x: Tensor, tracks: Tracks) -> tuple[Tensor, Tensor, Tensor]:
    """Who (n), by index, is which (n) of the detections (D, K, 3); the tracks' keypoints are the expected ones.

    And the trust (n) in that, from 1 where the person was expected to 0 at the end of the reach: a detection that is
    far off changes the velocity little, so that one false detection does not lead a row away from its person.
    """
    weight = tracks.keypoints[:, None, :, 2] * x[None, :, :, 2]
    apart = (tracks.keypoints[:, None, :, :2] - x[None, :, :, :2]).norm(dim=-1)
    distance = (weight * apart).sum(-1) / weight.sum(-1).clamp_min(1e-9)
    size = _size(tracks.keypoints)
    reach = (REACH * size + (tracks.away - 1) * tracks.velocity.norm(dim=-1))[:, None]
    late = torch.where(tracks.seen < FIRM, 1e9, 0.0)[:, None]
    cost = torch.where((distance <= reach) & (weight.sum(-1) > 0), distance / size[:, None] + late, torch.inf)
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for cell in cost.flatten().argsort(stable=True)[: int(cost.isfinite().sum())].tolist():
        p, d = divmod(cell, len(x))
        if p not in pairs and d not in taken:
            pairs[p] = d
            taken.add(d)
    who, which = (torch.tensor(list(some), dtype=torch.long) for some in (pairs, pairs.values()))
    return who, which, 1 - (distance / reach)[who, which]


def _size(points: Tensor) -> Tensor:
    """The longer side of the box (P) around the points (P, K, 3) that are fairly sure."""
    sure = points[..., 2:] > SURE * points[..., 2:].amax(1, keepdim=True)
    high, low = (torch.where(sure, sign * points[..., :2], -torch.inf).amax(1) * sign for sign in (1, -1))
    return (high - low).amax(-1).clamp_min(1e-6)


def _middle(points: Tensor) -> Tensor:
    """The mean x of the points (K, 3) that were seen."""
    return points[points[:, 2] > 0, 0].mean()


def _checked(keypoints: Tensor | Array, tracks: Tracks | None, patience: int) -> Tensor:
    """The keypoints (D, K, 3) on the CPU in float32, zeros where a point was not seen."""
    if not isinstance(keypoints, Tensor):
        with np.errstate(over="ignore"):  # what is infinite is refused below
            keypoints = torch.from_numpy(np.array(keypoints, np.float32))
    x = keypoints.detach().cpu().float()
    if x.ndim and not len(x):
        x = x.new_zeros(0, tracks.keypoints.shape[1] if isinstance(tracks, Tracks) else 2, 3)
    if x.ndim != 3 or x.shape[2] != 3 or x.shape[1] < 2:
        raise ValueError(
            f"track takes the keypoints (D, K, 3) of one frame: D people, at least two points x, y, confidence each; "
            f"not {tuple(x.shape)}"
        )
    wrong = (~x.isfinite().all(-1) & ~(x[..., 2] <= 0)).nonzero().tolist()
    if wrong:
        d, k = wrong[0]
        raise ValueError(
            f"point {k} of detection {d} is {x[d, k].tolist()}: not finite, but its confidence is not 0; "
            "set the confidence of points that were not found to 0"
        )
    if not (tracks is None or isinstance(tracks, Tracks)):
        raise TypeError(f"tracks are what track returned, or None, not {type(tracks).__name__}")
    if tracks is not None and len(tracks.row) and tracks.keypoints.shape[1] != x.shape[1]:
        raise ValueError(
            f"the detections have {x.shape[1]} points, the tracks {tracks.keypoints.shape[1]}; "
            "begin with tracks None where the detector changes"
        )
    if not patience >= 0:
        raise ValueError(f"patience is {patience}; give a number of frames, 0 or more")
    return torch.where(x[..., 2:] > 0, x, 0)
