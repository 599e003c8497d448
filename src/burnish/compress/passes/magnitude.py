"""Magnitude pruning (Han et al. 2015): the smallest weights of a layer go, whatever flows through them."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from burnish.compress.passes.base import Needs
from burnish.compress.passes.prune import PruningPass
from burnish.compress.passes.sparsity import Sparsity
from burnish.compress.statistics import Inputs


@dataclass(frozen=True)
class MagnitudePruning(PruningPass):
    """The baseline: it needs no data."""

    needs: ClassVar[Needs] = Needs(data=False)

    def prune(self, weight: Tensor, inputs: Inputs | None, sparsity: Sparsity) -> Tensor:
        """The weight (O, I) without its smallest values."""
        return weight * sparsity.mask(weight.abs())
