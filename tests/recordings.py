"""Recordings as files of other makers: a walk, and BVH whose joints lie along any axes."""

import numpy as np
import torch

import kinlmr
from kinlmr.motion import DIALECTS
from kinlmr.rotations import axis_angle_to_matrix

BODY = kinlmr.load_body("anny24_lo369")
INDEX = {name: j for j, name in enumerate(BODY.joints)}
NAMED = [INDEX[joint] for joint in DIALECTS["mixamo"]]


def walk(frames=24, seed=0):
    """Somebody who walks along z, sways, and swings bent arms: rotations (T, 24, 3, 3), the root's places (T, 3)."""
    t, phases = np.linspace(0, 4 * np.pi, frames), np.random.default_rng(seed).uniform(0, 2 * np.pi, 3)
    vectors = np.zeros((frames, 24, 3))
    for side, sign in (("left", 1), ("right", -1)):
        vectors[:, INDEX[f"{side}_hip"], 0] = -0.1 - 0.4 * sign * np.sin(t)
        vectors[:, INDEX[f"{side}_knee"], 0] = 0.5 + 0.4 * np.sin(t + sign)
        vectors[:, INDEX[f"{side}_shoulder"], 2] = -1.2 * sign
        vectors[:, INDEX[f"{side}_elbow"], 1] = -sign * (0.6 + 0.3 * np.sin(t))
    for k, joint in enumerate(("spine1", "spine3", "head")):
        vectors[:, INDEX[joint]] = 0.1 * np.sin(t + phases[k])[:, None] * [0.5, 1, 0.3]
    vectors[:, 0, 1] = 0.3 * np.sin(t / 2)
    places = np.stack([0.1 * np.sin(t), 0.9 + 0.02 * np.sin(2 * t), t / 4], 1)
    return axis_angle_to_matrix(torch.from_numpy(vectors)).numpy(), places


def written(path, motion, axes=None, world=None, names=None, channel=str, joints=NAMED):
    """A recording as BVH, in centimetres, of another maker: each joint's frame turned by ``axes`` (24, 3, 3), the
    world by ``world``."""
    rotations, places = motion
    axes = np.tile(np.eye(3), (24, 1, 1)) if axes is None else axes
    world = np.eye(3) if world is None else world
    names = names or {INDEX[joint]: name for joint, name in DIALECTS["mixamo"].items()}
    turns, rest, above, order, lines = [], BODY.J.double().view(-1, 3).numpy(), {}, [], ["HIERARCHY"]
    for j, parent in enumerate(BODY.parents):
        turns.append(world @ rotations[:, j] if parent < 0 else turns[parent] @ rotations[:, j])
        above[j] = parent
        while above[j] >= 0 and above[j] not in joints:
            above[j] = BODY.parents[above[j]]

    def block(j):
        order.append(j)
        offset = np.zeros(3) if above[j] < 0 else 100 * axes[above[j]].T @ (rest[j] - rest[above[j]])
        rotation = " ".join(channel(f"{axis}rotation") for axis in "ZYX")
        position = "".join(channel(f"{axis}position") + " " for axis in "XYZ") if above[j] < 0 else ""
        lines.extend([f"{'ROOT' if above[j] < 0 else 'JOINT'} {names[j]}", "{", "OFFSET " + " ".join(map(str, offset)),
                      f"CHANNELS {6 if position else 3} {position}{rotation}"])  # fmt: skip
        for child in joints:
            if above[child] == j:
                block(child)
        lines.append("}")

    block(0)
    columns = [100 * places @ world.T]
    for j in order:
        local = (
            turns[j] @ axes[j]
            if above[j] < 0
            else (turns[above[j]] @ axes[above[j]]).swapaxes(1, 2) @ turns[j] @ axes[j]
        )
        y = np.arcsin(-local[:, 2, 0].clip(-1, 1))
        z, x = np.arctan2(local[:, 1, 0], local[:, 0, 0]), np.arctan2(local[:, 2, 1], local[:, 2, 2])
        columns.append(np.rad2deg(np.stack([z, y, x], 1)))
    lines += ["MOTION", f"Frames: {len(places)}", "Frame Time: 0.0333333"]
    lines += [" ".join(f"{value:.9f}" for value in row) for row in np.concatenate(columns, 1)]
    path.write_text("\n".join(lines) + "\n")
    return path


def random_axes(seed):
    q = np.random.default_rng(seed).standard_normal((24, 4))
    return kinlmr.rotations.quaternion_to_matrix(torch.from_numpy(q)).numpy()
