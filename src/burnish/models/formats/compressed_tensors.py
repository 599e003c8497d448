"""Integer weights of compressed-tensors in the layouts burnish does not write itself.

Source: compressed-tensors, compressors/pack_quantized and naive_quantized (version 0.20). Codes and zero points are
signed there; packed ones have 2^(bits - 1) added. Shapes: O outputs, I inputs, G groups.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from burnish.core.errors import BadCheckpoint
from burnish.models.formats.base import Packed, TensorSpec
from burnish.models.formats.foreign import Foreign, Grouped, expected, unsigned
from burnish.models.formats.integer import IntegerFormat

GROUP_INDEX = "weight_g_idx"


@dataclass(frozen=True)
class CompressedTensors(Foreign):
    """One scheme of a config group, weights only."""

    layout_name: Literal["pack-quantized", "int-quantized"]
    bits: Literal[4, 8]
    strategy: Literal["group", "channel", "tensor"]
    group_size: int | None  # of strategy "group"
    symmetric: bool
    scattered: bool  # act order left the inputs of a group apart

    optional = frozenset((GROUP_INDEX,))

    def layout(self, outputs: int, inputs: int) -> dict[str, TensorSpec]:
        """Codes as words or as bytes, scales, zero points, index."""
        groups = self._num_groups(inputs)
        shape = (1,) if self.strategy == "tensor" else (outputs, groups)
        specs = {"weight_scale": TensorSpec(shape, torch.float32)}
        if self.strategy == "group":
            specs[GROUP_INDEX] = TensorSpec((inputs,), torch.int32)
        if self.layout_name == "int-quantized":
            zeros = TensorSpec(shape, torch.int8)
            specs["weight"] = TensorSpec((outputs, inputs), torch.int8)
        else:
            zeros = TensorSpec((_words(outputs, self.bits), groups), torch.int32)
            specs["weight_packed"] = TensorSpec((outputs, _words(inputs, self.bits)), torch.int32)
            specs["weight_shape"] = TensorSpec((2,), torch.int64)
        return specs if self.symmetric else specs | {"weight_zero_point": zeros}

    def becomes(self, inputs: int) -> IntegerFormat:
        """Its native format."""
        return expected(self.bits, self.group_size, inputs, symmetric=self.symmetric, scattered=self.scattered)

    def read(self, stored: Packed) -> Grouped:
        """The weight from its tensors."""
        middle = 1 << (self.bits - 1)
        codes = self._codes(stored)
        scales = stored["weight_scale"].view(-1, 1) if self.strategy == "tensor" else stored["weight_scale"]
        scales = scales.expand(len(codes), -1)
        zeros = torch.full(scales.shape, middle, dtype=torch.uint8)
        if not self.symmetric:
            zeros = self._zeros(stored["weight_zero_point"], len(codes)).expand(scales.shape)
        return Grouped(self.bits, codes, scales, zeros, stored.get(GROUP_INDEX))

    def _num_groups(self, inputs: int) -> int:
        if self.group_size is None:
            return 1
        if inputs % self.group_size:
            raise BadCheckpoint(
                f"{inputs} inputs of a layer are no whole number of groups of {self.group_size}",
                remedy="Compress it again with a size that divides them",
            )
        return inputs // self.group_size

    def _codes(self, stored: Packed) -> Tensor:
        if self.layout_name == "int-quantized":
            return _raise(stored["weight"], self.bits)
        outputs, inputs = stored["weight_shape"].tolist()
        codes = unsigned(stored["weight_packed"], self.bits)
        if outputs != codes.shape[0] or not 0 <= codes.shape[1] - inputs < 32 // self.bits:
            raise BadCheckpoint(
                f"weight_shape holds {[outputs, inputs]}, weight_packed {list(codes.shape)}", remedy="Fetch them again"
            )
        return codes[:, :inputs].contiguous()

    def _zeros(self, stored: Tensor, outputs: int) -> Tensor:
        if self.layout_name == "int-quantized":
            return _raise(stored.view(-1, 1) if self.strategy == "tensor" else stored, self.bits)
        return unsigned(stored.t(), self.bits).t()[:outputs]


def _raise(signed: Tensor, bits: int) -> Tensor:
    """Signed codes as codes from 0 up. Raises ``BadCheckpoint`` for one that has more bits."""
    middle = 1 << (bits - 1)
    if signed.numel() and not -middle <= int(signed.min()) <= int(signed.max()) < middle:
        raise BadCheckpoint(f"a code lies outside {bits} bits", remedy="Fetch the weights again")
    return (signed.view(torch.uint8) + middle).bitwise_and_((1 << bits) - 1)


def _words(count: int, bits: int) -> int:
    return -(-count * bits // 32)
