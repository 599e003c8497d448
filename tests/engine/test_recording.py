"""Recording an engine in its own process: asked for, bounded, stopped, and lost with the process."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from burnish.core.errors import Conflict, Unavailable
from burnish.core.types import Event, ModelCard, Request
from burnish.engine.client import EngineClient
from burnish.engine.config import EngineConfig
from burnish.engine.engine import Engine
from tests.engine.conftest import request, run, tokens
from tests.tiny import VOCAB_SIZE, ByteTokenizer, tiny_decoder

pytestmark = pytest.mark.anyio
CARD = ModelCard(name="tiny", vocab_size=VOCAB_SIZE, max_positions=512, max_request_tokens=512, weights="dense")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def build() -> tuple[Engine, ModelCard]:
    config = EngineConfig(num_blocks=64, block_size=8, threads=1)
    return Engine(tiny_decoder(seed=3), ByteTokenizer(), config), CARD


@asynccontextmanager
async def client() -> AsyncIterator[EngineClient]:
    made = EngineClient(build)
    try:
        await made.start()
        yield made
    finally:
        await made.close()


async def collect(engine: EngineClient, item: Request) -> list[Event]:
    return [event async for event in engine.submit(item)]


async def test_the_next_steps_come_back_and_the_answer_is_the_same() -> None:
    item = request("r", [5] * 20, max_tokens=40)
    local = run(build()[0], [item])["r"]
    async with client() as engine:
        recording = asyncio.create_task(engine.profile(10, limit_s=20))
        await asyncio.sleep(0)  # the order goes first
        answer = await collect(engine, item)
        profile = await recording
        assert tokens(answer) == tokens(local)
        assert len(profile.steps) == 10
        assert len(profile.operations) == len(profile.steps[0].operations_s)
        assert profile.steps[0].prefill_tokens == 20
        assert sum(profile.steps[0].operations_s) > 0
        again = asyncio.create_task(engine.profile(1, limit_s=20))
        await asyncio.sleep(0)
        await collect(engine, request("s", [1, 2]))
        assert len((await again).steps) == 1


async def test_one_at_a_time() -> None:
    async with client() as engine:
        first = asyncio.create_task(engine.profile(1, limit_s=20))
        await asyncio.sleep(0)
        with pytest.raises(Conflict, match="already"):
            await engine.profile(1, limit_s=20)
        await collect(engine, request("r", [1]))
        assert len((await first).steps) == 1


async def test_after_the_limit_there_is_what_was_computed() -> None:
    async with client() as engine:
        begun_s = time.monotonic()
        assert (await engine.profile(5, limit_s=0.2)).steps == ()
        assert 0.2 <= time.monotonic() - begun_s < 10
        recording = asyncio.create_task(engine.profile(500, limit_s=1.0))
        await asyncio.sleep(0)
        await collect(engine, request("r", [1, 2], max_tokens=7))
        assert len((await recording).steps) == 7


async def test_a_caller_that_leaves_makes_room_for_the_next() -> None:
    async with client() as engine:
        left = asyncio.create_task(engine.profile(500, limit_s=20))
        await asyncio.sleep(0.05)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        recording = asyncio.create_task(engine.profile(3, limit_s=20))
        await asyncio.sleep(0)
        await collect(engine, request("r", [1, 2], max_tokens=7))
        assert len((await recording).steps) == 3


async def test_a_process_that_dies_takes_the_recording_with_it() -> None:
    async with client() as engine:
        recording = asyncio.create_task(engine.profile(5, limit_s=60))
        await asyncio.sleep(0.05)
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        with pytest.raises(Unavailable, match="again"):
            await recording
        with pytest.raises(Unavailable):
            await engine.profile(5, limit_s=60)
