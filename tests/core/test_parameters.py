"""Parameters are any module's: contiguous, each owning what it shows, named and ordered as torch's, never stale."""

import copy
import io
import pickle

import pytest
import torch
from laws import assert_same
from models import SMALL, clip, lively, reference_of, stacked, weighted
from torch import nn
from torch.nn.utils import parameters_to_vector, prune, vector_to_parameters

import kinlmr
from kinlmr.engine import nodes
from kinlmr.engine.cells import Cell

HEAD = "parts.head.head.weight"


def small(seed=0, dtype=torch.float64, **options):
    return lively(kinlmr.build("smpl.yaml", **SMALL | options), dtype, seed)


def assert_fresh(model, path=HEAD):
    """The model computes with its parameters as they are now, whoever changed them and however."""
    assert_same(model(clip()), reference_of(model, clip()), 1e-12)
    holder, _, name = path.rpartition(".")
    getattr(model.get_submodule(holder), name).data.add_(0.5)
    assert_same(model(clip()), reference_of(model, clip()), 1e-12)


def test_every_parameter_owns_what_it_shows():
    model = small()
    for name, parameter in model.named_parameters():
        assert parameter.is_contiguous(), name
        assert parameter.storage_offset() == 0, name
        assert parameter.untyped_storage().nbytes() == parameter.nbytes, name
    assert len({p.untyped_storage().data_ptr() for p in model.parameters()}) == len(list(model.parameters()))
    buffer = io.BytesIO()
    torch.save(model.parts["head"].state_dict(), buffer)
    assert len(buffer.getvalue()) < sum(p.nbytes for p in model.parts["head"].parameters()) + 5000


def test_names_stand_in_torchs_order():
    for cell, kind in (("gru", nn.GRU), ("lstm", nn.LSTM)):
        model = kinlmr.build("smpl.yaml", **SMALL, cell=cell, layers=2)
        expected = [name for name, _ in kind(3, 4, 2).named_parameters()]
        assert list(model.parts["head"].rnn.state_dict()) == expected


def test_an_edit_by_any_way_is_seen():
    model = small()
    for path in (HEAD, "camera.rnn.weight_ih_l0", "shape.fc1.weight", "parts.root.rnn.bias_hh_l0"):
        assert_fresh(model, path)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.deepcopy(model).float().double()):
        assert_fresh(other)
    assert_same(reference_of(model, clip()), model(clip()), 1e-12)  # none of the copies shares a parameter
    model.load_state_dict(copy.deepcopy(small(1).state_dict()), assign=True)
    assert_fresh(model)
    model.share_memory()
    assert all(p.is_shared() for p in model.parameters())
    assert_fresh(model.to(torch.float64))
    assert all(p.is_shared() for p in model.parameters())


def test_the_law_of_freshness_can_fail(monkeypatch):
    model = small()
    weights = copy.deepcopy(model)
    monkeypatch.setattr(type(model), "nodes", lambda _: nodes)
    nodes = {name: weights.get_submodule(name) for name in ("shape", "camera")}
    nodes = {f"parts.{name}": weights.parts[name] for name in model.parts} | nodes
    with pytest.raises(AssertionError):
        assert_fresh(model)


def test_a_vector_of_all_parameters_and_back():
    model, other = small(), small(1)
    vector_to_parameters(parameters_to_vector(model.parameters()), other.parameters())
    assert_same(other(clip()), model(clip()), 1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.Adam(p, 1e-2, foreach=True),
        lambda p: torch.optim.AdamW(p, 1e-2, fused=True),
        lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9, foreach=True),
        lambda p: torch.optim.LBFGS(p, 0.1, max_iter=4),
    ],
)
def test_optimizers_train_it(make):
    model, x = small(), clip()
    optimizer = make(list(model.parameters()))

    def closure():
        optimizer.zero_grad()
        loss = sum(value.square().mean() for value in model(x))
        loss.backward()
        return loss

    before = closure().item()
    for _ in range(3):
        optimizer.step(closure)
    assert closure().item() < before
    assert_fresh(model)


def test_safetensors_stores_and_loads_it(tmp_path):
    library = pytest.importorskip("safetensors.torch")
    model, other = small(), small(1)
    library.save_file(model.state_dict(), tmp_path / "a.safetensors")
    other.load_state_dict(library.load_file(tmp_path / "a.safetensors"))
    assert_same(other(clip()), model(clip()), 0.0)
    other = small(2)
    library.save_model(model, str(tmp_path / "b.safetensors"))
    library.load_model(other, str(tmp_path / "b.safetensors"))
    assert_same(other(clip()), model(clip()), 0.0)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_pruned_and_normalised_weights_train_for_more_than_a_step():
    model = small()
    prune.l1_unstructured(model.parts["head"].head, "weight", amount=0.5)
    torch.nn.utils.weight_norm(model.parts["root"].head)
    torch.nn.utils.parametrizations.weight_norm(model.camera.head)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for step in range(3):
        optimizer.zero_grad()
        weighted(model(clip(seed=step))).backward()
        for name in ("parts.head.head.weight_orig", "parts.root.head.weight_v"):
            assert model.get_parameter(name).grad.abs().max() > 0
        optimizer.step()
        head = model.parts["root"].head
        v, g = head.weight_v, head.weight_g
        tensors = model.state_dict() | {
            "parts.root.head.weight": g * v / v.norm(dim=1, keepdim=True),
            HEAD: model.parts["head"].head.weight_orig * model.parts["head"].head.weight_mask,
            "camera.head.weight": model.camera.head.weight,
        }
        assert_same(model(clip()), reference_of(model, clip(), tensors), 1e-12)


def test_what_would_be_ignored_is_refused():
    model = small()
    model.parts["head"].head = nn.Sequential(nn.Linear(4, 12), nn.ReLU()).double()
    with pytest.raises(ValueError, match=r"parts\.head\.head is a Sequential; .* would be ignored"):
        model(clip())
    model = small()
    model.parts["left_leg"] = nn.GRU(4, 4)
    with pytest.raises(ValueError, match=r"parts\.left_leg is a GRU without rnn"):
        model(clip())
    model = small()
    handle = model.camera.head.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"camera\.head has a hook .* put the hook .* on the whole LMR"):
        model(clip())
    handle.remove()
    handle = model.camera.head.register_full_backward_pre_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"camera\.head has a hook"):
        model(clip())
    handle.remove()
    model.shape.dropout = nn.Identity()
    with pytest.raises(ValueError, match=r"shape\.dropout is a Identity; .* numbers of a torch\.nn\.Dropout"):
        model(clip())
    model = small()
    seen = []
    model.register_forward_hook(lambda *_: seen.append(1))
    assert_fresh(model)
    assert seen


class Doubled(nodes.RecurrentNode):
    def forward(self, x):
        return 2 * x


def put(module, path):
    """In the place of a model's module."""
    parent, _, name = path.rpartition(".")
    return lambda model: setattr(model.get_submodule(parent), name, module)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(nn.Linear(4, 6), "parts.head.head"), r"head\.head\.weight has shape \(6, 4\), expected \(12, 4\)"),
        (put(nn.Linear(4, 12, bias=False), "parts.head.head"), r"parts\.head\.head\.bias is not there"),
        (put(small(features=6).parts["head"], "parts.head"), r"weight_ih_l0 has shape \(12, 44\)"),
        (put(small(hidden=6).parts["head"], "parts.head"), r"weight_ih_l0 has shape \(18, 43\)"),
        (put(small(layers=2).parts["head"], "parts.head"), r"parts\.head\.rnn has weight_hh_l1, more layers"),
        (put(nn.GRU(43, 4, 2), "parts.head.rnn"), r"parts\.head\.rnn has weight_hh_l1, more layers"),
        (put(nn.GRU(43, 4, bidirectional=True), "parts.head.rnn"), r"rnn has weight_hh_l0_reverse, .* directions"),
        (put(prune.identity(nn.GRU(43, 4, 2), "weight_hh_l1"), "parts.head.rnn"), "rnn has weight_hh_l1_orig"),
        (lambda m: setattr(m.parts["head"], "rnn", None), r"parts\.head is a RecurrentNode without rnn"),
        (lambda m: setattr(m.camera, "__class__", Doubled), "camera is a Doubled with a forward, which would not run"),
        (put(nn.Sequential(), "parts.head.rnn"), r"parts\.head\.rnn\.weight_ih_l0 is not there"),
        (put(nn.Linear(4, 5), "shape.fc2"), r"shape\.fc2\.weight has shape \(5, 4\)"),
        (put(nn.Dropout1d(0.5), "shape.dropout"), r"shape\.dropout is a Dropout1d"),
        (lambda m: setattr(m, "camera", None), "camera is gone"),
        (lambda m: setattr(m.camera.head, "forward", lambda x: 0 * x), r"camera\.head has a forward of its own"),
        (lambda m: setattr(m.camera, "forward", lambda x: 0 * x), "camera has a forward of its own"),
    ],
)  # fmt: skip
def test_a_node_that_does_not_fit_is_refused(change, message):
    """By name, whether weights are stacked, which would fill up what is missing, or not; a fitting one is taken."""
    for together in (False, True):
        model = small(hidden=4, shape_hidden=4)
        change(model)
        with stacked(together), pytest.raises(ValueError, match=message):
            model(clip())
        with pytest.raises(ValueError, match=message):
            model.step(clip()[:, 0])
    model, other = small(), small(seed=1)
    model.parts["head"] = other.parts["head"]
    assert_fresh(model)


def test_a_model_made_without_memory_is_filled(tmp_path):
    """On the meta device, then by load_state_dict(assign=True), by to_empty, or in a wrapper: the same model."""
    model, x = small(), clip()
    kinlmr.save(model, tmp_path / "lmr.npz")
    with torch.device("meta"):
        assert_same(kinlmr.load(tmp_path / "lmr.npz")(x), model(x), 0)
    torch.save(model, tmp_path / "lmr.pt")
    unpickled = torch.load(tmp_path / "lmr.pt", map_location="meta", weights_only=False)
    unpickled.load_state_dict(model.state_dict(), assign=True)
    assert_same(unpickled(x), model(x), 0)
    for fill in (
        lambda m: m.load_state_dict(model.state_dict(), assign=True),
        lambda m: m.to_empty(device="cpu").load_state_dict(model.state_dict()),
        lambda m: nn.ModuleDict({"lmr": m}).to_empty(device="cpu").lmr.load_state_dict(model.state_dict()),
        lambda m: nn.ModuleDict({"lmr": m}).load_state_dict(nn.ModuleDict({"lmr": model}).state_dict(), assign=True),
    ):
        with torch.device("meta"):
            empty = kinlmr.build("smpl.yaml", **SMALL).double()
        fill(empty)
        assert_same(empty(x), model(x), 0)
    order = model.order
    with torch.inference_mode():
        assert model.to("cpu").order is order  # what changes nothing makes nothing anew
    assert model.share_memory().order.is_shared()
    emptied = small(seed=1).to_empty(device="cpu")
    emptied.load_state_dict(model.state_dict())
    assert_same(emptied(x), model(x), 0)


@pytest.mark.filterwarnings("ignore")  # torch deprecates quantization here
def test_dynamic_quantization_is_refused_by_name():
    quantized = torch.ao.quantization.quantize_dynamic(small(dtype=torch.float32), {nn.Linear})
    with pytest.raises(ValueError, match=r"parts\.root\.head is a Linear; .* would be ignored"):
        quantized(clip(dtype=torch.float32))


def test_a_new_kind_of_cell_is_one_record():
    cell = Cell("rnn", gates=1, vectors=1, step=lambda inputs, recurrent, memory: (inputs + recurrent).tanh()[None])
    model = lively(kinlmr.build("smpl_single.yaml", features=5, hidden=4, shape=0, camera=0, iterations=1, cell=cell))
    x = clip().requires_grad_()
    rnn = nn.RNN(5 + 144, 4, batch_first=True).double()
    rnn.load_state_dict(model.parts["body"].rnn.state_dict())
    start = model.start.pose[model.order].flatten().expand(*x.shape[:2], -1)
    expected = (start + model.parts["body"].head(rnn(torch.cat([x, start], -1))[0])).unflatten(-1, (24, 6))
    expected = expected[:, :, model.restore]
    assert_same([model(x).pose], [expected], 1e-12)
    gradients = [torch.autograd.grad(weighted([y]), x)[0] for y in (model(x).pose, expected)]
    assert_same(*([g] for g in gradients), 1e-12)
