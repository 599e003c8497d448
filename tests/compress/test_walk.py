"""Recipes over whole models: what is touched, what is not, and that nothing starts before all is checked."""

import copy

import pytest
import torch

from burnish.compress.chain import decoder_chain
from burnish.compress.recipes import find_recipe
from burnish.compress.walk import compress
from burnish.core.errors import BadSettings
from burnish.models.golden import golden_logits
from tests.tiny import tiny_decoder

PROMPTS = ((1, 2, 3), (250, 9))


@pytest.mark.parametrize("name", ["int8", "int4", "int4-g64", "int4-g32"])
@pytest.mark.parametrize("is_tied", [True, False])
def test_every_layer_is_compressed_and_the_head_takes_eight_bits(name: str, is_tied: bool) -> None:
    decoder = tiny_decoder(tied_embeddings=is_tied)
    embedding = decoder.embed_tokens.weight.clone()
    records = compress(decoder_chain(decoder), find_recipe(name))
    assert [record.name for record in records] == list(decoder_chain(decoder).layers)
    assert len(records) == 7 * 2 + (not is_tied)
    assert all(
        layer.format.name == record.format
        for layer, record in zip(decoder_chain(decoder).layers.values(), records, strict=True)
    )
    assert torch.equal(decoder.embed_tokens.weight, embedding)
    if not is_tied:
        assert decoder.lm_head.format.name == "int8"
    assert all(record.bytes_after < 0.3 * record.bytes_before for record in records)


@pytest.mark.parametrize(("name", "share"), [("int8", 0.03), ("int4-g32", 0.5)])
def test_the_outputs_stay_close(name: str, share: float) -> None:
    """The change, as a share of the spread of the logits, root mean square."""
    decoder = tiny_decoder()
    before = golden_logits(decoder, PROMPTS)
    compress(decoder_chain(decoder), find_recipe(name))
    after = golden_logits(decoder, PROMPTS)
    error = float((after - before).std() / before.std())
    assert share / 10 < error < share


def test_int4_takes_the_largest_group_each_layer_allows() -> None:
    decoder = tiny_decoder(inner_size=96, num_heads=4, head_dim=25, num_kv_heads=4)
    formats = {
        record.name.rpartition(".")[2]: record.format
        for record in compress(decoder_chain(decoder), find_recipe("int4"))
    }
    assert formats["q_proj"] == "int4-g64"
    assert formats["o_proj"] == "int8"
    assert formats["down_proj"] == "int4-g32"


def test_nothing_changes_when_one_layer_does_not_fit() -> None:
    decoder = tiny_decoder(inner_size=100)
    before = copy.deepcopy(decoder.state_dict())
    with pytest.raises(BadSettings, match=r"mlp\.down_proj has 100 inputs"):
        compress(decoder_chain(decoder), find_recipe("int4-g32"))
    after = decoder.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_compressed_model_is_not_compressed_again() -> None:
    decoder = tiny_decoder()
    compress(decoder_chain(decoder), find_recipe("int8"))
    with pytest.raises(BadSettings, match="stored as int8 already"):
        compress(decoder_chain(decoder), find_recipe("int4"))


def test_progress_counts_every_layer() -> None:
    seen: list[tuple[int, int]] = []
    compress(
        decoder_chain(tiny_decoder()), find_recipe("int8"), progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(i + 1, 14) for i in range(14)]


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("int5", "int"), ("int4-g23", "int4-g"), ("INT8", "Did you mean .int8"), ("zzz", "Known: channels")],
)
def test_an_unknown_recipe_names_the_nearest(wrong: str, right: str) -> None:
    with pytest.raises(BadSettings, match=f"unknown recipe '{wrong}'.*{right}") as fault:
        find_recipe(wrong)
    assert "\n" not in str(fault.value)
