"""How fast an engine reads and writes tokens, from the times of its events."""

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from burnish.core.errors import BadSettings, BurnishError
from burnish.core.types import Event, FinishEvent, Request, Sampling, TokenEvent
from burnish.engine.config import EngineConfig
from burnish.engine.engine import Engine

Progress = Callable[[int, int], None]
"""(repeats done, repeats in all)"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """``concurrency`` requests that arrive together, ``repeat`` times over."""

    prompt_tokens: int = 128
    output_tokens: int = 32
    concurrency: int = 1
    repeat: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ``BadSettings`` for a workload that measures nothing."""
        lowest = {"prompt_tokens": 1, "output_tokens": 2, "concurrency": 1, "repeat": 1}
        for name, least in lowest.items():
            if getattr(self, name) < least:
                raise BadSettings(f"{name} {getattr(self, name)} is too small", remedy=f"Use at least {least}")


class Spread(NamedTuple):
    """A figure over the repeats."""

    median: float
    min: float
    max: float


class Speed(NamedTuple):
    """Tokens per second, all requests together.

    Prefill lasts from the arrival of the requests to the last of their first tokens, decode from there to the end;
    a token an early request writes while a late one is still read is in neither count, so with several requests
    the prefill figure is, if anything, too low. ``python_share`` is the part of the decoding time that is not spent in
    the executor: scheduling, batches, sampling, text.
    """

    prefill_tokens_per_s: Spread
    decode_tokens_per_s: Spread
    python_share: Spread


class Run(NamedTuple):
    """The workload once: seconds until the last first token, seconds from there, and what was done in them."""

    prefill_s: float
    decode_s: float
    num_read: int
    num_decoded: int
    python_share: float

    @property
    def speed(self) -> tuple[float, float, float]:
        """As the fields of ``Speed``."""
        return self.num_read / self.prefill_s, self.num_decoded / self.decode_s, self.python_share


def engine_config(workload: Workload, *, threads: int | None) -> EngineConfig:
    """An engine as it would serve this workload: the defaults, with room for every request at once."""
    block_size = EngineConfig().block_size
    per_request = -(-(workload.prompt_tokens + workload.output_tokens) // block_size)
    return EngineConfig(
        num_blocks=workload.concurrency * per_request,
        max_running=workload.concurrency,
        step_tokens=max(EngineConfig().step_tokens, workload.concurrency),
        max_waiting=max(EngineConfig().max_waiting, workload.concurrency),
        threads=threads,
    )


def warm_up(engine: Engine, vocab_size: int) -> None:
    """Compute one token of a two-token prompt: weights are touched, lazy work is done."""
    _add(engine, "warm", tuple(i % vocab_size for i in (0, 1)), 1)
    while engine.has_work:
        _refuse_errors(engine.step())


def measure_speed(
    engine: Engine,
    vocab_size: int,
    workload: Workload,
    *,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Speed:
    """Run the workload once unmeasured, then ``repeat`` times.

    Every prompt is random and used once, so the prefix cache cannot help. Raises ``BadRequest`` when the requests
    do not fit the model's context.
    """
    source = random.Random(workload.seed)  # noqa: S311 - prompts, not secrets
    runs: list[Run] = []
    for number in range(workload.repeat + 1):
        run = run_once(engine, source, vocab_size, workload, clock)
        if number > 0:
            runs.append(run)
            if progress is not None:
                progress(number, workload.repeat)
    return speed_of(runs)


def speed_of(runs: Sequence[Run]) -> Speed:
    """The figures of several runs."""
    return Speed(*(_spread(list(figures)) for figures in zip(*(run.speed for run in runs), strict=True)))


def run_once(
    engine: Engine, source: random.Random, vocab_size: int, workload: Workload, clock: Callable[[], float]
) -> Run:
    """The workload once, with prompts that ``source`` draws."""
    return _run(engine, [_prompt(source, vocab_size, workload) for _ in range(workload.concurrency)], workload, clock)


def _prompt(source: random.Random, vocab_size: int, workload: Workload) -> tuple[int, ...]:
    return tuple(source.randrange(vocab_size) for _ in range(workload.prompt_tokens))


def _run(engine: Engine, prompts: list[tuple[int, ...]], workload: Workload, clock: Callable[[], float]) -> Run:
    start = clock()
    for index, prompt in enumerate(prompts):
        _add(engine, str(index), prompt, workload.output_tokens)
    begun: set[str] = set()
    num_decoded, boundary, forward_s = 0, start, engine.forward_s
    while engine.has_work:
        events = engine.step()
        now = clock()
        tokens = _refuse_errors(events)
        if len(begun) < len(prompts):
            begun |= {event.request_id for event in tokens}
            boundary, forward_s = now, engine.forward_s
        else:
            num_decoded += sum(len(event.token_ids) for event in tokens)
    decoding_s = now - boundary
    share = 1 - (engine.forward_s - forward_s) / decoding_s
    return Run(boundary - start, decoding_s, sum(map(len, prompts)), num_decoded, share)


def _add(engine: Engine, name: str, prompt: tuple[int, ...], max_tokens: int) -> None:
    sampling = Sampling(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
    engine.add(Request(request_id=name, prompt=prompt, sampling=sampling))


def _refuse_errors(events: list[Event]) -> list[TokenEvent]:
    for event in events:
        if isinstance(event, FinishEvent) and event.error is not None:
            raise BurnishError(event.error)
    return [event for event in events if isinstance(event, TokenEvent)]


def joined(spreads: Sequence[Spread]) -> Spread:
    """Several rounds as one figure: the median of their medians, and the outermost runs."""
    medians = [spread.median for spread in spreads]
    return Spread(statistics.median(medians), min(s.min for s in spreads), max(s.max for s in spreads))


def _spread(values: list[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))
