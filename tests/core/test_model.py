import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import networkx as nx
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import assert_causal, assert_same
from models import SMALL, assert_equals_reference, clip, lively
from strategies import skeletons
from torch import nn

import kinlmr
from kinlmr import Estimate, State, load_skeleton
from kinlmr.skeleton import Part, Skeleton, installed

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


@settings(max_examples=15)
@given(
    skeleton=skeletons(most=8),
    cell=st.sampled_from(["gru", "lstm"]),
    layers=st.integers(1, 2),
    iterations=st.integers(1, 3),
    rotation=st.sampled_from(["6d", "axis_angle"]),
    frames=st.integers(1, 4),
    inputs=st.tuples(st.sampled_from(["previous", "initial"]), st.sampled_from(["previous", "mean"])),
    data=st.data(),
)
def test_equals_the_plain_reference(skeleton, cell, layers, iterations, rotation, frames, inputs, data):
    hidden = {part.name: data.draw(st.integers(1, 5)) for part in skeleton.parts} | {"camera": 3}
    start = Estimate(
        torch.randn(len(skeleton.joints), kinlmr.ROTATIONS[rotation].dimension), torch.randn(2), torch.randn(3)
    )
    model = kinlmr.build(
        skeleton, features=5, shape=2, hidden=hidden, cell=cell, layers=layers, iterations=iterations,
        rotation=rotation, camera_input=inputs[0], shape_input=inputs[1], start=start,
    )  # fmt: skip
    assert_equals_reference(lively(model), clip(frames=frames), TOLERANCE[torch.float64])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", installed())
def test_shipped_skeletons_equal_the_plain_reference(name, dtype):
    model = kinlmr.build(name, features=34, hidden=16)
    with torch.no_grad():
        for part in model.parts.values():
            part.head.weight.mul_(3)
    assert_equals_reference(model.to(dtype), clip(2, 5, 34, dtype), TOLERANCE[dtype])


def test_the_reference_law_can_fail():
    model = lively(kinlmr.build("smpl.yaml", **SMALL))
    assert_equals_reference(model, clip(), 1e-12)
    model.restore = model.order
    with pytest.raises(AssertionError):
        assert_equals_reference(model, clip(), 1e-12)
    model = lively(kinlmr.build("smpl.yaml", shape_input="mean", **SMALL))
    assert_equals_reference(model, clip(), 1e-12)
    model.options = replace(model.options, shape_input="previous")  # the shape starts anew, and the options say no
    with pytest.raises(AssertionError):
        assert_equals_reference(model, clip(), 1e-12)


# ------------------------------------------------------------------------------------------------------------ the graph


@settings(max_examples=15)
@given(skeletons(most=8), st.randoms())
def test_permuting_the_yaml_permutes_the_output_and_nothing_else(skeleton, random):
    pairs = list(zip(skeleton.joints, skeleton.parents, strict=True))
    random.shuffle(pairs)
    joints, parents = zip(*pairs, strict=True)
    moved = replace(skeleton, joints=joints, parents=parents)
    one, two = (lively(kinlmr.build(s, **SMALL)) for s in (skeleton, moved))
    x = clip()
    index = [skeleton.joints.index(joint) for joint in joints]
    left, right = one(x), two(x)
    assert_same((left.pose[:, :, index], *left[1:]), right, 0.0)


@settings(max_examples=15)
@given(skeletons(most=8), st.data())
def test_a_parts_weights_reach_its_descendants_only(skeleton, data):
    model = lively(kinlmr.build(skeleton, iterations=1, **SMALL))
    part = data.draw(st.sampled_from(model.plan.parts))
    graph = nx.DiGraph()  # networkx 3.2 warns about pandas when it is given a list
    graph.add_edges_from((g, p) for p, given in reference.given(skeleton).items() for g in given)
    graph.add_nodes_from(model.plan.parts)
    reached = {part} | nx.descendants(graph, part)
    x, before = clip(), model(clip())
    with torch.no_grad():
        for value in model.parts[part].parameters():
            value.add_(0.1)
    after = model(x)
    for p in skeleton.parts:
        joints = [skeleton.joints.index(j) for j in p.joints]
        assert torch.equal(before.pose[:, :, joints], after.pose[:, :, joints]) == (p.name not in reached)


def test_without_a_shape_more_iterations_reach_no_further():
    model = lively(kinlmr.build("smpl.yaml", iterations=3, features=5, hidden=4, shape=0))
    before = model(clip())
    with torch.no_grad():
        model.parts["head"].head.bias.add_(0.1)
    moved = (model(clip()).pose != before.pose).any(-1).flatten(0, 1).any(0)
    assert [name for name, m in zip(model.plan.skeleton.joints, moved, strict=True) if m] == ["neck", "head"]


def columns(model, node):
    """What each column of a node's input is: ("phi", i), (joint, i), ("shape", i) or ("camera", i)."""
    plan, found = model.plan, [("phi", i) for i in range(5)]
    for slot in plan.reads[node]:
        names = [p.joints for p in plan.skeleton.parts if plan.parts[slot : slot + 1] == (p.name,)]
        widths = (
            [(joint, 6) for joint in names[0]]
            if names
            else [("shape", 2)]
            if slot == len(plan.parts)
            else [("camera", 3)]
        )
        found += [(name, i) for name, width in widths for i in range(width)]
    return found


def test_permuting_parts_and_their_joints_permutes_columns_and_nothing_else():
    smpl = load_skeleton("smpl.yaml")
    moved = replace(smpl, parts=tuple(Part(p.name, p.joints[::-1]) for p in smpl.parts[::-1]))
    one, two = lively(kinlmr.build(smpl, **SMALL)), kinlmr.build(moved, **SMALL).double()
    tensors = one.state_dict()
    for node, name in enumerate([*(f"parts.{p}" for p in one.plan.parts), "shape", "camera"]):
        there = two.plan.parts.index(name[6:]) if node < 6 else node
        mine, theirs = columns(one, node), columns(two, there)
        weight = f"{name}.fc1.weight" if name == "shape" else f"{name}.rnn.weight_ih_l0"
        tensors[weight] = tensors[weight][:, [mine.index(column) for column in theirs]]
        if node < 6:
            own = slice(5, 5 + one.widths[node])
            rows = [mine[own].index(column) for column in theirs[own]]
            for leaf in (f"{name}.head.weight", f"{name}.head.bias"):
                tensors[leaf] = tensors[leaf][rows]
    two.load_state_dict(tensors)
    assert two.plan.parts == ("root", "right_leg", "left_leg", "right_arm", "left_arm", "head")
    assert_same(one(clip()), two(clip()), 1e-12)


def test_with_more_iterations_a_part_reaches_all_through_the_shape():
    model = lively(kinlmr.build("smpl.yaml", iterations=2, **SMALL))
    before = model(clip())
    with torch.no_grad():
        model.parts["head"].head.bias.add_(0.1)
    assert (model(clip()).pose != before.pose).flatten(0, 1).any(0).all()


# -------------------------------------------------------------------------------------------------------------- in time


@settings(max_examples=15)
@given(skeletons(most=8), st.integers(0, 4), st.sampled_from(["gru", "lstm"]))
def test_causal(skeleton, frame, cell):
    assert_causal(lively(kinlmr.build(skeleton, cell=cell, **SMALL)), clip(frames=5), frame, 1e-14)


def test_the_law_of_causality_can_fail():
    class Peeks(nn.Module):
        def forward(self, features):
            return Estimate(*[features.flip(1)] * 3)

    with pytest.raises(AssertionError):
        assert_causal(Peeks(), clip(), 1)


@settings(max_examples=15)
@given(
    skeletons(most=8),
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.sampled_from(["gru", "lstm"]),
    st.integers(1, 2),
    st.booleans(),
)
def test_padded_clips_equal_single_clips(skeleton, lengths, cell, layers, every):
    model = lively(kinlmr.build(skeleton, cell=cell, layers=layers, **SMALL))
    x = clip(len(lengths), 5)
    for i, length in enumerate(lengths):
        x[i, length:] = torch.nan
    x.requires_grad_()
    time = 1 + every
    padded, end = model(x, torch.tensor(lengths), state=model.initial_state(len(lengths)), every=every)
    for i, length in enumerate(lengths):
        single, after = model(x[i : i + 1, :length], state=model.initial_state(1), every=every)
        mine = [value.select(time - 1, i).narrow(time - 1, 0, length) for value in padded]
        assert_same(mine, [value.squeeze(time - 1) for value in single], 1e-12)
        assert_same([end.memory[i : i + 1]], after, 1e-12)
        assert all((value.select(time - 1, i).narrow(time - 1, length, 5 - length) == 0).all() for value in padded)
    (gradient,) = torch.autograd.grad(sum(value.sum() for value in padded), x)
    assert gradient.isfinite().all()


@settings(max_examples=15)
@given(skeletons(most=8), st.integers(0, 5), st.sampled_from(["gru", "lstm"]), st.integers(1, 2))
def test_chunks_and_steps_equal_the_clip(skeleton, cut, cell, layers):
    model = lively(kinlmr.build(skeleton, cell=cell, layers=layers, **SMALL))
    x = clip(frames=6)
    whole, end = model(x, state=model.initial_state(2))
    pieces, state = [], model.initial_state(2)
    for chunk in (x[:, :cut], x[:, cut:]):
        if chunk.shape[1]:
            piece, state = model(chunk, state=state)
            pieces.append(piece)
    assert_same([torch.cat(p, 1) for p in zip(*pieces, strict=True)], whole, 1e-12)
    assert_same(state, end, 1e-12)
    frames, state = [], None
    for t in range(6):
        frame, state = model.step(x[:, t], state)
        frames.append(frame)
    assert_same([torch.stack(f, 1) for f in zip(*frames, strict=True)], whole, 1e-12)
    assert_same(state, end, 1e-12)


def test_every_iteration_is_there_for_supervision():
    model = lively(kinlmr.build("smpl.yaml", iterations=3, **SMALL))
    every = model(clip(), every=True)
    assert every.pose.shape == (3, 2, 4, 24, 6)
    assert_same([x[-1] for x in every], model(clip()), 0.0)
    fewer = kinlmr.build("smpl.yaml", iterations=2, **SMALL).double()
    fewer.load_state_dict(model.state_dict())
    assert_same([x[1] for x in every], fewer(clip()), 1e-14)


# --------------------------------------------------------------------------------------------------- an ordinary module

NAMES = (
    ["start.pose", "start.shape", "start.camera"]
    + [
        f"{node}.{leaf}"
        for node in [f"parts.{p}" for p in ("root", "head", "left_arm", "right_arm", "left_leg", "right_leg")]
        + ["camera"]
        for leaf in (
            "rnn.weight_ih_l0",
            "rnn.weight_hh_l0",
            "rnn.bias_ih_l0",
            "rnn.bias_hh_l0",
            "head.weight",
            "head.bias",
        )
    ]
    + [f"shape.{layer}.{leaf}" for layer in ("fc1", "fc2", "head") for leaf in ("weight", "bias")]
)


def test_parameter_names_and_shapes_are_the_contract():
    model = kinlmr.build("smpl.yaml")
    tensors = model.state_dict()
    assert sorted(tensors) == sorted(NAMES)
    assert tensors["parts.root.rnn.weight_ih_l0"].shape == (3 * 512, 2048 + 24 + 10)
    assert tensors["parts.left_arm.rnn.weight_ih_l0"].shape == (3 * 512, 2048 + 30 + 10 + 24)
    assert tensors["camera.rnn.weight_ih_l0"].shape == (3 * 512, 2048 + 144 + 10 + 3)
    assert tensors["shape.fc1.weight"].shape == (1024, 2048 + 144 + 10)
    assert [name for name, _ in model.named_buffers() if name.startswith("start")] == NAMES[:3]
    learnt = kinlmr.build("smpl.yaml", learn_start=True, **SMALL)
    assert NAMES[0] in dict(learnt.named_parameters())


def test_an_untrained_model_answers_near_its_start():
    estimate = kinlmr.build("smpl.yaml", features=34, hidden=64)(clip(features=34, dtype=torch.float32))
    assert (estimate.pose - torch.tensor([1.0, 0, 0, 1, 0, 0])).abs().max() < 0.5
    assert (estimate.camera - torch.tensor([0.9, 0, 0])).abs().max() < 0.5


def test_functional_call_equals_the_module():
    one, two = (lively(kinlmr.build("smpl.yaml", **SMALL), seed=seed) for seed in (1, 2))
    assert_same(torch.func.functional_call(one, two.state_dict(), (clip(),)), two(clip()), 1e-12)


def test_func_grad_equals_backward():
    model = lively(kinlmr.build("smpl_single.yaml", **SMALL))
    parameters = dict(model.named_parameters())

    def loss(parameters):
        return torch.func.functional_call(model, parameters, (clip(),)).pose.square().sum()

    functional = torch.func.grad(loss)(parameters)
    loss(parameters).backward()
    used = {name: value.grad for name, value in parameters.items() if value.grad is not None}
    assert any(name.startswith("shape") for name in used)
    for name, gradient in used.items():
        assert torch.allclose(functional[name], gradient, atol=1e-12)


def test_gradients_check_numerically():
    skeleton = Skeleton("two", ("a", "b"), (None, "a"), (Part("p", ("a",)), Part("q", ("b",))))
    model = lively(kinlmr.build(skeleton, features=3, hidden=2, shape=1, iterations=2))
    assert torch.autograd.gradcheck(lambda x: model(x), clip(1, 2, 3).requires_grad_())


def test_pickles_copies_and_threads():
    model = lively(kinlmr.build("smpl.yaml", **SMALL))
    expected = model(clip())
    assert_same(pickle.loads(pickle.dumps(model))(clip()), expected, 0.0)
    assert_same(copy.deepcopy(model)(clip()), expected, 0.0)
    with ThreadPoolExecutor(4) as pool:
        for i, estimate in enumerate(pool.map(lambda seed: model(clip(seed=seed % 4)), range(12))):
            assert_same(estimate, model(clip(seed=i % 4)), 1e-12)


def test_autocast_keeps_the_estimate_in_float32():
    model = kinlmr.build("smpl.yaml", features=64, hidden=32)
    x = clip(2, 6, 64, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(x)
        frame, state = model.step(x[:, 0].bfloat16())
        with pytest.raises(ValueError, match=r"features are torch\.float16"):
            model(x.half())
    assert all(value.dtype == torch.float32 for value in (*half, *frame, *state))
    assert (model.matrices(half) - model.matrices(model(x))).abs().max() < 1e-2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_cuda_equals_cpu():
    model = lively(kinlmr.build("smpl.yaml", **SMALL))
    expected = model(clip(), torch.tensor([2, 4]))
    assert_same([x.cpu() for x in model.cuda()(clip().cuda(), torch.tensor([2, 4]))], expected, 1e-10)


def test_shape_and_camera_can_be_left_out():
    model = kinlmr.build("mano.yaml", features=5, hidden=4, shape=0, camera=0)
    assert not [name for name in model.state_dict() if name.startswith(("shape.", "camera."))]
    estimate = model(clip(dtype=torch.float32))
    assert [x.shape for x in estimate] == [(2, 4, 16, 6), (2, 4, 0), (2, 4, 0)]
    other = kinlmr.build("mano.yaml", features=5, hidden=4, shape=0, camera=0, cell="lstm")
    assert other.step(clip(dtype=torch.float32)[:, 0])[0].pose.shape == (2, 16, 6)


def test_no_clips_give_no_estimates():
    model = kinlmr.build("smpl.yaml", **SMALL)
    empty = clip(0, dtype=torch.float32)
    assert [x.shape for x in model(empty)] == [(0, 4, 24, 6), (0, 4, 2), (0, 4, 3)]
    assert model(empty, torch.zeros(0, dtype=torch.int64), every=True).pose.shape == (3, 0, 4, 24, 6)
    estimate, state = model.step(empty[:, 0])
    assert estimate.pose.shape == (0, 24, 6)
    assert state.memory.shape == model.initial_state(0).memory.shape
    model(empty).pose.sum().backward()
    assert all(value.grad is None or (value.grad == 0).all() for value in model.parameters())


def test_the_printed_model_shows_its_plan():
    model = kinlmr.build("smpl.yaml", **SMALL)
    assert str(model.plan) in repr(model)
    assert repr(model).startswith("LMR(gru, hidden 4, 3 iterations, 5 features, rotation 6d, ")


def test_dropout_is_the_shape_networks():
    model = lively(kinlmr.build("smpl.yaml", dropout=0.5, iterations=1, **SMALL))
    one, two = model(clip()), model(clip())
    assert torch.equal(one.pose, two.pose)
    assert not torch.equal(one.shape, two.shape)
    model.eval()
    assert torch.equal(model(clip()).shape, model(clip()).shape)
    model.shape.dropout.train()  # drawn anew in evaluation too, for the spread of its answers
    assert not torch.equal(model(clip()).shape, model(clip()).shape)
    model.train()
    model.shape.dropout.eval()
    assert torch.equal(model(clip()).shape, model(clip()).shape)


@pytest.mark.parametrize("block", [0, -1, 2.5, "8", True])
def test_a_block_has_a_number_of_frames(block):
    model = lively(kinlmr.build("smpl.yaml", **SMALL))
    model.block = block
    with pytest.raises(ValueError, match=f"block is {block!r}, expected a number of frames above zero"):
        model(clip())


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[..., :4], r"\(B, T, F\) with F = 5, not shape \(2, 4, 4\)"),
        (lambda x: x[0], r"not shape \(4, 5\)"),
        (lambda x: x[:, :0], "at least one frame"),
        (lambda x: x.double(), r"features are torch\.float64, the model is torch\.float32"),
        (lambda x: x.long(), r"features are torch\.int64"),
        (lambda x: x.to("meta"), "features are on meta, the model on cpu"),
    ],
)
def test_features_that_do_not_fit(change, message):
    model = kinlmr.build("smpl.yaml", **SMALL)
    with pytest.raises(ValueError, match=message):
        model(change(clip(dtype=torch.float32)))
    with pytest.raises(TypeError, match="torch.as_tensor"):
        model(clip().numpy())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_features_that_are_not_finite(value):
    x = clip(2, 6, dtype=torch.float32)
    x[1, 3:5, 2] = value
    model = kinlmr.build("smpl.yaml", **SMALL)
    with pytest.raises(ValueError, match="features of clip 1 are not finite from frame 3 on"):
        model(x)
    with pytest.raises(ValueError, match="features of clip 1 are not finite from frame 0 on"):
        model.step(x[:, 3])
    assert model(x, torch.tensor([6, 3])).pose.isfinite().all()
    lenient = kinlmr.build("smpl.yaml", allow_nan=True, **SMALL)
    assert lenient(x).pose[0].isfinite().all()
    large = torch.full((1, 1, 5), 3e38)
    assert model(large).pose.shape == (1, 1, 24, 6)


def assert_a_nan_stays_in_its_clip(run, features, clip, frame):
    """Features that are not finite in a frame of a clip: its earlier frames stay, and other clips with their gradients.

    The clip's own gradient is lost: zero times NaN is NaN on the way back through its memory, as in torch.nn.GRU.
    """
    others = [i for i in range(len(features)) if i != clip]
    expected = None
    for odd in (0.0, torch.nan, torch.inf):
        x = features.clone()
        x[clip, frame, 1] += odd
        x.requires_grad_()
        found = run(x)
        early = sum(value[clip, :frame].sum() for value in found)
        (gradient,) = torch.autograd.grad(early + sum(value[others].square().sum() for value in found), x)
        kept = [gradient[others]] + [part for value in found for part in (value[others], value[clip, :frame])]
        if expected is None:
            expected = kept
        else:
            assert found[0][clip, frame].isnan().any()
            assert_same(expected, kept, 1e-12)


def stepwise(model):
    """A model's estimates of a clip, frame by frame."""

    def run(features):
        frames, state = [], None
        for frame in features.unbind(1):
            estimate, state = model.step(frame, state)
            frames.append(estimate)
        return [torch.stack(values, 1) for values in zip(*frames, strict=True)]

    return run


@pytest.mark.parametrize(
    ("cell", "steps", "of", "frame"), [("gru", False, 0, 1), ("gru", True, 2, 3), ("lstm", False, 1, 3)]
)
def test_a_nan_stays_in_its_clip(cell, steps, of, frame):
    model = lively(kinlmr.build("smpl.yaml", allow_nan=True, cell=cell, **SMALL))
    assert_a_nan_stays_in_its_clip(stepwise(model) if steps else model, clip(3, 4), of, frame)


def test_the_law_of_nans_can_fail():
    leaky = lambda x: [x - x.mean(0)]  # noqa: E731
    peeks = lambda x: [x - x.flip(1)]  # noqa: E731
    for broken in (leaky, peeks):
        with pytest.raises(AssertionError):
            assert_a_nan_stays_in_its_clip(broken, clip(4, 5), 1, 3)


def test_lengths_and_states_that_do_not_fit():
    model = kinlmr.build("smpl.yaml", **SMALL)
    x = clip(dtype=torch.float32)
    for lengths in ([0, 1], [1, 5]):
        with pytest.raises(ValueError, match=r"lengths must lie in 1 \.\. 4"):
            model(x, torch.tensor(lengths))
    for lengths in ([1], [1.0, 2.0], [True, False]):
        with pytest.raises(ValueError, match=r"expected lengths, a tensor \(2\) of whole numbers"):
            model(x, torch.tensor(lengths))
    for kind in (torch.int8, torch.int16, torch.int32, torch.uint8, torch.uint16, torch.uint32, torch.uint64):
        assert_same(model(x, torch.tensor([1, 3], dtype=kind)), model(x, torch.tensor([1, 3])), 0.0)
    with pytest.raises(ValueError, match=r"memory \(B, V, M\) = \(2, 3, 28\), not \(3, 3, 28\)"):
        model(x, state=model.initial_state(3))
    with pytest.raises(ValueError, match=r"state\.select\(rows\) picks people, kinlmr\.concat.* adds new ones"):
        model.step(x[:, 0], model.initial_state(1))
    with pytest.raises(ValueError, match="start with state None"):
        model.step(x[:, 0], State(torch.zeros(2, 3, 27)))
    with pytest.raises(ValueError, match="not Tensor"):
        model.step(x[:, 0], torch.zeros(2, 3, 28))
    with pytest.raises(ValueError, match=r"the state is torch\.float32 on meta, the model torch\.float32 on cpu"):
        model.step(x[:, 0], State(torch.zeros(2, 3, 28, device="meta")))
    with pytest.raises(ValueError, match=r"the state is torch\.int64 on cpu"):
        model.step(x[:, 0], State(torch.zeros(2, 3, 28, dtype=torch.int64)))
    with pytest.raises(ValueError, match="not State"):
        model.step(x[:, 0], State(None))


def test_module_names_are_refused_with_a_mend():
    for name in ("keys", "train", "half", "training", "values"):
        skeleton = Skeleton("odd", ("a",), (None,), (Part(name, ("a",)),))
        with pytest.raises(ValueError, match=f"part '{name}' has the name of an attribute.*{name}_part"):
            kinlmr.build(skeleton, **SMALL)


def test_any_other_name_works():
    names = ("shape", "camera", "parts", "start", "rnn", "head", "self", "weight", "end", "None")
    skeleton = Skeleton("odd", names, (None, *names[:-1]), tuple(Part(n, (n,)) for n in names))
    assert_equals_reference(lively(kinlmr.build(skeleton, **SMALL)), clip(), 1e-12)


def test_skeleton_of_the_installed_file_by_name():
    assert kinlmr.build(skeleton="mano.yaml", **SMALL).plan.skeleton == load_skeleton("mano.yaml")
