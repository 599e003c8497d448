"""POST /v1/chat/completions."""

import time
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel
from starlette.responses import Response

from burnish.core.errors import BadRequest
from burnish.core.types import FinishEvent, TokenEvent
from burnish.service.front import Front, FrontOf
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
    UsageShape,
)
from burnish.service.stream import ChoiceEvent


async def create_chat_completion(body: ChatBody, front: FrontOf) -> Response:
    """The model's next turn in a conversation."""
    check_options(front, body)
    logprobs = _logprobs(body)
    max_tokens = _max_tokens(body)
    prompt = await encode_chat(front, body.messages)
    batch = new_batch(front, "chatcmpl", body, [prompt], max_tokens=max_tokens, logprobs=logprobs)
    return respond(front, body, batch, ChatForm(front, batch, body))


class ChatForm:
    """A chat answer, whole or in chunks."""

    def __init__(self, front: Front, batch: Batch, body: ChatBody) -> None:
        self._front, self._id, self._created = front, batch.answer_id, int(time.time())
        # While streaming with usage, every chunk before the last carries "usage": null.
        self._null_usage: dict[str, Any] = {"usage": None} if body.streams_usage else {}
        self._opened: set[int] = set()

    def chunks(self, happened: ChoiceEvent) -> Iterator[BaseModel]:
        """The role once, then text as it comes, then the reason of the end."""
        index, event = happened
        if index not in self._opened:
            self._opened.add(index)
            yield self._chunk(ChunkChoice(index=index, delta=Delta(role="assistant", content=""), finish_reason=None))
        if isinstance(event, TokenEvent) and (event.text or event.logprobs):
            logprobs = chat_logprobs(self._front.codec, event)
            delta = Delta(content=event.text)
            yield self._chunk(ChunkChoice(index=index, delta=delta, logprobs=logprobs, finish_reason=None))
        elif isinstance(event, FinishEvent):
            yield self._chunk(ChunkChoice(index=index, delta=Delta(), finish_reason=finish_reason(event)))

    def usage_chunk(self, usage: UsageShape) -> BaseModel:
        """No choices, only the usage."""
        return ChatChunk(**self._head("chat.completion.chunk"), choices=[], usage=usage)

    def whole(self, choices: list[Choice], usage: UsageShape) -> BaseModel:
        """All choices."""
        answers = [self._choice(index, choice) for index, choice in enumerate(choices)]
        return ChatCompletion(**self._head("chat.completion"), choices=answers, usage=usage)

    def _choice(self, index: int, choice: Choice) -> ChatChoice:
        assert choice.finish is not None
        message = AssistantMessage(role="assistant", content=choice.text, refusal=None)
        parts = [part for event in choice.tokens if (part := chat_logprobs(self._front.codec, event))]
        reason = finish_reason(choice.finish)
        return ChatChoice(index=index, message=message, logprobs=join_chat(parts), finish_reason=reason)

    def _chunk(self, choice: ChunkChoice) -> ChatChunk:
        return ChatChunk(**self._head("chat.completion.chunk"), choices=[choice], **self._null_usage)

    def _head(self, kind: Literal["chat.completion", "chat.completion.chunk"]) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._front.card.name}


def _logprobs(body: ChatBody) -> int | None:
    if body.top_logprobs is not None and not body.logprobs:
        raise BadRequest("top_logprobs without logprobs", remedy="Set logprobs to true", param="top_logprobs")
    return (body.top_logprobs or 0) if body.logprobs else None


def _max_tokens(body: ChatBody) -> int | None:
    if body.max_tokens is not None and body.max_completion_tokens not in (None, body.max_tokens):
        raise BadRequest("max_tokens and max_completion_tokens differ", remedy="Send one", param="max_tokens")
    return body.max_completion_tokens or body.max_tokens
