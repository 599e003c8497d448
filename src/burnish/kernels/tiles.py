"""Weights in the order the native kernels read them: panels of 16 outputs, one sequential stream.

A panel holds ``PANEL`` outputs for all inputs; outputs are padded with zeros to whole panels. Inside a panel:

- f32, f16, bf16: for every input, the 16 outputs.
- int8, int4: for every group of inputs, 16 scales (float16) and, when asymmetric, 16 zero points (int16), then the
  group's blocks of ``BLOCK`` inputs; inputs are padded with zero codes to whole blocks. With ``group`` 0 there are no
  scales inside: ``scales`` holds one float32 per output.
  A block consists of vectors of 32 bytes: for v = 0, 1, ... first outputs 0-7, then outputs 8-15. The four bytes of
  32-bit lane r belong to output r (or 8 + r). int8: inputs 4v to 4v + 3, v < 8. int4: low nibbles are inputs 4v to
  4v + 3, high nibbles inputs 16 + 4v to 16 + 4v + 3, v < 4; symmetric codes are stored with 8 added.

Shapes: O outputs, I inputs, N groups of an output, P panels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from burnish.core.errors import BadCheckpoint, BadRequest

Array = NDArray[Any]
Kind = Literal["f32", "f16", "bf16", "int8", "int4"]
PANEL = 16  # outputs
BLOCK = 32  # inputs
ITEM_BYTES = {"f32": 4, "f16": 2, "bf16": 2}
ALIGNMENT = 64  # bytes


@dataclass(frozen=True, kw_only=True, eq=False)
class Tiles:
    """One weight (O, I), packed."""

    kind: Kind
    outputs: int
    inputs: int
    group: int = 0  # inputs that share a scale, a multiple of BLOCK; 0: one scale per output, or a float kind
    asymmetric: bool = False
    data: NDArray[np.uint8]
    scales: NDArray[np.float32] | None = None  # (P * PANEL,) when integers have no groups


def pack_floats(weight: NDArray[np.float32], kind: Kind) -> Tiles:
    """A weight (O, I) in panels of f32, f16 or bf16, rounded to nearest where the kind cannot hold it."""
    outputs, inputs = weight.shape
    panels = _padded(weight, PANEL, 1).reshape(-1, PANEL, inputs).transpose(0, 2, 1)
    narrow = {"f32": _as_f32, "f16": _as_f16, "bf16": _as_bf16}[kind](panels)
    return Tiles(kind=kind, outputs=outputs, inputs=inputs, data=_aligned(narrow))


def narrowest(weight: NDArray[np.float32]) -> Kind:
    """The smallest float kind that holds every number of a weight as it is."""
    bits = np.ascontiguousarray(weight).view(np.uint32)
    if not (bits & 0xFFFF).any():
        return "bf16"
    with np.errstate(over="ignore"):
        return "f16" if np.array_equal(weight.astype(np.float16).astype(np.float32), weight) else "f32"


def pack_codes(codes: NDArray[np.int8], scales: Array, zeros: Array | None, kind: Kind) -> Tiles:
    """Integer codes (O, I) in panels; scales and, when asymmetric, zero points are (O, N), I / N inputs each.

    Symmetric codes are signed, asymmetric ones 0 to 15. Raises ``BadCheckpoint`` for scales no float16 holds, and
    ``BadRequest`` for groups that are no whole number of blocks.
    """
    outputs, inputs = codes.shape
    group = inputs // scales.shape[1]
    if scales.shape[1] == 1 and zeros is None:
        group = 0
    elif group % BLOCK:
        remedy = f"Compress it again with groups of a multiple of {BLOCK}"
        raise BadRequest(f"groups of {group} inputs do not fit the kernels", remedy=remedy)
    shift = 0 if kind == "int8" or zeros is not None else 8
    fill = shift if zeros is None else 0
    stored = _padded(codes.view(np.uint8) + np.uint8(shift), PANEL, BLOCK, fill=fill)
    blocks = (_pack_int4 if kind == "int4" else _pack_int8)(stored)  # (P, blocks, bytes)
    padded = _checked_scales(_padded(np.asarray(scales, dtype=np.float32), PANEL, 1), half=group > 0)
    if not group:
        channel = np.ascontiguousarray(padded[:, 0])
        return Tiles(kind=kind, outputs=outputs, inputs=inputs, data=_aligned(blocks), scales=channel)
    parts = [_per_group(padded.astype(np.float16))]
    if zeros is not None:
        parts.append(_per_group(_padded(zeros.astype(np.int16), PANEL, 1)))
    parts.append(blocks.reshape(len(blocks), scales.shape[1], -1))
    data = _aligned(np.concatenate(parts, axis=2))
    return Tiles(kind=kind, outputs=outputs, inputs=inputs, group=group, asymmetric=zeros is not None, data=data)


def stack(parts: Sequence[Tiles]) -> Tiles | None:
    """Weights one above the other, (O1 + O2 + ..., I); None when they are stored differently or end inside a panel."""
    first = parts[0]
    likes = {(part.kind, part.inputs, part.group, part.asymmetric) for part in parts}
    if len(likes) > 1 or any(part.outputs % PANEL for part in parts[:-1]):
        return None
    scales = (
        None if first.scales is None else np.concatenate([part.scales for part in parts if part.scales is not None])
    )
    return replace(
        first,
        outputs=sum(part.outputs for part in parts),
        data=_aligned(np.concatenate([part.data for part in parts])),
        scales=scales,
    )


def unpack(tiles: Tiles) -> NDArray[np.float32]:
    """The weight as float32 (O, I)."""
    if tiles.kind in ITEM_BYTES:
        panels = _floats(tiles).reshape(-1, tiles.inputs, PANEL).transpose(0, 2, 1)
        return np.ascontiguousarray(panels.reshape(-1, tiles.inputs)[: tiles.outputs])
    padded = -(-tiles.inputs // BLOCK) * BLOCK
    groups = padded // tiles.group if tiles.group else 1
    data = tiles.data.reshape(-(-tiles.outputs // PANEL), groups, -1)
    header = 2 * PANEL * (1 + tiles.asymmetric) if tiles.group else 0
    blocks = np.ascontiguousarray(data[:, :, header:]).reshape(len(data), padded // BLOCK, -1)
    codes = (_unpack_int4 if tiles.kind == "int4" else _unpack_int8)(blocks).astype(np.float32)  # (O', I')
    grouped = codes.reshape(len(codes), groups, -1) - _zeros_of(tiles, data)
    weight = grouped * _scales_of(tiles, data)[:, :, None]
    return np.ascontiguousarray(weight.reshape(len(codes), padded)[: tiles.outputs, : tiles.inputs])


def _scales_of(tiles: Tiles, data: Array) -> NDArray[np.float32]:
    """Scales (O', N) of a weight whose bytes are ``data`` (P, N, bytes)."""
    if tiles.scales is not None:
        return tiles.scales[:, None]
    return _from_groups(data, 0, np.float16).astype(np.float32)


def _zeros_of(tiles: Tiles, data: Array) -> Array:
    """What stands for zero, (O', N, 1) or one number."""
    if tiles.asymmetric:
        return _from_groups(data, 2 * PANEL, np.int16).astype(np.float32)[:, :, None]
    return np.float32(8 if tiles.kind == "int4" else 0) * np.ones(1, np.float32)


def _pack_int4(codes: Array) -> NDArray[np.uint8]:
    """Codes 0 to 15 (O, I), padded -> (P, blocks, 256)."""
    # (panel, half, lane, block, nibble, v, byte)
    split = codes.reshape(-1, 2, 8, codes.shape[1] // BLOCK, 2, 4, 4)
    joined: NDArray[np.uint8] = split[:, :, :, :, 0] | (split[:, :, :, :, 1] << np.uint8(4))
    return joined.transpose(0, 3, 4, 1, 2, 5).reshape(len(split), -1, 256)


def _unpack_int4(blocks: Array) -> Array:
    """(P, blocks, 256) -> codes (O, I)."""
    joined = blocks.reshape(len(blocks), -1, 4, 2, 8, 4).transpose(0, 3, 4, 1, 2, 5)
    split = np.stack([joined & 15, joined >> 4], axis=4)
    return split.reshape(len(blocks) * PANEL, -1)


def _pack_int8(codes: Array) -> NDArray[np.uint8]:
    """Codes (O, I), padded -> (P, blocks, 512)."""
    split = codes.reshape(-1, 2, 8, codes.shape[1] // BLOCK, 8, 4)
    return split.transpose(0, 3, 4, 1, 2, 5).reshape(len(split), -1, 512)


def _unpack_int8(blocks: Array) -> Array:
    """(P, blocks, 512) -> signed codes (O, I)."""
    split = blocks.reshape(len(blocks), -1, 8, 2, 8, 4).transpose(0, 3, 4, 1, 2, 5)
    return split.reshape(len(blocks) * PANEL, -1).view(np.int8)


def _per_group(values: Array) -> NDArray[np.uint8]:
    """Two-byte values (O, N), padded -> (P, N, 32)."""
    panels = values.reshape(-1, PANEL, values.shape[1]).transpose(0, 2, 1)
    return np.ascontiguousarray(panels).view(np.uint8).reshape(len(panels), -1, 2 * PANEL)


def _from_groups(data: Array, offset: int, dtype: type[np.generic]) -> Array:
    """What ``_per_group`` stored at ``offset`` of every group (P, N, bytes) -> (O, N)."""
    found = np.ascontiguousarray(data[:, :, offset : offset + 2 * PANEL]).view(dtype)
    return found.transpose(0, 2, 1).reshape(-1, data.shape[1])


def _checked_scales(scales: NDArray[np.float32], *, half: bool) -> NDArray[np.float32]:
    largest = np.finfo(np.float16 if half else np.float32).max
    if not (np.abs(scales) <= largest).all():  # NaN is not below anything
        raise BadCheckpoint("a scale of a weight is no number the kernels hold", remedy="Fetch the weights again")
    return scales


def _padded(array: Array, outputs: int, inputs: int, *, fill: int = 0) -> Array:
    """Filled up to whole multiples of ``outputs`` rows and ``inputs`` columns."""
    rows, columns = array.shape
    wanted = (rows + -rows % outputs, columns + -columns % inputs)
    if wanted == array.shape:
        return array
    out = np.full(wanted, fill, dtype=array.dtype)
    out[:rows, :columns] = array
    return out


def _aligned(array: Array) -> NDArray[np.uint8]:
    """A copy of the bytes, flat, at an aligned address."""
    memory = np.empty(array.nbytes + ALIGNMENT, dtype=np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    out = memory[start : start + array.nbytes]
    out.view(array.dtype).reshape(array.shape)[...] = array
    return out


def _floats(tiles: Tiles) -> NDArray[np.float32]:
    if tiles.kind == "bf16":
        return (tiles.data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return tiles.data.view(np.float32 if tiles.kind == "f32" else np.float16).astype(np.float32)


def _as_f32(values: Array) -> Array:
    return values


def _as_f16(values: Array) -> Array:
    return values.astype(np.float16)


def _as_bf16(values: Array) -> Array:
    """Round to nearest even on the bits; infinities and NaN keep their upper half."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    return np.where((bits & 0x7F800000) == 0x7F800000, bits, rounded).astype(np.uint32).__rshift__(16).astype(np.uint16)
