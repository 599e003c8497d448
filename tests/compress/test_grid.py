"""The search for scales: what it minimises, and that what it adds never loses."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from burnish.compress.passes.grid import SHRINKS, quantize
from burnish.compress.passes.imatrix import SHRINKS as MORE_SHRINKS
from burnish.models.formats.integer import IntegerFormat, Quantized
from burnish.models.formats.table import FORMATS

INTEGERS = [found for found in FORMATS.values() if isinstance(found, IntegerFormat)]


def normal(outputs: int, inputs: int, seed: int) -> Tensor:
    return torch.empty(outputs, inputs).normal_(generator=torch.Generator().manual_seed(seed))


def weighted(weight: Tensor, importance: Tensor, chosen: Quantized) -> float:
    return float((importance * (chosen.dequantize() - weight).square()).sum())


@pytest.mark.parametrize("target", INTEGERS, ids=lambda target: target.name)
@pytest.mark.parametrize("seed", range(3))
def test_importance_lowers_the_error_it_weighs(target: IntegerFormat, seed: int) -> None:
    weight, importance = normal(32, 256, seed) ** 3, torch.exp(2 * normal(1, 256, seed + 9)[0])
    plain = quantize(weight, target)
    important = quantize(weight, target, importance=importance, shrinks=MORE_SHRINKS, refit=True)
    assert weighted(weight, importance, important) < weighted(weight, importance, plain)


@pytest.mark.parametrize("target", INTEGERS, ids=lambda target: target.name)
@given(seed=st.integers(0, 2**32))
def test_a_refitted_scale_is_taken_only_where_it_is_better(target: IntegerFormat, seed: int) -> None:
    weight = normal(4, 128, seed)
    lost = [
        weighted(weight, torch.ones(128), quantize(weight, target, shrinks=SHRINKS, refit=refit))
        for refit in (False, True)
    ]
    assert lost[1] <= lost[0] * (1 + 1e-6)


@pytest.mark.parametrize("name", ["int4-g32-asym", "int4-g128-asym", "int4-channel-asym", "int8-g64-asym"])
def test_zero_is_on_every_grid_with_a_zero_point(name: str) -> None:
    """Groups far from zero too: a weight of zero stays zero."""
    target = FORMATS[name]
    assert isinstance(target, IntegerFormat)
    for shift in (-5.0, 0.0, 5.0):
        weight = normal(8, 128, 3) + shift
        weight[:, ::7] = 0.0
        assert quantize(weight, target).dequantize()[:, ::7].count_nonzero() == 0


@pytest.mark.parametrize("shift", [0.5, -1.0])
def test_a_zero_point_pays_where_weights_lie_to_one_side(shift: float) -> None:
    weight = normal(16, 256, 4) * 0.3 + shift
    lost = []
    for name in ("int4-g32", "int4-g32-asym"):
        target = FORMATS[name]
        assert isinstance(target, IntegerFormat)
        lost.append(weighted(weight, torch.ones(256), quantize(weight, target)))
    assert lost[1] < 0.8 * lost[0]


@pytest.mark.parametrize("target", INTEGERS, ids=lambda target: target.name)
def test_what_was_rounded_once_is_kept(target: IntegerFormat) -> None:
    """A second rounding finds the first one's grid among those it tries, or one as good."""
    once = quantize(normal(16, 256, 5), target).dequantize()
    twice = quantize(once, target, refit=True).dequantize()
    assert float((twice - once).norm() / once.norm()) < 2e-3


def test_a_group_whose_columns_are_never_used_still_has_a_scale() -> None:
    weight, importance = normal(4, 256, 6), torch.ones(256)
    importance[:128] = 0
    target = FORMATS["int4-g128"]
    assert isinstance(target, IntegerFormat)
    chosen = quantize(weight, target, importance=importance, refit=True)
    assert chosen.scales.isfinite().all()
    assert float((chosen.dequantize() - weight)[:, :128].norm() / weight[:, :128].norm()) < 0.2
