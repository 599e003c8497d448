"""The walk over a model's layers that applies a recipe."""

from collections.abc import Callable

from burnish.compress.passes.base import LayerStats
from burnish.compress.recipe import Recipe
from burnish.core.records import LayerRecord
from burnish.models.decoder import Decoder
from burnish.models.layers.linear import Linear

Progress = Callable[[int, int], None]
"""(layers done, layers in all)"""


def compress(decoder: Decoder, recipe: Recipe, *, progress: Progress | None = None) -> list[LayerRecord]:
    """Apply a recipe to every linear layer, in place, one layer at a time.

    The embedding stays dense, and with it a head tied to it. Raises ``BadSettings`` before anything is changed
    when a layer does not fit.
    """
    layers = [(LayerStats(name), layer) for name, layer in compressible(decoder)]
    for compression in recipe.passes:
        for stats, layer in layers:
            compression.check(layer, stats)
    records = []
    for compression in recipe.passes:
        for stats, layer in layers:
            records.append(compression.apply(layer, stats))
            if progress is not None:
                progress(len(records), len(layers) * len(recipe.passes))
    return records


def compressible(decoder: Decoder) -> list[tuple[str, Linear]]:
    """The linear layers a recipe applies to, with their names."""
    return [(name, module) for name, module in decoder.named_modules() if isinstance(module, Linear)]
