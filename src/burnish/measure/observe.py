"""What an engine does under a situation: so many requests at a time, of these lengths, step by step."""

import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from burnish.core.errors import BadSettings, BurnishError
from burnish.core.profile import FORWARD, Profile, StepRecord
from burnish.core.types import Event, FinishEvent, Request, Sampling, StartEvent
from burnish.engine.config import EngineConfig
from burnish.engine.engine import Engine
from burnish.measure.operations import Step
from burnish.measure.speed import warm_up
from burnish.plan.ops import Plan

MAX_STEPS = 100_000


class Lengths(NamedTuple):
    """Tokens in and out of a request."""

    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """Requests that are made one after the other, ``concurrency`` of them at a time: the next comes when one ends."""

    requests: tuple[Lengths, ...]
    concurrency: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ``BadSettings`` for a situation in which nothing happens."""
        if not self.requests:
            raise BadSettings("there are no requests to observe", remedy="Give a traffic file with some")
        if self.concurrency < 1:
            raise BadSettings(f"concurrency {self.concurrency} is wrong", remedy="Use 1 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """What was seen."""

    situation: Situation
    config: EngineConfig  # resolved
    profile: Profile
    seconds: float
    queue_s: tuple[float, ...]  # of every request, until its first step
    num_preemptions: int
    peak_blocks: int  # in use or holding what may be used again

    @property
    def output_tokens(self) -> int:
        """Tokens that were written."""
        return sum(lengths.output_tokens for lengths in self.situation.requests)

    @property
    def tokens_per_s(self) -> float:
        """Tokens written per second, all requests together."""
        return self.output_tokens / self.seconds

    @property
    def python_share(self) -> float:
        """Of the time, outside the executor."""
        return 1 - sum(map(forward_s, self.profile.steps)) / self.seconds

    @property
    def mean_running(self) -> float:
        """Requests in a step, on average over time."""
        weighted = sum(len(step.parts) * step.seconds for step in self.profile.steps)
        return weighted / sum(step.seconds for step in self.profile.steps)


def forward_s(step: StepRecord) -> float:
    """Seconds of a step in the executor."""
    return sum(phase.end_s - phase.begin_s for phase in step.phases if phase.name == FORWARD)


def shape_of(step: StepRecord) -> Step:
    """The shape of its batch. Logits are wanted of whoever writes."""
    rows = np.array([part.num_tokens for part in step.parts], np.int32)
    contexts = np.array([part.context for part in step.parts], np.int32)
    return Step(rows, contexts, sum(part.num_written for part in step.parts))


def observe(
    plan: Plan,
    config: EngineConfig,
    situation: Situation,
    *,
    progress: Callable[[int, int], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Observed:
    """Run the situation once. Prompts are random, so nothing is found in the prefix cache.

    ``progress``: (requests done, in all). Raises ``BadRequest`` for a request that does not fit the model or the pool.
    """
    engine = Engine(plan, None, config, clock=clock)
    warm_up(engine, plan.shape.vocab_size)
    before = engine.load().preemptions
    recorder = engine.record(MAX_STEPS)
    waiting = deque(_requests(situation, plan.shape.vocab_size))
    queue_s, peak, num_open, num_done = list[float](), 0, 0, 0
    begun_s = clock()
    while waiting or engine.has_work:
        while waiting and num_open < situation.concurrency:
            engine.add(waiting.popleft())
            num_open += 1
        events = engine.step()
        ended = _ended(events)
        queue_s += [event.queue_s for event in events if isinstance(event, StartEvent)]
        num_open, num_done = num_open - ended, num_done + ended
        load = engine.load()
        peak = max(peak, load.used_blocks + load.cached_blocks)
        if progress is not None and ended:
            progress(num_done, len(situation.requests))
    seconds = clock() - begun_s
    engine.stop_recording()
    return Observed(
        situation=situation,
        config=engine.config,
        profile=recorder.profile(),
        seconds=seconds,
        queue_s=tuple(queue_s),
        num_preemptions=engine.load().preemptions - before,
        peak_blocks=peak,
    )


def _requests(situation: Situation, vocab_size: int) -> Sequence[Request]:
    source = random.Random(situation.seed)  # noqa: S311 - prompts, not secrets
    return [
        Request(
            request_id=str(number),
            prompt=tuple(source.randrange(vocab_size) for _ in range(lengths.prompt_tokens)),
            sampling=Sampling(max_tokens=lengths.output_tokens, temperature=0.0, ignore_eos=True),
        )
        for number, lengths in enumerate(situation.requests)
    ]


def _ended(events: Sequence[Event]) -> int:
    finished = [event for event in events if isinstance(event, FinishEvent)]
    for event in finished:
        if event.error is not None:
            raise BurnishError(event.error)
    return len(finished)
