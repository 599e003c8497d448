"""What measured figures say: ratios with their spread, limits that are kept, the Pareto set. Pure.

Times of one machine drift together, so a candidate is timed in turn with the model itself, round by round, and what
counts is the ratio within a round.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from burnish.measure.intervals import Interval, t_interval
from burnish.measure.limits import Limit

Objective = Literal["latency", "throughput", "memory", "cost"]
Figures = Mapping[str, float]
"""Of one round or of all: e2e_ms, ttft_ms and tpot_ms (p50 and p95), tokens_per_s, memory_mb, size_mb, cost"""

FIGURE_OF: dict[Objective, str] = {
    "latency": "p50_e2e_ms",
    "throughput": "tokens_per_s",
    "memory": "memory_mb",
    "cost": "cost_per_million",
}
TOLD_AS: dict[Objective, str] = {
    "latency": "median time of a request",
    "throughput": "tokens per second",
    "memory": "memory",
    "cost": "cost of a million tokens written, the machine fully busy",
}
HIGHER_IS_BETTER = frozenset(("tokens_per_s",))
NAMES = (
    *(f"p{share}_{what}_ms" for what in ("ttft", "tpot", "e2e") for share in (50, 95)),
    *("tokens_per_s", "memory_mb", "size_mb", "cost_per_million", "loss_ratio"),
)
PARETO = ("loss_ratio", "p50_e2e_ms", "tokens_per_s", "memory_mb", "cost_per_million")
PICKED = 1.7  # the 95 % interval of five rounds made about a 99 % one
LEAST_ROUNDS = 3  # before a ratio has an interval
ALIKE = 1.03  # times: figures nearer to each other than that count as equal


class Weighed(NamedTuple):
    """A candidate by its figures: medians over the rounds, and the ratio of its objective to the model's own."""

    name: str
    figures: dict[str, float]
    ratio: Interval  # of the objective's figure, within rounds
    rounds: tuple[Figures, ...] = ()  # those of all candidates were served in turn


def medians(rounds: Sequence[Figures]) -> dict[str, float]:
    """Of every figure over the rounds."""
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


def ratio(rounds: Sequence[Figures], own: Sequence[Figures], figure: str) -> Interval:
    """A figure over the model's own in the same round: the geometric mean with its 95 % interval.

    Fewer than ``LEAST_ROUNDS`` rounds have an interval without bounds.
    """
    logs = np.array([math.log(a[figure] / b[figure]) for a, b in zip(rounds, own, strict=True)])
    if len(logs) < LEAST_ROUNDS:
        return Interval(float(math.exp(logs.mean())), 0.0, math.inf)
    return t_interval(logs).exp()


def is_gain(found: Interval, objective: Objective) -> bool:
    """Whether the interval, widened because the best of several was picked, lies on the better side of 1."""
    if FIGURE_OF[objective] in HIGHER_IS_BETTER:
        return found.value - PICKED * (found.value - found.low) > 1
    return found.value + PICKED * (found.high - found.value) < 1


def goodness(found: Interval, objective: Objective) -> float:
    """The ratio, turned so that more is better."""
    return found.value if FIGURE_OF[objective] in HIGHER_IS_BETTER else 1 / found.value


def best(candidates: Sequence[Weighed], objective: Objective) -> Weighed:
    """The best by the objective; of those that are about as good, the smallest in files, then the plainest."""
    first = max(candidates, key=lambda one: goodness(one.ratio, objective))
    alike = [one for one in candidates if one is first or _is_alike(one, first, objective)]
    return min(alike, key=lambda one: (one.figures["size_mb"], len(one.name), one.name))


def _is_alike(one: Weighed, best_one: Weighed, objective: Objective) -> bool:
    """Whether two are within ``ALIKE`` in the same rounds, or, where only settings differ, no difference is shown."""
    found = ratio(best_one.rounds, one.rounds, FIGURE_OF[objective])
    is_near = 1 / ALIKE <= found.value <= ALIKE
    return is_near or (_weights_of(one) == _weights_of(best_one) and not is_gain(found, objective))


def _weights_of(one: Weighed) -> str:
    return one.name.partition(",")[0]


def broken(limits: Sequence[Limit], figures: Figures) -> list[Limit]:
    """The limits that are not kept."""
    return [limit for limit in limits if not limit.holds(figures[limit.name])]


def distance(limits: Sequence[Limit], figures: Figures) -> float:
    """How far figures lie beyond the limits, as the sum of what is missing in logarithms; 0 where all are kept."""
    total = 0.0
    for limit in broken(limits, figures):
        value, bound = max(figures[limit.name], 1e-12), max(limit.value, 1e-12)
        total += abs(math.log(value / bound))
    return total


def pareto(candidates: Sequence[Weighed]) -> list[str]:
    """Names of those that no other beats in one figure of ``PARETO`` without losing in another."""
    return [one.name for one in candidates if not any(_dominates(other, one) for other in candidates)]


def _dominates(one: Weighed, other: Weighed) -> bool:
    pairs = [(_turned(one, name), _turned(other, name)) for name in PARETO]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _turned(one: Weighed, name: str) -> float:
    return -one.figures[name] if name in HIGHER_IS_BETTER else one.figures[name]
