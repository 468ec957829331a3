"""Parameters sharded over processes: FSDP2 on the CPU, over gloo."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import kinlmr

FSDP = """
import os, sys, torch, torch._dynamo, torch.distributed as dist  # what an optimizer imports too, before there are two
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
import kinlmr
other = os.fork()
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=int(other == 0), world_size=2)
torch.manual_seed(0)
model = kinlmr.build("smpl.yaml", features=6, hidden=8)
x = torch.randn(2, 3, 6)
def loss(model):
    return sum(value.square().mean() for value in model(x))
plain = {}
loss(model).backward()
plain = {name: p.grad.clone() for name, p in model.named_parameters()}
expected = loss(model).item()
model.zero_grad()
fully_shard(model, mesh=dist.device_mesh.init_device_mesh("cpu", (2,)))
value = loss(model)
value.backward()
assert abs(value.item() - expected) < 1e-6, (value.item(), expected)
for name, p in model.named_parameters():
    assert isinstance(p, DTensor), name
    assert torch.allclose(p.grad.full_tensor(), plain[name], atol=1e-6), name
torch.optim.SGD(model.parameters(), 0.1).step()
assert loss(model).item() < expected
dist.destroy_process_group()
if other:
    assert os.waitpid(other, 0)[1] == 0
"""


@pytest.mark.skipif(torch.__version__ < "2.7", reason="torch 2.6's fully_shard asks a CPU for a stream's events")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_fully_shard_trains_it(tmp_path):
    """FSDP2 on the CPU, over gloo."""
    env = {**os.environ, "PYTHONPATH": str(Path(kinlmr.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", FSDP, str(tmp_path / "store")]
    done = subprocess.run(command, env=env, stderr=subprocess.PIPE, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
