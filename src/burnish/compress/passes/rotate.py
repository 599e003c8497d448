"""Rotation as a pass (QuaRot, Ashkboos et al. 2024): outliers are spread out before anything is rounded."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from burnish.compress.passes.base import Needs
from burnish.compress.passes.whole import Changed, DecoderPass, Material
from burnish.compress.rotation import rotated, rotated_config
from burnish.models.decoder import Decoder, DecoderConfig

FLOAT = 4  # bytes


@dataclass(frozen=True, kw_only=True)
class Rotate(DecoderPass):
    """Rotates the stream and every head's values. Tied embeddings part: the head is a layer of its own then."""

    seed: int = 0
    needs: ClassVar[Needs] = Needs(data=False)
    mixes_columns: ClassVar[bool] = True

    def shape(self, config: DecoderConfig) -> DecoderConfig:
        """The same sizes, the head untied. Raises ``BadSettings`` for a decoder that cannot be rotated."""
        return rotated_config(config)

    def apply(self, decoder: Decoder, material: Material) -> Changed:
        """Return the rotated decoder; what it computes is the same."""
        return Changed(rotated(decoder, torch.Generator().manual_seed(self.seed)))

    def memory_bytes(self, model: nn.Module, length: int = 0) -> int:
        """The rotated weights, in floats, the head among them."""
        assert isinstance(model, Decoder)
        head = model.embed_tokens.weight.numel() if model.config.tied_embeddings else 0
        return FLOAT * (head + sum(parameter.numel() for parameter in model.parameters()))
