"""SmoothQuant (Xiao et al. 2022): outliers move from the inputs to the weights, so that both fit eight bits."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from burnish.compress.chain import Part
from burnish.compress.fold import STORED, fold
from burnish.compress.passes.base import Needs, Pass
from burnish.compress.statistics import Flow, observe
from burnish.core.records import LayerRecord

LEAST = 1e-5


@dataclass(frozen=True)
class Smoothing(Pass):
    """Divides inputs by max|x| ** alpha / max|w| ** (1 - alpha), column by column.

    Only where a norm or layer before can take the division. A rounding pass must follow.
    """

    alpha: float = 0.5
    needs: ClassVar[Needs] = Needs(data=True)

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
