"""Typed reading of a checkpoint's config.json: every fault is one BadCheckpoint naming key and value."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from burnish.core.errors import BadCheckpoint, NotFound

Raw = Mapping[str, Any]
REMEDY = "Correct config.json"


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises ``NotFound`` when it is missing, ``BadCheckpoint`` when it is no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFound(f"{str(path)!r} does not exist", remedy="Check the path") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise BadCheckpoint(f"{str(path)!r} is not readable JSON: {reason}", remedy="Fetch the file again") from None
    if not isinstance(value, dict):
        raise BadCheckpoint(f"{str(path)!r} holds {type(value).__name__}, not an object", remedy="Fetch it again")
    return value


def wrong(key: str, value: object, wanted: str) -> BadCheckpoint:
    """The error for a value that is not what its key wants."""
    return BadCheckpoint(f"config.json: {key} = {repr(value)[:80]} is not {wanted}", remedy=REMEDY)


def size(raw: Raw, key: str, default: int | None = None) -> int:
    """A positive integer; absent or null means ``default``, and without one is a fault."""
    value = raw.get(key)
    if value is None and default is not None:
        return default
    if value is None:
        raise BadCheckpoint(f"config.json lacks {key}", remedy=REMEDY)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
        raise wrong(key, value, "a positive integer")
    return value


def number(raw: Raw, key: str, default: float) -> float:
    """A finite positive number; absent or null means ``default``."""
    found = optional_number(raw, key)
    return default if found is None else found


def optional_number(raw: Raw, key: str) -> float | None:
    """A finite positive number, or None when absent or null."""
    value = raw.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1e300:
        raise wrong(key, value, "a positive number")
    return float(value)


def flag(raw: Raw, key: str, default: bool) -> bool:
    """A boolean; absent or null means ``default``."""
    value = raw.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise wrong(key, value, "true or false")
    return value


def word(raw: Raw, key: str, default: str) -> str:
    """A string; absent or null means ``default``."""
    value = raw.get(key)
    if value is None:
        return default
    if not isinstance(value, str):
        raise wrong(key, value, "a string")
    return value


def section(raw: Raw, key: str) -> Raw:
    """An object; absent or null means an empty one."""
    value = raw.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise wrong(key, value, "an object")
    return value


def forbid(raw: Raw, **expected: object) -> None:
    """Raise ``BadCheckpoint`` for a key that asks for a mechanism burnish does not have.

    ``expected`` gives the one value (besides absent and null) each key may hold.
    """
    for key, value in expected.items():
        if raw.get(key) is not None and raw[key] != value:
            raise BadCheckpoint(
                f"config.json: {key} = {repr(raw[key])[:80]} is not supported",
                remedy=f"Only {key} = {json.dumps(value)} is",
            )
