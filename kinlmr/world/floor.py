"""Up, the floor and the way from the camera's axes to the world's: y up, x to the camera's right, the camera over the
origin."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

SAME_FLOOR = 0.15  # metres: stretches of standing whose heights differ less are on one floor
LOW = 0.05  # of the time that somebody stands, the share of the lowest stretches that may be outliers
ROUGH, DOUBT = 0.3, 0.06  # metres of a foot's place, radians of the network's up: what they are off
SURE, FREE = 0.5, 0.1  # a foot stands whose probability is above; it certainly does not, where it is below
FAINT = 1e-3  # what the lowest foot of somebody who does not stand counts
EASED = 0.0005  # metres: what a refined up and a refined floor each move a standing foot by in a frame, at most
FASTEST = 0.2  # radians a second: how fast up is refined
CALM = 0.4  # radian seconds: an up that is a radians off is refined by a^2 / CALM a second, so noise moves little
SETTLE = 0.5  # seconds in which a newcomer's first floor is forgotten for any other
RISE = 1.0  # m/s: how fast somebody who does not stand comes nearer to where the floor is found, if that is far
SUNK, RISEN = 0.1, 20.0  # seconds of standing lower, and higher, than before until most of the old floor is forgotten
ENOUGH = 0.3  # seconds that a foot has stood until its floor may be the lowest
DEFAULT_UP = 0.0, -1.0, 0.0  # of a level camera


def to_world(up: Tensor) -> Tensor:
    """The rotations (..., 3, 3) from the camera's axes, in which gravity is along -up (..., 3), to the world's."""
    y = normalize(up, dim=-1)
    right = y.new_tensor((1.0, 0.0, 0.0))
    x = normalize(right - y[..., :1] * y, dim=-1)
    return torch.stack([x, y, torch.linalg.cross(x, y)], -2)


def level_of(bottoms: Tensor, contact: Tensor) -> Tensor:
    """The height of the lowest floor that feet stand on, of the heights of soles (B, T, 2) and how surely each foot
    stands (B, T, 2). Of people who never stand: where the lowest foot comes. NaN where nobody was seen."""
    known = bottoms.isfinite()
    on = (contact > SURE) & known
    edges = pad(on.movedim(2, 1).flatten(0, 1).to(torch.int8), (1, 1)).diff(dim=-1)
    (rows, begins), (_, ends) = (edges == 1).nonzero().unbind(1), (edges == -1).nonzero().unbind(1)
    if not len(begins):
        return bottoms[known].quantile(LOW) if known.any() else bottoms.new_tensor(torch.nan)
    heights = pad(torch.where(on, bottoms, 0).double().movedim(2, 1).flatten(0, 1).cumsum(-1), (1, 0))
    length = (ends - begins).double()
    level = (heights[rows, ends] - heights[rows, begins]) / length
    order = level.argsort()
    level, length = level[order], length[order]
    low = level[int((length.cumsum(0) < LOW * length.sum()).sum())]
    near = length * ((level - low).abs() < SAME_FLOOR)
    return ((level * near).sum() / near.sum()).to(bottoms)


def levelled(up: Tensor, feet: Tensor, sole: Tensor, contact: Tensor, fps: float) -> Tensor:
    """Up (3) of a clip, tilted a little so that standing feet come to one height: as far as they went, they say it too.

    feet (N, 4, 3) in the camera's axes, their heights over the sole (4), contact (N, 4). Least squares over two angles
    and the floor's height, where a foot that stands for half a second is `ROUGH` off, and the network's up `DOUBT`.
    """
    weight = (2 / fps) * torch.where(contact > SURE, contact, 0).flatten() / ROUGH**2
    points, sole = feet.flatten(0, 1).double(), sole.expand(len(feet), 4).flatten().double()
    start = up = up.double()
    for _ in range(4):
        axes = to_world(up)[[0, 2]]
        height = points @ up - sole
        middle = (weight * height).sum() / weight.sum().clamp_min(1e-9)
        robust = weight / (1 + ((height - middle) / SAME_FLOOR) ** 2)
        design = torch.cat([points @ axes.mT, torch.ones_like(points[:, :1])], 1)
        prior = torch.tensor([DOUBT**-2, DOUBT**-2, 1e-6]).to(up)
        normal = (robust[:, None] * design).mT @ design + torch.diag(prior)
        right = -(robust[:, None] * design * height[:, None]).sum(0)
        right[:2] += prior[:2] * (axes @ (start - up))
        tilt = torch.linalg.solve(normal, right)[:2]
        up = normalize(up + tilt @ axes, dim=0)
    return up.to(feet)


class Evidence(NamedTuple):
    """What B people tell of up and floor, and the world that was answered last: up_sum (B, 3), the sum of their ups;
    feet_sum (B, 3), sole_sum (B), weight (B): of feet on the lowest floor that each stood on, in the camera's axes, the
    sum of their positions, of their heights over the sole, and of their weights; up (B, 3), origin (B, 3) and told (B):
    the answer, and for how many frames there has been one."""

    up_sum: Tensor
    feet_sum: Tensor
    sole_sum: Tensor
    weight: Tensor
    up: Tensor
    origin: Tensor
    told: Tensor


def unknown(people: int, like: Tensor) -> Evidence:
    """Of so many people, before they were seen."""
    vector, number = like.new_zeros(people, 3), like.new_zeros(people)
    return Evidence(
        vector, vector, number, number, like.new_tensor(DEFAULT_UP).expand(people, 3).clone(), vector, number
    )


def refine(
    up: Tensor, feet: Tensor, sole: Tensor, contact: Tensor, seen: Tensor, fps: float, evidence: Evidence
) -> tuple[Tensor, Tensor, Evidence]:
    """The common world of B people after each of T frames: up (T, 3) in the camera's axes, and the origin (B, T, 3):
    ``to_world(up) @ x + origin`` is there. Up is the mean over the rows by what each has seen; the floor is that of
    those who stand lowest. No standing foot is moved by more than 1 mm a frame: who comes later and stands lower stands
    on it at once, and those who were told another floor rise over it, each for themselves, faster while they fly.

    up (B, T, 3), of the network; feet (B, T, 4, 3) in the camera's axes and their heights over the sole (4); contact
    (B, T, 4), seen (B, T).
    """
    ups, origins = [], []
    frames = zip(up.unbind(1), feet.unbind(1), contact.unbind(1), seen.unbind(1), strict=True)
    for one, foot, stands, now in frames:
        stands = stands * now[:, None]
        evidence = _gathered(evidence, torch.where(now[:, None], one, 0), foot, sole, stands, now, fps)
        evidence = _eased(evidence, foot, stands, now, fps)
        ups.append(evidence.up[0] if len(foot) else foot.new_zeros(3))
        origins.append(evidence.origin)
    return torch.stack(ups), torch.stack(origins, 1), evidence


def _gathered(
    evidence: Evidence, up: Tensor, feet: Tensor, sole: Tensor, stands: Tensor, now: Tensor, fps: float
) -> Evidence:
    """The evidence with one more frame's. A foot well over the floor is on another; who stands well below it forgets
    the higher one, and who stays well over it in the end the lower one. In the first `SETTLE` a floor is forgotten
    for any other."""
    height = (feet * normalize(evidence.up, dim=-1)[:, None]).sum(-1) - sole
    over = torch.where((evidence.weight > 0)[:, None], height - _levels(evidence, evidence.up)[:, None], 0)
    sure, firm = (stands > SURE) & now[:, None], evidence.told >= SETTLE * fps
    higher, lower = (sure & (over > SAME_FLOOR)), (sure & (over < -SAME_FLOOR)).any(1)
    weight = torch.where(sure & ~(higher & firm[:, None]), stands, 0)
    weight = weight + torch.where(now[:, None] & (height == height.amin(1, keepdim=True)), FAINT, 0)
    keep = torch.where(higher.any(1), math.exp(-1 / (RISEN * fps)), 1.0)
    keep = torch.where(lower, math.exp(-1 / (SUNK * fps)), torch.where(higher.any(1) & ~firm, 0, keep))
    return evidence._replace(
        up_sum=evidence.up_sum + up, feet_sum=keep[:, None] * evidence.feet_sum + (weight[..., None] * feet).sum(1),
        sole_sum=keep * evidence.sole_sum + (weight * sole).sum(1), weight=keep * evidence.weight + weight.sum(1),
    )  # fmt: skip


def _levels(evidence: Evidence, up: Tensor) -> Tensor:
    """The height (B) of each one's floor along up (3) or (B, 3), before the origin is added."""
    return ((evidence.feet_sum * up).sum(-1) - evidence.sole_sum) / evidence.weight.clamp_min(1e-6)


def _floors(evidence: Evidence, up: Tensor, fps: float) -> Tensor:
    """The height of the floor of those who stand lowest, along up (3), the mean by what each saw of it; of one who has
    just come to a lower one, that (B)."""
    weight, level = evidence.weight, _levels(evidence, up)
    known = weight >= weight.max().clamp(max=ENOUGH * fps)
    low = torch.where(known, level, torch.inf).min()
    near = weight * (known & (level < low + SAME_FLOOR))
    common = (near * level).sum() / near.sum().clamp_min(1e-9)
    return torch.where((weight > 0) & (level < common - SAME_FLOOR), level, common)


def _eased(evidence: Evidence, feet: Tensor, stands: Tensor, now: Tensor, fps: float) -> Evidence:
    """The answer of one more frame: up, turned about the feet that stand, and each one's floor, nearer to what all
    say."""
    if not len(feet) or not bool(now.any() | (evidence.told > 0).any()):
        return evidence
    told = evidence.told.sum()
    goal = evidence.up_sum.sum(0)
    goal = normalize(torch.where(goal.norm() > 0, goal, evidence.up[0]), dim=0)
    share = (evidence.told / told.clamp_min(1e-9))[:, None]
    up = normalize((share * evidence.up).sum(0), dim=0) if told > 0 else goal
    origin = evidence.origin
    across = (share * origin).sum(0)
    weight = (stands > FREE) * stands + 1e-6 * now[:, None]
    pivot = (weight[..., None] * torch.where(now[:, None, None], feet, 0)).sum((0, 1)) / weight.sum().clamp_min(1e-9)
    shift = torch.zeros_like(pivot)
    if told > 0 and bool(now.any()):
        lever = ((feet - pivot).norm(dim=-1) * (stands > FREE)).amax().clamp_min(0.2)
        angle = torch.acos((up * goal).sum().clamp(-1, 1))
        most = torch.minimum(EASED / lever, lever.new_tensor(FASTEST / fps)).minimum(angle**2 / (CALM * fps))
        turned = normalize(up + (most / angle.clamp_min(1e-6)).clamp(max=1) * (goal - up), dim=0)
        before, after = to_world(torch.stack([up, turned])) @ pivot
        shift = before - after
        up = turned
    wanted = -_floors(evidence, up, fps)
    rise = wanted - (origin[:, 1] + shift[1])
    free = (rise.abs() > SAME_FLOOR) & ~(stands > FREE).any(1)
    most = torch.where(free, RISE / fps, EASED)
    height = torch.where(evidence.told > 0, origin[:, 1] + shift[1] + rise.clamp(-most, most), wanted)
    origin = torch.stack(
        [(across[0] + shift[0]).expand_as(height), height, (across[2] + shift[2]).expand_as(height)], 1
    )
    return evidence._replace(up=up.expand(len(feet), 3), origin=origin, told=evidence.told + now)
