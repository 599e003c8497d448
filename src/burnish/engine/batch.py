"""A schedule becomes tensors. R rows (tokens of the step), S chunks."""

from typing import NamedTuple

import torch
from torch import Tensor

from burnish.engine.scheduler import Chunk
from burnish.kernels.ops import KeyLayout


class Batch(NamedTuple):
    """The inputs of one forward pass."""

    tokens: Tensor  # (R,)
    positions: Tensor  # (R,)
    slots: Tensor  # (R,) where each row's keys go: block * block_size + offset
    layout: KeyLayout
    last_rows: Tensor  # rows whose logits choose a token, one per chunk that is its sequence's last


def make_batch(chunks: tuple[Chunk, ...], block_size: int) -> Batch:
    """Lay the chunks one after the other."""
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    last_rows: list[int] = []
    width = max(len(chunk.sequence.blocks) for chunk in chunks)
    tables = torch.zeros(len(chunks), width, dtype=torch.int64)
    for index, (sequence, num_tokens) in enumerate(chunks):
        span = range(sequence.num_computed, sequence.num_computed + num_tokens)
        tokens += sequence.tokens[span.start : span.stop]
        positions += span
        slots += (sequence.blocks[p // block_size] * block_size + p % block_size for p in span)
        tables[index, : len(sequence.blocks)] = torch.tensor(sequence.blocks)
        if chunks[index].is_last:
            last_rows.append(len(tokens) - 1)
    layout = KeyLayout(
        query_lens=tuple(chunk.num_tokens for chunk in chunks),
        context_lens=tuple(chunk.sequence.num_computed + chunk.num_tokens for chunk in chunks),
        block_tables=tables,
    )
    return Batch(
        tokens=torch.tensor(tokens),
        positions=torch.tensor(positions),
        slots=torch.tensor(slots),
        layout=layout,
        last_rows=torch.tensor(last_rows, dtype=torch.int64),
    )
