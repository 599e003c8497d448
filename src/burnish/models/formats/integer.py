"""Integer weights: codes times scales, in the layouts of compressed-tensors.

A pass of compression chooses codes and scales; ``pack`` stores them exactly as chosen and ``restore`` gives them back,
which is what the native kernels take. ``unpack`` gives the weight as float32, for the plain reference.

Shapes: O outputs, I inputs, N groups of consecutive inputs sharing a scale.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from burnish.core.errors import BadRequest
from burnish.kernels.tiles import Kind
from burnish.models.formats.base import Packed, TensorSpec

WORD, _BYTE = 32, 8  # bits


class Quantized(NamedTuple):
    """A weight as integers: ``weight[o, i] = (codes[o, i] - zeros[o, n]) * scales[o, n]`` with ``n = i // (I / N)``.

    Without zeros, codes are signed and stand for themselves; with zeros, both are 0 to 2^bits - 1, or -128 to 127 where
    they have eight bits, so that a byte holds them.
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
    """Codes of ``bits`` bits, a scale per ``group_size`` inputs (None: one per output), a zero point if asymmetric.

    ``bytewise``: each code of eight bits is a byte of its own, not a part of a word. Nothing else differs, not even
    the name: engines that round inputs too look for bytes, and those that leave inputs alone for words.
    """

    name: str
    bits: int
    group_size: int | None
    asymmetric: bool = False
    bytewise: bool = False

    def as_bytes(self) -> Self:
        """The same with a byte a code, where codes have eight bits."""
        return replace(self, bytewise=True) if self.bits == _BYTE else self

    @property
    def lowest(self) -> int:
        """The least code."""
        return 0 if self.asymmetric and self.bits < _BYTE else -(1 << (self.bits - 1))

    @property
    def highest(self) -> int:
        """The greatest code."""
        return self.lowest + (1 << self.bits) - 1

    @property
    def kind(self) -> Kind:
        """What the kernels take the weight as: their narrowest is four bits, and eight bits have no zero points there.

        Eight bits less a zero point may take nine, which float32 holds exactly.
        """
        if self.bits < _BYTE:
            return "int4"
        return "f32" if self.asymmetric else "int8"

    @property
    def multiplied_as_integers(self) -> bool:
        """Whether the kernels take codes and scales as they are."""
        return self.kind != "f32"

    def fits(self, inputs: int) -> bool:
        """Whether the inputs are a whole number of groups."""
        return self.group_size is None or inputs % self.group_size == 0

    def num_groups(self, inputs: int) -> int:
        """Scales per output. Raises ``BadRequest`` when the inputs are no whole number of groups."""
        if self.group_size is None:
            return 1
        if not self.fits(inputs):
            raise BadRequest(
                f"{inputs} inputs of a layer are no whole number of groups of {self.group_size}",
                remedy="Take a smaller group, int8, or leave the layer dense",
            )
        return inputs // self.group_size

    def layout(self, outputs: int, inputs: int) -> dict[str, TensorSpec]:
        """Codes one after the other in words of 32 bits, the first in the lowest, or a byte a code; scales beside them.

        Zero points are in words like the codes, packed along the outputs, or a byte each as well.
        """
        groups = self.num_groups(inputs)
        scales = TensorSpec((outputs, groups), torch.float32)
        if self.bytewise:
            specs = {"weight": TensorSpec((outputs, inputs), torch.int8), "weight_scale": scales}
            zeros = {"weight_zero_point": TensorSpec((outputs, groups), torch.int8)}
            return specs | zeros if self.asymmetric else specs
        specs = {
            "weight_packed": TensorSpec((outputs, num_words(inputs, self.bits)), torch.int32),
            "weight_scale": scales,
            "weight_shape": TensorSpec((2,), torch.int64),
        }
        if self.asymmetric:
            specs["weight_zero_point"] = TensorSpec((num_words(outputs, self.bits), groups), torch.int32)
        return specs

    def pack(self, quantized: Quantized) -> Packed:
        """Store codes and scales as they are."""
        codes, scales, zeros = quantized
        assert scales.shape == (codes.shape[0], self.num_groups(codes.shape[1])), scales.shape
        assert codes.dtype == torch.int8
        assert self.lowest <= codes.min()
        assert codes.max() <= self.highest
        assert (zeros is not None) == self.asymmetric
        if self.bytewise:
            return {"weight": codes, "weight_scale": scales} | ({} if zeros is None else {"weight_zero_point": zeros})
        packed = {"weight_packed": _join(codes, self.bits, self.lowest), "weight_scale": scales}
        packed["weight_shape"] = torch.tensor(codes.shape)
        if zeros is not None:
            packed["weight_zero_point"] = _join(zeros.t(), self.bits, self.lowest).t().contiguous()
        return packed

    def restore(self, packed: Packed) -> Quantized:
        """The codes, scales and zero points that were packed."""
        if self.bytewise:
            return Quantized(packed["weight"], packed["weight_scale"], packed.get("weight_zero_point"))
        outputs, inputs = packed["weight_shape"].tolist()
        codes = _split(packed["weight_packed"], self.bits, self.lowest)[:, :inputs]
        zeros = None
        if self.asymmetric:
            zeros = _split(packed["weight_zero_point"].t(), self.bits, self.lowest).t()[:outputs].contiguous()
        return Quantized(codes.contiguous(), packed["weight_scale"], zeros)

    def unpack(self, packed: Packed) -> Tensor:
        """The weight as float32 (O, I)."""
        return self.restore(packed).dequantize()

    def random(self, outputs: int, inputs: int, generator: torch.Generator) -> Packed:
        """Uniform codes; scales that give the weight a standard deviation near 0.02."""
        groups = self.num_groups(inputs)
        scales = torch.full((outputs, groups), 0.02 * 12**0.5 / 2**self.bits).half().float()
        if self.bytewise:
            codes = {"weight": _random(torch.int8, (outputs, inputs), generator), "weight_scale": scales}
            zeros = {"weight_zero_point": _random(torch.int8, (outputs, groups), generator)} if self.asymmetric else {}
            return codes | zeros
        packed = {"weight_packed": _random(torch.int32, (outputs, num_words(inputs, self.bits)), generator)}
        packed |= {"weight_scale": scales, "weight_shape": torch.tensor((outputs, inputs))}
        if self.asymmetric:
            packed["weight_zero_point"] = _random(torch.int32, (num_words(outputs, self.bits), groups), generator)
        return packed


def num_words(count: int, bits: int) -> int:
    """Words of 32 bits that hold ``count`` codes, one after the other."""
    return -(-count * bits // WORD)


def _join(codes: Tensor, bits: int, lowest: int) -> Tensor:
    """Codes (O, I) as words (O, W), the first code in the lowest bits; the last word is filled up with zeros."""
    raised = (codes - lowest).to(torch.uint8).contiguous().numpy()
    if bits == 8:
        return torch.from_numpy(np.pad(raised, ((0, 0), (0, -raised.shape[1] % 4))).view(np.int32))
    stream = np.unpackbits(raised[..., np.newaxis], axis=-1, count=bits, bitorder="little").reshape(len(raised), -1)
    stream = np.pad(stream, ((0, 0), (0, -stream.shape[1] % WORD)))
    return torch.from_numpy(np.packbits(stream, axis=-1, bitorder="little").view(np.int32))


def _split(words: Tensor, bits: int, lowest: int) -> Tensor:
    """Words (O, W) as codes (O, 32 W / bits, rounded down): the inverse of ``_join``."""
    packed = words.reshape(-1).view(torch.uint8).view(len(words), -1)
    if bits == 8:
        raised = packed
    elif bits == 4:  # the low nibble of a byte is the earlier code
        raised = torch.stack((packed & 15, packed >> 4), -1).flatten(1)
    else:
        stream = np.unpackbits(packed.numpy(), axis=-1, bitorder="little")
        whole = stream[:, : stream.shape[1] // bits * bits].reshape(len(stream), -1, bits)
        raised = torch.from_numpy(np.packbits(whole, axis=-1, bitorder="little")[..., 0])
    return raised.view(torch.int8) + lowest


def _random(dtype: torch.dtype, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    limits = torch.iinfo(dtype)
    return torch.randint(limits.min, limits.max + 1, shape, dtype=dtype, generator=generator)
