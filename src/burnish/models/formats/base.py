"""What a weight format is. Shapes: O outputs, I inputs."""

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

Packed = dict[str, Tensor]
"""Tensors of one weight under the names a checkpoint gives them (``weight``, ``weight_scale``, ...)."""


class TensorSpec(NamedTuple):
    """Shape and type of a stored tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype  # a floating type stands for any floating type


class WeightFormat(Protocol):
    """How one weight (O, I) is stored. Choosing its values is the business of compression passes."""

    @property
    def name(self) -> str:
        """The word users write: "dense", "int8", "int4-g128"."""
        ...

    def layout(self, outputs: int, inputs: int) -> dict[str, TensorSpec]:
        """What is stored. Raises ``BadRequest`` when the weight does not fit the format."""
        ...

    def random(self, outputs: int, inputs: int, generator: torch.Generator) -> Packed:
        """A random weight, made directly in this format."""
        ...

    def unpack(self, packed: Packed) -> Tensor:
        """The weight as float32 (O, I)."""
        ...


def stored_bytes(weight_format: WeightFormat, outputs: int, inputs: int) -> int:
    """Bytes of a weight (O, I) with its scales."""
    layout = weight_format.layout(outputs, inputs)
    return sum(math.prod(spec.shape) * spec.dtype.itemsize for spec in layout.values())
