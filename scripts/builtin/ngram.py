"""The baseline: an interpolated modified Kneser-Ney model over the same tokens (Chen & Goodman 1999).

An n-gram is one int64: its tokens as digits in base V (vocabulary size), the newest last.
Shapes: N n-grams or positions, K order.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scripts.builtin.tokenizer import Tokens

Floats = npt.NDArray[np.float64]


class _Level(NamedTuple):
    """One order: n-grams with their discounted shares, and contexts with the mass left to the order below."""

    grams: Tokens
    shares: Floats  # (count - discount) / count of the context
    contexts: Tokens
    left: Floats


class KneserNey:
    """Probabilities of a token after the ``order - 1`` tokens before it; they sum to 1 over the vocabulary."""

    def __init__(self, documents: Sequence[Tokens], *, vocabulary: int, order: int) -> None:
        if vocabulary**order > 2**63 - 1:
            raise ValueError(f"{order}-grams of {vocabulary} pieces do not fit in 64 bits; use a lower order")
        self.vocabulary, self.order = vocabulary, order
        histories = np.concatenate([_histories(document, order, vocabulary) for document in documents])
        grams, counts = np.unique(histories, return_counts=True)
        self._levels = [_level(grams, counts, vocabulary)]
        for size in range(order - 1, 0, -1):
            grams, counts = np.unique(grams % vocabulary**size, return_counts=True)  # distinct left neighbours
            self._levels.insert(0, _level(grams, counts, vocabulary))

    def probabilities(self, document: Tokens) -> Floats:
        """Probability of each token but the first (the document mark) given those before it: (N - 1,)."""
        return self.score(_histories(document, self.order, self.vocabulary))

    def score(self, grams: Tokens) -> Floats:
        """Probability of the last token of each full-order n-gram (N,), given the tokens before it."""
        probability = np.full(len(grams), 1 / self.vocabulary)
        for size, level in enumerate(self._levels, start=1):
            wanted = grams % self.vocabulary**size
            left = _look_up(level.contexts, level.left, wanted // self.vocabulary, missing=1.0)
            probability = _look_up(level.grams, level.shares, wanted, missing=0.0) + left * probability
        return probability


def _histories(document: Tokens, order: int, vocabulary: int) -> Tokens:
    """One n-gram per token after the first, the context filled up with copies of the first: (N - 1,)."""
    padded = np.concatenate([np.repeat(document[:1], order - 1), document[1:]])
    length = len(document) - 1
    grams = np.zeros(length, np.int64)
    for offset in range(order):
        grams = grams * vocabulary + padded[offset : offset + length]
    return grams


def _level(grams: Tokens, counts: Tokens, vocabulary: int) -> _Level:
    discounts = _discounts(counts)[np.minimum(counts, 3)]
    contexts, starts = np.unique(grams // vocabulary, return_index=True)
    totals = np.add.reduceat(counts, starts)
    sizes = np.diff(np.append(starts, len(grams)))
    return _Level(
        grams=grams,
        shares=(counts - discounts) / np.repeat(totals, sizes),
        contexts=contexts,
        left=np.add.reduceat(discounts, starts) / totals,
    )


def _discounts(counts: Tokens) -> Floats:
    """What is taken off counts of 0, 1, 2 and 3 or more."""
    n1, n2, n3, n4 = (max(1, int((counts == k).sum())) for k in (1, 2, 3, 4))
    rest = n1 / (n1 + 2 * n2)
    raw = (0.0, 1 - 2 * rest * n2 / n1, 2 - 3 * rest * n3 / n2, 3 - 4 * rest * n4 / n3)
    return np.array([min(max(discount, 0.0), float(count)) for count, discount in enumerate(raw)])


def _look_up(keys: Tokens, values: Floats, wanted: Tokens, *, missing: float) -> Floats:
    places = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], missing)
