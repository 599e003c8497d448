"""A schedule becomes arrays. R rows (tokens of the step), S chunks."""

from collections.abc import Sequence as Items

import numpy as np
from numpy.typing import NDArray

from burnish.engine.scheduler import Chunk
from burnish.plan.ops import StepInputs


def make_batch(chunks: tuple[Chunk, ...], block_size: int) -> StepInputs:
    """Lay the chunks one after the other.

    Logits are wanted of a chunk's scored rows and, where it is the last of what is known, of its end.
    """
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    last_rows: list[int] = []
    for chunk in chunks:
        sequence, num_tokens = chunk
        first, row = sequence.num_computed, len(tokens)
        tokens += sequence.tokens[first : first + num_tokens]
        positions += range(first, first + num_tokens)
        blocks = sequence.blocks
        slots += [blocks[p // block_size] * block_size + p % block_size for p in range(first, first + num_tokens)]
        last_rows += [row + position - first for position in chunk.scored]
        if chunk.is_last:
            last_rows.append(len(tokens) - 1)
    return StepInputs(
        tokens=_ints(tokens),
        positions=_ints(positions),
        slots=_ints(slots),
        query_lens=_ints([chunk.num_tokens for chunk in chunks]),
        context_lens=_ints([chunk.sequence.num_computed + chunk.num_tokens for chunk in chunks]),
        block_tables=_tables(chunks),
        last_rows=_ints(last_rows),
    )


def _ints(values: Items[int]) -> NDArray[np.int32]:
    return np.array(values, dtype=np.int32)


def _tables(chunks: tuple[Chunk, ...]) -> NDArray[np.int32]:
    """The chunks' blocks, short ones padded with block 0: (S, blocks)."""
    if len(chunks) == 1:
        return np.array([chunks[0].sequence.blocks], dtype=np.int32)
    width = max(len(chunk.sequence.blocks) for chunk in chunks)
    tables = np.zeros((len(chunks), width), dtype=np.int32)
    for index, chunk in enumerate(chunks):
        tables[index, : len(chunk.sequence.blocks)] = chunk.sequence.blocks
    return tables
