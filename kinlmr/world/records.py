"""What `to_world` answers, and what it remembers between frames."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from kinlmr.state import Rows, select
from kinlmr.world import floor, lock, network, path
from kinlmr.world.pose import Pose, unposed


class World(NamedTuple):
    """People in the world of a camera at rest: y up, the floor at y = 0, metres. One person, or several (B, T, ...).

    rotations (..., T, J, 3, 3), shape (..., T, S) and translation (..., T, 3): ``body(rotations, shape, translation)``
    stands there; a translation is NaN until somebody was seen. contact (..., T, 2, 2): the probability that the left
    and right foot's ankle and toe stand still. up (..., T, 3): the unit vector against gravity in the camera's axes, x
    right, y down, z forward.
    """

    rotations: Tensor
    translation: Tensor
    shape: Tensor
    contact: Tensor
    up: Tensor


class Parts(NamedTuple):
    """A `WorldState` by whose it is."""

    means: network.Means
    ticks: network.Ticks
    pose: Pose
    filter: path.Filter
    evidence: floor.Evidence
    held: lock.Held


class WorldState(NamedTuple):
    """What `to_world` remembers of B people between frames: a plain tuple of tensors, and nothing writes to it.

    A row, index b of every tensor, is one person: who leaves is not selected (`select`), who comes is joined by
    `kinlmr.concat` with ``WorldState.initial(1)``. A person's pose and contacts depend on nobody else's row; up and the
    floor are what all rows of a call say together.

    mean (B, 2, V), since (B, V), memory (B, H), answer (B, 9) and age (B): the network's, as `kinlmr.world.network` has
    them; quaternion (B, J, 4), speed (B, J), posed (B), latest and step (B, J, 4) and shaken (B, 2): the pose's, as
    `kinlmr.world.pose` has them; information (B, 6, 6), vector (B, 6), feet (B, 4, 3), stood (B, 4), located and aloft
    (B): the path's filter; up_sum, feet_sum (B, 3), sole_sum, weight (B): what was seen of up and floor; up, origin
    (B, 3), told (B): what was answered; held and offset (B, 2, 2, 3): feet, and how far they were moved; shape_sum
    (B, S) and frames (B), whose mean shape is answered.
    """

    mean: Tensor
    since: Tensor
    memory: Tensor
    answer: Tensor
    age: Tensor
    quaternion: Tensor
    speed: Tensor
    posed: Tensor
    latest: Tensor
    step: Tensor
    shaken: Tensor
    information: Tensor
    vector: Tensor
    feet: Tensor
    stood: Tensor
    located: Tensor
    aloft: Tensor
    up_sum: Tensor
    feet_sum: Tensor
    sole_sum: Tensor
    weight: Tensor
    up: Tensor
    origin: Tensor
    told: Tensor
    held: Tensor
    offset: Tensor
    shape_sum: Tensor
    frames: Tensor

    @classmethod
    def initial(cls, people: int, joints: int = 24, shape: int = 10) -> WorldState:
        """Of so many people, before their first frame; joints and shape numbers are anny24's and SMPL's."""
        like = torch.zeros(0)
        means, ticks = network.start(people, like)
        feet = torch.zeros(people, 2, 2, 3)
        return cls(
            *means, *ticks, *unposed(people, joints, like), *path.start(people, 4, like),
            *floor.unknown(people, like), feet, feet, torch.zeros(people, shape), torch.zeros(people),
        )  # fmt: skip

    def parts(self) -> Parts:
        """Its tensors by whose they are."""
        return Parts(
            network.Means(*self[0:2]), network.Ticks(*self[2:5]), Pose(*self[5:11]), path.Filter(*self[11:17]),
            floor.Evidence(*self[17:24]), lock.Held(*self[24:26]),
        )  # fmt: skip

    def with_parts(self, parts: Parts) -> WorldState:
        """The state after a call, but for the shape."""
        return WorldState._make([*(x for part in parts for x in part), self.shape_sum, self.frames])

    def select(self, rows: Rows) -> WorldState:
        """The state of these people, in this order. rows: numbers (n), which may repeat, or a mask (B) of bools."""
        return select(self, rows)

    def to(self, device: Any) -> WorldState:
        """On another device."""
        return WorldState(*(x.to(device) for x in self))
