"""The engine's laws: equal to the paper's loop in values and gradients, however it is cut, packed or interrupted."""

import copy
import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import assert_same
from models import SMALL, assert_gradients_equal_reference, clip, lively, reference_of, stacked, weighted
from strategies import models

import kinlmr
from kinlmr import State
from kinlmr.engine import autograd, schedule
from kinlmr.engine import deferred as products
from kinlmr.engine.cells import CELLS, Cell
from kinlmr.skeleton import installed

GRU = CELLS["gru"]
RNN = Cell("rnn", gates=1, vectors=1, step=lambda inputs, recurrent, memory: (inputs + recurrent).tanh()[None])


@settings(max_examples=25)
@given(
    model=models(cells=("gru", "lstm", RNN), shapes=(2, 0), cameras=(3, 0)),
    frames=st.integers(1, 5),
    block=st.integers(1, 6),
    together=st.booleans(),
    every=st.booleans(),
    data=st.data(),
)
def test_the_engine_computes_what_the_papers_loop_does(model, frames, block, together, every, data):
    """For any plan and options; of padded clips and with a state too."""
    model.block, call = block, {"every": every}
    lively(model)
    if data.draw(st.booleans()):
        call["state"] = State(clip(2, *model.state_size))
    if data.draw(st.booleans()):
        ends = st.integers("state" not in call, frames)
        call["lengths"] = torch.tensor(data.draw(st.lists(ends, min_size=2, max_size=2)))
    with stacked(together):
        assert_gradients_equal_reference(model, clip(frames=frames), 1e-10, **call)


@settings(max_examples=25)
@given(model=models(cells=("gru", "lstm", RNN), shapes=(2, 0), cameras=(3, 0)))
def test_the_schedule_holds_every_node_once_and_none_beside_what_it_reads(model):
    made, memory = model.schedule, clip(2, *model.state_size)
    assert [node.name for node in made.nodes] == list(model.nodes())
    for groups in (made.single, made.alike):
        assert sorted(node.name for group in groups for node in group.nodes) == sorted(model.nodes())
        done = set()
        for group in groups:
            assert len({(node.cell, node.hidden, node.layers) for node in group.nodes}) == 1
            for node, gap in zip(group.nodes, group.gaps, strict=True):
                assert node.inputs + gap == max(other.inputs for other in group.nodes)
                assert not set(node.reads) & {other.slot for other in group.nodes} - {node.slot}
                assert set(node.reads) & set(range(len(model.plan.parts))) - {node.slot} <= done
            done |= {node.slot for node in group.nodes}
        assert torch.equal(made.concat_memory(groups, made.split_memory(groups, memory)), memory)


def test_a_forward_pass_makes_no_node_and_no_group(monkeypatch):
    model = lively(kinlmr.build("smpl.yaml", **SMALL))
    for kind in (schedule.Group, schedule.Node, schedule.Schedule):
        monkeypatch.setattr(kind, "__init__", lambda *_, **__: 1 / 0)
    for together in (False, True):
        with stacked(together):
            model.step(clip()[:, 0], model.step(clip()[:, 0])[1])
            weighted(model(clip(), torch.tensor([2, 4]))).backward()
    with pytest.raises(ZeroDivisionError):
        kinlmr.build("smpl.yaml", **SMALL)


def test_a_torch_without_its_private_functions_makes_the_same_gradients(monkeypatch):
    model, x = lively(kinlmr.build("smpl.yaml", layers=2, **SMALL)), clip()
    for name in ("_call", "_reaches"):
        with monkeypatch.context() as patch:
            patch.setattr(autograd, name, None)
            assert not autograd.deferring()
            assert_gradients_equal_reference(model, x, 1e-10)
    assert autograd.deferring()


@pytest.mark.parametrize("name", installed())
def test_shipped_skeletons_in_float32(name):
    model = lively(kinlmr.build(name, features=34, hidden=8), torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.3)
    assert_gradients_equal_reference(model, clip(2, 3, 34, torch.float32), 1e-5)


def test_the_law_of_gradients_can_fail():
    def wrong(*args):
        inputs, recurrent, memory = GRU.scan_backward(*args)
        return inputs, 1.001 * recurrent, memory

    model = lively(kinlmr.build("smpl.yaml", **SMALL | {"cell": GRU._replace(scan_backward=wrong)}))
    with pytest.raises(AssertionError):
        assert_gradients_equal_reference(model, clip(), 1e-10)


@settings(max_examples=20)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), st.data())
def test_a_scan_equals_its_steps(frames, rows, hidden, data):
    """Values and gradients of a block, each row's memory taken where its clip ends."""
    ends = data.draw(st.none() | st.lists(st.integers(0, frames), min_size=rows, max_size=rows).map(torch.tensor))
    gates, memory = clip(frames, rows, 3 * hidden), clip(1, rows, hidden, seed=1)
    weight, bias = clip(1, 3 * hidden, hidden, seed=2)[0], clip(1, 1, 3 * hidden, seed=3)[0, 0]
    both = []
    for cell in (GRU, GRU._replace(scan=None)):
        inputs = [x.clone().requires_grad_() for x in (gates, memory, weight, bias)]
        out = products.scan(cell, inputs[0] + 0, inputs[1], products.shared(*inputs[2:]), ends)
        with torch.no_grad():  # another way for those who keep nothing
            alone = products.scan(cell, gates.clone(), memory, products.shared(weight, bias), ends)
        both.append((*out, *alone, *torch.autograd.grad(weighted(out), inputs, allow_unused=True)))
    assert_same(*([torch.zeros(1) if x is None else x for x in one] for one in both), 1e-10)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("block", [1, 2, 5])
def test_gradients_of_padded_clips_with_a_state(cell, every, block):
    """The scans' own equal to autograd's, which torch.func takes."""
    model = lively(kinlmr.build("smpl_chain.yaml", cell=cell, layers=2, dropout=0.0, **SMALL))
    model.block = block
    lengths, memory = torch.tensor([2, 5, 0]), clip(3, *model.state_size)
    parameters = {name: p.detach().clone() for name, p in model.named_parameters()}

    def loss(parameters, features, memory):
        call = torch.func.functional_call(model, parameters, (features, lengths, State(memory), every))
        return weighted((*call[0], *call[1]))

    inputs = parameters, clip(3, 5), memory
    expected = torch.func.grad(loss, argnums=(0, 1, 2))(*inputs)
    x, m = (value.clone().requires_grad_() for value in inputs[1:])
    estimate, state = model(x, lengths, State(m), every)
    weighted((*estimate, *state)).backward()
    for name, parameter in model.named_parameters():
        assert_same([parameter.grad], [expected[0][name]], 1e-11 * (1 + expected[0][name].abs().max()))
    assert_same((x.grad, m.grad), expected[1:], 1e-11)
    assert (x.grad[0, 2:] == 0).all()


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_gradients_flow_through_chunks(cell):
    model = lively(kinlmr.build("smpl.yaml", cell=cell, **SMALL))
    x = clip().requires_grad_()
    weighted(model(x)).backward()
    whole = [x.grad, *(p.grad.clone() for p in model.parameters())]
    for cut in range(1, x.shape[1]):
        model.zero_grad()
        y = clip().requires_grad_()
        one, state = model(y[:, :cut], state=model.initial_state(2))
        two, _ = model(y[:, cut:], state=state)
        weighted([torch.cat(pair, 1) for pair in zip(one, two, strict=True)]).backward()
        assert_same([y.grad, *(p.grad for p in model.parameters())], whole, 1e-10)


def test_backward_in_part_and_again():
    model = lively(kinlmr.build("smpl.yaml", **SMALL))
    estimate = model(clip())
    once = torch.autograd.grad(weighted(estimate), list(model.parameters()), retain_graph=True)
    again = torch.autograd.grad(weighted(estimate), list(model.parameters()), retain_graph=True)
    assert_same(again, once, 0.0)
    part = torch.autograd.grad(estimate.shape.sum(), model.shape.head.bias)
    tensors = {n: p.detach().requires_grad_() for n, p in model.named_parameters()}
    shape = reference_of(model, clip(), model.state_dict() | tensors)[1]
    assert_same(part, torch.autograd.grad(shape.sum(), tensors["shape.head.bias"]), 1e-12)


def test_second_derivatives_are_refused():
    x = clip().requires_grad_()
    model = lively(kinlmr.build("smpl.yaml", **SMALL))
    with pytest.raises(NotImplementedError, match="instead of create_graph=True take torch.func"):
        torch.autograd.grad(weighted(model(x)), x, create_graph=True)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own
def test_second_derivatives_of_torch_func():
    model = lively(kinlmr.build("smpl_single.yaml", features=3, hidden=2, shape=1, iterations=2))
    x, direction = clip(1, 2, 3), clip(1, 2, 3, seed=1)
    gradient = torch.func.grad(lambda x: weighted(model(x)))
    _, second = torch.func.jvp(gradient, (x,), (direction,))
    step = 1e-5 * direction
    assert_same([second], [(gradient(x + step) - gradient(x - step)) / 2e-5], 1e-6)


def test_vmap_over_clips():
    model = lively(kinlmr.build("smpl.yaml", **SMALL))
    with torch.no_grad():
        assert_same(
            torch.func.vmap(model)(clip(6).view(3, 2, 4, 5)),
            [x.view(3, 2, *x.shape[1:]) for x in model(clip(6))],
            1e-12,
        )


# ------------------------------------------------------------------------------------------ where the parameters are


def test_an_edit_between_forward_and_backward_is_noticed():
    """Where weights are stacked, backward goes by the copies, to the gradients before the edit."""
    model = lively(kinlmr.build("smpl.yaml", **SMALL))
    weight = model.parts["head"].rnn.weight_hh_l0
    (before,) = torch.autograd.grad(weighted(model(clip())), [weight])
    for together in (False, True):
        with stacked(together):
            loss = weighted(model(clip()))
        with torch.no_grad():
            weight.add_(1.0)
        if together:
            assert_same(torch.autograd.grad(loss, [weight]), [before], 1e-12)
        else:
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                loss.backward()
            with torch.no_grad():
                weight.sub_(1.0)


@pytest.mark.parametrize("together", [False, True])
def test_a_backward_that_wants_no_weights_keeps_nothing(together):
    """Of a retained graph, as torch.autograd.functional.jacobian asks; what is asked next is right."""
    model, x = lively(kinlmr.build("smpl.yaml", **SMALL)), clip().requires_grad_()
    parameters = list(model.parameters())
    with stacked(together):
        wanted = torch.autograd.grad(weighted(model(x)), [x, *parameters])
        loss = weighted(model(x))

    def tensors():
        gc.collect()
        return sum(issubclass(type(found), torch.Tensor) for found in gc.get_objects())

    torch.autograd.grad(loss, [x], retain_graph=True)
    before = tensors()
    for _ in range(3):
        torch.autograd.grad(loss, [x], retain_graph=True)
    assert tensors() == before
    assert_same(torch.autograd.grad(loss, [x, *parameters]), wanted, 0)


def test_a_part_can_be_frozen_hooked_and_paced():
    model = lively(kinlmr.build("smpl.yaml", **SMALL))
    weighted(model(clip())).backward()
    whole = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model.parts["head"].requires_grad_(False)
    seen = []
    model.parts["root"].rnn.weight_hh_l0.register_hook(seen.append)
    weighted(model(clip())).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith("parts.head.")
        if parameter.grad is not None:
            assert torch.equal(parameter.grad, whole[name])
    assert torch.equal(seen[0], whole["parts.root.rnn.weight_hh_l0"])
    arm, leg = model.parts["left_arm"], model.parts["left_leg"]
    groups = [{"params": arm.parameters(), "lr": 0.0}, {"params": leg.parameters(), "lr": 0.1}]
    before = copy.deepcopy(model.state_dict())
    torch.optim.SGD(groups).step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {f"parts.left_leg.{name}" for name, _ in leg.named_parameters()}


@pytest.mark.parametrize("together", [False, True])
def test_no_product_is_made_for_weights_that_are_frozen(together, monkeypatch):
    model = lively(kinlmr.build("smpl.yaml", features=5, hidden=16, shape=2, shape_hidden=64))
    heads = {name: p for name, p in model.named_parameters() if name.rpartition(".")[0].endswith("head")}
    weighted(model(clip())).backward()
    whole = {name: p.grad.clone() for name, p in heads.items()}
    model.zero_grad()
    model.requires_grad_(False)
    rows, make = [], products._side_by_side
    monkeypatch.setattr(products, "_side_by_side", lambda g, x: rows.append(g[0].shape[-1]) or make(g, x))
    for head in heads.values():
        head.requires_grad_(True)
    with stacked(together):
        weighted(model(clip())).backward()
    assert len(rows) == (4 if together else 8)
    assert max(rows) < 3 * 16  # a cell's weights have more
    for name, p in heads.items():
        torch.testing.assert_close(p.grad, whole[name], atol=1e-12, rtol=1e-12)


def test_a_part_that_was_replaced_or_is_shared_is_used_as_it_is_now():
    model, other = (lively(kinlmr.build("smpl.yaml", **SMALL), seed=seed) for seed in (0, 1))
    model.parts["left_arm"] = other.parts["left_arm"]
    model.camera.head = other.camera.head
    assert_same(model(clip()), reference_of(model, clip()), 1e-12)
    model.parts["left_leg"] = model.parts["right_leg"]  # one set of weights for both
    for _ in range(2):
        assert_same(model(clip()), reference_of(model, clip()), 1e-12)
        with torch.no_grad():
            model.parts["right_leg"].rnn.weight_hh_l0.add_(0.1)
        model = model.float().double()
    weighted(model(clip())).backward()
    assert model.parts["left_leg"].rnn.weight_hh_l0.grad is model.parts["right_leg"].rnn.weight_hh_l0.grad


def test_nodes_of_different_types():
    model = kinlmr.build("smpl.yaml", **SMALL)
    x = clip(dtype=torch.float32)
    expected = model(x)
    model.weights_as(torch.bfloat16).shape.float()
    x.requires_grad_()
    estimate = model(x)
    assert_same(estimate, expected, 1e-2)
    weighted(estimate).backward()
    assert x.grad.dtype == torch.float32
    assert model.shape.fc1.weight.grad.dtype == torch.float32


def test_a_parametrized_part_works():
    model = lively(kinlmr.build("smpl.yaml", **SMALL))
    expected = model(clip())
    torch.nn.utils.parametrizations.weight_norm(model.parts["head"].head)
    assert_same(model(clip()), expected, 1e-12)


# ---------------------------------------------------------------------------------------------------- half the bytes


# -------------------------------------------------------------------------------------------------------------- out


@pytest.mark.filterwarnings("ignore:The AccumulateGrad node's stream:UserWarning")  # torch's own capture makes it
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_cuda_graphs_capture_forward_and_training():
    model = lively(kinlmr.build("smpl.yaml", **SMALL), torch.float32).cuda()
    x = clip(dtype=torch.float32).cuda()
    with torch.no_grad():
        expected = [v.clone() for v in model(x)]
    graphed = torch.cuda.make_graphed_callables(model, (x,))
    assert_same(graphed(x), expected, 1e-5)
    weighted(graphed(x)).backward()
    assert all(p.grad is not None for p in model.parameters())
