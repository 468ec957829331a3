"""How a network fares with limbs that are lost, and with limbs that hold still while another moves.

Lost: a limb's keypoints vanish for 0.5 s (hidden), or those of both arms or legs change sides for 3 frames (swapped).
Still: one limb moves as recorded, the rest of the body does not; drift is how far the estimate of the rest strays.
"""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import torch
from networks import Network
from torch import Tensor
from train import VIEWS

import kinlmr
from kinlmr import metrics, motion
from kinlmr.camera import perspective
from kinlmr.keypoints import normalise
from kinlmr.motion import clips
from kinlmr.rotations import axis_angle_to_matrix

LIMBS = {"arm": ("elbow", "wrist", "hand"), "leg": ("knee", "ankle", "foot")}
BEFORE, HIDDEN, SWAPPED, AFTER = 45, 15, 3, 6  # frames: until a limb is lost, while it is, and scored after
VIGOROUS, TOGETHER = 90, 8  # frames and number of the clips in which one limb moves


def answer(network: Network, features: Tensor) -> tuple[Tensor, Tensor]:
    """Rotations (B, T, J, 3, 3) and shape (B, T, S) of clips (B, T, F), from the start state."""
    estimate, _ = network(features, state=network.initial_state(len(features)))
    return network.matrices(estimate), estimate.shape


# ---------------------------------------------------------------------------------------------------------------- lost


class Trial(NamedTuple):
    """The clips with a limb lost from frame BEFORE on: features (B, T, F), for how many frames, and its joints."""

    name: str
    features: Tensor
    frames: int
    joints: list[int]


class Trials(NamedTuple):
    """Clips with all limbs in view: features (B, T, F), joints (B, T, J, 3) in metres; and the same with limbs lost."""

    features: Tensor
    joints: Tensor
    lost: list[Trial]


def hide(keypoints: Tensor, points: list[int], first: int, count: int) -> Tensor:
    """Keypoints (..., T, K, 3) as a detector leaves them that does not find these points in these frames: zeros."""
    keypoints = keypoints.clone()
    keypoints[..., first : first + count, points, :] = 0
    return keypoints


def swap(keypoints: Tensor, names: Sequence[str], points: list[int], first: int, count: int) -> Tensor:
    """Keypoints (..., T, K, 3) of these names, those of ``points`` taken from the other side in these frames."""
    other, swapped = clips.opposite(names), keypoints.clone()
    swapped[..., first : first + count, points, :] = keypoints[
        ..., first : first + count, [other[p] for p in points], :
    ]
    return swapped


def seen(motions: Sequence[motion.Motion], body: kinlmr.Body) -> tuple[Tensor, Tensor]:
    """Recordings of one length, each from one of four sides: keypoints (B, T, K, 3) in pixels, joints (B, T, J, 3).

    The detector errs as usual, but loses no limb and takes no left for right.
    """
    assert body.keypoints is not None
    noise, found = clips.USUAL._replace(hidden=0.0, swapped=0.0), []
    for i, m in enumerate(motions):
        generator = torch.Generator().manual_seed(i)
        clip = clips.whole(m, body, VIEWS[i % 4], generator, clips.OFF)
        mesh = body(clip.rotations, clip.shape[:, None], want=("joints", "keypoints"))
        points = mesh.keypoints - mesh.joints[:, :, [body.root]]
        image = perspective(points, points.new_tensor([0, 0, clips.REST_DISTANCE]), clips.FOCAL) + clips.FOCAL
        places, confidence = clips.disturb(image, points, body.keypoints.names, m.fps, generator, noise)
        found.append((torch.cat([places, confidence[..., None]], -1), clip.joints))
    keypoints, joints = (torch.cat(x) for x in zip(*found, strict=True))
    return keypoints, joints


def trials(motions: Sequence[motion.Motion], body: kinlmr.Body) -> Trials:
    """Of every piece of recordings that is long enough: each limb hidden, both arms swapped, both legs swapped."""
    length = BEFORE + HIDDEN + AFTER
    keypoints, truth = seen(clips.pieces(motions, length, length), body)
    assert body.keypoints is not None
    names, lost = body.keypoints.names, []
    for limb, ends in LIMBS.items():
        left, right = ([f"{side}_{end}" for end in ends] for side in ("left", "right"))
        for own in (left, right, left + right):
            points, joints = [names.index(n) for n in own if n in names], [body.joints.index(n) for n in own]
            if own == left + right:
                spoiled = swap(keypoints, names, points, BEFORE, SWAPPED)
                lost.append(Trial(f"{limb}s swapped", normalise(spoiled)[0], SWAPPED, joints))
            else:
                spoiled = hide(keypoints, points, BEFORE, HIDDEN)
                lost.append(Trial(f"{limb} hidden", normalise(spoiled)[0], HIDDEN, joints))
    return Trials(normalise(keypoints)[0], truth, lost)


@torch.no_grad()
def score_lost(network: Network, of: Trials, body: kinlmr.Body) -> dict[str, dict[str, list[float]]]:
    """By name of the trials: the limb's MPJPE (mm) in every frame from BEFORE on, to AFTER frames after it is back.

    "lost" is with the limb lost, "seen" the same frames with every limb in view; of hidden ones the mean of both sides.
    """
    errors = lambda x: metrics.joint_errors(body(*answer(network, x)).joints, of.joints, body.root).mean(0)  # noqa: E731
    seen, found = errors(of.features), dict[str, dict[str, list[Tensor]]]()
    for trial in of.lost:
        own = found.setdefault(trial.name, {"lost": [], "seen": []})
        for name, x in (("lost", errors(trial.features)), ("seen", seen)):
            own[name].append(x[BEFORE : BEFORE + trial.frames + AFTER, trial.joints].mean(-1))
    return {name: {key: torch.stack(x).mean(0).tolist() for key, x in own.items()} for name, own in found.items()}


# --------------------------------------------------------------------------------------------------------------- still


def isolate(rotations: Tensor, joints: Sequence[int]) -> Tensor:
    """The same motion of these joints alone; all others hold still, as in the first frame. (..., T, J, 3, 3) -> same"""
    held = rotations[..., :1, :, :, :].expand_as(rotations).clone()
    held[..., list(joints), :, :] = rotations[..., list(joints), :, :]
    return held


def drift(motion: Tensor) -> Tensor:
    """How far points stray from their mean place, mm: 0 for what holds still. (..., T, K, 3) in metres -> (...)"""
    return 1000 * (motion - motion.mean(-3, keepdim=True)).norm(dim=-1).mean((-2, -1))


def parts() -> dict[str, list[int]]:
    """LMR's parts that hang on the root, and their joints."""
    plan = kinlmr.compile(kinlmr.load_skeleton("smpl.yaml"))
    return {part: list(joints) for part, joints in zip(plan.parts[1:], plan.joints[1:], strict=True)}


def vigorous(motions: Sequence[motion.Motion], body: kinlmr.Body) -> dict[str, Tensor]:
    """For every part the clips (TOGETHER, VIGOROUS, J, 3, 3) in which it moves most, the rest of the body still."""
    pieces = clips.pieces(motions, VIGOROUS, VIGOROUS)
    windows = torch.stack([axis_angle_to_matrix(m.axis_angle) for m in pieces]).to(body.template)
    found = {}
    for part, joints in parts().items():
        alone = isolate(windows, joints)
        travel = body(alone).joints.diff(dim=1).norm(dim=-1).mean((1, 2))
        found[part] = alone[travel.topk(min(TOGETHER, len(travel))).indices]
    return found


@torch.no_grad()
def score_still(network: Network, moving: dict[str, Tensor], body: kinlmr.Body, fps: float) -> dict[str, float]:
    """Means over parts, mm: the others' drift while a part moves, and while nothing does; the moving part's MPJPE.

    fps: of the clips that move
    """
    rows = []
    for seed, (part, joints) in enumerate(parts().items()):
        rest = [j for j in range(len(body.joints)) if j not in joints]
        predictions, truths = [], []
        for rotations in (moving[part], moving[part][:, :1].expand_as(moving[part])):
            noise = torch.Generator().manual_seed(seed)
            clip = clips.observe(rotations, body, fps, noise, clips.USUAL, augment=False)
            places = body(*answer(network, clip.features)).joints
            predictions.append(places - places[:, :, [body.root]])
            truths.append(clip.joints)
        strays = [float(drift(p[..., rest, :]).mean()) for p in predictions]
        rows.append((*strays, float(metrics.joint_errors(predictions[0], truths[0], body.root)[..., joints].mean())))
    return dict(zip(("moving", "nothing moving", "follow"), map(statistics.mean, zip(*rows, strict=True)), strict=True))
