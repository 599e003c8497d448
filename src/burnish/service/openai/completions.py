"""POST /v1/completions."""

import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from starlette.responses import Response

from burnish.core.types import FinishEvent, TokenEvent
from burnish.service.front import Front, FrontOf
from burnish.service.openai.answer import Choice, finish_reason, respond
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
from burnish.service.openai.shapes import TextChoice, TextCompletion, UsageShape
from burnish.service.stream import ChoiceEvent


async def create_completion(body: CompletionBody, front: FrontOf) -> Response:
    """Continuations of one or more prompts."""
    check_options(front, body)
    prompts = await encode_prompts(front, body.prompt)
    max_tokens = body.max_tokens or min(DEFAULT_COMPLETION_TOKENS, room(front, prompts))
    batch = new_batch(front, "cmpl", body, prompts, max_tokens=max_tokens, logprobs=body.logprobs)
    return respond(front, body, batch, TextForm(front, batch, body))


class TextForm:
    """A completion, whole or in chunks of the same shape."""

    def __init__(self, front: Front, batch: Batch, body: CompletionBody) -> None:
        self._front = front
        self._head: dict[str, Any] = {
            "id": batch.answer_id,
            "object": "text_completion",
            "created": int(time.time()),
            "model": front.card.name,
        }
        self._null_usage: dict[str, Any] = {"usage": None} if body.streams_usage else {}
        self._offsets: defaultdict[int, TextOffsets] = defaultdict(TextOffsets)

    def chunks(self, happened: ChoiceEvent) -> Iterator[BaseModel]:
        """Text as it comes, then the reason of the end."""
        index, event = happened
        if isinstance(event, TokenEvent) and (event.text or event.logprobs):
            logprobs = text_logprobs(self._front.codec, event, self._offsets[index])
            yield self._chunk(TextChoice(index=index, text=event.text, logprobs=logprobs, finish_reason=None))
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
        offsets = TextOffsets()
        parts = [part for event in choice.tokens if (part := text_logprobs(self._front.codec, event, offsets))]
        text, reason = choice.text, finish_reason(choice.finish)
        return TextChoice(index=index, text=text, logprobs=join_text(parts, text), finish_reason=reason)

    def _chunk(self, choice: TextChoice) -> TextCompletion:
        return TextCompletion(**self._head, choices=[choice], **self._null_usage)
