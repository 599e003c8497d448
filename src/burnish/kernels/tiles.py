"""Weights in the order the native kernels read them: panels of 16 outputs, one sequential stream.

A panel holds ``PANEL`` outputs for all inputs; outputs are padded with zeros to whole panels. Inside a panel:

- f32, f16, bf16: for every input, the 16 outputs.
- int8, int4, sparse8: for every group of inputs, 16 scales (float16) and, when asymmetric, 16 zero points (int16), then
  the group's blocks of ``BLOCK`` inputs; inputs are padded with zero codes to whole blocks. With ``group`` 0 there are
  no scales inside: ``scales`` holds one float32 per output.
  A block consists of vectors of 32 bytes: for v = 0, 1, ... first outputs 0-7, then outputs 8-15. The four bytes of
  32-bit lane r belong to output r (or 8 + r). int8: inputs 4v to 4v + 3, v < 8. int4: low nibbles are inputs 4v to
  4v + 3, high nibbles inputs 16 + 4v to 16 + 4v + 3, v < 4; symmetric codes are stored with 8 added.
  sparse8: codes of eight bits, at most two of every four inputs not zero, and only two stored. v < 4: two of inputs 8v
  to 8v + 3, then two of inputs 8v + 4 to 8v + 7. A fifth vector of either half says which: its byte b of a lane holds,
  in bits 2v and 2v + 1, the place among the four inputs of byte b of vector v.

So every layout is one transposition of the 16 rows of a panel, in items of two or four bytes.

Shapes: O outputs, I inputs, N groups of an output, P panels, W items of an output.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from burnish.core.errors import BadCheckpoint, BadRequest

Array = NDArray[Any]
Floats = NDArray[np.float32]
Kind = Literal["f32", "f16", "bf16", "int8", "int4", "sparse8"]
PANEL = 16  # outputs
BLOCK = 32  # inputs
ITEM_BYTES = {"f32": 4, "f16": 2, "bf16": 2}
ALIGNMENT = 64  # bytes
BITS = {"int8": 8, "int4": 4, "sparse8": 5}  # of a weight
_ITEMS: dict[str, Any] = {"f32": np.uint32, "f16": np.uint16, "bf16": np.uint16}
_HEADER: dict[int, Any] = {0: np.float16, 2 * PANEL: np.int16}  # offset in a group's header -> type
_SET = [[i for i in range(4) if pattern >> i & 1] for pattern in range(16)]  # which of four are not zero
_FITS = np.array([len(places) <= 2 for places in _SET])
_PLACES = np.array([sorted((*places, *(i for i in range(4) if i not in places))[:2]) for places in _SET], np.uint8)
_CHUNK = 64  # panels packed at a time: bounds the memory beside the result


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


class Codes(NamedTuple):
    """An integer weight: ``weight[o, i] = (codes[o, i] - zeros[o, n]) * scales[o, n]`` with n the group of input i."""

    codes: NDArray[np.int8]  # (O, I); signed when there are no zero points, else 0 to 15
    scales: Floats  # (O, N)
    zeros: NDArray[np.int16] | None  # (O, N)


class _Shape(NamedTuple):
    """How a weight of integers is cut."""

    panels: int
    groups: int
    span: int  # inputs of a group, padding included
    header_bytes: int  # scales and zero points of a group
    group_bytes: int


# --- sizes --------------------------------------------------------------------------------------------------------


def tile_bytes(kind: Kind, outputs: int, inputs: int, group: int = 0, asymmetric: bool = False) -> int:
    """Bytes of the data of a weight (O, I)."""
    if kind in ITEM_BYTES:
        return _up(outputs, PANEL) * inputs * ITEM_BYTES[kind]
    shape = _shape(kind, outputs, inputs, group, asymmetric)
    return shape.panels * shape.groups * shape.group_bytes


def _group(kind: Kind, inputs: int, num_groups: int, asymmetric: bool) -> int:
    """``Tiles.group`` for N scales of an output. Raises ``BadRequest`` for groups the layout cannot hold."""
    if kind == "sparse8" and num_groups > 1:
        raise BadRequest("sparse weights with scales of groups do not fit the kernels", remedy="Take one per output")
    if asymmetric and kind != "int4":
        raise BadRequest(f"{kind} weights with zero points do not fit the kernels", remedy="Compress without them")
    if num_groups == 1:
        return _up(inputs, BLOCK) if asymmetric else 0
    if inputs % num_groups or inputs // num_groups % BLOCK:
        remedy = f"Compress it again with groups of a multiple of {BLOCK}"
        raise BadRequest(f"groups of {inputs / num_groups:g} inputs do not fit the kernels", remedy=remedy)
    return inputs // num_groups


def _shape(kind: Kind, outputs: int, inputs: int, group: int, asymmetric: bool) -> _Shape:
    span = group or _up(inputs, BLOCK)
    header = (4 if asymmetric else 2) * PANEL if group else 0
    panels, groups = _up(outputs, PANEL) // PANEL, -(-inputs // span)
    return _Shape(panels, groups, span, header, header + span * PANEL * BITS[kind] // 8)


def _up(number: int, to: int) -> int:
    return -(-number // to) * to


# --- packing ------------------------------------------------------------------------------------------------------


def narrowest(weight: Floats) -> Kind:
    """The smallest kind that holds every value of weight (O, I) exactly; bfloat16 where both halves do."""
    pieces = [weight[at : at + _CHUNK * PANEL] for at in range(0, len(weight), _CHUNK * PANEL)]
    if all(_fits_bf16(piece) for piece in pieces):
        return "bf16"
    return "f16" if all(_fits_f16(piece) for piece in pieces) else "f32"


def pack_floats(weight: Floats, kind: Kind) -> Tiles:
    """Pack weight (O, I), float32, without loss.

    Raises ``BadCheckpoint`` for what is no finite number, ``BadRequest`` for a value the kind does not hold.
    """
    outputs, inputs = weight.shape
    data = _aligned(tile_bytes(kind, outputs, inputs))
    items = data.view(_ITEMS[kind]).reshape(-1, 1, inputs, PANEL)
    for first, rows in _chunks(weight):
        _refuse_infinite(rows, "weight")
        _interleave(_float_items(rows, kind), items[first // PANEL :])
    return Tiles(kind=kind, outputs=outputs, inputs=inputs, data=data)


def pack_codes(codes: NDArray[np.int8], scales: Array, zeros: Array | None, kind: Kind) -> Tiles:
    """Pack codes (O, I) with scales (O, N) and, when asymmetric, zero points (O, N), of I / N inputs each.

    Codes are signed, or 0 to 15 beside zero points. Scales of groups are rounded to float16; a single one per output
    stays float32 where there is no zero point. Raises ``BadRequest`` for groups the layout cannot hold,
    ``BadCheckpoint`` for codes out of range, for more than two of four that a sparse kind would have to hold, and for
    scales that are not finite or overflow float16.
    """
    outputs, inputs = codes.shape
    group = _group(kind, inputs, scales.shape[1], zeros is not None)
    codes, zeros = _unsigned(np.ascontiguousarray(codes), zeros)
    _refuse_range(codes, kind, zeros is not None)
    _refuse_infinite(scales, "scale")
    shape = _shape(kind, outputs, inputs, group, zeros is not None)
    data = _aligned(shape.panels * shape.groups * shape.group_bytes)
    groups = data.reshape(shape.panels, shape.groups, shape.group_bytes)
    words = _words_of(groups, shape)
    for first, rows in _chunks(codes):
        _interleave(_code_items(rows, kind, zeros is not None, shape), words[first // PANEL :])
    if group:
        _write_headers(groups, _half(scales), zeros)
    return Tiles(
        kind=kind,
        outputs=outputs,
        inputs=inputs,
        group=group,
        asymmetric=zeros is not None,
        data=data,
        scales=None if group else _padded(scales[:, 0].astype(np.float32), shape.panels * PANEL),
    )


def stack(parts: Sequence[Tiles]) -> Tiles | None:
    """Weights one above the other, (O1 + O2 + ..., I); None when they are stored differently or end inside a panel."""
    first = parts[0]
    likes = {(part.kind, part.inputs, part.group, part.asymmetric) for part in parts}
    if len(likes) > 1 or any(part.outputs % PANEL for part in parts[:-1]):
        return None
    data = _aligned(sum(part.data.size for part in parts))
    np.concatenate([part.data for part in parts], out=data)
    scales = [part.scales for part in parts if part.scales is not None]
    outputs = sum(part.outputs for part in parts)
    return replace(first, outputs=outputs, data=data, scales=np.concatenate(scales) if scales else None)


def _chunks(rows: Array) -> Iterator[tuple[int, Array]]:
    """A few panels at a time: the first output, and the rows, padded with zeros to whole panels."""
    for first in range(0, len(rows), _CHUNK * PANEL):
        chunk = rows[first : first + _CHUNK * PANEL]
        yield first, _padded(chunk, _up(len(chunk), PANEL))


def _padded(rows: Array, count: int) -> Array:
    if len(rows) == count:
        return np.ascontiguousarray(rows)
    wide = np.zeros((count, *rows.shape[1:]), rows.dtype)
    wide[: len(rows)] = rows
    return wide


def _interleave(items: Array, out: Array) -> None:
    """Rows of items (p * PANEL, W) into the first p panels of out (P, N, W / N, PANEL)."""
    _, groups, per_group, _ = out.shape
    panels = items.reshape(-1, PANEL, groups, per_group)
    out[: len(panels)] = panels.transpose(0, 2, 3, 1)


def _words_of(groups: Array, shape: _Shape) -> Array:
    """The codes among groups (P, N, bytes), without the headers: a view (P, N, W / N, PANEL)."""
    words = groups[:, :, shape.header_bytes :].view(np.uint32)
    return words.reshape(shape.panels, shape.groups, -1, PANEL)


def _write_headers(groups: Array, scales: Array, zeros: Array | None) -> None:
    """Scales and zero points (O, N) into groups (P, N, bytes)."""
    for at, values in ((0, scales), (2 * PANEL, zeros)):
        if values is not None:
            wide = _padded(values.astype(_HEADER[at]), len(groups) * PANEL).reshape(-1, PANEL, values.shape[1])
            groups[:, :, at : at + 2 * PANEL].view(_HEADER[at])[:] = wide.transpose(0, 2, 1)


def _float_items(rows: Floats, kind: Kind) -> Array:
    """The rows in their kind, as bits."""
    if kind == "f32":
        return rows.view(np.uint32)
    if not (_fits_bf16 if kind == "bf16" else _fits_f16)(rows):
        raise BadRequest(f"a weight has values that {kind} does not hold", remedy="Take f32")
    return rows.view(np.uint16)[:, 1::2] if kind == "bf16" else rows.astype(np.float16).view(np.uint16)


def _fits_bf16(rows: Floats) -> bool:
    return not np.ascontiguousarray(rows).view(np.uint16)[:, ::2].any()


def _fits_f16(rows: Floats) -> bool:
    with np.errstate(over="ignore"):
        return bool((rows.astype(np.float16).astype(np.float32) == rows).all())


def _code_items(rows: Array, kind: Kind, asymmetric: bool, shape: _Shape) -> Array:
    """Four codes (int8), eight (int4) or four kept ones and their places (sparse8) in each uint32: (O, W)."""
    wide = np.zeros((len(rows), shape.groups * shape.span), np.uint8)
    wide[:, : rows.shape[1]] = rows.view(np.uint8)
    if kind == "int8":
        return wide.view(np.uint32)
    if kind == "sparse8":
        return _sparse_items(wide)
    if not asymmetric:
        wide += np.uint8(8)  # wraps: -8 becomes 0
    halves = wide.reshape(len(rows), -1, 2, BLOCK // 2)
    nibbles = halves[:, :, 0] | (halves[:, :, 1] << np.uint8(4))
    return nibbles.reshape(len(rows), -1).view(np.uint32)


def _sparse_items(wide: NDArray[np.uint8]) -> Array:
    """Rows (O, I) as blocks of four words of kept codes and one of places: (O, I / 32 * 5)."""
    kept, places = halve(wide.view(np.int8))
    items = np.empty((len(wide), wide.shape[1] // BLOCK, 5, 4), np.uint8)
    items[:, :, :4] = kept.view(np.uint8).reshape(len(wide), -1, 4, 4)
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, np.newaxis]
    items[:, :, 4] = (places.reshape(len(wide), -1, 4, 4) << shifts).sum(axis=2, dtype=np.uint8)
    return items.reshape(len(wide), -1).view(np.uint32)


class Halved(NamedTuple):
    """Two of every four numbers, and which: (O, I / 2) each, places 0 to 3 in ascending order."""

    kept: NDArray[np.int8]
    places: NDArray[np.uint8]


def halve(codes: NDArray[np.int8]) -> Halved:
    """The two of every four codes (O, I) that are not zero, or fewer and zeros.

    Raises ``BadCheckpoint`` where more than two are not.
    """
    fours = np.ascontiguousarray(codes).reshape(-1, 4)
    patterns = np.packbits(fours != 0, axis=1, bitorder="little")[:, 0]
    if not _FITS[patterns].all():
        raise BadCheckpoint("more than two of four weights are not zero", remedy="Prune them 2:4, or take int8")
    places = _PLACES[patterns]
    kept = np.take_along_axis(fours, places, axis=1)
    return Halved(kept.reshape(len(codes), -1), places.reshape(len(codes), -1))


def double(halved: Halved) -> NDArray[np.int8]:
    """The codes (O, I) that were halved."""
    kept, places = (part.reshape(-1, 2) for part in halved)
    fours = np.zeros((len(kept), 4), np.int8)
    rows = np.arange(len(kept))
    for which in (0, 1):  # of two at one place, as no packing leaves them, one at most is not zero
        fours[rows, places[:, which]] |= kept[:, which]
    return fours.reshape(len(halved.kept), -1)


def _unsigned(codes: Array, zeros: Array | None) -> tuple[Array, Array | None]:
    """Codes beside zero points as 0 to 15: compressed-tensors has both signed."""
    if zeros is None or codes.min() >= 0:
        return codes, zeros
    return codes + np.int8(8), zeros.astype(np.int16) + np.int16(8)


def _half(scales: Array) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        half = scales.astype(np.float16)
    if not np.isfinite(half).all():
        raise BadCheckpoint(f"scale {abs(scales).max():g} of a group overflows float16", remedy="Compress again")
    return half


def _refuse_infinite(values: Array, what: str) -> None:
    for extreme in (values.min(), values.max()):  # both are no number when one value is none
        if not np.isfinite(extreme):
            raise BadCheckpoint(f"a {what} is {extreme}", remedy="Fetch the weights again")


def _refuse_range(codes: Array, kind: Kind, asymmetric: bool) -> None:
    assert codes.dtype == np.int8, codes.dtype
    if kind != "int4":
        return
    low, high = (0, 15) if asymmetric else (-8, 7)
    for extreme in (int(codes.min()), int(codes.max())):
        if not low <= extreme <= high:
            raise BadCheckpoint(f"code {extreme} is no int4 from {low} to {high}", remedy="Fetch the weights again")


def _aligned(size: int) -> NDArray[np.uint8]:
    """Bytes that begin on a cache line."""
    room = np.empty(size + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + size]


# --- unpacking ----------------------------------------------------------------------------------------------------


def unpack(tiles: Tiles) -> Floats:
    """The weight (O, I), float32."""
    if tiles.kind in BITS:
        return _dequantized(unpack_codes(tiles), tiles.group or tiles.inputs)
    kind = tiles.kind
    panels = tiles.data.view(_ITEMS[kind]).reshape(-1, tiles.inputs, PANEL)
    items = panels.transpose(0, 2, 1).reshape(-1, tiles.inputs)[: tiles.outputs]
    if kind == "bf16":
        widened: Floats = (items.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return widened
    floats: Floats = items.view(np.float16 if kind == "f16" else np.float32).astype(np.float32)
    return floats


def unpack_codes(tiles: Tiles) -> Codes:
    """Codes, scales and zero points of a weight of integers."""
    shape = _shape(tiles.kind, tiles.outputs, tiles.inputs, tiles.group, tiles.asymmetric)
    groups = tiles.data.reshape(shape.panels, shape.groups, shape.group_bytes)
    words = _words_of(groups, shape).transpose(0, 3, 1, 2).reshape(shape.panels * PANEL, -1)
    codes = _codes(np.ascontiguousarray(words).view(np.uint8), tiles)[: tiles.outputs, : tiles.inputs]
    if tiles.scales is not None:
        return Codes(codes, tiles.scales[: tiles.outputs, np.newaxis].copy(), None)
    zeros = _read_header(groups, 2 * PANEL, tiles.outputs) if tiles.asymmetric else None
    return Codes(codes, _read_header(groups, 0, tiles.outputs).astype(np.float32), zeros)


def _codes(packed: NDArray[np.uint8], tiles: Tiles) -> NDArray[np.int8]:
    """The reverse of ``_code_items``."""
    if tiles.kind == "int8":
        return packed.view(np.int8)
    if tiles.kind == "sparse8":
        return _sparse_codes(packed)
    halves = packed.reshape(len(packed), -1, 1, BLOCK // 2)
    codes = np.concatenate((halves & np.uint8(15), halves >> np.uint8(4)), axis=2).view(np.int8)
    return codes.reshape(len(packed), -1) - np.int8(0 if tiles.asymmetric else 8)


def _sparse_codes(packed: NDArray[np.uint8]) -> NDArray[np.int8]:
    """The reverse of ``_sparse_items``."""
    items = packed.reshape(len(packed), -1, 5, 4)
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, np.newaxis]
    places = items[:, :, 4:] >> shifts & np.uint8(3)
    kept = np.ascontiguousarray(items[:, :, :4]).view(np.int8)
    return double(Halved(kept.reshape(len(packed), -1), places.reshape(len(packed), -1)))


def _read_header(groups: Array, at: int, outputs: int) -> Array:
    values = groups[:, :, at : at + 2 * PANEL].view(_HEADER[at])
    rows: Array = values.transpose(0, 2, 1).reshape(-1, values.shape[1])[:outputs]
    return rows


def _dequantized(found: Codes, group: int) -> Floats:
    codes, scales, zeros = found
    weight = codes.astype(np.float32)
    for index in range(scales.shape[1]):
        part = weight[:, index * group : (index + 1) * group]
        if zeros is not None:
            part -= zeros[:, index : index + 1]
        part *= scales[:, index : index + 1]
    return weight
