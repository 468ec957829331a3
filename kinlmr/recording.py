"""One recording of motion, and what its readers share: rates, the root's place, which way is up, and names' sides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from kinlmr.body import Body
from kinlmr.files import Array
from kinlmr.rotations import axis_angle_to_matrix, matrix_to_axis_angle

MORE = 100_000  # frames that resampling may add, besides four for each: a small file must not claim days
CHUNK = 10_000  # frames that are resampled together


@dataclass(frozen=True, eq=False, repr=False)
class Motion:
    """One recording of T frames: rotations (T, J, 3) as axis-angle, the root's translation (T, 3) in metres.

    ``translation`` is the place of the root joint in the world, whatever file it was read from; `origin` turns it into
    what a body is moved by. ``cuts`` are frames that do not follow from the one before (dirt in the source): no clip
    may cross them. ``action`` says what is done, ``subject`` who does it.
    """

    name: str
    joints: tuple[str, ...]
    fps: float
    rotations: Tensor
    translation: Tensor
    cuts: tuple[int, ...] = ()
    action: str = ""
    subject: str = ""

    def __len__(self) -> int:
        return len(self.rotations)

    def __repr__(self) -> str:
        return f"Motion({self.name}: {len(self)} frames at {self.fps:g} per second, {len(self.joints)} joints)"

    def origin(self, body: Body, shape: Tensor | None = None) -> Tensor:
        """The place of the body's origin (T, 3): ``body(matrices, shape, motion.origin(body, shape))`` puts the root
        joint where the recording has it. shape (S) or fewer numbers; None for the mean shape."""
        return self.translation - root_at_rest(body, shape).to(self.translation)


def root_at_rest(body: Body, shape: Tensor | None = None) -> Tensor:
    """The root joint's place (3) at rest, from the body's origin. shape (S) or fewer numbers; None: the mean."""
    places = body.J
    if shape is not None:
        places = places + shape.to(places) @ body.J_shapedirs[: len(shape)]
    return places.view(-1, 3)[body.parents.index(-1)]


def same_rate(one: float, two: float) -> bool:
    """Whether two rates are one: 29.99 and 30 frames per second are, for frame times are written with few digits."""
    return abs(one / two - 1) < 1e-3


def resampled(motion: Motion, fps: float) -> Motion:
    """The recording at another rate: every k-th frame, or by the shortest turn between two. Cuts stay sharp."""
    if not fps > 0:
        raise ValueError(f"fps is {fps}, expected a rate above zero, in frames per second")
    if same_rate(motion.fps, fps):
        return replace(motion, fps=fps)
    ratio = motion.fps / fps
    count = int((len(motion) - 1) / ratio + 1e-6) + 1
    if count > (most := 4 * len(motion) + MORE):
        raise ValueError(
            f"recording {motion.name!r}: {len(motion):,} frames at {motion.fps:g} frames per second would be {count:,} "
            f"at {fps:g}, more than {most:,}; is its rate right?"
        )
    cut, rotations, places = torch.tensor(motion.cuts, dtype=torch.long), [], []
    for at in (torch.arange(count, dtype=torch.float64) * ratio).split(CHUNK):
        low = (at + 1e-6).floor().long().clamp_max(len(motion) - 1)
        high = (low + 1).clamp_max(len(motion) - 1)
        high = torch.where(torch.isin(high, cut), low, high)
        part = (at - low).float()[:, None, None]
        one, two = (axis_angle_to_matrix(motion.rotations[index]) for index in (low, high))
        between = one @ axis_angle_to_matrix(part * matrix_to_axis_angle(one.mT @ two))
        rotations.append(matrix_to_axis_angle(between))
        places.append(torch.lerp(motion.translation[low], motion.translation[high], part[:, 0]))
    first = {int(np.ceil(cut / ratio - 1e-6)) for cut in motion.cuts}
    cuts = tuple(sorted(cut for cut in first if cut < count))
    return replace(motion, fps=fps, rotations=torch.cat(rotations), translation=torch.cat(places), cuts=cuts)


# ------------------------------------------------------------------------------------------------------------------ up

UP = {"y": (0, 1, 0), "z": (0, 0, 1), "x": (1, 0, 0), "-y": (0, -1, 0), "-z": (0, 0, -1), "-x": (-1, 0, 0)}
FLOOR = 0.3  # of a leg's length: how far from a floor the lowest joint of somebody on it may be


def upright(up: str) -> Array:
    """The rotation (3, 3) that turns an axis to y: z up by -90 degrees about x, as AMASS is turned."""
    if up not in UP:
        raise ValueError(f"up is {up!r}, expected one of {', '.join(UP)}")
    about = {"y": (0, 0, 0), "z": (-1, 0, 0), "x": (0, 0, 1), "-y": (2, 0, 0), "-z": (1, 0, 0), "-x": (0, 0, -1)}[up]
    turn = axis_angle_to_matrix(torch.tensor(about, dtype=torch.float64) * (np.pi / 2))
    return turn.round().numpy()


def find_up(
    axes: Array, places: Array, leg: float, likely: str | None, where: object, otherwise: str | None = None
) -> str:
    """Which axis of a file is up: where the people in it stand, or what its maker's rest pose or format says.

    axes       (T, 3) where the body's own y points in each frame
    places     (T, J, 3) of the joints
    leg        how long a leg is, in the unit of places
    likely     what the rest pose or the format says; None where nothing does
    otherwise  what to take where it cannot be told; None: a ValueError, which names ``where``

    Who seems to stand along another axis than that may lie. They stand if their feet are on a floor at zero; they lie
    if a floor at zero is under them, and they move along the other axis, as no floor would let them.
    """
    stands = next((axis for axis, along in UP.items() if (axes @ along > 0.7).mean() > 0.5), None)
    if stands == (likely or "y") or (likely and not stands):
        return stands or likely or "y"
    other, usual = stands or "z", likely or "y"
    floor = {axis: _floor((places @ UP[axis]).min(1) / leg) for axis in (other, usual)}
    if floor[other] == 2 and (stands or floor[usual] < 2):
        return other
    if floor[usual] == 2 and floor[other] < (1 if stands else 2):
        return usual
    if otherwise:
        return otherwise
    seen = f"the trunk is along {stands} in most frames" if stands else "the trunk is along no axis in most frames"
    said = f", and the file's rest pose or format says {likely}" if likely else ""
    raise ValueError(f"{where}: which axis is up cannot be told: {seen}{said}; give up={usual!r} or up={other!r}")


def _floor(lowest: Array) -> int:
    """How much speaks for a floor at zero below the lowest joints (T), in lengths of a leg: they are there in most
    frames; they are hardly ever below where they mostly are."""
    low, middle = np.percentile(lowest, [10, 50])
    return int(abs(middle) < FLOOR) + int(middle - low < FLOOR)


# --------------------------------------------------------------------------------------------------------------- sides

# left_hip, LeftHip, lefthip, mixamorig:LeftUpLeg; HandLeft
_WORD = re.compile(r"(?i:(?<![a-z])(?:left|right))|(?<=[a-z])(?:Left|Right)(?![a-z])")
# l_hip, L_Hip, LHip, hip_l, hip.L, Bip01_L_Thigh; ElbowL. L5 is a vertebra.
_LETTER = re.compile(r"(?<![A-Za-z0-9])[lrLR](?=[_. -]|[A-Z][a-z]|$)|(?<=[a-z])[LR]$")
# lhip, hipl, upperleft, FL_hip, thigh_l1, leg_lft: where there is the same name with the other side's word
_WORDS = (("left", "right"), ("lft", "rgt"), ("l", "r"), ("lf", "rt"))
LONGEST = 200  # characters of a name that is looked through for them


def sides(names: Sequence[str]) -> list[tuple[str, str]]:
    """For each name its side ("left", "right", or "" for the middle) and the rest of it.

    >>> sides(["LeftHip", "r_knee", "spine1", "lfoot", "rfoot"])
    [('left', 'Hip'), ('right', '_knee'), ('', 'spine1'), ('left', 'foot'), ('right', 'foot')]
    """
    found, known = [], set(names)
    for name in names:
        match = _WORD.search(name) or _LETTER.search(name)
        if match:
            side = "left" if match[0][0] in "lL" else "right"
            found.append((side, name[: match.start()] + name[match.end() :]))
        else:
            found.append(_paired(name, known))
    return found


def _paired(name: str, names: set[str]) -> tuple[str, str]:
    """Side and rest of a name that differs from another by the word of its side alone."""
    for left, right in _WORDS if len(name) <= LONGEST else ():
        other = {left: right, right: left}
        for match in re.finditer(f"(?i:{left}|{right})", name):
            word, before, after = match[0].lower(), name[: match.start()], name[match.end() :]
            for case in (str.lower, str.title, str.upper):
                if case(word) == match[0] and before + case(other[word]) + after in names:
                    return "left" if word == left else "right", before + after
    return "", name


def plain_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names as SMPL's joints are written: L_Hip, left_hip and LHip are all left_hip."""
    return tuple(
        "_".join(filter(None, (side, rest.strip("_. -").replace(" ", "_").lower()))) for side, rest in sides(names)
    )


def opposite(names: Sequence[str]) -> list[int]:
    """For each name the place of its other side's: left_knee's of right_knee; its own in the middle, or without one."""
    found = sides(names)
    place = {name: i for i, name in enumerate(found)}
    other = {"left": "right", "right": "left", "": ""}
    return [place.get((other[side], rest), i) if side else i for i, (side, rest) in enumerate(found)]
