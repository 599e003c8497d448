"""Counters and histograms count."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.core.telemetry import LATENCY_BUCKETS_S, Counter, Gauge, Histogram


def test_a_counter_without_label_begins_at_nothing() -> None:
    counter = Counter("n", "Things.")
    assert counter.values == {"": 0.0}
    counter.add()
    counter.add(2.5)
    assert counter.total == 3.5


def test_a_counter_with_a_label_counts_each_value() -> None:
    counter = Counter("n", "Things.", label="kind")
    assert counter.values == {}
    counter.add(label="a")
    counter.add(2, label="b")
    counter.add(label="a")
    assert counter.values == {"a": 2, "b": 2}
    assert counter.total == 4


def test_a_bound_belongs_to_its_bucket() -> None:
    histogram = Histogram("t", "Times.", buckets=(1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.5):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1]
    assert list(histogram.cumulative()) == [("1.0", 2), ("2.0", 4), ("+Inf", 5)]
    assert histogram.sum == 7.5


@given(st.lists(st.floats(0, 1000)))
def test_every_observation_is_in_exactly_one_bucket(values: list[float]) -> None:
    histogram = Histogram("t", "Times.")
    for value in values:
        histogram.observe(value)
    cumulative = list(histogram.cumulative())
    assert cumulative[-1] == ("+Inf", len(values))
    assert histogram.sum == pytest.approx(math.fsum(values))
    for bound, count in cumulative[:-1]:
        assert count == sum(value <= float(bound) for value in values)


def test_the_buckets_ascend() -> None:
    assert list(LATENCY_BUCKETS_S) == sorted(set(LATENCY_BUCKETS_S))


def test_a_gauge_needs_no_labels() -> None:
    assert Gauge("g", "A reading.", 1.0).labels == {}
