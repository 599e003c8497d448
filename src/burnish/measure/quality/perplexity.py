"""Perplexity by sliding window, alone or paired with a second model, each figure with its 95 % interval.

Shapes: B windows of a batch, L tokens of a window, R rows, N scored tokens, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from burnish.core.errors import BadSettings
from burnish.core.types import KeyKind, TextCodec
from burnish.engine.engine import Model
from burnish.measure.intervals import MIN_STRETCH, Interval, mean_interval
from burnish.measure.quality.bootstrap import MIN_DOCUMENTS, bootstrap_interval
from burnish.measure.quality.corpus import Corpus, document_of
from burnish.measure.quality.logits import DEFAULT_KEYS, Score, losses_of, scorer
from burnish.measure.quality.windows import Window, cut
from burnish.models.decoder import DecoderConfig

Progress = Callable[[int, int], None]
"""(tokens scored, tokens to score)"""


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityConfig:
    """How a text is read. A window holds ``context`` positions, the beginning-of-sequence token included."""

    context: int = 512
    stride: int = 256
    max_tokens: int | None = None  # of the text; None: all

    def __post_init__(self) -> None:
        """Raise ``BadSettings`` for windows that score nothing."""
        if self.context < 2:
            raise BadSettings(f"context {self.context} is too small", remedy="Use at least 2")
        if not 1 <= self.stride < self.context:
            remedy = f"Use 1 to {self.context - 1}"
            raise BadSettings(f"stride {self.stride} does not fit windows of {self.context} tokens", remedy=remedy)
        if self.max_tokens is not None and self.max_tokens < 1:
            raise BadSettings(f"max_tokens {self.max_tokens} is too small", remedy="Use 1 or more")


class Passage(NamedTuple):
    """A text ready to be scored, by one model or by several in turn."""

    tokens: tuple[int, ...]
    bos: int | None
    num_bytes: int  # of the scored tokens' pieces
    config: QualityConfig  # with the context shrunk to what the model can see
    documents: tuple[int, ...] = ()  # of every scored token; windows run across their borders. Empty: one document

    @property
    def num_documents(self) -> int:
        """How many documents the scored tokens come from."""
        return max(1, len(set(self.documents)))

    @property
    def interval(self) -> str:
        """How intervals over the passage are made."""
        return f"bootstrap over {self.num_documents} documents" if self._has_documents else "batch means"

    def mean(self, series: NDArray[np.float64]) -> Interval:
        """The mean of a series over the scored tokens (N,) with its 95 % interval."""
        if self._has_documents:
            return bootstrap_interval(series, np.array(self.documents))
        return mean_interval(series)

    @property
    def _has_documents(self) -> bool:
        return self.num_documents >= MIN_DOCUMENTS


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """How well a model predicts a text.

    ``perplexity`` is exp of the mean loss per scored token; ``bits_per_byte`` compares models of different
    vocabularies. Bytes are those of the scored tokens' pieces.
    """

    perplexity: Interval
    bits_per_byte: Interval
    num_tokens: int
    num_bytes: int
    context: int
    stride: int
    interval: str  # how the intervals are made


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two models on the same tokens.

    ``loss_ratio`` is perplexity over the parent's, minus 1: 0.01 is one per cent worse. Its interval comes from the
    differences per token, so what is hard for both models cancels out.
    """

    quality: Quality
    parent: Quality
    loss_ratio: Interval


def prepare(corpus: Corpus, codec: TextCodec, shape: DecoderConfig, config: QualityConfig) -> Passage:
    """The passage a model of that shape can score.

    The text is tokenized and cut into windows as one, so that documents change intervals only, never figures.
    Raises ``BadSettings`` when the text is too short for an interval or the tokenizer is another model's.
    """
    if config.context > shape.max_positions:
        config = replace(config, context=shape.max_positions, stride=min(config.stride, shape.max_positions // 2))
    every = codec.encode(corpus.text, add_special_tokens=False)
    tokens = tuple(every[: config.max_tokens])
    if len(tokens) <= 2 * MIN_STRETCH:
        raise BadSettings(
            f"the text has {len(tokens)} tokens, too few for an interval",
            remedy=f"Give a text of more than {2 * MIN_STRETCH} tokens",
        )
    if max(tokens) >= shape.vocab_size:
        raise BadSettings(
            f"the tokenizer gives token {max(tokens)}, the model knows {shape.vocab_size}",
            remedy="Use the tokenizer the model was trained with",
        )
    lengths = {token: len(codec.piece(token)) for token in set(every)}
    first = 0 if codec.bos_token_id is not None else 1
    num_bytes = sum(lengths[token] for token in tokens[first:])
    documents = document_of(corpus, every, lengths.__getitem__)[first : len(tokens)]
    return Passage(tokens, codec.bos_token_id, num_bytes, config, documents)


def quality(losses: NDArray[np.float64], passage: Passage) -> Quality:
    """What the losses (N,) of a passage say."""
    loss = passage.mean(losses)
    return Quality(
        perplexity=loss.exp(),
        bits_per_byte=loss.scaled(len(losses) / math.log(2) / max(passage.num_bytes, 1)),
        num_tokens=len(losses),
        num_bytes=passage.num_bytes,
        context=passage.config.context,
        stride=passage.config.stride,
        interval=passage.interval,
    )


def compare(losses: NDArray[np.float64], parent_losses: NDArray[np.float64], passage: Passage) -> Comparison:
    """A model and its parent by their losses on the same passage, (N,) each."""
    return Comparison(
        quality=quality(losses, passage),
        parent=quality(parent_losses, passage),
        loss_ratio=passage.mean(losses - parent_losses).exp().shifted(-1),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Likeness:
    """How alike two models' predictions are, whatever the text says next."""

    kl: Interval  # KL(parent | model), nats per token
    top1_agreement: Interval  # share of tokens for which both find the same next token likeliest
    flip_rate: Interval  # share of tokens for which exactly one of them finds the text's own token likeliest


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two models on the same passage, token by token, (N,) each."""

    losses: NDArray[np.float64]
    parent_losses: NDArray[np.float64]
    divergences: NDArray[np.float64]
    agreements: NDArray[np.float64]
    flips: NDArray[np.float64]


def likeness(found: Pair, passage: Passage) -> Likeness:
    """The means over a passage.

    Flips are right answers lost and won together (Dutta et al. 2024, "Accuracy is not all you need"): a mean that
    stays hides them.
    """
    return Likeness(
        kl=passage.mean(found.divergences),
        top1_agreement=passage.mean(found.agreements),
        flip_rate=passage.mean(found.flips),
    )


@torch.inference_mode()
def pair(
    model: Model, parent: Model, passage: Passage, *, keys: KeyKind = DEFAULT_KEYS, progress: Progress | None = None
) -> Pair:
    """Score a passage with two models at once, so that their distributions can be compared. As ``token_losses``.

    ``keys``: how the model's keys and values are stored; the parent's are as by default.
    """
    context = passage.config.context
    scorers = scorer(model, context, keys)[0], scorer(parent, context, DEFAULT_KEYS)[0]
    found: list[tuple[NDArray[np.float64], ...]] = []
    num_scored = 0
    for fed, scored in fed_windows(passage, 1):
        rows = _rows(fed, scored)
        ours, theirs = (torch.cat(list(score(fed, rows))) for score in scorers)
        targets = fed.flatten()[rows + 1]
        losses = (losses_of(ours, targets), losses_of(theirs, targets))
        found.append((*losses, _divergences(ours, theirs), _agree(ours, theirs), _flip(ours, theirs, targets)))
        num_scored += len(rows)
        if progress is not None:
            progress(num_scored, _num_scored(passage))
    ours_lost, theirs_lost, divergences, agreements, flips = (np.concatenate(part) for part in zip(*found, strict=True))
    return Pair(
        losses=ours_lost, parent_losses=theirs_lost, divergences=divergences, agreements=agreements, flips=flips
    )


def _divergences(ours: torch.Tensor, theirs: torch.Tensor) -> NDArray[np.float64]:
    """KL(theirs | ours) of every row of logits (R, V), in float64: near models differ by less than float32 loses."""
    p, q = theirs.double().log_softmax(-1), ours.double().log_softmax(-1)
    apart: NDArray[np.float64] = (p.exp() * (p - q)).sum(-1).numpy()
    return apart


def _agree(ours: torch.Tensor, theirs: torch.Tensor) -> NDArray[np.float64]:
    same: NDArray[np.float64] = (ours.argmax(-1) == theirs.argmax(-1)).double().numpy()
    return same


def _flip(ours: torch.Tensor, theirs: torch.Tensor, targets: torch.Tensor) -> NDArray[np.float64]:
    right = [logits.argmax(-1) == targets for logits in (ours, theirs)]
    flipped: NDArray[np.float64] = (right[0] != right[1]).double().numpy()
    return flipped


@torch.inference_mode()
def token_losses(
    model: Model, passage: Passage, *, keys: KeyKind = DEFAULT_KEYS, progress: Progress | None = None
) -> NDArray[np.float64]:
    """Loss in nats of every token but, without ``bos``, the first -> (N,), in the order of the text.

    A plan is scored by the kernels that serve it, its keys and values stored as ``keys``, a decoder by torch in
    float32: the reference. ``bos`` stands before every window, as models that know one never see a text begin
    without it.
    """
    losses: list[NDArray[np.float64]] = []
    num_scored = 0
    score, at_once = scorer(model, passage.config.context, keys)
    for fed, scored in fed_windows(passage, at_once):
        losses.append(_batch_losses(score, fed, scored))
        num_scored += len(losses[-1])
        if progress is not None:
            progress(num_scored, _num_scored(passage))
    return np.concatenate(losses)


def _num_scored(passage: Passage) -> int:
    return len(passage.tokens) - (passage.bos is None)


def fed_windows(passage: Passage, at_once: int) -> Iterator[tuple[torch.Tensor, list[int]]]:
    """Windows (B, L) of a passage, and how many of the last tokens of each are scored."""
    tokens, config = passage.tokens, passage.config
    lead = [] if passage.bos is None else [passage.bos]
    windows = cut(len(tokens), length=config.context - len(lead), stride=config.stride, first_scored=1 - len(lead))
    for batch in _batches(windows, at_once):
        fed = torch.tensor([[*lead, *tokens[window.begin : window.end]] for window in batch])
        yield fed, [window.end - window.score_from for window in batch]


def _rows(fed: torch.Tensor, num_scored: list[int]) -> torch.Tensor:
    """The flat rows of fed (B, L) that predict the last ``num_scored`` tokens of each of its texts."""
    length = fed.shape[1]
    return torch.cat([torch.arange((i + 1) * length - n - 1, (i + 1) * length - 1) for i, n in enumerate(num_scored)])


def _batch_losses(score: Score, fed: torch.Tensor, num_scored: list[int]) -> NDArray[np.float64]:
    """Losses of the last ``num_scored`` tokens of each row of fed (B, L)."""
    rows = _rows(fed, num_scored)
    logits, targets = score(fed, rows), fed.flatten()[rows + 1]
    losses, first = [], 0
    for part in logits:
        losses.append(losses_of(part, targets[first : first + len(part)]))
        first += len(part)
    return np.concatenate(losses)


def _batches(windows: list[Window], size: int) -> Iterator[list[Window]]:
    """Neighbouring windows of one length, at most ``size`` together."""
    for _, alike in groupby(windows, key=lambda window: window.end - window.begin):
        same = list(alike)
        yield from (same[i : i + size] for i in range(0, len(same), size))
