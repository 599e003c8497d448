"""The client of an engine in another process. Loads no torch."""

import asyncio
import logging
import multiprocessing
import queue
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from burnish.core.admission import Limits, admit
from burnish.core.errors import BadRequest, BurnishError, Overloaded, Unavailable
from burnish.core.profile import Profile
from burnish.core.types import (
    Event,
    FinishEvent,
    Load,
    ModelCard,
    Request,
    Sampling,
    StartEvent,
    TokenEvent,
    Usage,
)
from burnish.engine.forecast import Ahead, Forecast
from burnish.engine.recording import Waiting
from burnish.engine.worker import Abort, Add, Build, Command, Failed, Progress, Ready, Report, run_engine

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class SupervisorConfig:
    """When a client gives its engine up and starts another."""

    stall_s: float = 120.0  # requests in flight and no sign of life for this long
    backoff_s: float = 0.5  # before the second restart in a row; doubles
    max_backoff_s: float = 30.0
    canary_s: float = 30.0  # of nothing to do before the engine must show that it still answers the same
    canary_limit_s: float = 10.0  # for that answer


CANARY = "canary"  # its request id
CANARY_PROMPT, CANARY_TOKENS = (0, 1), 4
SLOWER = 20.0  # times what it took at first: that long the canary's answer may take at least


class EngineClient:
    """Wears ``Served`` and ``Profiled``: an engine in a child process, restarted when it dies or answers wrongly.

    That it answers is seen by what it writes while it is busy, and by a canary while it is not: a short request whose
    answer is known since the first start, and which every engine of the same model gives to the last bit.

    Made and used on one event loop. ``start`` first; ``close`` last.
    """

    def __init__(self, build: Build, config: SupervisorConfig | None = None) -> None:
        self._build, self._config = build, config or SupervisorConfig()
        self._streams: dict[str, _Stream] = {}
        self._open: Counter[str] = Counter()  # streams by tenant
        self._forecast = Forecast()
        self._profile = Waiting()
        self._load = Load(ready=False)
        self._card: ModelCard | None = None
        self._process: _EngineProcess | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._known: tuple[int, ...] | None = None  # the canary's answer
        self._known_s = 0.0  # that it took
        self._num_submitted = 0
        self._first_start: asyncio.Future[ModelCard] | None = None
        self._is_draining = False
        self._last_sign_s = 0.0
        self.num_restarts = 0

    async def start(self) -> ModelCard:
        """Start the engine and wait until its model is loaded.

        Raises the ``BurnishError`` that kept the model from loading, ``Unavailable`` when the process died.
        """
        self._first_start = asyncio.get_running_loop().create_future()
        self._supervisor = asyncio.create_task(self._supervise())
        card = await self._first_start
        if self._config.canary_s > 0:
            await self._is_well()
            self._watcher = asyncio.create_task(self._watch())
        return card

    async def submit(self, request: Request) -> AsyncGenerator[Event, None]:
        """Events of one request; closing the iterator aborts it."""
        process = self._ready_process()
        assert self._card is not None, "it came with the process's first report"
        if request.request_id in self._streams:
            raise BadRequest(f"request id {request.request_id!r} is in use", remedy="Choose another")
        admit(request, Limits(self._card.vocab_size, self._card.max_request_tokens))
        self._check_room(request, self._card)
        stream = self._streams[request.request_id] = _Stream(request)
        self._num_submitted += 1
        if len(self._streams) == 1:
            self._last_sign_s = time.monotonic()
        process.send(Add(request))
        self._open[request.tenant] += 1
        try:
            while True:
                event = await stream.events.get()
                yield event
                if isinstance(event, FinishEvent):
                    return
        finally:
            self._open[request.tenant] -= 1
            self._open += Counter()  # forget who has none
            is_unfinished = self._streams.pop(request.request_id, None) is not None
            if is_unfinished and self._process is not None:
                self._process.send(Abort(request.request_id))

    def _check_room(self, request: Request, card: ModelCard) -> None:
        """Raise ``Overloaded`` where too many are in flight, or the first token would come too late."""
        limits = [limit for limit in (request.first_token_s, card.first_token_s) if limit is not None]
        is_full = len(self._streams) >= card.max_in_flight
        has_many = bool(request.tenant) and self._open[request.tenant] >= card.max_queued
        if not (is_full or has_many or (limits and self._streams)):
            return  # nobody asks how long it would take
        expected_s = self._forecast.first_token_s(self._ahead(request, card))
        if is_full:
            raise Overloaded.for_seconds(f"{len(self._streams)} requests are in flight", expected_s)
        if has_many:
            told = f"{self._open[request.tenant]} requests of this tenant are in flight"
            raise Overloaded.for_seconds(told, expected_s)
        most = min(limits)
        if expected_s > most:
            told = f"the first token would take about {expected_s:.2g} s, more than {most:g} s"
            raise Overloaded.for_seconds(told, expected_s - most)

    def _ahead(self, request: Request, card: ModelCard) -> Ahead:
        """What is served before a request: all that waits, but of other tenants no more than of its own."""
        waiting = [stream.request for stream in self._streams.values() if not stream.is_told]
        own = [one for one in waiting if one.tenant == request.tenant]
        tenants = len({one.tenant for one in waiting} | {request.tenant})
        tokens = len(request.prompt) + sum(len(one.prompt) for one in own)
        every = len(request.prompt) + sum(len(one.prompt) for one in waiting)
        places = card.max_running - (len(self._streams) - len(waiting))
        return Ahead(min(every, tenants * tokens), min(len(waiting), tenants * (len(own) + 1) - 1) + 1, places)

    async def profile(self, num_steps: int, *, limit_s: float) -> Profile:
        """As ``Profiled``."""
        return await self._profile.record(self._ready_process().send, num_steps, limit_s=limit_s)

    def load(self) -> Load:
        """The engine's counts after its last step."""
        return self._load._replace(ready=self._load.ready and not self._is_draining)

    async def drain(self) -> None:
        """Take nothing new; return when nothing is in flight."""
        self._is_draining = True
        while self._streams:
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        """Stop the engine; what is in flight fails."""
        self._is_draining = True
        tasks = [task for task in (self._watcher, self._supervisor) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._fail_streams("the server is shutting down")

    @property
    def pid(self) -> int | None:
        """The engine's process, while there is one."""
        return self._process.pid if self._process else None

    async def _watch(self) -> None:
        """Ask the canary's question whenever there is nothing else to do."""
        while True:
            await asyncio.sleep(self._config.canary_s)
            process = self._process
            is_idle = process is not None and self.load().ready and not self._streams and not self._profile.is_recording
            if is_idle and not await self._is_well() and process is not None and self._process is process:
                log.error("the engine does not answer as it did; giving it up")
                process.give_up()

    async def _is_well(self) -> bool:
        """Whether the answer comes, and is what it was. The first is what others are held against."""
        sampling = Sampling(max_tokens=CANARY_TOKENS, temperature=0.0, ignore_eos=True)
        said, begun_s, before = list[int](), time.monotonic(), self._num_submitted
        limit_s = None if self._known is None else max(self._config.canary_limit_s, SLOWER * self._known_s)
        try:
            async with asyncio.timeout(limit_s):
                async for event in self.submit(Request(request_id=CANARY, prompt=CANARY_PROMPT, sampling=sampling)):
                    if isinstance(event, TokenEvent):
                        said += event.token_ids
                    elif isinstance(event, FinishEvent) and event.reason == "error":
                        return self._is_busy_since(before)
        except TimeoutError:
            return self._is_busy_since(before)
        except BurnishError:  # the engine ended, or drains: others see to that
            return True
        if self._known is None:
            self._known, self._known_s = tuple(said), time.monotonic() - begun_s
        return tuple(said) == self._known

    def _is_busy_since(self, before: int) -> bool:
        """Whether others came beside the canary: then it may wait for them, or fail with them, and says nothing."""
        return self._num_submitted > before + 1

    def _ready_process(self) -> "_EngineProcess":
        if self._process is None or not self._load.ready or self._is_draining:
            reason = "the server is shutting down" if self._is_draining else "the engine is starting"
            raise Unavailable(reason, remedy="Send the request again")
        return self._process

    async def _supervise(self) -> None:
        """Keep an engine running. Ends only by ``close``, or when the model cannot be loaded at all."""
        backoff_s = 0.0
        while True:
            await asyncio.sleep(backoff_s)
            was_ready = await self._run_once()
            if not self._settle_first_start(was_ready):
                return
            backoff_s = self._config.backoff_s if was_ready else min(2 * backoff_s + 0.5, self._config.max_backoff_s)
            self.num_restarts += 1
            log.error("the engine process ended; restarting it in %.1f s", backoff_s)

    async def _run_once(self) -> bool:
        """One engine process from its start to its end; True if it was ready at some time."""
        try:
            self._process = _EngineProcess(self._build)
        except OSError:  # no process, no memory, no descriptor: perhaps later
            log.exception("the engine process cannot be started")
            return False
        try:
            return await self._follow(self._process)
        finally:
            self._load = self._load._replace(ready=False)
            await asyncio.to_thread(self._process.stop)
            self._process = None
            self._fail_streams("the engine stopped and is being restarted, send the request again", but_restart=True)

    async def _follow(self, process: "_EngineProcess") -> bool:
        """Deliver the process's reports until it ends or stalls; True if it was ready at some time."""
        was_ready = False
        while (report := await process.report(self._is_stalled)) is not None:
            self._last_sign_s = time.monotonic()
            if isinstance(report, Ready):
                was_ready, self._card, self._load = True, report.card, report.load
                for stream in self._streams.values():  # those that the engine before this one left
                    process.send(Add(stream.request))
                if self._first_start and not self._first_start.done():
                    self._first_start.set_result(report.card)
            elif isinstance(report, Failed):
                if self._first_start and not self._first_start.done():
                    self._first_start.set_exception(report.error)
                else:
                    log.error("the engine cannot start: %s", report.error)
                    self._fail_streams("the engine cannot be started again")
            else:
                self._deliver(report)
        return was_ready

    def _settle_first_start(self, was_ready: bool) -> bool:
        """After a process ended: False when the very first start failed, so that there is nothing to restart."""
        assert self._first_start is not None
        if not self._first_start.done():
            self._first_start.set_exception(Unavailable("the engine process died while loading the model"))
        return was_ready or self._first_start.exception() is None

    def _is_stalled(self) -> bool:
        return self._load.ready and bool(self._streams) and time.monotonic() - self._last_sign_s > self._config.stall_s

    def _deliver(self, progress: Progress) -> None:
        self._load = progress.load
        self._forecast.read(progress.load.read_per_s)
        if progress.recorded is not None:
            self._profile.deliver(progress.recorded)
        for event in progress.events:
            stream = self._streams.get(event.request_id)
            if stream is None:
                continue
            stream.events.put_nowait(event)
            stream.is_told = True
            if isinstance(event, FinishEvent):  # the engine owes it nothing more, however slowly it is read
                self._forecast.ended(time.monotonic(), was_full=progress.load.waiting > 0)
                del self._streams[event.request_id]

    def _fail_streams(self, error: str, *, but_restart: bool = False) -> None:
        """End all that is in flight; ``but_restart``: except what can be begun anew, once."""
        self._profile.fail(error)
        for request_id, stream in list(self._streams.items()):
            if but_restart and not self._is_draining and stream.restart():
                continue
            failed = FinishEvent(request_id=request_id, reason="error", usage=Usage(0, 0), error=error)
            stream.events.put_nowait(failed)
            del self._streams[request_id]


class _Stream:
    """A request in flight and the events its reader has not taken yet."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.is_told = False  # whether any event came
        self._was_restarted = False

    def restart(self) -> bool:
        """Whether it can be begun anew: nothing of it was told, or nobody was shown it.

        Once: a request that two engines died with may be what they died of.
        """
        if self._was_restarted or (self.is_told and not self.request.may_restart):
            return False
        if self.is_told:
            self.events.put_nowait(StartEvent(request_id=self.request.request_id, queue_s=0.0, is_anew=True))
        self.is_told = False
        self._was_restarted = True
        return True


class _EngineProcess:
    """One child process with a thread for each direction of its pipe, so that the event loop never blocks."""

    def __init__(self, build: Build) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, child = context.Pipe()
        self._process = context.Process(target=run_engine, args=(child, build), daemon=True, name="burnish-engine")
        self._process.start()
        child.close()  # else the end of the child would not be seen as the end of the pipe
        self._loop = asyncio.get_running_loop()
        self._reports: asyncio.Queue[Report | None] = asyncio.Queue()
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._read, self._write)]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int | None:
        """Process id."""
        return self._process.pid

    def send(self, command: Command) -> None:
        """Pass on a command; lost if the process has died, whose end is then reported."""
        self._commands.put(command)

    async def report(self, is_stalled: Callable[[], bool]) -> Report | None:
        """The next report; None when the process has ended or says nothing although it should."""
        while True:
            try:
                async with asyncio.timeout(1.0):  # wait_for loses a cancellation that meets a report (Python < 3.12)
                    return await self._reports.get()
            except TimeoutError:
                if is_stalled():
                    break
        log.error("the engine shows no progress; giving it up")
        return None

    def give_up(self) -> None:
        """End the process; its reader then reports the end."""
        self._process.kill()

    def stop(self) -> None:
        """End the process and both threads."""
        self._commands.put(None)
        self._process.kill()
        self._process.join()
        for thread in self._threads:
            thread.join()
        self._pipe.close()

    def _read(self) -> None:
        try:
            while True:
                report = self._pipe.recv()
                self._loop.call_soon_threadsafe(self._reports.put_nowait, report)
        except (EOFError, OSError):
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._reports.put_nowait, None)

    def _write(self) -> None:
        while (command := self._commands.get()) is not None:
            batch = [command]
            while not self._commands.empty():
                follower = self._commands.get()
                if follower is None:
                    return
                batch.append(follower)
            try:
                self._pipe.send(batch)
            except OSError:
                return
