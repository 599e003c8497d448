"""Eight-bit floats: no data, a scale per output that loses least.

The largest value of an output goes to the largest code at most. As floats are as fine near one power of two as near
the next, it matters little how large a scale is, and more how its digits lie among those of the weights: the scales of
the octave above, and a few below, which clip, are tried. A scale has four significant bits and so has a code; every
weight they make is exactly a bfloat16, whatever engine unpacks it.

Shapes: O outputs, I inputs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from burnish.compress.chain import HEAD, Part
from burnish.compress.passes.base import Needs, RoundingPass
from burnish.compress.passes.choice import change_record, dense_weight
from burnish.compress.passes.grid import refuse_no_numbers
from burnish.compress.statistics import Flow
from burnish.core.records import LayerRecord
from burnish.models.formats.base import Packed, WeightFormat
from burnish.models.formats.dense import DENSE
from burnish.models.formats.fp8 import CODES, FP8, LARGEST
from burnish.models.layers.linear import Linear

DIGITS = 8  # of a scale in an octave: four significant bits
TRIED = (0, *range(1, DIGITS + 1), -1, -2)  # steps from the least scale that clips nothing
LEAST_SCALE = 2.0**-100  # below, weights would leave the range of bfloat16's normal numbers
NUMBERS_AT_ONCE = 2**21  # weights whose scales are searched together: what they need stays near the cores


@dataclass(frozen=True)
class Float8Rounding(RoundingPass):
    """Rounds every layer on its own.

    ``head``: what the output head becomes. "dense": it stays; not every engine reads a head of another format.
    """

    head: Literal["dense", "fp8"] = "dense"
    needs: ClassVar[Needs] = Needs(data=False)

    @property
    def formats(self) -> tuple[WeightFormat, ...]:
        """That of the layers, and that of the head."""
        return (FP8, DENSE) if self.head == "dense" else (FP8,)

    def target(self, name: str, layer: Linear) -> WeightFormat:
        """The format a layer takes."""
        return DENSE if name == HEAD and self.head == "dense" else FP8

    def apply(self, part: Part, flow: Flow | None) -> Iterator[LayerRecord]:
        """Round the weights and store them packed."""
        for name, layer in part.layers.items():
            if self.target(name, layer) is FP8:
                weight = dense_weight(name, layer)
                packed = round_to_fp8(weight)
                layer.store(FP8, packed)
                yield change_record(name, layer, weight, FP8.unpack(packed))


def round_to_fp8(weight: Tensor) -> Packed:
    """Codes and scales of a weight (O, I) with the least squared error among the scales tried.

    Raises ``BadRequest`` for a weight that holds no numbers.
    """
    refuse_no_numbers(weight)
    pieces = torch.split(weight.float(), max(1, NUMBERS_AT_ONCE // weight.shape[1]))
    scales = [best_scales(piece) for piece in pieces]
    codes = [encode(piece, scale) for piece, scale in zip(pieces, scales, strict=True)]
    return FP8.pack(torch.cat(codes), torch.cat(scales))


def best_scales(rows: Tensor) -> Tensor:
    """The scales (O, 1) of rows (O, I), float32; 1 where there is nothing to scale."""
    largest = rows.abs().amax(1, keepdim=True)
    digits, exponents = torch.frexp((largest / LARGEST).clamp(min=LEAST_SCALE))
    least = (digits * 2 * DIGITS).ceil()  # DIGITS to 2 * DIGITS
    units = torch.ldexp(rows, -exponents)  # whose squares are numbers
    best, chosen = torch.full_like(largest, float("inf")), torch.ones_like(largest)
    for step in TRIED:
        tried = _with_digits(least + step)
        error = (encode(units, tried).float() * tried - units).square_().sum(1, keepdim=True)
        chosen = torch.where(error < best, tried, chosen)
        best = torch.minimum(error, best)
    return torch.where(largest > 0, torch.ldexp(chosen, exponents), 1.0)


def _with_digits(count: Tensor) -> Tensor:
    """The ``count``-th number of four significant bits: 0.5 is the eighth, and every octave has eight of them."""
    above, below = count > 2 * DIGITS, count < DIGITS
    digits = torch.where(above, 2 * (count - DIGITS), torch.where(below, (count + DIGITS) / 2, count))
    return digits / (2 * DIGITS)


def encode(rows: Tensor, scales: Tensor) -> Tensor:
    """The nearest codes of rows (O, I) under scales (O, 1), the even one of two; the largest for what is larger."""
    return (rows / scales).clamp_(-LARGEST, LARGEST).to(CODES)
