"""The Python API: a model in this process, for scripts and notebooks."""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from burnish.assemble import build_engine
from burnish.core.errors import BadRequest, BurnishError
from burnish.core.types import (
    Event,
    FinishEvent,
    FinishReason,
    Load,
    Message,
    Request,
    Sampling,
    TokenEvent,
    TokenLogprobs,
    Usage,
)
from burnish.engine.config import EngineConfig
from burnish.models.locate import locate
from burnish.models.tokenizer import load_tokenizer


@dataclass(kw_only=True, slots=True)
class Output:
    """One generated text: choice ``index`` of prompt ``prompt_index``."""

    prompt_index: int = 0
    index: int = 0
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    logprobs: list[TokenLogprobs] | None = None
    usage: Usage = field(default_factory=lambda: Usage(0, 0))

    def take(self, event: Event) -> None:
        """Add what an event brings.

        Raises ``BurnishError`` when the generation failed.
        """
        if isinstance(event, TokenEvent):
            self.text += event.text
            self.token_ids += event.token_ids
            if event.logprobs is not None:
                self.logprobs = [*(self.logprobs or []), *event.logprobs]
        elif isinstance(event, FinishEvent):
            self.finish_reason, self.usage = event.reason, event.usage
            if event.error is not None:
                raise BurnishError(event.error)


class LLM:
    """A language model, loaded from a folder, a llama2.c file or by the name "builtin".

    ``generate`` and ``stream`` may be mixed and called from several threads and tasks: whatever is in flight is
    computed together.
    """

    def __init__(self, model: str | Path = "builtin", config: EngineConfig | None = None) -> None:
        path = locate(str(model))
        self.tokenizer = load_tokenizer(path)
        self._engine, self.card = build_engine(path, config or EngineConfig(), str(model))
        self._lock = threading.Lock()  # guards the engine and the mailboxes
        self._mail: dict[str, list[Event]] = {}
        self._ids = itertools.count()

    def generate(
        self, prompts: str | Sequence[str] | Sequence[Sequence[int]], sampling: Sampling | None = None
    ) -> list[Output]:
        """Continue every prompt: ``sampling.n`` outputs each, in the order of the prompts.

        Raises ``BadRequest`` for a prompt that does not fit; then nothing was generated.
        """
        listed: list[str | Sequence[int]] = [prompts] if isinstance(prompts, str) else list(prompts)
        outputs: dict[str, Output] = {}
        try:
            for prompt_index, prompt in enumerate(listed):
                for index, request in enumerate(self._requests(prompt, sampling or Sampling())):
                    outputs[request.request_id] = Output(prompt_index=prompt_index, index=index)
                    self._add(request)
            open_ids = set(outputs)
            while open_ids:
                for request_id in list(open_ids):
                    for event in self._collect(request_id):
                        outputs[request_id].take(event)
                    if outputs[request_id].finish_reason:
                        open_ids.remove(request_id)
                if open_ids:
                    self._advance(open_ids)
        finally:
            self._forget(outputs)
        return list(outputs.values())

    async def stream(self, prompt: str | Sequence[int], sampling: Sampling | None = None) -> AsyncIterator[Output]:
        """The output so far, after every step that added to it; the last one carries the finish reason.

        Closing the iterator aborts the request. Streams open at the same time are computed together.
        """
        choices = self._requests(prompt, sampling or Sampling())
        if len(choices) > 1:
            raise BadRequest(f"n = {len(choices)} cannot be streamed", remedy="Open one stream per choice", param="n")
        request_id, output = choices[0].request_id, Output()
        try:
            self._add(choices[0])
            while output.finish_reason is None:
                events = self._collect(request_id)
                for event in events:
                    output.take(event)
                if any(isinstance(event, TokenEvent | FinishEvent) for event in events):
                    yield output
                else:
                    await asyncio.to_thread(self._advance, {request_id})
        finally:
            self._forget([request_id])

    def chat(self, messages: Sequence[tuple[str, str]], sampling: Sampling | None = None) -> Output:
        """The assistant's answer to a conversation of (role, content) pairs.

        Raises ``BadRequest`` when the model has no chat template.
        """
        sampling = sampling or Sampling()
        if sampling.n > 1:
            raise BadRequest(f"n = {sampling.n} answers of a chat", remedy="Ask again for another one", param="n")
        prompt = self.tokenizer.chat([Message(*message) for message in messages])
        return self.generate([prompt], sampling)[0]

    def load(self) -> Load:
        """What the engine carries at the moment."""
        with self._lock:
            return self._engine.load()

    def _tokens(self, prompt: str) -> list[int]:
        """Tokens of a prompt; an empty one starts from the beginning-of-sequence token, if the model has one."""
        tokens, bos = self.tokenizer.encode(prompt), self.tokenizer.bos_token_id
        return [bos] if not tokens and bos is not None else tokens

    def _requests(self, prompt: str | Sequence[int], sampling: Sampling) -> list[Request]:
        if isinstance(prompt, int):
            raise BadRequest(f"prompt {prompt} is a single token", remedy="Give a list of prompts", param="prompt")
        tokens = self._tokens(prompt) if isinstance(prompt, str) else prompt
        return Request(request_id=str(next(self._ids)), prompt=tuple(tokens), sampling=sampling).choices()

    def _add(self, request: Request) -> None:
        with self._lock:
            self._engine.add(request)
            self._mail[request.request_id] = []

    def _collect(self, request_id: str) -> list[Event]:
        with self._lock:
            events, self._mail[request_id] = self._mail[request_id], []
            return events

    def _advance(self, waited_for: set[str]) -> None:
        """One step for everybody, unless a step of another caller has brought what is waited for meanwhile."""
        with self._lock:
            if any(self._mail[request_id] for request_id in waited_for):
                return
            for event in self._engine.step():
                if event.request_id in self._mail:
                    self._mail[event.request_id].append(event)

    def _forget(self, request_ids: Sequence[str] | dict[str, Output]) -> None:
        with self._lock:
            for request_id in request_ids:
                self._engine.abort(request_id)
                self._mail.pop(request_id, None)
