"""Choosing tokens: a chain of pure functions on logits, each touching only the rows that ask for it. Loads no torch.

R rows (one per sequence), V vocabulary.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from burnish.core.types import Alternative, Sampling, TokenLogprobs
from burnish.kernels import sampling as kernels
from burnish.kernels.sampling import Draw, Floats


class Row(NamedTuple):
    """What the chain may know of a sequence."""

    sampling: Sampling
    prompt: tuple[int, ...]
    output: list[int]  # empty where no penalty asks for it
    uniform: float  # this token's random number in [0, 1)
    allowed: NDArray[np.bool_] | None = None  # tokens (V,) that may come; None: all


BatchState = tuple[Row, ...]
MIN_TEMPERATURE = 1e-5  # below it a draw is greedy in all but name, and quotients leave float32
Logits = Callable[[Floats, BatchState], Floats]


class Chosen(NamedTuple):
    """The next token of a row; None when its logits are not numbers."""

    token_id: int | None
    logprobs: TokenLogprobs | None


def add_bias(logits: Floats, state: BatchState) -> Floats:
    """logit_bias: added to the named tokens."""
    rows = [r for r, row in enumerate(state) if row.sampling.logit_bias]
    if rows:
        logits = logits.copy()
    for r in rows:
        ids, biases = zip(*state[r].sampling.logit_bias, strict=True)
        logits[r, list(ids)] += np.asarray(biases, dtype=np.float32)
    return logits


def penalize_presence(logits: Floats, state: BatchState) -> Floats:
    """Presence and frequency penalties: ``logit - presence * [count > 0] - frequency * count`` over the output."""
    rows = [r for r, row in enumerate(state) if row.sampling.presence_penalty or row.sampling.frequency_penalty]
    if rows:
        logits = logits.copy()
    for r in rows:
        tokens, counts = np.unique(np.asarray(state[r].output, dtype=np.int64), return_counts=True)
        sampling = state[r].sampling
        taken = sampling.presence_penalty + sampling.frequency_penalty * counts
        logits[r, tokens] -= taken.astype(np.float32)
    return logits


def penalize_repetition(logits: Floats, state: BatchState) -> Floats:
    """Repetition penalty over prompt and output: positive logits divided, negative ones multiplied."""
    rows = [r for r, row in enumerate(state) if row.sampling.repetition_penalty != 1]
    if rows:
        logits = logits.copy()
    for r in rows:
        seen = sorted({*state[r].prompt, *state[r].output})
        penalty, found = np.float32(state[r].sampling.repetition_penalty), logits[r, seen]
        logits[r, seen] = np.where(found > 0, found / penalty, found * penalty)
    return logits


def forbid(logits: Floats, state: BatchState) -> Floats:
    """What a grammar does not allow cannot be chosen."""
    allowed = [row.allowed for row in state if row.allowed is not None]
    if len(allowed) == len(state):
        return np.where(np.stack(allowed), logits, np.float32(-np.inf))
    if allowed:
        logits = logits.copy()
    for r, row in enumerate(state):
        if row.allowed is not None:
            np.copyto(logits[r], -np.inf, where=~row.allowed)
    return logits


CHAIN: tuple[Logits, ...] = (add_bias, penalize_presence, penalize_repetition, forbid)


def sample(logits: Floats, state: BatchState) -> list[Chosen]:
    """The next token of every row of logits (R, V); none where the model's own logits are not numbers."""
    best = kernels.argmax(logits)
    if all(_is_plain(row) for row in state):
        return [Chosen(token, None) for token in best]
    tokens = choose(_changed(logits, state, best), state)
    return [
        Chosen(None, None)
        if best[r] is None or token is None
        else Chosen(token, _wanted(logits[r], token, state[r].sampling.logprobs))
        for r, token in enumerate(tokens)
    ]


def choose(logits: Floats, state: BatchState) -> list[int | None]:
    """Greedy rows take the first maximum; the others draw with their uniform number."""
    drawn = [r for r, row in enumerate(state) if row.sampling.temperature > 0]
    tokens: list[int | None] = [None] * len(state)
    if len(drawn) < len(state):
        tokens = kernels.argmax(logits)
    if drawn:
        rows = logits if len(drawn) == len(state) else logits[drawn]
        for r, token in zip(drawn, kernels.draw(rows, [_draw(state[r]) for r in drawn]), strict=True):
            tokens[r] = token
    return tokens


def _draw(row: Row) -> Draw:
    asked = row.sampling
    return Draw(max(asked.temperature, MIN_TEMPERATURE), asked.top_k, asked.top_p, asked.min_p, row.uniform)


def _is_plain(row: Row) -> bool:
    """Whether the first maximum is the answer: no filter ever takes it away."""
    sampling = row.sampling
    changes = row.allowed is not None or sampling.logit_bias or sampling.is_penalized or sampling.logprobs is not None
    return sampling.temperature == 0 and not changes


def _changed(logits: Floats, state: BatchState, best: list[int | None]) -> Floats:
    """Logits with bias and penalties; rows that hold no numbers are zeros, so that no arithmetic warns of them."""
    changed = logits if None not in best else np.where(np.isnan(logits), np.float32(0), logits)
    for function in CHAIN:
        changed = function(changed, state)
    return changed


def _wanted(logits: Floats, token: int, count: int | None) -> TokenLogprobs | None:
    return None if count is None else log_probabilities(logits, token, count)


def log_probabilities(logits: Floats, token: int, count: int) -> TokenLogprobs:
    """Of a token and the ``count`` likeliest, under the model's own logits (V,): no bias, penalty or filter."""
    wide = logits.astype(np.float64)
    highest = wide.max()
    scores = (wide - (highest + np.log(np.exp(wide - highest).sum()))).astype(np.float32)
    likely = np.flatnonzero(scores >= np.partition(scores, -count)[-count]) if 0 < count < len(scores) else None
    candidates = np.arange(len(scores) if count else 0) if likely is None else likely
    best = candidates[np.argsort(-scores[candidates], kind="stable")][:count]
    return TokenLogprobs(float(scores[token]), tuple(Alternative(int(i), float(scores[i])) for i in best))
