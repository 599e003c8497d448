"""Intervals over documents: they hold the truth as often as they say, and see that tokens of a document are alike."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from burnish.measure.quality.bootstrap import MIN_DOCUMENTS, bootstrap_interval


def drawn(random: np.random.Generator, num_documents: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Tokens of documents of 5 to 40 tokens; the mean of all is 3, that of each document is its own."""
    lengths = random.integers(5, 41, num_documents)
    documents = np.repeat(np.arange(num_documents), lengths)
    own = random.normal(0, 0.5, num_documents)[documents]
    return 3 + own + random.gamma(2.0, 0.5, len(documents)) - 1, documents


@pytest.mark.parametrize("num_documents", [MIN_DOCUMENTS, 30, 120])
def test_it_covers_the_true_mean_19_times_of_20(num_documents: int) -> None:
    random = np.random.default_rng(5)

    def covers() -> bool:
        found = bootstrap_interval(*drawn(random, num_documents), resamples=1000)
        return found.low <= 3 <= found.high

    assert 0.92 <= np.mean([covers() for _ in range(500)]) <= 0.98


def test_it_is_wider_than_one_of_independent_tokens() -> None:
    series, documents = drawn(np.random.default_rng(1), 60)
    found = bootstrap_interval(series, documents)
    independent = 2 * 1.96 * series.std(ddof=1) / math.sqrt(len(series))
    assert found.high - found.low > 1.5 * independent


def test_it_is_that_of_independent_tokens_when_each_is_a_document() -> None:
    series = np.random.default_rng(2).normal(1, 1, 2000)
    found = bootstrap_interval(series, np.arange(2000))
    assert found.high - found.low == pytest.approx(2 * 1.96 / math.sqrt(2000), rel=0.06)


def test_the_figure_is_the_mean_over_tokens_not_over_documents() -> None:
    series, documents = np.array([1.0] * 90 + [5.0] * 10), np.repeat([4, 7], [90, 10])
    assert bootstrap_interval(series, documents).value == pytest.approx(1.4)


def test_the_seed_decides() -> None:
    series, documents = drawn(np.random.default_rng(3), 20)
    assert bootstrap_interval(series, documents) == bootstrap_interval(series, documents)
    assert bootstrap_interval(series, documents, seed=1) != bootstrap_interval(series, documents, seed=2)


def test_the_numbering_of_documents_does_not_matter() -> None:
    series, documents = drawn(np.random.default_rng(4), 20)
    assert bootstrap_interval(series, documents) == bootstrap_interval(series, documents * 3 + 8)
