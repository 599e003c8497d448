"""The conservation law under random interleavings, and what the histograms say."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from burnish.core.errors import BurnishError, Overloaded
from burnish.core.types import Event, FinishEvent, Load, Request, Sampling, StartEvent, TokenEvent, Usage
from burnish.service.meter import Meter
from burnish.service.metrics import exposition
from tests.service.conformance import check_conservation
from tests.service.double import Double

STEP = st.integers(0, 10**6)


def a_request(name: str) -> Request:
    return Request(request_id=name, prompt=(1, 2, 3), sampling=Sampling())


def scraped(meter: Meter) -> dict[str, float]:
    lines = exposition(meter).decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


@dataclass
class Scripted:
    """Serves whatever the test puts into each request's queue."""

    queues: dict[str, asyncio.Queue[Event | Exception]] = field(default_factory=dict)

    async def submit(self, request: Request) -> AsyncGenerator[Event, None]:
        while True:
            event = await self.queues[request.request_id].get()
            if isinstance(event, Exception):
                raise event
            yield event
            if isinstance(event, FinishEvent):
                return

    def load(self) -> Load:
        return Load()

    async def drain(self) -> None:
        pass


@dataclass
class Flight:
    name: str
    task: asyncio.Task[None]
    is_running: bool = False


class Interleavings(RuleBasedStateMachine):
    """Requests arrive, start, speak, finish, fail, and are dropped at every stage."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.scripted = Scripted()
        self.meter = Meter(self.scripted)
        self.flights: list[Flight] = []
        self.ended = {"stop": 0, "length": 0, "abort": 0, "error": 0}
        self.num_started = 0

    def teardown(self) -> None:
        for flight in self.flights:
            flight.task.cancel()
        self.settle()
        self.runner.close()

    def settle(self) -> None:
        async def turns() -> None:
            for _ in range(6):
                await asyncio.sleep(0)
                self.check_law()

        self.runner.run(turns())

    async def consume(self, name: str) -> None:
        with suppress(BurnishError):
            async for _ in self.meter.submit(a_request(name)):
                self.check_law()

    def check_law(self) -> None:
        meter = self.meter
        assert meter.started.total == meter.finished.total + meter.running + meter.waiting

    def feed(self, pick: int, event: Event | Exception) -> None:
        self.scripted.queues[self.flights[pick % len(self.flights)].name].put_nowait(event)
        self.settle()

    def take(self, pick: int) -> Flight:
        return self.flights.pop(pick % len(self.flights))

    @rule()
    def arrive(self) -> None:
        name = f"r{self.num_started}"
        self.num_started += 1
        self.scripted.queues[name] = asyncio.Queue()

        async def begin() -> None:
            self.flights.append(Flight(name, asyncio.ensure_future(self.consume(name))))

        self.runner.run(begin())
        self.settle()

    @rule(pick=STEP)
    def start(self, pick: int) -> None:
        waiting = [number for number, flight in enumerate(self.flights) if not flight.is_running]
        if waiting:
            flight = self.flights[number := waiting[pick % len(waiting)]]
            self.feed(number, StartEvent(request_id=flight.name, queue_s=0.1))
            flight.is_running = True

    @rule(pick=STEP)
    def speak(self, pick: int) -> None:
        if self.flights:
            flight = self.flights[pick % len(self.flights)]
            self.feed(pick, TokenEvent(request_id=flight.name, token_ids=(1, 2), text="x"))
            flight.is_running = True

    @rule(pick=STEP, reason=st.sampled_from(["stop", "length", "abort", "error"]))
    def finish(self, pick: int, reason: str) -> None:
        if self.flights:
            name = self.flights[pick % len(self.flights)].name
            self.feed(pick, FinishEvent(request_id=name, reason=reason, usage=Usage(3, 2)))  # type: ignore[arg-type]
            self.take(pick)
            self.ended[reason] += 1

    @rule(pick=STEP)
    def fail(self, pick: int) -> None:
        if self.flights:
            self.feed(pick, Overloaded("full"))
            self.take(pick)
            self.ended["error"] += 1

    @rule(pick=STEP)
    def drop(self, pick: int) -> None:
        if self.flights:
            self.take(pick).task.cancel()
            self.settle()
            self.ended["abort"] += 1

    @invariant()
    def law_holds_and_counts_are_true(self) -> None:
        found = scraped(self.meter)
        check_conservation(found)
        assert found["burnish_requests_started_total"] == self.num_started
        assert found["burnish_requests_running"] == sum(flight.is_running for flight in self.flights)
        assert found["burnish_requests_waiting"] == sum(not flight.is_running for flight in self.flights)
        for reason, count in self.ended.items():
            assert found[f'burnish_requests_finished_total{{reason="{reason}"}}'] == count


Interleavings.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestInterleavings = Interleavings.TestCase


def test_times_and_tokens() -> None:
    now = 100.0
    scripted = Scripted({"a": asyncio.Queue()})
    meter = Meter(scripted, lambda: now)
    script: list[tuple[float, Event]] = [
        (1.0, StartEvent(request_id="a", queue_s=0.9)),
        (2.0, TokenEvent(request_id="a", token_ids=(7,), text="x")),
        (2.001, TokenEvent(request_id="a", token_ids=(7,), text="x")),
        (2.011, TokenEvent(request_id="a", token_ids=(7, 8), text="xy")),
        (3.0, FinishEvent(request_id="a", reason="stop", usage=Usage(3, 4, 2))),
    ]

    async def play() -> None:
        nonlocal now
        events = meter.submit(a_request("a"))
        for at, event in script:
            step = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0)
            now = 100.0 + at
            scripted.queues["a"].put_nowait(event)
            assert await step == event
        await events.aclose()

    asyncio.run(play())
    found = scraped(meter)
    assert found["burnish_queue_seconds_sum"] == 0.9
    assert found["burnish_time_to_first_token_seconds_sum"] == 2.0
    assert found["burnish_request_seconds_sum"] == 3.0
    assert found["burnish_prompt_tokens_total"] == 3
    assert found["burnish_cached_tokens_total"] == 2
    assert found["burnish_generation_tokens_total"] == 4
    # Gaps of 1, 5 and 5 ms land in different buckets: 1 ms is resolved.
    latency = "burnish_inter_token_latency_seconds"
    buckets = [found[f'{latency}_bucket{{le="{bound}"}}'] for bound in ("0.0005", "0.002", "0.004", "0.006")]
    assert buckets == [0, 1, 1, 3]
    assert found[f"{latency}_count"] == 3


def test_what_the_engine_carries_is_shown() -> None:
    found = scraped(Meter(Double()))
    assert found['burnish_kv_blocks{state="free"}'] == 90
    assert found['burnish_kv_blocks{state="cached"}'] == 10
    assert found["burnish_kv_usage_ratio"] == 0
    assert found["burnish_engine_steps_total"] == 7
    assert {"burnish_preemptions_total", "burnish_prefix_hit_tokens_total"} <= set(found)
