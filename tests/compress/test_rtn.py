"""Round to nearest: exact where it can be, bounded where it cannot, never worse than the plain scales."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from burnish.compress.passes.choice import FormatChoice
from burnish.compress.passes.grid import quantize
from burnish.compress.passes.rtn import RoundToNearest
from burnish.core.errors import BadRequest, BadSettings
from burnish.core.records import LayerRecord
from burnish.models.formats.integer import IntegerFormat
from burnish.models.formats.table import FORMATS
from burnish.models.layers.linear import Linear
from tests.compress.parts import part_of


def integer(name: str) -> IntegerFormat:
    found = FORMATS[name]
    assert isinstance(found, IntegerFormat)
    return found


INTEGERS = [one for one in FORMATS.values() if isinstance(one, IntegerFormat) and not one.asymmetric]
NAME = "layers.0.attn.q_proj"


def normal(outputs: int, inputs: int, seed: int = 0) -> Tensor:
    return torch.empty(outputs, inputs).normal_(generator=torch.Generator().manual_seed(seed))


def plain(weight: Tensor, target: IntegerFormat, divisor: float) -> Tensor:
    """Rounding by absmax / divisor and nothing else."""
    groups = weight.view(weight.shape[0], target.num_groups(weight.shape[1]), -1)
    scales = groups.abs().amax(-1, keepdim=True) / divisor
    return ((groups / scales).round().clamp(target.lowest, target.highest) * scales).view(weight.shape)


@pytest.mark.parametrize("target", INTEGERS, ids=lambda target: target.name)
def test_weights_on_the_grid_are_kept_exactly(target: IntegerFormat) -> None:
    codes = torch.randint(target.lowest, target.highest + 1, (6, 256), generator=torch.Generator().manual_seed(1))
    codes[:, :: target.group_size or 256] = target.lowest  # every group reaches the end of the grid
    quantized = quantize(codes * 0.25, target)
    assert torch.equal(quantized.dequantize(), codes * 0.25)


@pytest.mark.parametrize("target", INTEGERS, ids=lambda target: target.name)
@pytest.mark.parametrize("seed", range(3))
def test_it_loses_no_more_than_either_plain_scale(target: IntegerFormat, seed: int) -> None:
    weight = normal(32, 256, seed) ** 3  # heavy tails
    lost = (quantize(weight, target).dequantize() - weight).square().sum()
    for divisor in (target.highest, target.highest + 0.5):
        assert lost <= (plain(weight, target, divisor) - weight).square().sum()


@given(
    seed=st.integers(0, 2**32),
    target=st.sampled_from(INTEGERS),
    exponent=st.integers(-30, 30),
    shift=st.floats(-3, 3),
)
def test_no_value_moves_by_more_than_clipping_allows(
    seed: int, target: IntegerFormat, exponent: int, shift: float
) -> None:
    weight = (normal(3, 128, seed) + shift) * 2.0**exponent
    quantized = quantize(weight, target)
    assert quantized.codes.dtype == torch.int8
    assert target.lowest <= quantized.codes.min()
    assert quantized.codes.max() <= target.highest
    groups = weight.view(3, quantized.scales.shape[1], -1)
    error = (quantized.dequantize() - weight).view_as(groups).square().mean(-1)
    # half a step of the widest scale tried, of which only rounding errors may exceed a third squared
    step = groups.abs().amax(-1) / -target.lowest
    assert (error <= step.square() / 4 * 1.01).all()


@pytest.mark.parametrize("target", INTEGERS, ids=lambda target: target.name)
def test_zeros_stay_zeros(target: IntegerFormat) -> None:
    quantized = quantize(torch.zeros(4, 128), target)
    assert quantized.dequantize().count_nonzero() == 0
    assert quantized.scales.isfinite().all()


def test_the_sign_of_the_scale_spends_the_lowest_code() -> None:
    weight = torch.tensor([[8.0] + [1.0, -7.0] * 63 + [0.0], [-8.0] + [1.0, 7.0] * 63 + [0.0]])
    quantized = quantize(weight, integer("int4-g128"))
    assert quantized.scales.flatten().tolist() == [-1.0, 1.0]
    assert torch.equal(quantized.dequantize(), weight)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused(bad: float) -> None:
    weight = normal(2, 128)
    weight[1, 5] = bad
    with pytest.raises(BadRequest, match="no number"):
        quantize(weight, integer("int8"))


def rounded(layer: Linear, *formats: str) -> LayerRecord:
    """What rounding to the first of the formats that fits says of the layer."""
    rounding = RoundToNearest(FormatChoice(tuple(integer(name) for name in formats)))
    rounding.check(NAME, layer)
    (record,) = rounding.apply(part_of(layer, NAME), None)
    return record


def test_the_record_counts_what_is_stored() -> None:
    layer = Linear(128, 16, bias=True)
    weight = layer.weight.detach().clone()
    record = rounded(layer, "int4-g64")
    stored = sum(tensor.nbytes for tensor in layer.packed().values())
    assert record.name == NAME
    assert record.format == layer.format.name == "int4-g64"
    assert (record.bytes_before, record.bytes_after) == (128 * 16 * 4, stored)
    assert record.bits == 8 * stored / (128 * 16)
    expected = float((layer.dense_weight() - weight).norm() / weight.norm())
    assert record.relative_error == pytest.approx(expected)
    assert 0.02 < record.relative_error < 0.15


def test_the_first_format_that_fits_is_taken() -> None:
    for inputs, name in [(256, "int4-g128"), (96, "int4-g32"), (100, "int8")]:
        layer = Linear(inputs, 8, bias=False)
        assert rounded(layer, "int4-g128", "int4-g32", "int8").format == layer.format.name == name


def test_a_layer_that_fits_nothing_is_named_with_the_remedy() -> None:
    with pytest.raises(BadSettings, match=r"layers\.0\.attn\.q_proj has 100 inputs.*int4-g128\. Take recipe int4"):
        rounded(Linear(100, 8, bias=False), "int4-g128")


def test_a_layer_is_not_rounded_twice() -> None:
    layer = Linear(128, 8, bias=False)
    rounded(layer, "int8")
    with pytest.raises(BadSettings, match=r"stored as int8 already\. Compress the dense parent"):
        rounded(layer, "int8")
