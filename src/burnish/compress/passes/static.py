"""Inputs of layers rounded to 8-bit steps that are settled beforehand: what integer engines for images run fastest.

One scale and one zero point a layer, for all its inputs and all times (static, per tensor).
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

ROWS = 1024
SHRINKS = tuple(1 - 0.025 * step for step in range(21))  # of the range that was seen, down to half of it
STEPS = 255
LOWEST = -128
LEAST = 1e-12  # a scale: of a layer that nothing reaches


class Steps(NamedTuple):
    """``value = (code - zero_point) * scale`` of codes -128 to 127, (1,) each."""

    scale: Tensor
    zero_point: Tensor


@dataclass(frozen=True)
class StaticInputs(Pass):
    """Settles the steps of every layer's inputs: the share of the range seen that loses least, in squares.

    A rounding pass to eight bits must follow.
    """

    needs: ClassVar[Needs] = Needs(data=True)

    def apply(self, part: Part, flow: Flow | None) -> Iterator[LayerRecord]:
        """Let the layers round their inputs from now on."""
        assert flow is not None
        inputs = observe(part, flow, num_rows=ROWS)
        for shared in part.inputs:
            steps = settle(inputs[shared.layers[0]])
            for name in shared.layers:
                part.layers[name].round_inputs(*steps)
        yield from ()


def settle(inputs: Inputs) -> Steps:
    """The steps for what was seen of a layer's inputs. Zero is one of them: padding stays what it is."""
    assert inputs.rows is not None
    values = inputs.rows.flatten()
    low, high = inputs.lowest.min().clamp(max=0), inputs.highest.max().clamp(min=0)

    def lost(steps: Steps) -> float:
        codes = ((values / steps.scale).round() + steps.zero_point).clamp(LOWEST, LOWEST + STEPS)
        return float(((codes - steps.zero_point) * steps.scale - values).square().sum())

    return min((_steps(low * shrink, high * shrink) for shrink in SHRINKS), key=lost)


def _steps(low: Tensor, high: Tensor) -> Steps:
    scale = ((high - low) / STEPS).clamp(min=LEAST).view(1)
    zero = (LOWEST - low / scale).round().clamp(LOWEST, LOWEST + STEPS)
    return Steps(scale, zero.to(torch.int8).view(1))
