"""Which group of layers takes which format, so that the whole loses least within a budget: an exact search.

The groups are taken one after the other. Of all choices for those taken so far, a choice is kept unless another costs
no more and loses no more: the best choice for the whole is made of kept ones only, whatever comes after (dynamic
programming over Pareto sets, Nemhauser and Ullmann 1969).
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from burnish.core.errors import BadSettings


class Option(NamedTuple):
    """One format for a group of layers."""

    format: str
    cost: int  # bytes, or nanoseconds: what the budget is in
    loss: float  # what the model loses when only this group is stored so


class Allocation(NamedTuple):
    """An option for every group, and what they come to."""

    formats: tuple[str, ...]
    cost: int
    loss: float


class _Kept(NamedTuple):
    """A choice for the groups so far: its last option and the choice before, so that paths are shared."""

    cost: int
    loss: float
    option: Option | None
    before: "_Kept | None"


def allocate(groups: Sequence[Sequence[Option]], budget: int) -> Allocation:
    """The options, one per group, of the least total loss whose total cost is at most ``budget``.

    Of equal losses the cheaper is taken. Raises ``BadSettings`` when even the cheapest options exceed the budget.
    """
    least = sum(min(option.cost for option in options) for options in groups)
    if least > budget:
        raise BadSettings(f"a budget of {budget} holds no choice", remedy=f"The cheapest takes {least}")
    left = least  # the least that the groups still to come cost
    kept = [_Kept(0, 0.0, None, None)]
    for options in groups:
        left -= min(option.cost for option in options)
        kept = _best(
            _Kept(one.cost + option.cost, one.loss + option.loss, option, one)
            for one in kept
            for option in options
            if one.cost + option.cost + left <= budget
        )
    best = min(kept, key=lambda one: (one.loss, one.cost))
    return Allocation(_formats(best), best.cost, best.loss)


def _best(choices: Iterable[_Kept]) -> list[_Kept]:
    """The choices that no other betters, cheapest first."""
    found: list[_Kept] = []
    for one in sorted(choices, key=lambda choice: (choice.cost, choice.loss)):
        if not found or one.loss < found[-1].loss:
            found.append(one)
    return found


def _formats(last: _Kept) -> tuple[str, ...]:
    formats: list[str] = []
    one: _Kept | None = last
    while one is not None and one.option is not None:
        formats.append(one.option.format)
        one = one.before
    return tuple(reversed(formats))
