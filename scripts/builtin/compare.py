"""The final measurement: model and n-gram baseline on the same held-out tokens.

Shapes: B sequences, T tokens of a window, C context, N tokens of a document, D documents.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch.nn import functional

from burnish.models.decoder import Decoder
from scripts.builtin.corpus import SOURCES, Document
from scripts.builtin.evaluate import exact_logits
from scripts.builtin.ngram import KneserNey
from scripts.builtin.tokenizer import Tokens, encode_all

Floats = npt.NDArray[np.float64]
BASELINE_ORDER = 5
_BATCH = 4
_RESAMPLES = 2000


class Figures(NamedTuple):
    """Two models on the held-out documents of a source (or all)."""

    source: str
    documents: int
    tokens: int
    model: float  # nats per token
    baseline: float
    model_bits: float  # bits per byte
    baseline_bits: float
    margin_low: float  # 95 % interval of baseline - model, nats per token, over documents
    margin_high: float

    @property
    def margin(self) -> float:
        """Nats per token by which the model is better."""
        return self.baseline - self.model


class _Totals(NamedTuple):
    """Sums over each document, all (D,)."""

    source: list[str]
    model: Floats  # nats
    baseline: Floats
    tokens: Floats
    size: Floats  # bytes of UTF-8


def fit_baseline(documents: Sequence[Document], tokenizer: Tokenizer) -> KneserNey:
    """The 5-gram model of the documents the network was trained on."""
    return KneserNey(closed(documents, tokenizer), vocabulary=tokenizer.get_vocab_size(), order=BASELINE_ORDER)


def closed(documents: Sequence[Document], tokenizer: Tokenizer) -> list[Tokens]:
    """Tokens of each document between two ``<|endoftext|>``."""
    return [np.append(tokens, tokens[0]) for tokens in encode_all(tokenizer, [d.text for d in documents])]


def compare(model: Decoder, baseline: KneserNey, documents: Sequence[Document], tokenizer: Tokenizer) -> list[Figures]:
    """Figures of every source, then of all together; end marks count as tokens, first marks do not."""
    tokens = closed(documents, tokenizer)
    totals = _Totals(
        source=[document.source for document in documents],
        model=np.array([losses.sum() for losses in document_losses(model, tokens)]),
        baseline=np.array([-np.log(baseline.probabilities(one)).sum() for one in tokens]),
        tokens=np.array([len(one) - 1.0 for one in tokens]),
        size=np.array([float(len(document.text.encode())) for document in documents]),
    )
    return [_figures(source, totals) for source in (*SOURCES, "all")]


def _figures(source: str, totals: _Totals) -> Figures:
    chosen = np.array([source in (one, "all") for one in totals.source])
    model, baseline, tokens, size = (sums[chosen] for sums in totals[1:])
    rng = np.random.default_rng(0)
    draws = rng.integers(len(model), size=(_RESAMPLES, len(model)))
    margins = (baseline - model)[draws].sum(1) / tokens[draws].sum(1)
    low, high = np.quantile(margins, (0.025, 0.975))
    return Figures(
        source=source,
        documents=len(model),
        tokens=int(tokens.sum()),
        model=model.sum() / tokens.sum(),
        baseline=baseline.sum() / tokens.sum(),
        model_bits=model.sum() / size.sum() / math.log(2),
        baseline_bits=baseline.sum() / size.sum() / math.log(2),
        margin_low=float(low),
        margin_high=float(high),
    )


class _Window(NamedTuple):
    """A slice of a document; losses count from ``scored`` on (relative to the start of the slice)."""

    document: int
    start: int
    stop: int
    scored: int


def document_losses(model: Decoder, documents: Sequence[Tokens]) -> list[Floats]:
    """Loss of every token but the first of each document (N - 1,), each with half a context before it or more."""
    losses = [np.zeros(len(tokens) - 1) for tokens in documents]
    context = model.config.max_positions
    windows = [w for i, tokens in enumerate(documents) for w in _windows(i, len(tokens) - 1, context)]
    windows.sort(key=lambda window: window.stop - window.start)
    for first in range(0, len(windows), _BATCH):
        group = windows[first : first + _BATCH]
        for window, found in zip(group, _window_losses(model, documents, group), strict=True):
            losses[window.document][window.start + window.scored : window.stop] = found[window.scored :]
    return losses


def _windows(document: int, length: int, context: int) -> Iterator[_Window]:
    yield _Window(document, 0, min(length, context), 0)
    done = context
    while done < length:
        stop = min(length, done + context // 2)
        start = stop - context
        yield _Window(document, start, stop, done - start)
        done = stop


def _window_losses(model: Decoder, documents: Sequence[Tokens], group: Sequence[_Window]) -> Iterator[Floats]:
    longest = max(window.stop - window.start for window in group)
    rows = torch.zeros(len(group), longest + 1, dtype=torch.int64)  # padded on the right, which causality hides
    for row, window in zip(rows, group, strict=True):
        row[: window.stop - window.start + 1] = torch.from_numpy(
            documents[window.document][window.start : window.stop + 1]
        )
    logits = exact_logits(model, rows[:, :-1])  # (B, T, V)
    losses = functional.cross_entropy(logits.transpose(1, 2), rows[:, 1:], reduction="none").double().numpy()
    for row_losses, window in zip(losses, group, strict=True):
        yield row_losses[: window.stop - window.start]
