"""Which of the measured variants to serve. Pure: figures in, name and reason out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from burnish.measure.gate import judge_loss
from burnish.measure.intervals import Interval
from burnish.measure.speed import Spread


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One way to store a model, measured."""

    name: str
    path: Path
    file_bytes: int  # of the weight files
    peak_rss_bytes: int
    prefill_tokens_per_s: Spread
    decode_tokens_per_s: Spread
    perplexity: Interval
    loss_ratio: (
        Interval | None
    )  # perplexity over the original's on the same tokens, minus 1; None for the original itself


class Choice(NamedTuple):
    """The variant to serve and a sentence that says why."""

    name: str
    reason: str


def choose(variants: Sequence[Variant], max_loss: float) -> Choice:
    """The smallest of the fastest variants that are shown to lose at most ``max_loss`` of perplexity.

    Shown means: the upper end of the 95 % interval keeps the budget. As fast as the fastest are those whose spread
    of decode speeds reaches the fastest one's. The original is always a candidate.
    """
    kept = [v for v in variants if v.loss_ratio is None or judge_loss(v.loss_ratio, max_loss) == "pass"]
    fastest = max(kept, key=lambda v: v.decode_tokens_per_s.median)
    as_fast = [v for v in kept if v.decode_tokens_per_s.max >= fastest.decode_tokens_per_s.min]
    best = min(as_fast, key=lambda v: v.file_bytes)
    refused = [v.name for v in variants if v not in kept]
    reason = f"{best.name} is the smallest of the fastest variants within {max_loss:.2%} perplexity loss"
    return Choice(best.name, f"{reason}; {', '.join(refused)} may lose more." if refused else f"{reason}.")
