"""Which feet stand, and where up is: a small causal GRU over what a body and its keypoints do, at any rate.

Velocities are in metres a second, of running means whose time constants are seconds; above `TICK` frames a second the
network looks at every second frame or fewer, and its last answer holds between.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Sequence
from importlib import resources
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from kinlmr.files import read_npz, write_npz

TICK = 30.0  # frames a second
TAUS = 0.025, 0.1  # seconds of the running means that velocities are taken from
FORGET = 0.25  # seconds without a number after which its velocity is not known
JOINTS = ("left_ankle", "left_foot", "left_knee", "left_hip", "right_ankle", "right_foot", "right_knee", "right_hip",
          "spine3", "head")  # fmt: skip
KEYPOINTS = 15, 16, 13, 14, 11, 12  # of coco17: ankles, knees, hips
FASTEST = 10.0  # m/s: a velocity is at most that
LIMIT = 5.0  # standard deviations: a feature is at most that
HIDDEN = 128
FORMAT = {"format": 1, "kind": "world"}


class Signals(NamedTuple):
    """What is seen of B people in T frames. Positions are in axes that do not turn, those of a camera at rest.

    joints (B, T, 10, 3): `JOINTS` about the root joint; place (B, T, 3): where that is, anything where ``seen`` (B, T)
    is False; root (B, T, 3, 3): its rotation; rays (B, T, 6, 3): the directions of `KEYPOINTS`, of depth 1, and
    confidence (B, T, 6), zeros where there are none; camera (B, T, 3, 3): from the camera's axes to these.
    """

    joints: Tensor
    place: Tensor
    seen: Tensor
    root: Tensor
    rays: Tensor
    confidence: Tensor
    camera: Tensor


class Means(NamedTuple):
    """The running means (B, 2, V) of V numbers, and the seconds (B, V) since each was known; infinite at first."""

    mean: Tensor
    since: Tensor


NUMBERS = 3 * (len(JOINTS) + 1 + len(KEYPOINTS))  # V
FEATURES = 3 * len(JOINTS) * 3 + 6 + 5 * len(KEYPOINTS) + 9 + 3 + 1


def features(signals: Signals, seconds: float, means: Means) -> tuple[Tensor, Means]:
    """The network's features (B, T, `FEATURES`), in the camera's axes; ``seconds`` from frame to frame."""
    known = [signals.seen[..., None].expand(-1, -1, 3 * len(JOINTS) + 3)]
    known.append((signals.confidence > 0).repeat_interleave(3, -1))
    parts = signals.joints.flatten(2), signals.place, signals.rays.flatten(2)
    velocity, means = _velocities(torch.cat(parts, -1), torch.cat(known, -1), seconds, means)
    turned = velocity.unflatten(-1, (-1, 3)) @ signals.camera[:, :, None]  # (B, T, 2, 17, 3)
    split = (len(JOINTS) + 1, len(KEYPOINTS))
    body, image = turned.split(split, 3)
    place = signals.place[..., None, :] @ signals.camera  # (B, T, 1, 3)
    image = image[..., :2] * place[..., 2:, None].clamp_min(0)
    ray = torch.nn.functional.normalize(place[..., 0, :], dim=-1)
    found = torch.cat([
        (signals.joints @ signals.camera).flatten(2), body.clamp(-FASTEST, FASTEST).flatten(2),
        image.clamp(-FASTEST, FASTEST).flatten(2), signals.confidence,
        (signals.camera.mT @ signals.root).flatten(2), ray, torch.full_like(ray[..., :1], seconds * TICK).log(),
    ], -1)  # fmt: skip
    return torch.where(signals.seen[..., None], found, 0), means


def _velocities(x: Tensor, known: Tensor, seconds: float, means: Means) -> tuple[Tensor, Means]:
    """Velocities (B, T, 2, V) of numbers x (B, T, V) by both of `TAUS`, zero where they are not known."""
    (mean, since), found = means, []
    taus = x.new_tensor(TAUS)[:, None]
    for now, ok in zip(x.unbind(1), known.unbind(1), strict=True):
        since = since + seconds
        fresh = since > FORGET
        elapsed = torch.where(fresh, seconds, since)[:, None]
        share = -torch.expm1(-elapsed / taus)
        away = torch.where((fresh | ~ok)[:, None], 0, now[:, None] - mean)
        found.append(away * share / elapsed)
        mean = torch.where((fresh & ok)[:, None], now[:, None], mean + share * away)
        since = torch.where(ok, 0, since)
    return torch.stack(found, 1), Means(mean, since)


class Network(nn.Module):
    """Features -> logits that left ankle and toe, right ankle and toe stand (4), up in the camera's axes (3), the
    logarithms of how many metres the camera's place of the root is off, along the ray and across it (2)."""

    mean: Tensor
    scale: Tensor

    def __init__(self, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("scale", torch.ones(FEATURES))
        self.gru = nn.GRU(FEATURES, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 12)

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, `FEATURES`), memory (B, H) -> (B, T, 9), and the memory after."""
        normal = ((x - self.mean) * self.scale).clamp(-LIMIT, LIMIT)
        hidden, memory = self.gru(normal, memory[None].contiguous())
        contact, across, own, spread = self.head(hidden).split((4, 3, 3, 2), -1)
        root = x[..., -13:-4].unflatten(-1, (3, 3))
        return torch.cat([contact, across + (root @ own[..., None])[..., 0], spread], -1), memory[0]


class Ticks(NamedTuple):
    """What the network remembers of B people: memory (B, H), its last answer (B, 9), and how many frames ago that was
    (B), of whole numbers."""

    memory: Tensor
    answer: Tensor
    age: Tensor


def run(network: Network, x: Tensor, fps: float, ticks: Ticks, seen: Tensor) -> tuple[Tensor, Ticks]:
    """Answers (B, T, 9) for features (B, T, `FEATURES`). Somebody who was not yet seen (B, T) has no memory."""
    every = max(1, round(fps / TICK))
    if every == 1 and bool(seen.all()):
        found, memory = network(x, ticks.memory)
        return found, Ticks(memory, found[:, -1], torch.zeros_like(ticks.age))
    memory, answer, age = ticks
    answers = []
    for now, somebody in zip(x.split(1, 1), seen.unbind(1), strict=True):
        due = (somebody & (age + 1 >= every))[:, None]
        found, after = network(now, memory)
        memory, answer = torch.where(due, after, memory), torch.where(due, found[:, 0], answer)
        age = torch.where(due[:, 0], 0, age + somebody)
        answers.append(answer)
    return torch.stack(answers, 1), Ticks(memory, answer, age)


# ---------------------------------------------------------------------------------------------------------------- files


def save(network: Network, path: str | os.PathLike[str]) -> None:
    """Write the network in half precision, a kinlmr file of its own kind."""
    arrays = {key: value.half().numpy() for key, value in network.state_dict().items()}
    write_npz(path, kinlmr=np.array(json.dumps(FORMAT)), **arrays)


def load(path: str | os.PathLike[str]) -> Network:
    """The network of a file; a ValueError says what it is not."""
    arrays = read_npz(path)
    try:
        kind = json.loads(str(arrays.pop("kinlmr", "{}")))
    except ValueError:
        kind = {}
    if kind != FORMAT:
        raise ValueError(f"{os.fspath(path)}: not a network of contacts and up ({kind}), expected {FORMAT}")
    width = arrays["gru.weight_hh_l0"].shape[-1] if "gru.weight_hh_l0" in arrays else HIDDEN
    network = Network(width)
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    if (seen := {key: value.shape for key, value in arrays.items()}) != expected:
        wrong = sorted(key for key in seen.keys() | expected.keys() if seen.get(key) != expected.get(key))
        raise ValueError(
            f"{os.fspath(path)}: {wrong[0]} is {seen.get(wrong[0])}, expected {expected.get(wrong[0])}; the file is "
            "damaged, or of another version of kinlmr"
        )
    network.load_state_dict({key: torch.from_numpy(value.astype(np.float32)) for key, value in arrays.items()})
    return network.eval().requires_grad_(False)


@functools.cache
def shipped(device: torch.device, dtype: torch.dtype) -> Network:
    """The network that comes with kinlmr."""
    with resources.as_file(resources.files("kinlmr") / "weights" / "world.npz") as file, torch.inference_mode(False):
        return load(file).to(device, dtype)


def start(people: int, like: Tensor, width: int = HIDDEN) -> tuple[Means, Ticks]:
    """Of so many people, before anything was seen."""
    zeros = like.new_zeros
    means = Means(zeros(people, len(TAUS), NUMBERS), like.new_full((people, NUMBERS), torch.inf))
    age = torch.full((people,), 1000, dtype=torch.long, device=like.device)
    return means, Ticks(zeros(people, width), zeros(people, 9), age)


def rays_of(keypoints: Tensor, size: Sequence[float], focal: float) -> tuple[Tensor, Tensor]:
    """coco17's keypoints (B, T, 17, 3) in pixels -> rays (B, T, 6, 3) and confidence (B, T, 6) of `KEYPOINTS`."""
    chosen = keypoints[:, :, list(KEYPOINTS)]
    middle = torch.as_tensor(size).to(keypoints) / 2
    confidence = chosen[..., 2].clamp(0, 1)
    rays = torch.where(chosen[..., 2:] > 0, (chosen[..., :2] - middle) / focal, 0)
    return pad(rays, (0, 1), value=1.0), confidence
