"""What crosses a border between rooms or processes: plain frozen data, no torch."""

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

from burnish.core.errors import BadRequest
from burnish.core.tools import ToolCall, ToolStyle

FinishReason = Literal["stop", "length", "abort", "error"]
FINISH_REASONS: tuple[FinishReason, ...] = ("stop", "length", "abort", "error")
KeyKind = Literal["f32", "f16", "int8"]
"""How keys and values are stored; int8 has a scale per token and head."""


_RANGES: dict[str, tuple[float, float]] = {
    "max_tokens": (0, math.inf),
    "temperature": (0, 100),
    "top_p": (0, 1),
    "top_k": (0, math.inf),
    "min_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "repetition_penalty": (0.01, 100),
    "n": (1, math.inf),
    "logprobs": (0, math.inf),
    "prompt_logprobs": (0, math.inf),
}
MAX_GRAMMAR = 2**18  # characters
_INTEGERS = ("max_tokens", "top_k", "n", "logprobs", "prompt_logprobs", "seed")


JSON_BLANKS = r" |\r?\n[ \t]{0,32}"
"""What may stand between the parts of JSON, besides nothing: some models would write blanks for ever"""
GrammarKind = Literal["json_schema", "regex", "choice", "lark"]


class Grammar(NamedTuple):
    """What a whole answer must look like.

    ``text``: a JSON schema; a regular expression; a JSON list of the texts to choose from; a grammar in llguidance's
    dialect of Lark.
    """

    kind: GrammarKind
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How the next token is chosen and when a generation ends.

    Penalties: ``presence_penalty`` and ``frequency_penalty`` are subtracted from the logits of tokens already
    generated (OpenAI's definition); ``repetition_penalty`` divides positive and multiplies negative logits of
    tokens seen in prompt or output (Keskar et al. 2019). ``logprobs`` asks for that many alternatives beside the
    chosen token (0: the chosen token only; None: none), under the distribution before temperature and filters.
    ``prompt_logprobs`` asks the same of the prompt's own tokens, the first left out, which nothing predicts; with
    ``max_tokens`` 0 nothing is generated.
    """

    max_tokens: int | None = 16  # None: until the context is full
    temperature: float = 1.0  # 0: greedy
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    n: int = 1
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    grammar: Grammar | None = None  # None: any text

    @property
    def is_penalized(self) -> bool:
        """Whether tokens seen before count."""
        return bool(self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1)

    def __post_init__(self) -> None:
        """Raise ``BadRequest`` for a value of the wrong type or out of its range."""
        self._check_types()
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                remedy = f"Use {low:g} or more" if high == math.inf else f"Use {low:g} to {high:g}"
                raise BadRequest(f"{name} = {value} is out of range", remedy=remedy, param=name)
        if self.top_p == 0:
            raise BadRequest("top_p = 0 leaves nothing to choose from", remedy="Use a value above 0", param="top_p")
        if "" in self.stop:
            raise BadRequest("an empty stop string stops everything", remedy="Remove it", param="stop")
        if self.grammar is not None and len(self.grammar.text) > MAX_GRAMMAR:
            told = f"a grammar of {len(self.grammar.text):,} characters is too long"
            raise BadRequest(told, remedy=f"Use at most {MAX_GRAMMAR:,}")
        for token_id, bias in self.logit_bias:
            if not -100 <= bias <= 100:
                raise BadRequest(
                    f"logit_bias {bias} of token {token_id} is out of range",
                    remedy="Use -100 to 100",
                    param="logit_bias",
                )

    def _check_types(self) -> None:
        for name in (*_RANGES, "seed"):
            value, kinds = getattr(self, name), (int,) if name in _INTEGERS else (int, float)
            if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
                wanted = "a whole number" if name in _INTEGERS else "a number"
                raise BadRequest(f"{name} = {value!r} is not {wanted}", remedy=f"Give {wanted}", param=name)
        for name, kind in (("stop", str), ("stop_token_ids", int), ("logit_bias", tuple)):
            value = getattr(self, name)
            if not isinstance(value, tuple) or not all(isinstance(item, kind) for item in value):
                raise BadRequest(f"{name} = {value!r} is no tuple of {kind.__name__}", remedy="Give one", param=name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One prompt to continue. ``salt`` separates prefix caches of tenants that may not share.

    Tenants share the engine fairly; of a tenant's own requests those of the lowest ``priority`` come first, and each
    rises while it waits. Of one that ``may_restart`` nothing is shown before it is whole: it is begun anew where its
    engine dies.
    """

    request_id: str
    prompt: tuple[int, ...]
    sampling: Sampling
    salt: str = ""
    tenant: str = ""
    priority: int = 0
    may_restart: bool = False
    first_token_s: float | None = None  # that its first token may take: what would take longer is refused

    def choices(self) -> list["Request"]:
        """One request per choice of ``sampling.n``: the engine only ever sees requests with n = 1.

        Choice i of a seeded request samples with seed + i, so that choices differ and stay reproducible.
        """
        if self.sampling.n == 1:
            return [self]
        seed = self.sampling.seed
        return [
            replace(
                self,
                request_id=f"{self.request_id}-{i}",
                sampling=replace(self.sampling, n=1, seed=None if seed is None else seed + i),
            )
            for i in range(self.sampling.n)
        ]


class Alternative(NamedTuple):
    """A token that could have been chosen."""

    token_id: int
    logprob: float


class TokenLogprobs(NamedTuple):
    """The log-probability (nats) of a chosen token and of the most likely ones, best first."""

    logprob: float
    top: tuple[Alternative, ...]


class Usage(NamedTuple):
    """Tokens a request cost. ``cached_tokens`` of the prompt came from the prefix cache."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class StartEvent:
    """A request left the waiting queue for the first time: at most one, before every other event.

    Where a request that may is begun anew, one that says so comes, then another: what was told before is void.
    """

    request_id: str
    queue_s: float  # between arrival in the engine and this moment
    is_anew: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptEvent:
    """The next tokens of a prompt, from its second on, and how likely they were: before the first ``TokenEvent``."""

    request_id: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenEvent:
    """New tokens of a request. ``text`` may lag behind: it never ends in half a character or half a stop string."""

    request_id: str
    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprobs, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishEvent:
    """The end of a request: always the last event, exactly one."""

    request_id: str
    reason: FinishReason
    usage: Usage
    error: str | None = None  # with reason "error": one line
    is_refused: bool = False  # whether the request itself is what is wrong; else it may be sent again


Event = StartEvent | PromptEvent | TokenEvent | FinishEvent


class Load(NamedTuple):
    """What an engine carries. free + cached + used blocks == total blocks, after every step."""

    waiting: int = 0
    running: int = 0
    total_blocks: int = 0
    free_blocks: int = 0
    cached_blocks: int = 0  # hold a reusable prefix, referenced by nobody
    used_blocks: int = 0
    preemptions: int = 0  # since start, as the two below
    prefix_queried_tokens: int = 0
    prefix_hit_tokens: int = 0
    steps: int = 0
    drafts: int = 0  # tokens that were drafted, since start
    kept_drafts: tuple[int, ...] = ()  # of the first, second, ... draft of a step
    saved_s: float = 0.0  # by drafts, as measured costs say; below 0: lost
    not_numbers: int = 0  # requests that failed because the model's logits were no numbers, since start
    read_per_s: float = 0.0  # tokens of prompts, in the last step; 0 of one that read few
    ready: bool = True  # False while the engine starts, restarts or drains


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCard:
    """What the front must know of a served model."""

    name: str
    vocab_size: int
    max_positions: int
    max_request_tokens: int  # prompt + output that fit an empty block pool and the context
    weights: str  # format of the weights, as "dense", "int8", "int4-g128"
    created: int = 0  # seconds since 1970
    max_in_flight: int = 1024  # requests waiting and running; more are refused
    max_queued: int = 512  # of them, of one tenant
    max_running: int = 64
    first_token_s: float | None = None  # that a first token may take; None: for ever


class Served(Protocol):
    """Anything that answers requests: an engine, a client of one in another process, a remote handle, a test double."""

    def submit(self, request: Request) -> AsyncIterator[Event]:
        """Events of a request with n = 1, the last a FinishEvent. Closing the iterator aborts the request.

        Raises ``Unavailable`` when the engine is down or draining, ``BadRequest`` when it can never fit.
        """
        ...

    def load(self) -> Load:
        """A snapshot; changes nothing."""
        ...

    async def drain(self) -> None:
        """Take nothing new and return when what runs has finished."""
        ...


class Message(NamedTuple):
    """One turn of a chat."""

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()  # that the assistant made
    tool_call_id: str | None = None  # of the call whose result this is


class TextCodec(Protocol):
    """Text to tokens and back, as the front needs it."""

    @property
    def bos_token_id(self) -> int | None:
        """Beginning-of-sequence token, if the model has one."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids; special tokens (bos) as the tokenizer's own post-processor adds them."""
        ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of token ids; bytes that are no UTF-8 become U+FFFD."""
        ...

    @property
    def tool_style(self) -> ToolStyle | None:
        """How the model writes calls of functions; None where its chat template knows of none."""
        ...

    def chat(
        self, messages: Sequence[Message], *, to_answer: bool = True, tools: Sequence[Mapping[str, object]] = ()
    ) -> list[int]:
        """Token ids of a conversation rendered through the chat template; ``to_answer``: ready for the assistant's.

        ``tools``: functions that may be called, as OpenAI's API describes them. Raises ``BadRequest`` when the model
        has no chat template or the template refuses the messages.
        """
        ...

    def piece(self, token_id: int) -> bytes:
        """The bytes of one token."""
        ...
