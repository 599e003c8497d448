"""Schedules: what a seed promises, what the distributions are, and what contradicts itself."""

import json
import math
import statistics
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest

from burnish.core.errors import BadSettings
from burnish.measure.load.arrivals import DEFAULT_REQUESTS, Traffic, gamma_times, schedule


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Ten requests, one every half second, of 600, 700, ... tokens."""
    rows = (
        {"timestamp": 500 * i, "input_length": 600 + 100 * i, "output_length": 10 + i, "hash_ids": [0, i + 1, -i][:n]}
        for i in range(10)
        for n in [math.ceil((600 + 100 * i) / 512)]
    )
    file = tmp_path / "trace.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gaps_have_the_rate_and_the_burstiness(burstiness: float) -> None:
    times = list(islice(gamma_times(20.0, burstiness, seed=3), 20_000))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert statistics.mean(gaps) == pytest.approx(1 / 20, rel=0.05)
    assert statistics.stdev(gaps) / statistics.mean(gaps) == pytest.approx(burstiness**-0.5, rel=0.05)


def test_poisson_counts_have_their_variance() -> None:
    """Counts of a second: mean and variance are both the rate."""
    times = gamma_times(5.0, 1.0, seed=1)
    counts = [0] * 2000
    for at_s in times:
        if at_s >= 2000:
            break
        counts[int(at_s)] += 1
    assert statistics.mean(counts) == pytest.approx(5, rel=0.05)
    assert statistics.variance(counts) == pytest.approx(5, rel=0.1)


@pytest.mark.parametrize("more", [{"rate": 3.0}, {"rate": 3.0, "burstiness": 0.5}])
def test_a_seed_reproduces_a_schedule(more: dict[str, Any]) -> None:
    one = list(schedule(Traffic(seed=7, **more)))
    assert one == list(schedule(Traffic(seed=7, **more)))
    assert one != list(schedule(Traffic(seed=8, **more)))
    assert len(one) == DEFAULT_REQUESTS


def test_a_trace_is_replayed_at_a_speed(trace: Path) -> None:
    plain = list(schedule(Traffic(trace=trace)))
    assert [arrival.at_s for arrival in plain] == [0.5 * i for i in range(10)]
    fast = list(schedule(Traffic(trace=trace, speed=4.0)))
    assert [arrival.at_s for arrival in fast] == [0.125 * i for i in range(10)]
    assert [a.prompt_tokens for a in fast] == [600 + 100 * i for i in range(10)]
    assert [a.prefix_ids for a in fast] == [a.prefix_ids for a in plain]


def test_a_rate_or_users_take_only_the_lengths_of_a_trace(trace: Path) -> None:
    at_random = list(schedule(Traffic(trace=trace, rate=1000.0)))
    assert [a.output_tokens for a in at_random] == list(range(10, 20))
    assert at_random[-1].at_s < 1
    users = list(schedule(Traffic(trace=trace, users=2, requests=3)))
    assert [a.output_tokens for a in users] == [10, 11, 12]


def test_requests_and_seconds_end_it(trace: Path) -> None:
    assert len(list(schedule(Traffic(trace=trace, requests=4)))) == 4
    assert [a.at_s for a in schedule(Traffic(trace=trace, seconds=1.5))] == [0.0, 0.5, 1.0]
    assert [a.at_s for a in schedule(Traffic(trace=trace, seconds=1.5, speed=0.5))] == [0.0, 1.0]
    assert len(list(schedule(Traffic(trace=trace, start_s=4.0)))) == 2
    timed = Traffic(rate=100.0, seconds=2.0)
    assert timed.most is None
    assert len(list(schedule(timed))) == pytest.approx(200, abs=50)
    assert len(list(schedule(Traffic(rate=100.0, seconds=2.0, requests=5)))) == 5


def test_lengths_are_told_divided_and_cut(trace: Path) -> None:
    assert {(a.prompt_tokens, a.output_tokens) for a in schedule(Traffic(rate=9.0))} == {(128, 32)}
    told = Traffic(users=1, prompt_tokens=5, output_tokens=6, requests=2)
    assert {(a.prompt_tokens, a.output_tokens) for a in schedule(told)} == {(5, 6)}
    shrunk = next(schedule(Traffic(trace=trace, shrink=16)))
    assert (shrunk.prompt_tokens, shrunk.output_tokens, shrunk.block_tokens) == (37, 1, 32)
    cut = list(schedule(Traffic(trace=trace, max_prompt_tokens=650, max_output_tokens=12)))
    assert [a.prompt_tokens for a in cut] == [600] + [650] * 9
    assert [a.output_tokens for a in cut] == [10, 11] + [12] * 8


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({}, "how requests come is missing. Give a rate, a number of users or a trace"),
        ({"rate": 1.0, "users": 2}, "users and rate contradict each other"),
        ({"rate": 1.0, "speed": 2.0}, "speed without the times of a trace"),
        ({"trace": Path("t"), "rate": 1.0, "speed": 2.0}, "speed without the times of a trace"),
        ({"users": 1, "burstiness": 2.0}, "burstiness without a rate"),
        ({"rate": 1.0, "start_s": 2.0}, "start_s without a trace"),
        ({"trace": Path("t"), "prompt_tokens": 2}, "prompt_tokens and a trace, which tells them"),
        ({"trace": Path("t"), "output_tokens": 2}, "output_tokens and a trace, which tells them"),
        ({"rate": 0.0}, "rate 0 is out of range. Use a number above 0"),
        ({"rate": math.inf}, "rate inf is out of range"),
        ({"rate": math.nan}, "rate nan is out of range"),
        ({"rate": 1.0, "burstiness": -1.0}, "burstiness -1 is out of range"),
        ({"trace": Path("t"), "speed": 0.0}, "speed 0 is out of range"),
        ({"rate": 1.0, "seconds": 0.0}, "seconds 0 is out of range"),
        ({"users": 0}, "users 0 is out of range. Use 1 or more"),
        ({"users": 1, "requests": 0}, "requests 0 is out of range"),
        ({"users": 1, "prompt_tokens": 0}, "prompt_tokens 0 is out of range"),
        ({"users": 1, "shrink": 0}, "shrink 0 is out of range"),
        ({"users": 1, "max_output_tokens": 0}, "max_output_tokens 0 is out of range"),
        ({"trace": Path("t"), "start_s": -1.0}, "start_s -1 is out of range. Use 0 or more"),
    ],
)
def test_what_cannot_be_asked(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(BadSettings) as refused:
        Traffic(**options)
    assert fault in str(refused.value)
