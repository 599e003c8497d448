"""Recipes in TOML, as users write their own, in a file or on the command line."""

import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from burnish.compress.passes.base import Pass
from burnish.compress.passes.choice import FormatChoice
from burnish.compress.passes.distill import Distill
from burnish.compress.passes.whole import WholePass
from burnish.compress.recipe import PASSES, Recipe, pass_name
from burnish.compress.student import Student, read_student, student_of
from burnish.core.errors import BadSettings, nearest
from burnish.core.settings import make_config
from burnish.models.formats.table import integer_format

KEYS = ("about", "average_bits", "latency_share", "activations", "keep", "keep_format", "pass")
_STRING = r'"(?:\\.|[^"\\])*"|\'[^\']*\''
_WORD = re.compile(rf"(?:{_STRING}|\[(?:{_STRING}|[^\]\"'])*\]|[^\s\"'\[])+|\S")  # strings and lists hold spaces


def read_recipe(path: Path) -> Recipe:
    """A recipe from a TOML file, as ``parse_recipe``. Raises ``BadSettings``."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadSettings(f"recipe {str(path)!r} cannot be read: {error.strerror}", remedy="Check the path") from None
    except UnicodeDecodeError as error:
        raise BadSettings(f"recipe {str(path)!r} is not TOML: {error}", remedy="Mend that line") from None
    return parse_recipe(text, name=path.name, shown=str(path), folder=path.parent)


def parse_recipe(text: str, *, name: str, shown: str, folder: Path = Path()) -> Recipe:
    """A recipe from TOML: a table ``[[pass]]`` for each pass, in order, with its name and its settings.

    Formats are those each layer takes the first of that fits; ``head`` is the output head's. ``student`` of distill is
    a config.json, its path as seen from ``folder``. Beside the passes stand the settings of ``Recipe``, by their names.
    ``shown``: what faults call it. Raises ``BadSettings``, and as ``read_student``.
    """
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadSettings(f"recipe {shown!r} is not TOML: {error}", remedy="Mend that line") from None
    for key in found:
        if key not in KEYS:
            raise BadSettings(f"recipe {shown!r}: unknown key {key!r}", remedy=nearest(key, list(KEYS)))
    steps = found.get("pass", [])
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise BadSettings(f"recipe {shown!r}: pass is no list of tables", remedy="Write [[pass]]")
    keep = found.get("keep", [])
    if not isinstance(keep, list) or not all(isinstance(pattern, str) for pattern in keep):
        raise BadSettings(f"recipe {shown!r}: keep = {keep!r} is no list of names", remedy='Write ["lm_head"]')
    passes = tuple(_read_pass(step, folder) for step in steps)
    activations = found.get("activations", "float")
    if activations not in ("float", "int8"):
        raise BadSettings(f"recipe {shown!r}: activations = {activations!r} is unknown", remedy="Use float or int8")
    return Recipe(
        name,
        str(found.get("about", "")),
        passes,
        average_bits=_number(shown, found, "average_bits"),
        activations=activations,
        latency_share=_number(shown, found, "latency_share"),
        keep=tuple(keep),
        keep_format=str(found.get("keep_format", "int8")),
    )


def recipe_of(passes: Sequence[str]) -> Recipe:
    """A recipe of passes as the command line gives them: a word, then settings, as 'gptq formats=["int4-g128"]'.

    What stands behind ``=`` is TOML. Raises ``BadSettings`` as ``parse_recipe``, and for what is no setting.
    """
    tables, names = "", list[str]()
    for one in passes:
        name, *settings = _WORD.findall(one) or [""]
        for setting in settings:
            if re.fullmatch(r"[\w-]+=.+", setting, re.DOTALL) is None:
                raise BadSettings(
                    f"--pass {one!r}: {setting!r} is no setting",
                    remedy='Write them as formats=["int4-g128"]',
                )
        names.append(name)
        tables += "\n".join(["[[pass]]", f"name = {json.dumps(name)}", *settings, ""])
    return parse_recipe(tables, name=" + ".join(names), shown=" + ".join(names))


def recipe_text(recipe: Recipe) -> str:
    """The TOML of a recipe, with every setting of every pass, defaults too: ``parse_recipe`` makes the same of it."""
    beside = {key: getattr(recipe, key) for key in KEYS if key != "pass"}
    tables = [_lines(beside), *(f"\n[[pass]]\n{_lines(_settings(step))}" for step in recipe.passes)]
    return "".join(tables)


def _read_student(written: object, folder: Path) -> Student:
    """A student from the path of its config.json, or from what stands in it."""
    if not isinstance(written, str):
        raise BadSettings(f"student = {written!r} is no path", remedy='Write "path/to/config.json"')
    if not written.lstrip().startswith("{"):
        return read_student(folder / Path(written).expanduser())
    try:
        return student_of(json.loads(written))
    except json.JSONDecodeError as error:
        raise BadSettings(f"student is no JSON: {error}", remedy='Write "path/to/config.json"') from None


def _settings(step: WholePass | Pass) -> dict[str, Any]:
    """A pass as ``_read_pass`` reads it. What is settled for the layers of one model is no part of it."""
    found: dict[str, Any] = {"name": pass_name(step)}
    for field in fields(step):  # type: ignore[arg-type]
        value = getattr(step, field.name)
        if isinstance(value, FormatChoice):
            found |= {"formats": [one.name for one in value.formats], "head": value.head.name}
        elif isinstance(value, Student):
            found[field.name] = json.dumps(value.words)
        elif field.name != "spared":
            found[field.name] = value
    return found


def _lines(settings: dict[str, Any]) -> str:
    """A line for each setting that has a value. Numbers, strings and lists of them read alike in JSON and TOML."""
    return "".join(
        f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in settings.items() if value is not None
    )


def _number(shown: str, found: dict[str, Any], key: str) -> float | None:
    value = found.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise BadSettings(f"recipe {shown!r}: {key} = {value!r} is no number above 0", remedy="Correct it")
    return float(value)


def _read_pass(step: dict[str, Any], folder: Path) -> WholePass | Pass:
    settings = dict(step)
    name = settings.pop("name", None)
    if not isinstance(name, str) or name not in PASSES:
        raise BadSettings(f"unknown pass {name!r}", remedy=nearest(str(name), list(PASSES)))
    kind = PASSES[name]
    if "spared" in settings:
        raise BadSettings(f"pass {name}: unknown key 'spared'", remedy="Name the layers under keep, beside about")
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    if "choice" in known:
        known = [*known, "formats", "head"]
        known.remove("choice")
    for key in settings:
        if key not in known:
            raise BadSettings(f"unknown key {key!r} in settings section [pass {name}]", remedy=nearest(key, known))
    if "formats" in known:
        settings["choice"] = _read_choice(settings.pop("formats", ["int4-g128"]), settings.pop("head", "int8"))
    if kind is Distill and "student" in settings:
        settings["student"] = _read_student(settings["student"], folder)
    return make_config(kind, settings, section=f"pass {name}")


def _read_choice(names: Any, head: Any) -> FormatChoice:
    listed = names if isinstance(names, list) else [names]
    return FormatChoice(tuple(integer_format(name) for name in listed), integer_format(head))
