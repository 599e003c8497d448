"""From a request body to engine requests: tokens, sampling, and every bound that concerns them."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple
from uuid import uuid4

from burnish.core.admission import Limits, admit
from burnish.core.errors import BadRequest
from burnish.core.tools import ToolCall
from burnish.core.types import Grammar, Message, Request, Sampling
from burnish.service.front import Front
from burnish.service.openai.grammar import grammar_of
from burnish.service.openai.schema import ChatMessage, GenerationBody, ModelMessage, ResultMessage, text_of

LONG_TEXT = 4000  # characters: tokenizing more would hold up the event loop
DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's
SMALLEST_TOP_P = 1e-9  # 0 means the likeliest token alone, which any positive mass gives


class Batch(NamedTuple):
    """The engine requests of one HTTP call, in the order of its choices: prompt by prompt, ``n`` each."""

    answer_id: str
    requests: Sequence[Request]
    n: int

    @property
    def num_prompt_tokens(self) -> int:
        """Each prompt counted once."""
        return sum(len(request.prompt) for request in self.requests[:: self.n])


async def encode(front: Front, text: str, *, add_special_tokens: bool = True) -> list[int]:
    """Token ids of a text."""
    codec = front.text
    if len(text) <= LONG_TEXT:
        return codec.encode(text, add_special_tokens=add_special_tokens)
    return await asyncio.to_thread(codec.encode, text, add_special_tokens=add_special_tokens)


async def encode_chat(
    front: Front, messages: Sequence[ChatMessage], tools: Sequence[Mapping[str, object]] = ()
) -> list[int]:
    """Token ids of a conversation, ready for the answer."""
    # A thread even for a short one: what a template does with it is not known.
    return await asyncio.to_thread(front.text.chat, [_message(one) for one in messages], tools=tools)


def _message(said: ChatMessage) -> Message:
    text = text_of(said.content)
    if isinstance(said, ModelMessage):
        calls = tuple(ToolCall(call.id, call.function.name, call.function.arguments) for call in said.tool_calls)
        return Message(said.role, text, calls)
    if isinstance(said, ResultMessage):
        return Message(said.role, text, tool_call_id=said.tool_call_id)
    return Message("system" if said.role == "developer" else said.role, text)


async def encode_prompts(front: Front, prompt: str | list[str] | list[int] | list[list[int]]) -> list[list[int]]:
    """Token ids of every prompt of a completion; an empty one starts from the beginning-of-sequence token."""
    prompts = _each(prompt)
    bound(len(prompts), front.config.max_prompts, "prompt")
    encoded = [await encode(front, p) if isinstance(p, str) else p for p in prompts]
    return [ids or [_beginning(front)] for ids in encoded]


def new_batch(
    front: Front,
    kind: Literal["chatcmpl", "cmpl"],
    body: GenerationBody,
    prompts: Sequence[Sequence[int]],
    *,
    tenant: str,
    max_tokens: int | None,
    logprobs: int | None,
    prompt_logprobs: int | None = None,
    grammar: Grammar | None = None,
) -> Batch:
    """The engine requests of one call. ``grammar``: of answers that must be calls.

    Raises ``BadRequest`` for a value out of bounds, ``PromptTooLong`` for a prompt that cannot fit.
    """
    sampling = replace(
        _sampling(front, body, max_tokens=max_tokens, logprobs=logprobs),
        prompt_logprobs=prompt_logprobs,
        grammar=grammar or grammar_of(body),
    )
    answer_id = f"{kind}-{uuid4().hex}"
    salt = f"{tenant} {body.cache_salt}" if tenant else body.cache_salt  # no tenant sees another's prefixes
    requests: list[Request] = []
    limits = Limits(front.card.vocab_size, front.card.max_request_tokens)
    for number, prompt in enumerate(prompts):
        request_id = f"{answer_id}.{number}" if len(prompts) > 1 else answer_id
        request = Request(
            request_id=request_id,
            prompt=tuple(prompt),
            sampling=sampling,
            salt=salt,
            tenant=tenant,
            priority=body.priority,
            may_restart=not body.stream,
            first_token_s=body.first_token_s,
        )
        choices = request.choices()
        admit(choices[0], limits)  # they differ in nothing but their seeds
        requests.extend(choices)
    return Batch(answer_id, requests, body.n)


def check_options(front: Front, body: GenerationBody) -> None:
    """Raise unless the model is served and the options fit each other."""
    front.check_model(body.model)
    bound(body.n, front.config.max_n, "n")
    if body.stream_options is not None and not body.stream:
        raise BadRequest("stream_options without stream", remedy="Set stream to true", param="stream_options")


def bound(value: int, limit: int, param: str) -> None:
    """Raise ``BadRequest`` for a count above its limit."""
    if value > limit:
        raise BadRequest(f"{param!r} asks for {value}, the limit is {limit}", remedy="Ask for less", param=param)


def room(front: Front, prompts: Sequence[Sequence[int]]) -> int:
    """Output tokens for which there is room after the longest prompt; at least 1."""
    return max(1, front.card.max_request_tokens - max(map(len, prompts)))


def _sampling(front: Front, body: GenerationBody, *, max_tokens: int | None, logprobs: int | None) -> Sampling:
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)
    bound(len(stop), front.config.max_stop, "stop")
    bound(len(body.stop_token_ids), front.config.max_stop, "stop_token_ids")
    bound(logprobs or 0, front.config.max_logprobs, "logprobs")
    return Sampling(
        max_tokens=max_tokens,
        temperature=body.temperature,
        top_p=max(body.top_p, SMALLEST_TOP_P),
        top_k=body.top_k,
        min_p=body.min_p,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        repetition_penalty=body.repetition_penalty,
        logit_bias=tuple(body.logit_bias.items()),
        seed=body.seed,
        stop=stop,
        stop_token_ids=tuple(body.stop_token_ids),
        ignore_eos=body.ignore_eos,
        n=body.n,
        logprobs=logprobs,
    )


def _each(prompt: str | list[str] | list[int] | list[list[int]]) -> Sequence[str | list[int]]:
    if isinstance(prompt, str):
        return [prompt]
    ids = [part for part in prompt if isinstance(part, int)]
    return [ids] if len(ids) == len(prompt) else [part for part in prompt if not isinstance(part, int)]


def _beginning(front: Front) -> int:
    beginning = front.codec.bos_token_id if front.codec else None
    if beginning is None:
        raise BadRequest("the prompt is empty and the model has no beginning token", remedy="Give one", param="prompt")
    return beginning
