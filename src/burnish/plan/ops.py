"""What a plan is made of. Operations read and write numbered buffers of an arena: one float32 row per token.

A model is lowered to these once; the native executor and the reference interpreter run the same list.

Shapes: R rows (tokens of a step), E hidden width, F inner width, H query heads, G key/value heads, D head width.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from burnish.core.types import KeyKind
from burnish.kernels.tiles import Tiles

Floats = NDArray[np.float32]
Buffer = int  # index into Plan.buffers
Activations = Literal["int8", "f32"]
LOGITS: Buffer = -1  # (last rows, V), handed to the caller


@dataclass(frozen=True, kw_only=True, eq=False)
class Embed:
    """out = table[token] * scale, plus positions[position]."""

    table: Tiles  # (V, E)
    positions: Tiles | None
    scale: float
    out: Buffer


@dataclass(frozen=True, kw_only=True, eq=False)
class Norm:
    """Normalise source over its width; ``add``: added to out instead of written.

    ``quantized``: the reader takes int8 blocks, so the row is quantized while it is at hand (here and below).
    """

    kind: Literal["rms", "layer"]
    weight: Floats  # (E,), any offset included
    bias: Floats | None  # (E,)
    eps: float
    source: Buffer
    out: Buffer
    add: bool
    quantized: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Linear:
    """out[:, column : column + O] = source @ weight.T + bias; ``add``: added to what is there.

    ``activations`` int8: the source is quantized in blocks of 32 inputs (scale = max / 127), integer weights only.
    """

    weight: Tiles
    bias: Floats | None  # (O,)
    activations: Activations
    source: Buffer
    out: Buffer
    column: int
    add: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Keys:
    """Normalise heads of q and k, rotate them, and write keys and values; source holds q, k, v side by side.

    q stays in source, ready for ``Attend``.
    """

    layer: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    q_norm: Floats | None  # (D,)
    k_norm: Floats | None  # (D,)
    eps: float
    cos: Floats | None  # (positions, D/2); None: no rotation
    sin: Floats | None
    source: Buffer


@dataclass(frozen=True, kw_only=True, eq=False)
class Attend:
    """Causal attention of q over the layer's keys and values; source as ``Keys`` left it, out (R, H * D)."""

    layer: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    window: int | None  # keys a query sees, itself included
    softcap: float | None
    source: Buffer
    out: Buffer
    quantized: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Gate:
    """out (R, F) = activation(source[:, :F]) * source[:, F:]."""

    activation: str
    width: int  # F
    source: Buffer
    out: Buffer
    quantized: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Activate:
    """out (R, F) = activation(source)."""

    activation: str
    width: int  # F
    source: Buffer
    out: Buffer
    quantized: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Gather:
    """Keep the rows whose logits are wanted; operations after this one work on those."""

    source: Buffer
    out: Buffer


@dataclass(frozen=True, kw_only=True, eq=False)
class Softcap:
    """buffer = tanh(buffer / cap) * cap."""

    buffer: Buffer
    cap: float


Operation = Embed | Norm | Linear | Keys | Attend | Gate | Activate | Gather | Softcap


class PlanShape(NamedTuple):
    """What an engine must know of the model."""

    vocab_size: int
    max_positions: int
    num_layers: int
    num_kv_heads: int
    head_dim: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """A lowered model."""

    shape: PlanShape
    buffers: tuple[int, ...]  # floats of a row
    operations: tuple[Operation, ...]
    weights: str  # name of the format most weights are stored in
    owner: Any = None  # whatever keeps the arrays' memory alive (a mapped file)

    @property
    def num_bytes(self) -> int:
        """Bytes of all weights; shared ones count once."""
        found = {id(tiles): tiles for op in self.operations for tiles in vars(op).values() if isinstance(tiles, Tiles)}
        return sum(tiles.data.nbytes for tiles in found.values())


class Arena(NamedTuple):
    """The memory a plan runs in."""

    num_blocks: int
    block_size: int  # tokens
    max_rows: int  # tokens of a step
    keys: KeyKind
    threads: int


class StepInputs(NamedTuple):
    """One batch. R rows, S sequences whose rows lie one after the other. All int32, contiguous."""

    tokens: NDArray[np.int32]  # (R,)
    positions: NDArray[np.int32]  # (R,)
    slots: NDArray[np.int32]  # (R,) where each row's keys go: block * block_size + offset
    query_lens: NDArray[np.int32]  # (S,) rows of each sequence
    context_lens: NDArray[np.int32]  # (S,) keys the last row of each sequence sees, itself included
    block_tables: NDArray[np.int32]  # (S, blocks), padded with any valid block
    last_rows: NDArray[np.int32]  # rows whose logits are wanted, ascending
