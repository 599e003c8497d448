"""Recipes in TOML, as users write their own."""

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

from burnish.compress.passes.base import Pass
from burnish.compress.passes.choice import FormatChoice
from burnish.compress.passes.distill import Distill
from burnish.compress.passes.whole import WholePass
from burnish.compress.recipe import PASSES, Recipe
from burnish.compress.student import read_student
from burnish.core.errors import BadSettings, nearest
from burnish.core.settings import make_config
from burnish.models.formats.table import integer_format

KEYS = ("about", "average_bits", "latency_share", "activations", "keep", "keep_format", "pass")


def read_recipe(path: Path) -> Recipe:
    """A recipe from TOML: a table ``[[pass]]`` for each pass, in order, with its name and its settings.

    Formats are those each layer takes the first of that fits; ``head`` is the output head's. ``student`` of distill is
    a config.json, its path as seen from the recipe. Beside the passes stand the settings of ``Recipe``, by their names.
    Raises ``BadSettings``, and as ``read_student``.
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
    keep = found.get("keep", [])
    if not isinstance(keep, list) or not all(isinstance(pattern, str) for pattern in keep):
        raise BadSettings(f"recipe {str(path)!r}: keep = {keep!r} is no list of names", remedy='Write ["lm_head"]')
    passes = tuple(_read_pass(step, path.parent) for step in steps)
    activations = found.get("activations", "float")
    if activations not in ("float", "int8"):
        raise BadSettings(f"recipe {str(path)!r}: activations = {activations!r} is unknown", remedy="Use float or int8")
    return Recipe(
        path.name,
        str(found.get("about", "")),
        passes,
        average_bits=_number(path, found, "average_bits"),
        activations=activations,
        latency_share=_number(path, found, "latency_share"),
        keep=tuple(keep),
        keep_format=str(found.get("keep_format", "int8")),
    )


def _number(path: Path, found: dict[str, Any], key: str) -> float | None:
    value = found.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise BadSettings(f"recipe {str(path)!r}: {key} = {value!r} is no number above 0", remedy="Correct it")
    return float(value)


def _read_pass(step: dict[str, Any], folder: Path) -> WholePass | Pass:
    settings = dict(step)
    name = settings.pop("name", None)
    if not isinstance(name, str) or name not in PASSES:
        raise BadSettings(f"unknown pass {name!r}", remedy=nearest(str(name), list(PASSES)))
    kind = PASSES[name]
    if "spared" in settings:
        raise BadSettings(f"pass {name}: unknown key 'spared'", remedy="Name the layers under keep, beside about")
    if any(field.name == "choice" for field in fields(kind)):  # type: ignore[arg-type]
        settings["choice"] = _read_choice(settings.pop("formats", ["int4-g128"]), settings.pop("head", "int8"))
    if kind is Distill and "student" in settings:
        if not isinstance(settings["student"], str):
            raise BadSettings(f"student = {settings['student']!r} is no path", remedy='Write "path/to/config.json"')
        settings["student"] = read_student(folder / Path(settings["student"]).expanduser())
    return make_config(kind, settings, section=f"pass {name}")


def _read_choice(names: Any, head: Any) -> FormatChoice:
    listed = names if isinstance(names, list) else [names]
    return FormatChoice(tuple(integer_format(name) for name in listed), integer_format(head))
