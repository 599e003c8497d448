"""Quantization-aware training: the model learns with its weights rounded, the float model being its teacher.

The steps between codes learn too (LSQ, Esser et al. 2019).

Shapes: O outputs, I inputs, N groups.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from burnish.compress.chain import decoder_chain
from burnish.compress.passes.choice import FormatChoice, dense_weight, store
from burnish.compress.passes.grid import Grid, fit, quantized, storable
from burnish.compress.seen import SeenThroughGrid
from burnish.core.records import LayerRecord
from burnish.models.decoder import Decoder
from burnish.models.formats.base import Packed, WeightFormat
from burnish.models.formats.integer import IntegerFormat, Quantized
from burnish.models.layers.linear import Linear


class FakeQuantized(SeenThroughGrid):
    """A grid whose scales learn with the weight."""

    def __init__(self, weight: Tensor, target: IntegerFormat) -> None:
        super().__init__(target)
        grid = fit(self.groups(weight), target, refit=True)
        self.scales = nn.Parameter(grid.scales.clone())  # (O, N)
        self.zeros = grid.zeros
        # LSQ, section 2.2: a step learns as slowly as the many weights it serves would have it
        self._damp = 1 / (weight.shape[1] / grid.scales.shape[1] * max(1, target.highest)) ** 0.5

    def unpack(self, packed: Packed) -> Tensor:
        """The weight (O, I) as it is rounded now, with gradients for it and for the scales."""
        scales = self.scales * self._damp + (self.scales * (1 - self._damp)).detach()
        return self.rounded(packed["weight"], Grid(scales, self.zeros))

    def result(self, weight: Tensor) -> Quantized:
        """Codes and scales of the weight (O, I) as it is rounded now, but for the scales' being stored."""
        grid = Grid(storable(self.scales.detach(), self.target), self.zeros)
        return quantized(grid, grid.codes(self.groups(weight), self.target), self.target)


class Student(nn.Module):
    """A decoder whose linear layers see their weights rounded."""

    def __init__(self, decoder: Decoder, choice: FormatChoice) -> None:
        """Raise ``BadSettings`` for a layer that is not dense or fits none of the formats."""
        super().__init__()
        self.decoder = decoder.requires_grad_(True)
        layers = decoder_chain(decoder).layers
        for name, layer in layers.items():
            choice.check(name, layer)
        self._layers: Mapping[str, Linear] = layers
        self._dense: WeightFormat = next(iter(layers.values())).format
        self._grids = [
            FakeQuantized(dense_weight(name, layer), choice.find(name, layer)) for name, layer in layers.items()
        ]
        self.scales = nn.ParameterList(grid.scales for grid in self._grids)
        for layer, grid in zip(layers.values(), self._grids, strict=True):
            layer.format = grid

    @torch.no_grad()
    def finish(self) -> list[LayerRecord]:
        """Store every weight as it was rounded last; the decoder is a compressed one then."""
        records = []
        for (name, layer), grid in zip(self._layers.items(), self._grids, strict=True):
            layer.format = self._dense
            weight = dense_weight(name, layer)
            records.append(store(name, layer, grid.target, grid.result(weight)))
        self.decoder.requires_grad_(False)
        return records
