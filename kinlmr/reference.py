"""Section 3.2 of the paper as a plain loop over iterations, nodes and frames: what the engine must compute.

Nothing is fast here. A node reads the frame's features and slots of the estimate, and adds a residual to its own slot:

    part p   theta_p <- theta_p + head(cell([features, theta_p, beta, theta_g of each part g that p is given]))
    shape    beta    <- beta    + mlp([features, theta of every part, beta])
    camera   c       <- c       + head(cell([features, theta of every part, beta, c]))

All iterations share the weights. Each has a memory of its own, which runs along time.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import linear

from kinlmr.engine import Cell, RecurrentNode, ShapeNode
from kinlmr.model import LMR
from kinlmr.state import Estimate, State


def estimate(
    model: LMR, features: Tensor, lengths: Tensor | None = None, state: State | None = None, every: bool = False
) -> Estimate | tuple[Estimate, State]:
    """What ``model(features, lengths, state, every)`` returns, with the same arguments, which are not checked.

    >>> import kinlmr
    >>> model, features = kinlmr.build(features=5, hidden=4), torch.randn(2, 3, 5)
    >>> torch.allclose(estimate(model, features).pose, model(features).pose, atol=1e-5)
    True
    """
    schedule, modules, (batch, frames, _) = model.schedule, model.nodes(), features.shape
    memory = (model.initial_state(batch) if state is None else state).memory
    ends = features.new_full((batch,), frames) if lengths is None else lengths.to(features.device)
    inside = [(t < ends)[:, None] for t in range(frames)]  # of each frame, which clips (B, 1) have it
    phi = [torch.where(there, features[:, t], 0) for t, there in enumerate(inside)]

    start = [slot.expand(batch, -1) for slot in model.initial_estimate().split(model.widths)]
    slots = [list(start) for _ in range(frames)]  # the estimate of each frame
    estimates, after = [], []
    for v in range(schedule.iterations):
        recurrent = (node.name for node in schedule.nodes if node.cell)
        remembered = dict(zip(recurrent, memory[:, v].split(schedule.memory_sizes, -1), strict=True))
        for node in schedule.nodes:
            module: Any = modules[node.name]
            for t in range(frames):
                if node.restarted:
                    slots[t][node.slot] = start[node.slot]
                x = torch.cat([phi[t], *(slots[t][slot] for slot in node.reads)], -1)
                if node.cell is None:
                    residual = _shape_network(module, x)
                else:
                    residual, new = _recurrent(node.cell, module, x, remembered[node.name])
                    remembered[node.name] = torch.where(inside[t], new, remembered[node.name])
                slots[t][node.slot] = slots[t][node.slot] + residual
        estimates.append(
            torch.stack([torch.cat(slot, -1) * there for slot, there in zip(slots, inside, strict=True)], 1)
        )
        after.append(torch.cat(list(remembered.values()), -1))

    out = torch.stack(estimates) if every else estimates[-1]  # ([V,] B, T, D)
    pose, shape, camera = out.split((sum(model.widths[:-2]), *model.widths[-2:]), -1)
    pose = pose.unflatten(-1, (-1, model.rotation.dimension))[..., list(model.plan.restore), :]
    found = Estimate(pose, shape, camera)
    return found if state is None else (found, State(torch.stack(after, 1)))


def _recurrent(cell: Cell, module: RecurrentNode, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """A part, or the camera, in one frame: what it reads x (B, K), memory (B, M) -> residual (B, O), memory after."""
    after = []
    layers = rearrange(memory, "b (l k h) -> l k b h", k=cell.vectors, h=module.head.in_features)
    for layer, before in enumerate(layers):
        parameter = lambda name, layer=layer: getattr(module.rnn, f"{name}_l{layer}")  # noqa: E731
        inputs = linear(x, parameter("weight_ih"), parameter("bias_ih"))
        recurrent = linear(before[0], parameter("weight_hh"), parameter("bias_hh"))
        after.append(cell.step(inputs, recurrent, before))
        x = after[-1][0]
    return module.head(x), rearrange(torch.stack(after), "l k b h -> b (l k h)")


def _shape_network(module: ShapeNode, x: Tensor) -> Tensor:
    """The shape in one frame: what it reads x (B, K) -> residual (B, S)."""
    for layer in (module.fc1, module.fc2):
        x = module.dropout(layer(x).relu())
    return module.head(x)
