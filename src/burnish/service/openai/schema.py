"""Request bodies of the OpenAI API: what is accepted, within which bounds, and what is refused by name.

null stands for absent everywhere. Names of OpenAI's API that this server does not serve are refused, never ignored.
``user`` and ``metadata`` are the client's own labels: accepted, and without effect on the answer.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, model_validator

from burnish.core.errors import BadRequest, nearest

NOT_SERVED = frozenset(
    {
        *("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call", "tool_calls", "tool_call_id"),
        *("audio", "prediction", "web_search_options", "reasoning_effort", "verbosity", "moderation", "name"),
        *("refusal", "annotations", "image_url", "input_audio", "file", "safety_identifier", "prompt_cache_key"),
        *("prompt_cache_retention", "prompt_cache_options"),
    }
)
INT64 = 2**63
TokenId = Annotated[int, Field(ge=0, lt=2**31)]


def _whole_characters(text: str) -> str:
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("text holds half of a surrogate pair")
    return text


Text = Annotated[str, AfterValidator(_whole_characters)]
StopText = Annotated[Text, Field(min_length=1, max_length=1024)]


class Body(BaseModel):
    """A JSON object with no unknown keys. Raises ``BadRequest`` for one, naming the nearest known."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys_only(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        known = [field.alias or name for name, field in cls.model_fields.items()]
        for key, content in value.items():
            if key in NOT_SERVED and key not in known and content is not None:
                raise BadRequest(
                    f"parameter {key!r} is not supported by this server",
                    remedy="Leave it out",
                    param=key,
                    code="unsupported_parameter",
                )
            if key not in NOT_SERVED and key not in known:
                remedy = nearest(key[:80], known)
                raise BadRequest(
                    f"unknown parameter {key[:80]!r}", remedy=remedy, param=key[:80], code="unknown_parameter"
                )
        return {key: content for key, content in value.items() if content is not None}


class StreamOptions(Body):
    """Options of a streamed answer."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class TextFormat(Body):
    """Any text."""

    type: Literal["text"]


class JsonFormat(Body):
    """Any JSON object."""

    type: Literal["json_object"]


class NamedSchema(Body):
    """A JSON schema. Always kept to, whatever ``strict`` says; name and description are the client's own."""

    name: Text
    description: Text | None = None
    schema_: dict[str, Any] | bool = Field(alias="schema")
    strict: bool | None = None


class SchemaFormat(Body):
    """JSON of a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


class StructuredOutputs(Body):
    """One of these, each for the whole answer. ``grammar`` is in llguidance's dialect of Lark."""

    json_: dict[str, Any] | bool | Text | None = Field(None, alias="json")
    regex: Text | None = None
    choice: Annotated[list[Text], Field(min_length=1, max_length=1024, fail_fast=True)] | None = None
    grammar: Text | None = None


class GenerationBody(Body):
    """What chat and plain completions share. The last ones are extensions of ours."""

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(1, ge=1)
    max_tokens: int | None = Field(None, ge=1, lt=INT64)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, ge=0, le=1)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    logit_bias: dict[Annotated[TokenId, Strict(False)], Annotated[float, Field(ge=-100, le=100)]] = Field(
        default={}, max_length=1024
    )
    seed: int | None = Field(None, ge=-INT64, lt=INT64)
    stop: StopText | Annotated[list[StopText], Field(fail_fast=True)] = []
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] = False
    service_tier: Literal["auto", "default"] = "auto"

    stop_token_ids: Annotated[list[TokenId], Field(fail_fast=True)] = []
    ignore_eos: bool = False
    top_k: int = Field(0, ge=0, lt=2**31)
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0, le=10)
    cache_salt: Text = Field("", max_length=256)
    structured_outputs: StructuredOutputs | None = None
    priority: int = Field(0, ge=-100, le=100)
    first_token_s: float | None = Field(None, gt=0)

    @property
    def streams_usage(self) -> bool:
        """Whether a streamed answer ends with its usage."""
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionBody(GenerationBody):
    """POST /v1/completions."""

    prompt: (
        Text
        | Annotated[list[Text], Field(fail_fast=True)]
        | Annotated[list[TokenId], Field(fail_fast=True)]
        | Annotated[list[Annotated[list[TokenId], Field(fail_fast=True)]], Field(fail_fast=True)]
    )
    max_tokens: int | None = Field(None, ge=0, lt=INT64)
    logprobs: int | None = Field(None, ge=0)
    best_of: Literal[1] = 1
    echo: bool = False
    suffix: Literal[""] = ""


class TextPart(Body):
    """A piece of a message's text."""

    type: Literal["text"]
    text: Text


class CalledFunction(Body):
    """A function and what it was called with, JSON."""

    name: Text
    arguments: Text


class CalledTool(Body):
    """A call that the model made."""

    id: Text
    type: Literal["function"] = "function"
    function: CalledFunction


Content = Text | Annotated[list[TextPart], Field(fail_fast=True)]


class SpokenMessage(Body):
    """A turn of anybody but the model. ``developer`` is the newer name of ``system``."""

    role: Literal["system", "developer", "user"]
    content: Content


class ModelMessage(Body):
    """A turn of the model: text, calls, or both."""

    role: Literal["assistant"]
    content: Content | None = None
    tool_calls: Annotated[list[CalledTool], Field(fail_fast=True)] = []
    refusal: None = None

    @model_validator(mode="after")
    def _says_something(self) -> "ModelMessage":
        if self.content is None and not self.tool_calls:
            raise BadRequest("a message has no content", remedy="Give content or tool_calls", param="content")
        return self


class ResultMessage(Body):
    """The result of a call."""

    role: Literal["tool"]
    content: Content
    tool_call_id: Text


ChatMessage = Annotated[SpokenMessage | ModelMessage | ResultMessage, Field(discriminator="role")]


def text_of(content: Content | None) -> str:
    """Content as one string."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text for part in content)


class Function(Body):
    """A function that the model may call. ``parameters``: a JSON schema, always kept to where a call is demanded."""

    name: Annotated[Text, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Body):
    """A tool: only functions are served."""

    type: Literal["function"]
    function: Function


class NamedFunction(Body):
    """Which function."""

    name: Text


class NamedTool(Body):
    """Demands a call of one function."""

    type: Literal["function"]
    function: NamedFunction


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(fail_fast=True)] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, lt=INT64)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0)
    response_format: Annotated[TextFormat | JsonFormat | SchemaFormat, Field(discriminator="type")] | None = None
    modalities: list[Literal["text"]] | None = None
    tools: Annotated[list[Tool], Field(max_length=128, fail_fast=True)] = []
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool = True


class TokenizeBody(Body):
    """POST /tokenize: a ``prompt``, or ``messages`` rendered through the chat template."""

    model: str | None = None
    prompt: Text | None = None
    messages: Annotated[list[ChatMessage], Field(fail_fast=True)] | None = Field(None, min_length=1)
    add_special_tokens: bool = True


class DetokenizeBody(Body):
    """POST /detokenize."""

    model: str | None = None
    tokens: Annotated[list[TokenId], Field(fail_fast=True)]
