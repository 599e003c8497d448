"""The engine in its own process: real processes, real pipes, real deaths."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from burnish.core.errors import BadCheckpoint, BadRequest, Overloaded, PromptTooLong, Unavailable
from burnish.core.types import Event, FinishEvent, ModelCard, Request, StartEvent, TokenEvent
from burnish.engine import client as client_module
from burnish.engine.client import EngineClient, SupervisorConfig
from burnish.engine.config import EngineConfig
from burnish.engine.engine import Engine
from burnish.engine.worker import Build
from tests.engine.conftest import end, request, run, tokens
from tests.tiny import VOCAB_SIZE, ByteTokenizer, tiny_decoder

pytestmark = pytest.mark.anyio
CARD = ModelCard(name="tiny", vocab_size=VOCAB_SIZE, max_positions=512, max_request_tokens=512, weights="dense")
NARROW = replace(CARD, max_in_flight=1)
CONFIG = EngineConfig(num_blocks=64, block_size=8, threads=1)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Breakable(Engine):
    """Does on purpose what engines do by accident, when a prompt begins with a magic token."""

    def step(self) -> list[Event]:
        begins = {sequence.tokens[0] for sequence in self._sequences.values()}
        if 250 in begins:
            os.kill(os.getpid(), signal.SIGKILL)
        if 251 in begins:
            self._scheduler.schedule()
            raise RuntimeError("this step is broken")
        if 252 in begins:
            time.sleep(60)
        return super().step()


def build() -> tuple[Engine, ModelCard]:
    return Breakable(tiny_decoder(seed=3), ByteTokenizer(), CONFIG), CARD


def build_for_two() -> tuple[Engine, ModelCard]:
    return build()[0], replace(CARD, max_queued=2)


def build_narrow() -> tuple[Engine, ModelCard]:
    return build()[0], NARROW


class Slow(Engine):
    """Gives a test time to look."""

    def step(self) -> list[Event]:
        time.sleep(0.005)
        return super().step()


def build_single() -> tuple[Engine, ModelCard]:
    return Slow(tiny_decoder(seed=3), ByteTokenizer(), replace(CONFIG, max_running=1)), CARD


def refuse() -> tuple[Engine, ModelCard]:
    raise BadCheckpoint("there is no such model", remedy="Check the path")


def die() -> tuple[Engine, ModelCard]:
    os._exit(7)


def count_starts(file: Path) -> tuple[Engine, ModelCard]:
    with file.open("a") as log:
        log.write("start\n")
    return build()


@asynccontextmanager
async def client(start: Build = build, card: ModelCard = CARD, **supervision: float) -> AsyncIterator[EngineClient]:
    made = EngineClient(start, SupervisorConfig(**supervision))
    try:
        assert await made.start() == card
        yield made
    finally:
        await made.close()


async def collect(engine: EngineClient, item: Request) -> list[Event]:
    return [event async for event in engine.submit(item)]


async def eventually(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        await asyncio.sleep(0.02)


async def test_answers_equal_those_of_an_engine_in_this_process() -> None:
    items = [request(str(n), [n] * (3 + n)) for n in range(8)]
    local = run(Engine(tiny_decoder(seed=3), ByteTokenizer(), CONFIG), items)
    async with client() as engine:
        answers = await asyncio.gather(*(collect(engine, item) for item in items))
        await eventually(lambda: engine.load().used_blocks == 0)
        assert [tokens(events) for events in answers] == [tokens(local[str(n)]) for n in range(8)]
        assert engine.load().ready
        with pytest.raises(PromptTooLong):
            await collect(engine, request("long", [1] * 600))


async def test_closing_the_iterator_frees_the_blocks() -> None:
    async with client() as engine:
        events = engine.submit(request("r", [1] * 20, max_tokens=400))
        async for event in events:
            if isinstance(event, TokenEvent):
                break
        assert engine.load().used_blocks > 0
        await events.aclose()
        await eventually(lambda: engine.load().used_blocks == 0)
        assert engine.load().steps < 400, "the abort ended it, not its length"


async def test_a_killed_engine_fails_what_was_shown_and_comes_back() -> None:
    """What kills two engines is not begun a third time."""
    async with client() as engine:
        steady = asyncio.create_task(collect(engine, request("steady", [1] * 5, max_tokens=400)))
        await eventually(lambda: engine.load().steps > 0)
        first = engine.pid
        fatal = asyncio.create_task(collect(engine, request("fatal", [250, 1])))
        assert end(await steady).reason == "error"
        assert "again" in (end(await steady).error or "")
        assert not engine.load().ready
        with pytest.raises(Unavailable):
            await collect(engine, request("early", [1]))
        assert end(await fatal).reason == "error"
        await eventually(lambda: engine.load().ready)
        assert engine.pid != first
        assert engine.num_restarts == 2
        assert end(await collect(engine, request("after", [1, 2]))).reason == "length"


async def test_a_killed_engine_leaves_what_nobody_was_shown_to_the_next() -> None:
    """One that runs and may be begun anew, one that waits for a place, one that leaves meanwhile."""
    whole = replace(request("whole", [1] * 5, max_tokens=300), may_restart=True)
    waiting = request("waiting", [2] * 5, max_tokens=4)
    async with client(build_single) as engine:
        expected = [tokens(await collect(engine, one)) for one in (whole, waiting)]
        tasks = [asyncio.create_task(collect(engine, whole))]
        await eventually(lambda: engine.load().running == 1)
        tasks += [asyncio.create_task(collect(engine, one)) for one in (waiting, request("gone", [3] * 5))]
        await eventually(lambda: engine.load().waiting == 2)
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        await eventually(lambda: not engine.load().ready)
        tasks[2].cancel()
        anew, later = await asyncio.gather(*tasks[:2])
        at = max(n for n, event in enumerate(anew) if isinstance(event, StartEvent) and event.is_anew)
        assert [tokens(anew[at:]), tokens(later)] == expected
        assert not any(isinstance(event, StartEvent) and event.is_anew for event in later)
        await eventually(lambda: engine.load().used_blocks == 0 and not engine.load().waiting)
        assert engine.num_restarts == 1


async def test_a_broken_step_fails_its_batch_only() -> None:
    async with client() as engine:
        first = engine.pid
        events = await collect(engine, request("broken", [251, 1]))
        assert "failed at this step" in (end(events).error or "")
        assert end(await collect(engine, request("after", [1, 2]))).reason == "length"
        assert engine.pid == first


async def test_an_engine_without_progress_is_given_up() -> None:
    async with client(stall_s=1.0) as engine:
        events = await collect(engine, request("stuck", [252, 1]))
        assert end(events).reason == "error"
        await eventually(lambda: engine.load().ready)
        assert end(await collect(engine, request("after", [1, 2]))).reason == "length"


async def test_a_model_that_cannot_be_loaded_says_why_once(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match="no such model"):
        await EngineClient(refuse).start()
    with pytest.raises(Unavailable, match="died"):
        await EngineClient(die).start()


async def test_drain_takes_nothing_new_and_finishes_what_runs(tmp_path: Path) -> None:
    async with client(partial(count_starts, tmp_path / "starts")) as engine:
        running = asyncio.create_task(collect(engine, request("r", [1] * 5, max_tokens=500)))
        await eventually(lambda: engine.load().running == 1)
        draining = asyncio.create_task(engine.drain())
        await asyncio.sleep(0)
        assert not engine.load().ready
        with pytest.raises(Unavailable, match="shutting down"):
            await collect(engine, request("late", [1]))
        await draining
        assert len(tokens(await running)) == 500
    assert (tmp_path / "starts").read_text() == "start\n"


async def test_too_many_requests_in_flight_are_refused() -> None:
    async with client(build_narrow, card=NARROW) as engine:
        first = engine.submit(request("a", [1], max_tokens=400))
        await anext(first)
        with pytest.raises(Overloaded):
            await collect(engine, request("b", [1]))
        await first.aclose()


class Lying(Engine):
    """Says other tokens than it should while a file exists; says nothing at all while another does."""

    lies = silent = Path()

    def step(self) -> list[Event]:
        while self.silent.exists():
            time.sleep(0.1)
        events = super().step()
        if not self.lies.exists():
            return events
        return [replace(one, token_ids=(1,)) if isinstance(one, TokenEvent) else one for one in events]


def build_lying(folder: Path) -> tuple[Engine, ModelCard]:
    Lying.lies, Lying.silent = folder / "lies", folder / "silent"
    return Lying(tiny_decoder(seed=3), ByteTokenizer(), CONFIG), CARD


@pytest.mark.parametrize("fault", ["lies", "silent"])
async def test_an_idle_engine_that_answers_wrongly_is_replaced(tmp_path: Path, fault: str) -> None:
    async with client(partial(build_lying, tmp_path), canary_s=0.2, canary_limit_s=3.0) as engine:
        first = engine.pid
        await eventually(lambda: engine._known is not None)
        known = engine._known
        await asyncio.sleep(0.5)
        assert (engine.pid, engine.num_restarts) == (first, 0), "all is well"
        (tmp_path / fault).touch()
        await eventually(lambda: engine.num_restarts == 1)
        (tmp_path / fault).unlink()
        await eventually(lambda: engine.load().ready)
        await asyncio.sleep(0.5)
        assert engine._known == known
        assert engine.pid not in (None, first)
        assert end(await collect(engine, request("after", [1, 2]))).reason == "length"


async def test_a_slow_reader_is_no_stall() -> None:
    async with client(stall_s=1.0) as engine:
        events = engine.submit(request("slow", [1, 2], max_tokens=8))
        await anext(events)
        first = engine.pid
        await eventually(lambda: engine.load().running == 0)
        await asyncio.sleep(2.5)  # longer than the stall: the engine owes this reader nothing
        assert (engine.pid, engine.num_restarts) == (first, 0)
        assert end([event async for event in events]).reason == "length"


async def test_one_tenant_may_not_hold_all_places() -> None:
    async with client(card=replace(CARD, max_queued=2), start=build_for_two) as engine:
        first = [engine.submit(replace(request(f"{n}", [1], max_tokens=400), tenant="a")) for n in range(2)]
        for events in first:
            await anext(events)
        with pytest.raises(Overloaded, match="2 requests of this tenant"):
            await collect(engine, replace(request("third", [1]), tenant="a"))
        assert end(await collect(engine, replace(request("other", [1]), tenant="b"))).reason == "length"
        for events in first:
            await events.aclose()
        assert end(await collect(engine, replace(request("again", [1]), tenant="a"))).reason == "length"


async def test_an_id_in_use_is_refused_and_its_owner_undisturbed() -> None:
    async with client() as engine:
        owner = asyncio.create_task(collect(engine, request("same", [1] * 5, max_tokens=500)))
        await eventually(lambda: engine.load().running == 1)
        with pytest.raises(BadRequest, match="in use"):
            await collect(engine, request("same", [2]))
        assert len(tokens(await owner)) == 500


async def test_a_process_that_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with client(backoff_s=0.1) as engine:
        spawn = client_module._EngineProcess
        refusals = iter([OSError("no more processes"), OSError("no more processes")])

        def sometimes(start: Build) -> object:
            for refusal in refusals:
                raise refusal
            return spawn(start)

        monkeypatch.setattr(client_module, "_EngineProcess", sometimes)
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGKILL)
        await eventually(lambda: engine.num_restarts == 3 and engine.load().ready)
        assert end(await collect(engine, request("after", [1, 2]))).reason == "length"


async def test_the_pool_is_known_before_the_first_request() -> None:
    async with client() as engine:
        assert engine.load()[:6] == (0, 0, 64, 64, 0, 0)


async def test_nothing_is_left_behind() -> None:
    made = EngineClient(build)
    await made.start()
    pid = made.pid
    assert pid is not None
    pending = asyncio.create_task(collect(made, request("r", [1], max_tokens=400)))
    await eventually(lambda: made.load().running == 1)
    await made.close()
    assert isinstance((await pending)[-1], FinishEvent)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert made.pid is None
