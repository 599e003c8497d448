"""The choice as a table: which variant is served, and why."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.measure.intervals import Interval
from burnish.measure.speed import Spread
from burnish.optimize.choice import Variant, choose


def variant(name: str, size: int, speed: tuple[float, float, float], loss: tuple[float, float] | None) -> Variant:
    """A variant of ``size`` bytes; ``speed`` is min, median, max; ``loss`` the loss ratio and its upper end."""
    low, median, high = speed
    return Variant(
        name=name,
        path=Path(name),
        file_bytes=size,
        peak_rss_bytes=size,
        prefill_tokens_per_s=Spread(1.0, 1.0, 1.0),
        decode_tokens_per_s=Spread(median, low, high),
        perplexity=Interval(10.0, 9.0, 11.0),
        loss_ratio=None if loss is None else Interval(loss[0], 2 * loss[0] - loss[1], loss[1]),
    )


DENSE = variant("dense", 100, (9, 10, 11), None)
INT8 = variant("int8", 50, (19, 20, 21), (0.001, 0.002))
INT4 = variant("int4", 30, (29, 30, 31), (0.05, 0.06))


@pytest.mark.parametrize(
    ("variants", "max_loss", "best"),
    [
        pytest.param([DENSE], 0.01, "dense", id="nothing else"),
        pytest.param([DENSE, INT8, INT4], 0.01, "int8", id="the fastest within the budget"),
        pytest.param([DENSE, INT8, INT4], 0.10, "int4", id="a larger budget"),
        pytest.param([DENSE, INT8, INT4], 0.0, "dense", id="no loss at all: the original"),
        pytest.param([DENSE, INT8], 0.0015, "dense", id="the upper end of the interval counts, not its middle"),
        pytest.param([DENSE, INT8], 0.002, "int8", id="the budget itself is kept"),
        pytest.param(
            [DENSE, variant("better", 50, (19, 20, 21), (-0.01, -0.005))], 0.0, "better", id="a gain is no loss"
        ),
        pytest.param([variant("dense", 100, (29, 30, 31), None), INT8], 0.01, "dense", id="speed before size"),
        pytest.param(
            [DENSE, INT8, variant("small", 40, (17, 18, 19), (0.0, 0.0))],
            0.01,
            "small",
            id="spreads that touch are equally fast: the smaller",
        ),
        pytest.param(
            [DENSE, INT8, variant("small", 40, (16, 17, 18.9), (0.0, 0.0))],
            0.01,
            "int8",
            id="spreads that do not touch differ",
        ),
        pytest.param(
            [variant("dense", 100, (9, 10, 40), None), INT8],
            0.01,
            "int8",
            id="an original with a wide spread is as fast, but larger",
        ),
    ],
)
def test_the_table(variants: list[Variant], max_loss: float, best: str) -> None:
    assert choose(variants, max_loss).name == best
    assert choose(variants[::-1], max_loss).name == best


def test_the_reason_is_a_sentence_that_names_what_was_refused() -> None:
    chosen = choose([DENSE, INT8, INT4], 0.01)
    assert chosen.reason == (
        "int8 is the smallest of the fastest variants within 1.00% perplexity loss; int4 may lose more."
    )
    alone = choose([DENSE, INT8], 0.01)
    assert alone.reason == "int8 is the smallest of the fastest variants within 1.00% perplexity loss."


SPEEDS = st.lists(st.floats(0.1, 1000), min_size=3, max_size=3).map(sorted)
OTHERS = st.lists(
    st.builds(
        lambda size, speed, loss, more: variant("x", size, (speed[0], speed[1], speed[2]), (loss, loss + more)),
        st.integers(1, 1000),
        SPEEDS,
        st.floats(-0.5, 1),
        st.floats(0, 1),
    ),
    max_size=5,
)


@given(others=OTHERS, max_loss=st.floats(0, 1))
def test_the_choice_keeps_its_promises(others: list[Variant], max_loss: float) -> None:
    variants = [DENSE, *(replace(other, name=str(index)) for index, other in enumerate(others))]
    best = next(v for v in variants if v.name == choose(variants, max_loss).name)
    allowed = [v for v in variants if v.loss_ratio is None or v.loss_ratio.high <= max_loss]
    assert best in allowed
    fastest = max(allowed, key=lambda v: v.decode_tokens_per_s.median)
    assert best.decode_tokens_per_s.max >= fastest.decode_tokens_per_s.min
    assert best.file_bytes <= fastest.file_bytes
