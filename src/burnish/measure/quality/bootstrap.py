"""Confidence intervals of means over the tokens of several documents, by resampling whole documents.

Tokens of one document are alike, documents are not; so documents are drawn anew, with replacement, and each draw's
figure is a ratio of sums: what its documents add up to over how many tokens they have. The bounds are percentiles of
those figures, moved outwards as far as Student's t and the spread of a sample of D ask for (the expanded percentile
interval of Hesterberg 2015, "What teachers should know about the bootstrap"), without which few documents make it
too narrow.

Shapes: D documents, N tokens, B resamples.
"""

import math

import numpy as np
from numpy.typing import NDArray

from burnish.measure.intervals import Interval

NUM_RESAMPLES = 2000
MIN_DOCUMENTS = 10  # fewer say too little about documents that were not drawn
AT_ONCE = 2**22  # numbers: 32 MB
SEED = 0
_Z = 1.959964  # two-sided 95 % of the normal distribution


def bootstrap_interval(
    series: NDArray[np.float64], documents: NDArray[np.int64], *, resamples: int = NUM_RESAMPLES, seed: int = SEED
) -> Interval:
    """The mean of a series (N,) with its 95 % interval over the documents (N,) its tokens belong to.

    Documents are numbered in any way. The same seed and documents draw alike, whatever the series.
    """
    _, where = np.unique(documents, return_inverse=True)
    counts = np.bincount(where).astype(np.float64)
    sums: NDArray[np.float64] = np.bincount(where, weights=series).astype(np.float64)
    assert len(counts) >= 2, "the caller falls back on another interval"
    figures = _resampled(sums, counts, resamples, np.random.default_rng(seed))
    tail = _expanded_tail(len(counts))
    low, high = np.quantile(figures, (tail, 1 - tail))
    return Interval(float(series.mean()), float(low), float(high))


def _resampled(
    sums: NDArray[np.float64], counts: NDArray[np.float64], resamples: int, random: np.random.Generator
) -> NDArray[np.float64]:
    """Ratios of sums (B,) over documents drawn with replacement, from sums and counts of tokens (D,)."""
    figures, at_once = [], max(1, AT_ONCE // len(sums))
    for first in range(0, resamples, at_once):
        drawn = random.integers(len(sums), size=(min(at_once, resamples - first), len(sums)))
        figures.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    return np.concatenate(figures)


def _expanded_tail(num_documents: int) -> float:
    """The share of resampled figures that lies beyond either bound: 0.025 for very many documents, less for few."""
    free = num_documents - 1
    # Student's t by Cornish and Fisher's expansion, right to 0.1 % from nine degrees of freedom on
    t = _Z + (_Z**3 + _Z) / (4 * free) + (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / (96 * free**2)
    return 0.5 * math.erfc(t * math.sqrt(num_documents / free) / math.sqrt(2))
