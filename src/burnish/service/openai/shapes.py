"""Response bodies of the OpenAI API. Fields left unset are left out."""

from typing import Literal

from pydantic import BaseModel

Finish = Literal["stop", "length", "tool_calls"]


class PromptTokensDetails(BaseModel):
    """Where prompt tokens came from."""

    cached_tokens: int


class UsageShape(BaseModel):
    """Tokens an answer cost: each prompt counted once, the output of every choice."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class TopLogprob(BaseModel):
    """A token that could have stood here."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token with its log-probability and the likeliest others."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Log-probabilities of a message."""

    content: list[TokenLogprob]
    refusal: None = None


class FunctionShape(BaseModel):
    """A function and what it is called with, JSON."""

    name: str
    arguments: str


class ToolCallShape(BaseModel):
    """A call that the model makes."""

    id: str
    type: Literal["function"]
    function: FunctionShape


class AssistantMessage(BaseModel):
    """The model's turn. ``content`` is null where it is nothing but calls."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[ToolCallShape] | None = None


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: Finish


class ChatCompletion(BaseModel):
    """A whole chat answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageShape


class FunctionDelta(BaseModel):
    """The name once, then more of the arguments."""

    name: str = ""
    arguments: str = ""


class ToolCallDelta(BaseModel):
    """What a chunk adds to a call."""

    index: int
    id: str = ""
    type: Literal["function"] = "function"
    function: FunctionDelta


class Delta(BaseModel):
    """What a chunk adds to a message."""

    role: Literal["assistant"] = "assistant"
    content: str = ""
    tool_calls: list[ToolCallDelta] = []


class ChunkChoice(BaseModel):
    """What a chunk adds to one answer."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: Finish | None = None


class ChatChunk(BaseModel):
    """One server-sent event of a chat answer."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: UsageShape | None = None


class TextLogprobs(BaseModel):
    """Log-probabilities of a completion; ``text_offset`` counts characters of the choice's text.

    Nothing predicts the first token of an echoed prompt: it has none.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(BaseModel):
    """One continuation, or what a chunk adds to it."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Finish | None


class TextCompletion(BaseModel):
    """A whole completion, or one server-sent event of it."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: UsageShape | None = None


class ModelShape(BaseModel):
    """A served model. ``max_model_len`` and ``weights`` are extensions of ours."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "burnish"
    max_model_len: int
    weights: str


class ModelList(BaseModel):
    """The served models."""

    object: Literal["list"] = "list"
    data: list[ModelShape]


class Tokens(BaseModel):
    """Token ids of a text."""

    tokens: list[int]
    count: int
    max_model_len: int


class Text(BaseModel):
    """The text of token ids."""

    prompt: str


class ErrorDetail(BaseModel):
    """What went wrong, and with which parameter."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorShape(BaseModel):
    """Every 4xx and 5xx."""

    error: ErrorDetail
