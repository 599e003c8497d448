"""The linear layer: one shell, its weight stored in any format."""

import torch
from torch import Tensor, nn

from burnish.kernels import ops


class Linear(nn.Module):
    """``x @ weight.T + bias`` with x (R, I), weight (O, I)."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """x (R, I) -> (R, O)."""
        return ops.linear(x, self.weight, self.bias)
