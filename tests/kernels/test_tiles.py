"""The layout of weights: a slow loop straight from its text, and back again without loss."""

import struct
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from burnish.core.errors import BadCheckpoint, BadRequest
from burnish.kernels.tiles import (
    ALIGNMENT,
    BLOCK,
    PANEL,
    Kind,
    Tiles,
    narrowest,
    pack_codes,
    pack_floats,
    stack,
    tile_bytes,
    unpack,
    unpack_codes,
)

Floats = NDArray[np.float32]
FLOAT_KINDS: list[Kind] = ["f32", "f16", "bf16"]
ODD = st.integers(1, 70)


class Integers(NamedTuple):
    """What an integer weight is packed from."""

    codes: NDArray[np.int8]
    scales: Floats
    zeros: NDArray[Any] | None
    kind: Any

    @property
    def weight(self) -> Floats:
        codes = self.codes.astype(np.float32).reshape(*self.scales.shape, -1)
        shifted = codes if self.zeros is None else codes - self.zeros[:, :, np.newaxis]
        weight: Floats = (shifted * self.scales[:, :, np.newaxis]).reshape(self.codes.shape)
        return weight


def integers(kind: str, outputs: int, inputs: int, groups: int = 1, *, asymmetric: bool = False) -> Integers:
    source = np.random.default_rng(outputs * 1000 + inputs)
    lowest, highest = (0, 16) if asymmetric else (-8, 8) if kind == "int4" else (-128, 128)
    codes = source.integers(lowest, highest, (outputs, inputs)).astype(np.int8)
    if kind == "sparse8":
        order = source.random((outputs, -(-inputs // 4), 4)).argsort(-1).reshape(outputs, -1)[:, :inputs]
        codes *= order < 2
    scales = source.standard_normal((outputs, groups)).astype(np.float16).astype(np.float32)
    zeros = source.integers(0, 16, scales.shape).astype(np.uint8) if asymmetric else None
    return Integers(codes, scales, zeros, kind)


def floats(outputs: int, inputs: int, bits: int = 32) -> Floats:
    """Random numbers whose lower bits are zero: 16 of them fit bfloat16, 19 of them float16 too."""
    drawn = np.random.default_rng(inputs).standard_normal((outputs, inputs)).astype(np.float32)
    return (drawn.view(np.uint32) >> np.uint32(32 - bits) << np.uint32(32 - bits)).view(np.float32)


def matrix(rows: list[list[float]]) -> Floats:
    return np.array(rows, dtype=np.float32)


# --- the text of the layout, item by item --------------------------------------------------------------------------


def slow_floats(weight: Floats, kind: Kind) -> bytes:
    """For every panel and input, the 16 outputs."""
    outputs, inputs = weight.shape
    written = bytearray()
    for panel in range(-(-outputs // 16)):
        for i in range(inputs):
            for o in range(16 * panel, 16 * panel + 16):
                value = float(weight[o, i]) if o < outputs else 0.0
                four = struct.pack("<f", value)
                written += {"f32": four, "bf16": four[2:], "f16": struct.pack("<e", value)}[kind]
    return bytes(written)


def slow_codes(integers: Integers) -> bytes:
    """For every panel and group its scales and zero points, then its blocks, vector by vector, byte by byte."""
    codes, scales, zeros, kind = integers
    outputs, inputs = codes.shape
    num_groups = scales.shape[1]
    in_groups = num_groups > 1 or zeros is not None
    group = inputs // num_groups if num_groups > 1 else -(-inputs // 32) * 32

    def code(o: int, i: int) -> int:
        return int(codes[o, i]) if o < outputs and i < inputs else 0

    def byte(o: int, v: int, position: int) -> int:
        if kind == "int8":
            return code(o, 4 * v + position) & 255
        if kind == "sparse8":
            return sparse_byte(o, v // 5, v % 5, position)
        shift = 0 if zeros is not None else 8
        first = v // 4 * 32 + v % 4 * 4 + position  # v counts on over the blocks
        return (code(o, first) + shift) | (code(o, first + 16) + shift) << 4

    def place(o: int, four: int, which: int) -> int:
        places = [p for p in range(4) if code(o, 4 * four + p)] + [p for p in range(4) if not code(o, 4 * four + p)]
        return sorted(places[:2])[which]

    def sparse_byte(o: int, block: int, v: int, position: int) -> int:
        if v < 4:
            four = 8 * block + 2 * v + position // 2
            return code(o, 4 * four + place(o, four, position % 2)) & 255
        fours = [8 * block + 2 * earlier + position // 2 for earlier in range(4)]
        return sum(place(o, four, position % 2) << 2 * earlier for earlier, four in enumerate(fours))

    written = bytearray()
    vectors = {"int8": group // 4, "int4": group // 8, "sparse8": group // 32 * 5}[kind]
    for panel in range(0, outputs, 16):
        rows = range(panel, panel + 16)
        for n in range(num_groups):
            if in_groups:
                written += b"".join(struct.pack("<e", scales[o, n] if o < outputs else 0.0) for o in rows)
            if zeros is not None:
                written += b"".join(struct.pack("<h", zeros[o, n] if o < outputs else 0) for o in rows)
            for v in range(n * vectors, (n + 1) * vectors):
                written += bytes(byte(o, v, position) for o in rows for position in range(4))
    return bytes(written)


SHAPES = [(16, 32), (1, 1), (5, 7), (17, 33), (40, 96)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", FLOAT_KINDS)
def test_floats_lie_as_the_text_says(kind: Kind, shape: tuple[int, int]) -> None:
    weight = floats(*shape, bits=32 if kind == "f32" else 16)
    assert bytes(pack_floats(weight, kind).data) == slow_floats(weight, kind)


@pytest.mark.parametrize(
    "given",
    [
        *(integers(kind, *shape) for kind in ("int4", "int8", "sparse8") for shape in SHAPES),
        *(integers("int4", *shape, asymmetric=True) for shape in SHAPES),
        *(integers(kind, 21, 128, groups) for kind in ("int4", "int8") for groups in (2, 4)),
        *(integers("int4", 21, 384, groups, asymmetric=True) for groups in (3, 6, 12)),
    ],
    ids=lambda given: f"{given.kind} {given.codes.shape} in {given.scales.shape[1]}, {given.zeros is not None}",
)
def test_integers_lie_as_the_text_says(given: Integers) -> None:
    tiles = pack_codes(*given)
    assert bytes(tiles.data) == slow_codes(given)
    assert tiles.asymmetric == (given.zeros is not None)
    if tiles.group == 0:
        assert tiles.scales is not None
        outputs = len(given.codes)
        assert np.array_equal(tiles.scales[:outputs], given.scales[:, 0])
        assert not tiles.scales[outputs:].any()
        assert len(tiles.scales) % PANEL == 0


# --- and back ------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(outputs=ODD, inputs=ODD, kind=st.sampled_from(FLOAT_KINDS))
def test_floats_come_back_to_the_bit(outputs: int, inputs: int, kind: Kind) -> None:
    weight = floats(outputs, inputs, bits=32 if kind == "f32" else 16)
    tiles = pack_floats(weight, kind)
    assert np.array_equal(unpack(tiles), weight)
    check_place(tiles)


@settings(deadline=None, max_examples=50)
@given(
    outputs=ODD,
    inputs=ODD,
    groups=st.integers(1, 4),
    kind=st.sampled_from(["int4", "int8", "sparse8"]),
    zeros=st.booleans(),
)
def test_integers_come_back_to_the_bit(outputs: int, inputs: int, groups: int, kind: str, zeros: bool) -> None:
    groups = 1 if kind == "sparse8" else groups
    if groups > 1:
        inputs = groups * BLOCK * (1 + inputs % 3)
    given = integers(kind, outputs, inputs, groups, asymmetric=zeros and kind == "int4")
    tiles = pack_codes(*given)
    found = unpack_codes(tiles)
    assert np.array_equal(found.codes, given.codes)
    assert np.array_equal(found.scales, given.scales)
    assert (found.zeros is None) == (given.zeros is None)
    assert given.zeros is None or found.zeros is None or np.array_equal(found.zeros, given.zeros)
    assert np.array_equal(unpack(tiles), given.weight)
    check_place(tiles)


def check_place(tiles: Tiles) -> None:
    assert tiles.data.ctypes.data % ALIGNMENT == 0
    assert tiles.data.nbytes == tile_bytes(tiles.kind, tiles.outputs, tiles.inputs, tiles.group, tiles.asymmetric)


def test_more_outputs_than_are_packed_at_a_time() -> None:
    weight, given = floats(3001, 33), integers("int4", 3001, 64, 2)
    assert np.array_equal(unpack(pack_floats(weight, "f32")), weight)
    assert np.array_equal(unpack(pack_codes(*given)), given.weight)


def test_a_weight_that_is_a_view_of_another() -> None:
    weight = floats(64, 40)
    assert np.array_equal(unpack(pack_floats(weight.T, "f32")), weight.T)
    given = integers("int8", 64, 40)
    sliced = given._replace(codes=given.codes[::2, ::2], scales=given.scales[::2])
    assert np.array_equal(unpack(pack_codes(*sliced)), sliced.weight)


def test_scales_beside_the_codes_keep_every_bit() -> None:
    given = integers("int8", 20, 64)
    exact = given._replace(scales=np.full((20, 1), 1 / 3, np.float32))
    assert np.array_equal(unpack(pack_codes(*exact)), exact.weight)


def test_scales_of_groups_are_rounded_to_float16() -> None:
    given = integers("int8", 20, 64, 2)._replace(scales=np.full((20, 2), 1 / 3, np.float32))
    assert (unpack_codes(pack_codes(*given)).scales == np.float32(np.float16(1 / 3))).all()


def test_signed_codes_beside_signed_zero_points_mean_the_same() -> None:
    given = integers("int4", 20, 64, 2, asymmetric=True)
    assert given.zeros is not None
    signed = given._replace(codes=given.codes - np.int8(8), zeros=given.zeros.astype(np.int8) - np.int8(8))
    assert np.array_equal(pack_codes(*signed).data, pack_codes(*given).data)


# --- which kind, and stacking --------------------------------------------------------------------------------------


def test_the_narrowest_kind_that_loses_nothing() -> None:
    weight = floats(20, 30)
    assert narrowest(weight) == "f32"
    assert narrowest(floats(20, 30, bits=16)) == "bf16"
    assert narrowest(weight.astype(np.float16).astype(np.float32)) == "f16"
    assert narrowest(matrix([[2.0**-24 * 3, 65504.0, -0.0]])) == "f16"
    assert narrowest(matrix([[2.0**-25 * 3]])) == "bf16"
    assert narrowest(matrix([[1e5 + 1 / 128]])) == "f32"
    late = floats(3000, 8, bits=16)
    late[-1, -1] = 1 / 3
    assert narrowest(late) == "f32"


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_a_kind_that_would_lose_something_is_refused(kind: Kind) -> None:
    with pytest.raises(BadRequest, match=kind):
        pack_floats(matrix([[1.0, 1 / 3]]), kind)


@pytest.mark.parametrize("outputs", [(16, 32), (16, 48, 5)])
def test_stacked_tiles_are_the_tiles_of_the_stack(outputs: tuple[int, ...]) -> None:
    for kind, groups, asymmetric in [("int4", 2, False), ("int4", 2, True), ("int8", 1, False), ("int4", 1, False)]:
        parts = [integers(kind, size, 64, groups, asymmetric=asymmetric) for size in outputs]
        stacked = stack([pack_codes(*part) for part in parts])
        assert stacked is not None
        assert np.array_equal(unpack(stacked), np.concatenate([part.weight for part in parts]))
        check_place(stacked)
    weights = [floats(size, 64) for size in outputs]
    whole = stack([pack_floats(weight, "f32") for weight in weights])
    assert whole is not None
    assert np.array_equal(whole.data, pack_floats(np.concatenate(weights), "f32").data)


def test_tiles_that_differ_or_end_inside_a_panel_are_not_stacked() -> None:
    of = {name: pack_codes(*integers("int4", 16, 64, groups)) for name, groups in (("whole", 1), ("two", 2))}
    assert stack([of["whole"], of["two"]]) is None
    assert stack([of["whole"], pack_floats(floats(16, 64), "f32")]) is None
    assert stack([pack_floats(floats(17, 64), "f32"), pack_floats(floats(16, 64), "f32")]) is None
    assert stack([pack_codes(*integers("int4", 16, 64, 2, asymmetric=True)), of["two"]]) is None


# --- faults --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_no_number_is_refused(value: float) -> None:
    weight = floats(30, 10)
    weight[29, 9] = value
    for kind in FLOAT_KINDS:
        with pytest.raises(BadCheckpoint, match=f"a weight is {value}"):
            pack_floats(weight, kind)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_scale_that_is_no_number_is_refused(value: float, groups: int) -> None:
    given = integers("int4", 30, 64, groups)
    given.scales[3, -1] = value
    with pytest.raises(BadCheckpoint, match=f"a scale is {value}"):
        pack_codes(*given)


def test_a_scale_beyond_float16_is_refused_only_where_it_is_stored_so() -> None:
    given = integers("int8", 30, 64, 2)
    given.scales[3, 1] = -70000.0
    with pytest.raises(BadCheckpoint, match="70000"):
        pack_codes(*given)
    whole = integers("int8", 30, 64)
    whole.scales[3] = 70000.0
    assert np.array_equal(unpack(pack_codes(*whole)), whole.weight)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (integers("int4", 16, 48, 3), "groups of 16 inputs"),
        (integers("int8", 16, 96, 2), "groups of 48 inputs"),
        (integers("int4", 16, 48, 2, asymmetric=True), "groups of 24 inputs"),
        (integers("int8", 16, 64, asymmetric=True), "int8 weights with zero points"),
        (integers("sparse8", 16, 64, 2), "sparse weights with scales of groups"),
    ],
    ids=lambda given: "",
)
def test_groups_the_layout_cannot_hold_are_refused(given: Integers, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        pack_codes(*given)


def test_three_of_four_that_are_not_zero_are_refused() -> None:
    given = integers("sparse8", 16, 64)
    given.codes[3, 8:12] = (1, 0, 2, -3)
    with pytest.raises(BadCheckpoint, match=r"more than two of four weights are not zero\. Prune them 2:4"):
        pack_codes(*given)


@pytest.mark.parametrize(("code", "asymmetric"), [(8, False), (-9, False), (16, True)])
def test_codes_out_of_range_are_refused(code: int, asymmetric: bool) -> None:
    given = integers("int4", 16, 64, 2, asymmetric=asymmetric)
    given.codes[15, 63] = code
    with pytest.raises(BadCheckpoint, match=f"code {code}"):
        pack_codes(*given)
