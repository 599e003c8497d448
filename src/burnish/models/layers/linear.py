"""The linear layer: one shell, its weight stored in any format."""

import torch
from torch import Tensor, nn

from burnish.kernels import ops
from burnish.models.formats.base import Packed, WeightFormat
from burnish.models.formats.dense import DENSE, Dense


class Linear(nn.Module):
    """``x @ weight.T + bias`` with x (R, I), weight (O, I).

    Born dense, with a trainable ``weight``; ``store`` puts another format's tensors in its place.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.format: WeightFormat = DENSE
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """x (R, I) -> (R, O)."""
        return ops.linear(x, self.dense_weight(), self.bias)

    def dense_weight(self) -> Tensor:
        """The weight as float32 (O, I); a stored integer weight is unpacked anew, so that memory holds one."""
        return self.format.unpack(self.packed())

    def packed(self) -> Packed:
        """The stored tensors of the weight, by name."""
        return {name: getattr(self, name) for name in self.format.layout(self.out_features, self.in_features)}

    def store(self, weight_format: WeightFormat, packed: Packed) -> None:
        """Hold these tensors, in this format, instead of the present weight."""
        layout = weight_format.layout(self.out_features, self.in_features)
        assert {name: tuple(t.shape) for name, t in packed.items()} == {n: spec.shape for n, spec in layout.items()}
        for name in self.packed():
            delattr(self, name)
        self.format = weight_format
        for name, tensor in packed.items():
            if isinstance(weight_format, Dense):
                self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
            else:
                self.register_buffer(name, tensor)
