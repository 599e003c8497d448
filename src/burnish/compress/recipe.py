"""Recipes: what is done to a model, in which order, under a name."""

from dataclasses import dataclass

from burnish.compress.passes.base import Pass
from burnish.compress.passes.rtn import RoundToNearest
from burnish.core.errors import BadSettings, nearest
from burnish.models.formats.integer import IntegerFormat
from burnish.models.formats.table import FORMATS


@dataclass(frozen=True)
class Recipe:
    """Ordered passes over every layer."""

    name: str
    passes: tuple[Pass, ...]


def find_recipe(name: str) -> Recipe:
    """The recipe of that name. Raises ``BadSettings`` naming the nearest."""
    if name not in RECIPES:
        raise BadSettings(f"unknown recipe {name!r}", remedy=nearest(name, list(RECIPES)))
    return RECIPES[name]


def _rounding(name: str, *formats: str) -> Recipe:
    chosen = [FORMATS[format_name] for format_name in formats]
    return Recipe(name, (RoundToNearest(tuple(f for f in chosen if isinstance(f, IntegerFormat))),))


RECIPES = {
    recipe.name: recipe
    for recipe in (
        _rounding("int8", "int8"),
        # groups as large as the layer allows; a width no group divides takes int8 rather than staying dense
        _rounding("int4", "int4-g128", "int4-g64", "int4-g32", "int8"),
        _rounding("int4-g128", "int4-g128"),
        _rounding("int4-g64", "int4-g64"),
        _rounding("int4-g32", "int4-g32"),
    )
}
