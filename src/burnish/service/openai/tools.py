"""Functions that a chat offers: which of them count, and what an answer must be when a call is demanded."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from burnish.core.errors import BadRequest
from burnish.core.tools import ToolStyle
from burnish.core.types import JSON_BLANKS, Grammar
from burnish.service.front import Front
from burnish.service.openai.schema import ChatBody, Function, NamedTool


class Offer(NamedTuple):
    """What a chat offers to call."""

    style: ToolStyle | None  # None: nothing
    described: list[dict[str, Any]]  # for the chat template
    grammar: Grammar | None  # of an answer that must call; None: it may

    @property
    def names(self) -> list[str]:
        """Of the functions."""
        return [tool["function"]["name"] for tool in self.described]


NOTHING = Offer(None, [], None)


def offer_of(front: Front, body: ChatBody) -> Offer:
    """The functions of a chat.

    Raises ``BadRequest`` where there can be no calls, or not the one that is demanded.
    """
    if not body.tools:
        if body.tool_choice not in (None, "none"):
            raise BadRequest("tool_choice without tools", remedy="Send tools", param="tool_choice")
        return NOTHING
    if body.tool_choice == "none":
        return NOTHING
    style = front.text.tool_style
    if style is None:
        told = "this model's chat template knows no tools"
        raise BadRequest(told, remedy="Leave them out, or serve a model that was trained with tools", param="tools")
    try:
        described = [tool.model_dump(exclude_none=True) for tool in body.tools]
    except (ValueError, RecursionError):
        raise BadRequest("the tools are nested too deeply", remedy="Flatten their parameters", param="tools") from None
    return Offer(style, described, demanded(body, style))


def demanded(body: ChatBody, style: ToolStyle) -> Grammar | None:
    """What an answer must be where a call is demanded; None where there may be one. Raises ``BadRequest``."""
    if body.tool_choice in (None, "auto"):
        return None
    functions = [tool.function for tool in body.tools]
    if isinstance(body.tool_choice, NamedTool):
        wanted = body.tool_choice.function.name
        functions = [function for function in functions if function.name == wanted]
        if not functions:
            told = f"tool_choice names {wanted[:80]!r}, which is not among the tools"
            raise BadRequest(told, remedy="Name one of them", param="tool_choice")
    if body.structured_outputs is not None:
        told = "tool_choice demands a call, structured_outputs something else"
        raise BadRequest(told, remedy="Send one", param="structured_outputs")
    several = body.parallel_tool_calls
    return Grammar("lark", "\n".join([_answer(style, several=several), *_calls(functions, style)]))


def _answer(style: ToolStyle, *, several: bool) -> str:
    """How calls stand in an answer; where they are the whole of it, without the mark at its beginning."""
    if style.is_list:
        return 'start: "[" call (", " call)* "]"' if several else 'start: "[" call "]"'
    marked = f"{json.dumps(style.before + chr(10))} call {json.dumps(chr(10) + style.after)}"
    whole = "call" if style.is_whole_answer else marked
    between = json.dumps("; " if style.is_whole_answer else "\n")
    return f"start: whole ({between} whole)*\nwhole: {whole}" if several else f"start: {whole}"


def _calls(functions: list[Function], style: ToolStyle) -> Iterator[str]:
    """A rule for each function; its schema is one of its own, so that references in it are found."""
    yield "call: " + " | ".join(f"call_{number}" for number in range(len(functions)))
    for number, function in enumerate(functions):
        head = f'{{"name": {json.dumps(function.name)}, "{style.arguments}": '
        schema = {"type": "object"} | (function.parameters or {}) | {"x-guidance": {"whitespace_pattern": JSON_BLANKS}}
        yield f"call_{number}: {json.dumps(head)} given_{number} {json.dumps('}')}"
        yield f"given_{number}: %json {json.dumps(schema)}"
