"""The noise of a detector of keypoints, for training clips and tests: everything is arrays and a seeded generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from kinlmr.motion.measured import Numbers, detected, spells
from kinlmr.motion.names import opposite

HAND = ("elbow", "wrist", "hand", "thumb", "index", "pinky")
FOOT = ("knee", "ankle", "foot", "heel", "foot_index", "big_toe", "small_toe")
HIDDEN_LIMBS = [tuple(f"{side}_{name}" for name in names) for names in (HAND, FOOT) for side in ("left", "right")]
BEHIND_TRUNK = 0.08  # metres behind the trunk's middle from which on a point is hidden by it
FACE = ("nose", "eye", "ear", "mouth", "head", "eye_inner", "eye_outer")
GROUPS = {  # what may be missing as a whole, and how often of ten
    "face": (5, lambda side, kind: kind in FACE),
    "half a face": (1, lambda side, kind: kind in FACE and side == "left"),
    "waist down": (2, lambda side, kind: kind in FOOT),
    "feet": (1, lambda side, kind: kind in FOOT and kind != "knee"),
    "one side": (1, lambda side, kind: side == "left"),
}


class Noise(NamedTuple):
    """How a detector errs. Lengths are fractions of the person's extent in the image; rates are per second.

    jitter    white error of every point; one in fifty is five times as large
    missing   chance that a point is not found in a frame
    hidden    how often a limb vanishes, for 0.2 to 1 second
    swapped   how often left and right are mistaken for each other, for 1 to 4 frames
    drift     largest deviation of a slow error of every point, of up to 1 Hz
    cut       chance that a clip's picture ends at 0.3 to 0.95 of the person's height in the first frame
    occluded  chance that points behind the trunk are hidden, in nine frames of ten
    guess     chance that a clip's hidden points are guessed, with low confidence, rather than left out
    clean     chance that a clip is seen without noise
    measured  chance that a clip is seen by a detector as measured on real video (`kinlmr.motion.measured`) instead
    groups    chance that a clip lacks a group of points (GROUPS), or loses or gains it midway
    narrow    chance that a clip's hips stand nearer together than the body's, as other sets define them
    scale     chance that a clip's confidences are of another detector's scale: a power, a threshold, all the same
    """

    jitter: float = 0.01
    missing: float = 0.02
    hidden: float = 0.5
    swapped: float = 0.1
    drift: float = 0.0
    cut: float = 0.0
    occluded: float = 0.0
    guess: float = 0.0
    clean: float = 0.0
    measured: float = 0.0
    groups: float = 0.0
    narrow: float = 0.0
    scale: float = 0.0


USUAL, OFF = Noise(), Noise(jitter=0.0, missing=0.0, hidden=0.0, swapped=0.0)
WIDE = Noise(drift=0.015, cut=0.25, occluded=0.6, guess=0.5)  # as real detectors on truncated and hidden bodies
ANY = WIDE._replace(measured=0.45, groups=0.25, narrow=0.25, scale=0.5)  # as detectors of many kinds
REAL = Noise(jitter=0.0, missing=0.0, hidden=0.0, swapped=0.0, measured=1.0)  # as measured, and nothing else


def disturb(
    image: Tensor, keypoints: Tensor, names: Sequence[str], fps: float, generator: Generator, noise: Noise
) -> tuple[Tensor, Tensor]:
    """What a detector makes of true keypoints: their positions (B, T, K, 2) in pixels, and its confidence (B, T, K).

    image (B, T, K, 2) in pixels, keypoints (B, T, K, 3) in metres with z forward. A confidence of 0 is not found.
    Without noise the image comes back as it is, with confidence one.
    """
    if noise._replace(clean=0.0) == OFF:
        return image, torch.ones_like(image[..., 0])
    batch, frames, count, _ = image.shape
    rand, normal = numbers(generator, image)
    low, high = image.aminmax(dim=2, keepdim=True)
    extent = (high - low).amax(-1, keepdim=True)  # (B, T, 1, 1)
    true = _narrowed(image, names, noise.narrow, rand) if noise.narrow else image
    wild = torch.where(rand(batch, frames, count, 1) < 0.02, 5.0, 1.0)
    error = noise.jitter * wild * normal(*image.shape)
    confidence = (1 - 5 * error.norm(dim=-1) + 0.05 * (rand(batch, frames, count) - 1)).clamp(0.05, 1)
    if noise.drift:
        error = error + noise.drift * rand(batch, 1, 1, 1) * slow(tuple(image.shape), fps, rand, normal)
    found = true + error * extent
    behind = _behind(image, keypoints, names)
    measured = torch.zeros(batch, 1, 1, dtype=torch.bool, device=image.device)
    if noise.measured:
        measured = rand(batch, 1, 1) < noise.measured
        seen, sure = detected(true, keypoints, names, behind, fps, rand, normal)
        found, confidence = torch.where(measured[..., None], seen, found), torch.where(measured, sure, confidence)

    member = torch.tensor([[name in limb for name in names] for limb in HIDDEN_LIMBS], device=image.device)  # (4, K)
    pairs = torch.stack([member[:2].any(0), member[2:].any(0)])  # arms, legs
    swap = (spells(batch, frames, 2, noise.swapped / 2, (1, 4), fps, rand)[..., None] & pairs).any(2)
    other = opposite(names)
    found = torch.where(swap[..., None], found[:, :, other], found)
    confidence = torch.where(swap, confidence[:, :, other], confidence)

    vanish = spells(batch, frames, 4, noise.hidden / 4, (0.2 * fps, fps), fps, rand)
    hidden = (vanish[..., None] & member).any(2)
    guessed = rand(batch, 1, 1) < noise.guess
    if noise.occluded:
        behind = behind & (rand(batch, frames, 1) < 0.9)
        hidden = hidden | (behind & (rand(batch, 1, 1) < noise.occluded) & ~measured)
    if noise.cut:
        share = torch.where(rand(batch, 1, 1) < noise.cut, 0.3 + 0.65 * rand(batch, 1, 1), 2.0)
        line = low[:, :1, :, 1] + share * extent[:, :1, :, 0]
        out = image[..., 1] > line
        hidden = hidden | out
        pulled = torch.minimum(found[..., 1], line + 0.05 * extent[..., 0])  # guesses stay near the picture's edge
        found = torch.where((out & guessed)[..., None], torch.stack([found[..., 0], pulled], -1), found)
    if noise.guess:
        guess = hidden & guessed
        found = torch.where(
            guess[..., None], found + 0.06 * slow(tuple(image.shape), fps, rand, normal) * extent, found
        )
        unsure = 0.3 * rand(batch, 1, count) ** 2 + 0.02 * rand(batch, frames, count)
        confidence = torch.where(guess, unsure.clamp_min(0.005), confidence)
        hidden = hidden & ~guessed
    hidden = hidden | (~measured & (rand(batch, frames, count) < noise.missing))
    confidence = torch.where(hidden, 0.0, confidence)
    if noise.clean:
        clean = rand(batch, 1, 1) < noise.clean
        found, confidence = torch.where(clean[..., None], true, found), torch.where(clean, 1.0, confidence)
    if noise.scale:
        confidence = _rescaled(confidence, noise.scale, rand)
    if noise.groups:
        confidence = torch.where(_lacking(batch, frames, names, noise.groups, rand), 0.0, confidence)
    return found, confidence


def _narrowed(image: Tensor, names: Sequence[str], chance: float, rand: Numbers) -> Tensor:
    """Keypoints whose hips stand at 0.3 to 1.1 of their distance, in some clips."""
    batch, hips = len(image), [i for i, name in enumerate(names) if name.endswith("_hip")]
    share = torch.where(rand(batch, 1, 1, 1) < chance, 0.3 + 0.8 * rand(batch, 1, 1, 1), 1.0)
    middle = image[:, :, hips].mean(2, keepdim=True)
    moved = image.clone()
    moved[:, :, hips] = torch.where(share < 1, middle + share * (image[:, :, hips] - middle), image[:, :, hips])
    return moved


def _rescaled(confidence: Tensor, chance: float, rand: Numbers) -> Tensor:
    """Confidences as other detectors say them, in some clips: a power of 0.3 to 3; of these clips a fifth say 0 below
    a threshold of 0.05 to 0.5, a fifth say little (0.8 + 0.2 c), a fifth the same of all points. Zero stays zero."""
    one = len(confidence), 1, 1
    how, power, level = rand(*one) / chance, (3.0 * (2 * rand(*one) - 1) * 0.366).exp(), rand(*one)
    said = confidence**power
    said = torch.where((how < 0.2) & (said < 0.05 + 0.45 * level), 0.0, said)
    said = torch.where((how >= 0.2) & (how < 0.4), 0.8 + 0.2 * said, said)
    said = torch.where((how >= 0.4) & (how < 0.6), 0.3 + 0.7 * level, said)
    return torch.where((how < 1) & (confidence > 0), said, confidence)


def _lacking(batch: int, frames: int, names: Sequence[str], chance: float, rand: Numbers) -> Tensor:
    """Which points are missing as a group: (B, T, K) of bool. In half of these clips throughout, in the others before
    or after a moment."""
    split = [(name.partition("_")[0], name.removeprefix("left_").removeprefix("right_")) for name in names]
    one = rand(batch, 1, 1)
    member = torch.tensor([[has(side, kind) for side, kind in split] for _, has in GROUPS.values()], device=one.device)
    share = torch.tensor([often for often, _ in GROUPS.values()], device=one.device).cumsum(0) / 10
    which = torch.bucketize(rand(batch), share.to(one)).clamp_max(len(share) - 1)
    time = torch.arange(frames, device=one.device)[None, :, None] / frames
    after = (time >= rand(batch, 1, 1)) == (rand(batch, 1, 1) < 0.5)
    after = after | (rand(batch, 1, 1) < 0.5)
    return (one < chance) & after & member[which][:, None]


def _behind(image: Tensor, keypoints: Tensor, names: Sequence[str]) -> Tensor:
    """Which points lie behind the trunk, in the box of shoulders and hips: (B, T, K) of bool."""
    trunk = [i for i, name in enumerate(names) if name.endswith(("shoulder", "hip"))]
    low, high = image[:, :, trunk].aminmax(dim=2, keepdim=True)
    deep = keypoints[..., 2] > keypoints[:, :, trunk, 2].mean(2, True) + BEHIND_TRUNK
    inside = ((image > low) & (image < high)).all(-1) & deep
    inside[..., trunk] = False
    return inside


def slow(size: tuple[int, ...], fps: float, rand: Numbers, normal: Numbers) -> Tensor:
    """Slow noise (B, T, ...) of standard deviation one or a little more: a constant and a sine of up to 1 Hz."""
    batch, frames, *rest = size
    time = torch.arange(frames).view(-1, *[1] * len(rest)) / fps
    rate = rand(batch, 1, *rest)
    phase = 2 * torch.pi * time.to(rate) * rate
    a, b, c = normal(3, batch, 1, *rest)
    return (a * phase.sin() + b * phase.cos() + c) / 2**0.5


def numbers(generator: Generator, like: Tensor) -> tuple[Numbers, Numbers]:
    """The generator's uniform and normal numbers of a size, of the type and on the device of ``like``."""
    on = generator.device
    return (
        lambda *size: torch.rand(*size, generator=generator, device=on).to(like),
        lambda *size: torch.randn(*size, generator=generator, device=on).to(like),
    )
