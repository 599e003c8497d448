"""Counts and times every request on its way to whatever serves it."""

import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from typing import cast

from burnish.core.telemetry import Counter, Histogram
from burnish.core.types import (
    FINISH_REASONS,
    Event,
    FinishEvent,
    FinishReason,
    Load,
    Request,
    Served,
    StartEvent,
    TokenEvent,
)


class Meter:
    """Wears Served around another Served.

    Each change is made between two awaits, so at every instant
    ``started == finished (all reasons) + waiting + running``: a request waits until its StartEvent (or first token).
    """

    def __init__(self, served: Served, clock: Callable[[], float] = time.monotonic) -> None:
        self._served, self._clock = served, clock
        self.waiting = self.running = 0
        self.started = Counter("burnish_requests_started", "Requests taken in")
        self.finished = Counter("burnish_requests_finished", "Requests ended, by reason", "reason")
        for reason in FINISH_REASONS:
            self.finished.add(0.0, reason)
        self.prompt_tokens = Counter("burnish_prompt_tokens", "Prompt tokens of requests that left the queue")
        self.cached_tokens = Counter("burnish_cached_tokens", "Prompt tokens of finished requests found in the cache")
        self.generation_tokens = Counter("burnish_generation_tokens", "Tokens generated")
        self.queue_s = Histogram("burnish_queue_seconds", "From arrival in the engine until a request first runs")
        self.ttft_s = Histogram("burnish_time_to_first_token_seconds", "From submission to the first token")
        self.itl_s = Histogram("burnish_inter_token_latency_seconds", "Between one token and the next")
        self.e2e_s = Histogram("burnish_request_seconds", "From submission to the end, of requests not aborted")

    @property
    def counters(self) -> tuple[Counter, ...]:
        """Every counter."""
        return self.started, self.finished, self.prompt_tokens, self.cached_tokens, self.generation_tokens

    @property
    def histograms(self) -> tuple[Histogram, ...]:
        """Every histogram."""
        return self.queue_s, self.ttft_s, self.itl_s, self.e2e_s

    async def submit(self, request: Request) -> AsyncGenerator[Event, None]:
        """As ``Served.submit``; a request counts from the moment its first event is asked for."""
        passage = _Passage(self, request, self._clock())
        with passage.counted():
            events = cast(AsyncGenerator[Event, None], self._served.submit(request))
            try:
                async for event in events:
                    passage.see(event, self._clock())
                    yield event
            finally:
                await events.aclose()

    def load(self) -> Load:
        """As ``Served.load``."""
        return self._served.load()

    async def drain(self) -> None:
        """As ``Served.drain``."""
        await self._served.drain()


class _Passage:
    """One request's way through the meter."""

    def __init__(self, meter: Meter, request: Request, now: float) -> None:
        self.meter, self.request = meter, request
        self.submitted = now
        self.last_token: float | None = None
        self.is_running = self.is_finished = self.has_spoken = False

    @contextmanager
    def counted(self) -> Iterator[None]:
        self.meter.started.add()
        self.meter.waiting += 1
        try:
            yield
        except Exception:
            self._finish("error")
            raise
        finally:
            self._finish("abort")  # left early: the events were closed or the task cancelled

    def see(self, event: Event, now: float) -> None:
        match event:
            case StartEvent(is_anew=True):
                self.last_token = None
            case StartEvent():
                if not self.is_running:  # else it was begun anew, and has been counted
                    self.meter.queue_s.observe(event.queue_s)
                self._run()
            case TokenEvent():
                self._run()
                self._tokens(len(event.token_ids), now)
            case FinishEvent():
                self.meter.cached_tokens.add(event.usage.cached_tokens)
                self._finish(event.reason)
                if event.reason != "abort":
                    self.meter.e2e_s.observe(now - self.submitted)

    def _run(self) -> None:
        if not self.is_running:
            self.is_running = True
            self.meter.waiting -= 1
            self.meter.running += 1
            self.meter.prompt_tokens.add(len(self.request.prompt))

    def _tokens(self, num_tokens: int, now: float) -> None:
        if num_tokens == 0:
            return
        self.meter.generation_tokens.add(num_tokens)
        if not self.has_spoken:
            self.has_spoken = True
            self.meter.ttft_s.observe(now - self.submitted)
        elif self.last_token is not None:
            # Tokens that arrive together (speculation) share the time since the last arrival.
            for _ in range(num_tokens):
                self.meter.itl_s.observe((now - self.last_token) / num_tokens)
        self.last_token = now

    def _finish(self, reason: FinishReason) -> None:
        if self.is_finished:
            return
        self.is_finished = True
        if self.is_running:
            self.meter.running -= 1
        else:
            self.meter.waiting -= 1
        self.meter.finished.add(1.0, reason)
