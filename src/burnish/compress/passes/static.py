"""Inputs of layers rounded to 8-bit steps that are settled beforehand: what integer engines for images run fastest.

One scale and one zero point a layer, for all its inputs and all times (static, per tensor). The steps reach over all
that was seen: to cut the range where squared errors are least loses the rare large inputs, which say most.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from burnish.compress.chain import Part
from burnish.compress.passes.base import Needs, Pass
from burnish.compress.statistics import Flow, Inputs, observe
from burnish.core.records import LayerRecord

STEPS = 255
LOWEST = -128
LEAST = 1e-12  # a scale: of a layer that nothing reaches


class Steps(NamedTuple):
    """``value = (code - zero_point) * scale`` of codes -128 to 127, (1,) each."""

    scale: Tensor
    zero_point: Tensor


@dataclass(frozen=True)
class StaticInputs(Pass):
    """Settles the steps of every layer's inputs, over the range that was seen.

    A rounding pass to eight bits must follow.
    """

    needs: ClassVar[Needs] = Needs(data=True)

    def apply(self, part: Part, flow: Flow | None) -> Iterator[LayerRecord]:
        """Let the layers round their inputs from now on."""
        assert flow is not None
        inputs = observe(part, flow)
        for shared in part.inputs:
            steps = settle(inputs[shared.layers[0]])
            for name in shared.layers:
                part.layers[name].round_inputs(*steps)
        yield from ()


def settle(inputs: Inputs) -> Steps:
    """The steps for what was seen of a layer's inputs. Zero is one of them: padding stays what it is."""
    low, high = inputs.lowest.min().clamp(max=0), inputs.highest.max().clamp(min=0)
    scale = ((high - low) / STEPS).clamp(min=LEAST).view(1)
    zero = (LOWEST - low / scale).round().clamp(LOWEST, LOWEST + STEPS)
    return Steps(scale, zero.to(torch.int8).view(1))
