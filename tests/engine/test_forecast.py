"""When a first token comes, said beforehand."""

import asyncio
import time
from dataclasses import replace

import pytest

from burnish.core.errors import BadSettings, Overloaded
from burnish.core.types import Request, TokenEvent
from burnish.engine.client import EngineClient
from burnish.engine.config import EngineConfig
from burnish.engine.engine import Engine
from burnish.engine.forecast import Ahead, Forecast
from tests.engine.conftest import request
from tests.engine.test_worker import CARD, CONFIG, client, collect
from tests.tiny import ByteTokenizer, tiny_decoder


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_nothing_is_said_before_anything_was_seen() -> None:
    assert Forecast().first_token_s(Ahead(tokens=1000, requests=10, places=0)) == 0.0


def test_what_is_ahead_must_be_read_and_find_a_place() -> None:
    forecast = Forecast()
    for _ in range(50):
        forecast.read(1000.0)
    assert forecast.first_token_s(Ahead(tokens=500, requests=1, places=4)) == pytest.approx(0.5)
    for number in range(50):
        forecast.ended(3.0 * number, was_full=True)
    assert forecast.first_token_s(Ahead(tokens=500, requests=6, places=4)) == pytest.approx(6.0)
    assert forecast.first_token_s(Ahead(tokens=500, requests=4, places=4)) == pytest.approx(0.5)
    forecast.ended(1000.0, was_full=False)
    forecast.ended(2000.0, was_full=True)
    forecast.ended(2003.0, was_full=True)
    assert forecast.first_token_s(Ahead(tokens=1, requests=5, places=4)) == pytest.approx(3.0), "idle time is no wait"


def build_narrow() -> tuple[Engine, object]:
    return Engine(tiny_decoder(seed=3), ByteTokenizer(), replace(CONFIG, max_running=2)), replace(CARD, max_running=2)


async def first_token_s(engine: EngineClient, item: Request) -> float:
    begun_s = time.monotonic()
    found = None
    async for event in engine.submit(item):
        if isinstance(event, TokenEvent) and found is None:
            found = time.monotonic() - begun_s
    assert found is not None
    return found


@pytest.mark.anyio
async def test_what_would_come_too_late_is_refused_and_what_is_accepted_comes() -> None:
    async with client(build_narrow, card=replace(CARD, max_running=2)) as engine:  # type: ignore[arg-type]
        steady = [request(f"{n}", [n, 1, 2], max_tokens=150) for n in range(16)]
        await asyncio.gather(*(collect(engine, one) for one in steady))
        crowd = [
            asyncio.create_task(first_token_s(engine, replace(one, request_id=f"c{one.request_id}"))) for one in steady
        ]
        await asyncio.sleep(0)
        expected_s = engine._forecast.first_token_s(engine._ahead(request("x", [1]), CARD))
        with pytest.raises(Overloaded, match="the first token would take about") as refused:
            await collect(engine, replace(request("hasty", [1, 2]), first_token_s=expected_s / 100))
        assert refused.value.retry_after_s is not None
        assert refused.value.retry_after_s > 0
        patient = asyncio.create_task(first_token_s(engine, replace(request("patient", [1, 2]), first_token_s=60.0)))
        waited_s = [await task for task in crowd]
        assert await patient > 0.5 * max(waited_s), "it came last"
        assert max(waited_s) / 4 < refused.value.retry_after_s + expected_s / 100 < 4 * max(waited_s)


def test_a_limit_that_is_none_is_refused() -> None:
    with pytest.raises(BadSettings, match="first_token_s 0"):
        EngineConfig(first_token_s=0.0)
