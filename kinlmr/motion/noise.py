"""The noise of a detector of keypoints, for training clips and tests: everything is arrays and a seeded generator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from kinlmr.motion.names import opposite

HAND = ("elbow", "wrist", "hand", "thumb", "index", "pinky")
FOOT = ("knee", "ankle", "foot", "heel", "foot_index", "big_toe", "small_toe")
HIDDEN_LIMBS = [tuple(f"{side}_{name}" for name in names) for names in (HAND, FOOT) for side in ("left", "right")]
BEHIND_TRUNK = 0.08  # metres behind the trunk's middle from which on a point is hidden by it
Numbers = Callable[..., Tensor]


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


USUAL, OFF = Noise(), Noise(jitter=0.0, missing=0.0, hidden=0.0, swapped=0.0)
WIDE = Noise(drift=0.015, cut=0.25, occluded=0.6, guess=0.5)  # as real detectors on truncated and hidden bodies


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
    wild = torch.where(rand(batch, frames, count, 1) < 0.02, 5.0, 1.0)
    error = noise.jitter * wild * normal(*image.shape)
    confidence = (1 - 5 * error.norm(dim=-1) + 0.05 * (rand(batch, frames, count) - 1)).clamp(0.05, 1)
    if noise.drift:
        error = error + noise.drift * rand(batch, 1, 1, 1) * slow(tuple(image.shape), fps, rand, normal)
    found = image + error * extent

    member = torch.tensor([[name in limb for name in names] for limb in HIDDEN_LIMBS], device=image.device)  # (4, K)
    pairs = torch.stack([member[:2].any(0), member[2:].any(0)])  # arms, legs
    swap = (_spells(batch, frames, 2, noise.swapped / 2, (1, 4), fps, rand)[..., None] & pairs).any(2)
    other = opposite(names)
    found = torch.where(swap[..., None], found[:, :, other], found)
    confidence = torch.where(swap, confidence[:, :, other], confidence)

    spells = _spells(batch, frames, 4, noise.hidden / 4, (0.2 * fps, fps), fps, rand)
    hidden = (spells[..., None] & member).any(2)
    guessed = rand(batch, 1, 1) < noise.guess
    if noise.occluded:
        behind = _behind(image, keypoints, names) & (rand(batch, frames, 1) < 0.9)
        hidden = hidden | (behind & (rand(batch, 1, 1) < noise.occluded))
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
    hidden = hidden | (rand(batch, frames, count) < noise.missing)
    confidence = torch.where(hidden, 0.0, confidence)
    if noise.clean:
        clean = rand(batch, 1, 1) < noise.clean
        found, confidence = torch.where(clean[..., None], image, found), torch.where(clean, 1.0, confidence)
    return found, confidence


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


def _spells(
    batch: int, frames: int, kinds: int, rate: float, lengths: tuple[float, float], fps: float, rand: Numbers
) -> Tensor:
    """Whether an event holds, which begins at a rate per second and lasts ``lengths`` frames: (B, T, kinds) of bool."""
    before = int(lengths[1]) + 1  # an event that began before the clip may hold in it
    total = before + frames
    begins = rand(batch, total, kinds) < rate / fps
    now = torch.arange(total, device=begins.device)[None, :, None]
    ends = torch.where(begins, now + lengths[0] + (lengths[1] - lengths[0]) * rand(batch, total, kinds), 0.0)
    return (ends.cummax(1).values > now)[:, before:]


def numbers(generator: Generator, like: Tensor) -> tuple[Numbers, Numbers]:
    """The generator's uniform and normal numbers of a size, of the type and on the device of ``like``."""
    on = generator.device
    return (
        lambda *size: torch.rand(*size, generator=generator, device=on).to(like),
        lambda *size: torch.randn(*size, generator=generator, device=on).to(like),
    )
