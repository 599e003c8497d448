"""Which weights of a layer become zero.

Shapes: O outputs, I inputs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from burnish.core.errors import BadSettings

BLOCK = 128  # inputs; a pattern's length divides it


@dataclass(frozen=True)
class Sparsity:
    """A share of all weights anywhere, or all but ``kept`` of every ``of`` neighbouring inputs (N:M, as in 2:4)."""

    share: float  # of zeros
    kept: int = 0
    of: int = 0  # 0: no pattern

    @property
    def is_pattern(self) -> bool:
        """Whether the zeros lie in a pattern."""
        return self.of > 0

    @property
    def leaves_two_of_four(self) -> bool:
        """Whether of every four neighbouring inputs two stay at most."""
        return self.of in (2, 4) and self.kept * 4 <= 2 * self.of

    def mask(self, scores: Tensor) -> Tensor:
        """Which weights of scores (O, I) stay, those of the largest: bool (O, I).

        Of equal scores the earlier stays. Without a pattern all scores are compared with each other.
        """
        if not self.is_pattern:
            flat = torch.ones(scores.numel(), dtype=torch.bool)
            flat[scores.flatten().argsort(dim=0, stable=True, descending=True)[self._left(scores.numel()) :]] = False
            return flat.view(scores.shape)
        groups = scores.reshape(scores.shape[0], -1, self.of)
        places = groups.argsort(dim=-1, descending=True, stable=True)[..., : self.kept]
        return torch.zeros(groups.shape, dtype=torch.bool).scatter_(-1, places, True).view(scores.shape)

    def mask_by_row(self, scores: Tensor) -> Tensor:
        """As ``mask``, but the scores of an output are compared with each other only."""
        if self.is_pattern:
            return self.mask(scores)
        places = scores.argsort(dim=-1, descending=True, stable=True)[:, : self._left(scores.shape[1])]
        return torch.zeros(scores.shape, dtype=torch.bool).scatter_(-1, places, True)

    def _left(self, count: int) -> int:
        return count - round(count * self.share)


def parse_sparsity(given: float | str) -> Sparsity:
    """A share such as 0.5, or a pattern such as "2:4". Raises ``BadSettings``."""
    if isinstance(given, str):
        kept, colon, of = given.partition(":")
        if colon and kept.isdecimal() and of.isdecimal() and 0 < int(kept) < int(of) and BLOCK % int(of) == 0:
            return Sparsity(1 - int(kept) / int(of), int(kept), int(of))
    elif 0 < given < 1:
        return Sparsity(float(given))
    raise BadSettings(
        f"sparsity {given!r} is neither a share nor a pattern",
        remedy='Use a share between 0 and 1, or "2:4": 2 weights of every 4 stay, of 2, 4, 8, .. 128',
    )
