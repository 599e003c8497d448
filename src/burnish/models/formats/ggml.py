"""Weights in the blocks of ggml, as GGUF files hold them.

Source: ggml-org/llama.cpp, ggml/src/ggml-common.h (the blocks) and ggml-quants.c (``dequantize_row_*``).
Blocks of 32 inputs with one scale become native groups as they are. Blocks of 256 nest scales in scales, which no
native format holds: the library of llama.cpp dequantizes them, and they are rounded.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from burnish.core.errors import BadCheckpoint
from burnish.models.formats.base import Packed, TensorSpec, WeightFormat
from burnish.models.formats.dense import DENSE
from burnish.models.formats.foreign import Foreign, Grouped, expected, nearest_format
from burnish.models.formats.integer import IntegerFormat

METHOD = "gguf"


class Block(NamedTuple):
    """Sizes of a block; ``bits`` of the native codes that hold it exactly, None where none do."""

    inputs: int
    bytes: int
    bits: int | None = None


BLOCKS = {
    "Q4_0": Block(32, 18, 4),
    "Q4_1": Block(32, 20),
    "Q5_0": Block(32, 22, 8),
    "Q5_1": Block(32, 24),
    "Q8_0": Block(32, 34, 8),
    "Q2_K": Block(256, 84),
    "Q3_K": Block(256, 110),
    "Q4_K": Block(256, 144),
    "Q5_K": Block(256, 176),
    "Q6_K": Block(256, 210),
    "IQ4_NL": Block(32, 18),
    "IQ4_XS": Block(256, 136),
}


@dataclass(frozen=True)
class Blocks(Foreign):
    """A weight (O, I) as rows of blocks of one type."""

    kind: str

    def layout(self, outputs: int, inputs: int) -> dict[str, TensorSpec]:
        """The bytes of the blocks, a row per output."""
        block = BLOCKS[self.kind]
        if inputs % block.inputs:
            raise BadCheckpoint(f"{inputs} inputs are no whole number of {self.kind} blocks", remedy="Fetch it again")
        return {"weight": TensorSpec((outputs, inputs // block.inputs * block.bytes), torch.uint8)}

    def becomes(self, inputs: int) -> IntegerFormat:
        """Its native format."""
        bits = BLOCKS[self.kind].bits
        return nearest_format(inputs) if bits is None else expected(bits, 32, inputs, symmetric=True, scattered=False)

    def read(self, stored: Packed) -> Grouped | Tensor:
        """The weight from its blocks; where no native format can hold them, as float32."""
        exact = _EXACT.get(self.kind)
        found = None if exact is None else exact(_cut(stored["weight"], BLOCKS[self.kind].bytes))
        return _by_library(self.kind, stored["weight"]) if found is None else found


def dequantize(kind: str, rows: Tensor) -> Tensor:
    """Rows of blocks as float32 (O, I)."""
    weight = Blocks(kind).read({"weight": rows})
    return weight.dequantize() if isinstance(weight, Grouped) else weight


def read_gguf(settings: Mapping[str, Any], modules: Iterable[str]) -> dict[str, WeightFormat | Foreign]:
    """How each linear module is stored. Raises ``BadCheckpoint`` for a type burnish does not read."""
    types = settings["types"]
    for name, kind in types.items():
        if kind not in BLOCKS:
            raise BadCheckpoint(
                f"{name} is stored as {kind}, which is not supported",
                remedy=f"Make another file with llama-quantize. Known: F32, F16, BF16, {', '.join(BLOCKS)}",
            )
    return {name: Blocks(types[name]) if name in types else DENSE for name in modules}


def _cut(rows: Tensor, num_bytes: int) -> Tensor:
    """Rows of bytes as blocks (O, N, bytes)."""
    return rows.contiguous().view(rows.shape[0], -1, num_bytes)


def _halves(blocks: Tensor, at: int) -> Tensor:
    """The float16 number at a byte of each block -> (O, N)."""
    return blocks[..., at : at + 2].contiguous().view(torch.float16).squeeze(-1)


def _nibbles(blocks: Tensor, at: int) -> Tensor:
    """16 bytes from ``at`` on: the low halves of all, then the high ones -> (O, N, 32)."""
    pairs = blocks[..., at : at + 16]
    return torch.cat((pairs & 15, pairs >> 4), -1)


def _around(bits: int, codes: Tensor, scales: Tensor, middle: int) -> Grouped:
    return Grouped(bits, codes.flatten(1), scales, torch.full(scales.shape, middle, dtype=torch.uint8))


def _q4_0(blocks: Tensor) -> Grouped:
    return _around(4, _nibbles(blocks, 2), _halves(blocks, 0), 8)


def _q4_1(blocks: Tensor) -> Grouped | None:
    """None unless every minimum is a whole number of steps, from none to 15, below zero."""
    scales, minima = _halves(blocks, 0).float(), _halves(blocks, 2).float()
    zeros = (-minima / scales).nan_to_num(0.0).round().clamp(0, 15)
    if not torch.equal(zeros * scales, -minima):
        return None
    return Grouped(4, _nibbles(blocks, 4).flatten(1), scales, zeros.to(torch.uint8))


def _q5_0(blocks: Tensor) -> Grouped:
    fifth = (blocks[..., 2:6].unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8)) & 1
    return _around(8, _nibbles(blocks, 6) | (fifth.flatten(2) << 4), _halves(blocks, 0), 16)


def _q8_0(blocks: Tensor) -> Grouped:
    return _around(8, blocks[..., 2:] ^ 128, _halves(blocks, 0), 128)


_EXACT: dict[str, Callable[[Tensor], Grouped | None]] = {"Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q8_0": _q8_0}


def _by_library(kind: str, rows: Tensor) -> Tensor:
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    return torch.from_numpy(dequantize(rows.contiguous().numpy(), GGMLQuantizationType[kind]))
