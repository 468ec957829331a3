"""What the writers take, checked once: people in motion, upright, each from the frame in which they were first seen."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import reduce
from torch import Tensor

from kinlmr.body import Body
from kinlmr.files import Array, about
from kinlmr.recovery import Recovery
from kinlmr.rotations import matrix_to_axis_angle
from kinlmr.world import World


class Take(NamedTuple):
    """Somebody from frame ``start`` of the clip on, float64 on the CPU, y up: rotations (T, J, 3, 3), shape (s),
    translation (T, 3). held: until then the first pose is held; else the body is at rest."""

    body: Body
    rotations: Tensor
    shape: Tensor
    translation: Tensor
    fps: float
    start: int
    held: bool

    def rest(self) -> Tensor:
        """Joints of the T-pose (J, 3)."""
        return self.body.joints_at_rest(self.shape[None])[0]

    def sized(self) -> Body:
        """The body with the bones of this shape."""
        return replace(self.body, J=self.rest().flatten())

    def axis_angle(self) -> Array:
        """(T, J, 3)"""
        return matrix_to_axis_angle(self.rotations).numpy()

    def whole(self) -> Take:
        """From the clip's first frame on: until they come, their first pose, or the T-pose where they begin, its lowest
        joint as high as the first pose's."""
        if not self.start:
            return self
        rotations, translation = self.rotations[:1], self.translation[:1].clone()
        if not self.held:
            lowest = self.body(rotations, self.shape, translation).joints[0, :, 1].min()
            rotations = torch.eye(3, dtype=torch.float64).expand_as(rotations)
            translation[0, 1] += lowest - self.body(rotations, self.shape, translation).joints[0, :, 1].min()
        rotations, translation = (x.expand(self.start, *x.shape[1:]) for x in (rotations, translation))
        return self._replace(
            rotations=torch.cat([rotations, self.rotations]), translation=torch.cat([translation, self.translation]),
            start=0,
        )  # fmt: skip


def upright(
    body: Body, rotations: Tensor, shape: Tensor | None = None, translation: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A body in the camera's frame (x right, y down, z forward), turned to y up.

    rotations (..., J, 3, 3), shape (..., S), translation (..., 3) in metres -> (rotations, translation) alike
    """
    return body.rotate_root(rotations, shape, translation, torch.diag(rotations.new_tensor([1.0, -1.0, -1.0])))


def each(
    write: Callable[[Path, Take], None], path: str | os.PathLike[str], ending: str, body: Body | Sequence[Body],
    *given: Any, **more: Any,
) -> None:  # fmt: skip
    """One file for each person; of several the files are numbered: body1.bvh, body2.bvh. Arguments as of `takes`."""
    path = Path(path)
    people = takes(path, ending, body, *given, **more)
    for k, take in enumerate(people):
        write(path if len(people) == 1 else path.with_name(f"{path.stem}{k + 1}{path.suffix}"), take)


def takes(
    path: str | os.PathLike[str], ending: str, body: Body | Sequence[Body], given: Any, shape: Any = None,
    translation: Any = None, fps: float = 30.0, start: Any = 0, size: Any = None, focal: Any = None,
) -> list[Take]:  # fmt: skip
    """What a writer was given, as people. A ValueError names the file and what is wrong."""
    with about(path):
        if Path(path).suffix.lower() != ending:
            raise ValueError(f"the name must end in {ending}")
        if not (isinstance(fps, int | float | np.number) and 0 < fps < float("inf")):
            raise ValueError(f"fps is a number above 0, not {fps!r}")
        plain = isinstance(given, list | tuple) and not isinstance(given, World | Recovery)
        many = plain and (ending == ".glb" or (len(given) > 0 and all(map(_is_person, given))))
        columns: list[Any] = [given, shape, translation, start, body]
        if not many and isinstance(given, World | Recovery) and given.rotations.ndim == 5:
            many, columns[0] = True, [type(given)(*row) for row in zip(*given, strict=True)]
        columns = columns if many else [[value] for value in columns]
        count = len(columns[0])
        columns = [[x] * count if x is None or isinstance(x, int | Body) else x for x in columns]
        if not count or any(len(column) != count for column in columns):
            raise ValueError(
                "rotations, shape, translation, start and body are lists of one entry per person, "
                f"not of {', '.join(str(len(column)) for column in columns)}"
            )
        people = [_take(k, person, fps, size, focal) for k, person in enumerate(zip(*columns, strict=True), 1)]
        if any(isinstance(x, Recovery) for x in columns[0]):
            warnings.warn(
                f"{os.fspath(path)}: a Recovery is where the camera sees it: it leans as the camera does, and floats; "
                "to_world makes a World of it, which stands on the floor",
                stacklevel=4,
            )
        return people


def _is_person(given: Any) -> bool:
    return isinstance(given, World | Recovery) or getattr(given, "ndim", 0) == 4


def _take(number: int, person: tuple[Any, Any, Any, Any, Body], fps: float, size: Any, focal: Any) -> Take:
    """Person ``number``, as a World or rotations, shape, translation, start and body, checked."""
    given, shape, translation, start, body = person
    if not (isinstance(start, int | np.integer) and start >= 0):
        raise ValueError(f"start is {start!r}, expected a number of frames, 0 or more")
    if not isinstance(given, World | Recovery):
        rotations, shape, translation = _checked(body, given, shape, translation)
        return Take(body.to("cpu", torch.float64), rotations, shape, translation, float(fps), int(start), True)
    if shape is not None or translation is not None:
        raise ValueError(
            f"a {type(given).__name__} has a shape and a place of its own: leave out shape and translation"
        )
    body = body.to("cpu", torch.float64)
    given = type(given)(*map(_double, given))
    if given.rotations.ndim != 4:
        raise ValueError(
            f"a {type(given).__name__}'s rotations have shape (T, J, 3, 3) or (B, T, J, 3, 3), not "
            f"{tuple(given.rotations.shape)}"
        )
    rotations, shape, translation, first = _from_first_seen(number, *_upright(body, given, size, focal))
    rotations, mean, translation = _checked(body, rotations, shape, translation)
    root = body.root  # stays where it is with the mean shape
    moved = body.joints_at_rest(shape)[:, root] - body.joints_at_rest(mean[None])[:, root]
    return Take(body, rotations, mean, translation + moved, float(fps), int(start) + first, False)


def _upright(body: Body, given: World | Recovery, size: Any, focal: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Rotations, shape and translation, y up; of a `Recovery`, as the camera sees it."""
    if isinstance(given, World):
        return given.rotations, given.shape, given.translation
    if size is None or focal is None:
        raise ValueError("a Recovery is in a camera's frame: give size=(width, height) and focal=, both in pixels")
    rotations, translation = given.in_camera(size, focal, body)
    rotations, translation = upright(body, rotations, given.shape, translation)
    return rotations, given.shape, translation


def _from_first_seen(
    number: int, rotations: Tensor, shape: Tensor, translation: Tensor
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Without the frames before the first that is known, and how many they were; who is lost later stays so."""
    known = translation.isfinite().all(-1) & rotations.flatten(1).isfinite().all(-1) & shape.isfinite().all(-1)
    if not known.any():
        raise ValueError(f"person {number} was seen in no frame (every translation is NaN): leave them out")
    first = int(known.int().argmax())
    latest = torch.where(known, torch.arange(len(known)), 0).cummax(0).values[first:]
    return rotations[latest], shape[latest], translation[latest], first


# -------------------------------------------------------------------------------------------------------------- arrays


def _checked(body: Body, rotations: Any, shape: Any, translation: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Rotations (T, J, 3, 3), shape (s) and translation (T, 3), float64."""
    matrices = _matrices(body, _double(rotations))
    frames = len(matrices)
    numbers = _double(torch.zeros(0) if shape is None else shape)
    if numbers.ndim == 2 and len(numbers) == frames:
        numbers = reduce(numbers, "t s -> s", "mean")
    if numbers.ndim != 1 or len(numbers) > body.shape_width:
        wanted = f"({body.shape_width}) or ({frames}, {body.shape_width})"
        raise ValueError(f"shape is {wanted}, not {tuple(numbers.shape)}")
    if not numbers.isfinite().all():
        raise ValueError("shape are not finite")
    moves = torch.zeros(frames, 3, dtype=torch.float64) if translation is None else _double(translation)
    if moves.shape != (frames, 3):
        raise ValueError(f"translation has shape ({frames}, 3), not {tuple(moves.shape)}")
    _check_finite("translation", moves)
    return matrices, numbers, moves


def _matrices(body: Body, x: Tensor) -> Tensor:
    """The rotation matrices (T, J, 3, 3) of a body, checked."""
    joints = len(body.joints)
    if x.shape[1:] != (joints, 3, 3) or not len(x):
        raise ValueError(f"rotations have shape (T, {joints}, 3, 3) with T >= 1, not {tuple(x.shape)}")
    _check_finite("rotations", x)
    off = (x @ x.mT - torch.eye(3, dtype=torch.float64)).abs().amax((-2, -1))
    off = torch.where(torch.linalg.det(x) > 0, off, 2.0)
    if off.max() > 1e-3:
        frame, joint = (int(i) for i in np.unravel_index(int(off.argmax()), off.shape))
        raise ValueError(
            f"frame {frame}, {body.joints[joint]}: not a rotation matrix; "
            "kinlmr.rotations.nearest_rotation makes it one"
        )
    return x


def _check_finite(what: str, values: Tensor) -> None:
    if not values.isfinite().all():
        raise ValueError(f"{what} are not finite in frame {int(torch.nonzero(~values.isfinite())[0, 0])}")


def _double(values: Any) -> Tensor:
    return torch.as_tensor(values).detach().to("cpu", torch.float64)
