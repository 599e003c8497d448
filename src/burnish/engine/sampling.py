"""Choosing tokens: a chain of pure functions on logits, each touching only the rows that ask for it.

R rows (one per sequence), V vocabulary.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from burnish.core.types import Alternative, Sampling, TokenLogprobs


class Row(NamedTuple):
    """What the chain may know of a sequence."""

    sampling: Sampling
    prompt: tuple[int, ...]
    output: list[int]
    uniform: float  # this token's random number in [0, 1)


BatchState = tuple[Row, ...]
MIN_TEMPERATURE = 1e-5  # below it a draw is greedy in all but name, and quotients leave float32
Logits = Callable[[Tensor, BatchState], Tensor]


class Chosen(NamedTuple):
    """The next token of a row; None when its logits are not numbers."""

    token_id: int | None
    logprobs: TokenLogprobs | None


def add_bias(logits: Tensor, state: BatchState) -> Tensor:
    """logit_bias: added to the named tokens."""
    rows = [r for r, row in enumerate(state) if row.sampling.logit_bias]
    if rows:
        logits = logits.clone()
    for r in rows:
        ids, biases = zip(*state[r].sampling.logit_bias, strict=True)
        logits[r, list(ids)] += torch.tensor(biases)
    return logits


def penalize_presence(logits: Tensor, state: BatchState) -> Tensor:
    """Presence and frequency penalties: ``logit - presence * [count > 0] - frequency * count`` over the output."""
    rows = [r for r, row in enumerate(state) if row.sampling.presence_penalty or row.sampling.frequency_penalty]
    if rows:
        logits = logits.clone()
    for r in rows:
        counts = torch.bincount(torch.tensor(state[r].output, dtype=torch.int64), minlength=logits.shape[1])
        sampling = state[r].sampling
        logits[r] -= sampling.presence_penalty * (counts > 0) + sampling.frequency_penalty * counts
    return logits


def penalize_repetition(logits: Tensor, state: BatchState) -> Tensor:
    """Repetition penalty over prompt and output: positive logits divided, negative ones multiplied."""
    rows = [r for r, row in enumerate(state) if row.sampling.repetition_penalty != 1]
    if rows:
        logits = logits.clone()
    for r in rows:
        seen = torch.tensor(sorted({*state[r].prompt, *state[r].output}))
        penalty = state[r].sampling.repetition_penalty
        logits[r, seen] = torch.where(logits[r, seen] > 0, logits[r, seen] / penalty, logits[r, seen] * penalty)
    return logits


def temper(logits: Tensor, state: BatchState) -> Tensor:
    """Divide by the temperature; rows with temperature 0 are greedy and stay as they are."""
    if all(row.sampling.temperature in (0, 1) for row in state):
        return logits
    divisors = [max(row.sampling.temperature, MIN_TEMPERATURE) if row.sampling.temperature else 1.0 for row in state]
    best = logits.amax(1, keepdim=True)  # taken off first: quotients then overflow towards minus infinity only
    return (logits - best) / torch.tensor(divisors).unsqueeze(1)


def keep_top_k(logits: Tensor, state: BatchState) -> Tensor:
    """Keep the k most likely tokens (and ties with the last of them)."""
    vocab = logits.shape[1]
    rows = [r for r, row in enumerate(state) if 0 < row.sampling.top_k < vocab]
    if not rows:
        return logits
    sizes = torch.tensor([state[r].sampling.top_k for r in rows]).unsqueeze(1)
    best = logits[rows].topk(int(sizes.max()), dim=1).values
    return _keep(logits, rows, logits[rows] >= best.gather(1, sizes - 1))


def keep_top_p(logits: Tensor, state: BatchState) -> Tensor:
    """Keep the smallest set of most likely tokens whose probability reaches p (Holtzman et al. 2020)."""
    rows = [r for r, row in enumerate(state) if row.sampling.top_p < 1]
    if not rows:
        return logits
    ordered, order = logits[rows].sort(dim=1, descending=True, stable=True)
    probabilities = ordered.softmax(1)
    before = probabilities.cumsum(1) - probabilities
    limits = torch.tensor([state[r].sampling.top_p for r in rows]).unsqueeze(1)
    kept = (before < limits).index_fill(1, torch.tensor([0]), True)
    return _keep(logits, rows, torch.zeros_like(kept).scatter(1, order, kept))


def keep_min_p(logits: Tensor, state: BatchState) -> Tensor:
    """Keep tokens at least ``min_p`` times as likely as the most likely one (Nguyen et al. 2024)."""
    rows = [r for r, row in enumerate(state) if row.sampling.min_p > 0]
    if not rows:
        return logits
    floors = torch.tensor([state[r].sampling.min_p for r in rows]).log().unsqueeze(1)
    return _keep(logits, rows, logits[rows] >= logits[rows].amax(1, keepdim=True) + floors)


CHAIN: tuple[Logits, ...] = (
    add_bias,
    penalize_presence,
    penalize_repetition,
    temper,
    keep_top_k,
    keep_top_p,
    keep_min_p,
)


def sample(logits: Tensor, state: BatchState) -> list[Chosen]:
    """The next token of every row of logits (R, V)."""
    sane = ((logits.isfinite() | logits.isneginf()).all(1) & logits.isfinite().any(1)).tolist()
    filtered = torch.nan_to_num(logits, nan=0.0) if not all(sane) else logits
    for function in CHAIN:
        filtered = function(filtered, state)
    tokens = draw(filtered, state)
    return [
        Chosen(token if ok else None, _logprobs(logits[r], token, state[r].sampling.logprobs) if ok else None)
        for r, (token, ok) in enumerate(zip(tokens, sane, strict=True))
    ]


def draw(logits: Tensor, state: BatchState) -> list[int]:
    """Greedy rows take the first maximum; the others invert the cumulative distribution at their uniform number."""
    tokens: list[int] = logits.argmax(1).tolist()
    rows = [r for r, row in enumerate(state) if row.sampling.temperature > 0]
    if rows:
        cumulative = logits[rows].double().softmax(1).cumsum(1)
        targets = torch.tensor([state[r].uniform for r in rows], dtype=torch.float64).unsqueeze(1)
        total = cumulative[:, -1:].contiguous()
        drawn = torch.searchsorted(cumulative, targets * total, right=True)
        last = torch.searchsorted(cumulative, total)  # a target rounded up to the total stays on what can be drawn
        for r, token in zip(rows, torch.minimum(drawn, last).squeeze(1).tolist(), strict=True):
            tokens[r] = token
    return tokens


def _keep(logits: Tensor, rows: list[int], kept: Tensor) -> Tensor:
    out = logits.clone()
    out[rows] = logits[rows].masked_fill(~kept, float("-inf"))
    return out


def _logprobs(logits: Tensor, token: int, count: int | None) -> TokenLogprobs | None:
    """Log-probabilities under the model's own distribution, before bias, penalties, temperature and filters."""
    if count is None:
        return None
    scores = logits.log_softmax(0)
    best = scores.topk(min(count, len(scores)))
    top = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return TokenLogprobs(float(scores[token]), tuple(Alternative(i, p) for i, p in top))
