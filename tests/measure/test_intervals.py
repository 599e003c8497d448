"""Intervals: exact on known series, and covering the truth as often as they say."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from burnish.measure.intervals import MAX_STRETCHES, MIN_STRETCH, Interval, mean_interval


def test_a_constant_series_has_no_width() -> None:
    assert mean_interval(np.full(1000, 2.5)) == Interval(2.5, 2.5, 2.5)


def test_two_stretches_by_hand() -> None:
    series = np.repeat([1.0, 3.0], MIN_STRETCH)
    # means 1 and 3: standard error 1, t with one degree of freedom 12.706
    assert mean_interval(series) == pytest.approx((2.0, 2.0 - 12.706, 2.0 + 12.706))


def test_the_value_is_the_mean_of_everything_even_when_stretches_differ_in_length() -> None:
    series = np.random.default_rng(0).normal(size=MAX_STRETCHES * MIN_STRETCH + 17)
    assert mean_interval(series).value == pytest.approx(series.mean(), abs=1e-12)


def independent(random: np.random.Generator, length: int) -> NDArray[np.float64]:
    return random.exponential(2.0, length)


def dependent(random: np.random.Generator, length: int) -> NDArray[np.float64]:
    """Neighbours correlate by 0.9: ten tokens in a row say about as much as one."""
    noise = random.normal(size=length + 100)
    series = np.zeros(length + 100)
    for i in range(1, length + 100):
        series[i] = 0.9 * series[i - 1] + noise[i]
    return series[100:] + 2.0


@pytest.mark.parametrize("length", [2 * MIN_STRETCH, 300, 3000])
def test_coverage_of_an_independent_series(length: int) -> None:
    random = np.random.default_rng(1)
    intervals = [mean_interval(independent(random, length)) for _ in range(1000)]
    covered = np.mean([low <= 2.0 <= high for _, low, high in intervals])
    assert 0.93 <= covered <= 0.975


def test_coverage_of_a_dependent_series_where_a_naive_interval_fails() -> None:
    random = np.random.default_rng(2)
    batch, naive = [], []
    for _ in range(300):
        series = dependent(random, 3000)
        _, low, high = mean_interval(series)
        half = 1.96 * series.std(ddof=1) / math.sqrt(len(series))
        batch.append(low <= 2.0 <= high)
        naive.append(abs(series.mean() - 2.0) <= half)
    assert np.mean(batch) >= 0.92
    assert np.mean(naive) <= 0.5


def test_exp_and_scale_keep_the_order() -> None:
    interval = Interval(1.0, 0.5, 1.5)
    assert interval.exp() == pytest.approx((math.e, math.exp(0.5), math.exp(1.5)))
    assert interval.scaled(2) == Interval(2.0, 1.0, 3.0)
    assert Interval(1.0, -5.0, 5000.0).exp().high < math.inf
