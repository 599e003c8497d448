"""Limits on figures, as users write them: ``ttft_ms<=200``, ``p95_ttft_ms<=200``, ``loss_ratio<0.01``."""

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from burnish.core.errors import BadSettings, nearest

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_WRITTEN = re.compile(r"\s*(\w+)\s*(<=|>=|<|>)\s*(\S+)\s*")
_PERCENTILE = re.compile(r"p(\d+)_(\w+)")


class Limit(NamedTuple):
    """A figure by its name, how it compares, and with what."""

    name: str
    comparison: str
    value: float

    def holds(self, measured: float) -> bool:
        """Whether a measured figure keeps the limit."""
        return _COMPARISONS[self.comparison](measured, self.value)

    @property
    def is_upper(self) -> bool:
        """Whether it bounds from above."""
        return self.comparison.startswith("<")

    def __str__(self) -> str:
        return f"{self.name}{self.comparison}{self.value:g}"


def parse_limits(written: Sequence[str], known: Sequence[str]) -> tuple[Limit, ...]:
    """The limits in their order.

    Raises ``BadSettings`` for one that is not ``NAME<=NUMBER``, for a name that is not ``known`` (the nearest is
    named), and for two that say the same thing twice or cannot both hold.
    """
    limits = tuple(_parse(text, known) for text in written)
    for index, other in enumerate(limits):
        for one in limits[:index]:
            if one.name == other.name and one.is_upper == other.is_upper:
                raise BadSettings(f"limits {one} and {other} say the same twice", remedy="Leave one of them out")
            if not _can_both_hold(one, other):
                raise BadSettings(f"limits {one} and {other} contradict each other", remedy="Leave one of them out")
    return limits


def is_kept(limits: Sequence[Limit], measured: Mapping[str, float | None]) -> bool:
    """Whether every limit holds. A figure that could not be measured (None) breaks its limits."""
    found = ((limit, measured[limit.name]) for limit in limits)
    return all(value is not None and limit.holds(value) for limit, value in found)


def _parse(text: str, known: Sequence[str]) -> Limit:
    match = _WRITTEN.fullmatch(text)
    if match is None:
        raise BadSettings(f"limit {text!r} is no comparison", remedy=f"Write for example {known[0]}<=200")
    name, comparison, number = match.groups()
    if name not in known:
        raise BadSettings(f"limit {text!r} has the unknown name {name!r}", remedy=nearest(name, list(known)))
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadSettings(f"limit {text!r} compares with {number!r}, which is no number", remedy=f"Write {name}<=200")
    return Limit(name, comparison, value)


def _can_both_hold(one: Limit, other: Limit) -> bool:
    """False where a lower bound lies above an upper one: of one figure, or of a percentile and a higher one."""
    if one.is_upper == other.is_upper:
        return True
    upper, lower = (one, other) if one.is_upper else (other, one)
    if not _never_above(lower.name, upper.name):
        return True
    touch = upper.comparison == "<=" and lower.comparison == ">="
    return lower.value < upper.value or (touch and lower.value == upper.value)


def _never_above(lesser: str, greater: str) -> bool:
    if lesser == greater:
        return True
    one, other = _PERCENTILE.fullmatch(lesser), _PERCENTILE.fullmatch(greater)
    return one is not None and other is not None and one[2] == other[2] and int(one[1]) <= int(other[1])
