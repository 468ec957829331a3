"""Triton kernels for the engine and the body, each beside the PyTorch that it stands for."""

from kinlmr.kernels import chain, gru, halves, skin
from kinlmr.kernels.halves import traced

__all__ = ["chain", "gru", "halves", "skin", "traced"]
