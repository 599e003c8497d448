"""The slow obvious version of every operation: the specification other backends are held against.

Row independence: every operation computes a row in an order of additions that does not depend on the
other rows of the batch, on how a prompt was cut into chunks, or on which blocks hold the context.
Two rules give it on top of an ordinary BLAS: matrix products see a multiple of ``ROW_TILE`` rows (below
that, BLAS libraries switch to other loops), and attention walks the context in partitions of
``KEY_PARTITION`` keys, so that every product has the same inner size.

Shapes: R rows (tokens of the step), S sequences, T query tokens of one sequence, I inputs, O outputs,
H query heads, G key/value heads, D head width, N blocks, B tokens of a block.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from burnish.core.types import KeyKind

ROW_TILE = 16
KEY_PARTITION = 256
QUANTIZED_BLOCK = 32
DUST = 1e-30  # what is quantized counts as zero where nothing is larger: 127 / largest stays finite


class KeyLayout(NamedTuple):
    """Where the keys and values of each sequence of a step lie in the block pool."""

    query_lens: tuple[int, ...]  # T of each sequence; rows of a sequence are consecutive
    context_lens: tuple[int, ...]  # keys visible to the last query of each sequence, itself included
    block_tables: Tensor  # (S, blocks) int64, padded with any valid block


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias`` for x (R, I), weight (O, I), bias (O,) -> (R, O)."""
    rows = x.shape[0]
    missing = -rows % ROW_TILE
    if missing:
        x = functional.pad(x, (0, 0, 0, missing))
    return functional.linear(x, weight, bias)[:rows]


class QuantizedRows(NamedTuple):
    """Rows in blocks of ``QUANTIZED_BLOCK`` inputs: ``x = codes * scales``; the last block is filled up with zeros."""

    codes: Tensor  # (R, blocks, QUANTIZED_BLOCK), whole numbers -127 to 127 in float32
    scales: Tensor  # (R, blocks); not a number where a block holds what is no finite number

    def dequantize(self, width: int) -> Tensor:
        """The rows these codes stand for, (R, width)."""
        return (self.codes * self.scales.unsqueeze(-1)).flatten(1)[:, :width]


def quantize_blocks(x: Tensor) -> QuantizedRows:
    """Symmetric int8 of x (R, I), block by block: scale = max / 127, code = x * (127 / max) rounded half to even."""
    padded = functional.pad(x, (0, -x.shape[1] % QUANTIZED_BLOCK))
    blocks = padded.view(len(x), padded.shape[1] // QUANTIZED_BLOCK, QUANTIZED_BLOCK)
    largest = blocks.abs().amax(-1)
    is_finite = blocks.isfinite().all(-1)
    inverse = torch.where((largest >= DUST) & is_finite, 127 / largest, 0.0)
    codes = (torch.where(is_finite.unsqueeze(-1), blocks, 0.0) * inverse.unsqueeze(-1)).round()
    return QuantizedRows(codes, torch.where(is_finite, largest / 127, torch.nan))


def stored_keys(rows: Tensor, kind: KeyKind) -> Tensor:
    """Keys or values (R, G, D) as ``kind`` holds them; int8 has one scale per row and head."""
    if kind == "f32":
        return rows
    if kind == "f16":
        return rows.half().float()
    largest = rows.abs().amax(-1, keepdim=True)
    inverse = torch.where(largest >= DUST, 127 / largest, 0.0)
    return (rows * inverse).round() * (largest / 127)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square normalisation over the last axis (Zhang & Sennrich 2019)."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Layer normalisation over the last axis (Ba et al. 2016)."""
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps) * weight + bias


def silu(x: Tensor) -> Tensor:
    """``x * sigmoid(x)``; spelt out, because torch's own rounds the last lanes of a row differently."""
    return x / (1 + torch.exp((-x).clamp(max=80.0)))  # clamped: a finite gradient everywhere


def gelu(x: Tensor) -> Tensor:
    """``x * Phi(x)`` by the error function (Hendrycks & Gimpel 2016)."""
    return x * (0.5 * (1 + torch.erf(x * 0.5**0.5)))


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh approximation of ``gelu``."""
    return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x * x * x)))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding, halves convention (Su et al. 2021): x (R, heads, D), cos and sin (R, D/2)."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def write_keys(cache: Tensor, slots: Tensor, rows: Tensor) -> None:
    """Store rows (R, G, D) into cache (N, B, G, D) at flat token slots (R,): slot = block * B + offset."""
    cache.view(-1, *cache.shape[2:])[slots] = rows


def paged_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    layout: KeyLayout,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Causal attention of q (R, H, D) over a block pool, keys and values (N, B, G, D) -> (R, H, D).

    A query at position p sees keys max(0, p - window + 1) .. p of its own sequence.
    Sequences with the same number of queries are computed together.
    """
    out = torch.empty_like(q)
    starts = torch.tensor((0, *layout.query_lens)).cumsum(0)
    for length in sorted(set(layout.query_lens)):
        members = [s for s, t in enumerate(layout.query_lens) if t == length]
        rows = (starts[members].unsqueeze(1) + torch.arange(length)).flatten()
        ends = torch.tensor([layout.context_lens[s] for s in members])
        positions = ends.unsqueeze(1) - length + torch.arange(length)  # (S, T)
        mixed = _attend_group(
            q[rows].view(len(members), length, *q.shape[1:]),
            (keys, values),
            layout.block_tables[members],
            positions,
            (scale, window, softcap),
        )
        out[rows] = mixed.reshape(-1, *q.shape[1:])
    return out


def _attend_group(
    q: Tensor,
    caches: tuple[Tensor, Tensor],
    tables: Tensor,
    positions: Tensor,
    rule: tuple[float, int | None, float | None],
) -> Tensor:
    """Online softmax over fixed partitions of keys (Milakov & Gimelshein 2018); q (S, T, H, D)."""
    scale, window, softcap = rule
    sequences, length, heads, width = q.shape
    groups = caches[0].shape[2]
    # (S * G, T * H/G, D), rows padded to a whole number of tiles
    grouped = q.view(sequences, length, groups, -1, width).transpose(1, 2).reshape(sequences * groups, -1, width)
    per_token = heads // groups
    rows = length * per_token
    grouped = functional.pad(grouped, (0, 0, 0, -rows % ROW_TILE))
    row_positions = functional.pad(positions.repeat_interleave(per_token, 1), (0, grouped.shape[1] - rows))
    best = grouped.new_full((*grouped.shape[:2], 1), float("-inf"))
    total = torch.zeros_like(best)
    mixed = torch.zeros_like(grouped)
    lowest = 0 if window is None else max(0, int(positions.min()) - window + 1)
    for start in range(lowest // KEY_PARTITION * KEY_PARTITION, int(positions.max()) + 1, KEY_PARTITION):
        k, v = (_gather(cache, tables, start) for cache in caches)
        scores = torch.bmm(grouped, k.transpose(1, 2)) * scale
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        hidden = _hidden(row_positions, start, window).repeat_interleave(groups, 0)
        scores = scores.masked_fill(hidden, float("-inf"))
        highest = torch.maximum(best, scores.amax(-1, keepdim=True))
        anchor = highest.masked_fill(highest == float("-inf"), 0.0)
        weights = torch.exp(scores - anchor)
        kept = torch.exp(best - anchor)
        total = total * kept + weights.sum(-1, keepdim=True)
        mixed = mixed * kept + torch.bmm(weights, v)
        best = highest
    mixed = (mixed / total)[:, :rows].view(sequences, groups, length, per_token, width)
    return mixed.transpose(1, 2).reshape(sequences, length, heads, width)


def _gather(cache: Tensor, tables: Tensor, start: int) -> Tensor:
    """Keys or values start .. start + KEY_PARTITION of every sequence -> (S * G, KEY_PARTITION, D)."""
    per_block = cache.shape[1]
    slots = torch.arange(start, start + KEY_PARTITION)
    columns = (slots // per_block).clamp(max=tables.shape[1] - 1)
    taken = cache.view(-1, *cache.shape[2:])[tables[:, columns] * per_block + slots % per_block]
    return taken.transpose(1, 2).reshape(-1, KEY_PARTITION, cache.shape[3])


def _hidden(positions: Tensor, start: int, window: int | None) -> Tensor:
    """True where a key of the partition may not be seen by the query: (S, rows, KEY_PARTITION)."""
    keys = torch.arange(start, start + KEY_PARTITION)
    queries = positions.unsqueeze(-1)
    hidden = keys > queries
    return hidden if window is None else hidden | (keys <= queries - window)
