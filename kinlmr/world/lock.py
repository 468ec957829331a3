"""Standing feet stay: where each foot is to be (`hold`), and the legs bent so that it is there (`bend`).

`bend` is two-bone inverse kinematics of hip, knee and ankle: the knee stays in the plane in which it was bent, on its
side; both bones keep their twist about themselves, the pelvis and everything above it stay as they were.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from kinlmr.body import Body
from kinlmr.motion import plain_names
from kinlmr.rotations import rodrigues

SURE = 0.5  # a foot stands whose probability is above
LEAST = 0.1  # seconds that it stands at least to be held
EASE = 0.13  # seconds over which it is held and let go
RELEASE = 0.1  # seconds in which most of what a foot was moved is given back, live
LOOSE, FIRM = 0.3, 0.7  # live, a foot's probability of standing below which it is free, and above which it is held
FARTHEST = 0.15  # metres that a foot is moved at most
REACH = 0.999  # of a leg's length: it is never stretched further
SHORTEST = 0.05  # metres from hip to ankle, more than the bones' difference
BENT = 0.005  # metres off the line from hip to ankle from which on the knee's own side decides where it goes


class Legs(NamedTuple):
    """The joints of both legs, left and right: hip, knee, ankle, foot of each; and the root's index."""

    joints: tuple[tuple[int, int, int, int], tuple[int, int, int, int]]
    root: int

    @property
    def feet(self) -> list[int]:
        """Left ankle and foot, right ankle and foot."""
        return [joint for leg in self.joints for joint in leg[2:]]


def legs_of(body: Body) -> Legs:
    """The legs of a body, by SMPL's names; a ValueError for one that has none."""
    names = plain_names(body.joints)
    wanted = [[f"{side}_{name}" for name in ("hip", "knee", "ankle", "foot")] for side in ("left", "right")]
    if missing := [name for leg in wanted for name in leg if name not in names]:
        raise ValueError(
            f"body {body.name!r} has no {', '.join(missing)} among its joints {', '.join(body.joints[:4])}, ...; "
            "motion stands on legs with SMPL's names: left_hip, left_knee, left_ankle, left_foot and the right ones"
        )
    first, second = ([names.index(name) for name in leg] for leg in wanted)
    for leg in (first, second):
        above = [body.root, *leg[:3]]
        if any(body.parents[joint] != parent for joint, parent in zip(leg, above, strict=True)):
            raise ValueError(
                f"body {body.name!r}: {body.joints[leg[0]]}, {', '.join(body.joints[j] for j in leg[1:])} do not hang "
                f"on one another and on {body.joints[body.root]}; a leg is hip, knee, ankle, foot, as SMPL's"
            )
    return Legs((tuple(first), tuple(second)), body.root)  # type: ignore[arg-type]


def bend(legs: Legs, rotations: Tensor, joints: Tensor, offset: Tensor) -> Tensor:
    """Rotations (..., J, 3, 3) whose ankles and toes are moved by ``offset`` (..., 2, 2, 3) in metres, as far as legs
    reach. joints (..., J, 3): where they are, in the root rotation's axes. An offset of zeros changes nothing."""
    order = [joint for pair in zip(*legs.joints, strict=True) for joint in pair]  # hips, knees, ankles, feet
    a, k, n, f = joints[..., order, :].unflatten(-2, (4, 2)).unbind(-3)  # (..., 2, 3) of both sides
    own = rotations[..., order[:6], :, :].unflatten(-3, (3, 2))
    root, (hip, knee, ankle) = rotations[..., legs.root, None, :, :], own.unbind(-4)
    thigh = root @ hip
    shank = thigh @ knee
    sole = shank @ ankle
    normal = _normal(a, k, n, thigh[..., :, 2])
    turn, new_knee, new_ankle = _reach(a, k, n, n + offset[..., 0, :], normal)
    new_normal = (turn @ normal[..., None])[..., 0]
    bones = torch.stack([k - a, n - k, new_knee - a, new_ankle - new_knee])
    before, after = _frame(bones, torch.stack([normal, normal, new_normal, new_normal])).split(2)
    new_thigh, new_shank = (after @ before.mT @ torch.stack([thigh, shank])).unbind()
    new_sole = _onto(f - n, f + offset[..., 1, :] - new_ankle) @ sole
    moved = (offset != 0).flatten(-2).any(-1)[..., None, :, None, None]
    bent = torch.stack([root.mT @ new_thigh, new_thigh.mT @ new_shank, new_shank.mT @ new_sole], -4)
    rotations = rotations.clone()
    rotations[..., order[:6], :, :] = torch.where(moved, bent, own).flatten(-4, -3)
    return rotations


def _normal(hip: Tensor, knee: Tensor, ankle: Tensor, forward: Tensor) -> Tensor:
    """The normal (..., 3) of the plane in which a leg bends; of a straight one, the thigh's ``forward`` says it."""
    line = normalize(ankle - hip, dim=-1)
    side, ahead = (x - (x * line).sum(-1, keepdim=True) * line for x in (knee - hip, forward))
    share = (side.norm(dim=-1, keepdim=True) / BENT).clamp(max=1)
    pole = normalize(side, dim=-1) * share + (1 - share) * normalize(ahead, dim=-1)
    return normalize(torch.linalg.cross(pole, line), dim=-1)


def _reach(hip: Tensor, knee: Tensor, ankle: Tensor, goal: Tensor, normal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The rotation (..., 3, 3) of the line from hip to ankle onto that to the goal; the new knee and ankle (..., 3)."""
    line, wish = ankle - hip, goal - hip
    lengths = torch.stack([knee - hip, ankle - knee, line, wish]).norm(dim=-1, keepdim=True)
    upper, lower, before, wanted = lengths.unbind()
    most = torch.maximum(REACH * (upper + lower), before)
    least = torch.minimum((upper - lower).abs() + SHORTEST, before)
    distance = torch.minimum(torch.maximum(wanted, least), most)
    toward = wish / wanted.clamp_min(1e-12)
    turn = _onto(line, toward)
    pole = torch.linalg.cross(toward, (turn @ normal[..., None])[..., 0])
    along = (upper**2 - lower**2 + distance**2) / (2 * distance)
    off = (upper**2 - along**2).clamp_min(0).sqrt()
    return turn, hip + along * toward + off * pole, hip + distance * toward


def _frame(bone: Tensor, normal: Tensor) -> Tensor:
    """Axes (..., 3, 3), the first along a bone (..., 3), the last nearest to a normal."""
    x = normalize(bone, dim=-1)
    z = normalize(normal - (normal * x).sum(-1, keepdim=True) * x, dim=-1)
    return torch.stack([x, torch.linalg.cross(z, x), z], -1)


def _onto(one: Tensor, two: Tensor) -> Tensor:
    """The smallest rotations (..., 3, 3) that turn vectors (..., 3) of any length onto others."""
    a, b = normalize(torch.stack([one, two]), dim=-1).unbind()
    v, c = torch.linalg.cross(a, b), (a * b).sum(-1)
    return rodrigues(c, v, v / (1 + c).clamp_min(1e-6)[..., None], v)


# ------------------------------------------------------------------------------------------------------------ how far


def hold(points: Tensor, contact: Tensor, fps: float) -> Tensor:
    """Of a whole clip: how far ankles and toes (B, T, 2, 2, 3) are moved so that each stays at its mean place while it
    stands; contact (B, T, 2, 2). Zeros where neither does; eased in and out -> (B, T, 2, 2, 3), `FARTHEST` at most."""
    ease, least = max(1, round(EASE * fps)), max(2, round(LEAST * fps))
    weight, goal = torch.zeros_like(contact), points.clone()
    on = (contact > SURE).movedim(1, -1)  # (B, 2, 2, T)
    edges = torch.nn.functional.pad(on.to(torch.int8), (1, 1)).diff(dim=-1)
    begins, ends = (edges == 1).nonzero().tolist(), (edges == -1).nonzero().tolist()
    frames = points.shape[1]
    for (row, side, part, begin), (*_, end) in zip(begins, ends, strict=True):
        if end - begin < least:
            continue
        low, high = max(0, begin - ease), min(frames, end + ease)
        at = torch.arange(low, high, device=points.device)
        away = torch.maximum(begin - at, at - end + 1).clamp_min(0)
        share = (1 - away / (ease + 1)).to(weight)
        index = (row, slice(low, high), side, part)
        better = share > weight[index]
        mean = points[row, begin:end, side, part].mean(0)
        goal[index] = torch.where(better[:, None], mean, goal[index])
        weight[index] = torch.where(better, share, weight[index])
    weight = weight * weight * (3 - 2 * weight)
    return together(goal - points, weight)


def together(offset: Tensor, weight: Tensor) -> Tensor:
    """Ankles and toes of wanted offsets (..., 2, 2, 3), by weights (..., 2, 2): what is free goes with the other."""
    length = offset.norm(dim=-1, keepdim=True)
    offset = offset * (FARTHEST / length.clamp_min(FARTHEST))
    ankle, toe = (weight[..., None] * offset).unbind(-2)
    free_ankle, free_toe = (1 - weight[..., None]).unbind(-2)
    ankle, toe = ankle + free_ankle * toe, toe + free_toe * ankle
    return torch.stack([ankle, toe], -2)


class Held(NamedTuple):
    """What `follow` remembers of B people: where feet were, and how far they are moved, each (B, 2, 2, 3)."""

    feet: Tensor
    offset: Tensor


def follow(points: Tensor, contact: Tensor, fps: float, held: Held, seen: Tensor) -> tuple[Tensor, Held]:
    """As `hold`, frame by frame: a standing foot's offset undoes what it moves; one that does not stand loses its own.

    points (B, T, 2, 2, 3), contact (B, T, 2, 2), seen (B, T): somebody was seen before that frame.
    """
    keep = torch.exp(torch.tensor(-1 / (RELEASE * fps))).to(points)
    sure = ((contact - LOOSE) / (FIRM - LOOSE)).clamp(0, 1)
    sure = (sure * sure * (3 - 2 * sure))[..., None]
    feet, offset = held
    found = []
    for now, stands, known in zip(points.unbind(1), sure.unbind(1), seen.unbind(1), strict=True):
        moved = torch.where(known[:, None, None, None], now - feet, 0)
        offset = (offset - stands * moved) * torch.lerp(keep, torch.ones_like(keep), stands)
        length = offset.norm(dim=-1, keepdim=True)
        offset = offset * (FARTHEST / length.clamp_min(FARTHEST))
        feet = now
        found.append(offset)
    return torch.stack(found, 1), Held(feet, offset)


def knee_change(body: Body, before: Tensor, after: Tensor) -> tuple[float, float]:
    """How much knees bend otherwise, of rotations (..., J, 3, 3) before and after: mean and largest, degrees."""
    knees = [leg[1] for leg in legs_of(body).joints]
    turn = before[..., knees, :, :].mT @ after[..., knees, :, :]
    cosine = (turn.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    angle = torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))
    return float(angle.mean()), float(angle.max())
