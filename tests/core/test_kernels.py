"""The Triton kernels against the plain path, on a GPU or interpreted on a CPU; and whether they compile for GPUs."""

import os
import subprocess
import sys
import types

import pytest
import torch

import kinlmr
from kinlmr.body import kinematics as room
from kinlmr.body import skinning
from kinlmr.engine import cells
from kinlmr.engine import deferred as products
from kinlmr.kernels import halves as kernels
from kinlmr.kernels import skin as skin_kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
with pytest.MonkeyPatch.context() as patch:
    if DEVICE == "cpu":
        patch.setenv("TRITON_INTERPRET", "1")  # Triton's own functions, such as max, are interpreted from the import on
    pytest.importorskip("triton")


@pytest.fixture(autouse=True)
def device(monkeypatch):
    if DEVICE == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    with torch.device(DEVICE):
        yield


def assert_fused_equals_plain(monkeypatch, function, tolerance=2e-6):
    """function() -> tensors, the same with the kernels as without: to a share of the largest number."""
    found = []
    for enabled in "01":
        monkeypatch.setattr(kernels, "ENABLED", enabled)
        found.append(function())
    for plain, fused in zip(*found, strict=True):
        assert (plain - fused).abs().max() <= tolerance * plain.abs().max()


def test_the_helper_sees_a_difference(monkeypatch):
    with pytest.raises(AssertionError):
        assert_fused_equals_plain(monkeypatch, lambda: [torch.ones(2) + 1e-4 * int(kernels.ENABLED)])


def test_only_what_the_kernels_are_for_is_served(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    x = torch.zeros(2, device="cpu")
    assert not kernels.serves(x)  # off, unless asked for
    monkeypatch.setattr(kernels, "ENABLED", "1")
    assert kernels.serves(x)
    assert kernels.serves(x, torch.nn.Parameter(x))
    other = x.as_subclass(type("Other", (torch.Tensor,), {}))
    for odd in (x.double(), x.bfloat16(), x.long(), x.to("meta"), torch._neg_view(x), other):
        assert not kernels.serves(odd)
        assert not kernels.serves(x, odd)
    monkeypatch.delenv("TRITON_INTERPRET")
    assert not kernels.serves(x)


def test_without_triton_the_mend_is_said(monkeypatch):
    monkeypatch.setattr(kernels, "ENABLED", "1")
    monkeypatch.setitem(sys.modules, "triton.language", None)
    with pytest.raises(ImportError, match="KINLMR_TRITON=1, but .*; pip install triton, or unset it"):
        kernels.compiled.__wrapped__(kernels._halves)


@pytest.mark.parametrize(("capability", "version"), [((7, 5), "3.6.0"), ((9, 0), "3.2.0"), ((9, 0), None)])
def test_what_the_kernels_cannot_run_on_takes_the_plain_path(monkeypatch, capability, version):
    """An older GPU, an older Triton, and none."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setitem(sys.modules, "triton", version and types.SimpleNamespace(__version__=version))
    assert not kernels._supported.__wrapped__(0)


def test_where_triton_does_not_run_it_is_said_and_the_plain_path_taken(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(kernels, "halves", lambda *_: 1 / 0)
    monkeypatch.setattr(torch, "ones", lambda *_, device: None)
    with pytest.warns(UserWarning, match="do not run here, so the plain path is taken: division by zero"):
        assert not kernels._supported.__wrapped__(0)
    monkeypatch.setattr(kernels, "halves", lambda *_: None)
    assert kernels._supported.__wrapped__(0)


def test_what_is_traced_asks_for_no_kernel(monkeypatch):
    """torch.compile and torch.func see plain functions only."""
    monkeypatch.setattr(kernels, "serves", lambda *_: 1 / 0)
    tree = room.fronts([-1, 0])
    rotations, rest = torch.randn(3, 1, 2, 3, 3), torch.randn(3, 1, 2, 3)
    torch.func.vmap(lambda r, q: room.pose_bones(r, q, tree))(rotations, rest)
    model = kinlmr.build("smpl.yaml", features=5, hidden=8, shape_hidden=8)
    torch.func.vmap(lambda x: model(x).pose)(torch.randn(2, 1, 3, 5))
    with pytest.raises(ZeroDivisionError):
        model(torch.randn(1, 3, 5))


def assert_digits_kept(found, expected):
    """Halves of rows (R, ...) are their numbers to 2^-22 of each row's largest."""
    error = found.values.double().sum(0) * found.scale.double()[:, None, None] - expected
    assert (error.abs().amax((1, 2)) <= 2.0**-22 * expected.abs().amax((1, 2))).all()


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1.0, 1e6, 1e30])
def test_halves_keep_float32s_digits(size):
    """Whatever the size of the numbers; what fills up rows and columns is zero."""
    torch.manual_seed(0)
    x, columns = size * torch.randn(5, 2 * 33), 2.0 ** torch.randint(-9, 9, (66,))
    expected = torch.zeros(8, 2, 48, dtype=torch.float64)
    expected[:5, :, :33] = (x.double() * columns).unflatten(1, (2, 33))
    found = kernels.halves(x, 2, 16, rows=4, columns=columns)
    assert_digits_kept(found, expected)
    with pytest.raises(AssertionError):
        assert_digits_kept(found._replace(values=found.values[:1]), expected)


@pytest.mark.parametrize("nodes", [(), (3,)])
@pytest.mark.parametrize(("frames", "rows", "size"), [(2, 1, 1), (5, 4, 20), (2, 70, 33), (2, 7, 70)])
def test_gru_scan_and_its_gradients(monkeypatch, nodes, frames, rows, size):
    torch.manual_seed(0)
    gates, memory = torch.randn(*nodes, frames, rows, 3 * size), torch.randn(1, *nodes, rows, size)
    parameters = torch.randn(*nodes, 3 * size, size) / size**0.5, torch.randn(*nodes, 3 * size)
    ends = torch.randint(frames + 1, (rows,))
    gradients = torch.randn(*nodes, frames, rows, size), torch.randn_like(memory)

    def scanned():
        inputs = [x.clone().requires_grad_() for x in (gates, memory, *parameters)]
        with torch.no_grad():
            alone = products.scan(cells.CELLS["gru"], gates.clone(), memory, products.shared(*parameters), ends)
        found = products.scan(cells.CELLS["gru"], inputs[0].clone(), inputs[1], products.shared(*inputs[2:]), ends)
        return *alone, *(x.detach() for x in found), *torch.autograd.grad(found, inputs, gradients)

    assert_fused_equals_plain(monkeypatch, scanned, 4e-6)


@pytest.mark.parametrize(("bodies", "joints", "vertices"), [(1, 1, 1), (18, 24, 300), (3, 55, 1100)])
def test_skin_and_its_gradients(monkeypatch, bodies, joints, vertices):
    torch.manual_seed(0)
    factors, planes = torch.randn(bodies, 10), torch.randn(bodies, 3, 4, joints)
    template, basis = torch.randn(3 * vertices), torch.randn(12, 3 * vertices)
    weights, gradient = torch.rand(joints, vertices), torch.randn(bodies, 3, vertices)
    weights /= weights.sum(0)

    def skinned():
        inputs = [x.clone().requires_grad_() for x in (factors, planes)]
        posed = skinning.skin(*inputs, template, basis, weights)
        return posed.detach(), *torch.autograd.grad(posed, inputs, gradient)

    assert_fused_equals_plain(monkeypatch, skinned)


def test_a_model_and_its_gradients(monkeypatch):
    torch.manual_seed(0)
    model = kinlmr.build("smpl.yaml", features=5, hidden=8, shape_hidden=8)
    x = torch.randn(2, 5, 5)

    def trained():
        estimate = model(x)
        return estimate.pose.detach(), *torch.autograd.grad(estimate.pose.square().sum(), [*model.parameters()][:8])

    assert_fused_equals_plain(monkeypatch, trained, 1e-5)


def scattered(x):
    """The same numbers, two apart in memory, and NaN between them."""
    room = torch.full((*x.shape, 2), torch.nan)
    room[..., 0] = x.detach()
    return room[..., 0]


def repeated(x):
    """The first row for every row, in the memory of one."""
    return x.detach()[:1].expand_as(x)


TREE = [-1, 0, 0]
ODD = {
    "bones": (lambda *x: room.pose_bones(*x, room.fronts(TREE)), [(2, 3, 3, 3), (2, 3, 3)]),
    "skin": (lambda *x: [skinning.skin(*x)], [(2, 4), (2, 3, 4, 3), (15,), (4, 15), (3, 5)]),
    "gru": (lambda g, m, *w: products.scan(cells.CELLS["gru"], g.clone(), m, products.shared(*w), None),
            [(2, 3, 6), (1, 3, 2), (6, 2), (6,)]),
}  # fmt: skip


EACH = [(way, i) for way, (_, shapes) in ODD.items() for i in range(len(shapes))]


@pytest.mark.parametrize(
    ("way", "which", "lie"),
    [*((*each, lie) for each in EACH for lie in (scattered, torch.Tensor.double)), ("skin", 1, repeated)],
)
def test_each_argument_may_lie_in_any_way(monkeypatch, way, which, lie):
    """And of another type it goes the plain way, or is refused as there. Gradients too, of those that have one."""
    torch.manual_seed(0)
    function, shapes = ODD[way]
    tensors = [torch.randn(shape) for shape in shapes]
    tensors[which] = lie(tensors[which])

    def found():
        try:
            given = [x.detach().requires_grad_(i < 2) for i, x in enumerate(tensors)]
            results = function(*given)
            return [x.detach() for x in (*results, *torch.autograd.grad([x.sum() for x in results], given[:2]))]
        except RuntimeError:
            return [torch.zeros(1)]

    assert_fused_equals_plain(monkeypatch, found)


def test_no_kernel_gets_a_tensor_that_is_not_contiguous(monkeypatch):
    monkeypatch.setattr(kernels, "compiled", lambda _: 1 / 0)
    for tensors in (
        (torch.ones(2, 3).T,),
        (torch.ones(2), torch.ones(1).expand(2)),
        (torch.ones(2), 1, torch.ones(2, device="meta")),
    ):
        with pytest.raises(ValueError, match=r"_halves got a tensor \(.*\) of strides \(.*\) on "):
            kernels.launch(kernels._halves, (1,), *tensors)
    with pytest.raises(ZeroDivisionError):
        kernels.launch(kernels._halves, (1,), torch.ones(2), 1)


COMPILED = """
import sys
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from kinlmr.kernels import chain as chain_kernels
from kinlmr.kernels import gru as gru_kernels
from kinlmr.kernels import halves as kernels
from kinlmr.kernels import skin as skin_kernels

HALF, WHOLE = {*"factors basis weight values bones shares".split()}, {"met", "largest"}
FLOAT = {*"factors_scale bones_scale template rest out planes positions rotations d_planes d_positions d_rotations "
    "d_rest x columns scale grad weights gates states bias recurrent_n gradient inputs recurrent".split()}
LONG = {"parents", "order"}
skin = dict(JOINTS=32, BONES=24, BODIES=skin_kernels.BODIES, VERTICES=skin_kernels.VERTICES, STEP=skin_kernels.STEP)
KERNELS = [
    *((gru_kernels._gru, dict(KEEP=True, EXACT=True, PHASE=None, ROWS=128, COLUMNS=c), 8) for c in gru_kernels.COLUMNS),
    (gru_kernels._gru, dict(KEEP=False, EXACT=False, PHASE=0, ROWS=16, COLUMNS=16), 4),
    *((gru_kernels._gru_backward, dict(EXACT=True, PHASE=None, ROWS=128, COLUMNS=c), 8) for c in gru_kernels.COLUMNS),
    (kernels._halves, dict(GROUPS=3, SCALED=True, BLOCK=1024), 4),
    (chain_kernels._chain, dict(BODIES=chain_kernels.LANES), 1),
    (chain_kernels._chain_backward, dict(BODIES=chain_kernels.LANES), 1),
    *((skin_kernels._skin, skin | dict(BLEND=b, SKIN=s, EXACT=e, JOINTS=j, BONES=j - 8), skin_kernels.WARPS)
      for b, s, e, j in ((224, 4, True, 32), (512, 4, False, 64), (224, 0, True, 16), (0, 3, True, 32))),
    (skin_kernels._moments, dict(SPLIT=1024, JOINTS=32, BODIES=16, VERTICES=32), 4),
]
capability, limit = map(int, sys.argv[1:])
stages = 3 if limit * 1024 >= 160_000 else 2
for kernel, constants, warps in KERNELS:
    if "COLUMNS" in constants:
        constants = constants | dict(STEP=gru_kernels._step(constants["ROWS"], constants["COLUMNS"], stages))
    jit = kernels.compiled(kernel)
    kinds = (HALF, "*fp16"), (WHOLE, "*i32"), (FLOAT, "*fp32"), (LONG, "*i64"), (constants, "constexpr")
    types = {n: next((kind for names, kind in kinds if n in names), "i32") for n in jit.arg_names}
    attributes = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(jit.arg_names) if types[n] != "constexpr"
        and (types[n] != "i32" or n in ("size", "padded", "out_row") or n.endswith("_low"))}
    source = ASTSource(jit, types, constants, attributes)
    options = {"num_warps": warps, "num_stages": stages}
    done = compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert len(done.asm["cubin"]) > 1000
    assert done.metadata.shared <= limit * 1024, (kernel, constants, capability, done.metadata.shared)
"""


@pytest.mark.parametrize(("capability", "shared"), [(80, 163), (90, 227), (120, 99)])  # KB of shared memory
def test_they_compile_for_gpus(tmp_path, capability, shared):
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    env |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path), "TRITON_DEFAULT_FP_FUSION": "1"}
    command = [sys.executable, "-c", COMPILED, str(capability), str(shared)]
    subprocess.run(command, env=env, check=True, cwd=tmp_path)


def test_where_tf32_is_allowed_skinning_is_exact(monkeypatch):
    torch.manual_seed(0)
    planes, weights = torch.randn(3, 3, 4, 24), torch.rand(24, 100)
    template, basis, factors = torch.randn(300), torch.randn(12, 300), torch.randn(3, 12)

    def skinned(factors):
        return skinning.skin(factors, planes, template, basis, weights)

    monkeypatch.setattr(kernels, "ENABLED", "0")
    rest, blended = skinned(torch.zeros_like(factors)), skinned(factors)
    monkeypatch.setattr(kernels, "ENABLED", "1")
    monkeypatch.setattr(skin_kernels, "exact", lambda: False)
    assert (skinned(torch.zeros_like(factors)) - rest).abs().max() <= 2e-6 * rest.abs().max()
    error = (skinned(factors) - blended).abs().max() / blended.abs().max()
    assert 1e-5 < error < 1e-3  # blend shapes are not


def test_of_no_bodies_there_is_nothing(monkeypatch):
    monkeypatch.setattr(kernels, "ENABLED", "1")
    body = kinlmr.load_body("anny24_lo369")
    mesh = body.to(DEVICE)(torch.eye(3).expand(0, 24, 3, 3), want=("joints", "vertices"))
    assert (mesh.joints.shape, mesh.vertices.shape) == ((0, 24, 3), (0, body.weights.shape[1], 3))


@pytest.mark.parametrize(("bodies", "joints"), [(1, 1), (37, 24)])
def test_bones_and_their_gradients(monkeypatch, bodies, joints):
    torch.manual_seed(0)
    tree = room.fronts([-1, *(int(torch.randint(joint, ())) for joint in range(1, joints))])
    inputs = torch.randn(bodies, joints, 3, 3), torch.randn(bodies, joints, 3)
    gradients = torch.randn(bodies, 3, 4, joints), torch.randn(bodies, joints, 3)

    def posed():
        leaves = [x.clone().requires_grad_() for x in inputs]
        found = room.pose_bones(*leaves, tree)
        return *(x.detach() for x in found), *torch.autograd.grad(found, leaves, gradients)

    assert_fused_equals_plain(monkeypatch, posed)
