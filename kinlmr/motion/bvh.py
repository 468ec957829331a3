"""BVH files, parsed: a skeleton with its offsets and channels, and every frame's numbers."""

from __future__ import annotations

import os
import re
from decimal import Decimal
from pathlib import Path

import numpy as np
import torch

from kinlmr.files import Array, about
from kinlmr.rotations import axis_angle_to_matrix

LARGEST = 1e9  # units or degrees: nothing is as far
END_SITE = -2  # an End Site: it closes a limb, has an offset, and is no joint
CHANNELS = {f"{axis}{kind}" for axis in "XYZ" for kind in ("position", "rotation")}
_MOTION = re.compile(r"^[ \t]*MOTION\b", re.MULTILINE)
_TIMES = re.compile(r"\s*Frames\s*:?\s*(\d+)\s+Frame\s*Time\s*:?\s*(\S+)", re.IGNORECASE)


class Bvh:
    """A BVH file: names, parents, offsets (N, 3), channels, the frames' numbers (T, .), fps; the End Site's offset of
    each joint that has one, as it is written."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: no such file")
        text = self.path.read_text("utf-8-sig", "replace")
        with about(self.path):
            motion = _MOTION.search(text)
            if not motion:
                raise ValueError("no MOTION section; not a BVH file, or cut short")
            self._hierarchy(text[: motion.start()])
            self._frames(text[motion.end() :], text.count("\n", 0, motion.end()) + 1)

    def _hierarchy(self, head: str) -> None:
        self.names: list[str] = []
        self.parents: list[int] = []
        self.channels: list[list[str]] = []
        self.ends: dict[int, list[str]] = {}
        offsets: list[list[float]] = []
        stack: list[int] = []
        at = -1  # what the next brace opens
        pieces = [(n, piece) for n, line in enumerate(head.splitlines(), 1) for piece in re.split("([{}])", line)]
        for number, piece in pieces:
            words = piece.split()
            try:
                if not words or words[0] == "HIERARCHY":
                    continue
                if words[0] in ("ROOT", "JOINT"):
                    self.names.append("_".join(words[1:]))
                    self.parents.append(stack[-1] if stack else -1)
                    self.channels.append([])
                    offsets.append([0.0, 0.0, 0.0])
                    at = len(self.names) - 1
                elif words[0] == "End":
                    at = END_SITE
                elif words[0] == "{":
                    stack.append(at)
                elif words[0] == "}":
                    stack.pop()
                elif words[0] == "OFFSET":
                    if stack[-1] != END_SITE:
                        offsets[stack[-1]] = [float(word) for word in words[1:4]]
                    else:
                        self.ends[stack[-2]] = words[1:4]
                elif words[0] == "CHANNELS" and stack[-1] != END_SITE:
                    if len(words) != 2 + int(words[1]):
                        raise ValueError("other channels than promised")
                    self.channels[stack[-1]] = [word.capitalize() for word in words[2:]]
                else:
                    raise ValueError("unknown word")
            except (ValueError, IndexError):
                raise ValueError(f"{self.path}:{number}: not BVH: {piece.strip()[:60]!r}") from None
        if odd := {c for channel in self.channels for c in channel} - CHANNELS:
            raise ValueError(f"its hierarchy is damaged (channels {sorted(odd)})")
        unique = len(set(self.names)) == len(self.names)
        if stack or END_SITE in self.parents or self.parents.count(-1) != 1 or not unique:
            raise ValueError("its hierarchy is damaged (braces, roots or names do not fit together)")
        if any(len(offset) != 3 for offset in offsets) or not (np.abs(offsets) < LARGEST).all():
            raise ValueError("its hierarchy is damaged (an OFFSET is not three finite numbers)")
        self.offsets = np.array(offsets)

    def _frames(self, tail: str, line: int) -> None:
        times = _TIMES.match(tail)
        try:
            if not times:
                raise ValueError("no frame time")
            count, self.fps = int(times[1]), _rate(times[2])
        except ValueError:
            raise ValueError("its MOTION section is damaged; expected Frames:, Frame Time: and then numbers") from None
        numbers = self._numbers(tail[times.end() :], line + tail.count("\n", 0, times.end()))
        width = sum(map(len, self.channels))
        have = len(numbers) / max(1, width)
        if len(numbers) > count * width and count:
            raise ValueError(
                f"{count} frames of {width} numbers promised, {have:.2f} there: more than promised; "
                f"set Frames: to what is there, or remove the surplus"
            )
        if count < 1 or len(numbers) < count * width:
            raise ValueError(f"{count} frames of {width} numbers promised, {have:.2f} there; it is cut short")
        self.values = numbers.reshape(count, width)

    def _numbers(self, text: str, line: int) -> Array:
        """All numbers of a text that begins in a line of the file."""
        words = text.split()
        try:
            numbers = np.array(words, dtype=np.float64)
            if (np.abs(numbers) < LARGEST).all():
                return numbers
        except ValueError:
            pass
        bad = next(i for i, word in enumerate(words) if not _is_number(word))
        position = list(re.finditer(r"\S+", text))[bad]
        raise ValueError(
            f"{self.path}:{line + text.count(chr(10), 0, position.start())}: frame "
            f"{bad // max(1, sum(map(len, self.channels)))} is not finite numbers: {words[bad][:40]!r}; "
            "leave the frame out, or write what it should be"
        )

    def rest(self, rotations: Array, positions: Array) -> Array:
        """Positions (N, 3) of the rest pose, its bones as long as in what `posed` found.

        OFFSETs are not used: in some files, such as Bandai-Namco's, channels move the joints.
        """
        rest = np.zeros(positions.shape[1:])
        for j, parent in enumerate(self.parents):
            if parent >= 0:
                bone = ((positions[:, j] - positions[:, parent])[:, None] @ rotations[:, parent])[:, 0]
                rest[j] = rest[parent] + bone.mean(0)
        return rest

    def posed(self) -> tuple[Array, Array]:
        """World rotations (T, N, 3, 3) and positions (T, N, 3), in the file's units."""
        frames, column = len(self.values), 0
        rotations, positions = np.empty((frames, len(self.names), 3, 3)), np.empty((frames, len(self.names), 3))
        for j, parent in enumerate(self.parents):
            rotation, position = np.broadcast_to(np.eye(3), (frames, 3, 3)), np.tile(self.offsets[j], (frames, 1))
            for channel in self.channels[j]:
                values, axis = self.values[:, column], "XYZ".index(channel[0])
                if channel.endswith("position"):
                    position[:, axis] = values
                else:
                    rotation = rotation @ _about(axis, np.deg2rad(values))
                column += 1
            rotations[:, j] = rotation if parent < 0 else rotations[:, parent] @ rotation
            positions[:, j] = (
                position if parent < 0 else positions[:, parent] + (rotations[:, parent] @ position[..., None])[..., 0]
            )
        return rotations, positions


def _rate(text: str) -> float:
    """Frames per second of a frame time as it is written; a whole rate where only the last digit stands between."""
    time = float(text)
    if not 1e-6 < time < 1e4:
        raise ValueError("a frame time is above zero, and a part of a second")
    whole, exponent = round(1 / time), Decimal(text).as_tuple().exponent
    last_digit = 10.0**exponent if isinstance(exponent, int) else 0.0
    if whole and abs(1 / whole - time) <= min(last_digit, 1.1e-3 * time):
        return float(whole)
    return round(1 / time, 6)


def _is_number(word: str) -> bool:
    try:
        return abs(float(word)) < LARGEST
    except ValueError:
        return False


def _about(axis: int, angle: Array) -> Array:
    """Rotations (T, 3, 3) about one of the axes."""
    vectors = torch.zeros(len(angle), 3, dtype=torch.float64)
    vectors[:, axis] = torch.from_numpy(angle)
    return axis_angle_to_matrix(vectors).numpy()
