"""The laws of the library, one helper each; each is shown, in the test file of its room, to fail when broken."""

import re
from types import SimpleNamespace

import torch

from kinlmr import Skeleton
from kinlmr.skeleton import parse


def assert_refused_by_name(fields, names):
    """What is no skeleton is refused, in Python and as YAML, by a message that has the names, and the first's line."""
    text = Skeleton.to_yaml(SimpleNamespace(**fields))
    for make, where in (
        (lambda: Skeleton(**fields), r"skeleton '\w+': "),
        (lambda: parse(text, "a.yaml"), r"a\.yaml:(\d+): "),
    ):
        try:
            made = make()
        except ValueError as error:
            message = str(error)
        else:
            raise AssertionError(f"not refused: {made!r}")
        begin = re.match(where, message)
        assert begin, message
        assert all(re.search(rf"\b{name}\b", message) for name in names), message
    assert re.search(rf"\b{names[0]}\b", text.split("\n")[int(begin[1]) - 1]), message


def assert_partition(plan):
    """Every joint of the skeleton is in exactly one part of the plan, every part in exactly one level."""
    joints = [joint for part in plan.joints for joint in part]
    assert sorted(joints) == list(range(len(plan.skeleton.joints)))
    assert [part for level in plan.levels for part in level] == list(range(len(plan.parts)))


def assert_restores(plan):
    """Restoring undoes the order, both ways."""
    there = [plan.skeleton.joints[i] for i in plan.order]
    assert tuple(there[i] for i in plan.restore) == plan.skeleton.joints
    assert [plan.order[i] for i in plan.restore] == list(range(len(plan.order)))


def assert_given_come_earlier(plan):
    """A part is given only parts of earlier levels, one of them in the level just before."""
    level = {part: depth for depth, parts in enumerate(plan.levels) for part in parts}
    for part, depth in level.items():
        above = [level[given] for given in plan.given(part)]
        assert max(above, default=-1) == depth - 1


def assert_tree_of_parts(plan):
    """Connected parts of a tree form a tree: every part is given one, but the part of the root joint none."""
    root = plan.skeleton.parents.index(None)
    for part, joints in enumerate(plan.joints):
        assert len(plan.given(part)) == (0 if root in joints else 1)


def assert_rotations(matrix, tolerance):
    """Orthonormal, of determinant one."""
    eye = torch.eye(3, dtype=matrix.dtype)
    assert torch.allclose(matrix.mT @ matrix, eye.expand_as(matrix), atol=tolerance, rtol=0)
    assert torch.allclose(torch.linalg.det(matrix), torch.ones((), dtype=matrix.dtype), atol=tolerance, rtol=0)


def assert_round_trip(rotation, matrix, tolerance):
    """Whatever is written can be read back."""
    assert torch.allclose(rotation.to_matrix(rotation.from_matrix(matrix)), matrix, atol=tolerance, rtol=0)


def assert_same(left, right, tolerance):
    """Two estimates (or tuples of tensors) agree in every number."""
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b, atol=tolerance, rtol=0)


def assert_causal(model, features, frame, tolerance=0.0):
    """Frames after ``frame`` do not move the estimates up to it."""
    later = features.clone()
    later[:, frame + 1 :] += 1
    before, after = model(features), model(later)
    assert_same([x[:, : frame + 1] for x in before], [x[:, : frame + 1] for x in after], tolerance)
