"""Load on an OpenAI-compatible server: requests are sent when they are due, and what happens to each is noted."""

import asyncio
import time
from collections.abc import Callable, Iterator
from itertools import chain
from typing import NamedTuple

from burnish.core.errors import BadSettings, BurnishError
from burnish.measure.load.ahead import Ahead, Ready
from burnish.measure.load.arrivals import Traffic, schedule
from burnish.measure.load.completions import Dialect, Failure, Heard
from burnish.measure.load.latency import Record
from burnish.measure.load.prompts import PromptWriter
from burnish.measure.load.traffic import Arrival
from burnish.measure.load.wire import Wire, WireError

PAUSE_S = 0.1  # of a user whose request failed
Progress = Callable[[int, int], None]
"""(requests ended, requests in all), or seconds where only the time ends a run"""


class Target(NamedTuple):
    """A server and how to ask it, as ``burnish.measure.probe.find_target`` finds out."""

    url: str
    dialect: Dialect
    writer: PromptWriter
    api_key: str | None = None
    timeout_s: float = 600.0  # from the instant a request is sent to its end
    max_in_flight: int = 512  # of an open loop; what is due beyond that waits in the client, which counts as queue


class Run(NamedTuple):
    """What happened, in the order requests were due.

    ``client_share`` is the part of the time this process computed; near 1 it has measured itself.
    """

    records: tuple[Record, ...]
    client_share: float


def run_load(target: Target, traffic: Traffic, *, progress: Progress | None = None) -> Run:
    """Send the traffic and wait for every answer.

    Timers of the event loop ring up to 1 ms late; that is in ``queue_ms``, and so in what counts from the instant due.
    Raises ``NotFound`` and ``BadSettings`` for a trace that cannot be read or has nothing in the time asked for.
    """
    arrivals = schedule(traffic)
    first = next(arrivals, None)
    if first is None:
        raise BadSettings(f"no request is due within {traffic.seconds:g} s", remedy="Use more seconds or a higher rate")
    return asyncio.run(_Driver(target, traffic, progress).run(chain([first], arrivals)))


class _Driver:
    """One run."""

    def __init__(self, target: Target, traffic: Traffic, progress: Progress | None) -> None:
        self._target, self._traffic, self._progress = target, traffic, progress
        self._wire = Wire(target.url, api_key=target.api_key)
        self._records: dict[int, Record] = {}
        self._start_s = 0.0

    async def run(self, arrivals: Iterator[Arrival]) -> Run:
        self._start_s = time.monotonic()
        computed_s = time.process_time()
        try:
            await (self._open_loop(arrivals) if self._traffic.is_open else self._closed_loop(arrivals))
        except ExceptionGroup as group:  # a fault of a trace that is read as it is sent
            faults, _ = group.split(BurnishError)
            raise group if faults is None else faults.exceptions[0] from None
        finally:
            self._wire.close()
        share = (time.process_time() - computed_s) / (time.monotonic() - self._start_s)
        return Run(tuple(record for _, record in sorted(self._records.items())), share)

    async def _open_loop(self, arrivals: Iterator[Arrival]) -> None:
        room = asyncio.Semaphore(self._target.max_in_flight)

        async def send(number: int, body: bytes, due_s: float) -> None:
            async with room:
                await self._ask(number, body, due_s)

        async with asyncio.TaskGroup() as group:
            ahead = Ahead(self._body(number, arrival) for number, arrival in enumerate(arrivals))
            self._start_s = time.monotonic()
            while (ready := ahead.next()) is not None:
                due_s = self._start_s + ready.at_s
                ahead.fill(until_s=due_s)
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                group.create_task(send(ready.number, ready.body, due_s))

    async def _closed_loop(self, arrivals: Iterator[Arrival]) -> None:
        numbered = enumerate(arrivals)
        seconds = self._traffic.seconds
        end_s = None if seconds is None else self._start_s + seconds

        async def user() -> None:
            while end_s is None or time.monotonic() < end_s:
                number, arrival = next(numbered, (0, None))
                if arrival is None:
                    return
                await self._ask(number, self._body(number, arrival).body, time.monotonic())
                if self._records[number].error is not None:
                    await asyncio.sleep(PAUSE_S)

        async with asyncio.TaskGroup() as group:
            for _ in range(self._traffic.users or 1):
                group.create_task(user())

    def _body(self, number: int, arrival: Arrival) -> Ready:
        prompt = self._target.writer.write(arrival, number, seed=self._traffic.seed)
        return Ready(number, arrival.at_s, self._target.dialect.body(prompt, arrival.output_tokens))

    async def _ask(self, number: int, body: bytes, due_s: float) -> None:
        heard, sent_s = Heard(), time.monotonic()
        try:
            async with asyncio.timeout(self._target.timeout_s):
                status = await self._wire.ask("POST", self._target.dialect.path, body, heard.take)
            failed = heard.failure(status)
        except (OSError, WireError) as error:
            failed = _broken(error, self._target.timeout_s)
        self._records[number] = Record(
            due_s=due_s,
            sent_s=sent_s,
            ended_s=time.monotonic(),
            text_s=tuple(heard.text_s),
            prompt_tokens=heard.prompt_tokens,
            output_tokens=len(heard.text_s) if heard.output_tokens is None else heard.output_tokens,
            by_usage=heard.output_tokens is not None,
            error=None if failed is None else failed.kind,
            detail="" if failed is None else failed.detail,
        )
        self._tell()

    def _tell(self) -> None:
        if self._progress is None:
            return
        if self._traffic.most is not None:
            self._progress(len(self._records), self._traffic.most)
        elif self._traffic.seconds is not None:
            self._progress(int(time.monotonic() - self._start_s), int(self._traffic.seconds))


def _broken(error: OSError | WireError, timeout_s: float) -> Failure:
    if isinstance(error, TimeoutError):
        return Failure("timeout", f"no end after {timeout_s:g} s")
    return Failure("broken connection" if isinstance(error, WireError) else "no connection", str(error))
