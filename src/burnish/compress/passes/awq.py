"""AWQ (Lin et al. 2023): columns of large inputs are scaled up before rounding, and their inputs down.

Shapes: O outputs, I inputs, R rows kept of the calibration data.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from burnish.compress.chain import Part
from burnish.compress.fold import STORED, fold
from burnish.compress.passes.base import Needs, Pass
from burnish.compress.passes.choice import FormatChoice, dense_weight
from burnish.compress.passes.grid import quantize
from burnish.compress.passes.imatrix import SHRINKS
from burnish.compress.statistics import Flow, Inputs, observe
from burnish.core.records import LayerRecord
from burnish.models.formats.integer import IntegerFormat
from burnish.models.layers.linear import Linear

STEPS = 20
ROWS = 512
LEAST = 1e-4


@dataclass(frozen=True)
class ActivationAwareScaling(Pass):
    """Finds the exponent r with the least error of the outputs, for each group of layers that share their input.

    The scales are the mean magnitudes of the inputs to the power r, with r = 0 (nothing moves) among those tried. They
    are folded into the norm or layer before; where neither is there, nothing is done. A rounding pass must follow:
    the one by importance, whose rounding the search foresees.
    """

    choice: FormatChoice
    needs: ClassVar[Needs] = Needs(data=True)

    def check(self, name: str, layer: Linear) -> None:
        """Raise ``BadSettings`` for a layer that is not dense or fits none of the formats."""
        self.choice.check(name, layer)

    def apply(self, part: Part, flow: Flow | None) -> Iterator[LayerRecord]:
        """Move scales between the part's norms and layers."""
        assert flow is not None
        inputs = observe(part, flow, num_rows=ROWS)
        for shared in part.inputs:
            if shared.source is None:
                continue
            layers = [part.layers[name] for name in shared.layers]
            rounded = [name for name in shared.layers if name not in self.choice.dense]
            targets = [self.choice.find(name, part.layers[name]) for name in rounded]
            weights = [dense_weight(name, part.layers[name]) for name in rounded]
            exponent = best_exponent(weights, targets, inputs[shared.layers[0]])
            if exponent > 0:
                fold(shared.source, layers, scales(inputs[shared.layers[0]], exponent), stored=STORED)
        yield from ()


def scales(inputs: Inputs, exponent: float) -> Tensor:
    """Scales (I,) around one."""
    found = inputs.absolute.clamp(min=LEAST) ** exponent
    return found / (found.max() * found.min()).sqrt()


def best_exponent(weights: Sequence[Tensor], targets: Sequence[IntegerFormat], inputs: Inputs) -> float:
    """The exponent under which rounding all of the weights (O, I) changes their outputs least.

    Every layer counts alike: its error is taken as a share of its outputs.
    """
    rows = inputs.rows
    assert rows is not None
    outputs = [rows @ weight.T for weight in weights]

    def error(exponent: float) -> float:
        scale = scales(inputs, exponent)
        importance, divided = inputs.square / scale.square(), rows / scale
        total = 0.0
        for weight, target, output in zip(weights, targets, outputs, strict=True):
            chosen = quantize(weight * scale, target, importance=importance, shrinks=SHRINKS, refit=True)
            rounded = chosen.dequantize().to(divided.dtype)
            total += float((divided @ rounded.T - output).square().sum() / output.square().sum().clamp(min=1e-30))
        return total

    return min((step / STEPS for step in range(STEPS)), key=error)
