"""Weight formats: packing is exact, equal to compressed-tensors' own, and survives checkpoints both ways."""

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.compressors.pack_quantized import pack_to_int32, unpack_from_int32
from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme, apply_quantization_config
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import CompressedTensorsConfig

from burnish.core.errors import BadCheckpoint, BadRequest
from burnish.models.checkpoint import load_decoder, save_checkpoint
from burnish.models.decoder import Decoder
from burnish.models.formats.fp8 import FP8
from burnish.models.formats.integer import IntegerFormat, Quantized
from burnish.models.formats.quantization_config import read_assignment, write_quantization
from burnish.models.formats.sparse import SparseFormat
from burnish.models.formats.table import FORMATS, get
from burnish.models.layers.linear import Linear
from tests.models import oracle
from tests.models.paged import whole_logits
from tests.tiny import tiny_decoder

INTEGERS = [f for f in FORMATS.values() if isinstance(f, IntegerFormat)]
EIGHT, FOUR = FORMATS["int8"], FORMATS["int4-g32"]


def quantize(weight: Tensor, weight_format: IntegerFormat) -> Quantized:
    """Round to nearest, the plainest way to choose codes."""
    grouped = weight.view(weight.shape[0], weight_format.num_groups(weight.shape[1]), -1)
    if weight_format.asymmetric:
        low, high = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
        scales = ((high - low) / (weight_format.highest - weight_format.lowest)).half().float()
        zeros = (weight_format.lowest - low / scales).round().clamp(weight_format.lowest, weight_format.highest)
        codes = (grouped / scales.unsqueeze(-1)).round() + zeros.unsqueeze(-1)
        codes = codes.clamp(weight_format.lowest, weight_format.highest)
        return Quantized(codes.view_as(weight).to(torch.int8), scales, zeros.to(torch.int8))
    scales = (grouped.abs().amax(-1) / (-weight_format.lowest - 0.5)).half().float()
    codes = (grouped / scales.unsqueeze(-1)).round().clamp(weight_format.lowest, weight_format.highest)
    return Quantized(pruned(codes.view_as(weight), weight_format).to(torch.int8), scales)


def pruned(codes: Tensor, weight_format: IntegerFormat) -> Tensor:
    """Without the two smallest of every four, where the format stores no more."""
    if not isinstance(weight_format, SparseFormat):
        return codes
    order = codes.reshape(-1, 4).abs().argsort(dim=-1, descending=True, stable=True).argsort(-1)
    left: Tensor = codes * (order < 2).view_as(codes)
    return left


def quantize_all(decoder: Decoder, weight_format: IntegerFormat) -> Decoder:
    for layer in decoder.layers.modules():
        if isinstance(layer, Linear):
            layer.store(weight_format, weight_format.pack(quantize(layer.weight, weight_format)))
    return decoder


def linear(decoder: Decoder, name: str) -> Linear:
    layer = decoder.get_submodule(name)
    assert isinstance(layer, Linear)
    return layer


@pytest.mark.parametrize(
    "weight_format",
    [*INTEGERS, *(one.as_bytes() for one in INTEGERS if one.as_bytes() != one)],
    ids=lambda f: f.name + "-bytes" * f.bytewise,
)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 2**31))
def test_packing_keeps_every_code_and_scale(weight_format: IntegerFormat, outputs: int, groups: int, seed: int) -> None:
    inputs = groups * (weight_format.group_size or 8)
    generator = torch.Generator().manual_seed(seed)
    limits = (weight_format.lowest, weight_format.highest + 1)
    codes = torch.randint(*limits, (outputs, inputs), dtype=torch.int8, generator=generator)
    codes = pruned(codes, weight_format)
    scales = torch.rand(outputs, weight_format.num_groups(inputs), generator=generator)
    zeros = (
        torch.randint(*limits, scales.shape, dtype=torch.int8, generator=generator)
        if weight_format.asymmetric
        else None
    )
    packed = weight_format.pack(Quantized(codes, scales, zeros))
    layout = weight_format.layout(outputs, inputs)
    assert {k: (tuple(t.shape), t.dtype) for k, t in packed.items()} == {k: tuple(v) for k, v in layout.items()}
    restored = weight_format.restore(packed)
    assert torch.equal(restored.codes, codes)
    assert torch.equal(restored.scales, scales)
    assert zeros is None or (restored.zeros is not None and torch.equal(restored.zeros, zeros))
    unpacked = weight_format.unpack(packed)
    for o, i in ((0, 0), (outputs - 1, inputs - 1)):
        group = i * scales.shape[1] // inputs
        zero = 0 if zeros is None else int(zeros[o, group])
        assert unpacked[o, i] == float(int(codes[o, i]) - zero) * scales[o, group]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@given(outputs=st.integers(1, 4), groups=st.integers(1, 9), seed=st.integers(0, 2**31))
def test_words_are_those_of_compressed_tensors(bits: int, outputs: int, groups: int, seed: int) -> None:
    inputs, stored = 32 * groups, FORMATS[f"int{bits}-g32"]
    assert isinstance(stored, IntegerFormat)
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(stored.lowest, stored.highest + 1, (outputs, inputs), dtype=torch.int8, generator=generator)
    packed = stored.pack(Quantized(codes, torch.ones(outputs, groups)))
    assert torch.equal(packed["weight_packed"], pack_to_int32(codes, bits))
    assert torch.equal(unpack_from_int32(packed["weight_packed"], bits, codes.shape), codes)
    assert packed["weight_shape"].tolist() == [outputs, inputs]


@pytest.mark.parametrize("name", list(FORMATS))
def test_random_weights_fit_their_layout(name: str) -> None:
    weight_format = get(name)
    packed = weight_format.random(16, 256, torch.Generator().manual_seed(0))
    assert {k: (tuple(t.shape), t.dtype) for k, t in packed.items()} == {
        k: tuple(v) for k, v in weight_format.layout(16, 256).items()
    }
    assert 0.01 < weight_format.unpack(packed).std() < 0.03


@pytest.mark.parametrize("weight_format", INTEGERS, ids=lambda f: f.name)
def test_a_linear_multiplies_by_what_it_stores(weight_format: IntegerFormat) -> None:
    layer = Linear(256, 24, bias=True)
    x, dense = torch.randn(5, 256), layer.weight.detach().clone()
    assert layer.bias is not None
    layer.bias.data.normal_()
    quantized = quantize(dense, weight_format)
    layer.store(weight_format, weight_format.pack(quantized))
    expected = x.double() @ quantized.dequantize().double().T + layer.bias.double()
    assert (layer(x) - expected).abs().max() < 1e-5
    left = layer.dense_weight() != 0 if isinstance(weight_format, SparseFormat) else torch.ones_like(dense).bool()
    assert (layer.dense_weight() - dense)[
        left
    ].abs().max() <= quantized.scales.max() * 0.6  # half a step, and what rounding the scale adds
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    layer.store(get("dense"), {"weight": dense})
    assert torch.equal(layer.weight, dense)


@given(outputs=st.integers(1, 4), fours=st.integers(1, 9), seed=st.integers(0, 2**31))
def test_sparse_weights_take_five_bits_and_whole_fours(outputs: int, fours: int, seed: int) -> None:
    stored = FORMATS["int8-2:4"]
    assert isinstance(stored, SparseFormat)
    packed = stored.random(outputs, 4 * fours, torch.Generator().manual_seed(seed))
    again = stored.pack(stored.restore(packed))
    assert all(torch.equal(again[name], packed[name]) for name in packed)
    assert packed["weight_kept"].nbytes + packed["weight_places"].nbytes == outputs * (2 * fours + (fours + 1) // 2)
    codes = stored.restore(packed).codes
    first = packed["weight_places"][0, 0]
    assert codes[0, int(first) & 3] == packed["weight_kept"][0, 0]
    assert codes[0, int(first) >> 2 & 3] == packed["weight_kept"][0, 1]
    with pytest.raises(BadRequest, match=r"no whole number of fours\. Take int8"):
        stored.layout(outputs, 4 * fours + 2)


def test_other_engines_are_told_that_sparse_weights_are_ours() -> None:
    written = write_quantization({NAMES[0]: get("int8-2:4"), NAMES[1]: get("int8")})
    assert written is not None
    assert written["quant_method"] == "burnish"
    assert [group["format"] for group in written["config_groups"].values()] == ["pack-quantized", "int-sparse24"]


def test_a_channel_is_a_group_of_all_inputs_whatever_their_number() -> None:
    for name in ("int4-channel", "int2-channel-asym", "int8-channel-asym"):
        stored = get(name)
        assert isinstance(stored, IntegerFormat)
        assert stored.fits(173)
        assert stored.layout(8, 173)["weight_scale"].shape == (8, 1)
    assert "weight_zero_point" in get("int8-channel-asym").layout(8, 173)
    assert "weight_zero_point" not in get("int4-channel").layout(8, 173)


def test_groups_must_divide_the_inputs() -> None:
    with pytest.raises(BadRequest, match=r"172 inputs .* groups of 32. Take a smaller group, int8, or leave"):
        FOUR.layout(8, 172)


# --- in checkpoints -----------------------------------------------------------------------------------------------


def equal(one: Decoder, other: Decoder) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(
    "name", ["int8", "int4-g64", "int4-g32", "int8-2:4", "int3-channel", "int4-channel-asym", "int8-g32-asym"]
)
@pytest.mark.parametrize("tied", [True, False])
def test_a_slimmed_model_survives_saving(tmp_path: Path, name: str, tied: bool) -> None:
    weight_format = get(name)
    assert isinstance(weight_format, IntegerFormat)
    decoder = quantize_all(tiny_decoder(tied_embeddings=tied), weight_format)
    save_checkpoint(decoder, tmp_path / "x", family="llama")
    loaded = load_decoder(tmp_path / "x")
    assert loaded.weights == name
    assert equal(loaded.decoder, decoder)
    assert torch.equal(whole_logits(loaded.decoder, [1, 2, 3]), whole_logits(decoder, [1, 2, 3]))
    # a tied head is a layer of its own to others, and dense
    assert loaded.raw_config["quantization_config"]["ignore"] == ["lm_head"]
    save_checkpoint(loaded.decoder, tmp_path / "y", family="llama", raw_config=loaded.raw_config)
    assert (tmp_path / "x" / "model.safetensors").read_bytes() == (tmp_path / "y" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "name",
    ["int8", "int4-g32", "int4-channel", "int4-g32-asym", "int4-channel-asym", "int8-g32-asym", "int8-channel-asym"],
)
def test_transformers_reads_our_slimmed_model(tmp_path: Path, name: str, root: Path) -> None:
    weight_format = get(name)
    assert isinstance(weight_format, IntegerFormat)
    decoder = quantize_all(tiny_decoder(tied_embeddings=False), weight_format)
    save_checkpoint(decoder, tmp_path, family="llama")
    config = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    read = QuantizationConfig.model_validate(config).config_groups["group_0"]
    assert isinstance(read, QuantizationScheme)
    assert read.weights is not None
    assert read.weights.strategy == ("group" if "-g" in name else "channel")
    # 5.23 makes room for zero points that are not packed; only where it unpacks at once do packed ones find theirs
    more = {"quantization_config": CompressedTensorsConfig(dequantize=True)} if weight_format.asymmetric else {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You passed `quantization_config`")  # of the oracle, not ours
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, **more).eval()
    tokens = [256, *b"Once upon a time"]
    assert oracle.difference(whole_logits(decoder, tokens), oracle.logits(model, tokens)) < 1e-4


@pytest.mark.parametrize(
    ("name", "layout", "arguments"),
    [
        ("int4-g32", "pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 32}),
        ("int8", "int-quantized", {"num_bits": 8, "strategy": "channel"}),
        ("int8", "pack-quantized", {"num_bits": 8, "strategy": "channel"}),
        ("int8-g32", "pack-quantized", {"num_bits": 8, "strategy": "group", "group_size": 32}),
    ],
)
def test_a_model_slimmed_by_compressed_tensors_loads_here(
    tmp_path: Path, name: str, layout: str, arguments: dict[str, Any]
) -> None:
    model, weight_format = oracle.make(oracle.VARIANTS["llama"]), get(name)
    assert isinstance(weight_format, IntegerFormat)
    group = {"targets": ["Linear"], "weights": {"type": "int", "symmetric": True} | arguments}
    scheme = {"quant_method": "compressed-tensors", "format": layout, "config_groups": {"g": group}}
    scheme["ignore"] = ["lm_head", "re:.*down_proj"]  # 112 inputs are no whole number of groups
    apply_quantization_config(model, QuantizationConfig.model_validate(scheme))
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            module.weight_scale.data.copy_(quantize(module.weight.detach(), weight_format).scales)
    compressor = ModelCompressor.from_pretrained_model(model, quantization_format=layout)
    expected = oracle.logits(model, oracle.SEQUENCES[1])  # computed with rounded weights
    compressor.compress_model(model)
    model.save_pretrained(tmp_path)
    compressor.update_config(tmp_path)
    loaded = load_decoder(tmp_path)
    assert loaded.weights == name
    assert oracle.difference(whole_logits(loaded.decoder, oracle.SEQUENCES[1]), expected) < 1e-4


def test_gpt2_keeps_packed_weights_under_our_names(tmp_path: Path, root: Path) -> None:
    loaded = load_decoder(oracle.saved("gpt2", root))
    assert isinstance(EIGHT, IntegerFormat)
    decoder = quantize_all(loaded.decoder, EIGHT)
    save_checkpoint(decoder, tmp_path, family="gpt2", raw_config=loaded.raw_config)
    again = load_decoder(tmp_path)
    assert again.weights == "int8"
    assert equal(again.decoder, decoder)


def test_mixed_formats_name_their_modules(tmp_path: Path) -> None:
    decoder = tiny_decoder()
    assert isinstance(EIGHT, IntegerFormat)
    assert isinstance(FOUR, IntegerFormat)
    for at in range(2):
        for name, chosen in (("mlp.up_proj", FOUR), ("attn.q_proj", EIGHT)):
            layer = linear(decoder, f"layers.{at}.{name}")
            layer.store(chosen, chosen.pack(quantize(layer.weight, chosen)))
    save_checkpoint(decoder, tmp_path, family="llama")
    loaded = load_decoder(tmp_path)
    assert equal(loaded.decoder, decoder)
    assert loaded.raw_config["quantization_config"]["format"] == "pack-quantized"
    assert loaded.weights == "dense"  # most of them
    QuantizationConfig.model_validate(loaded.raw_config["quantization_config"])


NAMES = ["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj", "lm_head"]


def config(**changes: Any) -> dict[str, Any]:
    """What llm-compressor writes for W4A16."""
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 128}
    weights |= {"actorder": None, "dynamic": False, "observer": "minmax", "block_structure": None}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None, "output_activations": None}
    top = {"quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"]}
    return top | {"config_groups": {"group_0": group}, "kv_cache_scheme": None, "version": "0.10.2"} | changes


def weights(**changes: Any) -> dict[str, Any]:
    group = config()["config_groups"]["group_0"]
    return config(config_groups={"group_0": group | {"weights": group["weights"] | changes}})


def test_reading_the_words_of_others() -> None:
    four, dense = get("int4-g128"), get("dense")
    assert list(read_assignment(config(), NAMES).values()) == [four, four, dense]
    assert list(read_assignment(config(ignore=["re:.*self_attn.*"]), NAMES).values()) == [dense, four, four]
    assert read_assignment(weights(group_size=64, actorder="static"), NAMES)["lm_head"] == dense


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_what_is_written_reads_back(name: str) -> None:
    assignment = {NAMES[0]: get(name), NAMES[1]: get("int8"), NAMES[2]: get("dense")}
    written = write_quantization(assignment)
    assert written is not None
    assert read_assignment(json.loads(json.dumps(written)), NAMES) == assignment
    assert write_quantization(dict.fromkeys(NAMES, get("dense"))) is None


def floats(activations: dict[str, Any] | None) -> dict[str, Any]:
    """What llm-compressor writes for FP8_DYNAMIC."""
    stored = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel", "group_size": None}
    group = {"targets": ["Linear"], "weights": stored, "input_activations": activations, "format": "float-quantized"}
    return config(config_groups={"group_0": group}, format="float-quantized")


def test_eight_bit_floats_are_read_with_inputs_rounded_or_not() -> None:
    by_token = {"num_bits": 8, "type": "float", "strategy": "token", "symmetric": True, "dynamic": True}
    for activations in (by_token, None):
        found = read_assignment(floats(activations), NAMES)
        assert list(found.values()) == [get("fp8"), get("fp8"), get("dense")]
    for wrong in (by_token | {"dynamic": False}, by_token | {"type": "int"}):
        with pytest.raises(BadCheckpoint, match="activations are supported as dynamic eight bits of the weights' kind"):
            read_assignment(floats(wrong), NAMES)


def test_bytes_of_floats_are_no_floats_and_floats_are_no_bytes(tmp_path: Path) -> None:
    """Codes without their scales would load as weights far too large."""
    decoder = tiny_decoder()
    save_checkpoint(decoder, tmp_path / "x", family="llama")
    for layer in decoder.layers.modules():
        if isinstance(layer, Linear):
            layer.store(FP8, FP8.random(layer.out_features, layer.in_features, torch.Generator().manual_seed(0)))
    save_checkpoint(decoder, tmp_path / "y", family="llama")
    assert load_decoder(tmp_path / "y").weights == "fp8"
    ours, theirs = ((tmp_path / name / "config.json").read_text() for name in "xy")
    (tmp_path / "x" / "config.json").write_text(theirs)
    (tmp_path / "y" / "config.json").write_text(ours)
    with pytest.raises(BadCheckpoint, match=r"q_proj\.weight has type F32, expected float8_e4m3fn"):
        load_decoder(tmp_path / "x")
    with pytest.raises(BadCheckpoint, match=r"q_proj\.weight has type F8_E4M3, expected float32"):
        load_decoder(tmp_path / "y")


@pytest.mark.parametrize(
    ("quantization", "words"),
    [
        ({"quant_method": "bitsandbytes"}, "'bitsandbytes' is not supported. Known: compressed-tensors, gptq, awq"),
        ({"quant_method": "gptq", "bits": 3, "group_size": 128}, "GPTQ weights of 3 bits"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 0}, "in groups of 0"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "checkpoint_format": "marlin"}, "'marlin'"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "dynamic": {"-:.*": {}}}, "'dynamic'"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemv"}, "'gemv' are not supported"),
        ({"quant_method": "awq", "bits": 8, "group_size": 128}, "AWQ weights of 8 bits"),
        (3, "'3' is not supported"),
        (config(config_groups=None), "config_groups"),
        (config(ignore="lm_head"), "ignore is no list"),
        (config(ignore=["re:("]), "pattern"),
        (config(kv_cache_scheme={"num_bits": 8}), "kv_cache_scheme is not supported"),
        (config(format="marlin-24"), "'marlin-24'"),
        (weights(num_bits=5), "'num_bits': 5"),
        (weights(type="float"), "'type': 'float'"),
        (weights(type="float", num_bits=8, strategy="tensor", group_size=None), "'strategy': 'tensor'"),
        (weights(strategy="block"), "'strategy': 'block'"),
        (weights(group_size=-2), "'group_size': -2"),
        (weights(strategy="tensor", group_size=None), "'strategy': 'tensor'"),  # packed by no tool
        (config(config_groups={"g": {"input_activations": {"num_bits": 8}}}), "activations are supported as dynamic"),
        (
            config(config_groups={"g": {"input_activations": {"num_bits": 8, "type": "float", "dynamic": True}}}),
            "dynam",
        ),
        (config(config_groups={"g": {"output_activations": {"num_bits": 8, "dynamic": True}}}), "inputs only"),
    ],
)
def test_schemes_we_do_not_have_are_one_clear_line(quantization: Any, words: str) -> None:
    with pytest.raises(BadCheckpoint) as caught:
        read_assignment(quantization, NAMES)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_stored_shape_is_found(tmp_path: Path) -> None:
    decoder = tiny_decoder()
    assert isinstance(FOUR, IntegerFormat)
    quantize_all(decoder, FOUR)
    linear(decoder, "layers.0.mlp.up_proj").packed()["weight_shape"][0] = 7
    save_checkpoint(decoder, tmp_path, family="llama")
    with pytest.raises(BadCheckpoint, match=r"weight_shape holds \[7, 64\], expected \[128, 64\]"):
        load_decoder(tmp_path)
