"""SparseGPT (Frantar and Alistarh 2023): what a zero takes from the outputs, the columns still to come make up for.

Shapes: O outputs, I inputs.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from burnish.compress.passes.base import Needs
from burnish.compress.passes.gptq import compensate, inverse_factor
from burnish.compress.passes.prune import PruningPass
from burnish.compress.passes.sparsity import Sparsity
from burnish.compress.statistics import Inputs


@dataclass(frozen=True)
class SparseGpt(PruningPass):
    """A weight counts by its square over what the others can make up for; those that stay change."""

    needs: ClassVar[Needs] = Needs(data=True, moments=True)

    def prune(self, weight: Tensor, inputs: Inputs | None, sparsity: Sparsity) -> Tensor:
        """The weight (O, I) with zeros and what makes up for them."""
        assert inputs is not None
        assert inputs.second_moment is not None
        return sparsegpt(weight, inputs.second_moment, sparsity)


def sparsegpt(weight: Tensor, second_moment: Tensor, sparsity: Sparsity) -> Tensor:
    """The pruned weight (O, I) under the mean of x xᵀ (I, I) of its inputs.

    A moment that cannot be inverted however it is damped leaves magnitudes times inputs to choose by.
    """
    factor = inverse_factor(second_moment)
    if factor is None:
        return weight * sparsity.mask_by_row(weight.abs() * second_moment.diagonal().sqrt())
    pruner = _Pruner(weight, factor.diagonal(), sparsity)
    compensate(weight.clone(), factor, pruner)
    return pruner.result


class _Pruner:
    """Chooses the zeros of a block of columns, or of a pattern, when its first column comes."""

    def __init__(self, weight: Tensor, diagonal: Tensor, sparsity: Sparsity) -> None:
        self.result = torch.empty_like(weight)
        self._is_kept = torch.empty(weight.shape, dtype=torch.bool)
        self._diagonal, self._sparsity = diagonal, sparsity

    def begin(self, weight: Tensor, first: int, last: int) -> None:
        """Choose among columns ``first`` to ``last`` of the weight (O, I), unless patterns are chosen one by one."""
        if not self._sparsity.is_pattern:
            self._choose(weight, first, last)

    def column(self, weight: Tensor, index: int) -> Tensor:
        """The column, zeros in."""
        if self._sparsity.is_pattern and index % self._sparsity.of == 0:
            self._choose(weight, index, index + self._sparsity.of)
        self.result[:, index] = weight[:, index] * self._is_kept[:, index]
        return self.result[:, index]

    def _choose(self, weight: Tensor, first: int, last: int) -> None:
        scores = (weight[:, first:last] / self._diagonal[first:last]).square()
        self._is_kept[:, first:last] = self._sparsity.mask(scores)
