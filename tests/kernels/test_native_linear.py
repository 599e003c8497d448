"""Native matrix products against float64 arithmetic of the same integers: every kind, every body, every shape.

K inputs are added one after the other in float32, so a result is within K * eps * sum|a||w| of the exact one.
"""

from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from burnish.kernels.native import native
from burnish.kernels.tiles import Tiles, pack_codes, pack_floats, unpack

module = native()
if module is None:
    pytest.skip("installed without native kernels", allow_module_level=True)

Floats = NDArray[np.float32]
BODIES: list[str] = module.bodies()
EPS = np.finfo(np.float32).eps
BLOCK = 32


class Format(NamedTuple):
    """A kind of integer weight."""

    kind: Any
    group: int | None  # None: one scale per output
    asymmetric: bool = False


FORMATS = [
    *(Format("int4", group, asymmetric) for group in (32, 64, 128) for asymmetric in (False, True)),
    *(Format("int4", None, asymmetric) for asymmetric in (False, True)),
    *(Format("int8", group) for group in (None, 32, 64, 128)),
    Format("sparse8", None),
]
# (outputs, inputs): whole panels and blocks; fewer than a panel; a tail of both; longer than what is computed at once
SHAPES = [(16, 32), (3, 32), (40, 96), (17, 256), (33, 4224)]
ROWS = (1, 2, 3, 5, 6, 7, 13, 50)


def weight(form: Format, outputs: int, inputs: int, seed: int = 0) -> Tiles:
    source = np.random.default_rng(seed)
    lowest, highest = (0, 16) if form.asymmetric else (-8, 8) if form.kind == "int4" else (-128, 128)
    codes = source.integers(lowest, highest, (outputs, inputs)).astype(np.int8)
    if form.kind == "sparse8":
        codes *= source.random((outputs, inputs // 4, 4)).argsort(-1).argsort(-1).reshape(codes.shape) < 2
    groups = 1 if form.group is None else inputs // form.group
    scales = (source.standard_normal((outputs, groups)) * 0.02).astype(np.float16).astype(np.float32)
    zeros = source.integers(0, 16, (outputs, groups)).astype(np.uint8) if form.asymmetric else None
    return pack_codes(codes, scales, zeros, form.kind)


def native_weight(tiles: Tiles) -> Any:
    assert module is not None
    return module.Weight(
        kind=tiles.kind,
        outputs=tiles.outputs,
        inputs=tiles.inputs,
        group=tiles.group,
        asymmetric=tiles.asymmetric,
        data=tiles.data,
        scales=tiles.scales,
    )


def rounded(x: Floats) -> NDArray[np.float64]:
    """Rows as int8 blocks hold them: the specification, block by block."""
    inputs = x.shape[1]
    blocks = np.pad(x, ((0, 0), (0, -inputs % BLOCK))).reshape(len(x), -1, BLOCK)
    most = np.abs(blocks).max(-1, keepdims=True)
    inverse = np.divide(np.float32(127), most, out=np.zeros_like(most), where=most > 0)
    codes = np.rint(blocks * inverse).astype(np.float64)
    scales = (most / np.float32(127)).astype(np.float64)
    rows: NDArray[np.float64] = (codes * scales).reshape(len(x), -1)[:, :inputs]
    return rows


def check(got: Floats, x: NDArray[np.float64], dense: NDArray[np.float64]) -> None:
    exact, bound = x @ dense.T, x.shape[1] * EPS * (np.abs(x) @ np.abs(dense).T)
    worst = np.abs(got - exact) - bound
    assert (worst <= 0).all(), f"off by {worst.max()} more than the bound"


def product(tiles: Tiles, x: Floats, *, body: str, int8_activations: bool, **more: Any) -> Floats:
    assert module is not None
    out: Floats = module.linear(native_weight(tiles), x, body=body, int8_activations=int8_activations, **more)
    return out


def fits(form: Format, inputs: int) -> bool:
    return form.group is None or inputs % form.group == 0


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_integers_with_int8_activations(form: Format, body: str) -> None:
    for outputs, inputs in SHAPES:
        if not fits(form, inputs):
            continue
        tiles = weight(form, outputs, inputs)
        for rows in ROWS[:4] if body == "portable" else ROWS:
            x = np.random.default_rng(rows).standard_normal((rows, inputs), dtype=np.float32)
            check(product(tiles, x, body=body, int8_activations=True), rounded(x), unpack(tiles).astype(np.float64))


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_integers_with_float_activations(form: Format, body: str) -> None:
    for outputs, inputs in SHAPES[:4]:
        if not fits(form, inputs):
            continue
        tiles = weight(form, outputs, inputs)
        for rows in ROWS[:6]:
            x = np.random.default_rng(rows).standard_normal((rows, inputs), dtype=np.float32)
            got = product(tiles, x, body=body, int8_activations=False)
            check(got, x.astype(np.float64), unpack(tiles).astype(np.float64))


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("kind", ["f32", "f16", "bf16"])
def test_floats(kind: Any, body: str) -> None:
    for outputs, inputs in [*SHAPES, (5, 7), (1, 1)]:
        dense = np.random.default_rng(1).integers(-128, 128, (outputs, inputs)).astype(np.float32) / np.float32(64)
        tiles = pack_floats(dense, kind)
        for rows in ROWS:
            x = np.random.default_rng(rows).standard_normal((rows, inputs), dtype=np.float32)
            got = product(tiles, x, body=body, int8_activations=False)
            check(got, x.astype(np.float64), dense.astype(np.float64))


@pytest.mark.parametrize("form", [*FORMATS, None], ids=str)
@pytest.mark.parametrize("int8_activations", [True, False])
def test_a_row_depends_on_nothing_beside_it(form: Format | None, int8_activations: bool) -> None:
    """One at a time, in threes, all together, and cut into panels as threads cut them: the same bits."""
    if form is None and int8_activations:
        pytest.skip("float weights take float activations")
    inputs = 4224
    tiles = pack_floats(np.full((40, inputs), 1 / 3, np.float32), "f32") if form is None else weight(form, 40, inputs)
    x = np.random.default_rng(7).standard_normal((61, inputs), dtype=np.float32)
    together = product(tiles, x, body=BODIES[0], int8_activations=int8_activations)
    for step in (1, 3, 7, 48):
        parts = [
            product(tiles, x[first : first + step], body=BODIES[0], int8_activations=int8_activations)
            for first in range(0, len(x), step)
        ]
        assert np.array_equal(np.concatenate(parts), together), step
    halves = [
        product(tiles, x, body=BODIES[0], int8_activations=int8_activations, first=first, last=last)
        for first, last in ((0, 1), (1, 3))
    ]
    assert np.array_equal(halves[0] + halves[1], together)


@pytest.mark.parametrize("code", [127, -127, -128, 0])
@pytest.mark.parametrize("activation", [1.0, -1.0])
@pytest.mark.parametrize("body", BODIES)
def test_int8_never_saturates(body: str, activation: float, code: int) -> None:
    codes = np.full((16, 256), code, np.int8)
    tiles = pack_codes(codes, np.ones((16, 1), np.float32), None, "int8")
    x = np.full((2, 256), activation, np.float32)
    check(product(tiles, x, body=body, int8_activations=True), rounded(x), codes.astype(np.float64))


@pytest.mark.parametrize("code", [7, -8])
@pytest.mark.parametrize("activation", [1.0, -1.0])
@pytest.mark.parametrize("body", BODIES)
def test_int4_never_saturates(body: str, activation: float, code: int) -> None:
    codes = np.full((16, 256), code, np.int8)
    tiles = pack_codes(codes, np.ones((16, 8), np.float32), None, "int4")
    x = np.full((7, 256), activation, np.float32)
    check(product(tiles, x, body=body, int8_activations=True), rounded(x), codes.astype(np.float64))


@pytest.mark.parametrize("zero", [0, 15])
@pytest.mark.parametrize("body", BODIES)
def test_asymmetric_int4_never_saturates(body: str, zero: int) -> None:
    codes = np.full((16, 64), 15, np.int8)
    tiles = pack_codes(codes, np.ones((16, 2), np.float32), np.full((16, 2), zero, np.uint8), "int4")
    x = np.full((7, 64), -1.0, np.float32)
    check(product(tiles, x, body=body, int8_activations=True), rounded(x), codes.astype(np.float64) - zero)


@pytest.mark.parametrize("body", BODIES)
def test_bias_and_what_is_added_to(body: str) -> None:
    tiles = weight(Format("int4", 32), 21, 64)
    source = np.random.default_rng(3)
    x, old = source.standard_normal((4, 64), dtype=np.float32), source.standard_normal((4, 21), dtype=np.float32)
    bias = source.standard_normal(21, dtype=np.float32)
    plain = product(tiles, x, body=body, int8_activations=True)
    got = product(tiles, x, body=body, int8_activations=True, bias=bias, old=old)
    assert np.array_equal(got, (plain + bias) + old)


@pytest.mark.parametrize("body", BODIES)
def test_an_empty_batch(body: str) -> None:
    for int8_activations in (True, False):
        got = product(
            weight(Format("int4", 32), 16, 32),
            np.zeros((0, 32), np.float32),
            body=body,
            int8_activations=int8_activations,
        )
        assert got.shape == (0, 16)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("body", BODIES)
def test_a_row_of_no_numbers_stays_no_number_and_alone(body: str, bad: float) -> None:
    x = np.ones((3, 64), np.float32)
    x[1, 40] = bad
    got = product(weight(Format("int8", None), 16, 64), x, body=body, int8_activations=True)
    assert np.isnan(got[1]).all()
    assert np.isfinite(got[[0, 2]]).all()


def test_bodies_agree_to_the_bit() -> None:
    """Both are the same text over other lanes, and every product and sum is exact or rounded alike."""
    x = np.random.default_rng(5).standard_normal((7, 256), dtype=np.float32)
    for form in FORMATS:
        tiles = weight(form, 24, 256)
        for int8_activations in (True, False):
            results = [product(tiles, x, body=body, int8_activations=int8_activations) for body in BODIES]
            assert all(np.array_equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "int5"}, "unknown kind"),
        ({"outputs": 48}, "do not fit"),
        ({"group": 33}, "multiple of 32"),
        ({"asymmetric": True}, "do not fit"),
        ({"scales": np.ones(16, np.float32)}, "either in the groups or beside"),
        ({"data": np.zeros(10, np.uint8)}, "do not fit"),
    ],
)
def test_a_weight_that_is_none_is_refused(change: dict[str, Any], message: str) -> None:
    tiles = weight(Format("int4", 32), 32, 64)
    words = {
        name: getattr(tiles, name) for name in ("kind", "outputs", "inputs", "group", "asymmetric", "data", "scales")
    }
    assert module is not None
    with pytest.raises(ValueError, match=message):
        module.Weight(**(words | change))


def test_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="not as wide"):
        product(
            weight(Format("int4", 32), 16, 64), np.zeros((1, 32), np.float32), body=BODIES[0], int8_activations=True
        )
