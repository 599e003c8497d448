"""Ratios, limits and the Pareto set, as tables."""

import math

import pytest

from burnish.measure.intervals import Interval
from burnish.measure.limits import parse_limits
from burnish.optimize.weigh import NAMES, Weighed, best, broken, distance, goodness, is_gain, medians, pareto, ratio


def weighed(name: str, value: float, half: float = 0.01, **figures: float) -> Weighed:
    """Rounds that differ by so much, the machine's own being 100 in each."""
    usual = {"size_mb": 10.0, "loss_ratio": 0.0, "p50_e2e_ms": 100.0, "tokens_per_s": 10.0, "memory_mb": 100.0}
    rounds = [value + part * half for part in (-1, 1, 0, 1, -1)]
    served = tuple({"p50_e2e_ms": 100 * one, "tokens_per_s": 10 * one} for one in rounds)
    interval = Interval(value, value - half, value + half)
    return Weighed(name, usual | {"cost_per_million": 0.0} | figures, interval, served)


def test_ratios_are_taken_within_a_round() -> None:
    own = [{"x": 10.0}, {"x": 20.0}, {"x": 40.0}, {"x": 80.0}]  # the machine got slower and slower
    found = ratio([{"x": one["x"] / 2} for one in own], own, "x")
    assert found == pytest.approx((0.5, 0.5, 0.5))


def test_two_rounds_have_no_bounds() -> None:
    found = ratio([{"x": 1.0}, {"x": 2.0}], [{"x": 2.0}, {"x": 4.0}], "x")
    assert found.value == pytest.approx(0.5)
    assert (found.low, found.high) == (0.0, math.inf)
    assert not is_gain(found, "latency")


def test_a_noisy_difference_is_no_gain() -> None:
    noisy = ratio([{"x": 1.0}, {"x": 0.5}, {"x": 0.9}], [{"x": 1.0}] * 3, "x")
    assert noisy.value < 0.8
    assert not is_gain(noisy, "latency")
    steady = ratio([{"x": 0.80}, {"x": 0.81}, {"x": 0.79}], [{"x": 1.0}] * 3, "x")
    assert is_gain(steady, "latency")
    assert not is_gain(steady, "throughput")


def test_more_is_better_of_tokens_and_less_of_the_rest() -> None:
    assert goodness(Interval(2.0, 2.0, 2.0), "throughput") == 2.0
    assert goodness(Interval(2.0, 2.0, 2.0), "memory") == 0.5


def test_the_smallest_of_the_best_is_taken() -> None:
    fast, alike, slow = weighed("a", 0.50, 0.005), weighed("b", 0.51, 0.02, size_mb=5.0), weighed("c", 0.7, size_mb=1.0)
    assert best([fast, alike, slow], "latency").name == "b"
    assert best([weighed("a", 2.0), weighed("b", 1.9, size_mb=1.0)], "throughput").name == "a"


def test_noise_makes_nothing_as_good_as_the_best() -> None:
    fast, noisy = weighed("a", 0.50, 0.005), weighed("b", 0.71, 0.30, size_mb=1.0)
    assert best([fast, noisy], "latency").name == "a"


def test_settings_that_are_not_shown_to_be_better_are_left_as_they_are() -> None:
    plain, other = weighed("int8", 0.60, 0.06), weighed("int8, keys int8", 0.55, -0.06)  # slow where that is fast
    assert best([plain, other], "latency").name == "int8"
    assert best([plain, weighed("int8, keys int8", 0.30, 0.005)], "latency").name == "int8, keys int8"


def test_limits_that_are_broken_say_by_how_much() -> None:
    limits = parse_limits(["memory_mb<=50", "tokens_per_s>=10"], NAMES)
    one = weighed("a", 1.0)
    assert [limit.name for limit in broken(limits, one.figures)] == ["memory_mb"]
    assert distance(limits, one.figures) == pytest.approx(math.log(2))
    assert distance(limits, one.figures | {"memory_mb": 50.0}) == 0


def test_what_is_beaten_in_everything_is_not_in_the_set() -> None:
    one = weighed("a", 1.0)
    worse = weighed("b", 1.0, memory_mb=110.0)
    other = weighed("c", 1.0, memory_mb=90.0, loss_ratio=0.01)
    assert pareto([one, worse, other]) == ["a", "c"]
    assert pareto([one, weighed("d", 1.0)]) == ["a", "d"], "equals do not beat each other"


def test_medians_are_taken_figure_by_figure() -> None:
    assert medians([{"x": 1.0, "y": 9.0}, {"x": 3.0, "y": 1.0}, {"x": 2.0, "y": 5.0}]) == {"x": 2.0, "y": 5.0}
