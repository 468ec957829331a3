"""People in pictures, as the tests of keypoint files and of videos have them."""

import numpy as np

WALK, REST = np.array([4.0, 0.0, 0.0]), np.zeros(3)


def person(count, at, sure=0.9):
    """Points (K, 3) in a box of 30 x 80 pixels."""
    places = np.random.default_rng(count).uniform(0, 1, (count, 2)) * [30, 80] + at
    return np.column_stack([places, np.full(count, sure)]).astype(np.float32)


def clip(count, frames=8):
    """Two people (2, T, K, 3): one stands, one walks."""
    left, right = person(count, (10, 5)), person(count, (110, 10))
    return np.stack([[left + k * REST for k in range(frames)], [right + k * WALK for k in range(frames)]])


def assert_same_people(found, expected, atol=1e-3):
    """The same rows in some order."""
    assert found.shape == expected.shape
    order = [int(np.abs(found[:, 0] - row[0]).sum((1, 2)).argmin()) for row in expected]
    assert sorted(order) == list(range(len(expected)))
    np.testing.assert_allclose(found[order], expected, atol=atol)
