"""Float weights, as they are."""

import torch
from torch import Tensor

from burnish.models.formats.base import Packed, TensorSpec


class Dense:
    """One tensor of floats (O, I)."""

    name = "dense"

    def layout(self, outputs: int, inputs: int) -> dict[str, TensorSpec]:
        """The weight itself."""
        return {"weight": TensorSpec((outputs, inputs), torch.float32)}

    def random(self, outputs: int, inputs: int, generator: torch.Generator) -> Packed:
        """Normal values of standard deviation 0.02, rounded to bfloat16 as most checkpoints are."""
        return {"weight": torch.empty(outputs, inputs).normal_(std=0.02, generator=generator).bfloat16().float()}

    def unpack(self, packed: Packed) -> Tensor:
        """The weight itself, not a copy, unless it is kept in fewer bits than float32."""
        weight = packed["weight"]
        return weight if weight.element_size() >= 4 else weight.float()


DENSE = Dense()
