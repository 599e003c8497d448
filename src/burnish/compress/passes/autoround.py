"""AutoRound (Cheng et al. 2023): which way each weight is rounded is learned, part by part, by the signs of gradients.

Shapes: O outputs, I inputs, N groups, K inputs of a group; S samples, T tokens, E hidden width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from burnish.compress.chain import HEAD, Part
from burnish.compress.passes.base import IntegerRounding, Needs
from burnish.compress.passes.choice import dense_weight, store
from burnish.compress.passes.grid import Grid, fit, quantize, quantized, storable
from burnish.compress.passes.imatrix import ROWS, SHRINKS
from burnish.compress.seen import SeenThroughGrid
from burnish.compress.statistics import Flow, Inputs, observe
from burnish.core.records import LayerRecord
from burnish.models.formats.base import Packed
from burnish.models.formats.integer import IntegerFormat, Quantized

MAX_SHIFT = 0.499  # steps: what is zero stays zero
STRETCH = 0.1  # how far a scale may move, as a share of itself


@dataclass(frozen=True)
class AutoRound(IntegerRounding):
    """Learns roundings and scales of all layers of a part together, so that the part gives what it gave before.

    What a part should give is what it gave in the uncompressed model; what flows into it comes from the compressed
    parts before it. The output head, eight bits wide, has its scales searched instead.
    """

    steps: int = 200
    batch: int = 8  # samples of a step
    seed: int = 0
    needs: ClassVar[Needs] = Needs(data=True, original=True)

    def apply(self, part: Part, flow: Flow | None) -> Iterator[LayerRecord]:
        """Round the weights and store them packed."""
        assert flow is not None
        inputs = observe(part, flow, num_rows=ROWS)
        learned = {} if HEAD in part.layers else self._learn(part, flow, inputs)
        for name, layer in part.layers.items():
            target, seen = self.choice.find(name, layer), inputs[name]
            if name in learned:
                chosen = learned[name].result(layer.dense_weight())
            else:
                weight = dense_weight(name, layer)
                chosen = quantize(weight, target, importance=seen.square, shrinks=SHRINKS, refit=True)
            yield store(name, layer, target, chosen, rows=seen.rows)

    def _learn(self, part: Part, flow: Flow, inputs: dict[str, Inputs]) -> "dict[str, Learned]":
        """Roundings of every layer, the best of all steps."""
        assert flow.wanted is not None
        learned = {
            name: Learned(dense_weight(name, layer), self.choice.find(name, layer), inputs[name].square)
            for name, layer in part.layers.items()
        }
        dense = {name: layer.format for name, layer in part.layers.items()}
        generator, best = torch.Generator().manual_seed(self.seed), float("inf")
        try:
            for name, layer in part.layers.items():
                layer.format = learned[name]
            for step in range(self.steps):
                chosen = torch.randperm(len(flow.hidden), generator=generator)[: self.batch]
                with torch.enable_grad():
                    loss = (part.run(flow.hidden[chosen]) - flow.wanted[chosen]).square().mean()
                    loss.backward()  # type: ignore[no-untyped-call]
                if loss.item() < best:
                    best = loss.item()
                    for one in learned.values():
                        one.keep()
                rate = (1 - step / self.steps) / self.steps
                for one in learned.values():
                    one.step(rate)
        finally:
            for name, layer in part.layers.items():
                layer.format = dense[name]
        return learned


class Learned(SeenThroughGrid):
    """A grid whose roundings and scales are being learned."""

    def __init__(self, weight: Tensor, target: IntegerFormat, importance: Tensor) -> None:
        super().__init__(target)
        groups = self.groups(weight)
        self._grid = fit(groups, target, importance=importance.view(groups.shape[1:]), shrinks=SHRINKS, refit=True)
        self._shift = torch.zeros_like(weight).requires_grad_()  # (O, I), of a step, added before rounding
        self._stretch = torch.ones_like(self._grid.scales).requires_grad_()  # (O, N), of the scales
        self.keep()

    def unpack(self, packed: Packed) -> Tensor:
        """The weight (O, I) as it is rounded now, with gradients."""
        grid = Grid(self._grid.scales * self._stretch, self._grid.zeros)
        return self.rounded(packed["weight"].float(), grid, self._shift)

    def step(self, rate: float) -> None:
        """Move by the signs of the gradients."""
        with torch.no_grad():
            for value, low, high in ((self._shift, -MAX_SHIFT, MAX_SHIFT), (self._stretch, 1 - STRETCH, 1 + STRETCH)):
                assert value.grad is not None
                value.sub_(rate * value.grad.sign()).clamp_(low, high)
                value.grad = None

    def keep(self) -> None:
        """These are the best so far."""
        self._best = self._shift.detach().clone(), self._stretch.detach().clone()

    def result(self, weight: Tensor) -> Quantized:
        """Codes and scales of the best step."""
        shift, stretch = self._best
        grid = Grid(storable(self._grid.scales * stretch, self.target), self._grid.zeros)
        codes = self.raw(weight.detach(), grid, shift).detach().round().clamp(self.target.lowest, self.target.highest)
        return quantized(grid, codes, self.target)
