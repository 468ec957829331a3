"""Motion to other programs as it comes: the VMC protocol, which is OSC in UDP packets.

Every frame has /VMC/Ext/OK, /VMC/Ext/T and, while somebody is followed, /VMC/Ext/Root/Pos and one /VMC/Ext/Bone/Pos for
each of `BONES`, as Virtual Motion Capture protocol 2.0 has them: a position in metres and a quaternion (x, y, z, w),
both relative to the parent's, in Unity's axes, and no rotation in the T-pose. Unity's axes are x right, y up, z
forward, left-handed; ours have x to the left of whoever looks along z. So x is mirrored, as `mirrored` does it, and a
left hand stays a left hand.
"""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

import kinlmr
from kinlmr.export import RIGS
from kinlmr.rotations import matrix_to_quaternion
from kinlmr.video.frames import Shot, Size
from kinlmr.video.pictures import Scene

PACKET = 1400  # bytes at most, so that none is split on its way
AWAY = 1.0  # seconds: who is away for longer has left
BONES = {  # Unity's HumanBodyBones of SMPL's joints; the hand is no bone there, only fingers are
    joint: name[0].upper() + name[1:] for joint, name in RIGS["vrm"][1].items() if not joint.endswith("_hand")
}
log = logging.getLogger("kinlmr")


# -------------------------------------------------------------------------------------------------------------- OSC 1.0


def message(address: str, *values: int | float | str) -> bytes:
    """An OSC message: its address, the types of its arguments, and these, each filled up to four bytes."""
    kinds = {int: "i", float: "f", str: "s"}
    parts = [_text(address), _text("," + "".join(kinds[type(value)] for value in values))]
    for value in values:
        parts.append(_text(value) if isinstance(value, str) else struct.pack(f">{kinds[type(value)]}", value))
    return b"".join(parts)


def packets(messages: list[bytes]) -> Iterator[bytes]:
    """OSC bundles, to be carried out at once, of a few messages each."""
    begin = struct.pack(">8sQ", b"#bundle", 1)
    bundle = begin
    for one in messages:
        if bundle != begin and len(bundle) + 4 + len(one) > PACKET:
            yield bundle
            bundle = begin
        bundle += struct.pack(">i", len(one)) + one
    yield bundle


def _text(text: str) -> bytes:
    data = text.encode("ascii")
    return data + bytes(4 - len(data) % 4)


# ------------------------------------------------------------------------------------------------------------ the bones


def mirrored(positions: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor]:
    """Positions (..., 3) and rotations (..., 3, 3) with y up, right-handed -> Unity's, and quaternions (..., 4).

    With M = diag(-1, 1, 1): M p and M R M, whose quaternion (x, y, z, w) is (x, -y, -z, w) of R's.
    """
    w, x, y, z = matrix_to_quaternion(rotations).unbind(-1)
    return positions * positions.new_tensor([-1.0, 1.0, 1.0]), torch.stack([x, -y, -z, w], -1)


def bones(body: kinlmr.Body, rotations: Tensor, shape: Tensor, translation: Tensor) -> dict[str, tuple[float, ...]]:
    """Each bone's position and quaternion, seven numbers, relative to its parent's, in Unity's axes.

    rotations (J, 3, 3), shape (S), translation (3): ``body(...)`` stands there, y up.
    """
    rest = body.joints_at_rest(shape[None])[0]
    parents = torch.tensor([max(parent, 0) for parent in body.parents])
    positions = rest - rest[parents]
    positions[body.root] = rest[body.root] + translation
    numbers = torch.cat(mirrored(positions, rotations), -1).tolist()
    return {BONES[joint]: tuple(row) for joint, row in zip(body.joints, numbers, strict=True) if joint in BONES}


class Follower:
    """One person in the world, frame by frame: the first who is seen, and, when they have left, the next.

    They begin above the origin: `kinlmr.to_world` of that person alone, moved along the floor.
    """

    def __init__(self, body: kinlmr.Body, fps: float, size: Size, focal: float, height: float | None) -> None:
        self.body, self.fps, self.size, self.focal, self.height = body, fps, size, focal, height
        self.row, self.away = -1, 0
        self.state, self.begun = self._fresh(), torch.zeros(3)

    def _fresh(self) -> kinlmr.WorldState:
        return kinlmr.WorldState.initial(1, len(self.body.joints), self.body.shape_width)

    def take(self, chunk: Sequence[Shot], scenes: Sequence[Scene | None]) -> kinlmr.World | None:
        """The person in the last of the next frames (rotations (J, 3, 3), ...); None while nobody is seen."""
        rows = scenes[-1].rows if scenes[-1] else []
        self.away = 0 if self.row in rows else self.away + len(chunk)
        if rows and self.away and (self.row < 0 or self.away > AWAY * self.fps):
            self.row, self.away, self.state = rows[0], 0, self._fresh()
        if self.row not in rows:
            return None
        first = bool(self.state.frames[0] == 0)
        there = [(shot, one) for shot, one in zip(chunk, scenes, strict=True) if one and self.row in one.rows]
        mine = [[x[one.rows.index(self.row)] for x in one.recovery] for _, one in there]
        world, self.state = kinlmr.to_world(
            kinlmr.Recovery(*(torch.stack(x)[None] for x in zip(*mine, strict=True))), self.fps, self.size, self.focal,
            body=self.body, keypoints=np.stack([shot.keypoints[self.row] for shot, _ in there])[None],
            height=self.height, state=self.state,
        )  # fmt: skip
        if first:
            root = world.translation[0, 0] + self.body.joints_at_rest(world.shape[0, :1])[0, self.body.root]
            self.begun = root * root.new_tensor([1.0, 0.0, 1.0])
        now = kinlmr.World(*(x[0, -1] for x in world))
        return now._replace(translation=now.translation - self.begun)


class Vmc:
    """Frames to a program that listens at ``(host, port)``. A ValueError where there is no such host."""

    def __init__(self, address: tuple[str, int]) -> None:
        try:
            self.address = socket.getaddrinfo(*address, socket.AF_INET, socket.SOCK_DGRAM)[0][-1]
        except OSError as error:
            raise ValueError(f"--vmc {address[0]}:{address[1]}: there is no such host ({error})") from None
        self.socket, self.failed = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), False

    def send(self, time: float, body: kinlmr.Body, world: kinlmr.World | None) -> None:
        """A frame of somebody as `Follower` has them, or of nobody. What cannot be sent is lost, and said once."""
        messages = [message("/VMC/Ext/OK", 1), message("/VMC/Ext/T", float(time))]
        if world is not None:
            messages.append(message("/VMC/Ext/Root/Pos", "root", *(0.0,) * 6, 1.0))
            for name, numbers in bones(body, world.rotations, world.shape, world.translation).items():
                messages.append(message("/VMC/Ext/Bone/Pos", name, *numbers))
        try:
            for packet in packets(messages):
                self.socket.sendto(packet, self.address)
        except OSError as error:
            if not self.failed:
                log.warning("--vmc %s:%d: cannot be reached (%s)", *self.address, error)
            self.failed = True

    def close(self) -> None:
        self.socket.close()
