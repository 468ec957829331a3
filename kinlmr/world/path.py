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
    feet (B, N, 3) and their contacts (B, N); whether somebody was seen (B), and for how many seconds nothing was stood on
    (B), infinite before."""

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
    return Filter(make, make[..., 0], make.new_zeros(people, feet, 3), make.new_zeros(people, feet), seen, like.new_full((people,), torch.inf))


def forward(terms: Terms, seconds: float, state: Filter) -> tuple[Tensor, Tensor, Filter]:
    """Eliminate frame after frame -> the positions (B, T, 3) by what was seen so far; the elimination (B, T, 3, 7), the
    position two frames before as a function of the two after it; and the filter's state."""
    terms = Terms(*(x.double() if x.is_floating_point() else x for x in terms))
    first = _first(state, seconds)
    difference = torch.tensor([1.0, -2.0, 1.0], dtype=torch.float64, device=terms.place.device)
    squares, eye = torch.outer(difference, difference), torch.eye(3).to(terms.place)
    step = torch.tensor([[0.0, 0, 0], [0, 1, -1], [0, -1, 1]]).to(squares)
    information, vector, feet, _, seen, _ = state
    positions, gone = [], []
    for place, certainty, foot, still, calm, gravity, now in zip(*(x.unbind(1) for x in terms), strict=True):
        information = torch.where(seen[:, None, None], information, first)
        vector = torch.where(seen[:, None], vector, 0)
        still = torch.where(seen[:, None], still, 0)
        scalar = calm[:, None, None] * squares + still.sum(1)[:, None, None] * step  # (B, 3, 3), the same for x, y, z
        matrix = torch.einsum("bij,xy->bixjy", scalar, eye).flatten(3).flatten(1, 2)
        matrix[:, :6, :6] += information
        matrix[:, 6:, 6:] += certainty
        moved = (still[..., None] * (feet - foot)).sum(1)  # c times what a standing foot asks the root to move
        right = torch.einsum("i,bx->bix", difference, calm[:, None] * gravity)
        right[:, 2] += (certainty @ place[..., None])[..., 0] + moved
        right[:, 1] -= moved
        right = right.flatten(1)
        right[:, :6] += vector
        both = torch.cat([matrix[:, :3, 3:], right[:, :3, None]], 2)
        solved = torch.linalg.solve(matrix[:, :3, :3], both)
        information = matrix[:, 3:, 3:] - matrix[:, 3:, :3] @ solved[..., :6]
        information = (information + information.mT) / 2
        vector = right[:, 3:] - (matrix[:, 3:, :3] @ solved[..., 6:])[..., 0]
        feet, seen = torch.where(now[:, None, None], foot, feet), seen | now
        positions.append(torch.linalg.solve(information + FAINT * torch.eye(6).to(information), vector)[:, 3:])
        gone.append(solved)
    return torch.stack(positions, 1), torch.stack(gone, 1), Filter(information, vector, feet, state.contact, seen, state.aloft)


def backward(gone: Tensor, state: Filter) -> Tensor:
    """The positions (B, T, 3) by the whole clip, of what `forward` gave."""
    last = torch.linalg.solve(state.information + FAINT * torch.eye(6).to(state.information), state.vector)
    found = [last]  # pairs of positions, later ones first
    for one in reversed(gone[:, 2:].unbind(1)):
        earlier = one[..., 6] - (one[..., :6] @ found[-1][..., None])[..., 0]
        found.append(torch.cat([earlier, found[-1][:, :3]], 1))
    pairs = torch.stack(found[::-1], 1)[:, : gone.shape[1]]
    if gone.shape[1] == 1:
        return last[:, None, 3:]
    return torch.cat([pairs[:, :1, :3], pairs[..., 3:]], 1)[:, : gone.shape[1]]


def _first(state: Filter, seconds: float) -> Tensor:
    """Of the two positions before the first: they are FASTEST apart or less, and little is known of where."""
    speed = 1 / (FASTEST * seconds) ** 2
    pair = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64) * speed + FAINT * torch.eye(2)
    return torch.kron(pair, torch.eye(3, dtype=torch.float64)).to(state.information.device)
