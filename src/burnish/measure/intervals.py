"""Confidence intervals of means over a series whose neighbours are alike.

The method is batch means (Schmeiser 1982, "Batch size effects in the analysis of simulation output"): the
series is cut into at most 30 stretches of equal length, whose means are nearly independent once a stretch is
longer than the dependence, and Student's t gives the interval. It needs no random numbers, holds for short
series (where it is honestly wide) and, unlike a bootstrap over few windows, does not come out too narrow.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_STRETCHES = 30
MIN_STRETCH = 32  # tokens: a sentence or two
# Student's t, two-sided 95 %, for 1 .. 29 degrees of freedom
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045),
)


class Interval(NamedTuple):
    """A figure with the bounds of its 95 % interval."""

    value: float
    low: float
    high: float

    def exp(self) -> "Interval":
        """The interval of the exponential."""
        return Interval(*(math.exp(min(bound, 700.0)) for bound in self))

    def shifted(self, by: float) -> "Interval":
        """The interval of the figure plus ``by``."""
        return Interval(*(bound + by for bound in self))

    def scaled(self, factor: float) -> "Interval":
        """The interval of ``factor`` times the figure, factor > 0."""
        return Interval(*(bound * factor for bound in self))


def mean_interval(series: NDArray[np.float64]) -> Interval:
    """The mean of a series of at least ``2 * MIN_STRETCH`` values with its 95 % interval."""
    count = min(MAX_STRETCHES, len(series) // MIN_STRETCH)
    assert count >= 2, "the caller refuses series too short for an interval"
    means = np.array([stretch.mean() for stretch in np.array_split(series, count)])
    half = _half(means)
    value = series.mean()
    return Interval(float(value), float(value - half), float(value + half))


def t_interval(values: NDArray[np.float64]) -> Interval:
    """The mean of 2 to 30 independent values with its 95 % interval by Student's t."""
    half, value = _half(values), float(values.mean())
    return Interval(value, value - half, value + half)


def _half(values: NDArray[np.float64]) -> float:
    """Half of the 95 % interval of the mean of 2 to 30 independent values."""
    count = len(values)
    return float(_T[count - 2] * values.std(ddof=1) / math.sqrt(count))
