"""When requests are sent and how long they are: a schedule, the same for the same seed."""

import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice, repeat, takewhile
from pathlib import Path

from burnish.core.errors import BadSettings
from burnish.measure.load.servegen import draw_clients
from burnish.measure.load.traffic import Arrival, read_recorded

DEFAULT_REQUESTS = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Traffic:
    """What is asked of a server.

    Open loop: requests come at ``rate`` per second, or when ``trace`` says, ``speed`` times as fast; whoever is slow
    is sent the next one all the same. Closed loop: ``users`` each send their next request when the last has ended.
    Lengths are those of the trace, divided by ``shrink`` and cut to the two maxima, or else ``prompt_tokens`` and
    ``output_tokens``. It ends after ``requests`` (100 if neither end is given) or before ``seconds`` have passed.

    ``gamma_times`` tells what ``burstiness`` means. Raises ``BadSettings``.
    """

    users: int | None = None
    rate: float | None = None
    burstiness: float | None = None
    trace: Path | None = None
    speed: float | None = None
    start_s: float = 0.0
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    shrink: int = 1
    max_prompt_tokens: int | None = None
    max_output_tokens: int | None = None
    requests: int | None = None
    seconds: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ``BadSettings`` for values out of range and for options that contradict each other."""
        for name in ("users", "prompt_tokens", "output_tokens", "max_prompt_tokens", "max_output_tokens", "requests"):
            _refuse_below(name, getattr(self, name), 1)
        _refuse_below("shrink", self.shrink, 1)
        _refuse_below("start_s", self.start_s, 0)
        for name in ("rate", "burstiness", "speed", "seconds"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise BadSettings(f"{name} {value:g} is out of range", remedy="Use a number above 0")
        if self.users is None and self.rate is None and self.trace is None:
            raise BadSettings("how requests come is missing", remedy="Give a rate, a number of users or a trace")
        self._refuse_contradictions()

    def _refuse_contradictions(self) -> None:
        timed = self.users is not None or self.rate is not None
        for told, contradicts in (
            ("users and rate", self.users is not None and self.rate is not None),
            ("speed without the times of a trace", self.speed is not None and (self.trace is None or timed)),
            ("burstiness without a rate", self.burstiness is not None and self.rate is None),
            ("start_s without a trace", self.start_s > 0 and self.trace is None),
            ("prompt_tokens and a trace, which tells them", self.prompt_tokens is not None and self.trace is not None),
            ("output_tokens and a trace, which tells them", self.output_tokens is not None and self.trace is not None),
        ):
            if contradicts:
                raise BadSettings(f"{told} contradict each other", remedy="Leave one of them out")

    @property
    def is_open(self) -> bool:
        """Whether requests are sent whatever became of those before."""
        return self.users is None

    @property
    def most(self) -> int | None:
        """The most requests there are; None if only the time ends them."""
        return DEFAULT_REQUESTS if self.requests is None and self.seconds is None else self.requests


def schedule(traffic: Traffic) -> Iterator[Arrival]:
    """The requests in their order; in a closed loop their times mean nothing, and only ``most`` ends them.

    Raises ``NotFound`` and ``BadSettings`` for a trace that cannot be read.
    """
    found = _lengths(traffic)
    if traffic.rate is not None:
        times = gamma_times(traffic.rate, traffic.burstiness or 1.0, seed=traffic.seed)
        found = (replace(arrival, at_s=at_s) for arrival, at_s in zip(found, times, strict=False))
    elif traffic.is_open:
        speed = traffic.speed or 1.0
        found = (replace(arrival, at_s=arrival.at_s / speed) for arrival in found)
    if traffic.is_open and traffic.seconds is not None:
        seconds = traffic.seconds
        found = takewhile(lambda arrival: arrival.at_s < seconds, found)
    return islice(found, traffic.most)


def read_traffic(path: Path, *, seed: int = 0, start_s: float = 0.0) -> Iterator[Arrival]:
    """The requests of a trace from ``start_s`` on, in their order; ``seed`` is for ServeGen's, which are drawn.

    Raises ``NotFound``, and ``BadSettings`` for a trace that is broken or has no requests from there on.
    """
    if path.is_dir() or path.name.endswith("-trace.csv"):
        yield from draw_clients(path, seed=seed, start_s=start_s)
        return
    recorded = read_recorded(path)
    if recorded[-1].at_s < start_s:
        raise BadSettings(
            f"trace {str(path)!r} ends after {recorded[-1].at_s:g} s, before {start_s:g} s", remedy="Begin earlier"
        )
    yield from (replace(arrival, at_s=arrival.at_s - start_s) for arrival in recorded if arrival.at_s >= start_s)


def gamma_times(rate: float, burstiness: float, *, seed: int) -> Iterator[float]:
    """Instants in seconds whose gaps have the mean ``1 / rate`` and a gamma distribution of shape ``burstiness``.

    1 is a Poisson process; below 1 requests come in bursts, above 1 more evenly. The gaps' coefficient of variation is
    ``burstiness ** -0.5``. Without an end.
    """
    chance = random.Random(f"times:{seed}")  # noqa: S311 - traffic, not secrets
    now = 0.0
    while True:
        now += chance.gammavariate(burstiness, 1 / (burstiness * rate))
        yield now


def _lengths(traffic: Traffic) -> Iterator[Arrival]:
    if traffic.trace is None:
        fixed = Arrival(at_s=0.0, prompt_tokens=traffic.prompt_tokens or 128, output_tokens=traffic.output_tokens or 32)
        found: Iterable[Arrival] = repeat(fixed)
    else:
        found = read_traffic(traffic.trace, seed=traffic.seed, start_s=traffic.start_s)
    return (_fitted(arrival, traffic) for arrival in found)


def _fitted(arrival: Arrival, traffic: Traffic) -> Arrival:
    """Lengths divided and cut; blocks of prefixes are divided alike, so that what was shared still is."""
    return replace(
        arrival,
        prompt_tokens=_cut(arrival.prompt_tokens, traffic.shrink, traffic.max_prompt_tokens),
        output_tokens=_cut(arrival.output_tokens, traffic.shrink, traffic.max_output_tokens),
        block_tokens=max(1, arrival.block_tokens // traffic.shrink),
    )


def _cut(length: int, shrink: int, most: int | None) -> int:
    shorter = max(1, length // shrink)
    return shorter if most is None else min(shorter, most)


def _refuse_below(name: str, value: float | None, least: int) -> None:
    if value is not None and not least <= value < math.inf:
        raise BadSettings(f"{name} {value:g} is out of range", remedy=f"Use {least} or more")
