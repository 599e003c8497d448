"""Checks documents against OpenAI's published schema, where it lies beside the repository."""

from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

PUBLISHED = Path(__file__).parents[3] / "shared/data/api/openai-openapi/openapi.yaml"


def check_shape(name: str, document: Any) -> None:
    """Raise unless the document is what the schema of that name describes; nothing to check where it is absent."""
    if PUBLISHED.exists():
        _validator(name).validate(document)


def need_published_schema() -> None:
    """Skip where the schema is absent."""
    if not PUBLISHED.exists():
        pytest.skip("shared/data/api/openai-openapi is not beside the repository")


@cache
def _validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({"$ref": f"#/components/schemas/{name}", **_published()})


@cache
def _published() -> dict[str, Any]:
    loaded = yaml.load(PUBLISHED.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    return {"components": {"schemas": _with_null(loaded["components"]["schemas"])}}


def _with_null(node: Any) -> Any:
    """OpenAPI 3.0's ``nullable``, which the 3.1 document still uses, as JSON Schema says it."""
    if isinstance(node, list):
        return [_with_null(part) for part in node]
    if not isinstance(node, dict):
        return node
    plain = {key: _with_null(value) for key, value in node.items() if key != "nullable"}
    return {"anyOf": [plain, {"type": "null"}]} if node.get("nullable") is True else plain
