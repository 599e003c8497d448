"""Rounding that errs where it matters least: a column's error counts by the mean square of its input.

The method is that of llama.cpp's importance matrix and of auto-round's "opt-RTN": no weight is moved to make up for
another's error, only scales are searched, so it costs one run of the data and little more.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from burnish.compress.chain import Part
from burnish.compress.passes.base import IntegerRounding, Needs
from burnish.compress.passes.choice import dense_weight, store
from burnish.compress.passes.grid import quantize
from burnish.compress.statistics import Flow, observe
from burnish.core.records import LayerRecord

SHRINKS = (1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.82)  # a superset of what rounding without data tries
ROWS = 256


@dataclass(frozen=True)
class ImportanceRounding(IntegerRounding):
    """Searches each group's scale under the importance of its columns."""

    needs: ClassVar[Needs] = Needs(data=True)

    def apply(self, part: Part, flow: Flow | None) -> Iterator[LayerRecord]:
        """Round the weights and store them packed."""
        assert flow is not None
        inputs = observe(part, flow, num_rows=ROWS)
        for name, layer in part.layers.items():
            seen, target = inputs[name], self.choice.find(name, layer)
            weight = dense_weight(name, layer)
            chosen = quantize(weight, target, importance=seen.square, shrinks=SHRINKS, refit=True)
            yield store(name, layer, target, chosen, rows=seen.rows)
