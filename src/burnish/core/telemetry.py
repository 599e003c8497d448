"""Counters and histograms; exporters attach from outside.

Metrics live in one process and are changed from one thread (the event loop), so reading them between two
callbacks sees a consistent picture.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import NamedTuple

LATENCY_BUCKETS_S = (
    *(0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.007, 0.008, 0.009, 0.010, 0.012, 0.015, 0.020, 0.025),
    *(0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 20.0),
    *(30.0, 60.0, 120.0),
)


class Counter:
    """A number that only grows, one per label value."""

    def __init__(self, name: str, help: str, label: str | None = None) -> None:
        self.name, self.help, self.label = name, help, label
        self.values: dict[str, float] = {} if label else {"": 0.0}

    def add(self, amount: float = 1.0, label: str = "") -> None:
        """Grow by ``amount``."""
        self.values[label] = self.values.get(label, 0.0) + amount

    @property
    def total(self) -> float:
        """Sum over labels."""
        return sum(self.values.values())


class Histogram:
    """Counts of observations per bucket (upper bounds, inclusive), with their sum."""

    def __init__(self, name: str, help: str, buckets: tuple[float, ...] = LATENCY_BUCKETS_S) -> None:
        self.name, self.help, self.buckets = name, help, buckets
        self.counts = [0] * (len(buckets) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.buckets, value)] += 1
        self.sum += value

    def cumulative(self) -> Iterator[tuple[str, float]]:
        """Prometheus' cumulative buckets: (upper bound, observations at most that large)."""
        running = 0
        for bound, count in zip((*map(str, self.buckets), "+Inf"), self.counts, strict=True):
            running += count
            yield bound, float(running)


class Gauge(NamedTuple):
    """A reading taken at export time."""

    name: str
    help: str
    value: float
    labels: Mapping[str, str] = {}
