import bodies
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kinlmr.assets import assemble
from kinlmr.keypoints import compile_points, keypoint_sets, set_rows
from kinlmr.rotations import axis_angle_to_matrix


def small(pose):
    body = assemble(bodies.arrays((-1, 0, 1, 1, 0), 11, 3, pose=pose), "small")
    return body.to(torch.float64)


def assert_points(body, rows, joints, seed):
    """Compiled points are what the rows say of the posed vertices and joints."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(4, *shape, generator=generator, dtype=torch.float64)  # noqa: E731
    mesh = body(axis_angle_to_matrix(draw(5, 3)), draw(3), draw(3), want=("joints", "vertices", "points"))
    expected = 0
    for weights, places in ((rows, mesh.vertices), (joints, mesh.joints)):
        if weights is not None:
            expected = expected + weights @ places
    assert torch.allclose(mesh.points, expected, atol=1e-11)


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
        assert_points(small(pose).with_points("abc", rows, joints), rows, joints, seed)


def test_the_law_can_fail():
    body, rows = small(True), torch.randn(3, 11, generator=torch.Generator().manual_seed(0)).double()
    with pytest.raises(AssertionError):
        assert_points(body.with_points("abc", rows), rows + 1e-6, None, 0)


def test_names_and_rows_are_one_for_one():
    rows, template, basis, held = torch.ones(2, 4), torch.ones(3, 4), torch.ones(5, 3, 4), torch.ones(1, 4)
    assert compile_points("ab", rows, template, basis, held).owner.tolist() == [0, 1]
    with pytest.raises(ValueError, match="1 names of points for 2 rows; give one for each, and at least one"):
        compile_points("a", rows, template, basis, held)
    with pytest.raises(ValueError, match="point 'b' is given by no vertex and no joint; its row is zero"):
        compile_points("ab", rows * torch.tensor([[1.0], [0.0]]), template, basis, held)


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
