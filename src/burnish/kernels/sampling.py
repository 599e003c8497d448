"""Choosing from logits: native where that is built, else plain numpy, which is the specification.

Shapes: R rows, V vocabulary.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from burnish.kernels.native import best_body, native

Floats = NDArray[np.float32]


class Draw(NamedTuple):
    """How a row is drawn from; the filters apply in this order."""

    temperature: float  # > 0
    top_k: int  # 0: all
    top_p: float
    min_p: float
    uniform: float  # in [0, 1)


def argmax(logits: Floats) -> list[int | None]:
    """The first maximum of every row of logits (R, V); None for a row that holds NaN or infinity, or nothing finite.

    Minus infinity is a token that cannot be chosen, not a fault.
    """
    module = native()
    if module is not None:
        return _known(module.argmax(logits, body=best_body(module)))
    best: list[int | None] = logits.argmax(1).tolist()  # NaN counts as a maximum
    highest = logits.max(1, initial=-np.inf).tolist()
    return [token if -np.inf < value < np.inf else None for token, value in zip(best, highest, strict=True)]


def draw(logits: Floats, draws: list[Draw]) -> list[int | None]:
    """A random token of every row of logits (R, V), by its own numbers; None where ``argmax`` has none."""
    module = native()
    if module is None:
        best = argmax(logits)
        return [None if best[r] is None else draw_plainly(logits[r], asked) for r, asked in enumerate(draws)]
    temperature, top_k, top_p, min_p, uniform = zip(*draws, strict=True)
    sizes = np.asarray([min(size, logits.shape[1]) for size in top_k], np.int32)
    floats = [np.asarray(column, np.float64) for column in (top_p, min_p, uniform)]
    found = module.draw(logits, np.asarray(temperature, np.float32), sizes, *floats, body=best_body(module))
    return _known(found)


def draw_plainly(logits: Floats, asked: Draw) -> int:
    """A token of one row (V,): the cumulative distribution of what the filters keep, inverted at ``uniform``."""
    kept = temper(logits, asked.temperature)
    kept = keep_min_p(keep_top_p(keep_top_k(kept, asked.top_k), asked.top_p), asked.min_p)
    cumulative = probabilities(kept).cumsum()
    total = cumulative[-1]
    drawn = np.searchsorted(cumulative, asked.uniform * total, side="right")
    last = np.searchsorted(cumulative, total)  # a target rounded up to the total stays on what can be drawn
    return int(min(drawn, last))


def temper(logits: Floats, temperature: float) -> Floats:
    """Distance from the best logit, divided by the temperature: quotients overflow towards minus infinity only."""
    with np.errstate(over="ignore"):
        tempered: Floats = (logits - logits.max()) / np.float32(temperature)
    return tempered


def keep_top_k(logits: Floats, k: int) -> Floats:
    """Keep the k largest logits (and what ties with the last of them); all when k is 0."""
    if not 0 < k < len(logits):
        return logits
    return _keep(logits, logits >= np.partition(logits, -k)[-k])


def keep_top_p(logits: Floats, p: float) -> Floats:
    """Keep the smallest set of most likely tokens whose probability reaches p (Holtzman et al. 2020)."""
    if p >= 1:
        return logits
    order = np.argsort(-logits, kind="stable")
    ranked = probabilities(logits)[order]
    chosen = ranked.cumsum() - ranked < p
    chosen[0] = True
    kept = np.zeros_like(chosen)
    kept[order] = chosen
    return _keep(logits, kept)


def keep_min_p(logits: Floats, min_p: float) -> Floats:
    """Keep tokens at least ``min_p`` times as likely as the most likely one (Nguyen et al. 2024)."""
    return _keep(logits, logits >= logits.max() + np.float32(math.log(min_p))) if min_p > 0 else logits


def probabilities(logits: Floats) -> NDArray[np.float64]:
    """Softmax of one row, in double precision."""
    wide = logits.astype(np.float64)
    weights: NDArray[np.float64] = np.exp(wide - wide.max())
    weights /= weights.sum()
    return weights


def _keep(logits: Floats, kept: NDArray[np.bool_]) -> Floats:
    return np.where(kept, logits, np.float32("-inf"))


def _known(tokens: list[int]) -> list[int | None]:
    return [token if token >= 0 else None for token in tokens]
