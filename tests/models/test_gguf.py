"""GGUF files: written by the library of llama.cpp from models of transformers, and held against both."""

import contextlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import safetensors.torch
import torch

import burnish
from burnish.assemble import open_plan
from burnish.core.errors import BadCheckpoint, BurnishError, UnknownFamily
from burnish.core.types import Request, Sampling, TokenEvent
from burnish.engine.config import EngineConfig
from burnish.engine.engine import Engine
from burnish.models.checkpoint import empty_decoder, load_decoder, main_format, raw_config, save_checkpoint
from burnish.models.families import read_config
from burnish.models.formats import ggml
from burnish.models.formats.foreign import Grouped, to_native
from burnish.models.layers.linear import Linear
from burnish.models.locate import locate
from burnish.models.tokenizer import load_tokenizer
from burnish.plan.cache import CacheConfig, PlanCache
from tests.models import gguf_files, oracle
from tests.models.paged import whole_logits

TOKENS = oracle.SEQUENCES[1]
STORIES = Path(burnish.__file__).parent / "builtin" / "stories"
WIDE = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 32.0, "low_freq_factor": 1.0}
LLAMA3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def written(
    folder: Path, variant: oracle.Variant, types: gguf_files.Types | None = None, **changes: Any
) -> tuple[Path, Any]:
    """A file, and the model of transformers that holds what the file means."""
    path, model = folder / "model.gguf", oracle.make(variant)
    config = model.config.to_dict()
    config.setdefault("head_dim", config["hidden_size"] // config["num_attention_heads"])
    if config["head_dim"] is None:
        config["head_dim"] = config["hidden_size"] // config["num_attention_heads"]
    tensors = dict(model.state_dict())
    if config["tie_word_embeddings"]:
        tensors.pop("lm_head.weight", None)
    if (config.get("rope_parameters") or {}).get("rope_type") == "llama3":
        tensors["rope_freqs.weight"] = divisors(config["rope_parameters"], config["head_dim"])
    meant = gguf_files.write(path, config, tensors, types, **changes)
    meant.pop("rope_freqs.weight", None)
    model.load_state_dict(meant, strict=False)
    return path, model


def divisors(rope: dict[str, Any], width: int) -> torch.Tensor:
    """As convert_hf_to_gguf.py spells Llama 3's scaling."""
    found, original = [], rope["original_max_position_embeddings"]
    for i in range(0, width, 2):
        wavelength = 2 * np.pi * rope["rope_theta"] ** (i / width)
        if wavelength < original / rope["high_freq_factor"]:
            found.append(1.0)
        elif wavelength > original / rope["low_freq_factor"]:
            found.append(rope["factor"])
        else:
            span = rope["high_freq_factor"] - rope["low_freq_factor"]
            smooth = (original / wavelength - rope["low_freq_factor"]) / span
            found.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return torch.tensor(found)


# --- families -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variant",
    [
        oracle.Variant("llama"),
        oracle.Variant("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
        oracle.Variant("llama", {"rope_parameters": LLAMA3}),
        oracle.VARIANTS["linear scaling"],
        oracle.VARIANTS["yarn scaling"],
        oracle.VARIANTS["qwen2"],
        oracle.VARIANTS["qwen3"],
        oracle.Variant("gemma3_text", {"sliding_window": 16, "query_pre_attn_scalar": 32, "head_dim": 32}),
        oracle.Variant("gemma3_text", oracle.VARIANTS["gemma3 scaled"].changes | {"query_pre_attn_scalar": 16}),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_floats_compute_what_transformers_computes(tmp_path: Path, variant: oracle.Variant, kind: str) -> None:
    path, model = written(tmp_path, variant, gguf_files.matrices(kind))
    loaded = load_decoder(path)
    assert loaded.weights == "dense"
    for tokens in oracle.SEQUENCES[1:3]:
        assert oracle.difference(whole_logits(loaded.decoder, tokens), oracle.logits(model, tokens)) < 2e-5


def test_weights_of_floats_are_exact(tmp_path: Path) -> None:
    path, model = written(tmp_path, oracle.Variant("llama"), gguf_files.matrices("BF16"))
    ours, theirs = load_decoder(path).decoder, model.state_dict()
    for name in "qkvo":
        weight = ours.get_parameter(f"layers.1.attn.{name}_proj.weight")
        assert torch.equal(weight, theirs[f"model.layers.1.self_attn.{name}_proj.weight"])


def test_a_configuration_survives(tmp_path: Path) -> None:
    path, model = written(tmp_path, oracle.Variant("llama", {"rope_parameters": LLAMA3}))
    assert read_config(raw_config(path)) == read_config(model.config.to_dict())


# --- types of blocks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "weights"), [("Q4_0", "int4-g32"), ("Q8_0", "int8-g32"), ("Q5_0", "int8-g32"), ("Q4_1", "int4-g32-asym")]
)
def test_blocks_of_32_are_held_bit_for_bit(kind: str, weights: str) -> None:
    weight = torch.randn(6, 96)
    if kind == "Q4_1":  # minima that are whole steps below zero
        weight = torch.randint(-5, 11, weight.shape).float() * 0.25
        weight[:, ::32], weight[:, 1::32] = -1.25, 2.5
    packed = gguf_files.blocks(weight, kind)
    native = to_native(ggml.Blocks(kind).read({"weight": torch.from_numpy(packed)}))
    theirs = torch.from_numpy(gguf.dequantize(packed, gguf.GGMLQuantizationType[kind]))
    assert native.weight_format.name == weights
    assert native.error is None
    assert torch.equal(native.quantized.dequantize(), theirs)
    assert torch.equal(native.weight_format.unpack(native.packed()), theirs)


@pytest.mark.parametrize("kind", [kind for kind in ggml.BLOCKS if kind not in ("Q4_0", "Q8_0", "Q5_0")])
def test_other_blocks_are_rounded_to_eight_bits(kind: str) -> None:
    packed = gguf_files.blocks(torch.randn(6, 512), kind)
    theirs = torch.from_numpy(gguf.dequantize(packed, gguf.GGMLQuantizationType[kind]))
    read = ggml.Blocks(kind).read({"weight": torch.from_numpy(packed)})
    assert not isinstance(read, Grouped)
    native = to_native(read)
    assert native.weight_format == ggml.Blocks(kind).becomes(512)
    assert native.error is not None
    difference = native.quantized.dequantize() - theirs
    assert native.error.relative == pytest.approx(float(difference.norm() / theirs.norm()), rel=1e-4)
    assert native.error.relative < 0.008  # a half step of 127, evenly spread, below a peak of several deviations
    assert torch.equal(ggml.dequantize(kind, torch.from_numpy(packed)), theirs)


@pytest.mark.parametrize(("kind", "weights"), [("Q4_0", "int4-g32"), ("Q8_0", "int8-g32")])
def test_exact_types_compute_the_same_through_the_permutation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, weights: str
) -> None:
    path, model = written(
        tmp_path,
        oracle.Variant("llama", {"intermediate_size": 128}),
        lambda name: kind if name.endswith("weight") and "norm" not in name else "F32",
    )
    with caplog.at_level(logging.WARNING):
        loaded = load_decoder(path)
    assert not caplog.records
    assert loaded.weights == weights == main_format(empty_decoder(raw_config(path)))
    head = loaded.decoder.get_submodule("lm_head")
    assert isinstance(head, Linear)
    assert head.format.name == weights
    assert torch.equal(loaded.decoder.embed_tokens.weight, model.state_dict()["model.embed_tokens.weight"])
    assert oracle.difference(whole_logits(loaded.decoder, TOKENS), oracle.logits(model, TOKENS)) < 2e-5
    save_checkpoint(loaded.decoder, tmp_path / "ours", family=loaded.family, raw_config=loaded.raw_config)
    again = load_decoder(tmp_path / "ours")
    assert torch.equal(whole_logits(again.decoder, TOKENS), whole_logits(loaded.decoder, TOKENS))


def test_nested_scales_are_rounded_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def types(name: str) -> str:
        if "norm" in name:
            return "F32"
        return {"token_embd.weight": "Q6_K", "output.weight": "Q6_K"}.get(name, "Q4_K")

    path, model = written(tmp_path, oracle.Variant("llama", WIDE), types)
    with caplog.at_level(logging.WARNING):
        loaded = load_decoder(path)
    [record] = caplog.records
    assert "8 to int8-g32 with relative error 0.00" in record.message
    assert loaded.weights == "int8-g32" == main_format(empty_decoder(raw_config(path)))
    assert torch.equal(loaded.decoder.embed_tokens.weight, model.state_dict()["model.embed_tokens.weight"])
    assert oracle.difference(whole_logits(loaded.decoder, TOKENS), oracle.logits(model, TOKENS)) < 0.02


# --- one clear line -----------------------------------------------------------------------------------------------


def refusal(path: Path) -> BurnishError:
    with pytest.raises(BadCheckpoint) as caught:
        load_decoder(path)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy
    return caught.value


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path, _ = written(tmp_path, oracle.Variant("llama"))
    data, cut = path.read_bytes(), tmp_path / "cut.gguf"
    for kept in [*range(0, 1200, 37), *np.linspace(1200, len(data) - 64, 40).astype(int)]:
        cut.write_bytes(data[:kept])
        assert "truncated or no GGUF" in refusal(cut).message, kept


def test_changed_bytes_of_the_header_raise_nothing_else(tmp_path: Path) -> None:
    path, _ = written(tmp_path, oracle.Variant("llama"))
    data, changed = path.read_bytes(), tmp_path / "changed.gguf"
    numbers = np.random.default_rng(0)
    for _ in range(300):
        mutant = bytearray(data)
        mutant[int(numbers.integers(0, 1500))] = int(numbers.integers(0, 256))
        changed.write_bytes(mutant)
        with contextlib.suppress(BurnishError):
            load_decoder(changed)


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("once upon a time " * 9)
    assert "GGUF magic invalid" in refusal(tmp_path / "text.gguf").message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"general.architecture": "gemma2"}, "architecture 'gemma2' are not supported"),
        ({"llama.expert_count": 8}, "llama.expert_count = 8 is not supported"),
        ({"llama.block_count": 2**24}, "16777216 layers in 30 tensors"),
        ({"llama.block_count": None}, "lacks llama.block_count"),
        ({"llama.embedding_length": "wide"}, "llama.embedding_length = 'wide' is no int"),
        ({"llama.rope.dimension_count": 8}, "llama.rope.dimension_count = 8 differs from the width 16"),
        ({"llama.attention.head_count_kv": [2, 4, 2]}, "is not one positive number for all layers"),
        ({"llama.attention.head_count_kv": 3}, "num_key_value_heads = 3 is not a divisor of the 4"),
        ({"llama.rope.scaling.type": "longrope"}, "rope scaling 'longrope' is not supported"),
        ({"split.count": 3}, "one of 3 parts"),
    ],
    ids=str,
)
def test_metadata_that_cannot_be_used(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path, _ = written(tmp_path, oracle.Variant("llama"), changes=changes)
    assert words in refusal(path).message


def test_an_unknown_architecture_names_the_known_ones(tmp_path: Path) -> None:
    path, _ = written(tmp_path, oracle.Variant("llama"), changes={"general.architecture": "rwkv7"})
    with pytest.raises(UnknownFamily, match="Known: llama, qwen2, qwen3, gemma3"):
        raw_config(path)


def test_an_unknown_type_is_named_with_a_remedy(tmp_path: Path) -> None:
    path, _ = written(tmp_path, oracle.Variant("llama", WIDE), gguf_files.matrices("TQ2_0"))
    assert refusal(path).message.endswith("is stored as TQ2_0, which is not supported")
    assert "llama-quantize" in refusal(path).remedy


def test_rotary_factors_of_another_kind_are_refused(tmp_path: Path) -> None:
    rope = LLAMA3 | {"original_max_position_embeddings": 4096}
    path, _ = written(tmp_path, oracle.Variant("llama", {"rope_parameters": rope}))
    assert "are not those of Llama 3" in refusal(path).message


def test_missing_and_unexpected_tensors_are_listed(tmp_path: Path) -> None:
    model = oracle.make(oracle.Variant("llama"))
    config, tensors = model.config.to_dict() | {"head_dim": 16}, dict(model.state_dict())
    tensors["model.layers.7.mlp.up_proj.weight"] = tensors.pop("model.layers.1.mlp.up_proj.weight")
    gguf_files.write(tmp_path / "model.gguf", config, tensors)
    assert refusal(tmp_path / "model.gguf").message == (
        "2 tensors do not fit its metadata: missing model.layers.1.mlp.up_proj.weight; "
        "unexpected model.layers.7.mlp.up_proj.weight"
    )


def test_several_files_in_a_folder_are_not_guessed_at(tmp_path: Path) -> None:
    path, _ = written(tmp_path, oracle.Variant("llama"))
    assert load_decoder(tmp_path).family == "llama"
    shutil.copyfile(path, tmp_path / "other.gguf")
    assert "holds 2 GGUF files: model.gguf, other.gguf" in refusal(tmp_path).message


# --- whole -------------------------------------------------------------------------------------------------------


def generated(path: Path, cache: PlanCache) -> list[int]:
    """Tokens an engine draws greedily."""
    codec = load_tokenizer(path)
    engine = Engine(open_plan(path, cache), codec, EngineConfig(num_blocks=32, threads=1))
    prompt = tuple(codec.encode("Once upon a time there was"))
    engine.add(Request(request_id="story", prompt=prompt, sampling=Sampling(max_tokens=24, temperature=0.0)))
    tokens: list[int] = []
    while engine.has_work:
        for event in engine.step():
            tokens += event.token_ids if isinstance(event, TokenEvent) else ()
    return tokens


def test_the_builtin_model_as_a_file_generates_the_same(tmp_path: Path) -> None:
    config = json.loads((STORIES / "config.json").read_text())
    tensors = {k: v.float() for k, v in safetensors.torch.load_file(STORIES / "model.safetensors").items()}
    path = tmp_path / "stories.gguf"
    gguf_files.write(path, config, tensors, tokenizer=STORIES)
    cache = PlanCache(CacheConfig(folder=tmp_path / "plans"))
    assert generated(locate(str(path)), cache) == generated(STORIES, cache)
    assert len(cache.list()) == 2
    assert len(generated(path, cache)) == 24  # from the cache
    assert len(cache.list()) == 2
