import bodies
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kinlmr.body.assembly import assemble
from kinlmr.body.points import compile_keypoints, keypoint_sets, set_rows
from kinlmr.keypoints import check_keypoints, convert, normalise
from kinlmr.rotations import axis_angle_to_matrix


def small(pose):
    body = assemble(bodies.arrays((-1, 0, 1, 1, 0), 11, 3, pose=pose), "small")
    return body.to(torch.float64)


def assert_points(body, rows, joints, seed):
    """Compiled points are what the rows say of the posed vertices and joints."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(4, *shape, generator=generator, dtype=torch.float64)  # noqa: E731
    mesh = body(axis_angle_to_matrix(draw(5, 3)), draw(3), draw(3), want=("joints", "vertices", "keypoints"))
    expected = 0
    for weights, places in ((rows, mesh.vertices), (joints, mesh.joints)):
        if weights is not None:
            expected = expected + weights @ places
    assert torch.allclose(mesh.keypoints, expected, atol=1e-11)


@st.composite
def weights(draw, width):
    """Rows (3, width): dense, a few numbers, one place, a difference; none zero."""
    rows = []
    for _ in range(3):
        kind = draw(st.sampled_from(["dense", "few", "one", "difference"]))
        row = torch.randn(width, generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))).double()
        kept = {"dense": width, "few": 3, "one": 1, "difference": 2}[kind]
        at = draw(st.permutations(range(width)))[:kept]
        held = torch.zeros(width, dtype=torch.float64)
        held[at] = torch.tensor([1.0, -1.0]).double() if kind == "difference" else row[at]
        rows.append(held)
    return torch.stack(rows)


@given(st.booleans(), st.one_of(st.none(), weights(11)), st.one_of(st.none(), weights(5)), st.integers(0, 99))
def test_points_equal_the_regressor(pose, rows, joints, seed):
    if rows is not None or joints is not None:
        assert_points(small(pose).with_keypoints("abc", rows, joints), rows, joints, seed)


def test_the_law_can_fail():
    body, rows = small(True), torch.randn(3, 11, generator=torch.Generator().manual_seed(0)).double()
    with pytest.raises(AssertionError):
        assert_points(body.with_keypoints("abc", rows), rows + 1e-6, None, 0)


def test_names_and_rows_are_one_for_one():
    rows, template, basis, held = torch.ones(2, 4), torch.ones(3, 4), torch.ones(5, 3, 4), torch.ones(1, 4)
    assert compile_keypoints("ab", rows, template, basis, held).owner.tolist() == [0, 1]
    with pytest.raises(ValueError, match="1 names of keypoints for 2 rows; give one for each, and at least one"):
        compile_keypoints("a", rows, template, basis, held)
    with pytest.raises(ValueError, match="point 'b' is given by no vertex and no joint; its row is zero"):
        compile_keypoints("ab", rows * torch.tensor([[1.0], [0.0]]), template, basis, held)


def test_sizes_of_the_keypoint_sets():
    sizes = {name: len(points) for name, points in keypoint_sets().items()}
    assert sizes == {"smpl24": 24, "coco17": 17, "mediapipe33": 33, "body25": 25, "h36m17": 17,
                     "halpe26": 26, "lsp14": 14}  # fmt: skip


@pytest.mark.parametrize("name", keypoint_sets())
def test_every_point_of_a_set_is_a_mean(name):
    joints = keypoint_sets()["smpl24"]
    rows = torch.cat(set_rows(name, "anny24_lo369", joints, 369), 1)
    assert torch.allclose(rows.sum(1), torch.ones(len(rows), dtype=torch.float64), atol=1e-5)
    if name not in ("smpl24", "lsp14"):
        with pytest.raises(ValueError, match=r"body 'mine' has no joint and no surface point '\w+', which"):
            set_rows(name, "mine", joints, 369)


# ---------------------------------------------------------------------------------------------------------- conversion


def seen(name, seed=0):
    """Keypoints (2, K, 3) of a set in pixels, all of them seen."""
    x = torch.rand(2, len(keypoint_sets()[name]), 3, generator=torch.Generator().manual_seed(seed))
    return x * torch.tensor([640, 480, 0.9]) + torch.tensor([0, 0, 0.1])


@pytest.mark.parametrize("target", keypoint_sets())
@pytest.mark.parametrize("source", keypoint_sets())
def test_points_keep_their_names(source, target):
    """A name of both sets is the same point; one that the source cannot give is zero, its confidence too."""
    x = seen(source)
    found = dict(zip(keypoint_sets()[target], convert(x, source, target).unbind(1), strict=True))
    given = dict(zip(keypoint_sets()[source], x.unbind(1), strict=True))
    assert len(found) == len(keypoint_sets()[target])
    means = {"neck": "shoulder", "mid_shoulder": "shoulder", "mid_hip": "hip"}
    for name, point in found.items():
        if name in given and name != "neck":
            assert torch.equal(point, given[name])
        elif name in means and f"left_{means[name]}" in given:
            continue
        else:
            assert name in given or not point.any()


def test_means_are_computed_and_as_sure_as_the_least_sure():
    x = seen("coco17")
    x[1, 5] = torch.tensor([torch.nan, torch.nan, 0.0])
    left, right = x[:, 5], x[:, 6]
    for target, name in (("body25", "neck"), ("halpe26", "neck"), ("lsp14", "mid_shoulder")):
        found = convert(x, "coco17", target)[:, keypoint_sets()[target].index(name)]
        assert torch.allclose(found[0, :2], (left + right)[0, :2] / 2)
        assert torch.equal(found[:, 2], torch.minimum(left[:, 2], right[:, 2]))
    x = seen("body25")
    assert torch.equal(convert(x, "body25", "lsp14")[:, 12], x[:, 1])
    assert torch.equal(convert(x.numpy(), "body25", "halpe26")[:, 18], x[:, 1])


def test_conversions_that_cannot_be():
    with pytest.raises(
        ValueError, match="unknown keypoint set 'coco'; there are smpl24, coco17, .*did you mean 'coco17'"
    ):
        convert(seen("coco17"), "coco", "body25")
    with pytest.raises(ValueError, match=r"body25 has 25 points: expected \(\.\.\., 25, 3\), not \(2, 17, 3\)"):
        convert(seen("coco17"), "body25", "coco17")


def test_a_fault_is_named_by_its_place():
    x = seen("coco17").repeat(3, 1, 1).view(2, 3, 17, 3)
    check_keypoints(x)
    x[1, 2, 4, :2] = torch.nan
    with pytest.raises(ValueError, match=r"point 4 of frame 2 of clip 1 is \[nan, nan, .*not finite"):
        check_keypoints(x)
    x[1, 2, 4, 2] = 0
    check_keypoints(x)
    x[1, 2, 4, 2] = torch.nan
    with pytest.raises(ValueError, match="point 4 of frame 2 of clip 1"):
        check_keypoints(x)


@given(st.integers(0, 99), st.sampled_from([(), (2,), (3, 4), (1, 2, 3)]))
def test_a_mean_of_points_is_as_sure_as_the_least_sure(seed, lead):
    """For any leading axes: body25's neck and middle of the hips, from COCO's shoulders and hips."""
    points = torch.rand(*lead, 17, 3, generator=torch.Generator().manual_seed(seed))
    made = convert(points, "coco17", "body25")
    for name, pair in (("neck", ("left_shoulder", "right_shoulder")), ("mid_hip", ("left_hip", "right_hip"))):
        one, two = (points[..., keypoint_sets()["coco17"].index(point), :] for point in pair)
        own = made[..., keypoint_sets()["body25"].index(name), :]
        assert torch.allclose(own[..., :2], (one[..., :2] + two[..., :2]) / 2)
        assert torch.equal(own[..., 2], torch.minimum(one[..., 2], two[..., 2]))


def test_what_is_no_array_of_keypoints_or_no_pixels_is_refused():
    pixels = torch.tensor([[[320.0, 240.0, 0.9], [100.0, 90.0, 0.9], [500.0, 90.0, 0.0]]])
    check_keypoints(pixels)
    check_keypoints(pixels[None])
    for wrong in (pixels[0], pixels[..., :2], torch.zeros(3, 4, 2), pixels[0, 0]):
        with pytest.raises(ValueError, match=r"have shape \(T, K, 3\) or \(B, T, K, 3\)"):
            check_keypoints(wrong)
    with pytest.raises(ValueError, match="coco17 has 17 points"):
        convert(torch.zeros(3), "coco17", "body25")
    shares = pixels / torch.tensor([640.0, 480.0, 1.0])
    shares[..., 2, :2] = 500  # not seen, so its place says nothing
    for refuses in (check_keypoints, lambda x: normalise(x[None])):
        with pytest.raises(ValueError, match=r"between 0.16 and 0.50, as if they were normalised"):
            refuses(shares)
    check_keypoints(shares[:, :1])  # one point may be anywhere
    two = torch.tensor([[[2.0, 0.1, 0.9], [0.3, 0.4, 0.9]]])
    check_keypoints(two)
    two[0, 0, 0] = 1.9
    with pytest.raises(ValueError, match="normalised"):
        check_keypoints(two)


def test_the_box_by_hand():
    """It starts around the sure points, grows by a fifth of what it lacks, shrinks by 2 %, follows by a tenth."""
    hidden, unsure = [9.0, 9.0, 0.0], [1000.0, -1000.0, 0.25]
    frames = [
        [[3, 3, 1], hidden, hidden, hidden],  # one point makes no box
        [[0, 0, 1.0], [100, 50, 1], hidden, unsure],
        [[-25, -12.5, 1], [125, 62.5, 1], hidden, unsure],  # half as large again
        [[0, 0, 1], [100, 50, 1], hidden, unsure],
        [[0, 0, 1], [100, 50, 1], [120, 50, 1], unsure],  # a point more, its middle 10 to the right
        [[7, 0, 1], [107, 50, 0.5], hidden, unsure],  # 7 to the right, as sure as its points
        [hidden, hidden, hidden, hidden],  # nobody: it stays
        [hidden, hidden, [700, 300, 1], hidden],  # one point: it stays
        [hidden, hidden, [700, 300, 1], [760, 300, 0.5]],  # somewhere else: it starts again
    ]
    features, box, _ = normalise(torch.tensor([frames]))
    right = 51 + 7 * 1.5 / (1.5 + 0.25**2)
    x = right + 0.1 * (57 - right)
    expected = [
        [0, 0, 0], [50, 25, 120], [50, 25, 132], [50, 25, 131.76], [51, 25, 134.208],
        *[[x, 25, 134.208 - 0.02 * 14.208]] * 3, [730, 300, 72],
    ]  # fmt: skip
    assert torch.allclose(box[0], torch.tensor(expected), atol=1e-3)
    first = [[-100 / 120, -50 / 120, 1], [100 / 120, 50 / 120, 1], [0, 0, 0], [4, -4, 0.25]]
    assert torch.allclose(features[0, 1], torch.tensor(first).flatten())
    assert not features[0, [0, 6]].any()
    assert features.shape == (1, 9, 12)


@pytest.mark.parametrize(
    ("to_the_left", "side", "again"), [(49, 100, False), (51, 100, True), (0, 199, False), (0, 201, True)]
)
def test_somebody_half_a_box_away_or_twice_as_large_is_somebody_else(to_the_left, side, again):
    first, second = torch.zeros(2, 4, 3)
    for points, middle, extent in ((first[:2], 500, 100), (second[2:], 500 - to_the_left, side)):
        points[:, 0] = middle + extent / 1.2 * torch.tensor([-0.5, 0.5])
        points[:, 2] = 1
    box = normalise(torch.stack([first, second])[None])[1][0, 1]
    assert torch.allclose(box, torch.tensor([500.0 - to_the_left, 0.0, side])) == again


def wanderers(seed):
    """Keypoints (2, 8, 5, 3) in pixels, all seen in the first frame and about two of three later."""
    x = torch.rand(2, 8, 5, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x[:, 0, :, 2].clamp_(min=0.3)
    x[..., 2] *= x[..., 2] >= 0.3
    return x * torch.tensor([100, 100, 1])


@given(st.integers(0, 99), st.floats(1e-3, 10), st.floats(3, 1000), st.floats(0.01, 1))
def test_the_box_moves_and_grows_with_the_points(seed, scale, shift, sureness):
    """Features are the same wherever a person is, however large, and however sure the detector is of all points."""
    x = wanderers(seed)
    moved = torch.cat([scale * x[..., :2] + shift, sureness * x[..., 2:]], -1)
    (features, box, _), (others, other, _) = normalise(x), normalise(moved)
    assert torch.allclose(other, scale * box + torch.tensor([shift, shift, 0], dtype=torch.float64))
    expected = features.unflatten(-1, (5, 3)) * torch.tensor([1, 1, sureness]).double()
    assert torch.allclose(others.unflatten(-1, (5, 3)), expected, atol=1e-6)


@given(st.integers(0, 99))
def test_what_is_not_seen_may_hold_anything_and_nothing_is_surer_than_one(seed):
    x = wanderers(seed)
    x[..., 2] = 3 * x[..., 2] - 0.5
    seen = x[..., 2:] > 0
    plain = torch.where(seen, x.clamp_max(torch.tensor([torch.inf, torch.inf, 1])), 0)
    odd = torch.cat([torch.where(seen, x[..., :2], torch.nan), x[..., 2:]], -1)
    assert all(map(torch.equal, normalise(odd)[:2], normalise(plain)[:2]))


@given(st.integers(0, 99), st.integers(1, 7))
def test_a_box_goes_on_where_the_last_chunk_ended(seed, cut):
    x = wanderers(seed)
    features, box, track = normalise(x)
    first, box_1, between = normalise(x[:, :cut])
    second, box_2, last = normalise(x[:, cut:], between)
    assert torch.equal(torch.cat([first, second], 1), features)
    assert torch.equal(torch.cat([box_1, box_2], 1), box)
    assert all(map(torch.equal, last, track))


def test_what_is_converted_is_a_copy():
    """To the same set, too: who changes the one does not change the other."""
    x = torch.rand(2, 17, 3)
    before = x.clone()
    for target in ("coco17", "h36m17"):
        convert(x, "coco17", target).zero_()
        assert torch.equal(x, before)
    assert torch.equal(convert(x, "coco17", "coco17"), x)
