"""Integer weights: codes times scales, in the layouts of compressed-tensors.

A pass of compression chooses codes and scales; ``pack`` stores them exactly as chosen and ``restore`` gives them back,
which is what the native kernels take. ``unpack`` gives the weight as float32, for the plain reference.

Shapes: O outputs, I inputs, N groups of consecutive inputs sharing a scale.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from burnish.core.errors import BadRequest
from burnish.models.formats.base import Packed, TensorSpec

PER_WORD = 8  # 4-bit codes in an int32


class Quantized(NamedTuple):
    """A weight as integers: ``weight[o, i] = (codes[o, i] - zeros[o, n]) * scales[o, n]`` with ``n = i // (I / N)``.

    Without zeros, codes are signed and stand for themselves; with zeros, both are 0 to 2^bits - 1.
    """

    codes: Tensor  # (O, I) int8
    scales: Tensor  # (O, N), any float type
    zeros: Tensor | None = None  # (O, N) int8

    def dequantize(self) -> Tensor:
        """The weight as float32 (O, I)."""
        outputs, inputs = self.codes.shape
        weight = self.codes.view(outputs, self.scales.shape[1], -1).float()  # its own memory: changed in place
        if self.zeros is not None:
            weight -= self.zeros.unsqueeze(-1)
        weight *= self.scales.float().unsqueeze(-1)
        return weight.view(outputs, inputs)


@dataclass(frozen=True)
class IntegerFormat:
    """Codes of ``bits`` bits, a scale per ``group_size`` inputs (None: one per output), a zero point if asymmetric."""

    name: str
    bits: int
    group_size: int | None
    asymmetric: bool = False

    @property
    def lowest(self) -> int:
        """The least code."""
        return 0 if self.asymmetric else -(1 << (self.bits - 1))

    @property
    def highest(self) -> int:
        """The greatest code."""
        return self.lowest + (1 << self.bits) - 1

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
        """int8: one byte per code; int4: eight codes per int32, first in the lowest bits, and zero points likewise,
        packed along the outputs. Scales beside them.
        """
        groups = self.num_groups(inputs)
        scales = TensorSpec((outputs, groups), torch.float32)
        if self.bits == 8:
            return {"weight": TensorSpec((outputs, inputs), torch.int8), "weight_scale": scales}
        specs = {
            "weight_packed": TensorSpec((outputs, -(-inputs // PER_WORD)), torch.int32),
            "weight_scale": scales,
            "weight_shape": TensorSpec((2,), torch.int64),
        }
        if self.asymmetric:
            specs["weight_zero_point"] = TensorSpec((-(-outputs // PER_WORD), groups), torch.int32)
        return specs

    def pack(self, quantized: Quantized) -> Packed:
        """Store codes and scales as they are."""
        codes, scales, zeros = quantized
        assert scales.shape == (codes.shape[0], self.num_groups(codes.shape[1])), scales.shape
        assert codes.dtype == torch.int8
        assert self.lowest <= codes.min()
        assert codes.max() <= self.highest
        assert (zeros is not None) == self.asymmetric
        if self.bits == 8:
            return {"weight": codes, "weight_scale": scales}
        packed = {"weight_packed": _join(codes, self.lowest), "weight_scale": scales}
        packed["weight_shape"] = torch.tensor(codes.shape)
        if zeros is not None:
            packed["weight_zero_point"] = _join(zeros.t(), self.lowest).t().contiguous()
        return packed

    def restore(self, packed: Packed) -> Quantized:
        """The codes, scales and zero points that were packed."""
        if self.bits == 8:
            return Quantized(packed["weight"], packed["weight_scale"])
        outputs, inputs = packed["weight_shape"].tolist()
        codes = _split(packed["weight_packed"], self.lowest)[:, :inputs]
        zeros = None
        if self.asymmetric:
            zeros = _split(packed["weight_zero_point"].t(), self.lowest).t()[:outputs].contiguous()
        return Quantized(codes.contiguous(), packed["weight_scale"], zeros)

    def unpack(self, packed: Packed) -> Tensor:
        """The weight as float32 (O, I)."""
        return self.restore(packed).dequantize()

    def random(self, outputs: int, inputs: int, generator: torch.Generator) -> Packed:
        """Uniform codes; scales that give the weight a standard deviation near 0.02."""
        groups = self.num_groups(inputs)
        scales = torch.full((outputs, groups), 0.02 * 12**0.5 / 2**self.bits).half().float()
        if self.bits == 8:
            return {"weight": _random(torch.int8, (outputs, inputs), generator), "weight_scale": scales}
        packed = {"weight_packed": _random(torch.int32, (outputs, -(-inputs // PER_WORD)), generator)}
        packed |= {"weight_scale": scales, "weight_shape": torch.tensor((outputs, inputs))}
        if self.asymmetric:
            packed["weight_zero_point"] = _random(torch.int32, (-(-outputs // PER_WORD), groups), generator)
        return packed


def _join(codes: Tensor, lowest: int) -> Tensor:
    """Codes (O, I) as words (O, I / 8, rounded up), the first code in the lowest bits; the last is filled up."""
    raised = torch.nn.functional.pad(codes.to(torch.int32) - lowest, (0, -codes.shape[1] % PER_WORD))
    shifts = torch.arange(0, 32, 4, dtype=torch.int32)
    joined = raised.view(codes.shape[0], -1, PER_WORD) << shifts
    return joined.sum(-1).to(torch.int32)  # the codes' bits are disjoint: a sum is an or


def _split(words: Tensor, lowest: int) -> Tensor:
    """Words (O, W) as codes (O, 8 W): the inverse of ``_join``."""
    pairs = words.contiguous().view(torch.uint8).unsqueeze(-1)  # the low nibble of a byte is the earlier code
    return (torch.cat((pairs & 15, pairs >> 4), -1).view(torch.int8) + lowest).flatten(1)


def _random(dtype: torch.dtype, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    limits = torch.iinfo(dtype)
    return torch.randint(limits.min, limits.max + 1, shape, dtype=dtype, generator=generator)
