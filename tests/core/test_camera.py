import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from kinlmr import camera as c

number = st.floats(-3, 3)


def tensor(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def assert_inverse(there, back, x):
    """Going there and back is where one was."""
    assert torch.allclose(back(there(x)), x, atol=1e-9)


@given(st.tuples(*[number] * 9), st.floats(0.1, 3), st.floats(50, 900))
def test_boxes_and_translations_invert(n, scale, side):
    points, camera = tensor(*n[:6]).view(2, 3), tensor(scale, *n[6:8])
    box, size = tensor(300 + n[8], 200, side), tensor(640, 480)
    assert_inverse(lambda p: c.to_crop(p, box), lambda u: c.from_crop(u, box), 100 * points[:, :2])
    assert_inverse(
        lambda x: c.to_translation(x, box, size, 5000.0), lambda t: c.from_translation(t, box, size, 5000.0), camera
    )


def assert_same_image(change, points, camera, root):
    """A posed body under the changed camera looks like the body about its root under the camera."""
    centred = c.project(points - root, camera)
    assert torch.allclose(c.project(points, change(camera, root)), centred, atol=1e-9)


@given(st.tuples(*[number] * 11), st.floats(0.1, 3))
def test_the_two_cameras_show_one_image(n, scale):
    points, root, camera = tensor(*n[:6]).view(2, 3), tensor(*n[6:9]), tensor(scale, *n[9:])
    assert_same_image(c.from_root, points, camera, root)
    assert_inverse(lambda x: c.from_root(x, root), lambda x: c.from_root(x, -root), camera)
    assert c.from_root(camera.expand(3, 1, 3), root.expand(4, 3)).shape == (3, 4, 3)
    if root[:2].abs().max() > 0.1:
        with pytest.raises(AssertionError):
            assert_same_image(lambda camera, root: camera, points, camera, root)


@given(st.tuples(*[number] * 6), st.floats(0.1, 3), st.floats(0.1, 3))
def test_a_ray_is_one_pixel(n, depth, further):
    """What lies on one ray through the pinhole, or on one line along z under equation 1, has one image."""
    points, translation = tensor(n[0], n[1], 0).view(1, 3), tensor(n[2], n[3], depth)
    ray = (points + translation) * (1 + further) - translation
    assert torch.allclose(c.perspective(points, translation, 500.0), c.perspective(ray, translation, 500.0))
    camera = tensor(further, n[4], n[5])
    assert torch.equal(c.project(points, camera), c.project(points + tensor(0, 0, depth), camera))


def test_the_law_can_fail():
    with pytest.raises(AssertionError):
        assert_inverse(lambda x: 2 * x, lambda x: x, torch.ones(2))


@given(st.tuples(*[number] * 4), st.floats(0.1, 3), st.floats(50, 900), st.floats(300, 5000))
@example((-1.875, 0.0, -2.96875, 0.0), 1.0, 128.0, 300.1)  # at the image's left edge, with a focal of 53 bits
def test_crop_and_full_image_agree_at_the_bodys_depth(n, scale, side, focal):
    camera, box, size = tensor(scale, n[0], n[1]), tensor(310, 170, side), tensor(640, 480)
    points = tensor(n[2], n[3], 0).view(1, 3)
    translation = c.to_translation(camera, box, size, focal)
    full = c.perspective(points, translation, tensor(focal)[0]) + size / 2
    assert torch.allclose(full, c.from_crop(c.project(points, camera), box), atol=1e-6)


def test_equation_1_and_vibes_depth():
    assert torch.equal(c.project(tensor(1, 2, 9).view(1, 3), tensor(0.5, 0.1, -1))[0], tensor(0.6, 0))
    box, size = tensor(112, 112, 224), tensor(224, 224)
    assert torch.allclose(
        c.to_translation(tensor(0.8, 0.4, 0.2), box, size, 5000.0), tensor(0.5, 0.25, 10000 / (224 * 0.8))
    )


def assert_kept(fit, place, count, weight):
    """Points at one place, seen where they were expected, leave the camera known before as it is."""
    points, before = torch.tensor(place).float().expand(count, 3), torch.tensor([0.9, 0.1, 0.2])
    found = fit(points, c.project(points, before), torch.full((count,), weight), before)
    assert torch.allclose(found, before, atol=1e-4)


@given(st.tuples(number, number, number), st.integers(0, 20), st.sampled_from([0.0, 0.3, 1.0]))
@example((1.0, 1.0, 1.0), 17, 1.0)
def test_points_at_one_place_tell_no_scale(place, count, weight):
    assert_kept(c.fit, place, count, weight)


def test_the_law_of_one_place_can_fail():
    """A mean that is rounded is enough, where the image is not taken about its own."""

    def uncentred(points, image, weight, before):
        scale = (points[:, :2] - points[:, :2].mean(0) + 1e-7).mul(image).sum() / 1e-6
        return torch.cat([before[:1] + scale[None], before[1:]])

    with pytest.raises(AssertionError):
        assert_kept(uncentred, (1.0, 1.0, 1.0), 17, 1.0)


def test_y_points_down():
    box = tensor(100, 100, 200)
    assert torch.equal(c.to_crop(tensor(0, 0, 200, 200).view(2, 2), box), tensor(-1, -1, 1, 1).view(2, 2))


def test_shapes_broadcast_and_are_named():
    assert c.project(torch.zeros(2, 5, 7, 3), torch.ones(5, 3)).shape == (2, 5, 7, 2)
    assert c.perspective(torch.ones(7, 3), torch.ones(3), torch.ones(5)).shape == (5, 7, 2)
    assert c.to_translation(torch.ones(3), torch.ones(3), torch.ones(2), torch.ones(4)).shape == (4, 3)
    focal = torch.full((2, 5), 500.0)
    assert c.perspective(torch.ones(2, 5, 7, 3), torch.ones(5, 3), focal).shape == (2, 5, 7, 2)
    with pytest.raises(ValueError, match=r"camera has 3 numbers in the last axis, not shape \(5, 4\)"):
        c.project(torch.zeros(5, 7, 3), torch.ones(5, 4))
