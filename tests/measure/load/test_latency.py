"""From records to figures: sums that can be done by hand, and numpy's percentiles."""

import random
from typing import Any

import numpy as np
import pytest

from burnish.measure.limits import parse_limits
from burnish.measure.load.latency import REQUEST_FIGURES, RUN_FIGURES, Record, summarise


def record(due_s: float, *text_s: float, sent_s: float | None = None, **more: Any) -> Record:
    """An answer of one token per piece."""
    known = {"ended_s": text_s[-1] if text_s else due_s + 1, "output_tokens": len(text_s), "by_usage": True}
    return Record(due_s=due_s, sent_s=due_s if sent_s is None else sent_s, text_s=text_s, **(known | more))


def test_the_figures_of_one_request() -> None:
    found = record(10.0, 10.5, 10.6, 10.8, sent_s=10.25)
    assert found.figures() == pytest.approx(
        {"ttft_ms": 500, "tpot_ms": 150, "gap_ms": 200, "e2e_ms": 800, "queue_ms": 250}
    )
    assert set(found.figures()) == set(REQUEST_FIGURES)
    assert found.gaps_ms() == pytest.approx([100, 200])


def test_tokens_that_came_together_share_the_time() -> None:
    """The server's usage counts 7 tokens in 3 pieces."""
    assert record(0.0, 0.5, 0.6, 0.8, output_tokens=7).figures()["tpot_ms"] == pytest.approx(50)


def test_one_token_has_no_gap_and_no_time_per_token() -> None:
    report = summarise([record(0.0, 0.5)])
    assert (report.tpot_ms, report.gap_ms) == (None, None)
    assert report.ttft_ms is not None
    assert report.ttft_ms.p99 == pytest.approx(500)


@pytest.mark.parametrize("count", [1, 2, 7, 100, 1001])
def test_percentiles_are_numpys(count: int) -> None:
    chance = random.Random(count)
    values = [chance.expovariate(1) for _ in range(count)]
    found = summarise([record(0.0, value, value + 0.1) for value in values]).ttft_ms
    assert found is not None
    expected = np.percentile(1e3 * np.array(values), (50, 90, 95, 99), method="inverted_cdf")
    assert (found.p50, found.p90, found.p95, found.p99) == pytest.approx(tuple(expected))
    assert found.num_values == count
    assert found.max == pytest.approx(1e3 * max(values))
    assert found.mean == pytest.approx(1e3 * np.mean(values))


def test_every_gap_is_counted_not_the_mean_of_a_request() -> None:
    """99 quiet gaps and a stall: the stall is the largest of 100, and a hundredth of the mean."""
    instants = [0.01 * i for i in range(100)] + [0.99 + 1.0]
    found = summarise([record(0.0, *instants)])
    assert found.gap_ms is not None
    assert found.gap_ms.num_values == 100
    assert found.gap_ms.max == pytest.approx(1000)
    assert found.gap_ms.p99 == pytest.approx(10)
    assert found.tpot_ms is not None
    assert found.tpot_ms.p50 == pytest.approx(19.9)


def test_rates_goodput_and_errors() -> None:
    limits = parse_limits(["ttft_ms<=400", "gap_ms<=100"], REQUEST_FIGURES)
    records = [
        record(0.0, 0.3, 0.38, prompt_tokens=10),
        record(1.0, 1.5, 1.6, prompt_tokens=20),  # its first token is late
        record(2.0, 2.3, 2.5, prompt_tokens=30),  # its gap is long
        record(3.0, 3.2, prompt_tokens=40),  # has no gap, and so keeps that limit
        record(4.0, error="http 500", detail="boom"),
        record(5.0, error="timeout", ended_s=10.0),
        record(6.0, error="http 500", detail="bang"),
    ]
    found = summarise(records, limits)
    assert (found.num_requests, found.num_answered, found.duration_s) == (7, 4, 10.0)
    assert (found.requests_per_s, found.output_tokens_per_s, found.prompt_tokens_per_s) == (0.4, 0.7, 10.0)
    assert (found.goodput_per_s, found.goodput_share) == pytest.approx((0.2, 2 / 7))
    assert found.error_share == pytest.approx(3 / 7)
    assert found.errors == (("http 500", 2, "boom"), ("timeout", 1, ""))
    assert summarise(records).goodput_share == pytest.approx(4 / 7)


def test_the_figures_that_limits_may_name() -> None:
    figures = summarise([record(0.0, 0.3, 0.4)]).figures()
    assert set(figures) == set(RUN_FIGURES)
    assert figures["p95_ttft_ms"] == pytest.approx(300)
    assert figures["p50_tpot_ms"] == pytest.approx(100)
    none = summarise([record(0.0, error="timeout")]).figures()
    assert none["p95_ttft_ms"] is None
    assert none["error_share"] == 1


def test_how_tokens_were_counted_is_told() -> None:
    usage, pieces = record(0.0, 1.0), record(0.0, 1.0, by_usage=False)
    assert summarise([usage]).counted_by == "usage"
    assert summarise([pieces]).counted_by == "pieces"
    assert summarise([usage, pieces]).counted_by == "both"
    assert summarise([pieces]).prompt_tokens is None
