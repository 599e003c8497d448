"""How a model is asked for the logits of given rows, as it is served or by the reference.

Shapes: B texts of a batch, L tokens of a text, R rows, V vocabulary.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from burnish.core.types import KeyKind
from burnish.engine.engine import Model
from burnish.engine.score import Scorer
from burnish.models.decoder import Decoder
from burnish.models.layers.attention import causal_attend

BATCH_TOKENS = 4096  # tokens fed at a time
LOGITS_AT_ONCE = 2**24  # numbers: 64 MB
DEFAULT_KEYS: KeyKind = "f16"  # as an engine stores them

Score = Callable[[torch.Tensor, torch.Tensor], Iterator[torch.Tensor]]
"""(texts (B, L), flat rows) -> logits of those rows, in parts"""


def scorer(model: Model, context: int, keys: KeyKind) -> tuple[Score, int]:
    """How a model is asked for logits, and how many texts of ``context`` tokens at a time.

    ``keys``: how a plan stores keys and values; a decoder computes without a cache.
    """
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


def losses_of(logits: torch.Tensor, targets: torch.Tensor) -> NDArray[np.float64]:
    """Cross-entropy of logits (R, V) against targets (R,), no mean taken."""
    loss: NDArray[np.float64] = torch.nn.functional.cross_entropy(logits, targets, reduction="none").double().numpy()
    return loss
