"""Recipes in TOML, as users write their own."""

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

from burnish.compress.passes.base import Pass
from burnish.compress.passes.choice import FormatChoice
from burnish.compress.passes.whole import WholePass
from burnish.compress.recipe import PASSES, Recipe
from burnish.core.errors import BadSettings, nearest
from burnish.core.settings import make_config
from burnish.models.formats.table import integer_format

KEYS = ("about", "average_bits", "activations", "pass")


def read_recipe(path: Path) -> Recipe:
    """A recipe from TOML: a table ``[[pass]]`` for each pass, in order, with its name and its settings.

    Formats are those each layer takes the first of that fits; ``head`` is the output head's. Raises ``BadSettings``.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadSettings(f"recipe {str(path)!r} cannot be read: {error.strerror}", remedy="Check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSettings(f"recipe {str(path)!r} is not TOML: {error}", remedy="Mend that line") from None
    for key in found:
        if key not in KEYS:
            raise BadSettings(f"recipe {str(path)!r}: unknown key {key!r}", remedy=nearest(key, list(KEYS)))
    steps = found.get("pass", [])
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise BadSettings(f"recipe {str(path)!r}: pass is no list of tables", remedy="Write [[pass]]")
    bits = found.get("average_bits")
    if bits is not None and (isinstance(bits, bool) or not isinstance(bits, int | float) or not bits > 0):
        raise BadSettings(f"recipe {str(path)!r}: average_bits = {bits!r} is no number above 0", remedy="Correct it")
    passes = tuple(_read_pass(step) for step in steps)
    activations = found.get("activations", "float")
    if activations not in ("float", "int8"):
        raise BadSettings(f"recipe {str(path)!r}: activations = {activations!r} is unknown", remedy="Use float or int8")
    return Recipe(path.name, str(found.get("about", "")), passes, None if bits is None else float(bits), activations)


def _read_pass(step: dict[str, Any]) -> WholePass | Pass:
    settings = dict(step)
    name = settings.pop("name", None)
    if name not in PASSES:
        raise BadSettings(f"unknown pass {name!r}", remedy=nearest(str(name), list(PASSES)))
    kind = PASSES[name]
    if any(field.name == "choice" for field in fields(kind)):  # type: ignore[arg-type]
        settings["choice"] = _read_choice(settings.pop("formats", ["int4-g128"]), settings.pop("head", "int8"))
    return make_config(kind, settings, section=f"pass {name}")


def _read_choice(names: Any, head: Any) -> FormatChoice:
    listed = names if isinstance(names, list) else [names]
    return FormatChoice(tuple(integer_format(name) for name in listed), integer_format(head))
