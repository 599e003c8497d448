"""Perplexity by sliding window, alone or paired with a second model, each figure with its 95 % interval.

Shapes: B windows of a batch, L tokens of a window, R rows, N scored tokens, V vocabulary.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from burnish.core.documents import Text, read_documents
from burnish.core.errors import BadSettings
from burnish.core.types import KeyKind, TextCodec
from burnish.engine.engine import Model
from burnish.engine.score import Scorer
from burnish.measure.intervals import MIN_STRETCH, Interval, mean_interval
from burnish.measure.windows import Window, cut
from burnish.models.decoder import Decoder, DecoderConfig
from burnish.models.layers.attention import causal_attend

BATCH_TOKENS = 4096  # tokens fed at a time
LOGITS_AT_ONCE = 2**24  # numbers: 64 MB
DEFAULT_KEYS: KeyKind = "f16"  # as an engine stores them

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two models on the same tokens.

    ``loss_ratio`` is perplexity over the parent's, minus 1: 0.01 is one per cent worse. Its interval comes from the
    differences per token, so what is hard for both models cancels out.
    """

    quality: Quality
    parent: Quality
    loss_ratio: Interval


def read_text(path: Path) -> str:
    """A text file, or the ``text`` fields of a .jsonl file with a blank line between documents.

    Raises as ``read_documents``, and ``BadSettings`` for documents that are no texts.
    """
    texts = []
    for document in read_documents(path):
        if not isinstance(document, Text):
            raise BadSettings(f"{str(path)!r} holds chats or token ids", remedy='Give {"text": "..."} per line')
        texts.append(document.text)
    return "\n\n".join(texts)


def prepare(text: str, codec: TextCodec, shape: DecoderConfig, config: QualityConfig) -> Passage:
    """The passage a model of that shape can score.

    Raises ``BadSettings`` when the text is too short for an interval or the tokenizer is another model's.
    """
    if config.context > shape.max_positions:
        config = replace(config, context=shape.max_positions, stride=min(config.stride, shape.max_positions // 2))
    tokens = tuple(codec.encode(text, add_special_tokens=False)[: config.max_tokens])
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
    lengths = {token: len(codec.piece(token)) for token in set(tokens)}
    scored = tokens if codec.bos_token_id is not None else tokens[1:]
    return Passage(tokens, codec.bos_token_id, sum(lengths[token] for token in scored), config)


def quality(losses: NDArray[np.float64], passage: Passage) -> Quality:
    """What the losses (N,) of a passage say."""
    loss = mean_interval(losses)
    return Quality(
        perplexity=loss.exp(),
        bits_per_byte=loss.scaled(len(losses) / math.log(2) / max(passage.num_bytes, 1)),
        num_tokens=len(losses),
        num_bytes=passage.num_bytes,
        context=passage.config.context,
        stride=passage.config.stride,
    )


def compare(losses: NDArray[np.float64], parent_losses: NDArray[np.float64], passage: Passage) -> Comparison:
    """A model and its parent by their losses on the same passage, (N,) each."""
    return Comparison(
        quality=quality(losses, passage),
        parent=quality(parent_losses, passage),
        loss_ratio=mean_interval(losses - parent_losses).exp().shifted(-1),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Likeness:
    """How alike two models' predictions are, whatever the text says next."""

    kl: Interval  # KL(parent | model), nats per token
    top1_agreement: Interval  # share of tokens for which both find the same next token likeliest


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two models on the same passage, token by token, (N,) each."""

    losses: NDArray[np.float64]
    parent_losses: NDArray[np.float64]
    divergences: NDArray[np.float64]
    agreements: NDArray[np.float64]

    @property
    def likeness(self) -> Likeness:
        """The means."""
        return Likeness(kl=mean_interval(self.divergences), top1_agreement=mean_interval(self.agreements))


@torch.inference_mode()
def pair(
    model: Model, parent: Model, passage: Passage, *, keys: KeyKind = DEFAULT_KEYS, progress: Progress | None = None
) -> Pair:
    """Score a passage with two models at once, so that their distributions can be compared. As ``token_losses``.

    ``keys``: how the model's keys and values are stored; the parent's are as by default.
    """
    context = passage.config.context
    scorers = _scorer(model, context, keys)[0], _scorer(parent, context, DEFAULT_KEYS)[0]
    found: list[tuple[NDArray[np.float64], ...]] = []
    num_scored = 0
    for fed, scored in _fed(passage, 1):
        rows = _rows(fed, scored)
        ours, theirs = (torch.cat(list(score(fed, rows))) for score in scorers)
        targets = fed.flatten()[rows + 1]
        found.append(
            (_losses(ours, targets), _losses(theirs, targets), _divergences(ours, theirs), _agree(ours, theirs))
        )
        num_scored += len(rows)
        if progress is not None:
            progress(num_scored, _num_scored(passage))
    losses, parent_losses, divergences, agreements = (np.concatenate(part) for part in zip(*found, strict=True))
    return Pair(losses=losses, parent_losses=parent_losses, divergences=divergences, agreements=agreements)


def _divergences(ours: torch.Tensor, theirs: torch.Tensor) -> NDArray[np.float64]:
    """KL(theirs | ours) of every row of logits (R, V), in float64: near models differ by less than float32 loses."""
    p, q = theirs.double().log_softmax(-1), ours.double().log_softmax(-1)
    apart: NDArray[np.float64] = (p.exp() * (p - q)).sum(-1).numpy()
    return apart


def _agree(ours: torch.Tensor, theirs: torch.Tensor) -> NDArray[np.float64]:
    same: NDArray[np.float64] = (ours.argmax(-1) == theirs.argmax(-1)).double().numpy()
    return same


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
    score, at_once = _scorer(model, passage.config.context, keys)
    for fed, scored in _fed(passage, at_once):
        losses.append(_batch_losses(score, fed, scored))
        num_scored += len(losses[-1])
        if progress is not None:
            progress(num_scored, _num_scored(passage))
    return np.concatenate(losses)


def _num_scored(passage: Passage) -> int:
    return len(passage.tokens) - (passage.bos is None)


def _fed(passage: Passage, at_once: int) -> Iterator[tuple[torch.Tensor, list[int]]]:
    """Windows (B, L) of a passage, and how many of the last tokens of each are scored."""
    tokens, config = passage.tokens, passage.config
    lead = [] if passage.bos is None else [passage.bos]
    windows = cut(len(tokens), length=config.context - len(lead), stride=config.stride, first_scored=1 - len(lead))
    for batch in _batches(windows, at_once):
        fed = torch.tensor([[*lead, *tokens[window.begin : window.end]] for window in batch])
        yield fed, [window.end - window.score_from for window in batch]


_Score = Callable[[torch.Tensor, torch.Tensor], Iterator[torch.Tensor]]
"""(texts (B, L), flat rows) -> logits of those rows, in parts"""


def _scorer(model: Model, context: int, keys: KeyKind) -> tuple[_Score, int]:
    """How a model is asked for logits, and how many windows at a time."""
    if isinstance(model, Decoder):
        return partial(_decoder_logits, model), max(1, BATCH_TOKENS // context)
    return partial(_plan_logits, Scorer(model, context, keys=keys)), 1


def _decoder_logits(decoder: Decoder, fed: torch.Tensor, rows: torch.Tensor) -> Iterator[torch.Tensor]:
    batch, length = fed.shape
    hidden = decoder(fed.flatten(), torch.arange(length).repeat(batch), causal_attend(batch, length))
    at_once = max(1, LOGITS_AT_ONCE // decoder.config.vocab_size)
    return (decoder.logits(hidden[rows[first : first + at_once]]) for first in range(0, len(rows), at_once))


def _plan_logits(scorer: Scorer, fed: torch.Tensor, rows: torch.Tensor) -> Iterator[torch.Tensor]:
    yield torch.from_numpy(scorer(fed[0].int().numpy(), rows.int().numpy()))


def _rows(fed: torch.Tensor, num_scored: list[int]) -> torch.Tensor:
    """The flat rows of fed (B, L) that predict the last ``num_scored`` tokens of each of its texts."""
    length = fed.shape[1]
    return torch.cat([torch.arange((i + 1) * length - n - 1, (i + 1) * length - 1) for i, n in enumerate(num_scored)])


def _batch_losses(score: _Score, fed: torch.Tensor, num_scored: list[int]) -> NDArray[np.float64]:
    """Losses of the last ``num_scored`` tokens of each row of fed (B, L)."""
    rows = _rows(fed, num_scored)
    logits, targets = score(fed, rows), fed.flatten()[rows + 1]
    losses, first = [], 0
    for part in logits:
        losses.append(_losses(part, targets[first : first + len(part)]))
        first += len(part)
    return np.concatenate(losses)


def _losses(logits: torch.Tensor, targets: torch.Tensor) -> NDArray[np.float64]:
    """Cross-entropy of logits (R, V) against targets (R,), no mean taken."""
    loss: NDArray[np.float64] = torch.nn.functional.cross_entropy(logits, targets, reduction="none").double().numpy()
    return loss


def _batches(windows: list[Window], size: int) -> Iterator[list[Window]]:
    """Neighbouring windows of one length, at most ``size`` together."""
    for _, alike in groupby(windows, key=lambda window: window.end - window.begin):
        same = list(alike)
        yield from (same[i : i + size] for i in range(0, len(same), size))
