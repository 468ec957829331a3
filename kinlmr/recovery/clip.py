"""Whole clips, whose future is known: the mean of what `recover` answers forwards, backwards and in a mirror."""

from __future__ import annotations

import torch
from torch import Tensor

from kinlmr.body import Body, keypoint_sets
from kinlmr.files import Array
from kinlmr.model import LMR
from kinlmr.motion import clips, opposite
from kinlmr.recovery.records import Recovery, body_of, rate_of
from kinlmr.recovery.recover import SCALE_JUMP, checked, in_crop, in_pixels, recover
from kinlmr.rotations import nearest_rotation

LONGEST = 600  # frames in one call of `recover`, which bounds the memory
EASE = 0.25  # seconds from when a direction first saw somebody until it counts in full


@torch.no_grad()
def recover_clip(model: LMR, keypoints: Tensor | Array, fps: float) -> Recovery:
    """Pose, shape and camera of every frame of a clip whose future is known: four answers of `recover`, and their mean.

    model, keypoints (T, K, 3) or (B, T, K, 3) and fps as `recover` takes them -> `Recovery`. No gradients.

    The four: of the clip, of the clip from its end to its beginning, and of both in a mirror, x flipped and left and
    right swapped by their names; what is answered there is mirrored back, as if the body were symmetric. Rotations are
    the nearest to the mean matrices; cameras are means in pixels, in units of the mean box. A direction counts once it
    has seen somebody, more and more within `EASE` seconds; where the depths of both are far apart, only the one that
    has seen more. The shape is one for the clip: the mean where it counts. As in `recover`, the box is zero until
    somebody was seen, and those who left are estimated further.

    A ValueError as of `recover`, and for names of joints without their other side.
    """
    rate_of(model)
    x = checked(model, keypoints)
    rows = x if x.ndim == 4 else x[None]
    body = body_of(model.options["body"], model.options["keypoints"], x.device, x.dtype)
    names = keypoint_sets()[model.options["keypoints"]]
    both = torch.stack([rows, rows[:, :, opposite(names)] * rows.new_tensor([-1.0, 1.0, 1.0])])
    four = torch.stack([both, both.flip(2)]).flatten(0, 2)
    parts, state = [], None
    for chunk in four.split(LONGEST, 1):
        answer, state = recover(model, chunk, fps, state)
        parts.append(_unmirrored(body, answer, len(rows)))
    there = [torch.cat(part, 2) for part in zip(*parts, strict=True)]
    answer = _mean(body, [torch.stack([part[0], part[1].flip(1)]) for part in there], fps)
    return answer if x.ndim == 4 else Recovery(*(part[0] for part in answer))


def _unmirrored(body: Body, answer: Recovery, people: int) -> tuple[Tensor, ...]:
    """Answers of both directions, each as it is and mirrored, (2 2 B, T, ...) -> rotations, shape, camera and box
    (2, B, T, ...), the means of both; the camera is of the root joint, in pixels, for a body of size 1."""
    rotations, shape, camera, box = (x.unflatten(0, (2, 2, people)) for x in answer)
    rotations = (rotations[:, 0] + clips.mirror(rotations[:, 1], body.joints)) / 2
    camera = in_pixels(camera, _known(box))
    root, size = _rest(body, shape)
    camera = torch.cat([camera[..., :1] * size, camera[..., 1:] + camera[..., :1] * root[..., :2]], -1)
    camera = torch.stack([camera[:, 0], camera[:, 1] * camera.new_tensor([1.0, -1.0, 1.0])])
    return rotations, shape.mean(1), camera.mean(0), box[:, 0]


def _mean(body: Body, answers: list[Tensor], fps: float) -> Recovery:
    """The weighted mean of what `_unmirrored` answers, forwards and backwards."""
    rotations, shape, camera, box = answers
    seen = box[..., 2] > 0
    age = torch.stack([seen[0].cumsum(1), seen[1].flip(1).cumsum(1).flip(1)])
    weight = age.clamp_max(max(1.0, EASE * fps)).to(box)
    weight = torch.where(weight.sum(0) > 0, weight, 1.0)
    share = (weight / weight.sum(0))[..., None]
    rotations = nearest_rotation((share[..., None, None] * rotations).sum(0))
    shape = ((weight[..., None] * shape).sum((0, 2)) / weight.sum((0, 2))[:, None])[:, None].expand(shape.shape[1:])
    camera, box = (_trusted(camera, age, share) * camera).sum(0), (share * box).sum(0)
    root, size = _rest(body, shape[:, :1])
    scale = camera[..., :1] / size
    camera = torch.cat([scale, camera[..., 1:] - scale * root[..., :2]], -1)
    return Recovery(rotations, shape.clone(), in_crop(camera, _known(box)), torch.where(seen[0][..., None], box, 0))


def _trusted(camera: Tensor, age: Tensor, share: Tensor) -> Tensor:
    """The shares (2, B, T, 1) of both cameras (2, B, T, 3): where one has the person `SCALE_JUMP` times as large, only
    that of the direction that has seen more counts: somebody's first frames may have a wrong depth."""
    longer = (age == age.amax(0)).to(camera)[..., None]
    low, high = camera[..., :1].aminmax(dim=0)
    return torch.where(high > SCALE_JUMP * low, longer / longer.sum(0), share)


def _known(box: Tensor) -> Tensor:
    """Boxes (..., 3); where there is none, one whose units are pixels."""
    return torch.where(box[..., 2:] > 0, box, box.new_tensor([0.0, 0.0, 2.0]))


def _rest(body: Body, shape: Tensor) -> tuple[Tensor, Tensor]:
    """Of bodies at rest, shape (..., S): the root joint (..., 3), and the spread (..., 1) of all joints, metres."""
    joints = body.joints_at_rest(shape.flatten(0, -2)).unflatten(0, shape.shape[:-1])
    spread = (joints - joints.mean(-2, keepdim=True)).square().sum(-1).mean(-1, keepdim=True).sqrt()
    return joints[..., body.root, :], spread
