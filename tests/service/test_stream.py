"""Merging, disconnects and backpressure, below HTTP."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from burnish.core.errors import Unavailable
from burnish.core.types import Event, FinishEvent, Load, Request, Sampling, TokenEvent
from burnish.service.config import ServiceConfig
from burnish.service.lifecycle import Lifecycle
from burnish.service.stream import merge, streamed, whole
from tests.service.double import TEXT, Double

ONE = Request(request_id="r", prompt=(1,), sampling=Sampling(max_tokens=None))


def lifecycle(double: Double, **settings: Any) -> Lifecycle:
    return Lifecycle(double, ServiceConfig(**settings))


def requests(n: int) -> list[Request]:
    return replace(ONE, sampling=Sampling(max_tokens=None, n=n)).choices()


@pytest.mark.parametrize("n", [1, 4])
def test_every_choice_is_complete_and_in_order(n: int) -> None:
    async def collect() -> list[str]:
        texts = [""] * n
        async with aclosing(merge(Double(), requests(n))) as events:
            async for index, event in events:
                if isinstance(event, TokenEvent):
                    texts[index] += event.text
        return texts

    assert asyncio.run(collect()) == [TEXT] * n


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("num_events", [0, 1, 7])
def test_closing_early_aborts_every_choice_and_leaves_no_task(n: int, num_events: int) -> None:
    double = Double()

    async def leave() -> None:
        events = merge(double, requests(n))
        for _ in range(num_events):
            await anext(events)
        await events.aclose()
        assert not double.active
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(leave())


@pytest.mark.parametrize("n", [1, 3])
def test_a_failing_choice_ends_the_others(n: int) -> None:
    double = Double(fail=lambda request, num_said: "broken" if num_said == 5 else None)

    async def fail() -> None:
        async with aclosing(merge(double, requests(n))) as events:
            async for _ in events:
                pass

    with pytest.raises(Unavailable, match="broken"):
        asyncio.run(fail())
    assert not double.active


def test_an_engine_that_stops_without_a_word_is_an_error() -> None:
    class Silent(Double):
        async def submit(self, request: Request) -> AsyncGenerator[Event, None]:
            async for event in super().submit(request):
                if not isinstance(event, FinishEvent):
                    yield event

        def load(self) -> Load:
            return Load()

    async def drain() -> None:
        async with aclosing(merge(Silent(), [ONE])) as events:
            async for _ in events:
                pass

    with pytest.raises(Unavailable, match="dropped"):
        asyncio.run(drain())


class Client:
    """The other end of an ASGI connection: leaves when told, reads only while ``reads`` is set."""

    def __init__(self) -> None:
        self.gone, self.reads = asyncio.Event(), asyncio.Event()
        self.reads.set()
        self.received: list[bytes] = []

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        await self.reads.wait()
        self.received.append(message.get("body", b""))


async def events_as_lines(double: Double, pulled: list[int]) -> AsyncGenerator[bytes, None]:
    async with aclosing(merge(double, [ONE])) as events:
        async for _ in events:
            pulled.append(1)
            yield b"line"


def test_a_slow_reader_is_served_slowly() -> None:
    async def play() -> None:
        client, double, pulled = Client(), Double(), list[int]()
        answer = asyncio.ensure_future(
            streamed(lifecycle(double), events_as_lines(double, pulled))({}, client.receive, client.send)
        )
        while len(client.received) < 5:
            await asyncio.sleep(0)
        client.reads.clear()
        await asyncio.sleep(0.02)
        assert len(pulled) <= len(client.received) + 1
        client.reads.set()
        await answer
        assert len(pulled) == len(TEXT.encode()) + 3  # start, the end token, finish

    asyncio.run(play())


@pytest.mark.parametrize("hold", [True, False])
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_the_request_at_once(hold: bool, stream: bool) -> None:
    async def play() -> None:
        client, double = Client(), Double(pause_s=0.005, hold=hold)
        lines = events_as_lines(double, [])

        async def document() -> str:
            return b"".join([line async for line in lines]).decode()

        life = lifecycle(double)
        answer = streamed(life, lines) if stream else whole(life, document)
        task = asyncio.ensure_future(answer({}, client.receive, client.send))
        await asyncio.sleep(0.03)
        assert double.active
        client.gone.set()
        await task
        assert not double.active
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(play())


def test_an_answer_cut_from_outside_leaves_nothing_behind() -> None:
    async def play() -> None:
        client, double = Client(), Double(pause_s=0.005)
        task = asyncio.ensure_future(
            streamed(lifecycle(double), events_as_lines(double, []))({}, client.receive, client.send)
        )
        await asyncio.sleep(0.03)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not double.active
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(play())
