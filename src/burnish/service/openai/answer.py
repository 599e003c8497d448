"""What chat and plain completions share on the way out."""

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import BaseModel
from starlette.responses import Response

from burnish.core.types import FinishEvent, PromptEvent, StartEvent, TokenEvent
from burnish.service.front import Front
from burnish.service.openai.prompt import Batch
from burnish.service.openai.schema import GenerationBody
from burnish.service.openai.shapes import Finish, PromptTokensDetails, UsageShape
from burnish.service.stream import DONE, ChoiceEvent, merge, sse, streamed, whole


@dataclass
class Choice:
    """Everything one choice has said."""

    prompt: list[PromptEvent] = field(default_factory=list)
    tokens: list[TokenEvent] = field(default_factory=list)
    finish: FinishEvent | None = None

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(event.text for event in self.tokens)


class Form(Protocol):
    """How an answer looks: chat or plain."""

    def chunks(self, happened: ChoiceEvent) -> Iterator[BaseModel]:
        """Server-sent events for an engine event."""
        ...

    def usage_chunk(self, usage: UsageShape) -> BaseModel:
        """The last chunk, when usage was asked for."""
        ...

    def whole(self, choices: list[Choice], usage: UsageShape) -> BaseModel:
        """The answer as one document."""
        ...


def respond(front: Front, body: GenerationBody, batch: Batch, form: Form) -> Response:
    """Streamed or whole, as the body asks."""
    if body.stream:
        return streamed(front.lifecycle, _lines(front, batch, form, include_usage=body.streams_usage))
    return whole(front.lifecycle, lambda: _document(front, batch, form))


def finish_reason(finish: FinishEvent) -> Finish:
    """The reason as OpenAI names it; failed requests never get here."""
    return "length" if finish.reason == "length" else "stop"


async def _lines(front: Front, batch: Batch, form: Form, *, include_usage: bool) -> AsyncGenerator[bytes, None]:
    finishes: dict[int, FinishEvent] = {}
    async with aclosing(merge(front.served, batch.requests)) as events:
        async for happened in events:
            if isinstance(happened.event, FinishEvent):
                finishes[happened.choice] = happened.event
            for chunk in form.chunks(happened):
                yield sse(chunk.model_dump_json(exclude_unset=True))
    if include_usage:
        yield sse(form.usage_chunk(_usage(batch, finishes)).model_dump_json(exclude_unset=True))
    yield DONE


async def _document(front: Front, batch: Batch, form: Form) -> str:
    choices = [Choice() for _ in batch.requests]
    async with aclosing(merge(front.served, batch.requests)) as events:
        async for index, event in events:
            if isinstance(event, StartEvent) and event.is_anew:
                choices[index] = Choice()
            elif isinstance(event, TokenEvent):
                choices[index].tokens.append(event)
            elif isinstance(event, PromptEvent):
                choices[index].prompt.append(event)
            elif isinstance(event, FinishEvent):
                choices[index].finish = event
    finishes = {index: choice.finish for index, choice in enumerate(choices) if choice.finish}
    return form.whole(choices, _usage(batch, finishes)).model_dump_json(exclude_unset=True)


def _usage(batch: Batch, finishes: Mapping[int, FinishEvent]) -> UsageShape:
    output = sum(finish.usage.completion_tokens for finish in finishes.values())
    cached = sum(finishes[index].usage.cached_tokens for index in range(0, len(batch.requests), batch.n))
    return UsageShape(
        prompt_tokens=batch.num_prompt_tokens,
        completion_tokens=output,
        total_tokens=batch.num_prompt_tokens + output,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=cached),
    )
