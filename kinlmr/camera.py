"""Cameras: weak perspective in a crop (equation 1 of LMR), a pinhole in the full image, and the way between them.

The camera's frame is x right, y down, z forward, in metres. A crop is a square box (cx, cy, side) in pixels of the
image; crop units run from -1 at its left and top edge to 1 at its right and bottom. A weak-perspective camera is
(s, tx, ty) in crop units per metre and crop units. (SPIN's and VIBE's translations are tx / s and ty / s.) There are
two: `Estimate`'s, as LMR estimates it, is for the body about its root joint; `Recovery`'s is for the body as it is
posed. `from_root` makes the second of the first.
"""

from __future__ import annotations

from torch import Tensor, broadcast_tensors, cat, stack, zeros_like
from torch.nn.functional import normalize

MIN_SCALE = 0.1  # crop units per metre: the smallest s that `fit` answers
PRIOR_WEIGHT = 0.003  # of the camera known before, in each point, where a point seen with confidence one weighs 1
PRIOR_SPREAD = 1e-6  # square metres: the spread of points that say as much of the scale as the camera known before


def project(points: Tensor, camera: Tensor) -> Tensor:
    """Equation 1: x = s X_xy + t. points (..., K, 3), camera (..., 3) as (s, tx, ty) -> crop units (..., K, 2).

    >>> import torch
    >>> project(torch.tensor([[1.0, 2.0, 5.0]]), torch.tensor([0.5, 0.1, 0.0]))
    tensor([[0.6000, 1.0000]])
    """
    _check(points, "points", 3)
    _check(camera, "camera", 3)
    return camera[..., None, :1] * points[..., :2] + camera[..., None, 1:]


def perspective(points: Tensor, translation: Tensor, focal: Tensor | float) -> Tensor:
    """A pinhole: f (X + t)_xy / (X + t)_z. points (..., K, 3), translation (..., 3), focal in pixels, a number or (...)
    -> pixels from the principal point (..., K, 2). Points behind the camera (z <= 0) have no image: what comes out for
    them means nothing.
    """
    _check(points, "points", 3)
    _check(translation, "translation", 3)
    points = points + translation[..., None, :]
    focal = focal[..., None, None] if isinstance(focal, Tensor) else focal
    return focal * points[..., :2] / points[..., 2:]


def fit(points: Tensor, image: Tensor, weight: Tensor, camera: Tensor, scale: Tensor | None = None) -> Tensor:
    """The camera that projects points onto the image by least squares, in closed form; s >= `MIN_SCALE`, or ``scale``.

    points (..., K, 3), image (..., K, 2) in crop units, weight (..., K) such as confidence, zero for a point not seen;
    camera (..., 3), what is known before; scale (...) -> (..., 3). The camera known before weighs a little
    (`PRIOR_WEIGHT`): it decides what too few points leave open, such as the scale of points that coincide, and is the
    answer where none is seen, or K is 0. Where the weight is zero, image may hold anything finite.
    """
    best, middle, target = fit_scale(points, image, weight, camera)
    return at_scale(best if scale is None else scale, middle, target)


def fit_scale(points: Tensor, image: Tensor, weight: Tensor, camera: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The scale (...) that `fit` answers, and the weighted means of points and image (..., 2), for `at_scale`."""
    _check(points, "points", 3)
    _check(image, "image", 2)
    _check(camera, "camera", 3)
    s, t = camera[..., 0].clamp_min(MIN_SCALE), camera[..., 1:]
    if not points.shape[-2]:
        return s, zeros_like(t), t
    flat, weight = points[..., :2], weight[..., None]
    total = weight + PRIOR_WEIGHT
    before = t[..., None, :] + s[..., None, None] * flat
    image = before + weight / total * (image - before)
    share = total / total.sum(-2, keepdim=True)
    pair = stack([flat.expand_as(image), image])
    middle = (share * pair).sum(-2, keepdim=True)
    pair = pair - middle
    spread, both = (share * pair[0] * pair).sum((-2, -1)).unbind()
    middle, target = middle[..., 0, :].unbind()
    return ((both + PRIOR_SPREAD * s) / (spread + PRIOR_SPREAD)).clamp_min(MIN_SCALE), middle, target


def at_scale(scale: Tensor, middle: Tensor, target: Tensor) -> Tensor:
    """The camera (..., 3) of a scale (...) that projects one point of the plane (..., 2) onto another (..., 2)."""
    s = scale[..., None]
    return cat([s, target - s * middle], -1)


def from_root(camera: Tensor, root: Tensor) -> Tensor:
    """`Estimate`'s camera, for the body about its root joint -> `Recovery`'s, for the body as it is posed: t - s r_xy.

    camera (..., 3), root (..., 3), where the root joint of the posed body is, in metres -> (..., 3). The way back is
    ``from_root(camera, -root)``.

    >>> import torch
    >>> from_root(torch.tensor([0.5, 0.1, 0.0]), torch.tensor([0.0, -0.2, 0.3]))
    tensor([0.5000, 0.1000, 0.1000])
    """
    _check(camera, "camera", 3)
    _check(root, "root", 3)
    return _joined(camera[..., :1], camera[..., 1:] - camera[..., :1] * root[..., :2])


def to_crop(pixels: Tensor, box: Tensor) -> Tensor:
    """Image pixels (..., K, 2) -> units of the crop ``box`` (..., 3) as (cx, cy, side): 2 (p - c) / side."""
    _check(pixels, "pixels", 2)
    _check(box, "box", 3)
    return 2 * (pixels - box[..., None, :2]) / box[..., None, 2:]


def from_crop(units: Tensor, box: Tensor) -> Tensor:
    """Crop units (..., K, 2) -> image pixels, the inverse of `to_crop`."""
    _check(units, "units", 2)
    _check(box, "box", 3)
    return units * box[..., None, 2:] / 2 + box[..., None, :2]


def to_translation(camera: Tensor, box: Tensor, size: Tensor, focal: Tensor | float) -> Tensor:
    """The translation of a posed body before the full image's pinhole, so that at its depth both cameras agree.

    camera (..., 3), box (..., 3) as (cx, cy, side), size (..., 2) of the image as (width, height), focal in pixels
    -> (..., 3): [tx / s + 2 (cx - w / 2) / (b s), ty / s + 2 (cy - h / 2) / (b s), 2 f / (b s)]
    """
    _check(camera, "camera", 3)
    _check(box, "box", 3)
    _check(size, "size", 2)
    s, t = camera[..., :1], camera[..., 1:]
    double = box[..., 2:] * s  # twice the pixels per metre
    depth = 2 * (focal[..., None] if isinstance(focal, Tensor) else focal) / double
    return _joined(t / s + (2 * box[..., :2] - size) / double, depth)


def from_translation(translation: Tensor, box: Tensor, size: Tensor, focal: Tensor | float) -> Tensor:
    """The weak-perspective camera (..., 3) of a posed body with that translation: the inverse of `to_translation`."""
    _check(translation, "translation", 3)
    _check(box, "box", 3)
    _check(size, "size", 2)
    s = 2 * (focal[..., None] if isinstance(focal, Tensor) else focal) / (box[..., 2:] * translation[..., 2:])
    return _joined(s, s * translation[..., :2] - (2 * box[..., :2] - size) / box[..., 2:])


def facing(ray: Tensor) -> Tensor:
    """The smallest rotations (..., 3, 3) that turn the camera's axis (0, 0, 1) onto rays (..., 3) of any length.

    A camera that looks along the ray sees a body as the camera itself sees the body rotated so about its root joint.
    """
    _check(ray, "ray", 3)
    x, y, z = normalize(ray, dim=-1).unbind(-1)
    a, b, c = x * x / (1 + z), x * y / (1 + z), y * y / (1 + z)
    return stack([stack(row, -1) for row in ((1 - a, -b, x), (-b, 1 - c, y), (-x, -y, z))], -2)


def _joined(one: Tensor, two: Tensor) -> Tensor:
    """The last axes one after another, the leading ones broadcast."""
    lead = broadcast_tensors(one[..., 0], two[..., 0])[0].shape  # `broadcast_shapes` imports sympy, which takes long
    return cat([x.expand(*lead, x.shape[-1]) for x in (one, two)], -1)


def _check(x: Tensor, name: str, width: int) -> None:
    if x.shape[-1:] != (width,):
        raise ValueError(f"{name} has {width} numbers in the last axis, not shape {tuple(x.shape)}")
