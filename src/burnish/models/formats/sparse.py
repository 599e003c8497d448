"""Integer weights of which two of every four neighbouring inputs are zero, and not stored.

The pattern is NVIDIA's 2:4 (Mishra et al. 2021). No layout of compressed-tensors holds it any more (0.20), so this is
our own; the kernels' sums are those of the same codes stored as int8, to the last bit. Shapes: O outputs, I inputs.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import Self

import numpy as np
import torch

from burnish.core.errors import BadRequest
from burnish.kernels.tiles import Halved, Kind, double, halve
from burnish.models.formats.base import Packed, TensorSpec
from burnish.models.formats.integer import IntegerFormat, Quantized


@dataclass(frozen=True)
class SparseFormat(IntegerFormat):
    """Two codes of eight bits of every four inputs, and their places in four bits: 5 bits a weight, a scale per output.

    Weights are pruned so before: ``pack`` raises ``BadCheckpoint`` where more than two of four are not zero.
    """

    @property
    def kind(self) -> Kind:
        """What the kernels take the weight as."""
        return "sparse8"

    def as_bytes(self) -> Self:
        """Itself: kept codes are bytes anyway."""
        return self

    def fits(self, inputs: int) -> bool:
        """Whether the inputs are whole fours."""
        return inputs % 4 == 0

    def num_groups(self, inputs: int) -> int:
        """One scale per output. Raises ``BadRequest`` when the inputs are no whole fours."""
        if not self.fits(inputs):
            raise BadRequest(f"{inputs} inputs of a layer are no whole number of fours", remedy="Take int8")
        return 1

    def layout(self, outputs: int, inputs: int) -> dict[str, TensorSpec]:
        """The kept codes; a byte for the places of two fours, the earlier in its low half, the first place lowest."""
        return {
            "weight_kept": TensorSpec((outputs, inputs // 2), torch.int8),
            "weight_places": TensorSpec((outputs, -(-inputs // 8)), torch.uint8),
            "weight_scale": TensorSpec((outputs, self.num_groups(inputs)), torch.float32),
        }

    def pack(self, quantized: Quantized) -> Packed:
        """Store codes and scales as they are."""
        assert quantized.zeros is None
        kept, places = halve(quantized.codes.numpy())
        fours = places[:, ::2] | places[:, 1::2] << np.uint8(2)
        fours = np.pad(fours, ((0, 0), (0, fours.shape[1] % 2)))
        return {
            "weight_kept": torch.from_numpy(kept),
            "weight_places": torch.from_numpy(fours[:, ::2] | fours[:, 1::2] << np.uint8(4)),
            "weight_scale": quantized.scales,
        }

    def restore(self, packed: Packed) -> Quantized:
        """The codes (O, I), zeros among them, and scales."""
        kept, stored = packed["weight_kept"].numpy(), packed["weight_places"].numpy()
        shifts = np.arange(0, 8, 2, dtype=np.uint8)
        places = (stored[..., np.newaxis] >> shifts & np.uint8(3)).reshape(len(stored), -1)[:, : kept.shape[1]]
        return Quantized(torch.from_numpy(double(Halved(kept, places))), packed["weight_scale"])

    def random(self, outputs: int, inputs: int, generator: torch.Generator) -> Packed:
        """Uniform codes at random places; scales that give the stored weights a standard deviation near 0.02."""
        pairs = torch.tensor([[i in pair for i in range(4)] for pair in combinations(range(4), 2)])
        left = pairs[torch.randint(len(pairs), (outputs, inputs // 4), generator=generator)]
        codes = torch.randint(-128, 128, (outputs, inputs // 4, 4), dtype=torch.int8, generator=generator)
        scales = torch.full((outputs, self.num_groups(inputs)), 0.02 * 12**0.5 / 2**self.bits)
        return self.pack(Quantized(codes.mul_(left).view(outputs, inputs), scales))
