"""Parameters sharded over processes: FSDP2 on the CPU, over gloo."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import kinlmr

FSDP = """
import sys, torch, torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
import kinlmr
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=int(sys.argv[2]), world_size=int(sys.argv[3]))
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
mesh = dist.init_device_mesh("cpu", (dist.get_world_size(),))
fully_shard(model, mesh=mesh)
value = loss(model)
value.backward()
assert abs(value.item() - expected) < 1e-6, (value.item(), expected)
for name, p in model.named_parameters():
    assert isinstance(p, DTensor), name
    assert torch.allclose(p.grad.full_tensor(), plain[name], atol=1e-6), name
torch.optim.SGD(model.parameters(), 0.1).step()
assert loss(model).item() < expected
dist.destroy_process_group()
print("sharded")
"""


@pytest.mark.skipif(torch.__version__ < "2.7", reason="torch 2.6's fully_shard asks a CPU for a stream's events")
def test_fully_shard_trains_it(tmp_path):
    """FSDP2 on the CPU, over gloo."""
    processes = 2
    root = str(Path(kinlmr.__file__).parents[1])
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", FSDP.replace("dist.init_device_mesh", "dist.device_mesh.init_device_mesh"),
             str(tmp_path / "store"), str(rank), str(processes)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root,
        )
        for rank in range(processes)
    ]  # fmt: skip
    for run in runs:
        out, error = run.communicate(timeout=120)
        assert out.strip().endswith("sharded"), error[-2000:]
