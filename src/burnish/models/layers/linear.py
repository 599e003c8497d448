"""The linear layer: one shell, its weight stored in any format."""

import torch
from torch import Tensor, nn

from burnish.kernels import ops
from burnish.models.formats.base import Packed, WeightFormat
from burnish.models.formats.dense import DENSE, Dense
from burnish.models.formats.integer import IntegerFormat


class Linear(nn.Module):
    """``x @ weight.T + bias`` with x (R, I), weight (O, I).

    Born dense, with a trainable ``weight``; ``store`` puts another format's tensors in its place. With ``round_inputs``
    x is first rounded to 8-bit steps that were settled beforehand, whatever x is.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.format: WeightFormat = DENSE
        self.input_scale: Tensor | None
        self.input_zero_point: Tensor | None
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        self.register_buffer("input_scale", None)  # (1,) float32
        self.register_buffer("input_zero_point", None)  # (1,) int8
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """x (R, I) -> (R, O)."""
        return ops.linear(self.rounded(x), self.dense_weight(), self.bias)

    def round_inputs(self, scale: Tensor, zero_point: Tensor) -> None:
        """From now on x counts as ``(code - zero_point) * scale``, codes being -128 to 127; both are (1,)."""
        self.input_scale, self.input_zero_point = scale.float().clone(), zero_point.to(torch.int8).clone()

    def rounded(self, x: Tensor) -> Tensor:
        """x (R, I) as this layer takes it."""
        scale, zero = self.input_scale, self.input_zero_point
        if scale is None or zero is None:
            return x
        steps: Tensor = ((x / scale).round() + zero).clamp(-128, 127).sub(zero) * scale
        return x + (steps - x).detach() if x.requires_grad else steps  # learning passes straight through

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

    def store_bytes(self) -> None:
        """Hold codes of eight bits a byte each, as engines read them that round inputs; nothing it computes changes."""
        if isinstance(self.format, IntegerFormat) and (bytewise := self.format.as_bytes()) != self.format:
            self.store(bytewise, bytewise.pack(self.format.restore(self.packed())))
