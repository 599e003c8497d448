"""Dense weights that are computed with as if they were rounded already, with gradients, while something learns.

Shapes: O outputs, I inputs, N groups, K inputs of a group.
"""

import torch
from torch import Tensor

from burnish.compress.passes.grid import Grid
from burnish.models.formats.base import Packed, TensorSpec
from burnish.models.formats.integer import IntegerFormat


class SeenThroughGrid:
    """Wears ``WeightFormat`` in the place of a layer's dense format; a subclass says how ``unpack`` rounds."""

    name = "seen through a grid"

    def __init__(self, target: IntegerFormat) -> None:
        self.target = target

    def layout(self, outputs: int, inputs: int) -> dict[str, TensorSpec]:
        """The dense weight stays as it is."""
        return {"weight": TensorSpec((outputs, inputs), torch.float32)}

    def random(self, outputs: int, inputs: int, generator: torch.Generator) -> Packed:
        """There is no learning of random weights."""
        raise NotImplementedError

    def groups(self, weight: Tensor) -> Tensor:
        """A weight (O, I) as (O, N, K)."""
        return weight.reshape(weight.shape[0], self.target.num_groups(weight.shape[1]), -1)

    def rounded(self, weight: Tensor, grid: Grid, shift: Tensor | None = None) -> Tensor:
        """The weight (O, I) on the grid; ``shift`` (O, I), in steps, is added before rounding.

        Going back, rounding counts as if it had not been (straight through, Bengio et al. 2013), clipping counts.
        """
        clipped = self.raw(weight, grid, shift).clamp(self.target.lowest, self.target.highest)
        return grid.values(clipped + (clipped.round() - clipped).detach()).flatten(1)

    def raw(self, weight: Tensor, grid: Grid, shift: Tensor | None = None) -> Tensor:
        """Codes (O, N, K) before they are rounded."""
        raw = self.groups(weight) / grid.scales.unsqueeze(-1)
        if shift is not None:
            raw = raw + self.groups(shift)
        return raw if grid.zeros is None else raw + grid.zeros.unsqueeze(-1)
