"""BVH files, parsed: a skeleton with its offsets and channels, and every frame's numbers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from kinlmr.files import Array
from kinlmr.rotations import axis_angle_to_matrix


class Bvh:
    """A BVH file: names, parents, offsets (N, 3), channels, and the frames' numbers (T, .)."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: no such file")
        text = self.path.read_text("utf-8", "replace")
        head, motion, tail = text.partition("MOTION")
        if not motion:
            raise ValueError(f"{self.path}: no MOTION section; not a BVH file, or cut short")
        self._hierarchy(head)
        self._frames(tail)

    def _hierarchy(self, head: str) -> None:
        self.names: list[str] = []
        self.parents: list[int] = []
        self.channels: list[list[str]] = []
        offsets: list[list[float]] = []
        stack: list[int] = []
        at, site = -1, False
        for number, line in enumerate(head.splitlines(), 1):
            words = line.split()
            try:
                if not words or words[0] == "HIERARCHY":
                    continue
                if words[0] in ("ROOT", "JOINT"):
                    self.names.append("_".join(words[1:]).split(":")[-1])
                    self.parents.append(stack[-1] if stack else -1)
                    self.channels.append([])
                    offsets.append([0.0, 0.0, 0.0])
                    at = len(self.names) - 1
                elif words[0] == "End":
                    site = True
                elif words[0] == "{":
                    stack.append(-2 if site else at)
                elif words[0] == "}":
                    site = site and stack.pop() != -2 if site else bool(stack.pop() == -2)
                elif words[0] == "OFFSET":
                    if not site:
                        offsets[stack[-1]] = [float(word) for word in words[1:4]]
                elif words[0] == "CHANNELS":
                    self.channels[stack[-1]] = words[2 : 2 + int(words[1])]
                else:
                    raise ValueError("unknown word")
            except (ValueError, IndexError):
                raise ValueError(f"{self.path}:{number}: not BVH: {line.strip()[:60]!r}") from None
        odd = {c for channel in self.channels for c in channel} - {
            f"{a}{k}" for a in "XYZ" for k in ("position", "rotation")
        }
        if odd or stack or self.parents.count(-1) != 1 or len(set(self.names)) != len(self.names):
            why = f"channels {sorted(odd)}" if odd else "braces, roots or names do not fit together"
            raise ValueError(f"{self.path}: its hierarchy is damaged ({why})")
        self.offsets = np.array(offsets)

    def _frames(self, tail: str) -> None:
        lines = tail.split("\n")
        try:
            place = next(i for i, line in enumerate(lines) if line.strip().startswith("Frame Time"))
            count = int(next(line for line in lines if line.strip().startswith("Frames")).split(":")[1])
            self.fps = round(1 / float(lines[place].split(":")[1]), 2)
            numbers = np.array(" ".join(lines[place + 1 :]).split(), dtype=np.float64)
        except (StopIteration, ValueError, IndexError, ZeroDivisionError):
            raise ValueError(f"{self.path}: its MOTION section is damaged") from None
        width = sum(map(len, self.channels))
        if count < 1 or len(numbers) != count * width:
            have = len(numbers) / max(1, width)
            raise ValueError(
                f"{self.path}: {count} frames of {width} numbers promised, {have:.2f} there; it is cut short"
            )
        self.values = numbers.reshape(count, width)
        if not np.isfinite(self.values).all():
            frame = int(np.argwhere(~np.isfinite(self.values))[0, 0])
            raise ValueError(f"{self.path}: frame {frame} is not finite")
        turned = np.concatenate([[c.endswith("rotation") for c in channel] for channel in self.channels]).astype(bool)
        if count > 1 and not self.values[0, turned].any():
            self.values = self.values[1:]  # a first frame at rest, which some tools add

    def posed(self) -> tuple[Array, Array]:
        """World rotations (T, N, 3, 3) and positions (T, N, 3), in the file's units."""
        frames, column = len(self.values), 0
        turns, places = np.empty((frames, len(self.names), 3, 3)), np.empty((frames, len(self.names), 3))
        for j, parent in enumerate(self.parents):
            turn, place = np.broadcast_to(np.eye(3), (frames, 3, 3)), np.tile(self.offsets[j], (frames, 1))
            for channel in self.channels[j]:
                values, axis = self.values[:, column], "XYZ".index(channel[0])
                if channel.endswith("position"):
                    place[:, axis] = values
                else:
                    turn = turn @ _about(axis, np.deg2rad(values))
                column += 1
            turns[:, j] = turn if parent < 0 else turns[:, parent] @ turn
            places[:, j] = place if parent < 0 else places[:, parent] + (turns[:, parent] @ place[..., None])[..., 0]
        return turns, places


def _about(axis: int, angle: Array) -> Array:
    """Rotations (T, 3, 3) about one of the axes."""
    vectors = torch.zeros(len(angle), 3, dtype=torch.float64)
    vectors[:, axis] = torch.from_numpy(angle)
    return axis_angle_to_matrix(vectors).numpy()
