"""A schedule becomes arrays. R rows (tokens of the step), S sequences."""

from collections.abc import Iterable
from collections.abc import Sequence as Items
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from burnish.engine.guide import Asked
from burnish.engine.sampling import BatchState, Row
from burnish.engine.scheduler import Chunk
from burnish.plan.ops import StepInputs


class Piece(NamedTuple):
    """Tokens of one sequence that are computed in a step."""

    tokens: Items[int]
    first: int  # position of the first of them
    blocks: list[int]
    wanted: Items[int]  # of them, ascending, whose logits are asked for


def make_batch(chunks: tuple[Chunk, ...], block_size: int) -> StepInputs:
    """Lay the chunks one after the other.

    Logits are wanted of a chunk's scored rows and, where it is the last of what is known, of its end and every draft.
    """
    return lay(map(_piece, chunks), block_size)


def _piece(chunk: Chunk) -> Piece:
    sequence, num_tokens = chunk.sequence, chunk.num_tokens
    first = sequence.num_computed
    tokens = [*sequence.tokens[first : first + num_tokens], *chunk.draft]
    wanted = [position - first for position in chunk.scored]
    wanted += range(num_tokens - 1, len(tokens)) if chunk.is_last else ()
    return Piece(tokens, first, sequence.blocks, wanted)


def lay(pieces: Iterable[Piece], block_size: int) -> StepInputs:
    """The pieces one after the other."""
    pieces = tuple(pieces)
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    last_rows: list[int] = []
    for own, first, blocks, wanted in pieces:
        last_rows += [len(tokens) + row for row in wanted]
        tokens += own
        positions += range(first, first + len(own))
        slots += [blocks[p // block_size] * block_size + p % block_size for p in range(first, first + len(own))]
    return StepInputs(
        tokens=_ints(tokens),
        positions=_ints(positions),
        slots=_ints(slots),
        query_lens=_ints([len(piece.tokens) for piece in pieces]),
        context_lens=_ints([piece.first + len(piece.tokens) for piece in pieces]),
        block_tables=_tables(pieces),
        last_rows=_ints(last_rows),
    )


def state_of(chunks: Items[Chunk]) -> BatchState:
    """What is chosen by, for every row of a chunk's end: where drafts stand, these are taken for right."""
    return tuple(_row(chunk, ahead) for chunk in chunks if chunk.is_last for ahead in range(1 + len(chunk.draft)))


class Guided(NamedTuple):
    """A sequence whose answer follows a grammar, and the rows of ``state_of`` that are its own."""

    asked: Asked
    rows: range


def guided_rows(chunks: Items[Chunk]) -> list[Guided]:
    """Of all that choose a token."""
    found, first = list[Guided](), 0
    for chunk in chunks:
        if not chunk.is_last:
            continue
        rows = range(first, first + 1 + len(chunk.draft))
        if chunk.sequence.guide is not None:
            found.append(Guided(Asked(chunk.sequence.guide, chunk.draft), rows))
        first = rows.stop
    return found


def _row(chunk: Chunk, ahead: int) -> Row:
    sequence, sampling = chunk.sequence, chunk.sequence.sampling
    output = [*sequence.output, *chunk.draft[:ahead]] if sampling.is_penalized else []
    uniform = sequence.uniform(ahead) if sampling.temperature > 0 else 0.0
    return Row(sampling, sequence.request.prompt, output, uniform)


def _ints(values: Items[int]) -> NDArray[np.int32]:
    return np.array(values, dtype=np.int32)


def _tables(pieces: Items[Piece]) -> NDArray[np.int32]:
    """The sequences' blocks, short ones padded with block 0: (S, blocks)."""
    if len(pieces) == 1:
        return np.array([pieces[0].blocks], dtype=np.int32)
    width = max(len(piece.blocks) for piece in pieces)
    tables = np.zeros((len(pieces), width), dtype=np.int32)
    for index, piece in enumerate(pieces):
        tables[index, : len(piece.blocks)] = piece.blocks
    return tables
