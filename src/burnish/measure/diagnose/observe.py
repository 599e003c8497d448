"""What an engine does under a situation: so many requests at a time, of these lengths, step by step."""

import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from burnish.core.errors import BadSettings, BurnishError
from burnish.core.profile import FORWARD, Profile, StepRecord
from burnish.core.types import Event, FinishEvent, Request, Sampling, StartEvent, TokenEvent
from burnish.engine.config import EngineConfig
from burnish.engine.engine import Engine
from burnish.measure.diagnose.operations import Step
from burnish.measure.speed import warm_up
from burnish.plan.ops import Plan

MAX_STEPS = 100_000


class Lengths(NamedTuple):
    """Tokens in and out of a request."""

    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """Requests, ``concurrency`` at a time: the next comes when one ends. With ``at_s`` each comes at its own time."""

    requests: tuple[Lengths, ...]
    concurrency: int = 1
    at_s: tuple[float, ...] | None = None  # of every request, ascending, since the first
    seed: int = 0
    temperature: float = 0.0  # of answers

    def __post_init__(self) -> None:
        """Raise ``BadSettings`` for a situation in which nothing happens, ``BadRequest`` for a wrong temperature."""
        if not self.requests:
            raise BadSettings("there are no requests to observe", remedy="Give a traffic file with some")
        if self.concurrency < 1:
            raise BadSettings(f"concurrency {self.concurrency} is wrong", remedy="Use 1 or more")
        Sampling(temperature=self.temperature)  # raises ``BadRequest``
        assert self.at_s is None or len(self.at_s) == len(self.requests)


class Served(NamedTuple):
    """One request, in seconds since the situation began."""

    due_s: float  # when it came, or should have
    first_s: float  # its first token
    last_s: float
    num_written: int

    @property
    def ttft_s(self) -> float:
        """Until its first token, waiting included."""
        return self.first_s - self.due_s

    @property
    def tpot_s(self) -> float | None:
        """Between its tokens, on average; None of a single one."""
        return (self.last_s - self.first_s) / (self.num_written - 1) if self.num_written > 1 else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """What was seen."""

    situation: Situation
    config: EngineConfig  # resolved
    profile: Profile
    seconds: float
    queue_s: tuple[float, ...]  # of every request, until its first step
    served: tuple[Served, ...]  # every request
    num_preemptions: int
    peak_blocks: int  # in use; what only holds a prefix that may come again is free to be taken

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
    text: Sequence[int] = (),
    draft: Plan | None = None,
    progress: Callable[[int, int], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Observed:
    """Run the situation once. Prompts are random, so nothing is found in the prefix cache.

    ``text``: tokens of which prompts are stretches, from random places; without them prompts are random tokens.
    ``draft``: of the model that the configuration names. ``progress``: (requests done, in all).

    Raises ``BadRequest`` for a request that does not fit the model or the pool, ``BadSettings`` for a situation that is
    too long to be recorded.
    """
    engine = Engine(plan, None, config, draft=draft, clock=clock)
    warm_up(engine, plan.shape.vocab_size)
    before = engine.load().preemptions
    recorder = engine.record(MAX_STEPS)
    arrivals, log = _Arrivals(situation, _requests(situation, plan.shape.vocab_size, text), clock), _Log()
    queue_s, peak, num_done = list[float](), 0, 0
    while arrivals.are_left or engine.has_work:
        for request in arrivals.due(idle=not engine.has_work):
            engine.add(request)
        events = engine.step()
        log.write(events, arrivals.now())
        ended = _ended(events)
        arrivals.num_open -= ended
        num_done += ended
        queue_s += [event.queue_s for event in events if isinstance(event, StartEvent)]
        peak = max(peak, engine.load().used_blocks)
        if progress is not None and ended:
            progress(num_done, len(situation.requests))
    seconds = arrivals.now()
    engine.stop_recording()
    if recorder.is_full:
        raise BadSettings(f"the situation takes {MAX_STEPS:,} steps or more", remedy="Give fewer or shorter requests")
    return Observed(
        situation=situation,
        config=engine.config,
        profile=recorder.profile(),
        seconds=seconds,
        queue_s=tuple(queue_s),
        served=log.served(arrivals.due_s),
        num_preemptions=engine.load().preemptions - before,
        peak_blocks=peak,
    )


class _Arrivals:
    """Which requests have come."""

    def __init__(self, situation: Situation, requests: Sequence[Request], clock: Callable[[], float]) -> None:
        self._waiting = deque(enumerate(requests))
        self._situation, self._clock, self._begun_s = situation, clock, clock()
        self.num_open = 0
        self.due_s: dict[str, float] = {}  # of every request that has come

    @property
    def are_left(self) -> bool:
        """Whether any are still to come."""
        return bool(self._waiting)

    def now(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._begun_s

    def due(self, *, idle: bool) -> Sequence[Request]:
        """Those that come now; when nothing else is to be done, waits for the next."""
        at_s, found = self._situation.at_s, list[Request]()
        if idle and at_s is not None and self._waiting:
            time.sleep(max(0.0, at_s[self._waiting[0][0]] - self.now()))
        while self._waiting:
            number = self._waiting[0][0]
            due_s = self.now() if at_s is None else at_s[number]
            if due_s > self.now() or (at_s is None and self.num_open >= self._situation.concurrency):
                break
            request = self._waiting.popleft()[1]
            self.due_s[request.request_id] = due_s
            self.num_open += 1
            found.append(request)
        return found


class _Log:
    """When tokens were written."""

    def __init__(self) -> None:
        self._times: dict[str, list[float]] = {}

    def write(self, events: Sequence[Event], now_s: float) -> None:
        """Note every token."""
        for event in events:
            if isinstance(event, TokenEvent):
                self._times.setdefault(event.request_id, []).extend([now_s] * len(event.token_ids))

    def served(self, due_s: Mapping[str, float]) -> tuple[Served, ...]:
        """Every request, in the order in which they came."""
        found = ((due, self._times[name]) for name, due in due_s.items())
        return tuple(Served(due, times[0], times[-1], len(times)) for due, times in found)


def _requests(situation: Situation, vocab_size: int, text: Sequence[int]) -> Sequence[Request]:
    source = random.Random(situation.seed)  # noqa: S311 - prompts, not secrets
    return [
        Request(
            request_id=str(number),
            prompt=_prompt(source, lengths.prompt_tokens, vocab_size, text),
            sampling=Sampling(
                max_tokens=lengths.output_tokens,
                temperature=situation.temperature,
                seed=situation.seed + number,
                ignore_eos=True,
            ),
        )
        for number, lengths in enumerate(situation.requests)
    ]


def _prompt(source: random.Random, count: int, vocab_size: int, text: Sequence[int]) -> tuple[int, ...]:
    """So many tokens: of the text from a random place on, over its end back to its beginning."""
    if not text:
        return tuple(source.randrange(vocab_size) for _ in range(count))
    first = source.randrange(len(text))
    return tuple(text[(first + step) % len(text)] for step in range(count))


def _ended(events: Sequence[Event]) -> int:
    finished = [event for event in events if isinstance(event, FinishEvent)]
    for event in finished:
        if event.error is not None:
            raise BurnishError(event.error)
    return len(finished)
