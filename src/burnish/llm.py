"""The Python API: a model in this process, for scripts and notebooks."""

import asyncio
import itertools
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from burnish.assemble import build_engine
from burnish.core.admission import admit
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

NO_LIMIT = 2**31


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
    """A language model, loaded from a folder, a GGUF or llama2.c file, or by the name "builtin".

    ``generate`` and ``stream`` may be mixed and called from several threads and tasks: whatever is in flight is
    computed together.
    """

    def __init__(self, model: str | Path = "builtin", config: EngineConfig | None = None) -> None:
        path = locate(str(model))
        self.tokenizer = load_tokenizer(path)
        # a caller in this process may queue as much as it likes
        patient = replace(config or EngineConfig(), max_waiting=NO_LIMIT)
        self._engine, self.card = build_engine(path, patient, str(model))
        self._engine_lock = threading.Lock()  # held for whole steps: never taken on an event loop
        self._orders: deque[Request | str] = deque()  # requests to add and ids to abort, taken before the next step
        self._mail: dict[str, deque[Event]] = {}
        self._ids = itertools.count()

    def generate(
        self, prompts: str | Sequence[str] | Sequence[Sequence[int]], sampling: Sampling | None = None
    ) -> list[Output]:
        """Continue every prompt: ``sampling.n`` outputs each, in the order of the prompts.

        Raises ``BadRequest`` for a prompt that does not fit; then nothing was generated.
        """
        listed: list[str | Sequence[int]] = [prompts] if isinstance(prompts, str) else list(prompts)
        if not all(isinstance(prompt, str | Sequence) for prompt in listed):
            raise BadRequest("prompts are strings or lists of token ids", remedy="Put one list of ids into another")
        outputs: dict[str, Output] = {}
        try:
            for prompt_index, prompt in enumerate(listed):
                for index, request in enumerate(self._requests(prompt, sampling or Sampling())):
                    outputs[request.request_id] = Output(prompt_index=prompt_index, index=index)
                    self._order(request)
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
        """The output so far, after every step that added to it, each a copy; the last carries the finish reason.

        Closing the iterator aborts the request. Streams open at the same time are computed together.
        """
        choices = self._requests(prompt, sampling or Sampling())
        if len(choices) > 1:
            raise BadRequest(f"n = {len(choices)} cannot be streamed", remedy="Open one stream per choice", param="n")
        request_id, output = choices[0].request_id, Output()
        try:
            self._order(choices[0])
            while output.finish_reason is None:
                events = self._collect(request_id)
                for event in events:
                    output.take(event)
                if any(isinstance(event, TokenEvent | FinishEvent) for event in events):
                    yield replace(output, token_ids=[*output.token_ids])
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
        with self._engine_lock:
            self._take_orders()
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

    def _order(self, request: Request) -> None:
        """Have a request added before the next step. Raises ``BadRequest`` at once when it can never fit."""
        admit(request, self._engine.limits)
        self._mail[request.request_id] = deque()
        self._orders.append(request)

    def _collect(self, request_id: str) -> list[Event]:
        mail = self._mail[request_id]
        return [mail.popleft() for _ in range(len(mail))]

    def _advance(self, waited_for: set[str]) -> None:
        """One step for everybody, unless a step of another caller has brought what is waited for meanwhile."""
        with self._engine_lock:
            self._take_orders()
            if any(self._mail[request_id] for request_id in waited_for):
                return
            for event in self._engine.step():
                mail = self._mail.get(event.request_id)
                if mail is not None:
                    mail.append(event)
            self._take_orders()

    def _take_orders(self) -> None:
        """Under the engine's lock: add and abort what was ordered, in order."""
        while self._orders:
            order = self._orders.popleft()
            if isinstance(order, str):
                self._engine.abort(order)
            else:
                self._engine.add(order)

    def _forget(self, request_ids: Iterable[str]) -> None:
        """Abort what is not finished: now if the engine is free, else by whoever is stepping it."""
        for request_id in list(request_ids):
            self._mail.pop(request_id, None)
            self._orders.append(request_id)
        if self._engine_lock.acquire(blocking=False):
            try:
                self._take_orders()
            finally:
                self._engine_lock.release()
