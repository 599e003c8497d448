"""Normalisation layers."""

import torch
from torch import Tensor, nn

from burnish.kernels import ops


class RMSNorm(nn.Module):
    """RMS normalisation; ``offset`` is added to the stored weight (1 for Gemma, else 0)."""

    def __init__(self, size: int, *, eps: float, offset: float = 0.0) -> None:
        super().__init__()
        self.eps, self.offset = eps, offset
        self.weight = nn.Parameter(torch.full((size,), 1.0 - offset))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        return ops.rms_norm(x, self.weight + self.offset if self.offset else self.weight, self.eps)


class LayerNorm(nn.Module):
    """Layer normalisation with bias."""

    def __init__(self, size: int, *, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        return ops.layer_norm(x, self.weight, self.bias, self.eps)
