"""Layers that are kept: in eight bits or dense, whatever the passes do to others, and never pruned."""

import pytest
import torch

from burnish.compress.chain import decoder_chain
from burnish.compress.memory import DataSize, plan_memory
from burnish.compress.mixed import choose, measure
from burnish.compress.passes.autoround import AutoRound
from burnish.compress.passes.awq import ActivationAwareScaling
from burnish.compress.passes.base import Pass
from burnish.compress.passes.choice import FormatChoice
from burnish.compress.passes.gptq import Gptq
from burnish.compress.passes.imatrix import ImportanceRounding
from burnish.compress.passes.qat import QuantizationAwareTraining
from burnish.compress.passes.rotate import Rotate
from burnish.compress.passes.rtn import RoundToNearest
from burnish.compress.passes.sparsegpt import SparseGpt
from burnish.compress.recipe import Recipe
from burnish.compress.run import apply, check
from burnish.core.errors import BadSettings
from burnish.models.formats.base import stored_bytes
from burnish.models.formats.table import get, integer_format
from tests.compress.test_mixed import CANDIDATES, data, num_weights
from tests.tiny import tiny_decoder

FOUR = FormatChoice((integer_format("int4-g32"),))
KEPT = ("layers.0.attn.*", "lm_head")
PASSES: dict[str, tuple[Pass, ...]] = {
    "rtn": (RoundToNearest(FOUR),),
    "imatrix": (ImportanceRounding(FOUR),),
    "gptq": (Gptq(FOUR),),
    "awq": (ActivationAwareScaling(FOUR), ImportanceRounding(FOUR)),
    "autoround": (AutoRound(FOUR, steps=2),),
    "pruned": (SparseGpt("2:4"), Gptq(FOUR)),
}


@pytest.mark.parametrize("kept_format", ["int8", "dense"])
@pytest.mark.parametrize("name", PASSES)
def test_every_pass_respects_what_is_kept(name: str, kept_format: str) -> None:
    decoder = tiny_decoder(tied_embeddings=False)
    before = {name: layer.dense_weight().detach().clone() for name, layer in decoder_chain(decoder).layers.items()}
    recipe = Recipe(name, "", PASSES[name], keep=KEPT, keep_format=kept_format)
    apply(decoder, recipe, data() if recipe.needs.data else None)
    for layer_name, layer in decoder_chain(decoder).layers.items():
        is_kept = layer_name.startswith("layers.0.attn.") or layer_name == "lm_head"
        assert layer.format.name == (kept_format if is_kept else "int4-g32"), layer_name
        if is_kept and name != "awq":  # which moves scales through them
            change = (layer.dense_weight() - before[layer_name]).norm() / before[layer_name].norm()
            assert change < (1e-2 if kept_format == "int8" else 1e-9)


def test_a_whole_part_may_be_kept_dense() -> None:
    decoder = tiny_decoder()
    before = decoder.layers[0].state_dict()
    apply(decoder, Recipe("x", "", (Gptq(FOUR),), keep=("layers.0.*",), keep_format="dense"), data())
    assert all(torch.equal(tensor, before[name]) for name, tensor in decoder.layers[0].state_dict().items())


def test_mixed_precision_counts_what_is_kept() -> None:
    decoder = tiny_decoder()
    choice = CANDIDATES.settled({"layers.0.mlp.down_proj": get("int8"), "layers.1.attn.v_proj": get("int4-g32")})
    formats = choose(measure(decoder, data(), choice), 5.0, num_weights(decoder))
    assert formats["layers.0.mlp.down_proj"] == "int8"
    assert formats["layers.1.attn.v_proj"] == "int4-g32"
    assert formats["layers.1.attn.q_proj"] == formats["layers.1.attn.k_proj"]
    stored = sum(
        stored_bytes(integer_format(formats[name]), layer.out_features, layer.in_features)
        for name, layer in decoder_chain(decoder).layers.items()
    )
    assert 8 * stored / num_weights(decoder) <= 5.0


def test_memory_is_planned_for_layers_that_stay_dense() -> None:
    decoder = tiny_decoder()
    chain = decoder_chain(decoder)
    kept = Recipe("x", "", (RoundToNearest(FOUR),), keep=("*",), keep_format="dense").for_layers(list(chain.layers))
    assert plan_memory(chain, decoder, kept, DataSize(0, 0)).finished == 2 * num_weights(decoder)


def test_a_pattern_no_layer_matches_is_named_with_the_nearest() -> None:
    recipe = Recipe("mine.toml", "", (RoundToNearest(FOUR),), keep=("layers.0.attn.k_prj",))
    with pytest.raises(BadSettings) as fault:
        check(tiny_decoder(), recipe, has_data=False)
    assert "keep: no layer is called 'layers.0.attn.k_prj'. Did you mean 'layers.0.attn.k_proj'" in str(fault.value)


@pytest.mark.parametrize(
    ("step", "kept_format", "complaint"),
    [
        (SparseGpt("2:4"), "int8", "has keep, yet sparsegpt stores no formats"),
        (RoundToNearest(FOUR), "int9", "'int9' is no integer format"),
        (RoundToNearest(FOUR), "int8-2:4", "yet what is kept is not pruned. Use int8"),
        (QuantizationAwareTraining(choice=FOUR), "dense", "yet qat rounds them all. Use int8"),
    ],
)
def test_what_cannot_be_kept_is_refused(
    step: Pass | QuantizationAwareTraining, kept_format: str, complaint: str
) -> None:
    with pytest.raises(BadSettings) as fault:
        Recipe("x", "", (step,), keep=("lm_head",), keep_format=kept_format)
    assert complaint in str(fault.value)


def test_a_format_that_does_not_fit_what_is_kept_is_refused() -> None:
    recipe = Recipe("x", "", (RoundToNearest(FOUR),), keep=("*.down_proj",), keep_format="int4-g128")
    with pytest.raises(BadSettings, match=r"no whole number of groups of int4-g128\. Keep it in int8"):
        check(tiny_decoder(inner_size=96), recipe, has_data=False)


def test_training_respects_what_is_kept() -> None:
    decoder = tiny_decoder(tied_embeddings=False)
    step = QuantizationAwareTraining(choice=FOUR, steps=1, batch=2, length=32)
    recipe = Recipe("x", "", (step,), keep=KEPT)
    made = apply(decoder, recipe, data()).decoder
    for name, layer in decoder_chain(made).layers.items():
        is_kept = name.startswith("layers.0.attn.") or name == "lm_head"
        assert layer.format.name == ("int8" if is_kept else "int4-g32"), name


def test_a_head_that_rotating_parts_can_be_kept() -> None:
    decoder = tiny_decoder(tied_embeddings=True)
    recipe = Recipe("x", "", (Rotate(), Gptq(FOUR)), keep=("lm_head",), keep_format="dense")
    made = apply(decoder, recipe, data()).decoder
    assert decoder_chain(made).layers["lm_head"].format.name == "dense"
