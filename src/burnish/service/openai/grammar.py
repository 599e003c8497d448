"""What an answer must look like, from the several ways in which bodies ask for it."""

import json
from typing import Any

from burnish.core.errors import BadRequest
from burnish.core.types import Grammar
from burnish.service.openai.schema import ChatBody, GenerationBody, JsonFormat, SchemaFormat, StructuredOutputs

ANY_OBJECT = {"type": "object"}
WAYS = "json, regex, choice, grammar"


def grammar_of(body: GenerationBody) -> Grammar | None:
    """None: any text. Raises ``BadRequest`` for more than one wish.

    Calls that a chat demands come before ``response_format``, which then is for answers that are none.
    """
    wanted = body.response_format if isinstance(body, ChatBody) else None
    asked = None if body.structured_outputs is None else _structured(body.structured_outputs)
    if isinstance(wanted, JsonFormat | SchemaFormat):
        if asked is not None:
            told = "response_format and structured_outputs both ask for a form"
            raise BadRequest(told, remedy="Send one", param="structured_outputs")
        return _schema(ANY_OBJECT if isinstance(wanted, JsonFormat) else wanted.json_schema.schema_)
    return asked


def _structured(asked: StructuredOutputs) -> Grammar:
    found = list[Grammar]()
    if asked.json_ is not None:
        found.append(_schema(asked.json_))
    if asked.regex is not None:
        found.append(Grammar("regex", asked.regex))
    if asked.choice is not None:
        found.append(Grammar("choice", json.dumps(asked.choice)))
    if asked.grammar is not None:
        found.append(Grammar("lark", asked.grammar))
    if len(found) != 1:
        told = f"structured_outputs asks for {len(found)} forms"
        raise BadRequest(told, remedy=f"Give one of {WAYS}", param="structured_outputs")
    return found[0]


def _schema(schema: dict[str, Any] | bool | str) -> Grammar:
    if schema is True:  # as JSON schema writes "anything"
        schema = {}
    return Grammar("json_schema", schema if isinstance(schema, str) else json.dumps(schema))
