"""Which way is up in a recording, and the rotation that brings it to y."""

from __future__ import annotations

import numpy as np
import torch

from kinlmr.files import Array
from kinlmr.rotations import axis_angle_to_matrix

UP = {"y": (0, 1, 0), "z": (0, 0, 1), "x": (1, 0, 0), "-y": (0, -1, 0), "-z": (0, 0, -1), "-x": (-1, 0, 0)}
FLOOR_REACH = 0.3  # in lengths of a leg: how far the lowest joint of somebody on a floor may be from it


def upright(up: str) -> Array:
    """The rotation (3, 3) that brings an axis to y: z by -90 degrees about x, as for AMASS."""
    if up not in UP:
        raise ValueError(f"up is {up!r}, expected one of {', '.join(UP)}")
    about = {"y": (0, 0, 0), "z": (-1, 0, 0), "x": (0, 0, 1), "-y": (2, 0, 0), "-z": (1, 0, 0), "-x": (0, 0, -1)}[up]
    rotation = axis_angle_to_matrix(torch.tensor(about, dtype=torch.float64) * (np.pi / 2))
    return rotation.round().numpy()


def find_up(axes: Array, positions: Array, leg: float, likely: str | None, otherwise: str | None = None) -> str:
    """Which axis of a file is up: the one along which people stand, or the one that its rest pose or format says.

    axes       (T, 3), where the body's own y points in each frame
    positions  (T, J, 3) of the joints
    leg        a leg's length, in the unit of positions
    likely     what the rest pose or the format says; None where nothing does
    otherwise  what to take where it cannot be told; None: a ValueError

    People who seem to stand along another axis than the likely one may be lying. They stand if their feet are on a
    floor at zero; they lie if a floor at zero is under them, and they move along the other axis as no floor lets them.
    """
    stands = next((axis for axis, along in UP.items() if (axes @ along > 0.7).mean() > 0.5), None)
    if stands == (likely or "y") or (likely and not stands):
        return stands or likely or "y"
    other, usual = stands or "z", likely or "y"
    floor = {axis: _floor((positions @ UP[axis]).min(1) / leg) for axis in (other, usual)}
    if floor[other] == 2 and (stands or floor[usual] < 2):
        return other
    if floor[usual] == 2 and floor[other] < (1 if stands else 2):
        return usual
    if otherwise:
        return otherwise
    seen = f"the trunk is along {stands} in most frames" if stands else "the trunk is along no axis in most frames"
    said = f", and the file's rest pose or format says {likely}" if likely else ""
    raise ValueError(f"which axis is up cannot be told: {seen}{said}; give up={usual!r} or up={other!r}")


def _floor(lowest: Array) -> int:
    """How many of two signs there are of a floor at zero under the lowest joints (T), in lengths of a leg: they are at
    zero in most frames, and hardly ever below their median."""
    low, middle = np.percentile(lowest, [10, 50])
    return int(abs(middle) < FLOOR_REACH) + int(middle - low < FLOOR_REACH)
