"""Every family against transformers: logits with and without cache, both spellings of config.json, both directions."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from burnish.core.errors import BadCheckpoint, BurnishError, UnknownFamily
from burnish.models.checkpoint import load_decoder, save_checkpoint
from burnish.models.families import FAMILIES, read_config, write_config
from tests.models import oracle
from tests.models.paged import chunked_logits, whole_logits

TOLERANCE = 1e-4
NAMES = list(oracle.VARIANTS)


@pytest.mark.parametrize("name", NAMES)
def test_logits_agree_with_transformers(name: str, root: Path) -> None:
    folder = oracle.saved(name, root)
    decoder, model = load_decoder(folder).decoder, oracle.make(oracle.VARIANTS[name])
    paged = chunked_logits(decoder, oracle.SEQUENCES, chunk=13)
    for tokens, cached in zip(oracle.SEQUENCES, paged, strict=True):
        expected = oracle.logits(model, tokens)
        assert oracle.difference(whole_logits(decoder, tokens), expected) < TOLERANCE
        assert oracle.difference(cached, expected) < TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_model_is_the_same_here_and_in_transformers(name: str, root: Path, tmp_path: Path) -> None:
    loaded = load_decoder(oracle.saved(name, root))
    save_checkpoint(loaded.decoder, tmp_path / "x", family=loaded.family)
    again = load_decoder(tmp_path / "x")
    assert again.decoder.config == loaded.decoder.config
    ours, theirs = again.decoder.state_dict(), loaded.decoder.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "x").eval()
    tokens = oracle.SEQUENCES[2]
    assert oracle.difference(whole_logits(loaded.decoder, tokens), oracle.logits(model, tokens)) < TOLERANCE


def older(raw: dict[str, Any]) -> dict[str, Any]:
    """The same configuration as transformers 4 spelt it."""
    raw = copy.deepcopy(raw)
    rope = raw.pop("rope_parameters", None)
    if rope is not None and "full_attention" in rope:
        raw["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        raw["sliding_window_pattern"] = raw.pop("_sliding_window_pattern")
        rope = rope["full_attention"]
    if rope is not None:
        raw["rope_theta"] = rope.pop("rope_theta")
        raw["rope_scaling"] = None if rope["rope_type"] == "default" else {"type": rope.pop("rope_type"), **rope}
    raw.pop("layer_types", None)
    return raw


@pytest.mark.parametrize("name", NAMES)
def test_older_and_newer_spelling_read_the_same(name: str, root: Path) -> None:
    raw = json.loads((oracle.saved(name, root) / "config.json").read_text())
    assert read_config(older(raw)) == read_config(raw)


@pytest.mark.parametrize("name", NAMES)
def test_a_written_configuration_reads_back(name: str, root: Path) -> None:
    raw = json.loads((oracle.saved(name, root) / "config.json").read_text())
    config = read_config(raw)
    assert read_config(write_config(FAMILIES[raw["model_type"]], config)) == config


def minimal(**changes: Any) -> dict[str, Any]:
    sizes = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": None}
    return {"model_type": "llama", **sizes, **heads, "max_position_embeddings": 8} | changes


ONLY = minimal(hidden_size=256, num_attention_heads=32, num_hidden_layers=30)  # what every family must be given
del ONLY["num_key_value_heads"]
ONLY_GPT2 = {"model_type": "gpt2", "vocab_size": 8, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 8}


@pytest.mark.parametrize("changes", [{}, {"use_sliding_window": True}])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_absent_keys_mean_what_they_mean_to_transformers(family: str, changes: dict[str, Any]) -> None:
    raw = ONLY_GPT2 if family == "gpt2" else ONLY | {"model_type": family} | changes
    spelt_out = transformers.AutoConfig.for_model(**raw).to_dict()
    assert len(spelt_out) > 2 * len(raw)
    assert read_config(raw) == read_config(spelt_out)


def test_null_means_the_default_or_none() -> None:
    assert read_config(minimal(head_dim=None, rope_scaling=None)) == read_config(minimal())
    mistral = minimal(model_type="mistral")
    assert read_config(mistral).num_kv_heads == 2
    assert read_config(mistral).windows == (4096, 4096)
    assert read_config(mistral | {"sliding_window": None}).windows == ()
    windowed = minimal(model_type="qwen2", use_sliding_window=True, max_window_layers=1)
    assert read_config(windowed).windows == (None, 4096)
    assert read_config(windowed | {"sliding_window": None}).windows == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"hidden_size": "64"}, "hidden_size = '64' is not a positive integer"),
        ({"vocab_size": 0}, "vocab_size = 0"),
        ({"vocab_size": True}, "vocab_size = True"),
        ({"num_attention_heads": 3}, "hidden_size = 8 is not a multiple of the 3 heads"),
        ({"num_key_value_heads": 4}, "num_key_value_heads = 4 is not a divisor of the 2"),
        ({"head_dim": 3}, "head_dim = 3 is not even"),
        ({"hidden_act": "gelu_neu"}, "Did you mean 'gelu_new'?"),
        ({"hidden_act": 3}, "hidden_act = 3 is not a string"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps = 'small' is not a positive number"),
        ({"attention_bias": 1}, "attention_bias = 1 is not true or false"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope scaling 'dynamic' is not supported"),
        ({"rope_scaling": {"type": "longrope"}}, "Known: default, linear, llama3, yarn"),
        ({"rope_scaling": {"type": "linear"}}, "lacks its factor"),
        ({"rope_scaling": 3}, "rope_scaling = 3 is not an object"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor = 0.5"),
        ({"model_type": "qwen3", "use_sliding_window": True, "sliding_window": 4, "layer_types": ["x"]}, "layer_types"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "use_bidirectional_attention = True"),
        ({"model_type": "gemma3_text", "attn_logit_softcapping": 50.0}, "Only attn_logit_softcapping = null is"),
        ({"model_type": "gpt2"}, "lacks n_embd"),
    ],
)
def test_a_bad_configuration_is_one_clear_line(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadCheckpoint) as caught:
        read_config(minimal(**changes))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"), [("qwen", "Did you mean 'qwen\\d'"), ("zzz", "Known: gemma3_text, gpt2"), (None, "None")]
)
def test_an_unknown_family_names_the_nearest(name: str | None, words: str) -> None:
    with pytest.raises(UnknownFamily, match=words):
        read_config(minimal(model_type=name))


def test_a_family_refuses_what_it_cannot_express() -> None:
    config = read_config(minimal(model_type="qwen3"))
    with pytest.raises(BadCheckpoint, match="'llama' cannot express qk_norm"):
        write_config(FAMILIES["llama"], config)


KEYS = [
    "hidden_size",
    "head_dim",
    "num_key_value_heads",
    "rope_scaling",
    "rope_parameters",
    "layer_types",
    "hidden_act",
]
KEYS += ["sliding_window", "use_sliding_window", "max_window_layers", "tie_word_embeddings", "rope_theta", "n_inner"]
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["rope_type", "factor", "full_attention", "sliding_attention"]), inner)
    ),
    max_leaves=5,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(FAMILIES)), st.dictionaries(st.sampled_from(KEYS), JUNK, max_size=3))
def test_no_configuration_gives_anything_but_a_burnish_error(family: str, junk: dict[str, Any]) -> None:
    raw = minimal(model_type=family, n_embd=8, n_layer=2, n_head=2, n_positions=8) | junk
    try:
        read_config(raw)
    except BurnishError as error:
        assert "\n" not in str(error)  # noqa: PT017 - both outcomes are allowed
