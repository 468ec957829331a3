"""The root's path: one linear least-squares system over a clip, solved in a time that grows with its length.

Of positions p_t (3), seconds h from frame to frame:

    where the camera has it         (p_t - place_t)' W_t (p_t - place_t)
    a foot that stands stays        c |(p_t + f_t) - (p_{t-1} + f_{t-1})|^2
    acceleration is small           k |p_t - 2 p_{t-1} + p_{t-2} - g_t|^2, where g_t is gravity's in flight, else zero

Each frame ties three positions, so the system is block pentadiagonal. Positions are eliminated in their order: what is
left about the last two is the state of a Kalman filter in information form, `Filter`; the way back makes a smoother.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

FASTEST = 3.0  # m/s: the standard deviation of the first speed
FAINT = 1e-6  # per square metre: how surely an unknown root is at the camera


class Terms(NamedTuple):
    """The system of B people in T frames: place (B, T, 3) with its information W (B, T, 3, 3), zeros where the camera
    has none; feet (B, T, N, 3) about the root, their weights c (B, T, N) from the frame before; the weight k (B, T) of
    acceleration, and gravity (B, T, 3), g. seen (B, T): whether somebody was seen by then."""

    place: Tensor
    certainty: Tensor
    feet: Tensor
    still: Tensor
    calm: Tensor
    gravity: Tensor
    seen: Tensor


class Filter(NamedTuple):
    """What is known of the last two positions: information (B, 6, 6) and its product with the estimate (B, 6); the last
    feet (B, N, 3) and their contacts (B, N); whether somebody was seen (B), and for how many seconds nobody stood (B),
    infinite before."""

    information: Tensor
    vector: Tensor
    feet: Tensor
    contact: Tensor
    seen: Tensor
    aloft: Tensor


def start(people: int, feet: int, like: Tensor) -> Filter:
    """Of so many people, before they were seen."""
    seen = torch.zeros(people, dtype=torch.bool, device=like.device)
    make = torch.zeros(people, 6, 6, dtype=torch.float64, device=like.device)
    return Filter(
        make,
        make[..., 0],
        make.new_zeros(people, feet, 3),
        make.new_zeros(people, feet),
        seen,
        like.new_full((people,), torch.inf),
    )


def forward(terms: Terms, seconds: float, state: Filter) -> tuple[Tensor, Tensor, Filter]:
    """Eliminate frame after frame -> the positions (B, T, 3) by what was seen so far; the elimination (B, T, 3, 7), the
    position two frames before by the two after it and one; and the filter's state.

    The sum of squares p' A p - 2 b' p is (A | b) over (p_{t-2}, p_{t-1}, p_t); what is left of it without p_{t-2} is
    one over (p_{t-1}, p_t), and goes on to the next frame.
    """
    forms, after = _forms(terms, state)
    known = torch.cat([state.seen[:, None], after[:, :-1]], 1)
    steady = known.all(0).tolist()
    left = torch.cat([state.information, state.vector[..., None]], -1)
    gone, lefts = [], []
    for t, form in enumerate(forms.unbind(1)):
        left = left if steady[t] else torch.where(known[:, t, None, None], left, _unknown(seconds, left))
        form[:, :6, :6] += left[..., :6]
        form[:, :6, 9] += left[..., 6]
        solved = torch.linalg.solve(form[:, :3, :3], form[:, :3, 3:])
        left = torch.baddbmm(form[:, 3:, 3:], form[:, 3:, :3], solved, alpha=-1)
        gone.append(solved)
        lefts.append(left)
    eliminated, every = torch.stack(gone, 1), torch.stack(lefts, 1)
    positions = torch.linalg.solve(every[..., :6] + FAINT * _eye(6, every), every[..., 6])[..., 3:]
    now = state._replace(
        information=left[..., :6], vector=left[..., 6], feet=terms.feet[:, -1].double(), seen=after[:, -1]
    )
    return positions, eliminated, now


def _forms(terms: Terms, state: Filter) -> tuple[Tensor, Tensor]:
    """Each frame's own squares (B, T, 9, 10), D' W (D | y) of (D p - y)' W (D p - y), and those who were seen by then
    (B, T). D has three rows: the place, the step of the feet that stand, the acceleration."""
    place, certainty, feet, still, calm, gravity, seen = (x.double() if x.is_floating_point() else x for x in terms)
    after = torch.cat([state.seen[:, None], seen], 1).cummax(1).values[:, 1:]
    before = torch.cat([state.seen[:, None], seen[:, :-1]], 1)
    still = torch.where((seen & before)[..., None], still, 0)
    total, back = still.sum(-1), torch.cat([state.feet[:, None], feet[:, :-1]], 1) - feet
    step = (still[..., None] * back).sum(-2) / total.clamp_min(1e-30)[..., None]
    eye = _eye(3, place)
    design = torch.kron(place.new_tensor([[0, 0, 1], [0, -1, 1], [1, -2, 1]]), eye)
    weight = torch.cat([certainty[..., None, :, :], torch.stack([total, calm], -1)[..., None, None] * eye], 2)
    told = torch.stack([place, step, gravity], 2)[..., None]
    squares = weight @ torch.cat([design.unflatten(0, (3, 3)).expand(*told.shape[:3], 3, 9), told], -1)
    return design.mT @ squares.flatten(2, 3), after


def _unknown(seconds: float, like: Tensor) -> Tensor:
    """What is known (6, 7) of the first two positions: nearly nothing but that they are near each other."""
    speed = 1 / (FASTEST * seconds) ** 2
    pair = like.new_tensor([[speed + FAINT, -speed], [-speed, speed + FAINT]])
    return pad(torch.kron(pair, _eye(3, like)), (0, 1))


def _eye(size: int, like: Tensor) -> Tensor:
    return torch.eye(size, dtype=like.dtype, device=like.device)


def backward(gone: Tensor, state: Filter) -> Tensor:
    """The positions (B, T, 3) by the whole clip, of what `forward` gave."""
    last = torch.linalg.solve(state.information + FAINT * _eye(6, state.vector), state.vector)
    found = [last]  # pairs of positions, later ones first
    for one in reversed(gone[:, 2:].unbind(1)):
        earlier = one[..., 6] - (one[..., :6] @ found[-1][..., None])[..., 0]
        found.append(torch.cat([earlier, found[-1][:, :3]], 1))
    pairs = torch.stack(found[::-1], 1)
    return torch.cat([pairs[:, :1, :3], pairs[..., 3:]], 1)[:, -gone.shape[1] :]
