"""What `to_world` answers."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


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
