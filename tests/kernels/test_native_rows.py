"""Native functions of one row against the plain reference, for every body and awkward widths."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from burnish.kernels import reference
from burnish.kernels.native import native
from burnish.kernels.tiles import narrowest, pack_codes, pack_floats, unpack
from tests.kernels.test_native_linear import BODIES, native_weight

module: Any = native()
if module is None:
    pytest.skip("installed without native kernels", allow_module_level=True)

Floats = NDArray[np.float32]
WIDTHS = (1, 7, 8, 9, 31, 32, 33, 64, 576, 2048)
both = pytest.mark.parametrize("body", BODIES)


def rows(width: int, count: int = 3, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((count, width), dtype=np.float32) * np.float32(3)


def close(got: Floats, want: torch.Tensor, tolerance: float = 1e-6) -> None:
    expected = want.double().numpy()
    assert np.abs(got - expected).max() <= tolerance * max(1.0, np.abs(expected).max())


@both
@pytest.mark.parametrize("width", WIDTHS)
def test_norms(width: int, body: str) -> None:
    x, weight, bias = rows(width), rows(width, 1, 1)[0], rows(width, 1, 2)[0]
    x64, weight64, bias64 = (torch.from_numpy(t).double() for t in (x, weight, bias))
    close(module.rms_norm(x, weight, 1e-5, body=body), reference.rms_norm(x64, weight64, 1e-5))
    if width > 1:  # the variance of one number is eps alone
        got = module.layer_norm(x, weight, bias, 1e-5, body=body)
        close(got, reference.layer_norm(x64, weight64, bias64, 1e-5), 4e-6)


@both
@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_tanh", "relu"])
def test_activations(name: str, body: str) -> None:
    x = np.concatenate([np.linspace(-30, 30, 4001), [-1e3, -200, -88, 88, 200, 1e30, 0.0, -0.0]]).astype(np.float32)[
        None
    ]
    plain: Callable[[torch.Tensor], torch.Tensor] = getattr(reference, name, torch.relu)
    want = plain(torch.from_numpy(x).double())
    got = module.activate(name, x, body=body)
    assert (np.abs(got - want.numpy()) <= 4e-7 * np.maximum(1.0, np.abs(want.numpy()))).all()
    up = rows(x.shape[1], 1)
    assert np.array_equal(module.gate(name, x, up, body=body), got * up)


@both
def test_softcap_and_rotation(body: str) -> None:
    x = rows(33) * np.float32(20)
    close(module.softcap(x, 30.0, body=body), torch.tanh(torch.from_numpy(x).double() / 30) * 30)
    for width in (2, 6, 16, 48, 64, 80, 128):
        heads, cos, sin = rows(width, 5), rows(width // 2, 5, 1), rows(width // 2, 5, 2)
        want = reference.rotate(*(torch.from_numpy(t).double() for t in (heads[:, None], cos, sin)))[:, 0]
        close(module.rotate(heads, cos, sin, body=body), want)


@both
@given(
    x=arrays(
        np.float32,
        st.tuples(st.integers(0, 3), st.integers(1, 70)),
        elements=st.floats(-3.0000000054977558e38, 3.0000000054977558e38, width=32),
    )
)
def test_quantized_rows_are_those_of_the_reference(body: str, x: Floats) -> None:
    """Integers exactly, scales to the bit."""
    codes, scales, sums = module.quantize(x, body=body)
    want = reference.quantize_blocks(torch.from_numpy(x))
    expected = want.codes.flatten(1).numpy()
    assert np.array_equal(codes, expected)
    assert np.array_equal(scales, want.scales.numpy())
    assert np.array_equal(sums, codes.reshape((*sums.shape, 32)).astype(int).sum(-1))


@both
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_block_of_no_numbers_says_so(body: str, bad: float) -> None:
    x = np.ones((1, 96), np.float32)
    x[0, 40] = bad
    codes, scales, sums = module.quantize(x, body=body)
    assert np.isnan(scales[0]).tolist() == [False, True, False]
    assert (codes[0, 32:64] == 0).all()
    assert sums[0].tolist() == [127 * 32, 0, 127 * 32]


@both
def test_embedding_rows_of_every_kind(body: str) -> None:
    dense = np.random.default_rng(0).integers(-64, 64, (21, 96)).astype(np.float32) / np.float32(32)
    assert narrowest(dense) == "bf16"
    codes = np.random.default_rng(1).integers(0, 8, (21, 96)).astype(np.int8)
    scales, zeros = np.full((21, 3), 0.25, np.float32), np.full((21, 3), 5, np.uint8)
    tokens = np.array([0, 20, 7], np.int32)
    for tiles in (
        *(pack_floats(dense, kind) for kind in ("f32", "f16", "bf16")),
        pack_codes(codes, scales, None, "int4"),
        pack_codes(codes, scales, zeros, "int4"),
        pack_codes(codes, scales, None, "int8"),
        pack_codes(codes, scales[:, :1], None, "int8"),
    ):
        got = module.embed(native_weight(tiles), tokens, 2.0, body=body)
        assert np.array_equal(got, unpack(tiles)[tokens] * 2)


@both
def test_argmax(body: str) -> None:
    logits = np.array(
        [[1, 3, 3, 2], [np.nan, 1, 2, 3], [-np.inf] * 4, [-np.inf, 0, 1, 1], [np.inf, 0, 0, 0]], np.float32
    )
    assert module.argmax(logits, body=body) == [1, -1, -1, 2, -1]


def test_bodies_agree_to_the_bit() -> None:
    x, weight = rows(77), rows(77, 1, 1)[0]
    calls: list[tuple[str, tuple[Any, ...]]] = [
        ("rms_norm", (x, weight, 1e-5)),
        ("layer_norm", (x, weight, weight, 1e-5)),
        ("gate", ("silu", x, x)),
        ("activate", ("gelu", x)),
        ("activate", ("gelu_tanh", x)),
        ("softcap", (x, 5.0)),
    ]
    for name, arguments in calls:
        assert len({getattr(module, name)(*arguments, body=body).tobytes() for body in BODIES}) == 1, name
    assert len({module.quantize(x, body=body)[0].tobytes() for body in BODIES}) == 1
