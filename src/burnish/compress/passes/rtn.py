"""Round to nearest: no data, a scale per group that loses least.

Symmetric integers reach one step further down than up. A group whose value of largest magnitude is positive
therefore gets a negative scale, so that this value lands on the spare lowest code ("full range", AutoRound;
llama.cpp's Q4_0 does the same). Around that scale a few smaller ones are tried, which clip the largest value to
round all others more finely; the least squared error wins, group by group.

Shapes: O outputs, I inputs, N groups, K inputs of a group.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from burnish.compress.passes.base import LayerStats
from burnish.core.errors import BadRequest, BadSettings
from burnish.core.records import LayerRecord
from burnish.models.formats.dense import Dense
from burnish.models.formats.integer import IntegerFormat, Quantized
from burnish.models.layers.linear import Linear

OUTPUT_HEAD, EIGHT_BITS = "lm_head", IntegerFormat("int8", 8, None)
# Clipping further lowers the squared error still, yet raised perplexity at the widest groups of both models tried.
SHRINKS = (1.0, 0.97, 0.94)


@dataclass(frozen=True)
class RoundToNearest:
    """Stores each layer in the first of ``formats`` whose groups divide its inputs, the output head in ``head``.

    The head is the largest matrix of a small model, and what is rounded there costs most: it takes eight bits.
    """

    formats: tuple[IntegerFormat, ...]
    head: IntegerFormat = EIGHT_BITS
    needs_data: bool = False

    def check(self, layer: Linear, stats: LayerStats) -> None:
        """Raise ``BadSettings`` for a layer that is not dense or fits none of the formats."""
        if not isinstance(layer.format, Dense):
            raise BadSettings(
                f"layer {stats.name} is stored as {layer.format.name} already", remedy="Compress the dense parent"
            )
        self._format_of(layer, stats)

    def apply(self, layer: Linear, stats: LayerStats) -> LayerRecord:
        """Round the layer's weight and store it packed."""
        weight, chosen = layer.dense_weight().detach(), self._format_of(layer, stats)
        quantized = round_to_nearest(weight, chosen)
        packed = chosen.pack(quantized)
        error = float((quantized.dequantize() - weight).norm() / weight.norm().clamp(min=1e-30))
        bytes_before, bytes_after = weight.nbytes, sum(tensor.nbytes for tensor in packed.values())
        layer.store(chosen, packed)
        return LayerRecord(
            name=stats.name,
            format=chosen.name,
            bits=8 * bytes_after / weight.numel(),
            bytes_before=bytes_before,
            bytes_after=bytes_after,
            relative_error=error,
        )

    def _format_of(self, layer: Linear, stats: LayerStats) -> IntegerFormat:
        for candidate in (self.head,) if stats.name == OUTPUT_HEAD else self.formats:
            if candidate.group_size is None or layer.in_features % candidate.group_size == 0:
                return candidate
        names = ", ".join(candidate.name for candidate in self.formats)
        raise BadSettings(
            f"layer {stats.name} has {layer.in_features} inputs, no whole number of groups of {names}",
            remedy="Take recipe int4, which falls back to smaller groups and int8",
        )


def round_to_nearest(weight: Tensor, target: IntegerFormat) -> Quantized:
    """Codes and scales of weight (O, I) with the least squared error among the scales tried.

    Raises ``BadRequest`` for a weight that holds no numbers.
    """
    if not weight.isfinite().all():
        raise BadRequest("a weight holds infinities or what is no number", remedy="Fetch the weights again")
    groups = weight.view(weight.shape[0], target.num_groups(weight.shape[1]), -1)  # (O, N, K)
    low, high = groups.amin(-1), groups.amax(-1)
    full = torch.where(high > -low, -high, -low) / -target.lowest  # (O, N); of the sign that spends the lowest code
    full = full.masked_fill(full == 0, 1.0)
    best = torch.full_like(full, float("inf"))
    scales = full
    for shrink in SHRINKS:
        tried = _storable(full * shrink, target)
        error = (_round(groups, tried, target) * tried.unsqueeze(-1) - groups).square().sum(-1)
        scales = torch.where(error < best, tried, scales)
        best = torch.minimum(error, best)
    return Quantized(_round(groups, scales, target).to(torch.int8).view(weight.shape), scales)


def _storable(scales: Tensor, target: IntegerFormat) -> Tensor:
    """Scales of groups as float16 holds them, so that the kernels' layout loses nothing; others stay as they are."""
    half = torch.finfo(torch.float16)
    is_storable = (scales.abs() >= half.smallest_normal) & (scales.abs() <= half.max)
    return torch.where(is_storable & (target.group_size is not None), scales.half().float(), scales)


def _round(groups: Tensor, scales: Tensor, target: IntegerFormat) -> Tensor:
    """Codes (O, N, K) of groups under scales (O, N), still as floats."""
    return (groups / scales.unsqueeze(-1)).round_().clamp_(target.lowest, target.highest)
