"""Round to nearest: no data, a scale per group that loses least."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from burnish.compress.chain import Part
from burnish.compress.passes.base import IntegerRounding, Needs
from burnish.compress.passes.choice import dense_weight, store
from burnish.compress.passes.grid import quantize
from burnish.compress.statistics import Flow
from burnish.core.records import LayerRecord


@dataclass(frozen=True)
class RoundToNearest(IntegerRounding):
    """Rounds every layer on its own."""

    needs: ClassVar[Needs] = Needs(data=False)

    def apply(self, part: Part, flow: Flow | None) -> Iterator[LayerRecord]:
        """Round the weights and store them packed."""
        for name, layer in part.layers.items():
            target = self.choice.find(name, layer)
            yield store(name, layer, target, quantize(dense_weight(name, layer), target))
