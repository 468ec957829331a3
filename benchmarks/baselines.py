"""What kinlmr's engine is measured against, each as a good engineer would write it with torch.nn."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

import kinlmr


class Naive(nn.Module):
    """LMR written straight from its equations: one nn.GRU call per part and iteration, over all frames at once.

    It takes the very parameters of a kinlmr model, so that both compute the same numbers.
    """

    def __init__(self, model: kinlmr.LMR) -> None:
        super().__init__()
        self.plan, self.iterations = model.plan, model.options.iterations
        self.start = model.initial_estimate().detach().split(model.widths)
        cells = [*model.parts.values(), model.camera]
        self.rnns, self.heads = nn.ModuleList(), nn.ModuleList(copy.deepcopy(cell.head) for cell in cells)
        for cell in cells:
            gates, reads = cell.rnn["weight_ih_l0"].shape
            self.rnns.append(nn.GRU(reads, gates // 3, batch_first=True))
            self.rnns[-1].load_state_dict(cell.rnn.state_dict())
        fc1, fc2, head = model.shape.fc1, model.shape.fc2, model.shape.head
        self.shape = nn.Sequential(*map(copy.deepcopy, (fc1, nn.ReLU(), fc2, nn.ReLU(), head)))

    def forward(self, features: Tensor, state: list[list[Tensor]] | None = None) -> tuple[Tensor, list[list[Tensor]]]:
        """features (B, T, F) -> the estimate (B, T, D) in plan order, and every iteration's hidden vectors."""
        slots = [value.to(features).expand(*features.shape[:2], -1) for value in self.start]
        parts, after = len(self.plan.parts), []
        for v in range(self.iterations):
            kept = []
            for node, read in enumerate(self.plan.reads):
                seen = torch.cat([features, *(slots[slot] for slot in read)], -1)
                if node == parts:
                    slots[node] = slots[node] + self.shape(seen)
                    continue
                cell = min(node, parts)
                out, hidden = self.rnns[cell](seen, None if state is None else state[v][cell])
                slots[node] = slots[node] + self.heads[cell](out)
                kept.append(hidden)
            after.append(kept)
        return torch.cat(slots, -1), after


class SingleRNN(nn.Module):
    """The paper's baseline in spirit, without refinement or graph: one GRU and one linear head for everything."""

    def __init__(self, features: int, outputs: int, parameters: int) -> None:
        super().__init__()
        ends = features + outputs + 6  # 3 h (f + h + 2) + o (h + 1) parameters
        hidden = int((-(3 * ends - 2 * outputs) + ((3 * ends - 2 * outputs) ** 2 + 12 * parameters) ** 0.5) / 6)
        self.rnn, self.head = nn.GRU(features, hidden, batch_first=True), nn.Linear(hidden, outputs)

    def forward(self, features: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        out, state = self.rnn(features, state)
        return self.head(out), state


class Vibe(nn.Module):
    """The shape of VIBE's network: a 2-layer GRU of 1024, its output added to the features, and SPIN's regressor."""

    def __init__(self, features: int, widths: Sequence[int] = (144, 10, 3), iterations: int = 3) -> None:
        super().__init__()
        self.rnn, self.back = nn.GRU(features, 1024, 2, batch_first=True), nn.Linear(1024, features)
        total = sum(widths)
        self.fc1, self.fc2 = nn.Linear(features + total, 1024), nn.Linear(1024, 1024)
        self.drop, self.heads = nn.Dropout(0.5), nn.ModuleList(nn.Linear(1024, width) for width in widths)
        self.iterations, self.total = iterations, total

    def forward(self, features: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        out, state = self.rnn(features, state)
        features = features + self.back(out.relu())
        estimate = features.new_zeros(*features.shape[:-1], self.total)
        for _ in range(self.iterations):
            hidden = self.drop(self.fc2(self.drop(self.fc1(torch.cat([features, estimate], -1)))))
            estimate = estimate + torch.cat([head(hidden) for head in self.heads], -1)
        return estimate, state
