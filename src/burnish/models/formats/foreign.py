"""Weights as other tools store them, and the native format each becomes.

Groups of inputs that lie in runs of 128, 64 or 32 inputs become native groups as they are: larger groups, and a single
one per output, are cut up and their scale repeated. What no native format holds (inputs of one group scattered by act
order, eight bits with far zero points) is rounded to eight bits in groups of 32, and the error of that is reported.

Shapes: O outputs, I inputs, G groups as stored, N native groups.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from burnish.core.errors import BadCheckpoint
from burnish.models.formats.base import Packed, TensorSpec
from burnish.models.formats.integer import IntegerFormat, Quantized
from burnish.models.formats.table import FORMATS

NATIVE_GROUPS = (128, 64, 32)
ROWS_AT_ONCE = 1024  # of a weight that is rounded: floats of a whole head would fill a gigabyte


class Grouped(NamedTuple):
    """A weight: ``weight[o, i] = (codes[o, i] - zeros[o, g]) * scales[o, g]`` with ``g = group_of[i]``."""

    bits: int
    codes: Tensor  # (O, I) uint8
    scales: Tensor  # (O, G), any float type
    zeros: Tensor  # (O, G) uint8
    group_of: Tensor | None = None  # (I,) integers below G; None: I / G consecutive inputs each

    def groups(self) -> Tensor:
        """The group of each input (I,). Raises ``BadCheckpoint`` for an index that is none."""
        inputs, count = self.codes.shape[1], self.scales.shape[1]
        if self.group_of is None:
            return torch.arange(inputs) // (inputs // count)
        if self.group_of.numel() and not 0 <= int(self.group_of.min()) <= int(self.group_of.max()) < count:
            raise BadCheckpoint(f"an input belongs to no group of 0 to {count - 1}", remedy="Fetch the weights again")
        return self.group_of.long()

    def dequantize(self) -> Tensor:
        """The weight as float32 (O, I)."""
        groups = self.groups()
        return (self.codes.float() - self.zeros[:, groups].float()) * self.scales[:, groups].float()


class Error(NamedTuple):
    """What rounding cost, as sums of squares."""

    lost: float
    whole: float

    @property
    def relative(self) -> float:
        """Norm of the error over norm of the weight."""
        return float((self.lost / self.whole) ** 0.5) if self.whole else 0.0


class Native(NamedTuple):
    """A weight in a native format; the error is None when nothing was lost."""

    weight_format: IntegerFormat
    quantized: Quantized
    error: Error | None = None

    def packed(self) -> Packed:
        """The weight's tensors, as ``Linear.store`` takes them."""
        return self.weight_format.pack(self.quantized)


class Foreign(ABC):
    """How somebody else's checkpoint stores one weight (O, I)."""

    optional: frozenset[str] = frozenset()  # names of the layout that may be missing

    @abstractmethod
    def layout(self, outputs: int, inputs: int) -> dict[str, TensorSpec]:
        """What is stored, beside the module's name. Raises ``BadCheckpoint`` when the weight does not fit."""

    @abstractmethod
    def becomes(self, inputs: int) -> IntegerFormat:
        """The native format to expect; the tensors themselves may show that another one is exact."""

    @abstractmethod
    def read(self, stored: Packed) -> Grouped | Tensor:
        """The weight from the tensors of the layout, as float32 (O, I) where its groups are none of ours.

        Raises ``BadCheckpoint``.
        """


def expected(bits: int, group_size: int | None, inputs: int, *, symmetric: bool, scattered: bool) -> IntegerFormat:
    """The native format of weights described so; ``group_size`` None: one group per output."""
    run = next((size for size in NATIVE_GROUPS if (group_size or inputs) % size == 0), None)
    if scattered or (bits == 8 and not symmetric) or (run is None and group_size is not None):
        return nearest_format(inputs)
    if bits == 8 or run is None:
        return _eight(None if group_size is None else run)
    return _four(run, symmetric)


def nearest_format(inputs: int) -> IntegerFormat:
    """Where weights go that no native format holds exactly."""
    return _eight(None if inputs % 32 else 32)


def to_native(weight: Grouped | Tensor) -> Native:
    """The weight in the native format that holds it exactly, else in the nearest."""
    if isinstance(weight, Tensor):
        return nearest(weight)
    groups, single = weight.groups(), weight.scales.shape[1] == 1
    run = next((size for size in NATIVE_GROUPS if _are_runs(groups, size)), None)
    if run is None and not single:
        return nearest(weight.dequantize())
    if weight.bits == 4 and run is not None:
        firsts = groups[::run]
        return _nibbles(weight.codes, weight.scales[:, firsts], weight.zeros[:, firsts], run)
    differences = weight.codes.to(torch.int16) - weight.zeros[:, groups].to(torch.int16)
    if not -128 <= int(differences.min()) <= int(differences.max()) <= 127:
        return nearest(weight.dequantize())
    scales = weight.scales if single or run is None else weight.scales[:, groups[::run]]
    return Native(_eight(None if single else run), Quantized(differences.to(torch.int8), scales))


def nearest(weight: Tensor) -> Native:
    """weight (O, I) rounded to eight bits, the largest value of a group to the greatest code."""
    chosen = nearest_format(weight.shape[1])
    pieces = torch.split(weight, ROWS_AT_ONCE)
    rounded = [_round(piece, chosen) for piece in pieces]
    error = total(error_of(quantized, piece) for quantized, piece in zip(rounded, pieces, strict=True))
    whole = Quantized(torch.cat([part.codes for part in rounded]), torch.cat([part.scales for part in rounded]))
    return Native(chosen, whole, error)


def _round(weight: Tensor, chosen: IntegerFormat) -> Quantized:
    groups = weight.view(weight.shape[0], chosen.num_groups(weight.shape[1]), -1)
    scales = storable(groups.abs().amax(-1) / chosen.highest)
    scales.masked_fill_(scales == 0, 1.0)
    codes = (groups / scales.unsqueeze(-1)).round_().clamp_(chosen.lowest, chosen.highest)
    return Quantized(codes.to(torch.int8).view(weight.shape), scales)


def error_of(quantized: Quantized, weight: Tensor) -> Error:
    """How far a weight (O, I) is from what stands for it."""
    lost = quantized.dequantize().sub_(weight).square_().sum()
    return Error(float(lost), float(weight.square().sum()))


def total(errors: Iterable[Error]) -> Error:
    """The error of several weights together."""
    listed = list(errors)
    return Error(sum(error.lost for error in listed), sum(error.whole for error in listed))


def storable(scales: Tensor) -> Tensor:
    """Scales rounded to float16 where that is a normal number: the kernels' layout then loses nothing."""
    half = torch.finfo(torch.float16)
    magnitudes = scales.abs()
    return torch.where(
        (magnitudes >= half.smallest_normal) & (magnitudes <= half.max), scales.half().float(), scales.float()
    )


def unsigned(words: Tensor, bits: int) -> Tensor:
    """Codes (R, 32 W / bits) uint8 of words (R, W) int32 of 4 or 8 bits each, the first in the lowest bits."""
    found = words.contiguous().view(torch.uint8)
    if bits == 8:
        return found
    pairs = found.unsqueeze(-1)
    return torch.cat((pairs & 15, pairs >> 4), -1).flatten(1)


def _are_runs(groups: Tensor, size: int) -> bool:
    if groups.numel() % size:
        return False
    runs = groups.view(-1, size)
    return bool((runs == runs[:, :1]).all())


def _nibbles(codes: Tensor, scales: Tensor, zeros: Tensor, run: int) -> Native:
    if bool((zeros == 8).all()):
        return Native(_four(run, True), Quantized((codes - 8).view(torch.int8), scales))
    return Native(_four(run, False), Quantized(codes.view(torch.int8), scales, zeros.view(torch.int8)))


def _four(run: int, symmetric: bool) -> IntegerFormat:
    return _find(f"int4-g{run}" + ("" if symmetric else "-asym"))


def _eight(run: int | None) -> IntegerFormat:
    return _find("int8" if run is None else f"int8-g{run}")


def _find(name: str) -> IntegerFormat:
    found = FORMATS[name]
    assert isinstance(found, IntegerFormat)
    return found
