"""Functions that a model calls: found in its answer however it comes, told as the official client expects it."""

import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import openai
import pytest
from openai import OpenAI

from burnish.core.tools import HERMES, LLAMA, MISTRAL, ToolStyle, style_of
from burnish.core.types import Message
from burnish.service.openai.tool_calls import Argued, Began, CallParser, Piece, Said
from tests.service.double import ByteCodec, Double, serving

CALL = '{"name": "weather", "arguments": {"city": "Paris {\\"}\\"}", "days": [1, 2]}}'
PARIS = {"city": 'Paris {"}"}', "days": [1, 2]}
AGAIN = '{"name": "time", "arguments": {}}'
TURNED = '{"arguments": {"city": "Rome"}, "name": "weather"}'
LLAMAS = '{"name": "weather", "parameters": {"city": "Rome"}}'


def read(style: ToolStyle, answer: str, sizes: Sequence[int]) -> tuple[str, list[tuple[str, Any]]]:
    """Text and calls of an answer that comes in pieces of these sizes."""
    parser, pieces = CallParser(style, ("weather", "time")), list[Piece]()
    rest, at = answer, 0
    while rest:
        size = sizes[at % len(sizes)]
        pieces += parser.push(rest[:size])
        rest, at = rest[size:], at + 1
    pieces += parser.finish()
    names = [piece.name for piece in pieces if isinstance(piece, Began)]
    argued = ["" for _ in names]
    for piece in pieces:
        if isinstance(piece, Argued):
            argued[piece.number] += piece.text
    assert [piece.number for piece in pieces if isinstance(piece, Began)] == list(range(len(names)))
    said = "".join(piece.text for piece in pieces if isinstance(piece, Said))
    return said, [(name, json.loads(text)) for name, text in zip(names, argued, strict=True)]


ANSWERS: list[tuple[ToolStyle, str, str, list[tuple[str, Any]]]] = [
    (HERMES, "Just text, with < and <tool and {}.", "Just text, with < and <tool and {}.", []),
    (HERMES, f"<tool_call>\n{CALL}\n</tool_call>", "", [("weather", PARIS)]),
    (HERMES, f"Let me see. <tool_call>{CALL}</tool_call>", "Let me see. ", [("weather", PARIS)]),
    (
        HERMES,
        f"<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{AGAIN}\n</tool_call>\nDone.",
        "Done.",
        [("weather", PARIS), ("time", {})],
    ),
    (HERMES, f"<tool_call>{TURNED}</tool_call>", "", [("weather", {"city": "Rome"})]),
    (HERMES, f"<tool_call>{CALL}", "", [("weather", PARIS)]),
    (HERMES, "<tool_call>\nnothing\n</tool_call> so", "<tool_call>\nnothing\n</tool_call> so", []),
    (HERMES, '<tool_call>{"city": 1}</tool_call>', '<tool_call>{"city": 1}</tool_call>', []),
    (HERMES, "2 <tool", "2 <tool", []),
    (HERMES, f"Say <tool_call> so: <tool_call>{CALL}</tool_call>", "Say <tool_call> so: ", [("weather", PARIS)]),
    (
        HERMES,
        f'<tool_call>{{"city": 1}}</tool_call>\n<tool_call>{AGAIN}</tool_call>',
        '<tool_call>{"city": 1}</tool_call>\n',
        [("time", {})],
    ),
    (
        HERMES,
        f"<tool_call>{CALL[:-1]}</tool_call><tool_call>{AGAIN[:-1]}</tool_call>",
        "",
        [("weather", PARIS), ("time", {})],
    ),
    (HERMES, '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>', "", [("unknown", {})]),
    (LLAMA, '{"name": "Alice", "age": 30}', '{"name": "Alice", "age": 30}', []),
    (LLAMA, '{"name": "Alice", "parameters": {}}', '{"name": "Alice", "parameters": {}}', []),
    (LLAMA, '{"name": "time"}', '{"name": "time"}', []),
    (MISTRAL, '[{"name": "Alice"}]', '[{"name": "Alice"}]', []),
    (MISTRAL, f"[TOOL_CALLS] [{CALL}, {AGAIN}]", "", [("weather", PARIS), ("time", {})]),
    (MISTRAL, f"[{CALL}]", "", [("weather", PARIS)]),
    (MISTRAL, "[1, 2] is a list", "[1, 2] is a list", []),
    (MISTRAL, "[TOOLS] I have none", "[TOOLS] I have none", []),
    (MISTRAL, "No.", "No.", []),
    (LLAMA, LLAMAS, "", [("weather", {"city": "Rome"})]),
    (LLAMA, f"<|python_tag|>{LLAMAS}; {LLAMAS}", "", [("weather", {"city": "Rome"})] * 2),
    (LLAMA, '{"answer": 42}', '{"answer": 42}', []),
    (LLAMA, "Rome {is} fine", "Rome {is} fine", []),
    (LLAMA, "  <|python", "  <|python", []),
]


@pytest.mark.parametrize(("style", "answer", "said", "calls"), ANSWERS, ids=str)
@pytest.mark.parametrize("sizes", [[1], [2, 3, 5], [7], [1000]], ids=str)
def test_calls_are_found_however_the_answer_comes(
    style: ToolStyle, answer: str, said: str, calls: list[tuple[str, Any]], sizes: list[int]
) -> None:
    assert read(style, answer, sizes) == (said, calls)


def test_arguments_come_as_they_are_written() -> None:
    parser = CallParser(HERMES)
    parser.push('<tool_call>{"name": "weather", "arguments": ')
    found = [parser.push(character) for character in '{"a": 1']
    assert [piece.text for pieces in found for piece in pieces if isinstance(piece, Argued)] == list('{"a": 1')


def test_a_call_that_is_cut_keeps_what_was_written() -> None:
    parser = CallParser(HERMES)
    pieces = [*parser.push('<tool_call>{"name": "weather", "arguments": {"a": "b'), *parser.finish()]
    assert [type(piece) for piece in pieces] == [Began, Argued]


def test_much_that_is_no_call_costs_little() -> None:
    """Twenty thousand tokens in what began like a call."""
    parser, begun_s = CallParser(HERMES), time.monotonic()
    said = [piece for _ in range(20_000) for piece in parser.push('<tool_call>{"x": "aaaa ')]
    assert said
    assert time.monotonic() - begun_s < 10


def test_styles_are_told_by_templates() -> None:
    assert style_of("{% for m in messages %}{% endfor %}") is None
    assert style_of("{% if tools %}<tool_call>{% endif %}") == HERMES
    assert style_of("{% if tools %}[TOOL_CALLS]{% endif %}") == MISTRAL
    assert style_of('{% if tools %}Respond {"name": function name, "parameters": ...}{% endif %}') == LLAMA
    assert style_of("{% if tools %}somehow{% endif %}") is None


class HermesCodec(ByteCodec):
    """The tokenizer of a model that knows tools."""

    tool_style = HERMES

    def chat(self, messages: Sequence[Message], **_: Any) -> list[int]:
        return self.encode("".join(f"{m.role}: {m.content}{m.tool_calls}{m.tool_call_id}\n" for m in messages))


WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "array", "items": {"type": "integer"}}},
            "required": ["city"],
        },
    },
}
ASK: Any = {"model": "double", "messages": [{"role": "user", "content": "Weather?"}], "tools": [WEATHER]}


@pytest.fixture
def double() -> Double:
    return Double(text=f"One moment.\n<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{AGAIN}\n</tool_call>")


@pytest.fixture
def client(double: Double) -> Iterator[OpenAI]:
    with serving(double, HermesCodec()) as url, OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def called(choice: Any) -> list[tuple[str, Any]]:
    return [(call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls]


def test_the_official_client_sees_calls(client: OpenAI) -> None:
    choice = client.chat.completions.create(**ASK).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "One moment.\n"
    assert called(choice) == [("weather", PARIS), ("time", {})]
    calls: Any = choice.message.tool_calls
    assert len({call.id for call in calls}) == 2
    assert {call.type for call in calls} == {"function"}


def test_the_official_client_streams_calls(client: OpenAI) -> None:
    with client.chat.completions.stream(**ASK) as stream:
        events = list(stream)
    choice = stream.get_final_completion().choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "One moment.\n"
    assert called(choice) == [("weather", PARIS), ("time", {})]
    assert sum(event.type == "tool_calls.function.arguments.delta" for event in events) > 20, "as they are written"


def test_results_of_calls_go_back(client: OpenAI, double: Double) -> None:
    called = client.chat.completions.create(**ASK).choices[0].message
    calls: Any = called.tool_calls
    results: Any = [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in calls]
    history = [*ASK["messages"], called, *results]
    double.text = "Sunny."
    choice = client.chat.completions.create(**ASK | {"messages": history}).choices[0]
    assert (choice.message.content, choice.message.tool_calls, choice.finish_reason) == ("Sunny.", None, "stop")


def test_tools_that_may_not_be_called_are_not_looked_for(client: OpenAI) -> None:
    choice = client.chat.completions.create(**ASK, tool_choice="none").choices[0]
    assert "<tool_call>" in (choice.message.content or "")
    assert (choice.message.tool_calls, choice.finish_reason) == (None, "stop")


def test_what_is_demanded_becomes_a_grammar(client: OpenAI, double: Double) -> None:
    named: Any = {"type": "function", "function": {"name": "weather"}}
    required: Any = "required"
    for choice in (required, named):
        client.chat.completions.create(**ASK, tool_choice=choice)
        grammar = double.seen[-1].sampling.grammar
        assert grammar is not None
        assert grammar.kind == "lark"
        assert '\\"name\\": \\"weather\\"' in grammar.text
    client.chat.completions.create(**ASK)
    assert double.seen[-1].sampling.grammar is None


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "elsewhere"}}}, "tool_choice"),
        ({"tool_choice": "perhaps"}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {"name": "no spaces, please"}}]}, "tools"),
        ({"tools": [{"type": "retrieval"}]}, "tools"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool.tool_call_id"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].user.content"),
        ({"messages": [{"role": "assistant"}]}, "content"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]}, "tool_calls"),
        ({"tool_choice": "required", "extra_body": {"structured_outputs": {"regex": "a"}}}, "structured_outputs"),
    ],
    ids=str,
)
def test_wrong_tools_are_refused(client: OpenAI, change: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**ASK | change)
    assert (caught.value.param or "").startswith(param)


def test_a_model_without_tools_says_so(base_url: str) -> None:
    with OpenAI(base_url=f"{base_url}/v1", api_key="none", max_retries=0) as plain:
        with pytest.raises(openai.BadRequestError, match="knows no tools") as caught:
            plain.chat.completions.create(**ASK)
        assert caught.value.param == "tools"
        kept = plain.chat.completions.create(**ASK, tool_choice="none").choices[0]
        assert kept.finish_reason == "stop"
