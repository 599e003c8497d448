"""POST /v1/completions."""

import time
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from starlette.responses import Response

from burnish.core.errors import BadRequest
from burnish.core.types import FinishEvent, PromptEvent, TokenEvent
from burnish.service.front import Front, FrontOf, TenantOf
from burnish.service.openai.answer import Choice, finish_reason, respond
from burnish.service.openai.echo import Echo, echoes
from burnish.service.openai.logprobs import TextOffsets, join_text, text_logprobs
from burnish.service.openai.prompt import (
    DEFAULT_COMPLETION_TOKENS,
    Batch,
    check_options,
    encode_prompts,
    new_batch,
    room,
)
from burnish.service.openai.schema import CompletionBody
from burnish.service.openai.shapes import TextChoice, TextCompletion, TextLogprobs, UsageShape
from burnish.service.stream import ChoiceEvent


async def create_completion(body: CompletionBody, front: FrontOf, tenant: TenantOf) -> Response:
    """Continuations of one or more prompts."""
    check_options(front, body)
    prompts = await encode_prompts(front, body.prompt)
    max_tokens = min(DEFAULT_COMPLETION_TOKENS, room(front, prompts)) if body.max_tokens is None else body.max_tokens
    if max_tokens == 0 and not body.echo:
        raise BadRequest("max_tokens 0 asks for nothing", remedy="Set echo, or ask for more", param="max_tokens")
    of_prompt = body.logprobs if body.echo else None
    batch = new_batch(
        front,
        "cmpl",
        body,
        prompts,
        tenant=tenant,
        max_tokens=max_tokens,
        logprobs=body.logprobs,
        prompt_logprobs=of_prompt,
    )
    return respond(front, body, batch, TextForm(front, batch, body))


class TextForm:
    """A completion, whole or in chunks of the same shape."""

    def __init__(self, front: Front, batch: Batch, body: CompletionBody) -> None:
        self._front, self._echoes = front, echoes(front.codec, body, batch)
        self._head: dict[str, Any] = {
            "id": batch.answer_id,
            "object": "text_completion",
            "created": int(time.time()),
            "model": front.card.name,
        }
        self._null_usage: dict[str, Any] = {"usage": None} if body.streams_usage else {}
        self._offsets: dict[int, TextOffsets] = {}  # of the choices that have begun

    def chunks(self, happened: ChoiceEvent) -> Iterator[BaseModel]:
        """The echo first, text as it comes, then the reason of the end."""
        index, event = happened
        if index not in self._offsets:
            self._offsets[index] = TextOffsets()
            if self._echoes:
                echo = self._echoes[index]
                yield self._part(index, echo.text, echo.logprobs(self._front.codec, self._offsets[index]))
        if isinstance(event, PromptEvent):
            yield self._part(index, "", text_logprobs(self._front.codec, event, self._offsets[index]))
        elif isinstance(event, TokenEvent) and (event.text or event.logprobs):
            yield self._part(index, event.text, text_logprobs(self._front.codec, event, self._offsets[index]))
        elif isinstance(event, FinishEvent):
            yield self._chunk(TextChoice(index=index, text="", logprobs=None, finish_reason=finish_reason(event)))

    def usage_chunk(self, usage: UsageShape) -> BaseModel:
        """No choices, only the usage."""
        return TextCompletion(**self._head, choices=[], usage=usage)

    def whole(self, choices: list[Choice], usage: UsageShape) -> BaseModel:
        """All choices."""
        answers = [self._choice(index, choice) for index, choice in enumerate(choices)]
        return TextCompletion(**self._head, choices=answers, usage=usage)

    def _choice(self, index: int, choice: Choice) -> TextChoice:
        assert choice.finish is not None
        offsets, codec = TextOffsets(), self._front.codec
        echo = self._echoes[index] if self._echoes else Echo("", None)
        lists = [echo.logprobs(codec, offsets)]
        said: list[PromptEvent | TokenEvent] = [*choice.prompt, *choice.tokens]
        lists += [text_logprobs(codec, event, offsets) for event in said]
        parts = [part for part in lists if part]
        text, reason = echo.text + choice.text, finish_reason(choice.finish)
        return TextChoice(index=index, text=text, logprobs=join_text(parts, text), finish_reason=reason)

    def _part(self, index: int, text: str, logprobs: TextLogprobs | None) -> TextCompletion:
        return self._chunk(TextChoice(index=index, text=text, logprobs=logprobs, finish_reason=None))

    def _chunk(self, choice: TextChoice) -> TextCompletion:
        return TextCompletion(**self._head, choices=[choice], **self._null_usage)
