"""Held-out losses while training, agreement of the draft model, and samples.

Shapes: B sequences, C context, T tokens, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn import functional

from burnish.models.decoder import Decoder
from burnish.models.layers.attention import causal_attend
from scripts.builtin.corpus import SOURCES, Document
from scripts.builtin.tokenizer import Tokens, encode_all
from scripts.builtin.training import forward

MONITORED = {"books": 12, "tinystories": 6, "wikipedia": 4, "shakespeare": 4}  # windows looked at while training
_BATCH = 4


class PerSource(NamedTuple):
    """One figure per source; of losses: held-out, nats per token."""

    books: float
    tinystories: float
    wikipedia: float
    shakespeare: float

    @property
    def judged(self) -> float:
        """What decides which weights are kept: stories, from books and simple ones alike."""
        return (self.books + self.tinystories) / 2


class Monitor:
    """A fixed sample of held-out windows, cheap enough to look at during training."""

    def __init__(self, documents: Sequence[Document], tokenizer: Tokenizer, context: int) -> None:
        self._windows: Mapping[str, Tokens] = {
            source: _windows([d for d in documents if d.source == source], tokenizer, context, MONITORED[source])
            for source in SOURCES
        }

    def losses(self, model: Decoder) -> PerSource:
        """Mean loss of ``model`` on the windows of each source."""
        return PerSource(*(_mean_loss(model, self._windows[source]) for source in SOURCES))

    @torch.no_grad()
    def agreement(self, model: Decoder, draft: Decoder) -> PerSource:
        """How often both models find the same next token most likely, per source, as a share."""
        return PerSource(*(_same_choice(model, draft, self._windows[source]) for source in SOURCES))


def _same_choice(model: Decoder, draft: Decoder, windows: Tokens) -> float:
    same = []
    for first in range(0, len(windows), _BATCH):
        part = torch.from_numpy(windows[first : first + _BATCH, :-1])
        same.append(forward(model, part).argmax(-1) == forward(draft, part).argmax(-1))
    return float(torch.cat(same).float().mean())


def _windows(documents: Sequence[Document], tokenizer: Tokenizer, context: int, count: int) -> Tokens:
    """Evenly spread windows over the documents in a row: (count or fewer, C + 1)."""
    tokens = np.concatenate(encode_all(tokenizer, [document.text for document in documents]))
    available = (len(tokens) - 1) // context
    chosen = np.linspace(0, available - 1, min(count, available)).astype(np.int64)
    windows: Tokens = tokens[chosen[:, None] * context + np.arange(context + 1)]
    return windows


@torch.no_grad()
def _mean_loss(model: Decoder, windows: Tokens) -> float:
    losses = []
    for first in range(0, len(windows), _BATCH):
        part = torch.from_numpy(windows[first : first + _BATCH])
        logits = forward(model, part[:, :-1])
        losses.append(functional.cross_entropy(logits.float(), part[:, 1:].flatten(), reduction="none"))
    return float(torch.cat(losses).mean())


@torch.no_grad()
def exact_logits(model: Decoder, tokens: torch.Tensor) -> torch.Tensor:
    """Logits of tokens (B, T) in float32 -> (B, T, V)."""
    batch, length = tokens.shape
    hidden = model(tokens.flatten(), torch.arange(length).repeat(batch), causal_attend(batch, length))
    return model.logits(hidden).view(batch, length, -1)


class Sampling(NamedTuple):
    """How a sample is drawn."""

    temperature: float = 0.7
    top_p: float = 0.95
    tokens: int = 160
    seed: int = 1


def sample(model: Decoder, tokenizer: Tokenizer, prompt: str, sampling: Sampling, stops: Sequence[int]) -> str:
    """Continue ``prompt``, which ``<|endoftext|>`` is put before; returns the new text only."""
    generator = torch.Generator().manual_seed(sampling.seed)
    tokens: list[int] = tokenizer.encode(prompt).ids
    start = len(tokens)
    while len(tokens) - start < sampling.tokens and len(tokens) < model.config.max_positions:
        logits = exact_logits(model, torch.tensor([tokens]))[0, -1]
        token = _draw((logits / sampling.temperature).softmax(-1), sampling.top_p, generator)
        if token in stops:
            break
        tokens.append(token)
    text: str = tokenizer.decode(tokens[start:])
    return text


def _draw(probabilities: torch.Tensor, top_p: float, generator: torch.Generator) -> int:
    ordered, tokens = probabilities.sort(descending=True)
    kept = ordered * (ordered.cumsum(0) - ordered < top_p)
    return int(tokens[torch.multinomial(kept, 1, generator=generator)])
