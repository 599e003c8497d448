"""A small paged cache with scattered blocks: what an engine gives the decoder, spelt out."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from burnish.kernels import ops
from burnish.models.decoder import Decoder
from burnish.models.layers.attention import Attend, AttentionRule, causal_attend

BLOCK = 8


class PagedCache:
    """Keys and values of a few sequences in one block pool per layer, blocks dealt out in shuffled order."""

    def __init__(self, decoder: Decoder, num_sequences: int, max_tokens: int, seed: int = 0) -> None:
        config = decoder.config
        per_sequence = -(-max_tokens // BLOCK)
        order = torch.randperm(num_sequences * per_sequence, generator=torch.Generator().manual_seed(seed))
        self.decoder, self.tables = decoder, order.view(num_sequences, per_sequence)
        shape = (order.numel(), BLOCK, config.num_kv_heads, config.head_dim)
        self.pools = [(torch.zeros(shape), torch.zeros(shape)) for _ in range(config.num_layers)]
        self.lengths = [0] * num_sequences

    def extend(self, pieces: Sequence[Sequence[int]]) -> list[Tensor]:
        """Compute the next tokens of each sequence (none for some) in one step -> logits of each (T, V)."""
        active = [i for i, piece in enumerate(pieces) if piece]
        starts = [self.lengths[i] for i in active]
        positions = torch.cat([torch.arange(s, s + len(pieces[i])) for s, i in zip(starts, active, strict=True)])
        tokens = torch.tensor([token for i in active for token in pieces[i]])
        for i in active:
            self.lengths[i] += len(pieces[i])
        with torch.no_grad():
            logits = self.decoder.logits(self.decoder(tokens, positions, self._attend(pieces, active, positions)))
        rows = iter(torch.split(logits, [len(pieces[i]) for i in active]))
        return [next(rows) if piece else logits[:0] for piece in pieces]

    def _attend(self, pieces: Sequence[Sequence[int]], active: list[int], positions: Tensor) -> Attend:
        owners = torch.tensor([i for i in active for _ in pieces[i]])
        slots = self.tables[owners, positions // BLOCK] * BLOCK + positions % BLOCK
        layout = ops.KeyLayout(
            tuple(len(pieces[i]) for i in active), tuple(self.lengths[i] for i in active), self.tables[active]
        )

        def attend(rule: AttentionRule, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self.pools[rule.layer]
            ops.write_keys(keys, slots, k)
            ops.write_keys(values, slots, v)
            rest: dict[str, Any] = {"window": rule.window, "softcap": rule.softcap}
            return ops.paged_attention(q, keys, values, layout, scale=rule.scale, **rest)

        return attend


def whole_logits(decoder: Decoder, tokens: Sequence[int]) -> Tensor:
    """Logits of one sequence without a cache -> (T, V)."""
    with torch.no_grad():
        hidden = decoder(torch.tensor(tokens), torch.arange(len(tokens)), causal_attend(1, len(tokens)))
        return decoder.logits(hidden)


def chunked_logits(decoder: Decoder, sequences: Sequence[Sequence[int]], chunk: int) -> list[Tensor]:
    """Logits of all sequences, computed together through a paged cache, ``chunk`` tokens of each per step."""
    longest = max(map(len, sequences))
    cache = PagedCache(decoder, len(sequences), longest)
    steps = [cache.extend([s[at : at + chunk] for s in sequences]) for at in range(0, longest, chunk)]
    return [torch.cat([step[i] for step in steps]) for i in range(len(sequences))]
