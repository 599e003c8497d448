"""Chat templates: jinja2 as transformers renders them, in a sandbox with bounds on work and text."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Template, TemplateError
from jinja2.exceptions import SecurityError

from burnish.core.errors import BadCheckpoint, BadRequest
from burnish.core.tools import ToolCall, style_of
from burnish.core.types import Message
from burnish.models.sandbox import Sandbox, begin, measured

MAX_TEXT = 4 * 2**20  # characters a conversation may render to


class ChatTemplate:
    """A compiled template and the special tokens it may name."""

    def __init__(self, source: str, tokens: Mapping[str, str]) -> None:
        """Raises ``BadCheckpoint`` for a template that does not compile."""
        environment = Sandbox()
        environment.filters["tojson"] = measured(_to_json)
        environment.globals |= {"raise_exception": _raise, "strftime_now": lambda form: datetime.now().strftime(form)}
        try:
            self._template: Template = environment.from_string(source)
        except (TemplateError, RecursionError) as error:
            raise BadCheckpoint(f"the chat template is broken: {_line(error)}", remedy="Correct it") from None
        self._tokens = dict(tokens)
        self.tool_style = style_of(source)

    @classmethod
    def find(cls, config: Mapping[str, Any], file: Path) -> "ChatTemplate | None":
        """The template of a model: a chat_template.jinja file, else the one in tokenizer_config.json, else none.

        Of several named ones, the one named "default".
        """
        source = config.get("chat_template")
        if file.is_file():
            try:
                source = file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise BadCheckpoint(f"{str(file)!r} cannot be read: {error}", remedy="Fetch it again") from None
        if isinstance(source, list):
            named = {entry.get("name"): entry.get("template") for entry in source if isinstance(entry, dict)}
            source = named.get("default")
        if source is None:
            return None
        if not isinstance(source, str):
            raise BadCheckpoint("tokenizer_config.json: chat_template is no text", remedy="Correct it")
        return cls(source, _special_tokens(config))

    def render(
        self, messages: Sequence[Message], *, to_answer: bool = True, tools: Sequence[Mapping[str, object]] = ()
    ) -> str:
        """The conversation as text, with ``to_answer`` ending where the assistant's answer begins.

        ``tools``: functions that may be called, as OpenAI's API describes them. Raises ``BadRequest``.
        """
        turns = [_turn(message) for message in messages]
        begin()
        try:
            pieces = self._template.generate(
                messages=turns,
                add_generation_prompt=to_answer,
                tools=list(tools) or None,
                documents=None,
                **self._tokens,
            )
            return "".join(_bounded(pieces))
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise _refusal(error) from None
        except (RecursionError, MemoryError) as error:
            raise _refusal(error) from None


def _turn(message: Message) -> dict[str, Any]:
    """A message as templates know it: arguments of calls are values, not text."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = [
            {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": _value(call)}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    return turn


def _value(call: ToolCall) -> Any:
    try:
        return json.loads(call.arguments)
    except (ValueError, RecursionError):  # what a model wrote may be none
        return call.arguments


def _bounded(pieces: Iterator[str]) -> Iterator[str]:
    length = 0
    for piece in pieces:
        length += len(piece)
        if length > MAX_TEXT:
            raise SecurityError(f"text of more than {MAX_TEXT} characters")
        yield piece


def _refusal(error: Exception) -> BadRequest:
    return BadRequest(
        f"the chat template refuses these messages: {_line(error)}", remedy="Correct the messages", param="messages"
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """Names such as ``bos_token`` to their text, spelt as a string or as an object with its content."""
    found: dict[str, str] = {}
    for name, token in config.items():
        content = token.get("content") if isinstance(token, dict) else token
        if name.endswith("_token") and isinstance(content, str):
            found[name] = content
    return found


def _to_json(value: Any, *, indent: int | None = None, ensure_ascii: bool = False) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii)


def _raise(message: str) -> None:
    raise TemplateError(message)
