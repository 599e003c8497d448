"""Golden outputs: kept, compared, and refused when they belong to another model."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from burnish.core.errors import BadCheckpoint
from burnish.registry.golden import (
    NUM_KEPT,
    PROMPT_LENGTHS,
    TOLERANCE,
    deviations,
    golden_prompts,
    make_golden,
    refuse_foreign,
)

PROMPTS = ((1,), (2, 3))


def some_logits(seed: int = 0, vocabulary: int = 50) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 3, (len(PROMPTS), vocabulary)).astype(np.float32)


def test_the_same_logits_do_not_deviate() -> None:
    logits = some_logits()
    assert deviations(make_golden(PROMPTS, logits), logits) == []


def test_what_is_kept_are_the_largest_logits_and_the_sum_of_all() -> None:
    logits = some_logits()
    for row, computed in zip(make_golden(PROMPTS, logits).rows, logits, strict=True):
        assert [value for _, value in row.top] == sorted(computed.tolist(), reverse=True)[:NUM_KEPT]
        assert all(computed[token] == np.float32(value) for token, value in row.top)
        assert row.log_sum_exp == pytest.approx(np.log(np.exp(computed.astype(np.float64)).sum()))


def test_a_vocabulary_smaller_than_what_is_kept_is_kept_whole() -> None:
    logits = some_logits(vocabulary=5)
    golden = make_golden(PROMPTS, logits)
    assert [len(row.top) for row in golden.rows] == [5, 5]
    assert deviations(golden, logits) == []


def test_noise_within_the_tolerance_passes_and_beyond_it_is_named() -> None:
    logits = some_logits()
    golden = make_golden(PROMPTS, logits)
    assert deviations(golden, logits + np.float32(TOLERANCE * 0.9)) == []
    moved = logits.copy()
    best = int(moved[1].argmax())
    moved[1, best] += 0.5
    found = deviations(golden, moved)
    assert [(d.prompt, d.token_id) for d in found] == [(1, best), (1, None)]
    assert found[0].computed - found[0].expected == pytest.approx(0.5, abs=1e-5)


def test_a_change_outside_the_kept_tokens_shows_in_the_sum() -> None:
    logits = some_logits()
    moved = logits.copy()
    moved[0, moved[0].argmin()] = logits.max() + 1
    assert [d.token_id for d in deviations(make_golden(PROMPTS, logits), moved)] == [None]


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_always_deviates(broken: float) -> None:
    logits = some_logits()
    moved = logits.copy()
    moved[0, moved[0].argmax()] = broken
    with np.errstate(invalid="ignore"):
        assert deviations(make_golden(PROMPTS, logits), moved)


@given(vocab_size=st.integers(1, 300_000), max_positions=st.integers(1, 5000))
def test_prompts_fit_every_model(vocab_size: int, max_positions: int) -> None:
    prompts = golden_prompts(vocab_size, max_positions)
    assert [len(prompt) for prompt in prompts] == [min(length, max_positions) for length in PROMPT_LENGTHS]
    assert all(0 <= token < vocab_size for prompt in prompts for token in prompt)
    assert prompts == golden_prompts(vocab_size, max_positions)


def test_prompts_are_spread_over_the_vocabulary() -> None:
    tokens = [token for prompt in golden_prompts(32_000, 2048) for token in prompt]
    assert len(set(tokens)) > 0.95 * len(tokens)
    counts, _ = np.histogram(tokens, bins=8, range=(0, 32_000))
    assert counts.min() > 0


@pytest.mark.parametrize(("vocab_size", "max_positions"), [(50, 1), (40, 64), (3, 64)])
def test_golden_outputs_of_another_model_are_refused(vocab_size: int, max_positions: int) -> None:
    golden = make_golden(PROMPTS, some_logits())
    refuse_foreign(golden, 50, 2)
    with pytest.raises(BadCheckpoint, match="do not fit") as fault:
        refuse_foreign(golden, vocab_size, max_positions)
    assert "\n" not in str(fault.value)
