"""Eight-bit floats: the nearest codes, a scale that is worth its search, weights that bfloat16 holds, refusals."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from burnish.compress.chain import HEAD
from burnish.compress.passes.fp8 import Float8Rounding, best_scales, encode, round_to_fp8
from burnish.core.errors import BadRequest, BadSettings
from burnish.models.formats.dense import DENSE
from burnish.models.formats.fp8 import CODES, FP8, LARGEST
from burnish.models.formats.table import get
from burnish.models.layers.linear import Linear
from tests.compress.parts import part_of

WIDE = st.integers(-140, 120)


def normal(outputs: int, inputs: int, seed: int = 0) -> Tensor:
    return torch.empty(outputs, inputs).normal_(generator=torch.Generator().manual_seed(seed))


def value(code: int) -> float:
    """What the seven lower bits of a code stand for, by the definition of e4m3."""
    exponent, mantissa = code >> 3, code & 7
    return mantissa * 2.0**-9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10)


VALUES = [value(code) for code in range(127)]  # the last code is no number


def nearest(number: float) -> float:
    """The value nearest to a number, the one of the even code where two are as near."""
    code = min(range(127), key=lambda code: (abs(VALUES[code] - abs(number)), code & 1))
    return VALUES[code] if number >= 0 else -VALUES[code]


def test_the_values_of_codes_are_those_of_torch() -> None:
    assert torch.arange(127, dtype=torch.uint8).view(CODES).float().tolist() == VALUES
    assert VALUES[-1] == LARGEST == 448


@given(st.integers(0, 2**31), st.integers(-6, 4))
def test_codes_are_the_nearest_by_the_slow_definition(seed: int, exponent: int) -> None:
    rows = normal(1, 16, seed) * 2.0**exponent
    halfway = torch.tensor([[(low + high) / 2 for low, high in pairwise(VALUES[seed % 110 :][:16])]])
    for numbers in (rows, halfway, -halfway, torch.tensor([[1e6, -470.0, 0.0]])):
        scales = torch.full((1, 1), 0.25)
        codes = encode(numbers * 0.25, scales).float()
        assert codes.tolist() == [[nearest(number) for number in numbers[0].tolist()]]


@given(st.integers(0, 2**31), WIDE)
def test_every_weight_is_a_bfloat16_and_a_second_rounding_changes_none(seed: int, exponent: int) -> None:
    weight = torch.ldexp(normal(4, 32, seed) ** 3, torch.tensor(exponent))
    once = FP8.unpack(round_to_fp8(weight))
    assert torch.equal(once.bfloat16().float(), once)
    assert torch.equal(FP8.unpack(round_to_fp8(once)), once)


@given(st.integers(0, 2**31))
def test_a_scale_has_four_significant_bits_and_loses_little_range(seed: int) -> None:
    weight = normal(8, 48, seed)
    scales = best_scales(weight)
    digits, _ = torch.frexp(scales)
    assert torch.equal((digits * 16).round(), digits * 16)
    share = scales * LARGEST / weight.abs().amax(1, keepdim=True)
    assert (share > 0.85).all()
    assert (share <= 2.26).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("power", [1, 3])  # 3: heavy tails
def test_the_search_loses_less_than_the_plain_scale(seed: int, power: int) -> None:
    weight = normal(32, 512, seed) ** power
    plain = weight.abs().amax(1, keepdim=True) / LARGEST
    searched, unsearched = round_to_fp8(weight), FP8.pack(encode(weight, plain), plain)
    lost, lost_unsearched = ((FP8.unpack(found) - weight).square().sum() for found in (searched, unsearched))
    assert lost < 0.97 * lost_unsearched


def test_the_size_of_a_weight_changes_nothing() -> None:
    weight = normal(4, 64)
    plain = round_to_fp8(weight)
    for exponent in (-60, 60):  # squares of such weights are no numbers of float32
        scaled = round_to_fp8(torch.ldexp(weight, torch.tensor(exponent)))
        assert torch.equal(scaled["weight"].float(), plain["weight"].float())
        assert torch.equal(scaled["weight_scale"], torch.ldexp(plain["weight_scale"], torch.tensor(exponent)))


def test_dead_rows_stay_dead() -> None:
    weight = normal(4, 64)
    weight[1] = 0
    packed = round_to_fp8(weight)
    assert packed["weight_scale"][1] == 1
    assert FP8.unpack(packed)[1].count_nonzero() == 0
    assert FP8.unpack(round_to_fp8(torch.zeros(2, 8))).count_nonzero() == 0


@pytest.mark.parametrize("fault", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_refused_and_named(fault: float) -> None:
    layer = Linear(64, 8, bias=False)
    layer.weight.data[3, 5] = fault
    with pytest.raises(BadRequest, match=r"layer layers\.0\.up holds infinities or what is no number"):
        list(Float8Rounding().apply(part_of(layer, "layers.0.up"), None))
    with pytest.raises(BadRequest, match="holds infinities or what is no number"):
        round_to_fp8(layer.weight.detach())


def test_a_layer_is_stored_and_its_change_told() -> None:
    layer = Linear(256, 24, bias=True)
    weight = layer.weight.detach().clone()
    [record] = Float8Rounding().apply(part_of(layer, "x"), None)
    assert layer.format is get("fp8") is FP8
    assert record.format == "fp8"
    assert record.bits == 8 + 32 / 256
    assert record.relative_error == pytest.approx(float((layer.dense_weight() - weight).norm() / weight.norm()))
    assert 0.02 < record.relative_error < 0.03
    with pytest.raises(BadSettings, match="layer x is stored as fp8 already"):
        Float8Rounding().check("x", layer)


def test_the_head_stays_dense_unless_it_is_told_otherwise() -> None:
    layer = Linear(64, 8, bias=False)
    assert list(Float8Rounding().apply(part_of(layer, HEAD), None)) == []
    assert layer.format is DENSE
    [record] = Float8Rounding(head="fp8").apply(part_of(layer, HEAD), None)
    assert record.format == "fp8"
