"""Functions that a chat offers: which of them count, and what an answer must be when a call is demanded."""

import json
from typing import Any, NamedTuple

from burnish.core.errors import BadRequest
from burnish.core.tools import ToolStyle
from burnish.core.types import Grammar
from burnish.service.front import Front
from burnish.service.openai.schema import ChatBody, Function, NamedTool


class Offer(NamedTuple):
    """What a chat offers to call."""

    style: ToolStyle | None  # None: nothing
    described: list[dict[str, Any]]  # for the chat template
    grammar: Grammar | None  # of an answer that must call; None: it may


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
    described = [tool.model_dump(exclude_none=True) for tool in body.tools]
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
    call = f"%json {json.dumps({'anyOf': [_call(function, style) for function in functions]})}"
    return Grammar("lark", _several(call, style) if body.parallel_tool_calls else _one(call, style))


def _call(function: Function, style: ToolStyle) -> dict[str, Any]:
    """The schema of a call."""
    given = {"type": "object"} if function.parameters is None else function.parameters
    return {
        "type": "object",
        "properties": {"name": {"const": function.name}, style.arguments: given},
        "required": ["name", style.arguments],
        "additionalProperties": False,
    }


def _one(call: str, style: ToolStyle) -> str:
    if style.is_list:
        return f'start: "[" call "]"\ncall: {call}'
    return f"start: {_around(style)}\ncall: {call}"


def _several(call: str, style: ToolStyle) -> str:
    if style.is_list:
        return f'start: "[" call (", " call)* "]"\ncall: {call}'
    parts = '"\\n"' if style.after else '"; "'
    return f"start: whole ({parts} whole)*\nwhole: {_around(style)}\ncall: {call}"


def _around(style: ToolStyle) -> str:
    """A call as it stands in the answer; where calls are the whole answer, without the mark at its beginning."""
    if style.is_whole_answer:
        return "call"
    return f"{json.dumps(style.before + chr(10))} call {json.dumps(chr(10) + style.after)}"
