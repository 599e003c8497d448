"""Wanda (Sun et al. 2023): a weight counts by its magnitude times the size of its input, compared within an output."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from burnish.compress.passes.base import Needs
from burnish.compress.passes.prune import PruningPass
from burnish.compress.passes.sparsity import Sparsity
from burnish.compress.statistics import Inputs


@dataclass(frozen=True)
class Wanda(PruningPass):
    """One run of the data and a sort; no weight that stays is changed."""

    needs: ClassVar[Needs] = Needs(data=True)

    def prune(self, weight: Tensor, inputs: Inputs | None, sparsity: Sparsity) -> Tensor:
        """The weight (O, I) without what adds least to each output."""
        assert inputs is not None
        return weight * sparsity.mask_by_row(weight.abs() * inputs.square.sqrt())
