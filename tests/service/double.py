"""A wearer of Served with real asyncio behaviour, a byte codec, and a server on loopback to put them behind."""

import asyncio
import codecs
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from fastapi import FastAPI

from burnish.core.errors import BadRequest, Conflict
from burnish.core.profile import FORWARD, Part, Phase, Profile, StepRecord
from burnish.core.tools import ToolStyle
from burnish.core.types import (
    Alternative,
    Event,
    FinishEvent,
    FinishReason,
    Load,
    Message,
    ModelCard,
    PromptEvent,
    Request,
    StartEvent,
    TokenEvent,
    TokenLogprobs,
    Usage,
)
from burnish.service.app import create_app
from burnish.service.config import ServiceConfig
from burnish.service.server import DrainingServer, bind

BOS, EOS = 256, 257
CARD = ModelCard(
    name="double", vocab_size=258, max_positions=512, max_request_tokens=400, weights="dense", created=1_700_000_000
)
TEXT = "Once upon a time, a fox met a crow. «Bonjour!» said the fox 🦊. The end."


class ByteCodec:
    """Bytes as tokens, plus one beginning and one end."""

    bos_token_id: int | None = BOS
    tool_style: ToolStyle | None = None

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [BOS] * add_special_tokens + list(text.encode())

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        special = {BOS: b"", EOS: b""} if skip_special_tokens else {BOS: b"<s>", EOS: b"</s>"}
        return b"".join(special[i] if i >= BOS else bytes([i]) for i in token_ids).decode("utf-8", "replace")

    def chat(
        self, messages: Sequence[Message], *, to_answer: bool = True, tools: Sequence[Mapping[str, object]] = ()
    ) -> list[int]:
        if messages[-1].role != "user":
            raise BadRequest("the chat template wants the user to speak last", remedy="Add a user message")
        return self.encode("".join(f"{m.role}: {m.content}\n" for m in messages) + "assistant: " * to_answer)

    def piece(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < BOS else b"<s>" if token_id == BOS else b"</s>"


BYTES = ByteCodec()


@dataclass
class Double:
    """Says ``text`` byte by byte, then the end token; keeps book of what is active.

    ``fail`` is called with (request, number of tokens said) before each token and may raise or return an error line.
    ``start`` holds requests back until it is set.
    """

    text: str = TEXT
    pause_s: float = 0.0
    fail: Callable[[Request, int], str | None] = lambda request, num_said: None
    ready: bool = True
    active: set[str] = field(default_factory=set)
    seen: list[Request] = field(default_factory=list)
    num_said: int = 0
    hold: bool = False
    num_recordings: int = 0  # that run now
    busy: bool = True  # whether there are steps to record

    async def submit(self, request: Request) -> AsyncGenerator[Event, None]:
        self.seen.append(request)
        self.active.add(request.request_id)
        try:
            async for event in self._events(request):
                yield event
        finally:
            self.active.discard(request.request_id)

    async def _events(self, request: Request) -> AsyncGenerator[Event, None]:
        name, said = request.request_id, 0
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        script = [*self.text.encode(), EOS]
        most = 10**9 if request.sampling.max_tokens is None else request.sampling.max_tokens
        limit = min(most, CARD.max_request_tokens - len(request.prompt), len(script))

        def finish(reason: FinishReason, error: str | None = None) -> FinishEvent:
            usage = Usage(len(request.prompt), said, min(3, len(request.prompt)))
            return FinishEvent(request_id=name, reason=reason, usage=usage, error=error)

        while self.hold:
            await asyncio.sleep(0.005)
        if request.sampling.prompt_logprobs is not None:
            yield StartEvent(request_id=name, queue_s=0.001)
            for token_id in request.prompt[1:]:
                scores = _logprobs(request, token_id, token_id)
                assert scores is not None
                yield PromptEvent(request_id=name, token_ids=(token_id,), logprobs=scores)
        for token_id in script[:limit]:
            if error := self.fail(request, said):
                yield finish("error", error)
                return
            if said == 0 and request.sampling.prompt_logprobs is None:
                yield StartEvent(request_id=name, queue_s=0.001)
            await asyncio.sleep(self.pause_s)
            said += 1
            self.num_said += 1
            text = decoder.decode(bytes([token_id])) if token_id < BOS else ""
            yield TokenEvent(
                request_id=name, token_ids=(token_id,), text=text, logprobs=_logprobs(request, token_id, said)
            )
        yield finish("stop" if limit == len(script) else "length")

    async def profile(self, num_steps: int, *, limit_s: float) -> Profile:
        if self.num_recordings:
            raise Conflict("a profile is being recorded already", remedy="Ask again when it is done")
        self.num_recordings += 1
        try:
            while self.hold:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0 if self.busy else limit_s)
        finally:
            self.num_recordings -= 1
        step = StepRecord((Phase(FORWARD, 1.0, 1.5),), (Part(1, 3, 3, True, 1, 0.5),), (0.25,))
        return Profile(operations=("linear",), steps=(step,) * num_steps if self.busy else ())

    def load(self) -> Load:
        used = len(self.active)
        return Load(
            running=used,
            total_blocks=100,
            free_blocks=90 - used,
            cached_blocks=10,
            used_blocks=used,
            steps=7,
            ready=self.ready,
        )

    async def drain(self) -> None:
        while self.active:
            await asyncio.sleep(0.005)


def _logprobs(request: Request, token_id: int, said: int) -> tuple[TokenLogprobs, ...] | None:
    wanted = request.sampling.logprobs
    if wanted is None:
        return None
    top = tuple(Alternative((token_id + i) % BOS, -0.5 - i if i < 2 else float("-inf")) for i in range(wanted))
    return (TokenLogprobs(-0.5 if said % 2 else -1.5, top),)


@contextmanager
def serving(double: Double, codec: ByteCodec | None = BYTES, **settings: object) -> Iterator[str]:
    """A real uvicorn on loopback, in a thread; yields its base URL and drains at the end."""
    config = ServiceConfig(**settings)  # type: ignore[arg-type]
    started = threading.Event()
    listener = bind("127.0.0.1", 0)

    async def make_app() -> FastAPI:
        return create_app(double, codec, CARD, config, profiler=double)

    server = DrainingServer(make_app, started.set)
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]))
    thread.start()
    try:
        assert started.wait(10)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        double.hold = False
        server.drain_soon()
        thread.join(10)
        assert not thread.is_alive()
