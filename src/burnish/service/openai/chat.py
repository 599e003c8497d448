"""POST /v1/chat/completions."""

import time
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel
from starlette.responses import Response

from burnish.core.errors import BadRequest
from burnish.core.types import FinishEvent, TokenEvent
from burnish.service.front import Front, FrontOf, TenantOf
from burnish.service.openai.answer import Choice, finish_reason, respond
from burnish.service.openai.logprobs import chat_logprobs, join_chat
from burnish.service.openai.prompt import Batch, check_options, encode_chat, new_batch
from burnish.service.openai.schema import ChatBody
from burnish.service.openai.shapes import (
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChunkChoice,
    Delta,
    Finish,
    FunctionDelta,
    FunctionShape,
    ToolCallDelta,
    ToolCallShape,
    UsageShape,
)
from burnish.service.openai.tool_calls import Argued, Began, CallParser, Piece, Said
from burnish.service.openai.tools import Offer, offer_of
from burnish.service.stream import ChoiceEvent


async def create_chat_completion(body: ChatBody, front: FrontOf, tenant: TenantOf) -> Response:
    """The model's next turn in a conversation."""
    check_options(front, body)
    logprobs = _logprobs(body)
    max_tokens = _max_tokens(body)
    offer = offer_of(front, body)
    prompt = await encode_chat(front, body.messages, offer.described)
    batch = new_batch(
        front,
        "chatcmpl",
        body,
        [prompt],
        tenant=tenant,
        max_tokens=max_tokens,
        logprobs=logprobs,
        grammar=offer.grammar,
    )
    return respond(front, body, batch, ChatForm(front, batch, body, offer))


class ChatForm:
    """A chat answer, whole or in chunks."""

    def __init__(self, front: Front, batch: Batch, body: ChatBody, offer: Offer) -> None:
        self._front, self._id, self._created = front, batch.answer_id, int(time.time())
        # While streaming with usage, every chunk before the last carries "usage": null.
        self._null_usage: dict[str, Any] = {"usage": None} if body.streams_usage else {}
        self._opened: set[int] = set()
        self._offer = offer
        self._parsers: dict[int, CallParser] = {}  # of answers that may hold calls

    def chunks(self, happened: ChoiceEvent) -> Iterator[BaseModel]:
        """The role once, then text as it comes, then the reason of the end."""
        index, event = happened
        if index not in self._opened:
            self._opened.add(index)
            yield self._chunk(ChunkChoice(index=index, delta=Delta(role="assistant", content=""), finish_reason=None))
        if isinstance(event, TokenEvent) and (event.text or event.logprobs):
            logprobs = chat_logprobs(self._front.codec, event)
            for delta in self._deltas(index, event.text, is_told=bool(logprobs)):
                yield self._chunk(ChunkChoice(index=index, delta=delta, logprobs=logprobs, finish_reason=None))
                logprobs = None
        elif isinstance(event, FinishEvent):
            parser = self._parsers.get(index)
            for piece in parser.finish() if parser else ():
                yield self._chunk(ChunkChoice(index=index, delta=_delta(piece), finish_reason=None))
            reason = _reason(event, parser.num_calls if parser else 0)
            yield self._chunk(ChunkChoice(index=index, delta=Delta(), finish_reason=reason))

    def _deltas(self, index: int, text: str, *, is_told: bool) -> list[Delta]:
        """What a piece of text adds; ``is_told``: something must be, log-probabilities belong to it."""
        if self._offer.style is None:
            return [Delta(content=text)]
        if index not in self._parsers:
            self._parsers[index] = CallParser(self._offer.style, self._offer.names)
        found = [_delta(piece) for piece in self._parsers[index].push(text)]
        return found or ([Delta(content="")] if is_told else [])

    def usage_chunk(self, usage: UsageShape) -> BaseModel:
        """No choices, only the usage."""
        return ChatChunk(**self._head("chat.completion.chunk"), choices=[], usage=usage)

    def whole(self, choices: list[Choice], usage: UsageShape) -> BaseModel:
        """All choices."""
        answers = [self._choice(index, choice) for index, choice in enumerate(choices)]
        return ChatCompletion(**self._head("chat.completion"), choices=answers, usage=usage)

    def _choice(self, index: int, choice: Choice) -> ChatChoice:
        assert choice.finish is not None
        message, calls = _message(choice.text, self._offer)
        parts = [part for event in choice.tokens if (part := chat_logprobs(self._front.codec, event))]
        reason = _reason(choice.finish, calls)
        return ChatChoice(index=index, message=message, logprobs=join_chat(parts), finish_reason=reason)

    def _chunk(self, choice: ChunkChoice) -> ChatChunk:
        return ChatChunk(**self._head("chat.completion.chunk"), choices=[choice], **self._null_usage)

    def _head(self, kind: Literal["chat.completion", "chat.completion.chunk"]) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._front.card.name}


def _message(text: str, offer: Offer) -> tuple[AssistantMessage, int]:
    """A whole answer, and how many calls are in it."""
    if offer.style is None:
        return AssistantMessage(role="assistant", content=text, refusal=None), 0
    parser = CallParser(offer.style, offer.names)
    pieces = [*parser.push(text), *parser.finish()]
    said = "".join(piece.text for piece in pieces if isinstance(piece, Said))
    begun = [piece for piece in pieces if isinstance(piece, Began)]
    if not begun:
        return AssistantMessage(role="assistant", content=said, refusal=None), 0
    argued = ["" for _ in begun]
    for piece in pieces:
        if isinstance(piece, Argued):
            argued[piece.number] += piece.text
    calls = [
        ToolCallShape(id=call.call_id, type="function", function=FunctionShape(name=call.name, arguments=arguments))
        for call, arguments in zip(begun, argued, strict=True)
    ]
    return AssistantMessage(role="assistant", content=said or None, refusal=None, tool_calls=calls), len(calls)


def _delta(piece: Piece) -> Delta:
    if isinstance(piece, Said):
        return Delta(content=piece.text)
    if isinstance(piece, Argued):
        return Delta(tool_calls=[ToolCallDelta(index=piece.number, function=FunctionDelta(arguments=piece.text))])
    function = FunctionDelta(name=piece.name, arguments="")
    return Delta(tool_calls=[ToolCallDelta(index=piece.number, id=piece.call_id, type="function", function=function)])


def _reason(finish: FinishEvent, num_calls: int) -> Finish:
    reason = finish_reason(finish)
    return "tool_calls" if num_calls and reason == "stop" else reason


def _logprobs(body: ChatBody) -> int | None:
    if body.top_logprobs is not None and not body.logprobs:
        raise BadRequest("top_logprobs without logprobs", remedy="Set logprobs to true", param="top_logprobs")
    return (body.top_logprobs or 0) if body.logprobs else None


def _max_tokens(body: ChatBody) -> int | None:
    if body.max_tokens is not None and body.max_completion_tokens not in (None, body.max_tokens):
        raise BadRequest("max_tokens and max_completion_tokens differ", remedy="Send one", param="max_tokens")
    return body.max_completion_tokens or body.max_tokens
