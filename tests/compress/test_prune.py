"""Pruning: exactly as many zeros as asked for, the better method loses less, and zeros stay zeros when rounded."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from burnish.compress.passes.awq import ActivationAwareScaling
from burnish.compress.passes.choice import FormatChoice
from burnish.compress.passes.gptq import Gptq, gptq, inverse_factor
from burnish.compress.passes.magnitude import MagnitudePruning
from burnish.compress.passes.prune import PruningPass
from burnish.compress.passes.rtn import RoundToNearest
from burnish.compress.passes.sparsegpt import SparseGpt, sparsegpt
from burnish.compress.passes.sparsity import parse_sparsity
from burnish.compress.passes.wanda import Wanda
from burnish.compress.recipe import Recipe
from burnish.compress.run import apply
from burnish.compress.statistics import Flow
from burnish.core.errors import BadSettings
from burnish.models.formats.table import integer_format
from burnish.models.layers.linear import Linear
from tests.compress.parts import blocks, correlated, part_of
from tests.compress.test_shrink import data
from tests.tiny import tiny_decoder

METHODS: tuple[type[PruningPass], ...] = (MagnitudePruning, Wanda, SparseGpt)


def layer_of(seed: int, outputs: int = 96, inputs: int = 256) -> Linear:
    weight = torch.empty(outputs, inputs).normal_(generator=torch.Generator().manual_seed(seed))
    layer = Linear(inputs, outputs, bias=False)
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    return layer


def pruned(kind: type[PruningPass], sparsity: float | str, rows: Tensor, seed: int = 0) -> float:
    """The change of the outputs on the rows, as a share of them."""
    layer = layer_of(seed)
    wanted: Tensor = layer(rows)
    flow = Flow(hidden=rows.view(1, *rows.shape)) if kind.needs.data else None
    list(kind(sparsity).apply(part_of(layer), flow))
    made: Tensor = layer(rows)
    return float((made - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.7, "2:4", "4:8"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_better_method_loses_less(sparsity: float | str, seed: int) -> None:
    rows = correlated(2048, 256, seed)
    by_magnitude, by_wanda, by_sparsegpt = (pruned(kind, sparsity, rows, seed) for kind in METHODS)
    assert by_sparsegpt < 0.95 * by_wanda
    assert by_wanda < 0.95 * by_magnitude


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize(("sparsity", "zeros"), [(0.25, 0.25), (0.5, 0.5), ("1:4", 0.75), ("2:4", 0.5)])
def test_as_many_zeros_as_asked_for(kind: type[PruningPass], sparsity: float | str, zeros: float) -> None:
    layer = layer_of(3)
    flow = Flow(hidden=correlated(512, 256).view(1, 512, 256)) if kind.needs.data else None
    (record,) = kind(sparsity).apply(part_of(layer), flow)
    weight = layer.dense_weight()
    assert float((weight == 0).float().mean()) == pytest.approx(zeros, abs=1e-3)
    assert record.zeros == pytest.approx(zeros, abs=1e-3)
    assert record.format == "dense"
    assert record.bits == 16
    if isinstance(sparsity, str):
        kept, of = map(int, sparsity.split(":"))
        assert ((weight.view(96, -1, of) != 0).sum(-1) <= kept).all()
    if kind is Wanda:
        assert ((weight == 0).sum(1) == round(256 * zeros)).all()


def test_what_a_zero_takes_the_columns_behind_it_make_up_for_as_least_squares_would() -> None:
    """One column goes, the last of a block of one pattern: the others' change is the closed form's."""
    rows = correlated(4096, 8, 1).double()
    moment = rows.T @ rows / len(rows)
    weight = torch.ones(1, 8, dtype=torch.float64)
    weight[0, 0] = 1e-9  # surely the one that goes
    made = sparsegpt(weight, moment, parse_sparsity(1 / 8))
    assert (made == 0).tolist() == [[True] + [False] * 7]
    factor = inverse_factor(moment)
    assert factor is not None
    inverse = factor.T @ factor
    expected = weight - weight[0, 0] / inverse[0, 0] * inverse[0]
    assert torch.allclose(made[0, 1:], expected[0, 1:])


@pytest.mark.parametrize("name", ["int8", "int4-g32", "int4-g32-asym", "int2-g32-asym"])
@pytest.mark.parametrize("rounding", ["rtn", "gptq"])
def test_zeros_stay_zeros_when_the_rest_is_rounded(name: str, rounding: str) -> None:
    rows, layer, target = correlated(512, 256), layer_of(4), integer_format(name)
    flow = Flow(hidden=rows.view(1, 512, 256))
    list(SparseGpt("2:4").apply(part_of(layer), flow))
    is_zero = layer.dense_weight() == 0
    step = Gptq(FormatChoice((target,))) if rounding == "gptq" else RoundToNearest(FormatChoice((target,)))
    (record,) = step.apply(part_of(layer), flow)
    assert (layer.dense_weight()[is_zero] == 0).all()
    assert record.zeros >= 0.5


def test_gptq_leaves_what_was_pruned_alone_in_any_order() -> None:
    moment = correlated(512, 64).T @ correlated(512, 64)
    weight = torch.empty(16, 64).normal_(generator=torch.Generator().manual_seed(0))
    weight[:, ::3] = 0
    for order in ("natural", "static", "grouped"):
        found = gptq(weight, moment, integer_format("int4-g32"), order=order)
        assert (found.dequantize()[:, ::3] == 0).all()


def test_a_decoder_is_pruned_all_but_its_head_and_leaves_two_records_when_rounded_after() -> None:
    decoder = tiny_decoder(tied_embeddings=False)
    choice = FormatChoice((integer_format("int4-g32"),))
    recipe = Recipe("x", "", (Wanda("2:4"), ActivationAwareScaling(choice), Gptq(choice)))
    records = apply(decoder, recipe, data()).records
    by_layer = [record for record in records if record.name == "layers.0.mlp.up_proj"]
    assert [record.format for record in by_layer] == ["dense", "int4-g32"]
    assert all(record.zeros >= 0.5 for record in by_layer)
    (head,) = [record for record in records if record.name == "lm_head"]
    assert (head.format, head.zeros < 0.1) == ("int8", True)
    assert (blocks(decoder)[0].mlp.up_proj.dense_weight() == 0).float().mean() >= 0.5


@pytest.mark.parametrize("given", [0.0, 1.0, -0.5, "4:2", "2:2", "0:4", "2:6", "a:b", "50%", ""])
def test_what_is_no_sparsity_is_refused(given: float | str) -> None:
    with pytest.raises(BadSettings, match="neither a share nor a pattern"):
        Wanda(given)


def test_inputs_that_hold_no_whole_patterns_are_refused_before_anything_changes() -> None:
    decoder = tiny_decoder(hidden_size=64, inner_size=100)
    before = blocks(decoder)[0].attn.q_proj.weight.clone()
    with pytest.raises(BadSettings, match=r"down_proj has 100 inputs, no whole number of 4:8\. Use a share"):
        apply(decoder, Recipe("x", "", (Wanda("4:8"),)), data())
    assert torch.equal(before, blocks(decoder)[0].attn.q_proj.weight)


def test_a_pruned_folder_is_dense_for_everybody(tmp_path: Path) -> None:
    from burnish.models.checkpoint import load_decoder, save_checkpoint

    decoder = tiny_decoder()
    made = apply(decoder, Recipe("x", "", (MagnitudePruning(0.5),))).decoder
    save_checkpoint(made, tmp_path / "x", family="llama", dtype=torch.bfloat16)
    loaded = load_decoder(tmp_path / "x")
    assert loaded.weights == "dense"
    weight = blocks(loaded.decoder)[1].mlp.up_proj.weight
    assert torch.equal(weight, blocks(made)[1].mlp.up_proj.dense_weight())
