"""AWQ's search: never worse than leaving things where they are, and better where inputs have outliers."""

import pytest
import torch
from torch import Tensor

from burnish.compress.chain import decoder_chain
from burnish.compress.passes.awq import ActivationAwareScaling, best_exponent, scales
from burnish.compress.passes.base import Pass
from burnish.compress.passes.choice import FormatChoice
from burnish.compress.passes.grid import quantize
from burnish.compress.passes.imatrix import SHRINKS, ImportanceRounding
from burnish.compress.passes.rtn import RoundToNearest
from burnish.compress.statistics import Flow, Inputs, through
from burnish.models.formats.integer import IntegerFormat
from burnish.models.formats.table import integer_format
from tests.compress.parts import correlated, seen
from tests.tiny import tiny_decoder

INT4 = integer_format("int4-g128")


def lost(weight: Tensor, inputs: Inputs, exponent: float, target: IntegerFormat = INT4) -> float:
    """The outputs' squared error when columns are scaled and rounded by importance."""
    scale = scales(inputs, exponent)
    importance = inputs.square / scale.square()
    chosen = quantize(weight * scale, target, importance=importance, shrinks=SHRINKS, refit=True)
    return squared(weight, inputs, chosen.dequantize() / scale)


def squared(weight: Tensor, inputs: Inputs, rounded: Tensor) -> float:
    assert inputs.rows is not None
    return float((inputs.rows @ (rounded - weight).T).square().sum())


@pytest.mark.parametrize("seed", range(4))
def test_the_exponent_found_is_the_best_of_the_grid(seed: int) -> None:
    rows = correlated(256, 256, seed)
    inputs = seen(rows)
    weight = torch.empty(48, 256).normal_(generator=torch.Generator().manual_seed(seed))
    found = best_exponent([weight], [INT4], inputs)
    assert 0 <= found < 1
    assert lost(weight, inputs, found) == pytest.approx(min(lost(weight, inputs, step / 20) for step in range(20)))


@pytest.mark.parametrize("bits", [4, 3, 2])
@pytest.mark.parametrize("seed", range(4))
def test_it_loses_less_than_rounding_to_nearest(bits: int, seed: int) -> None:
    """Plain rounding of the weight as it is, which knows nothing of the inputs."""
    inputs, target = seen(correlated(256, 256, seed)), integer_format(f"int{bits}-g128")
    weight = torch.empty(48, 256).normal_(generator=torch.Generator().manual_seed(seed))
    nearest = squared(weight, inputs, quantize(weight, target).dequantize())
    assert lost(weight, inputs, best_exponent([weight], [target], inputs), target) < 0.9 * nearest


@pytest.mark.parametrize("bits", [4, 3, 2])
@pytest.mark.parametrize("seed", range(2))
def test_so_does_a_part_of_a_decoder(bits: int, seed: int) -> None:
    """The two passes as recipes have them, judged by what the layer gives."""
    choice = FormatChoice((integer_format(f"int{bits}-g32"),))

    def change(*passes: Pass) -> float:
        part = decoder_chain(tiny_decoder(seed=seed, tied_embeddings=False)).parts[0]
        flow = Flow(hidden=correlated(512, 64, seed).view(8, 64, 64))
        wanted = through(part, flow.hidden)
        for step in passes:
            list(step.apply(part, flow))
        return float((through(part, flow.hidden) - wanted).norm() / wanted.norm())

    assert change(ActivationAwareScaling(choice), ImportanceRounding(choice)) < 0.95 * change(RoundToNearest(choice))


def test_outliers_are_scaled_and_inputs_all_alike_are_not() -> None:
    generator = torch.Generator().manual_seed(0)
    alike = torch.empty(256, 256).normal_(generator=generator)
    weight = torch.empty(48, 256).normal_(generator=generator)
    outliers = alike.clone()
    outliers[:, ::50] *= 30
    inputs = seen(outliers)
    found = best_exponent([weight], [INT4], inputs)
    assert found > 0.1
    assert lost(weight, inputs, found) < 0.8 * lost(weight, inputs, 0.0)
    # sampling noise is all there is to scale by
    level = seen(alike)
    assert lost(weight, level, best_exponent([weight], [INT4], level)) > 0.95 * lost(weight, level, 0.0)


def test_scales_lie_around_one_and_zero_moves_nothing() -> None:
    inputs = seen(correlated(64, 128))
    assert torch.equal(scales(inputs, 0.0), torch.ones(128))
    found = scales(inputs, 0.5)
    assert float(found.max() * found.min()) == pytest.approx(1.0, rel=1e-4)
    assert torch.equal(found.argsort(), inputs.absolute.clamp(min=1e-4).argsort())
