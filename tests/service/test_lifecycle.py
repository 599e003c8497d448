"""Deadlines that strike while the server drains."""

import asyncio

import pytest

from burnish.core.errors import Unavailable
from burnish.service.config import ServiceConfig
from burnish.service.lifecycle import Lifecycle
from tests.service.double import Double


def test_an_answer_past_its_own_deadline_does_not_keep_the_drain_from_ending_the_others() -> None:
    async def lingering(lifecycle: Lifecycle, *, ending: asyncio.Event) -> None:
        async with lifecycle.answering():
            try:
                await asyncio.sleep(60)
            finally:
                ending.set()
                await asyncio.sleep(0.2)  # as an answer does that tells its client why it ends

    async def scene() -> None:
        lifecycle = Lifecycle(Double(), ServiceConfig(drain_s=0.05, request_timeout_s=0.1))
        ending = asyncio.Event()
        first = asyncio.create_task(lingering(lifecycle, ending=ending))
        await ending.wait()  # its deadline has struck; it is still there when the drain gives up
        second = asyncio.create_task(lingering(lifecycle, ending=asyncio.Event()))
        await asyncio.sleep(0)
        await lifecycle.drain()
        for answer in (first, second):
            with pytest.raises(Unavailable, match="shutting down"):
                await answer

    asyncio.run(asyncio.wait_for(scene(), 5))
