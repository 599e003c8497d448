"""Checkpoints of GPTQ, AWQ and compressed-tensors: packed here by slow loops from their specifications, or by
compressed-tensors itself, and held against transformers on the weights they stand for."""

import copy
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
from torch import Tensor

from burnish.core.errors import BadCheckpoint
from burnish.models.checkpoint import empty_decoder, load_decoder, main_format, raw_config, save_checkpoint
from burnish.models.formats.foreign import Grouped, expected, to_native
from burnish.models.formats.table import get
from burnish.models.layers.linear import Linear
from tests.models import oracle
from tests.models.paged import whole_logits

TOKENS = oracle.SEQUENCES[1]
Weights = dict[str, Tensor]


class Rounded:
    """A weight (O, I) rounded to ``bits`` with zero points, by the plainest rule."""

    def __init__(self, weight: Tensor, bits: int, group: int, *, symmetric: bool, order: Tensor | None = None) -> None:
        outputs, inputs = weight.shape
        self.bits, order = bits, torch.arange(inputs) if order is None else order
        self.group_of = torch.empty(inputs, dtype=torch.int32)
        self.group_of[order] = torch.arange(inputs, dtype=torch.int32) // group
        highest, count = 2**bits - 1, inputs // group
        self.codes = torch.zeros(outputs, inputs, dtype=torch.int64)
        self.scales, self.zeros = torch.zeros(outputs, count).half(), torch.zeros(outputs, count, dtype=torch.int64)
        for g in range(count):
            members = self.group_of == g
            part = weight[:, members]
            low, high = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
            if symmetric:
                high = torch.maximum(high, -low)
                low = -high
            self.scales[:, g] = ((high - low) / highest).half()
            scale = self.scales[:, g].float()
            zero = torch.full_like(scale, 2 ** (bits - 1)) if symmetric else (-low / scale).round().clamp(0, highest)
            self.zeros[:, g] = zero.long()
            codes = (part / scale[:, None]).round() + zero[:, None]
            self.codes[:, members] = codes.clamp(0, highest).long()

    @property
    def weight(self) -> Tensor:
        groups = self.group_of.long()
        return (self.codes - self.zeros[:, groups]).float() * self.scales.float()[:, groups]


def gptq_tensors(rounded: Rounded, *, less_one: bool) -> Weights:
    """Spelt out, one code at a time."""
    bits, per_word = rounded.bits, 32 // rounded.bits
    (outputs, inputs), groups = rounded.codes.shape, rounded.scales.shape[1]
    qweight = torch.zeros(inputs // per_word, outputs, dtype=torch.int64)
    for i in range(inputs):
        qweight[i // per_word] |= rounded.codes[:, i] << (bits * (i % per_word))
    qzeros = torch.zeros(groups, outputs // per_word, dtype=torch.int64)
    for o in range(outputs):
        stored = (rounded.zeros[o] - int(less_one)) % 2**bits
        qzeros[:, o // per_word] |= stored << (bits * (o % per_word))
    return {
        "qweight": as_int32(qweight),
        "qzeros": as_int32(qzeros),
        "scales": rounded.scales.t().contiguous(),
        "g_idx": rounded.group_of.clone(),
    }


def awq_tensors(rounded: Rounded) -> Weights:
    """Spelt out, one code at a time."""
    packed = {}
    for name, codes in (("qweight", rounded.codes.t()), ("qzeros", rounded.zeros.t())):
        words = torch.zeros(codes.shape[0], codes.shape[1] // 8, dtype=torch.int64)
        for word in range(words.shape[1]):
            for place, output in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
                words[:, word] |= codes[:, 8 * word + output] << (4 * place)
        packed[name] = as_int32(words)
    return packed | {"scales": rounded.scales.t().contiguous()}


def as_int32(words: Tensor) -> Tensor:
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def write(
    folder: Path,
    quantization: dict[str, Any],
    convert: Callable[[Tensor], tuple[Tensor, Weights]],
    *,
    family: str = "llama",
    skip: tuple[str, ...] = ("lm_head",),
    settings_file: str | None = None,
) -> Tensor:
    """A checkpoint whose linear weights ``convert`` packed; returns what transformers computes with what they mean."""
    model = oracle.make(oracle.Variant(family, {"intermediate_size": 128}))
    tensors: Weights = {}
    for name, parameter in model.state_dict().items():
        module, _, kind = name.rpartition(".")
        if isinstance(model.get_submodule(module), torch.nn.Linear) and kind == "weight" and module not in skip:
            meant, packed = convert(parameter)
            parameter.copy_(meant)
            tensors |= {f"{module}.{key}": tensor for key, tensor in packed.items()}
        else:
            tensors[name] = parameter.clone()
    folder.mkdir(exist_ok=True)
    config = model.config.to_dict()
    if settings_file is None:
        config["quantization_config"] = quantization
        name = "model.safetensors"
    else:
        (folder / settings_file).write_text(json.dumps(quantization))
        name = "gptq_model-4bit-128g.safetensors"
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(tensors, folder / name)
    return oracle.logits(model, TOKENS)


def gptq_config(**changes: Any) -> dict[str, Any]:
    common = {"bits": 4, "group_size": 32, "desc_act": False, "sym": True, "quant_method": "gptq"}
    return common | {"damp_percent": 0.1, "true_sequential": True} | changes


def announced(folder: Path) -> str:
    """The format of a layer by the configuration alone."""
    return main_format(empty_decoder(raw_config(folder)))


def head_format(folder: Path) -> str:
    head = load_decoder(folder).decoder.get_submodule("lm_head")
    assert isinstance(head, Linear)
    return head.format.name


def check(folder: Path, expected_logits: Tensor, weights: str, caplog: pytest.LogCaptureFixture) -> None:
    """Loads without loss, as announced, and survives our own saving."""
    with caplog.at_level(logging.WARNING):
        loaded = load_decoder(folder)
    assert not caplog.records
    assert loaded.weights == weights
    assert oracle.difference(whole_logits(loaded.decoder, TOKENS), expected_logits) < 2e-5
    save_checkpoint(loaded.decoder, folder / "ours", family=loaded.family, raw_config=loaded.raw_config)
    again = load_decoder(folder / "ours")
    assert again.weights == weights
    assert torch.equal(whole_logits(again.decoder, TOKENS), whole_logits(loaded.decoder, TOKENS))


# --- GPTQ ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["gptq", "gptq_v2"])
@pytest.mark.parametrize(
    ("bits", "group", "symmetric", "weights"),
    [
        (4, 32, True, "int4-g32"),
        (4, 64, False, "int4-g64-asym"),
        (4, -1, True, "int4-g64"),
        (4, -1, False, "int4-g64-asym"),
        (8, 32, True, "int8-g32"),
        (8, -1, True, "int8"),
    ],
)
def test_gptq_checkpoints_load_without_loss(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    version: str,
    bits: int,
    group: int,
    symmetric: bool,
    weights: str,
) -> None:
    def convert(weight: Tensor) -> tuple[Tensor, Weights]:
        size = weight.shape[1] if group == -1 else group
        rounded = Rounded(weight, bits, size, symmetric=symmetric)
        return rounded.weight, gptq_tensors(rounded, less_one=version == "gptq")

    settings = gptq_config(bits=bits, group_size=group, sym=symmetric, checkpoint_format=version)
    logits = write(tmp_path, settings, convert)
    assert announced(tmp_path) == weights
    check(tmp_path, logits, weights, caplog)


def test_a_zero_point_of_nothing_wraps_around_in_version_1() -> None:
    rounded = Rounded(torch.rand(8, 32) + 1, 4, 32, symmetric=False)
    assert (rounded.zeros == 0).all()
    from burnish.models.formats.gptq import Gptq

    read = Gptq(4, 32, False, False, less_one=True).read(gptq_tensors(rounded, less_one=True))
    assert torch.equal(read.dequantize(), rounded.weight)


def test_settings_in_a_file_of_their_own_and_weights_named_after_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def convert(weight: Tensor) -> tuple[Tensor, Weights]:
        rounded = Rounded(weight, 4, 32, symmetric=True)
        nothing = torch.zeros(weight.shape[0]).half()  # AutoGPTQ writes zeros for the bias there is not
        return rounded.weight, gptq_tensors(rounded, less_one=True) | {"bias": nothing}

    settings = gptq_config()
    del settings["quant_method"]
    logits = write(tmp_path, settings, convert, settings_file="quantize_config.json")
    check(tmp_path, logits, "int4-g32", caplog)


def test_a_bias_that_is_not_zero_is_refused(tmp_path: Path) -> None:
    def convert(weight: Tensor) -> tuple[Tensor, Weights]:
        rounded = Rounded(weight, 4, 32, symmetric=True)
        return weight, gptq_tensors(rounded, less_one=True) | {"bias": torch.ones(weight.shape[0])}

    write(tmp_path, gptq_config(), convert)
    with pytest.raises(BadCheckpoint, match=r"q_proj has a bias the family does not know"):
        load_decoder(tmp_path)


def test_biased_layers_and_a_quantized_head(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def convert(weight: Tensor) -> tuple[Tensor, Weights]:
        rounded = Rounded(weight, 4, 32, symmetric=False)
        return rounded.weight, gptq_tensors(rounded, less_one=False)

    settings = gptq_config(sym=False, lm_head=True, checkpoint_format="gptq_v2")
    logits = write(tmp_path, settings, convert, family="qwen2", skip=())
    check(tmp_path, logits, "int4-g32-asym", caplog)
    assert head_format(tmp_path) == "int4-g32-asym"


def test_modules_a_config_lists_alone_are_quantized(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def convert(weight: Tensor) -> tuple[Tensor, Weights]:
        rounded = Rounded(weight, 4, 32, symmetric=True)
        return rounded.weight, gptq_tensors(rounded, less_one=True)

    listed = [["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], ["self_attn.o_proj"]]
    skip = tuple(f"model.layers.{at}.mlp.{name}_proj" for at in range(3) for name in ("gate", "up", "down"))
    settings = gptq_config(modules_in_block_to_quantize=listed)
    logits = write(tmp_path, settings, convert, skip=("lm_head", *skip))
    check(tmp_path, logits, "int4-g32", caplog)


def test_act_order_that_kept_groups_together_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def convert(weight: Tensor) -> tuple[Tensor, Weights]:
        order = torch.arange(weight.shape[1]).view(-1, 32).flip(0).flatten()  # whole groups change places
        rounded = Rounded(weight, 4, 32, symmetric=True, order=order)
        return rounded.weight, gptq_tensors(rounded, less_one=True)

    logits = write(tmp_path, gptq_config(desc_act=True), convert)
    check(tmp_path, logits, "int4-g32", caplog)


def test_scattered_groups_are_rounded_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    generator = torch.Generator().manual_seed(3)

    def convert(weight: Tensor) -> tuple[Tensor, Weights]:
        order = torch.randperm(weight.shape[1], generator=generator)
        rounded = Rounded(weight, 4, 32, symmetric=True, order=order)
        return rounded.weight, gptq_tensors(rounded, less_one=True)

    logits = write(tmp_path, gptq_config(desc_act=True), convert)
    assert announced(tmp_path) == "int8-g32"
    with caplog.at_level(logging.WARNING):
        loaded = load_decoder(tmp_path)
    assert loaded.weights == "int8-g32"
    [record] = caplog.records
    assert "21 to int8-g32 with relative error 0.00" in record.message
    assert oracle.difference(whole_logits(loaded.decoder, TOKENS), logits) < 0.05


def test_an_index_that_names_no_group_is_refused(tmp_path: Path) -> None:
    def convert(weight: Tensor) -> tuple[Tensor, Weights]:
        packed = gptq_tensors(Rounded(weight, 4, 32, symmetric=True), less_one=True)
        packed["g_idx"][3] = 99
        return weight, packed

    write(tmp_path, gptq_config(), convert)
    with pytest.raises(BadCheckpoint, match=r"q_proj: an input belongs to no group"):
        load_decoder(tmp_path)


def test_missing_and_misshapen_packed_tensors_are_listed(tmp_path: Path) -> None:
    def convert(weight: Tensor) -> tuple[Tensor, Weights]:
        packed = gptq_tensors(Rounded(weight, 4, 32, symmetric=True), less_one=True)
        del packed["qzeros"]
        return weight, packed | {"scales": packed["scales"][:1].clone()}

    write(tmp_path, gptq_config(), convert)
    with pytest.raises(BadCheckpoint) as caught:
        load_decoder(tmp_path)
    assert "missing model.layers.0.self_attn.q_proj.qzeros" in str(caught.value)
    assert caught.value.message.startswith("42 tensors do not fit")


def test_fused_families_are_refused(root: Path, tmp_path: Path) -> None:
    folder = oracle.saved("gpt2", root)
    raw = json.loads((folder / "config.json").read_text()) | {"quantization_config": gptq_config()}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(BadCheckpoint, match="packed weights of family 'gpt2'"):
        load_decoder(tmp_path)


# --- AWQ ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["gemm", "GEMM"])
@pytest.mark.parametrize("group", [32, 64, -1])
def test_awq_checkpoints_load_without_loss(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, group: int, version: str
) -> None:
    def convert(weight: Tensor) -> tuple[Tensor, Weights]:
        rounded = Rounded(weight, 4, weight.shape[1] if group == -1 else group, symmetric=False)
        return rounded.weight, awq_tensors(rounded)

    settings = {"quant_method": "awq", "bits": 4, "group_size": group, "version": version, "zero_point": True}
    skip = ("lm_head", *(f"model.layers.{at}.mlp.down_proj" for at in range(3)))
    logits = write(tmp_path, settings | {"modules_to_not_convert": ["down_proj"]}, convert, skip=skip)
    check(tmp_path, logits, "int4-g32-asym" if group == 32 else "int4-g64-asym", caplog)


def test_older_awq_settings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def convert(weight: Tensor) -> tuple[Tensor, Weights]:
        rounded = Rounded(weight, 4, 64, symmetric=False)
        return rounded.weight, awq_tensors(rounded)

    settings = {"zero_point": True, "q_group_size": 64, "w_bit": 4, "version": "GEMM"}
    logits = write(tmp_path, settings, convert, settings_file="quant_config.json")
    check(tmp_path, logits, "int4-g64-asym", caplog)


# --- compressed-tensors -------------------------------------------------------------------------------------------


def compress(folder: Path, layout: str, arguments: dict[str, Any], **scheme: Any) -> Tensor:
    """A model packed by compressed-tensors itself; returns what it computes with rounded weights."""
    model = oracle.make(oracle.Variant("llama", {"intermediate_size": 128}))
    group = {"targets": ["Linear"], "weights": {"type": "int"} | arguments, **scheme.pop("group", {})}
    config = {"quant_method": "compressed-tensors", "format": layout, "config_groups": {"g": group}}
    apply_quantization_config(model, QuantizationConfig.model_validate(config | {"ignore": ["lm_head"]} | scheme))
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            weight = module.weight.detach()
            size = arguments.get("group_size") or weight.shape[1]
            if module.weight_scale.numel() == 1:
                rounded = Rounded(weight.reshape(1, -1), arguments["num_bits"], weight.numel(), symmetric=True)
            else:
                rounded = Rounded(weight, arguments["num_bits"], size, symmetric=arguments["symmetric"])
            module.weight_scale.data.copy_(rounded.scales.view_as(module.weight_scale))
            if not arguments["symmetric"]:
                middle = 2 ** (arguments["num_bits"] - 1)
                module.weight_zero_point.data.copy_((rounded.zeros - middle).view_as(module.weight_zero_point))
    weights_only = copy.deepcopy(model)
    for module in weights_only.modules():
        if hasattr(module, "quantization_scheme"):
            module.quantization_scheme.input_activations = None
    expected_logits = oracle.logits(weights_only, TOKENS)
    compressor = ModelCompressor.from_pretrained_model(model, quantization_format=layout)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(folder)
    return expected_logits


@pytest.mark.parametrize(
    ("layout", "arguments", "weights"),
    [
        ("pack-quantized", {"num_bits": 4, "symmetric": False, "strategy": "group", "group_size": 32}, "int4-g32-asym"),
        ("pack-quantized", {"num_bits": 4, "symmetric": True, "strategy": "group", "group_size": 64}, "int4-g64"),
        ("pack-quantized", {"num_bits": 4, "symmetric": True, "strategy": "channel"}, "int4-channel"),
        ("pack-quantized", {"num_bits": 4, "symmetric": False, "strategy": "channel"}, "int4-channel-asym"),
        ("pack-quantized", {"num_bits": 8, "symmetric": False, "strategy": "channel"}, "int8-channel-asym"),
        ("pack-quantized", {"num_bits": 8, "symmetric": False, "strategy": "group", "group_size": 64}, "int8-g64-asym"),
        ("int-quantized", {"num_bits": 8, "symmetric": False, "strategy": "channel"}, "int8-channel-asym"),
        ("pack-quantized", {"num_bits": 8, "symmetric": True, "strategy": "channel"}, "int8"),
        ("pack-quantized", {"num_bits": 8, "symmetric": True, "strategy": "group", "group_size": 32}, "int8-g32"),
        ("int-quantized", {"num_bits": 8, "symmetric": True, "strategy": "channel"}, "int8"),
        ("int-quantized", {"num_bits": 8, "symmetric": True, "strategy": "group", "group_size": 64}, "int8-g64"),
        ("int-quantized", {"num_bits": 8, "symmetric": True, "strategy": "tensor"}, "int8"),
        ("int-quantized", {"num_bits": 4, "symmetric": True, "strategy": "group", "group_size": 32}, "int4-g32"),
        ("int-quantized", {"num_bits": 4, "symmetric": False, "strategy": "channel"}, "int4-g64-asym"),
    ],
    ids=str,
)
def test_compressed_tensors_load_without_loss(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, layout: str, arguments: dict[str, Any], weights: str
) -> None:
    logits = compress(tmp_path, layout, arguments)
    assert announced(tmp_path) == weights
    check(tmp_path, logits, weights, caplog)


def test_dynamic_activations_are_what_the_kernels_do_anyway(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    activations = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
    arguments = {"num_bits": 8, "symmetric": True, "strategy": "channel"}
    logits = compress(tmp_path, "int-quantized", arguments, group={"input_activations": activations})
    check(tmp_path, logits, "int8", caplog)


def test_the_head_may_be_a_target(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    arguments = {"num_bits": 4, "symmetric": True, "strategy": "group", "group_size": 32}
    logits = compress(tmp_path, "pack-quantized", arguments, ignore=[])
    check(tmp_path, logits, "int4-g32", caplog)
    assert head_format(tmp_path) == "int4-g32"


def test_eight_bits_with_zero_points_are_rounded_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    arguments = {"num_bits": 8, "symmetric": False, "strategy": "group", "group_size": 16}
    logits = compress(tmp_path, "pack-quantized", arguments)
    with caplog.at_level(logging.WARNING):
        loaded = load_decoder(tmp_path)
    assert [record.message.split(": ")[-1][:12] for record in caplog.records] == ["21 to int8-g"]
    assert loaded.weights == "int8-g32"
    assert oracle.difference(whole_logits(loaded.decoder, TOKENS), logits) < 0.05


def test_a_group_index_of_act_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """compressed-tensors itself writes none of these today: the tensors are its layout with an index beside them."""
    from compressed_tensors.compressors.pack_quantized import pack_to_int32

    def convert(weight: Tensor) -> tuple[Tensor, Weights]:
        order = torch.arange(weight.shape[1]).view(-1, 32).flip(0).flatten()
        rounded = Rounded(weight, 4, 32, symmetric=True, order=order)
        packed = {
            "weight_packed": pack_to_int32((rounded.codes - 8).to(torch.int8), 4),
            "weight_scale": rounded.scales.bfloat16(),
            "weight_shape": torch.tensor(weight.shape),
            "weight_g_idx": rounded.group_of.clone(),
        }
        rounded.scales = packed["weight_scale"].float()
        return rounded.weight, packed

    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
    group = {"targets": ["Linear"], "weights": weights | {"actorder": "group"}}
    scheme = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"g": group}}
    logits = write(tmp_path, scheme | {"ignore": ["lm_head"]}, convert)
    check(tmp_path, logits, "int4-g32", caplog)


# --- any of them --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [16, 32, 96, 192, 256, None])
@pytest.mark.parametrize("scattered", [True, False])
def test_what_is_announced_is_what_comes(bits: int, symmetric: bool, group: int | None, scattered: bool) -> None:
    inputs, generator = 768, torch.Generator().manual_seed(1)
    count = inputs // (group or inputs)
    codes = torch.randint(0, 2**bits, (5, inputs), generator=generator, dtype=torch.uint8)
    scales = torch.rand(5, count, generator=generator).half()
    zeros = torch.randint(0, 2**bits, (5, count), generator=generator, dtype=torch.uint8)
    zeros[0, 0] = 0  # far from the middle
    codes[0] = 2**bits - 1
    if symmetric:
        zeros.fill_(2 ** (bits - 1))
    order = torch.randperm(inputs, generator=generator) if scattered and group else torch.arange(inputs)
    stored = Grouped(bits, codes, scales, zeros, order // (group or inputs))
    native = to_native(stored)
    told = expected(bits, group, inputs, symmetric=symmetric, scattered=bool(scattered and group))
    assert native.weight_format == told
    native.weight_format.pack(native.quantized)
    meant, got = stored.dequantize(), native.quantized.dequantize()
    if native.error is None:
        assert torch.equal(meant, got)
    else:
        assert native.weight_format == get("int8-g32")
        assert native.error.relative == pytest.approx(float((got - meant).norm() / meant.norm()), rel=1e-3)
        assert 0 < native.error.relative < 0.02


def test_four_bits_of_a_width_no_group_divides_fit_eight_exactly() -> None:
    codes = torch.randint(0, 16, (3, 40), dtype=torch.uint8)
    stored = Grouped(4, codes, torch.rand(3, 1), torch.tensor([[0], [15], [7]], dtype=torch.uint8))
    native = to_native(stored)
    assert native.error is None
    assert native.weight_format == get("int8") == expected(4, None, 40, symmetric=False, scattered=False)
    assert torch.equal(native.quantized.dequantize(), stored.dequantize())
