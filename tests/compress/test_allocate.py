"""Allocation: as good as trying everything."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.compress.allocate import Option, allocate
from burnish.core.errors import BadSettings

OPTIONS = st.builds(Option, st.sampled_from("abc"), st.integers(0, 20), st.integers(0, 20).map(float))
GROUPS = st.lists(st.lists(OPTIONS, min_size=1, max_size=4), max_size=5)


@given(groups=GROUPS, budget=st.integers(0, 100))
def test_nothing_within_the_budget_loses_less(groups: list[list[Option]], budget: int) -> None:
    every = [
        (sum(option.loss for option in chosen), sum(option.cost for option in chosen)) for chosen in product(*groups)
    ]
    within = [found for found in every if found[1] <= budget]
    if not within:
        with pytest.raises(BadSettings, match=f"The cheapest takes {min(cost for _, cost in every)}"):
            allocate(groups, budget)
        return
    found = allocate(groups, budget)
    assert (found.loss, found.cost) == min(within)
    assert len(found.formats) == len(groups)


@given(groups=st.lists(st.lists(OPTIONS, min_size=2, max_size=4), min_size=1, max_size=5))
def test_the_formats_named_are_those_that_were_added_up(groups: list[list[Option]]) -> None:
    named = [
        [option._replace(format=f"{group}.{index}") for index, option in enumerate(options)]
        for group, options in enumerate(groups)
    ]
    found = allocate(named, 60 * len(groups))
    chosen = [next(o for o in options if o.format == name) for options, name in zip(named, found.formats, strict=True)]
    assert sum(option.cost for option in chosen) == found.cost
    assert sum(option.loss for option in chosen) == found.loss


def test_more_budget_never_loses_more() -> None:
    groups = [[Option("8", 8, 0.1 * n), Option("4", 4, 1.0 * n), Option("16", 16, 0.0)] for n in (1, 5, 2, 7)]
    losses = [allocate(groups, budget).loss for budget in range(16, 65)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == 0.0


def test_a_hundred_groups_of_real_sizes_are_quick() -> None:
    groups = [
        [Option(str(bits), bits * 1_000_003 * (1 + n % 7), (n + 1) * 4.0**-bits) for bits in (2, 3, 4, 8)]
        for n in range(100)
    ]
    found = allocate(groups, sum(4 * 1_000_003 * (1 + n % 7) for n in range(100)))
    assert found.loss < sum((n + 1) * 4.0**-4 for n in range(100))
