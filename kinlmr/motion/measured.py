"""A detector of keypoints as it was measured on real video: confidence first, then an error by what confidence says.

The numbers are of AIST++'s published keypoints (two clips of nine views) against a truth from the other views. Lengths
are fractions of the person's extent, times are in seconds, confidences stand as logits: c = 1 / (1 + exp(-x)).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Numbers = Callable[..., Tensor]

LEVEL, LEVELS = 1.25, 0.7  # the confidence of a clip: its mean and spread
HARD, HARD_TILT = 1.5, 75.0  # how much less of a trunk that is tilted by so many degrees
OF_JOINT = {"shoulder": 0.1, "elbow": -0.2, "wrist": -0.2, "hip": -0.2, "knee": 0.3, "ankle": 0.3}
JOINTS, WAVES, WAVE_TIME = 0.4, 0.8, 0.35  # the spread by clip and point; of what comes and goes, and how long it stays
HIDDEN = 1.6  # how much less behind the trunk
DOUBTS, DOUBT_TIMES, DOUBT = 0.6, (0.03, 0.3), (1.0, 3.0)  # spells of doubt: a second and point, how long, how deep
ERROR, SURER = 0.055, 2.4  # the error's standard deviation at confidence 0, and how fast it falls: exp(-SURER c)
OF_AXES = {"ankle": (0.7, 0.9), "knee": (0.8, 1.1), "wrist": (1.1, 1.1), "elbow": (1.1, 1.1), "shoulder": (1.5, 1.1),
           "hip": (3.0, 1.5)}  # fmt: skip
WHITE, FAST, SLOW = 0.04, (0.42, 0.1), (0.54, 0.5)  # the error's parts of variance, and how long they stay
TAIL, TAIL_TIME = 0.45, 0.2  # spread of the error's logarithm
TOGETHER = 0.36  # correlation of the errors of shoulders and hips
BACKWARDS = {"hip": 0.025, "shoulder": 0.01}  # the near one's bias, seen from the side
CLASHES = {"wrist": (0.6, 1.8), "ankle": (0.15, 2.2)}  # both found where one is: a second, upright and tilted
SWAPS = {"wrist": (0.22, 0.3), "hip": (0.08, 0.1), "ankle": (0.06, 1.0), "knee": (0.02, 0.4), "elbow": (0.05, 0.1)}
CLASH_TIMES, SWAP_TIMES, CLASH = (0.03, 0.25), (0.017, 0.1), -1.8  # CLASH: the confidence of the one that moved


def detected(
    image: Tensor, keypoints: Tensor, names: Sequence[str], behind: Tensor, fps: float, rand: Numbers, normal: Numbers
) -> tuple[Tensor, Tensor]:
    """Positions (B, T, K, 2) in pixels and confidence (B, T, K), above 0 everywhere, of true keypoints.

    image (B, T, K, 2) in pixels, keypoints (B, T, K, 3) in metres with z forward, behind (B, T, K): which are hidden
    by the trunk.
    """
    batch, frames, count, _ = image.shape
    low, high = image.aminmax(dim=2, keepdim=True)
    extent = (high - low).amax(-1, keepdim=True)
    kinds = [name.rpartition("_")[2] for name in names]
    hard = _hardness(keypoints, names)
    waves = lambda time, *size: lasting(size or (batch, frames, count), time, fps, normal)  # noqa: E731
    doubt = spells(batch, frames, count, DOUBTS, tuple(t * fps for t in DOUBT_TIMES), fps, rand)
    depth = DOUBT[0] + (DOUBT[1] - DOUBT[0]) * rand(batch, 1, count)
    logit = LEVEL + LEVELS * normal(batch, 1, 1) + JOINTS * normal(batch, 1, count) + WAVES * waves(WAVE_TIME)
    logit = logit + image.new_tensor([OF_JOINT.get(kind, 0.0) for kind in kinds])
    logit = logit - HARD * hard - HIDDEN * behind - doubt * depth
    confidence = logit.sigmoid()

    spread = ERROR * torch.exp(-SURER * confidence + TAIL * waves(TAIL_TIME) - TAIL**2 / 2)
    axes = image.new_tensor([OF_AXES.get(kind, (0.8, 0.8)) for kind in kinds])
    trunk = torch.tensor([kind in ("shoulder", "hip") for kind in kinds], device=image.device)[:, None]
    own, common = _unit_error(image, fps, normal), _unit_error(image[:, :, :1], fps, normal)
    own = torch.where(trunk, (1 - TOGETHER) ** 0.5 * own + TOGETHER**0.5 * common, own)
    error = spread[..., None] * axes * own
    error = error + _backwards(keypoints, names) * (1 + 0.5 * normal(batch, 1, 1, 1))
    return _mistaken(image + error * extent, logit, names, hard, fps, rand)


def _unit_error(image: Tensor, fps: float, normal: Numbers) -> Tensor:
    """White, faster and slower noise of variance one."""
    size = tuple(image.shape)
    parts = [share**0.5 * lasting(size, time, fps, normal) for share, time in (FAST, SLOW)]
    return WHITE**0.5 * normal(*size) + parts[0] + parts[1]


def _trunk(keypoints: Tensor, names: Sequence[str]) -> list[Tensor] | None:
    """Left and right shoulder and hip (B, T, 3), where the set has them."""
    wanted = [f"{side}_{name}" for name in ("shoulder", "hip") for side in ("left", "right")]
    return [keypoints[:, :, names.index(n)] for n in wanted] if set(wanted) <= set(names) else None


def _hardness(keypoints: Tensor, names: Sequence[str]) -> Tensor:
    """The trunk's tilt (B, T, 1) in units of HARD_TILT, at most 1.5."""
    trunk = _trunk(keypoints, names)
    if trunk is None:
        return keypoints.new_zeros(*keypoints.shape[:2], 1)
    up = trunk[0] + trunk[1] - trunk[2] - trunk[3]
    tilt = torch.acos((-up[..., 1:2] / up.norm(dim=-1, keepdim=True).clamp_min(1e-9)).clamp(-1, 1))
    return (tilt / math.radians(HARD_TILT)).clamp_max(1.5)


def _backwards(keypoints: Tensor, names: Sequence[str]) -> Tensor:
    """The bias (B, T, K, 2) of the near hip and shoulder of who is seen from the side."""
    trunk = _trunk(keypoints, names)
    bias = torch.zeros_like(keypoints[..., :2])
    if trunk is None:
        return bias
    left, right = trunk[0] + trunk[2], trunk[1] + trunk[3]
    across = torch.nn.functional.normalize(left - right, dim=-1)
    forward = torch.linalg.cross(across, trunk[0] + trunk[1] - trunk[2] - trunk[3])
    forward = torch.nn.functional.normalize(forward, dim=-1)
    for i, name in enumerate(names):
        side, _, kind = name.rpartition("_")
        if kind in BACKWARDS and side in ("left", "right"):
            near = (-across[..., 2:] if side == "left" else across[..., 2:]).clamp_min(0)
            bias[:, :, i] = -BACKWARDS[kind] * near * forward[..., :2]
    return bias


def _mistaken(
    found: Tensor, logit: Tensor, names: Sequence[str], hard: Tensor, fps: float, rand: Numbers
) -> tuple[Tensor, Tensor]:
    """Single pairs swapped, and both of a pair found where one of them is."""
    batch, frames, _ = logit.shape
    found, confidence, tilted = found.clone(), logit.sigmoid(), hard[..., 0] > 0.5
    first = rand(batch, 1, 1) < 0.5  # of a clip: whether it is the left one that goes to the other
    for rates, (least, most) in ((SWAPS, SWAP_TIMES), (CLASHES, CLASH_TIMES)):
        for kind, (upright, floor) in rates.items():
            pair = [i for i, name in enumerate(names) if name in (f"left_{kind}", f"right_{kind}")]
            if len(pair) != 2:
                continue
            both = [spells(batch, frames, 1, rate, (least * fps, most * fps), fps, rand) for rate in (upright, floor)]
            now = torch.where(tilted[..., None], both[1], both[0]).expand(-1, -1, 2)
            sure = confidence[:, :, pair[::-1]]
            if rates is CLASHES:  # one of the two goes to the other, and is in doubt
                now = now & torch.cat([first, ~first], -1)
                sure = (CLASH + 0.5 * (logit[:, :, pair] - LEVEL)).sigmoid()
            found[:, :, pair] = torch.where(now[..., None], found[:, :, pair[::-1]], found[:, :, pair])
            confidence[:, :, pair] = torch.where(now, sure, confidence[:, :, pair])
    return found, confidence


def lasting(size: tuple[int, ...], time: float, fps: float, normal: Numbers) -> Tensor:
    """Noise (B, T, ...) of variance one, whose correlation falls to 1/e in ``time`` seconds."""
    white = normal(*size)
    stays = math.exp(-1 / (fps * time))
    frames, fresh = [white[:, 0]], (1 - stays**2) ** 0.5
    for now in white.unbind(1)[1:]:
        frames.append(stays * frames[-1] + fresh * now)
    return torch.stack(frames, 1)


def spells(
    batch: int, frames: int, kinds: int, rate: float, lengths: tuple[float, ...], fps: float, rand: Numbers
) -> Tensor:
    """Whether an event holds, which begins at a rate per second and lasts ``lengths`` frames: (B, T, kinds) of bool."""
    before = int(lengths[1]) + 1  # an event that began before the clip may hold in it
    total = before + frames
    begins = rand(batch, total, kinds) < rate / fps
    now = torch.arange(total, device=begins.device)[None, :, None]
    ends = torch.where(begins, now + lengths[0] + (lengths[1] - lengths[0]) * rand(batch, total, kinds), 0.0)
    return (ends.cummax(1).values > now)[:, before:]
