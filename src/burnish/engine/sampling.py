"""Choosing tokens: a chain of pure functions on logits, each touching only the rows that ask for it. Loads no torch.

R rows (one per sequence), V vocabulary.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from burnish.core.types import Alternative, Sampling, TokenLogprobs
from burnish.kernels import sampling as kernels

Floats = NDArray[np.float32]


class Row(NamedTuple):
    """What the chain may know of a sequence."""

    sampling: Sampling
    prompt: tuple[int, ...]
    output: list[int]  # empty where no penalty asks for it
    uniform: float  # this token's random number in [0, 1)


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


def temper(logits: Floats, state: BatchState) -> Floats:
    """Divide by the temperature; rows with temperature 0 are greedy and stay as they are."""
    if all(row.sampling.temperature in (0, 1) for row in state):
        return logits
    divisors = [max(row.sampling.temperature, MIN_TEMPERATURE) if row.sampling.temperature else 1.0 for row in state]
    best = logits.max(1, keepdims=True)  # taken off first: quotients then overflow towards minus infinity only
    with np.errstate(over="ignore"):
        tempered: Floats = (logits - best) / np.asarray(divisors, dtype=np.float32)[:, None]
    return tempered


def keep_top_k(logits: Floats, state: BatchState) -> Floats:
    """Keep the k largest logits (and what ties with the last of them)."""
    vocab = logits.shape[1]
    rows = [r for r, row in enumerate(state) if 0 < row.sampling.top_k < vocab]
    if not rows:
        return logits
    sizes = [state[r].sampling.top_k for r in rows]
    least = [np.partition(logits[r], vocab - size)[vocab - size] for r, size in zip(rows, sizes, strict=True)]
    return _keep(logits, rows, logits[rows] >= np.asarray(least)[:, None])


def keep_top_p(logits: Floats, state: BatchState) -> Floats:
    """Keep the smallest set of most likely tokens whose probability reaches p (Holtzman et al. 2020)."""
    rows = [r for r, row in enumerate(state) if row.sampling.top_p < 1]
    if not rows:
        return logits
    order = np.argsort(-logits[rows], axis=1, kind="stable")
    probabilities = _softmax(np.take_along_axis(logits[rows], order, 1))
    before = probabilities.cumsum(1) - probabilities
    chosen = before < np.asarray([state[r].sampling.top_p for r in rows])[:, None]
    chosen[:, 0] = True
    kept = np.zeros_like(chosen)
    np.put_along_axis(kept, order, chosen, 1)
    return _keep(logits, rows, kept)


def keep_min_p(logits: Floats, state: BatchState) -> Floats:
    """Keep tokens at least ``min_p`` times as likely as the most likely one (Nguyen et al. 2024)."""
    rows = [r for r, row in enumerate(state) if row.sampling.min_p > 0]
    if not rows:
        return logits
    floors = np.asarray([math.log(state[r].sampling.min_p) for r in rows], dtype=np.float32)[:, None]
    return _keep(logits, rows, logits[rows] >= logits[rows].max(1, keepdims=True) + floors)


CHAIN: tuple[Logits, ...] = (
    add_bias,
    penalize_presence,
    penalize_repetition,
    temper,
    keep_top_k,
    keep_top_p,
    keep_min_p,
)


def sample(logits: Floats, state: BatchState) -> list[Chosen]:
    """The next token of every row of logits (R, V)."""
    best = kernels.argmax(logits)
    if all(_is_plain(row.sampling) for row in state):
        return [Chosen(token, None) for token in best]
    return _sample_chain(logits, state, best)


def _is_plain(sampling: Sampling) -> bool:
    """Whether the first maximum is the answer: no filter ever takes it away."""
    changes = sampling.logit_bias or sampling.is_penalized or sampling.logprobs is not None
    return sampling.temperature == 0 and not changes


def _sample_chain(logits: Floats, state: BatchState, best: list[int | None]) -> list[Chosen]:
    """Every link, for batches in which something is asked for."""
    filtered = logits if None not in best else np.where(np.isnan(logits), np.float32(0), logits)
    for function in CHAIN:
        filtered = function(filtered, state)
    tokens = draw(filtered, state)
    return [
        Chosen(None, None)
        if best[r] is None
        else Chosen(token, _logprobs(logits[r], token, state[r].sampling.logprobs))
        for r, token in enumerate(tokens)
    ]


def draw(logits: Floats, state: BatchState) -> list[int]:
    """Greedy rows take the first maximum; the others invert the cumulative distribution at their uniform number."""
    tokens: list[int] = logits.argmax(1).tolist()
    for r, row in enumerate(state):
        if row.sampling.temperature > 0:
            tokens[r] = _invert(_softmax(logits[r]).cumsum(), row.uniform)
    return tokens


def _invert(cumulative: NDArray[np.float64], uniform: float) -> int:
    total = cumulative[-1]
    drawn = np.searchsorted(cumulative, uniform * total, side="right")
    last = np.searchsorted(cumulative, total)  # a target rounded up to the total stays on what can be drawn
    return int(min(drawn, last))


def _softmax(logits: Floats) -> NDArray[np.float64]:
    """Probabilities over the last axis, in double precision."""
    wide = logits.astype(np.float64)
    weights: NDArray[np.float64] = np.exp(wide - wide.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return weights


def _keep(logits: Floats, rows: list[int], kept: NDArray[np.bool_]) -> Floats:
    out = logits.copy()
    out[rows] = np.where(kept, logits[rows], np.float32("-inf"))
    return out


def _logprobs(logits: Floats, token: int, count: int | None) -> TokenLogprobs | None:
    """Log-probabilities under the model's own distribution, before bias, penalties, temperature and filters."""
    if count is None:
        return None
    wide = logits.astype(np.float64)
    highest = wide.max()
    scores = (wide - (highest + np.log(np.exp(wide - highest).sum()))).astype(np.float32)
    best = np.argsort(-scores, kind="stable")[: min(count, len(scores))]
    return TokenLogprobs(float(scores[token]), tuple(Alternative(int(i), float(scores[i])) for i in best))
