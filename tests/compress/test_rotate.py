"""Rotation: the same function to the last digits of float64, outliers spread, refused where it would be another one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from burnish.assemble import Origin, load_checked, open_plan, write_artifact
from burnish.compress.calibration import CalibrationConfig, draw
from burnish.compress.chain import decoder_chain
from burnish.compress.hadamard import paley, random_rotation, sylvester
from burnish.compress.memory import plan_memory, text_size
from burnish.compress.passes.choice import FormatChoice
from burnish.compress.passes.distill import Distill
from burnish.compress.passes.grid import quantize
from burnish.compress.passes.rotate import Rotate
from burnish.compress.passes.rtn import RoundToNearest
from burnish.compress.passes.shrink import Shrink
from burnish.compress.passes.whole import Material
from burnish.compress.recipe import Recipe
from burnish.compress.recipes import find_recipe
from burnish.compress.run import apply
from burnish.core.errors import BadSettings
from burnish.models.checkpoint import load_decoder, save_checkpoint, with_decoder
from burnish.models.decoder import Decoder
from burnish.models.formats.table import integer_format
from burnish.models.golden import golden_logits
from burnish.models.layers.attention import causal_attend
from burnish.models.layers.norm import RMSNorm
from burnish.models.locate import locate
from burnish.registry.artifact import read_manifest
from tests.compress.parts import blocks
from tests.compress.test_artifact import PROMPTS, by_transformers
from tests.models import oracle
from tests.tiny import tiny_decoder

KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "a head of its own": {"tied_embeddings": False},
    "every head its own values": {"num_kv_heads": 4},
    "one value head for all": {"num_kv_heads": 1},
    "biases everywhere": {"qkv_bias": True, "out_bias": True, "mlp_bias": True},
    "norms that store weight - 1": {"norm_offset": 1.0, "qk_norm": True},
    "windows, capped and scaled": {"windows": (None, 9), "logit_softcap": 3.0, "embedding_scale": 8.0}
    | {"attention_softcap": 5.0},
    "no gate": {"gated_mlp": False, "activation": "gelu"},
    "a width of twelves": {"hidden_size": 48, "head_dim": 12},
    "a width without a Hadamard matrix": {"hidden_size": 42, "head_dim": 6},
}
TOKENS = torch.arange(64)
INT4 = FormatChoice((integer_format("int4-g32"),))


def with_loud_columns(**changes: Any) -> Decoder:
    """A decoder whose norms tell columns apart and whose biases are not zero."""
    decoder = tiny_decoder(seed=11, **changes)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.empty(parameter.shape).normal_(std=0.5, generator=generator))
    return decoder


def logits(decoder: Decoder) -> Tensor:
    return decoder.logits(decoder(TOKENS, torch.arange(64), causal_attend(1, 64)))


def rotated(decoder: Decoder, seed: int = 0) -> Decoder:
    return Rotate(seed=seed).apply(decoder, Material(decoder)).decoder


# --- matrices -----------------------------------------------------------------------------------------------------


def test_hadamard_matrices_have_orthogonal_rows_of_ones() -> None:
    orders = [order for order in range(4, 280, 4) if paley(order) is not None]
    assert {12, 20, 28, 36, 44, 60, 104}.issubset(orders)
    for made, order in [(paley(order), order) for order in orders] + [(sylvester(64), 64)]:
        assert made is not None
        assert torch.equal(made @ made.T, order * torch.eye(order, dtype=torch.float64))
        assert torch.equal(made.abs(), torch.ones_like(made))


@pytest.mark.parametrize("width", [1, 2, 16, 48, 80, 96, 112, 144, 208, 288, 6, 7, 42])
def test_rotations_are_orthogonal_and_even_where_a_hadamard_matrix_is_known(width: int) -> None:
    rotation = random_rotation(width, torch.Generator().manual_seed(0))
    matrix = rotation.turn(torch.eye(width, dtype=torch.float64))
    assert (matrix @ matrix.T - torch.eye(width)).abs().max() < 1e-12
    if width not in (6, 7, 42):
        assert (matrix.abs() - width**-0.5).abs().max() < 1e-12
    rows = torch.empty(3, 2 * width, dtype=torch.float64).normal_(generator=torch.Generator().manual_seed(1))
    both = torch.cat((rows[:, :width] @ matrix, rows[:, width:] @ matrix), 1)
    assert (rotation.turn(rows) - both).abs().max() < 1e-12
    assert torch.equal(rotation.turn_columns(rows.T), rotation.turn(rows).T)


# --- the function stays, the weights do not -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_outputs_stay_in_float64(kind: str) -> None:
    decoder = with_loud_columns(**KINDS[kind]).double()
    before, embeddings = logits(decoder), decoder.embed_tokens.weight.clone()
    made = rotated(decoder)
    assert float((logits(made) - before).abs().max() / before.abs().max()) < 1e-10
    assert torch.equal(logits(decoder), before), "the one given stays as it is"
    assert torch.equal(decoder.embed_tokens.weight, embeddings)
    assert not made.config.tied_embeddings
    for ours, theirs in zip(blocks(made), blocks(decoder), strict=True):
        for layer, other in ((ours.attn.v_proj, theirs.attn.v_proj), (ours.mlp.down_proj, theirs.mlp.down_proj)):
            assert not torch.allclose(layer.weight, other.weight)
        for norm in (ours.attn_norm, ours.mlp_norm, made.norm):
            assert isinstance(norm, RMSNorm)
            assert torch.equal(norm.weight + norm.offset, torch.ones_like(norm.weight))
    assert all(not parameter.is_meta and not parameter.requires_grad for parameter in made.parameters())


def test_a_seed_draws_its_rotation() -> None:
    decoder = with_loud_columns()
    one, same, other = (rotated(decoder, seed).embed_tokens.weight for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)


def test_outliers_are_spread_and_rounding_loses_less() -> None:
    decoder = tiny_decoder(seed=3, tied_embeddings=False)
    with torch.no_grad():
        for block in blocks(decoder):
            block.attn_norm.weight[7] = 40.0
            block.mlp_norm.weight[[3, 50]] = 30.0
            block.attn.v_proj.weight[5] *= 30
    target, lost = integer_format("int4-g32"), []
    for model in (decoder, rotated(decoder)):
        whole, gone = 0.0, 0.0
        for block in blocks(model):
            for norm, layers in (
                (block.attn_norm, (block.attn.q_proj, block.attn.v_proj)),
                (block.mlp_norm, (block.mlp.up_proj,)),
            ):
                for layer in layers:
                    weight = layer.weight * norm.weight
                    gone += float((quantize(weight, target).dequantize() - weight).square().sum())
                    whole += float(weight.square().sum())
        lost.append((gone / whole) ** 0.5)
    assert lost[1] < 0.8 * lost[0]


# --- recipes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"norm": "layer"}, "norms that subtract a mean"),
        ({"norm_outputs": True}, "norms of what attention and MLP return"),
        ({"learned_positions": True}, "learned positions"),
    ],
)
def test_a_decoder_that_cannot_be_rotated_is_refused_before_anything_is_done(
    changes: dict[str, Any], fault: str
) -> None:
    decoder = tiny_decoder(**changes)
    with pytest.raises(BadSettings) as refused:
        apply(decoder, Recipe("x", "", (Rotate(), RoundToNearest(INT4))))
    assert str(refused.value) == f"a decoder with {fault} cannot be rotated. Use a recipe without rotate"


@pytest.mark.parametrize("later", [Shrink(inner=0.5), Distill()])
def test_what_needs_the_stream_as_it_was_comes_before(later: Shrink | Distill) -> None:
    with pytest.raises(BadSettings, match=r"needs the stream as it was, before rotate\. Put it before rotate"):
        Recipe("x", "", (Rotate(), later, RoundToNearest(INT4)))
    with pytest.raises(BadSettings, match=r"rotate changes the whole model, after rtn|rtn stores the weights"):
        Recipe("x", "", (RoundToNearest(INT4), Rotate()))


def test_a_recipe_from_a_file_needs_data_only_where_a_pass_does(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        '[[pass]]\nname = "rotate"\nseed = 3\n[[pass]]\nname = "rtn"\nformats = "int8"\n'
    )
    found = find_recipe(str(tmp_path / "mine.toml"))
    assert found.passes[0] == Rotate(seed=3)
    assert not found.needs.data
    made = apply(tiny_decoder(), found)
    assert [record.name for record in made.records][-1] == "lm_head"
    assert find_recipe("int4-rotate-gptq-g128").needs.data


def test_the_head_that_parts_is_planned() -> None:
    decoder = tiny_decoder()
    recipe = Recipe("x", "", (Rotate(), RoundToNearest(INT4)))
    chain = decoder_chain(decoder)
    plan = plan_memory(chain, decoder, recipe, text_size(chain, 0))
    plain = plan_memory(chain, decoder, replace_walked(recipe), text_size(chain, 0))
    assert plan.finished == plain.finished + 259 * (64 + 4) + 16
    assert plan.training >= 4 * (sum(p.numel() for p in decoder.parameters()) + 259 * 64)
    assert plan.total > plain.total


def replace_walked(recipe: Recipe) -> Recipe:
    return Recipe(recipe.name, recipe.about, recipe.walked)


# --- artifacts ------------------------------------------------------------------------------------------------------


def test_a_rotated_artifact_of_a_tied_model_opens_in_transformers_and_is_served(tmp_path: Path) -> None:
    parent, out = locate("builtin"), tmp_path / "out"
    loaded = load_decoder(parent, mapped=True)
    assert loaded.decoder.config.tied_embeddings
    recipe = find_recipe("int4-rotate-gptq-g128")
    formats = FormatChoice(tuple(map(integer_format, ("int4-g128", "int4-g32", "int8"))))
    made = apply(loaded.decoder, Recipe(recipe.name, "", (*recipe.whole, RoundToNearest(formats))))
    write_artifact(with_decoder(loaded, made.decoder), Origin(parent, recipe.name, made.records), out)
    again = load_checked(out)
    assert not again.decoder.config.tied_embeddings
    assert again.raw_config["tie_word_embeddings"] is False
    assert again.decoder.lm_head.format.name == "int8"
    for norm in (again.decoder.norm, blocks(again.decoder)[0].attn_norm):
        assert isinstance(norm, RMSNorm)
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))
    ours = golden_logits(again.decoder, PROMPTS)
    np.testing.assert_allclose(by_transformers(out), ours, atol=1e-3 * ours.std())
    dense = golden_logits(load_decoder(parent).decoder, PROMPTS)
    assert np.corrcoef(ours.flatten(), dense.flatten())[0, 1] > 0.98
    manifest = read_manifest(out)
    assert manifest is not None
    assert {record.name for record in manifest.records} >= {"lm_head", "layers.0.attn.v_proj"}
    assert open_plan(out).weights == again.weights


@pytest.mark.parametrize("name", ["llama tied, biased, wide heads", "mistral", "qwen2", "qwen3"])
def test_every_family_that_can_be_is_rotated_and_opens_in_transformers(name: str, tmp_path: Path) -> None:
    loaded = load_decoder(oracle.saved(name, tmp_path))
    before = golden_logits(loaded.decoder, ((1, 2, 3), (7,)))
    turned = with_decoder(loaded, rotated(loaded.decoder))
    assert np.abs(golden_logits(turned.decoder, ((1, 2, 3), (7,))) - before).max() < 1e-4 * before.std()
    save_checkpoint(turned.decoder, tmp_path / "x", family=turned.family, raw_config=turned.raw_config)
    prompts = ((1, 2, 3, 4, 5), (50, 9), (77,))
    ours = golden_logits(load_decoder(tmp_path / "x").decoder, prompts)
    np.testing.assert_allclose(by_transformers(tmp_path / "x", prompts=prompts), ours, atol=1e-3 * ours.std())


@pytest.mark.parametrize("name", ["gemma3", "gpt2"])
def test_families_that_cannot_be_are_refused(name: str, tmp_path: Path) -> None:
    decoder = load_decoder(oracle.saved(name, tmp_path)).decoder
    with pytest.raises(BadSettings, match="cannot be rotated"):
        rotated(decoder)


def test_gptq_behind_a_rotation_finishes_the_named_recipe() -> None:
    decoder = tiny_decoder(hidden_size=128, head_dim=32, inner_size=256)
    tokens = torch.randint(0, 256, (4096,), generator=torch.Generator().manual_seed(0))
    data = draw(tokens, 64, CalibrationConfig(samples=32, length=64))
    made = apply(decoder, find_recipe("int4-rotate-gptq-g128"), data)
    assert {record.format for record in made.records} == {"int4-g128", "int8"}
    assert made.decoder.lm_head.format.name == "int8"
