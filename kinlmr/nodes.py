"""The modules that hold a model's parameters: its nodes'. The engine reads them and never calls them."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from kinlmr.cells import Cell


class RecurrentNode(nn.Module):
    """A recurrent node: ``rnn``, with the parameters of torch.nn.GRU (or LSTM, RNN), and a linear ``head``, which makes
    the residual. ``rnn`` is a ParameterDict because torch.compile refuses models that hold an nn.GRU.
    """

    def __init__(self, cell: Cell, reads: int, hidden: int, layers: int, writes: int) -> None:
        super().__init__()
        bound, parameters = hidden**-0.5, OrderedDict()  # nn.ParameterDict would sort a plain dict
        for layer in range(layers):
            for name, *size in (
                ("weight_ih", hidden if layer else reads),
                ("weight_hh", hidden),
                ("bias_ih",),
                ("bias_hh",),
            ):
                value = torch.empty(cell.gates * hidden, *size)
                parameters[f"{name}_l{layer}"] = nn.Parameter(nn.init.uniform_(value, -bound, bound))
        self.rnn = nn.ParameterDict(parameters)
        self.head = _small(nn.Linear(hidden, writes))


class ShapeNode(nn.Module):
    """The shape node, without memory: two layers, ReLU and dropout between, and a head."""

    def __init__(self, reads: int, hidden: int, writes: int, dropout: float) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(reads, hidden), nn.Linear(hidden, hidden)
        self.head = _small(nn.Linear(hidden, writes))
        self.dropout = nn.Dropout(dropout)


def _small(head: nn.Linear) -> nn.Linear:
    """A head with small weights, so that an untrained model answers near its start estimate."""
    nn.init.xavier_uniform_(head.weight, gain=0.1)
    nn.init.zeros_(head.bias)
    return head
