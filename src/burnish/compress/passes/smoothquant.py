"""SmoothQuant (Xiao et al. 2022): outliers move from the inputs to the weights, so that both fit eight bits."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from burnish.compress.chain import Part
from burnish.compress.fold import STORED, fold
from burnish.compress.passes.base import Needs, Pass
from burnish.compress.statistics import Flow, observe
from burnish.core.errors import BadSettings
from burnish.core.records import LayerRecord

LEAST = 1e-5


@dataclass(frozen=True)
class Smoothing(Pass):
    """Divides inputs by max|x| ** alpha / max|w| ** (1 - alpha), column by column.

    Only where a norm or layer before can take the division. A rounding pass must follow. ``alpha``: how much of the
    difficulty moves to the weights, 0 to 1.
    """

    alpha: float = 0.5
    needs: ClassVar[Needs] = Needs(data=True)

    def __post_init__(self) -> None:
        """Raise ``BadSettings`` for an alpha that is no share."""
        if not 0 <= self.alpha <= 1:
            raise BadSettings(f"smoothquant: alpha {self.alpha} is no share", remedy="Use 0 to 1; 0.5 is usual")

    def apply(self, part: Part, flow: Flow | None) -> Iterator[LayerRecord]:
        """Move scales between the part's norms and layers."""
        assert flow is not None
        inputs = observe(part, flow)
        for shared in part.inputs:
            if shared.source is not None:
                layers = [part.layers[name] for name in shared.layers]
                widest = torch.stack([layer.dense_weight().abs().amax(0) for layer in layers]).amax(0)
                largest = inputs[shared.layers[0]].largest
                scales = largest.clamp(min=LEAST) ** self.alpha / widest.clamp(min=LEAST) ** (1 - self.alpha)
                fold(shared.source, layers, scales.clamp(min=LEAST), stored=STORED)
        yield from ()
