"""AutoRound: rounding that is learned loses less of what a part of a decoder gives."""

import pytest
import torch

from burnish.compress.chain import Part, decoder_chain
from burnish.compress.passes.autoround import AutoRound
from burnish.compress.passes.base import IntegerRounding
from burnish.compress.passes.choice import FormatChoice
from burnish.compress.passes.imatrix import ImportanceRounding
from burnish.compress.passes.rtn import RoundToNearest
from burnish.compress.statistics import Flow, through
from burnish.models.formats.table import integer_format
from burnish.models.layers.linear import Linear
from tests.compress.parts import correlated, part_of
from tests.tiny import tiny_decoder


def lost(part: Part, made: IntegerRounding, seed: int) -> float:
    """Share of a part's outputs that rounding changes, on correlated inputs."""
    width = next(iter(part.layers.values())).in_features
    hidden = correlated(256, width, seed).view(8, 32, width)
    wanted = through(part, hidden)
    records = list(made.apply(part, Flow(hidden=hidden, original=hidden, wanted=wanted)))
    assert {record.format for record in records} == {made.choice.formats[0].name}
    return float((through(part, hidden) - wanted).norm() / wanted.norm())


def layer_of(seed: int) -> Part:
    torch.manual_seed(seed)
    return part_of(Linear(256, 48, bias=True))


def block_of(seed: int) -> Part:
    return decoder_chain(tiny_decoder(seed=seed)).parts[0]


@pytest.mark.parametrize("name", ["int3-g32", "int2-g32"])
@pytest.mark.parametrize("seed", range(2))
def test_a_layer_of_a_decoder_loses_less_than_by_rounding_with_and_without_importance(name: str, seed: int) -> None:
    choice = FormatChoice((integer_format(name),))
    learned = lost(block_of(seed), AutoRound(choice, steps=60), seed)
    important = lost(block_of(seed), ImportanceRounding(choice), seed)
    nearest = lost(block_of(seed), RoundToNearest(choice), seed)
    assert learned < 0.9 * important
    assert important < nearest


@pytest.mark.parametrize("name", ["int3-g64", "int2-g64"])
@pytest.mark.parametrize("seed", range(2))
def test_so_does_a_linear_layer(name: str, seed: int) -> None:
    """Alone it has no others to make up for it: there is less to win."""
    choice = FormatChoice((integer_format(name),))
    learned = lost(layer_of(seed), AutoRound(choice), seed)
    assert learned < lost(layer_of(seed), ImportanceRounding(choice), seed)
    assert learned < 0.9 * lost(layer_of(seed), RoundToNearest(choice), seed)


def test_learning_begins_at_rounding_by_importance() -> None:
    """The only step there is finds nothing better than what it began with."""
    choice = FormatChoice((integer_format("int3-g64"),))
    found = lost(layer_of(0), AutoRound(choice, steps=1), 0)
    assert found == pytest.approx(lost(layer_of(0), ImportanceRounding(choice), 0), rel=1e-6)
