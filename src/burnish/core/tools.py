"""Functions that a model may call: how models write such calls, told by what their chat templates say."""

from typing import NamedTuple


class ToolCall(NamedTuple):
    """A call that a model made."""

    call_id: str
    name: str
    arguments: str  # JSON, as the model wrote it


class ToolStyle(NamedTuple):
    """How a family of models writes calls: as JSON objects with a name and arguments.

    ``before`` and ``after`` stand around every call, or, where calls are the whole answer, ``before`` at its beginning.
    """

    name: str
    before: str
    after: str
    arguments: str  # the key of the arguments
    is_whole_answer: bool = False
    is_list: bool = False  # the calls are a JSON list


HERMES = ToolStyle("hermes", "<tool_call>", "</tool_call>", "arguments")  # Hermes, Qwen
MISTRAL = ToolStyle("mistral", "[TOOL_CALLS]", "", "arguments", is_whole_answer=True, is_list=True)
LLAMA = ToolStyle("llama", "<|python_tag|>", "", "parameters", is_whole_answer=True)  # Llama 3.1 and later


def style_of(template: str) -> ToolStyle | None:
    """How a model with that chat template writes calls; None where the template names no tools, or in no known way."""
    if "tools" not in template:
        return None
    if HERMES.before in template:
        return HERMES
    if MISTRAL.before in template:
        return MISTRAL
    return LLAMA if '"parameters"' in template else None
