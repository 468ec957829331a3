import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kinlmr import compile, load_skeleton, metrics
from kinlmr.body.points import keypoint_sets
from kinlmr.rotations import axis_angle_to_matrix


def pair(seed=0, frames=6, joints=14):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, frames, joints, 3, generator=generator, dtype=torch.float64).unbind()


def assert_aligns(procrustes, prediction, truth):
    """Aligned, a prediction that is a moved truth is the truth; and no small change of the move does better than it."""
    best = procrustes(prediction, truth)
    residual = (best - truth).square().sum((-2, -1))
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        nudge = axis_angle_to_matrix(0.01 * torch.randn(3, generator=generator, dtype=torch.float64))
        middle = best.mean(-2, keepdim=True)
        for scale in (0.99, 1.0, 1.01):
            other = scale * (best - middle) @ nudge.mT + middle
            assert (residual <= (other - truth).square().sum((-2, -1)) + 1e-12).all()


@given(st.integers(0, 99))
def test_procrustes_is_best(seed):
    assert_aligns(metrics.procrustes, *pair(seed))


def test_the_law_can_fail():
    with pytest.raises(AssertionError):
        assert_aligns(lambda prediction, truth: prediction, *pair())


@given(st.integers(0, 99))
def test_procrustes_equals_scipys(seed):
    transform = pytest.importorskip("scipy.spatial.transform")
    prediction, truth = (x[0] for x in pair(seed))
    aligned = metrics.procrustes(prediction, truth)
    x, y = ((p - p.mean(0)).numpy() for p in (prediction, truth))
    rotation, _ = transform.Rotation.align_vectors(y, x)
    turned = rotation.apply(x)
    scale = (turned * y).sum() / (x * x).sum()
    assert torch.allclose(aligned, torch.from_numpy(scale * turned) + truth.mean(0), atol=1e-9)


def test_known_moves_score_what_arithmetic_says():
    _, truth = pair()
    turn = axis_angle_to_matrix(torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64))
    moved = 1.3 * truth @ turn.mT + torch.tensor([1.0, 2.0, 3.0])
    assert metrics.mpjpe(truth, truth) == 0
    assert metrics.pa_mpjpe(moved, truth) < 1e-9
    assert metrics.pa_mpjpe(0.001 * moved, truth) < 1e-9
    assert metrics.mpjpe(truth + torch.tensor([0.0, 0.0, 5.0]), truth) < 1e-9
    assert torch.isclose(
        metrics.mpjpe(truth + torch.tensor([0.0, 0.03, 0.04]), truth, root=None), torch.tensor(50.0).double()
    )
    assert torch.isclose(metrics.pve(truth + torch.tensor([0.0, 0.03, 0.04]), truth), torch.tensor(50.0).double())
    far = (truth - truth[:, :1]).norm(dim=-1).mean()
    assert torch.isclose(metrics.mpjpe(1.1 * truth, truth), 100 * far)
    assert torch.isclose(metrics.joint_errors(1.1 * truth, truth).mean(), 100 * far)
    assert metrics.pa_mpjpe(truth * torch.tensor([-1.0, 1, 1]), truth) > 100  # a reflection is not absorbed


def test_coincident_points_are_only_moved():
    _, truth = pair()
    flat = torch.ones_like(truth)
    aligned = metrics.procrustes(flat, truth)
    assert torch.allclose(aligned, truth.mean(-2, keepdim=True).expand_as(truth))
    assert metrics.procrustes(truth, flat).isfinite().all()


def assert_a_nan_stays_in_its_frame(procrustes, prediction, truth, frame):
    """A frame that holds a NaN, or an infinity, on either side becomes NaN; all others are as without it."""
    expected = procrustes(prediction, truth)
    for side in (0, 1):
        for odd in (torch.nan, torch.inf):
            given = [prediction.clone(), truth.clone()]
            given[side][frame, 3, 1] = odd
            aligned = procrustes(*given)
            assert aligned[frame].isnan().all()
            others = [i for i in range(len(truth)) if i != frame]
            assert torch.allclose(aligned[others], expected[others], atol=1e-12, rtol=0)


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("size", [1e-12, 1.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_on_a_line_or_plane_are_aligned_without_a_reflection(rank, size, dtype):
    """Points of any rank and size, half a turn apart: alignment is rigid but for its scale, and finite."""
    generator = torch.Generator().manual_seed(rank)
    truth = size * torch.randn(4, 14, 3, generator=generator, dtype=dtype)
    truth[..., rank:] = 0
    half = axis_angle_to_matrix(torch.pi * torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 0]), 3).to(dtype))
    aligned = metrics.procrustes(truth @ half.mT, truth)
    assert torch.allclose(aligned, truth, atol=1e-5 * size)


@given(st.integers(0, 99), st.integers(0, 5))
def test_a_nan_stays_in_its_frame(seed, frame):
    assert_a_nan_stays_in_its_frame(metrics.procrustes, *pair(seed), frame)


def test_the_law_of_nans_can_fail():
    centred = lambda p, t: p - p.mean() + t.mean()  # noqa: E731
    with pytest.raises(AssertionError):
        assert_a_nan_stays_in_its_frame(centred, *pair(), 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_measured_in_float32(dtype):
    prediction, truth = (x.to(dtype) for x in pair())
    with torch.autocast("cpu", torch.bfloat16):
        aligned = metrics.procrustes(prediction, truth)
    assert aligned.dtype == torch.float32
    assert_aligns(lambda p, t: aligned.double(), prediction.double(), truth.double())
    for metric in (metrics.mpjpe, metrics.pa_mpjpe, metrics.accel):
        assert torch.isclose(metric(prediction, truth), metric(prediction.float(), truth.float()), rtol=1e-6)
        assert metric(prediction, truth.double()).dtype == torch.float64


def test_acceleration_is_of_second_differences():
    time = torch.arange(10.0, dtype=torch.float64)[:, None, None]
    still, falling = torch.zeros(10, 4, 3).double(), torch.zeros(10, 4, 3).double()
    falling[..., 1:2] = 0.005 * time**2
    steady = still + 0.3 * time
    assert torch.isclose(metrics.accel(falling, still), torch.tensor(10.0).double())
    assert metrics.accel(steady, still) < 1e-9
    assert metrics.accel(falling + steady, falling) < 1e-9
    assert torch.isclose(metrics.accel(falling, still, fps=30.0), torch.tensor(9.0).double())
    assert torch.isclose(metrics.acceleration(falling), torch.tensor(10.0).double())
    with pytest.raises(ValueError, match="needs 3 frames or more, not 2"):
        metrics.accel(falling[:2], still[:2])


def test_every_part_has_its_own_figure():
    plan = compile(load_skeleton("smpl.yaml"))
    errors = torch.zeros(5, 24)
    errors[:, [13, 16, 18, 20, 22]] = 7
    parts = metrics.by_part(errors, plan)
    assert list(parts) == list(plan.parts)
    assert {name: float(error.mean()) for name, error in parts.items() if error.any()} == {"left_arm": 7.0}
    for part, error in metrics.by_part(errors.expand(2, 5, 24), plan).items():
        assert torch.equal(error, parts[part].expand(2, 5))


def test_sequences_do_not_leak_and_order_does_not_matter():
    prediction, truth = pair(frames=40)
    whole = metrics.evaluate([prediction[:15], prediction[15:]], [truth[:15], truth[15:]])
    assert metrics.evaluate([prediction[15:], prediction[:15]], [truth[15:], truth[:15]]) == pytest.approx(whole)
    inner = (metrics.accel(prediction[:15], truth[:15]) * 13 + metrics.accel(prediction[15:], truth[15:]) * 23) / 36
    assert whole["accel"] == pytest.approx(float(inner))
    assert whole["mpjpe"] == pytest.approx(float(metrics.mpjpe(prediction, truth)))
    assert whole["accel"] != pytest.approx(float(metrics.accel(prediction, truth)))
    short = metrics.evaluate([prediction, prediction[:1]], [truth, truth[:1]])
    assert short["accel"] == pytest.approx(float(metrics.accel(prediction, truth)))
    assert short["acceleration"] == pytest.approx(float(metrics.acceleration(prediction)))
    for name, metric in (("mpjpe", metrics.mpjpe), ("pa_mpjpe", metrics.pa_mpjpe)):
        both = 40 * metric(prediction, truth) + metric(prediction[:1], truth[:1])
        assert short[name] == pytest.approx(float(both) / 41)
    split = metrics.evaluate([prediction[:3], prediction[3:]], [truth[:3], truth[3:]])["acceleration"]
    ours = (metrics.acceleration(prediction[:3]) + 35 * metrics.acceleration(prediction[3:])) / 36
    assert split == pytest.approx(float(ours))


@given(st.lists(st.tuples(st.sampled_from([(), (1,), (3,), (2, 2), (0,)]), st.integers(1, 20)), min_size=1, max_size=4))
def test_a_batch_scores_as_its_sequences_one_by_one(sizes):
    generator = torch.Generator().manual_seed(len(sizes))
    draw = lambda lead, frames: torch.randn(*lead, frames, 14, 3, generator=generator)  # noqa: E731
    together = [(draw(*size), draw(*size)) for size in sizes]
    alone = [
        (p, t)
        for pair in together
        for p, t in zip(*(x.flatten(0, -4) if x.ndim > 3 else x[None] for x in pair), strict=True)
    ]
    if not alone:
        return
    for protocol in ("sequence", "vibe"):
        if protocol == "sequence" or max(len(t) for _, t in alone) >= 16:
            found, expected = (metrics.evaluate(*zip(*x, strict=True), protocol=protocol) for x in (together, alone))
            assert found == pytest.approx(expected, rel=1e-5, nan_ok=True)


@given(st.permutations(range(14)))
def test_the_root_may_be_any_of_the_joints(order):
    prediction, truth = pair()
    expected = metrics.evaluate([prediction], [truth])
    mine = prediction[:, order], truth[:, order]
    for root in (order.index(0), order.index(0) - 14):
        assert metrics.evaluate([mine[0]], [mine[1]], root=root) == pytest.approx(expected)
        assert torch.allclose(metrics.joint_errors(*mine, root), metrics.joint_errors(prediction, truth)[:, order])


def test_a_tensor_is_a_list_of_sequences():
    prediction, truth = torch.randn(2, 3, 6, 14, 3).unbind()
    assert metrics.evaluate(prediction, truth) == pytest.approx(metrics.evaluate([*prediction], [*truth]))
    assert metrics.evaluate([prediction], [truth]) == pytest.approx(metrics.evaluate([*prediction], [*truth]))


def test_vibes_procedure():
    prediction, truth = pair(frames=40)
    found = metrics.evaluate([prediction, prediction[:20]], [truth, truth[:20]], protocol="vibe")
    x, y = (torch.cat([m[:32], m[:16]]) for m in (prediction, truth))
    x, y = (m - m[:, 2:4].mean(1, keepdim=True) for m in (x, y))
    assert found["mpjpe"] == pytest.approx(float(1000 * (x - y).norm(dim=-1).mean()))
    assert found["accel"] == pytest.approx(float(metrics.accel(x, y)))
    seventeen = [torch.randn(16, 17, 3) for _ in range(2)]
    picked = [m[:, list(metrics.H36M_TO_14)] for m in seventeen]
    assert metrics.evaluate(seventeen[:1], seventeen[1:], protocol="vibe") == metrics.evaluate(
        picked[:1], picked[1:], protocol="vibe"
    )
    h36m, fourteen = keypoint_sets()["h36m17"], keypoint_sets()["lsp14"]
    names = [h36m[joint] for joint in metrics.H36M_TO_14]
    assert set(names) == {"neck" if name == "mid_shoulder" else name for name in fourteen}
    assert {*names[2:4]} == {*fourteen[2:4]} == {"left_hip", "right_hip"}
    with pytest.raises(ValueError, match="takes 14 joints, or 17"):
        metrics.evaluate([torch.zeros(16, 24, 3)], [torch.zeros(16, 24, 3)], protocol="vibe")


def test_bad_input():
    prediction, truth = pair()
    with pytest.raises(ValueError, match=r"not \(6, 14, 3\) and \(6, 13, 3\)"):
        metrics.mpjpe(prediction, truth[:, :13])
    with pytest.raises(ValueError, match="unknown protocol 'h36m'; there are sequence, vibe"):
        metrics.evaluate([prediction], [truth], protocol="h36m")
    with pytest.raises(ValueError, match=r"a sequence has shape \(T, K, 3\) or .*, not \(14, 3\)"):
        metrics.evaluate(prediction, truth)
    with pytest.raises(ValueError, match="windows of 16 frames, and no sequence is that long"):
        metrics.evaluate([prediction], [truth], protocol="vibe")
    with pytest.raises(ValueError, match="1 predictions for 2 truths"):
        metrics.evaluate([prediction], [truth, truth])


def test_rates_turn_frames_into_seconds():
    prediction, truth = pair()
    per_frame, per_second = (metrics.evaluate([prediction], [truth], fps) for fps in (None, 20.0))
    for name in ("accel", "acceleration"):
        assert per_second[name] == pytest.approx(per_frame[name] * 400 / 1000)
    assert per_second["mpjpe"] == per_frame["mpjpe"]
