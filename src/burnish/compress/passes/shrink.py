"""Shrinking as a pass: fewer neurons, heads, channels or layers."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from burnish.compress.distill import floats_of_row
from burnish.compress.importance import by_activations, by_gradient
from burnish.compress.passes.whole import Changed, DecoderPass, Material
from burnish.compress.shrink import Shrinkage, choose, shrunk_config, take
from burnish.models.decoder import Decoder, DecoderConfig

FLOAT = 4  # bytes


@dataclass(frozen=True, kw_only=True)
class Shrink(Shrinkage, DecoderPass):
    """Takes the pieces that matter most. ``by``: what the data makes flow, or the loss's gradient."""

    by: Literal["activations", "gradient"] = "activations"

    def shape(self, config: DecoderConfig) -> DecoderConfig:
        """The sizes that are left. Raises ``BadSettings`` for a share that takes nothing."""
        return shrunk_config(config, self)

    def apply(self, decoder: Decoder, material: Material) -> Changed:
        """Return the smaller decoder."""
        target = self.shape(decoder.config)
        measure = by_activations if self.by == "activations" else by_gradient
        importance = measure(decoder, material.data.tokens)
        return Changed(take(decoder, target, choose(importance, decoder.config, target)))

    def memory_bytes(self, model: nn.Module, length: int = 0) -> int:
        """The smaller decoder is no larger than the one given; the way back keeps weights and what a sample leaves."""
        weights = sum(parameter.numel() for parameter in model.parameters())
        if self.by == "activations":
            return FLOAT * weights
        assert isinstance(model, Decoder)
        return FLOAT * (weights + length * floats_of_row(model.config))
