"""Eight-bit floats: codes of float8_e4m3fn times one scale per output, in the layout of compressed-tensors.

A code has a sign, four bits of exponent and three of mantissa; the largest is 448, there are no infinities. Engines on
GPUs multiply such codes as they are, with inputs rounded likewise, token by token; here the weight is unpacked, and
inputs stay floats. ``unpack`` rounds nothing where a scale has at most 20 significant bits; those that the pass ``fp8``
chooses have four, so that every weight is exactly a bfloat16 and the kernels keep it as one.

Source: Micikevicius et al. 2022, FP8 Formats for Deep Learning; compressed-tensors, scheme FP8_DYNAMIC (version 0.20).
Shapes: O outputs, I inputs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from burnish.models.formats.base import Packed, TensorSpec

CODES = torch.float8_e4m3fn
LARGEST = torch.finfo(CODES).max  # 448


@dataclass(frozen=True)
class Float8Format:
    """``weight[o, i] = codes[o, i] * scales[o]``."""

    name: str = "fp8"

    def layout(self, outputs: int, inputs: int) -> dict[str, TensorSpec]:
        """A byte per weight, a scale per output."""
        return {
            "weight": TensorSpec((outputs, inputs), CODES),
            "weight_scale": TensorSpec((outputs, 1), torch.float32),
        }

    def pack(self, codes: Tensor, scales: Tensor) -> Packed:
        """Store codes (O, I) and scales (O, 1) as they are."""
        assert codes.dtype == CODES, codes.dtype
        assert scales.shape == (codes.shape[0], 1), scales.shape
        return {"weight": codes, "weight_scale": scales}

    def random(self, outputs: int, inputs: int, generator: torch.Generator) -> Packed:
        """Normal values of standard deviation 0.02."""
        scales = torch.full((outputs, 1), 2.0**-12)
        weight = torch.empty(outputs, inputs).normal_(std=0.02, generator=generator)
        return self.pack((weight / scales).clamp_(-LARGEST, LARGEST).to(CODES), scales)

    def unpack(self, packed: Packed) -> Tensor:
        """The weight as float32 (O, I)."""
        return packed["weight"].float().mul_(packed["weight_scale"].float())


FP8 = Float8Format()
