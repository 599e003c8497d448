"""Recipes that change a whole model: shrunk, taught, trained rounded; refused in orders that cannot be; resumed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from burnish.compress.calibration import Calibration, CalibrationConfig, draw
from burnish.compress.chain import decoder_chain
from burnish.compress.distill import divergence, write
from burnish.compress.importance import by_activations, by_gradient
from burnish.compress.journal import Journal
from burnish.compress.passes.choice import FormatChoice
from burnish.compress.passes.distill import Distill
from burnish.compress.passes.qat import QuantizationAwareTraining
from burnish.compress.passes.rtn import RoundToNearest
from burnish.compress.passes.shrink import Shrink
from burnish.compress.passes.wanda import Wanda
from burnish.compress.passes.whole import Material, WholePass
from burnish.compress.recipe import Recipe
from burnish.compress.recipes import find_recipe
from burnish.compress.run import apply
from burnish.compress.walk import compress
from burnish.core.errors import BadSettings
from burnish.models.decoder import Decoder
from burnish.models.formats.table import integer_format
from burnish.models.golden import golden_logits
from burnish.models.layers.attention import causal_attend
from tests.compress.parts import blocks
from tests.tiny import tiny_decoder

SHORT: dict[str, Any] = {"steps": 40, "batch": 8, "length": 32, "look_every": 20}
INT2 = FormatChoice((integer_format("int2-g32"),))


def spoken(decoder: Decoder) -> Calibration:
    """Text that the model itself says."""
    generator = torch.Generator().manual_seed(0)
    tokens = write(decoder, torch.randint(0, 256, (60, 1), generator=generator), 65, generator).flatten()
    return draw(tokens, 64, CalibrationConfig(samples=32, length=64))


def apart(model: Decoder, teacher: Decoder, data: Calibration) -> float:
    rows, places = data.text[-640:], torch.arange(64).repeat(10)
    ours, theirs = (one.logits(one(rows, places, causal_attend(10, 64))).detach() for one in (model, teacher))
    return float(divergence(ours, theirs))


def test_shrunk_and_taught_is_nearer_than_shrunk() -> None:
    teacher = tiny_decoder(seed=1)
    data = spoken(teacher)
    alone = apply(teacher, Recipe("x", "", (Shrink(inner=0.5),)), data).decoder
    taught = apply(teacher, Recipe("x", "", (Shrink(inner=0.5), Distill(**SHORT))), data).decoder
    assert alone.config == taught.config == replace(teacher.config, inner_size=64)
    assert apart(taught, teacher, data) < 0.9 * apart(alone, teacher, data)
    assert not any(parameter.requires_grad for parameter in taught.parameters())


def test_trained_rounded_is_nearer_than_rounded() -> None:
    teacher = tiny_decoder(seed=1)
    data = spoken(teacher)
    before = golden_logits(teacher, ((1, 2, 3),))
    told: list[tuple[str, float, int]] = []
    recipe = Recipe("x", "", (QuantizationAwareTraining(choice=INT2, **SHORT),))
    trained = apply(teacher, recipe, data, watch=lambda *point: told.append(point))
    assert {name for name, *_ in told} == {f"qat/{what}" for what in ("loss", "held_out_loss", "held_out_divergence")}
    assert (golden_logits(teacher, ((1, 2, 3),)) == before).all()
    assert [record.format for record in trained.records] == ["int2-g32"] * 14
    rounded = tiny_decoder(seed=1)
    apply(rounded, Recipe("x", "", (RoundToNearest(INT2),)))
    assert apart(trained.decoder, teacher, data) < apart(rounded, teacher, data)


def test_all_stages_follow_one_another_and_a_killed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    teacher = tiny_decoder(seed=2, num_layers=4)
    data = spoken(teacher)
    recipe = Recipe("x", "", (Shrink(layers=0.5), Distill(**SHORT), Wanda(0.5), RoundToNearest(INT2)))
    whole = apply(teacher, recipe, data)
    assert whole.decoder.config.num_layers == 2
    assert len(whole.records) == 28

    steps = 0

    def dies(done: int, total: int) -> None:
        nonlocal steps
        steps += 1
        if steps == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apply(teacher, recipe, data, journal=Journal(tmp_path / "j", {"k": "v"}), progress=dies)
    seen = list[tuple[int, int]]()
    journal = Journal(tmp_path / "j", {"k": "v"})
    again = apply(teacher, recipe, data, journal=journal, progress=lambda *moved: seen.append(moved))
    assert seen[0] == (21, 40)  # the first 20 steps were saved
    assert (golden_logits(again.decoder, ((5, 6),)) == golden_logits(whole.decoder, ((5, 6),))).all()
    assert again.records == whole.records


ORDERS: list[tuple[tuple[WholePass | RoundToNearest | Wanda, ...], str]] = [
    ((Distill(),), "distill has nothing to teach"),
    ((Wanda(), Shrink(inner=0.5)), r"shrink changes the whole model, after wanda\. Put it before wanda"),
    ((QuantizationAwareTraining(), RoundToNearest(INT2)), "qat stores the weights, nothing can follow"),
]


@pytest.mark.parametrize(("passes", "complaint"), ORDERS)
def test_orders_that_cannot_be_are_refused(
    passes: tuple[WholePass | RoundToNearest | Wanda, ...], complaint: str
) -> None:
    with pytest.raises(BadSettings, match=complaint):
        Recipe("x", "", passes)


def test_a_format_that_will_not_fit_the_shrunk_model_is_told_before_it_is_taught() -> None:
    teacher = tiny_decoder(hidden_size=128, inner_size=256, num_heads=8, num_kv_heads=8)
    wide = FormatChoice((integer_format("int4-g128"),))
    recipe = Recipe("x", "", (Shrink(inner=0.25), Distill(steps=10**9), RoundToNearest(wide)))
    with pytest.raises(BadSettings, match="down_proj has 192 inputs, no whole number of groups of int4-g128"):
        apply(teacher, recipe, spoken(teacher))


def test_a_model_that_is_no_decoder_cannot_be_shrunk() -> None:
    chain = decoder_chain(tiny_decoder())
    with pytest.raises(BadSettings, match="shrink works on whole models"):
        compress(chain, find_recipe("shrink-25"), spoken(tiny_decoder()))


def test_activations_of_int8_need_weights_of_eight_bits() -> None:
    with pytest.raises(BadSettings, match="yet not every weight has eight bits"):
        Recipe("x", "", (RoundToNearest(INT2),), activations="int8")


def test_what_the_gradient_says_is_what_a_loss_loses() -> None:
    """Each neuron, head and layer scaled by 1 - h: the change of the loss is h times the importance's sum."""
    decoder = tiny_decoder(seed=3).double()
    sample = torch.randint(0, 256, (1, 48), generator=torch.Generator().manual_seed(1))
    found, h = by_gradient(decoder, sample), 1e-6

    def loss() -> float:
        rows = decoder(sample.flatten(), torch.arange(48), causal_attend(1, 48))
        return float(torch.nn.functional.cross_entropy(decoder.logits(rows)[:-1], sample.flatten()[1:]))

    whole = loss()
    block = blocks(decoder)[1]
    for place in (5, 77):
        with torch.no_grad():
            block.mlp.down_proj.weight[:, place] *= 1 - h
        changed = abs(whole - loss()) / h
        with torch.no_grad():
            block.mlp.down_proj.weight[:, place] /= 1 - h
        assert changed == pytest.approx(float(found.neurons[1][place]), rel=1e-3, abs=1e-7)


def test_idle_pieces_count_nothing_by_either_measure() -> None:
    decoder = tiny_decoder(seed=4)
    with torch.no_grad():
        blocks(decoder)[0].mlp.up_proj.weight[7] = 0
        blocks(decoder)[1].attn.o_proj.weight.zero_()
        blocks(decoder)[1].mlp.down_proj.weight.zero_()
    tokens = torch.randint(0, 256, (4, 32), generator=torch.Generator().manual_seed(0))
    for measure in (by_activations, by_gradient):
        found = measure(decoder, tokens)
        assert found.neurons[0][7] == 0
        assert (found.neurons[0][8:] > 0).all()
        assert found.layers[1].abs() < 1e-6 < found.layers[0]
    assert (by_gradient(decoder, tokens).heads[1] == 0).all()


def test_shrinking_by_the_gradient_keeps_what_the_loss_needs() -> None:
    teacher = tiny_decoder(seed=5)
    data = spoken(teacher)
    made = Shrink(inner=0.5, heads=0.5, by="gradient").apply(teacher, Material(teacher, data)).decoder
    assert (made.config.inner_size, made.config.num_heads) == (64, 2)
