"""The quality gate: a budget is kept, missed, or not shown either way."""

import math

import pytest

from burnish.measure.intervals import Interval
from burnish.measure.quality.gate import judge_loss


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.01, 0.009, "pass"),
        (0.0, 0.01, "pass"),
        (0.005, 0.02, "needs more data"),
        (0.011, 0.02, "fail"),
        (-0.01, math.nan, "fail"),
        (0.0, math.inf, "fail"),
    ],
)
def test_the_verdict_is_of_the_whole_interval(low: float, high: float, verdict: str) -> None:
    assert judge_loss(Interval((low + high) / 2, low, high), 0.01) == verdict
