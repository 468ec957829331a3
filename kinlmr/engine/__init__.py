"""How the model is fast: it computes what `kinlmr.reference` computes. Imports the kernels, nothing else of kinlmr."""

from kinlmr.engine.cells import CELLS, Cell
from kinlmr.engine.live import Snapshot, frame, snapshot
from kinlmr.engine.nodes import Node, RecurrentNode, ShapeNode
from kinlmr.engine.schedule import Schedule, compile_schedule
from kinlmr.engine.sweep import choose_block, run

__all__ = [
    "CELLS",
    "Cell",
    "Node",
    "RecurrentNode",
    "Schedule",
    "ShapeNode",
    "Snapshot",
    "choose_block",
    "compile_schedule",
    "frame",
    "run",
    "snapshot",
]
