"""Symmetric integer weights: codes times scales, in the layouts of compressed-tensors.

A pass of compression chooses codes and scales; ``pack`` stores them exactly as chosen.
The product is the plain reference: the weight is unpacked to float32 once, when its layer is first used, so these
formats save disk and transfer, not yet memory at run time or time. Kernels that read the codes themselves come later.

Shapes: O outputs, I inputs, N groups of consecutive inputs sharing a scale.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from burnish.core.errors import BadRequest
from burnish.kernels import ops
from burnish.models.formats.base import Packed, TensorSpec

PER_WORD = 8  # 4-bit codes in an int32


class Quantized(NamedTuple):
    """A weight as integers: ``weight[o, i] = codes[o, i] * scales[o, i // (I / N)]``."""

    codes: Tensor  # (O, I) int8
    scales: Tensor  # (O, N), any float type

    def dequantize(self) -> Tensor:
        """The weight as float32 (O, I)."""
        outputs, inputs = self.codes.shape
        grouped = self.codes.view(outputs, self.scales.shape[1], -1) * self.scales.float().unsqueeze(-1)
        return grouped.view(outputs, inputs)


@dataclass(frozen=True)
class IntegerFormat:
    """Codes of ``bits`` bits, a scale per ``group_size`` inputs (None: one per output)."""

    name: str
    bits: int
    group_size: int | None

    @property
    def lowest(self) -> int:
        """The least code."""
        return -(1 << (self.bits - 1))

    @property
    def highest(self) -> int:
        """The greatest code."""
        return (1 << (self.bits - 1)) - 1

    def num_groups(self, inputs: int) -> int:
        """Scales per output. Raises ``BadRequest`` when the inputs are no whole number of groups."""
        if self.group_size is None:
            return 1
        if inputs % self.group_size:
            raise BadRequest(
                f"{inputs} inputs of a layer are no whole number of groups of {self.group_size}",
                remedy="Take a smaller group, int8, or leave the layer dense",
            )
        return inputs // self.group_size

    def layout(self, outputs: int, inputs: int) -> dict[str, TensorSpec]:
        """int8: one byte per code; int4: eight codes per int32, first in the lowest bits. Scales beside them."""
        scales = TensorSpec((outputs, self.num_groups(inputs)), torch.float32)
        if self.bits == 8:
            return {"weight": TensorSpec((outputs, inputs), torch.int8), "weight_scale": scales}
        return {
            "weight_packed": TensorSpec((outputs, inputs // PER_WORD), torch.int32),
            "weight_scale": scales,
            "weight_shape": TensorSpec((2,), torch.int64),
        }

    def pack(self, quantized: Quantized) -> Packed:
        """Store codes and scales as they are."""
        codes, scales = quantized
        assert scales.shape == (codes.shape[0], self.num_groups(codes.shape[1])), scales.shape
        assert codes.dtype == torch.int8
        assert self.lowest <= codes.min()
        assert codes.max() <= self.highest
        if self.bits == 8:
            return {"weight": codes, "weight_scale": scales}
        words = (codes.to(torch.int32) - self.lowest).view(codes.shape[0], -1, PER_WORD) << _shifts()
        packed = words.sum(-1).to(torch.int32)  # the codes' bits are disjoint: a sum is an or
        return {"weight_packed": packed, "weight_scale": scales, "weight_shape": torch.tensor(codes.shape)}

    def restore(self, packed: Packed) -> Quantized:
        """The codes and scales that were packed."""
        if self.bits == 8:
            return Quantized(packed["weight"], packed["weight_scale"])
        words = packed["weight_packed"]
        codes = ((words.unsqueeze(-1) >> _shifts()) & 15) + self.lowest
        return Quantized(codes.to(torch.int8).view(words.shape[0], -1), packed["weight_scale"])

    def unpack(self, packed: Packed) -> Tensor:
        """Codes times scales, float32 (O, I)."""
        return self.restore(packed).dequantize()

    def random(self, outputs: int, inputs: int, generator: torch.Generator) -> Packed:
        """Uniform codes; scales that give the weight a standard deviation near 0.02."""
        groups = self.num_groups(inputs)
        scales = torch.full((outputs, groups), 0.02 * 12**0.5 / 2**self.bits)
        if self.bits == 8:
            return {"weight": _random(torch.int8, (outputs, inputs), generator), "weight_scale": scales}
        words = _random(torch.int32, (outputs, inputs // PER_WORD), generator)
        return {"weight_packed": words, "weight_scale": scales, "weight_shape": torch.tensor((outputs, inputs))}

    def linear(self, x: Tensor, unpacked: Tensor, bias: Tensor | None) -> Tensor:
        """x (R, I) -> (R, O)."""
        return ops.linear(x, unpacked, bias)


def _shifts() -> Tensor:
    return torch.arange(0, 32, 4, dtype=torch.int32)


def _random(dtype: torch.dtype, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    limits = torch.iinfo(dtype)
    return torch.randint(limits.min, limits.max + 1, shape, dtype=dtype, generator=generator)
