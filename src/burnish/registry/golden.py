"""Golden outputs: what a model computed on fixed prompts when it was made, kept to be compared with later.

Shapes: P prompts, V vocabulary.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from burnish.core.errors import BadCheckpoint

PROMPT_LENGTHS = (1, 8, 24, 64)
NUM_KEPT = 16
TOLERANCE = 0.01
EMBEDDING_TOLERANCE = 1e-4  # of an embedding of length one: its numbers are about 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldenRow:
    """The logits after one prompt: the largest by token, and all of them by their log-sum-exp."""

    prompt: tuple[int, ...]
    top: tuple[tuple[int, float], ...]  # token id and its logit, largest first
    log_sum_exp: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Golden:
    """Expected outputs.

    A computed figure may differ from the kept one by ``tolerance``, absolute, in logits. 0.01 means that no
    token's probability moves by more than about 1 % of itself: wide enough for another processor's order of
    additions in float32, narrow enough to tell any two formats apart.
    """

    tolerance: float
    rows: tuple[GoldenRow, ...]

    @property
    def prompts(self) -> tuple[tuple[int, ...], ...]:
        """The token ids to run."""
        return tuple(row.prompt for row in self.rows)


class Deviation(NamedTuple):
    """A figure out of tolerance."""

    prompt: int  # index
    token_id: int | None  # None: the log-sum-exp
    expected: float
    computed: float


def golden_prompts(vocab_size: int, max_positions: int) -> tuple[tuple[int, ...], ...]:
    """Fixed prompts of several lengths, spread over the vocabulary by a multiplicative hash (Knuth, 6.4)."""
    return tuple(
        tuple(
            (length * 7919 + i + 1) * 2654435761 % 2**32 * vocab_size >> 32 for i in range(min(length, max_positions))
        )
        for length in PROMPT_LENGTHS
    )


def make_golden(
    prompts: tuple[tuple[int, ...], ...], logits: NDArray[np.float32], tolerance: float = TOLERANCE
) -> Golden:
    """Keep what matters of logits (P, V), each row those after the last token of a prompt; or of embeddings (P, E)."""
    rows = []
    for prompt, row in zip(prompts, logits, strict=True):
        top = np.argsort(-row, kind="stable")[:NUM_KEPT]
        rows.append(
            GoldenRow(
                prompt=prompt,
                top=tuple((int(i), float(row[i])) for i in top),
                log_sum_exp=_log_sum_exp(row),
            )
        )
    return Golden(tolerance=tolerance, rows=tuple(rows))


def refuse_foreign(golden: Golden, vocab_size: int, max_positions: int) -> None:
    """Raise ``BadCheckpoint`` for golden outputs that belong to another model: its vocabulary or context differs."""
    ids = [i for row in golden.rows for i in (*row.prompt, *(token for token, _ in row.top))]
    longest = max((len(prompt) for prompt in golden.prompts), default=0)
    shortest = min((len(prompt) for prompt in golden.prompts), default=0)
    if shortest < 1 or longest > max_positions or not all(0 <= i < vocab_size for i in ids):
        raise BadCheckpoint(
            f"golden outputs do not fit a vocabulary of {vocab_size} and a context of {max_positions}",
            remedy="Make the artifact again",
        )


def deviations(golden: Golden, logits: NDArray[np.float32]) -> list[Deviation]:
    """Every figure of logits (P, V) out of tolerance; a logit that is no number always is."""
    found = []
    for index, (row, computed) in enumerate(zip(golden.rows, logits, strict=True)):
        for token_id, expected in (*row.top, (None, row.log_sum_exp)):
            value = _log_sum_exp(computed) if token_id is None else float(computed[token_id])
            if not abs(value - expected) <= golden.tolerance:
                found.append(Deviation(index, token_id, expected, value))
    return found


def _log_sum_exp(row: NDArray[np.float32]) -> float:
    wide = row.astype(np.float64)
    highest = wide.max()
    return float(highest + np.log(np.exp(wide - highest).sum()))
