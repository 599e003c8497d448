"""From what happened to every request to the figures of a run: percentiles, rates, goodput, errors. Pure.

TTFT lasts to the first text, end-to-end to the last; both count from the instant a request was due, so a server that
stalls pays for what it kept waiting, sent or not (Tene, "How NOT to Measure Latency": coordinated omission). TPOT is
the time from the first text to the last over the output tokens but one; a gap is the time between two pieces of text,
each one counted. Queue is the client's own delay: sent - due. Percentiles are values that occurred (nearest rank).
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

from burnish.measure.limits import Limit, is_kept

RANKS = (50, 90, 95, 99)
SPREADS = ("ttft_ms", "tpot_ms", "gap_ms", "e2e_ms", "queue_ms")
RATES = ("requests_per_s", "output_tokens_per_s", "goodput_per_s", "goodput_share", "error_share")
REQUEST_FIGURES = SPREADS
"""What a limit on every single request may name; of its gaps the longest counts."""
RUN_FIGURES = (*(f"p{rank}_{name}" for name in SPREADS for rank in RANKS), *RATES)
"""What a limit on the whole run may name."""
CountedBy = Literal["usage", "pieces", "both"]
"""Output tokens are those of the server's usage, or the pieces of text it sent, or each where it applies."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What happened to a request; instants in seconds of one monotonic clock.

    ``text_s`` are the instants at which pieces of text arrived. ``output_tokens`` are those of the server's usage
    (``by_usage``), else the pieces. ``error`` is its kind, in a word or two, and ``detail`` what was said.
    """

    due_s: float
    sent_s: float
    ended_s: float
    text_s: tuple[float, ...] = ()
    prompt_tokens: int | None = None
    output_tokens: int = 0
    by_usage: bool = False
    error: str | None = None
    detail: str = ""

    def figures(self) -> dict[str, float | None]:
        """``REQUEST_FIGURES`` of an answered request; None where one has no meaning (TPOT and gaps of one token)."""
        first, last = (self.text_s[0], self.text_s[-1]) if self.text_s else (self.ended_s, self.ended_s)
        decoding_s = last - first
        return {
            "ttft_ms": 1e3 * (first - self.due_s),
            "tpot_ms": 1e3 * decoding_s / (self.output_tokens - 1) if self.output_tokens > 1 else None,
            "gap_ms": max(self.gaps_ms(), default=None),
            "e2e_ms": 1e3 * (last - self.due_s),
            "queue_ms": 1e3 * (self.sent_s - self.due_s),
        }

    def gaps_ms(self) -> list[float]:
        """Times between pieces of text."""
        return [1e3 * (later - earlier) for earlier, later in pairwise(self.text_s)]


class Percentiles(NamedTuple):
    """Nearest-rank percentiles, and the largest value."""

    num_values: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


class ErrorCount(NamedTuple):
    """How many requests failed in one way, and what the first of them was told."""

    kind: str
    num_requests: int
    example: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadReport:
    """The figures of a run. Latencies are of answered requests; None where there is no value.

    Rates are over ``duration_s``, from the first instant a request was due to the last end. Goodput counts the requests
    that kept every limit on single requests; its share is of all requests, failed ones included.
    """

    num_requests: int
    num_answered: int
    duration_s: float
    prompt_tokens: int | None  # of the answered, by the server's usage
    output_tokens: int
    counted_by: CountedBy
    requests_per_s: float
    output_tokens_per_s: float
    prompt_tokens_per_s: float | None
    ttft_ms: Percentiles | None
    tpot_ms: Percentiles | None
    gap_ms: Percentiles | None
    e2e_ms: Percentiles | None
    queue_ms: Percentiles | None
    goodput_per_s: float
    goodput_share: float
    error_share: float
    errors: tuple[ErrorCount, ...]

    def figures(self) -> dict[str, float | None]:
        """``RUN_FIGURES``."""
        spreads: dict[str, Percentiles | None] = {name: getattr(self, name) for name in SPREADS}
        ranked = {
            f"p{rank}_{name}": None if spread is None else getattr(spread, f"p{rank}")
            for name, spread in spreads.items()
            for rank in RANKS
        }
        return ranked | {name: getattr(self, name) for name in RATES}


def summarise(records: Sequence[Record], limits: Sequence[Limit] = ()) -> LoadReport:
    """The figures of at least one request; ``limits`` name ``REQUEST_FIGURES``."""
    assert records, "the caller refuses a run without requests"
    answered = [record for record in records if record.error is None]
    figures = [record.figures() for record in answered]
    spreads = {name: _percentiles([v for f in figures if (v := f[name]) is not None]) for name in SPREADS}
    spreads["gap_ms"] = _percentiles([gap for record in answered for gap in record.gaps_ms()])
    duration_s = max(max(r.ended_s for r in records) - min(r.due_s for r in records), 1e-9)
    told = [record.prompt_tokens for record in answered if record.prompt_tokens is not None]
    output_tokens = sum(record.output_tokens for record in answered)
    num_good = sum(_is_good(found, limits) for found in figures)
    return LoadReport(
        num_requests=len(records),
        num_answered=len(answered),
        duration_s=duration_s,
        prompt_tokens=sum(told) if told else None,
        output_tokens=output_tokens,
        counted_by=_counted_by(answered),
        requests_per_s=len(answered) / duration_s,
        output_tokens_per_s=output_tokens / duration_s,
        prompt_tokens_per_s=sum(told) / duration_s if told else None,
        **spreads,
        goodput_per_s=num_good / duration_s,
        goodput_share=num_good / len(records),
        error_share=1 - len(answered) / len(records),
        errors=_errors(records),
    )


def _is_good(figures: dict[str, float | None], limits: Sequence[Limit]) -> bool:
    """Whether an answered request kept the limits; a figure that has no meaning for it breaks none."""
    meant = [limit for limit in limits if figures[limit.name] is not None]
    return is_kept(meant, figures)


def _percentiles(values: list[float]) -> Percentiles | None:
    if not values:
        return None
    values = sorted(values)
    ranked = {f"p{rank}": values[max(0, math.ceil(rank / 100 * len(values)) - 1)] for rank in RANKS}
    return Percentiles(num_values=len(values), mean=math.fsum(values) / len(values), max=values[-1], **ranked)


def _counted_by(answered: list[Record]) -> CountedBy:
    """How the output tokens were counted."""
    if all(record.by_usage for record in answered):
        return "usage"
    return "both" if any(record.by_usage for record in answered) else "pieces"


def _errors(records: Sequence[Record]) -> tuple[ErrorCount, ...]:
    kinds = Counter(record.error for record in records if record.error is not None)
    example = {record.error: record.detail for record in reversed(records)}
    return tuple(ErrorCount(kind, count, example[kind]) for kind, count in kinds.most_common())
