"""Every filter with numbers small enough to check by hand, and the native draw against the plain one."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.kernels import sampling
from burnish.kernels.native import native
from burnish.kernels.sampling import Draw, Floats, draw, draw_plainly
from tests.kernels.test_native_linear import BODIES

LOGITS = np.array([2.0, 1.0, 0.0, -1.0], dtype=np.float32)
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum()  # 0.644, 0.237, 0.087, 0.032
INF = float("-inf")
PLAIN = Draw(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, uniform=0.0)
module: Any = native()
needs_native = pytest.mark.skipif(module is None, reason="installed without native kernels")


@pytest.mark.parametrize(
    ("name", "asked", "expected"),
    [
        ("temper", 0.5, [0.0, -2.0, -4.0, -6.0]),
        ("keep_top_k", 2, [2.0, 1.0, INF, INF]),
        ("keep_top_k", 9, [2.0, 1.0, 0.0, -1.0]),
        ("keep_top_k", 0, [2.0, 1.0, 0.0, -1.0]),
        ("keep_top_p", 0.6, [2.0, INF, INF, INF]),
        ("keep_top_p", 0.65, [2.0, 1.0, INF, INF]),
        ("keep_top_p", 1e-9, [2.0, INF, INF, INF]),
        ("keep_min_p", 0.3, [2.0, 1.0, INF, INF]),  # e^-1 = 0.368
        ("keep_min_p", 0.4, [2.0, INF, INF, INF]),
    ],
)
def test_filter(name: str, asked: float, expected: list[float]) -> None:
    assert getattr(sampling, name)(LOGITS, asked).tolist() == expected


def test_ties_with_the_last_of_top_k_are_kept_and_top_p_takes_the_first() -> None:
    tied = np.array([0.0, 1.0, 1.0, 0.0], dtype=np.float32)
    assert sampling.keep_top_k(tied, 1).tolist() == [INF, 1.0, 1.0, INF]
    assert sampling.keep_top_p(tied, 0.1).tolist() == [INF, 1.0, INF, INF]


def drawn_by(body: str, logits: Floats, asked: list[Draw]) -> list[int]:
    """The native draw with one instruction set's kernels; "plain": the specification."""
    if body == "plain":
        return [draw_plainly(row, each) for row, each in zip(logits, asked, strict=True)]
    types = (np.float32, np.int32, np.float64, np.float64, np.float64)
    columns = [np.asarray(column, kind) for column, kind in zip(zip(*asked, strict=True), types, strict=True)]
    found: list[int] = module.draw(logits, *columns, body=body)
    return found


EVERY = ["plain", *(BODIES if module is not None else [])]


@pytest.mark.parametrize("body", EVERY)
def test_drawn_tokens_follow_the_distribution(body: str) -> None:
    """Evenly spaced uniforms must hit every token in proportion to its probability: exact up to one in 10,000."""
    count = 10_000
    asked = [PLAIN._replace(uniform=(i + 0.5) / count) for i in range(count)]
    drawn = Counter(drawn_by(body, LOGITS[None].repeat(count, 0), asked))
    for token, probability in enumerate(PROBABILITIES.tolist()):
        assert abs(drawn[token] - probability * count) <= 1


@needs_native
@pytest.mark.parametrize("body", EVERY)
@pytest.mark.parametrize("vocab", [1, 7, 300, 5000])
def test_native_draws_what_the_specification_draws(body: str, vocab: int) -> None:
    """Uniforms near a border may round to its other side; here none does."""
    source = np.random.default_rng(vocab)
    logits = source.standard_normal((40, vocab), dtype=np.float32) * np.float32(3)
    logits[::3, vocab // 2] = INF if vocab > 1 else 0.0
    asked = [
        Draw(temperature=t, top_k=k, top_p=p, min_p=m, uniform=float(u))
        for t, k, p, m, u in zip(
            source.choice([0.2, 1.0, 1.7], 40).tolist(),
            source.choice([0, 1, 5, 64, 200], 40).tolist(),
            source.choice([0.1, 0.9, 0.999, 1.0], 40).tolist(),
            source.choice([0.0, 0.05, 1.0], 40).tolist(),
            source.random(40).tolist(),
            strict=True,
        )
    ]
    assert drawn_by(body, logits, asked) == drawn_by("plain", logits, asked)


@needs_native
@pytest.mark.parametrize("body", BODIES)
def test_flat_and_tied_logits_are_ranked_in_the_vocabularys_order(body: str) -> None:
    flat = np.zeros((1, 1000), dtype=np.float32)
    for p, last in ((0.001, 0), (0.25, 249), (0.9, 899)):  # 64, then 512, then all are ranked
        assert drawn_by(body, flat, [PLAIN._replace(top_p=p, uniform=0.9999999)]) == [last]
    assert drawn_by(body, flat, [PLAIN._replace(top_k=3, uniform=0.9999999)]) == [999]  # all tie with the third


@given(
    logits=st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=90),
    uniform=st.floats(0, 1, exclude_max=True),
    top_k=st.integers(0, 90),
    top_p=st.floats(1e-12, 1),
    min_p=st.floats(0, 1),
    temperature=st.floats(1e-5, 100),
)
def test_a_draw_never_leaves_what_was_kept(
    logits: list[float], uniform: float, top_k: int, top_p: float, min_p: float, temperature: float
) -> None:
    row = np.array([logits], dtype=np.float32)
    asked = Draw(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, uniform=uniform)
    [token] = draw(row, [asked])
    assert token is not None
    kept = sampling.keep_top_k(sampling.temper(row[0], temperature), top_k)
    assert math.isfinite(kept[token])
    assert kept[token] >= (math.log(min_p) if min_p else INF) - 1e-5


def test_rows_without_numbers_have_no_token() -> None:
    logits = np.stack([LOGITS, LOGITS * np.float32("nan"), LOGITS * 0 + np.float32("-inf"), LOGITS])
    assert draw(logits, [PLAIN] * 4) == [0, None, None, 0]
