"""Sequences in scattered blocks of a plan's executor: what an engine does, spelt out."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from burnish.core.types import KeyKind
from burnish.plan.executor import Executor
from burnish.plan.interpreter import Interpreter
from burnish.plan.ops import Arena, Floats, Plan, StepInputs

BLOCK = 8


def interpreted(plan: Plan, arena: Arena) -> Executor:
    """The reference interpreter."""
    return Interpreter(plan, arena.num_blocks, arena.block_size, keys=arena.keys)


class Paged:
    """A few sequences in scattered blocks, and what runs their plan: the interpreter unless ``make`` says otherwise."""

    def __init__(
        self,
        plan: Plan,
        sequences: Sequence[Sequence[int]],
        *,
        keys: KeyKind = "f32",
        seed: int = 0,
        make: Callable[[Plan, Arena], Executor] = interpreted,
    ) -> None:
        self.sequences = sequences
        per_sequence = -(-max(map(len, sequences)) // BLOCK)
        order = np.random.default_rng(seed).permutation(len(sequences) * per_sequence)
        self.tables = order.reshape(len(sequences), per_sequence).astype(np.int32)
        rows = sum(map(len, sequences))
        self.run = make(plan, Arena(order.size, BLOCK, rows, keys, threads=1))

    def step(self, spans: dict[int, range], wanted: Sequence[int] | None = None) -> Floats:
        """Compute spans of some sequences in one batch -> logits of the rows wanted, by default of all."""
        rows = [(s, position) for s, span in spans.items() for position in span]
        last = range(len(rows)) if wanted is None else wanted
        return self.run(
            StepInputs(
                tokens=ints([self.sequences[s][position] for s, position in rows]),
                positions=ints([position for _, position in rows]),
                slots=ints([self.tables[s, p // BLOCK] * BLOCK + p % BLOCK for s, p in rows]),
                query_lens=ints([len(span) for span in spans.values()]),
                context_lens=ints([span.stop for span in spans.values()]),
                block_tables=self.tables[list(spans)],
                last_rows=ints(list(last)),
            )
        )

    def chunked(self, chunk: int) -> list[Floats]:
        """Logits of every sequence, all of them computed together, ``chunk`` tokens of each per step."""
        found: list[list[Floats]] = [[] for _ in self.sequences]
        for at in range(0, max(map(len, self.sequences)), chunk):
            spans = {s: range(at, min(at + chunk, len(t))) for s, t in enumerate(self.sequences) if at < len(t)}
            logits = self.step(spans)
            for s, span in spans.items():
                found[s].append(logits[: len(span)])
                logits = logits[len(span) :]
        return [np.concatenate(pieces) for pieces in found]


def ints(values: list[int]) -> Any:
    return np.array(values, dtype=np.int32)


def equal(some: list[Floats], others: list[Floats]) -> bool:
    """To the bit."""
    return all(np.array_equal(one, other) for one, other in zip(some, others, strict=True))


def deviation(ours: Floats, theirs: Tensor) -> float:
    """Root of the mean squared difference, relative to that of the logits."""
    return float((torch.from_numpy(ours) - theirs).norm() / theirs.norm())
