"""How much the embeddings of one encoder resemble another's.

Shapes: N texts, E width of an embedding.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from burnish.measure.intervals import Interval
from burnish.measure.quality.bootstrap import bootstrap_interval

MIN_TEXTS = 10  # fewer say too little about other texts


class Resemblance(NamedTuple):
    """Means over the texts, with 95 % intervals by bootstrap over texts, and the worst text."""

    cosine: Interval  # of a text's embedding with its other
    worst_cosine: float
    rank_correlation: Interval  # Spearman's, of a text's similarities to all other texts: what a search is made of


def resemblance(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> Resemblance:
    """Compare the embeddings (N, E) of the same texts by two encoders of one width.

    Texts are told apart by their place; equal texts make equal similarities, whose ranks are shared.
    """
    first, second = _normalized(ours), _normalized(theirs)
    cosines = (first * second).sum(1)
    one, other = first @ first.T, second @ second.T
    apart = ~np.eye(len(ours), dtype=bool)
    ranks = np.array([_correlation(one[i][apart[i]], other[i][apart[i]]) for i in range(len(ours))])
    each = np.arange(len(ours))
    return Resemblance(
        cosine=bootstrap_interval(cosines, each),
        worst_cosine=float(cosines.min()),
        rank_correlation=bootstrap_interval(ranks, each),
    )


def _normalized(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    rows64 = rows.astype(np.float64)
    lengths: NDArray[np.float64] = np.linalg.norm(rows64, axis=1, keepdims=True)
    return rows64 / np.maximum(lengths, 1e-300)


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Spearman's rank correlation."""
    return float(np.corrcoef(_ranks(one), _ranks(other))[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rank of every value; equal ones share the mean of theirs."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts).astype(np.float64)
    means: NDArray[np.float64] = last - (counts - 1) / 2
    return means[where]
