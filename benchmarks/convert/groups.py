"""Groups of weights that share a scale."""

from collections.abc import Mapping
from typing import Any


def widest_group(shape: Mapping[str, Any], *, at_most: int = 128) -> int:
    """The largest power of two up to ``at_most`` that divides the inputs of every layer of a config.json."""
    group = at_most
    while any(shape[name] % group for name in ("hidden_size", "intermediate_size")):
        group //= 2
    return group
