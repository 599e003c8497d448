"""TOML file + environment -> each room's own frozen config. Unknown keys are refused, the nearest named."""

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from burnish.core.errors import BadSettings, nearest

Config = TypeVar("Config")
ENVIRONMENT_PREFIX = "BURNISH_"


def read_settings(path: Path | None, environment: Mapping[str, str] = os.environ) -> dict[str, dict[str, Any]]:
    """Sections of the settings file, overridden by BURNISH_SECTION__KEY variables.

    Raises ``BadSettings`` for a missing or malformed file.
    """
    sections: dict[str, dict[str, Any]] = {}
    if path is not None:
        try:
            sections = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise BadSettings(f"settings file {str(path)!r} does not exist", remedy="Check the path") from None
        except OSError as error:
            raise BadSettings(
                f"settings file {str(path)!r} cannot be read: {error.strerror}", remedy="Check it"
            ) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BadSettings(f"settings file {str(path)!r} is not TOML: {error}", remedy="Mend that line") from None
        for name, section in sections.items():
            if not isinstance(section, dict):
                raise BadSettings(f"settings key {name!r} stands outside a section", remedy=f"Put it under [{name}]")
    for variable, value in environment.items():
        if variable.startswith(ENVIRONMENT_PREFIX) and "__" in variable:
            section_name, key = variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__", 1)
            sections.setdefault(section_name, {})[key] = value
    return sections


def refuse_unknown_sections(sections: Mapping[str, object], known: list[str]) -> None:
    """Raise ``BadSettings`` naming the nearest known section."""
    for name in sections:
        if name not in known:
            raise BadSettings(f"unknown settings section [{name}]", remedy=nearest(name, known))


def make_config(kind: type[Config], values: Mapping[str, Any], *, section: str) -> Config:
    """A frozen config dataclass from a section, values converted to the field types.

    Raises ``BadSettings`` for an unknown key (nearest named), a missing one or one of the wrong type.
    """
    assert is_dataclass(kind)
    hints = get_type_hints(kind)
    known = {field.name: field for field in fields(kind)}
    for key in values:
        if key not in known:
            raise BadSettings(f"unknown key {key!r} in settings section [{section}]", remedy=nearest(key, list(known)))
    for field in fields(kind):
        if field.name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise BadSettings(f"settings section [{section}] lacks {field.name!r}", remedy="Add it")
    converted = {key: _convert(known[key], hints[key], value, section) for key, value in values.items()}
    return kind(**converted)


def _convert(field: Field[Any], hint: Any, value: Any, section: str) -> Any:
    if get_origin(hint) is tuple and isinstance(value, str):
        value = _listed(value)
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        shown = f" = {value!r}" if field.repr else ""  # a secret is not printed
        reason = error.errors(include_input=False)[0]["msg"]
        raise BadSettings(
            f"setting {section}.{field.name}{shown} is wrong: {reason}", remedy="Correct the value"
        ) from None


def _listed(text: str) -> Any:
    """Several values in one string, as environment variables hold them: a JSON list, or separated by commas."""
    if text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            pass
    return [part.strip() for part in text.split(",")]
