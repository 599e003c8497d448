"""A call that a chat demands, of a model that knows nothing: always a call, its arguments those of the schema."""

import json
from typing import Any

import jsonschema
import pytest

from burnish.core.tools import HERMES, LLAMA, MISTRAL, ToolStyle
from burnish.core.types import FinishEvent, Request, Sampling, TokenEvent
from burnish.engine.config import EngineConfig
from burnish.engine.engine import Engine
from burnish.service.openai.schema import ChatBody
from burnish.service.openai.tool_calls import Argued, Began, CallParser, Said
from burnish.service.openai.tools import demanded
from tests.tiny import ByteTokenizer, tiny_decoder

SCHEMAS: dict[str, dict[str, Any]] = {
    "weather": {
        "type": "object",
        "properties": {"city": {"enum": ["Rome", "Paris"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
    "time": {"type": "object", "properties": {}, "additionalProperties": False},
    "walk": {  # as Pydantic describes models within models
        "$defs": {"Pace": {"enum": ["slow", "fast"]}},
        "type": "object",
        "properties": {"pace": {"$ref": "#/$defs/Pace"}},
        "required": ["pace"],
        "additionalProperties": False,
    },
}


def body(choice: Any, *, parallel: bool) -> ChatBody:
    return ChatBody.model_validate(
        {
            "model": "tiny",
            "messages": [{"role": "user", "content": "?"}],
            "tools": [
                {"type": "function", "function": {"name": name, "parameters": schema}}
                for name, schema in SCHEMAS.items()
            ],
            "tool_choice": choice,
            "parallel_tool_calls": parallel,
        }
    )


@pytest.mark.parametrize("style", [HERMES, MISTRAL, LLAMA], ids=lambda style: style.name)
@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "time"}}], ids=str)
def test_demanded_calls_are_calls(style: ToolStyle, parallel: bool, choice: Any) -> None:
    engine = Engine(tiny_decoder(), ByteTokenizer(), EngineConfig(num_blocks=256, threads=1))
    grammar = demanded(body(choice, parallel=parallel), style)
    said: dict[str, str] = {}
    for number in range(8):
        sampling = Sampling(max_tokens=400, temperature=1.5, seed=number, grammar=grammar)
        engine.add(Request(request_id=str(number), prompt=(65 + number,), sampling=sampling))
    ends = list[FinishEvent]()
    while engine.has_work:
        for event in engine.step():
            if isinstance(event, TokenEvent):
                said[event.request_id] = said.get(event.request_id, "") + event.text
            elif isinstance(event, FinishEvent):
                ends.append(event)
    complete = [end.request_id for end in ends if end.reason == "stop"]
    assert len(complete) >= (3 if parallel else 8), "a model that knows nothing may call for ever"
    numbers = set[int]()
    for name in complete:
        calls = parsed(style, said[name])
        numbers.add(len(calls))
        for called, arguments in calls:
            assert choice == "required" or called == "time"
            jsonschema.validate(arguments, SCHEMAS[called])
    assert 0 not in numbers
    assert numbers == {1} or parallel


def parsed(style: ToolStyle, answer: str) -> list[tuple[str, Any]]:
    parser = CallParser(style, SCHEMAS)
    pieces = [*parser.push(answer), *parser.finish()]
    assert not any(isinstance(piece, Said) and piece.text.strip() for piece in pieces)
    names = [piece.name for piece in pieces if isinstance(piece, Began)]
    argued = ["" for _ in names]
    for piece in pieces:
        if isinstance(piece, Argued):
            argued[piece.number] += piece.text
    return [(name, json.loads(text)) for name, text in zip(names, argued, strict=True)]
