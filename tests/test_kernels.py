"""The Triton kernels against the plain path: values on a CPU, interpreted, and whether they compile for a GPU."""

import os
import subprocess
import sys

import pytest
import torch

import kinlmr
from kinlmr import cells, kernels, matmul, skinning

pytest.importorskip("triton")


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")


def assert_fused_equals_plain(monkeypatch, function, tolerance=2e-6):
    """function() -> tensors, the same with the kernels as without: to a share of the largest number."""
    found = []
    for enabled in (False, True):
        monkeypatch.setattr(kernels, "ENABLED", enabled)
        found.append(function())
    for plain, fused in zip(*found, strict=True):
        assert (plain - fused).abs().max() <= tolerance * plain.abs().max()


def test_the_helper_sees_a_difference(monkeypatch):
    with pytest.raises(AssertionError):
        assert_fused_equals_plain(monkeypatch, lambda: [torch.ones(2) + 1e-4 * kernels.ENABLED])


def test_only_what_the_kernels_are_for_is_served(monkeypatch):
    x = torch.zeros(2)
    assert not kernels.serves(x)  # off, unless asked for
    monkeypatch.setattr(kernels, "ENABLED", True)
    assert kernels.serves(x)
    assert not kernels.serves(x.double())
    monkeypatch.delenv("TRITON_INTERPRET")
    assert not kernels.serves(x)


def test_without_triton_the_mend_is_said(monkeypatch):
    monkeypatch.setattr(kernels, "ENABLED", True)
    monkeypatch.setitem(sys.modules, "triton.language", None)
    with pytest.raises(ImportError, match="KINLMR_TRITON=1, but .*; pip install triton, or unset it"):
        kernels._compiled.__wrapped__(kernels._gru)


@pytest.mark.parametrize("nodes", [(), (3,)])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize(("frames", "rows", "size"), [(1, 1, 1), (5, 4, 20), (2, 7, 33)])
def test_gru_scan(monkeypatch, nodes, keep, frames, rows, size):
    torch.manual_seed(0)
    gates, memory = torch.randn(*nodes, frames, rows, 3 * size), torch.randn(1, *nodes, rows, size)
    weight, bias = torch.randn(*nodes, 3 * size, size) / size**0.5, torch.randn(*nodes, 3 * size)

    def scanned():
        recurrent = matmul.recurrence(weight, bias, rows, None)
        states, kept = cells.gru_scan(gates.clone(), memory, recurrent, keep)
        return [states, *kept]

    assert_fused_equals_plain(monkeypatch, scanned)


@pytest.mark.parametrize(("bodies", "joints", "vertices"), [(1, 1, 1), (18, 24, 300), (3, 55, 1100)])
def test_skin_and_its_gradients(monkeypatch, bodies, joints, vertices):
    torch.manual_seed(0)
    factors, bones = torch.randn(bodies, 10), torch.randn(bodies, joints, 3, 4)
    template, basis = torch.randn(3 * vertices), torch.randn(12, 3 * vertices)
    weights, gradient = torch.rand(joints, vertices), torch.randn(bodies, 3, vertices)
    weights /= weights.sum(0)

    def skinned():
        inputs = [x.clone().requires_grad_() for x in (factors, bones)]
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


COMPILED = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from kinlmr import kernels

pointers = {*"gates recurrent before after share rest planes weights out grad".split()}
sizes = dict(JOINTS=32, BODIES=kernels.BODIES)
for capability in (80, 90):
    for kernel, constants in (
        *((kernels._gru, dict(KEEP=keep, WIDTH=512)) for keep in (False, True)),
        *((kernels._skin, dict(SHIFT=shift, VERTICES=kernels.VERTICES, PRECISION=precision, **sizes))
          for shift in (False, True) for precision in ("tf32", "tf32x3")),
        *((kernels._moments, dict(SPLIT=kernels.SPLIT, VERTICES=kernels.FEWER, PRECISION=precision, **sizes))
          for precision in ("tf32", "tf32x3")),
    ):
        jit = kernels._compiled(kernel)
        types = {n: "constexpr" if n in constants else "*fp32" if n in pointers else "i32" for n in jit.arg_names}
        source = ASTSource(jit, types, constants)
        done = compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": kernels.WARPS})
        assert len(done.asm["cubin"]) > 1000 and done.metadata.shared < 48 * 1024
"""


def test_they_compile_for_gpus(tmp_path):
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    env |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path), "TRITON_DEFAULT_FP_FUSION": "1"}
    subprocess.run([sys.executable, "-c", COMPILED], env=env, check=True, cwd=tmp_path)
