"""AWQ's search: never worse than leaving things where they are, and better where inputs have outliers."""

import pytest
import torch
from torch import Tensor

from burnish.compress.passes.awq import best_exponent, scales
from burnish.compress.passes.grid import quantize
from burnish.compress.passes.imatrix import SHRINKS
from burnish.compress.statistics import Inputs
from burnish.models.formats.integer import IntegerFormat
from burnish.models.formats.table import FORMATS
from tests.compress.parts import correlated, seen


def target() -> IntegerFormat:
    found = FORMATS["int4-g128"]
    assert isinstance(found, IntegerFormat)
    return found


def lost(weight: Tensor, inputs: Inputs, exponent: float) -> float:
    scale = scales(inputs, exponent)
    importance = inputs.square / scale.square()
    rounded = (
        quantize(weight * scale, target(), importance=importance, shrinks=SHRINKS, refit=True).dequantize() / scale
    )
    assert inputs.rows is not None
    return float((inputs.rows @ (rounded - weight).T).square().sum())


@pytest.mark.parametrize("seed", range(4))
def test_the_exponent_found_is_the_best_of_the_grid(seed: int) -> None:
    rows = correlated(256, 256, seed)
    inputs = seen(rows)
    weight = torch.empty(48, 256).normal_(generator=torch.Generator().manual_seed(seed))
    found = best_exponent([weight], [target()], inputs)
    assert 0 <= found < 1
    assert lost(weight, inputs, found) == pytest.approx(min(lost(weight, inputs, step / 20) for step in range(20)))


def test_outliers_are_scaled_and_inputs_all_alike_are_not() -> None:
    generator = torch.Generator().manual_seed(0)
    alike = torch.empty(256, 256).normal_(generator=generator)
    weight = torch.empty(48, 256).normal_(generator=generator)
    outliers = alike.clone()
    outliers[:, ::50] *= 30
    inputs = seen(outliers)
    found = best_exponent([weight], [target()], inputs)
    assert found > 0.1
    assert lost(weight, inputs, found) < 0.8 * lost(weight, inputs, 0.0)
    # sampling noise is all there is to scale by
    level = seen(alike)
    assert lost(weight, level, best_exponent([weight], [target()], level)) > 0.95 * lost(weight, level, 0.0)


def test_scales_lie_around_one_and_zero_moves_nothing() -> None:
    inputs = seen(correlated(64, 128))
    assert torch.equal(scales(inputs, 0.0), torch.ones(128))
    found = scales(inputs, 0.5)
    assert float(found.max() * found.min()) == pytest.approx(1.0, rel=1e-4)
    assert torch.equal(found.argsort(), inputs.absolute.clamp(min=1e-4).argsort())
