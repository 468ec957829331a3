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
    position two frames before by the two after it; and the filter's state.

    The sum of squares is one matrix over (p_{t-2}, p_{t-1}, 1, p_t); what is left of it without p_{t-2} is one over
    (p_{t-1}, p_t, 1), and goes on to the next frame.
    """
    forms, after, first = _forms(terms, seconds, state)
    order = torch.tensor([0, 1, 2, 4, 5, 6, 3], device=forms.device)
    known = torch.cat([state.seen[:, None], after[:, :-1]], 1)
    steady = known.all(0).tolist()
    left = torch.zeros_like(forms[:, 0, :7, :7])
    left[:, :6, :6], left[:, :6, 6], left[:, 6, :6] = state.information, state.vector, state.vector
    gone, lefts = [], []
    for t, form in enumerate(forms.unbind(1)):
        left = left if steady[t] else torch.where(known[:, t, None, None], left, first)
        form[:, :7, :7] += left
        solved = torch.linalg.solve(form[:, :3, :3], form[:, :3, 3:])
        left = torch.baddbmm(form[:, 3:, 3:], form[:, 3:, :3], solved, alpha=-1)[:, order][:, :, order]
        gone.append(solved)
        lefts.append(left)
    left, eliminated = torch.stack(lefts, 1), torch.stack(gone, 1)[..., order]
    faint = FAINT * torch.eye(6).to(left)
    positions = torch.linalg.solve(left[..., :6, :6] + faint, left[..., :6, 6])[..., 3:]
    now = state._replace(
        information=left[:, -1, :6, :6], vector=left[:, -1, :6, 6], feet=terms.feet[:, -1].double(), seen=after[:, -1]
    )
    return positions, eliminated, now


def _forms(terms: Terms, seconds: float, state: Filter) -> tuple[Tensor, Tensor, Tensor]:
    """Each frame's own squares as a matrix (B, T, 10, 10) over (p_{t-2}, p_{t-1}, 1, p_t), those who were seen by then
    (B, T), and what is known (7, 7) before somebody was. Of p' A p - 2 b'p a form has A and b."""
    place, certainty, feet, still, calm, gravity, seen = (x.double() if x.is_floating_point() else x for x in terms)
    after = torch.cat([state.seen[:, None], seen], 1).cummax(1).values[:, 1:]
    before = torch.cat([state.seen[:, None], seen[:, :-1]], 1)
    feet_before = torch.cat([state.feet[:, None], feet[:, :-1]], 1)
    still = torch.where((seen & before)[..., None], still, 0)
    total, moved = still.sum(-1), (still[..., None] * (feet_before - feet)).sum(-2)
    difference = torch.tensor([1.0, -2.0, 1.0]).to(place)
    step = torch.tensor([[0.0, 0, 0], [0, 1, -1], [0, -1, 1]]).to(place)
    scalar = calm[..., None, None] * torch.outer(difference, difference) + total[..., None, None] * step
    matrix = torch.einsum("btij,xy->btixjy", scalar, torch.eye(3).to(place)).flatten(4).flatten(2, 3)
    matrix[..., 6:, 6:] += certainty
    right = torch.einsum("i,btx->btix", difference, calm[..., None] * gravity)
    right[..., 2, :] += (certainty @ place[..., None])[..., 0] + moved
    right[..., 1, :] -= moved
    forms = place.new_zeros(*seen.shape, 10, 10)
    others = torch.tensor([0, 1, 2, 3, 4, 5, 7, 8, 9], device=place.device)
    forms[..., others[:, None], others] = matrix
    forms[..., others, 6] = forms[..., 6, others] = right.flatten(2)
    speed = 1 / (FASTEST * seconds) ** 2
    pair = torch.tensor([[speed + FAINT, -speed], [-speed, speed + FAINT]]).to(place)
    first = torch.nn.functional.pad(torch.kron(pair, torch.eye(3).to(place)), (0, 1, 0, 1))
    return forms, after, first


def backward(gone: Tensor, state: Filter) -> Tensor:
    """The positions (B, T, 3) by the whole clip, of what `forward` gave."""
    last = torch.linalg.solve(state.information + FAINT * torch.eye(6).to(state.information), state.vector)
    found = [last]  # pairs of positions, later ones first
    for one in reversed(gone[:, 2:].unbind(1)):
        earlier = one[..., 6] - (one[..., :6] @ found[-1][..., None])[..., 0]
        found.append(torch.cat([earlier, found[-1][:, :3]], 1))
    pairs = torch.stack(found[::-1], 1)
    return torch.cat([pairs[:, :1, :3], pairs[..., 3:]], 1)[:, -gone.shape[1] :]
