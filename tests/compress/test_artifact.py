"""The artifact from end to end: written, read back bit for bit, opened by transformers, tampering noticed."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from compressed_tensors.quantization import QuantizationConfig
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from burnish.assemble import Origin, load_checked, open_plan, write_artifact
from burnish.cli.compress import Asked, write_variant
from burnish.compress.chain import decoder_chain
from burnish.compress.recipes import find_recipe
from burnish.compress.walk import compress
from burnish.core.errors import BadSettings, VerificationFailed
from burnish.kernels.tiles import unpack
from burnish.measure.verify import verify
from burnish.models.checkpoint import Loaded, load_decoder, save_checkpoint
from burnish.models.golden import golden_logits
from burnish.models.locate import locate
from burnish.plan.ops import Linear
from burnish.registry.artifact import check_files, content_hash, read_manifest
from burnish.registry.golden import deviations
from tests.tiny import tiny_decoder

PROMPTS = ((1, 2, 3, 4, 5), (250, 9), (77,))


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bfloat16 model, as most are, with a tokenizer of bytes."""
    folder = tmp_path_factory.mktemp("models") / "parent"
    decoder = tiny_decoder(tied_embeddings=False, hidden_size=128, inner_size=352)
    save_checkpoint(decoder, folder, family="llama", dtype=torch.bfloat16)
    alphabet = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def make(parent: Path, out: Path, recipe: str) -> Loaded:
    loaded = load_decoder(parent)
    records = compress(decoder_chain(loaded.decoder), find_recipe(recipe))
    write_artifact(loaded, Origin(parent, recipe, records), out)
    return loaded


@pytest.mark.parametrize(
    ("recipe", "weights"),
    [("int8", "int8"), ("int4", "int4-g128"), ("int4-g32", "int4-g32"), ("fp8-dynamic", "fp8")],
)
def test_what_is_loaded_computes_what_was_compressed_bit_for_bit(
    parent: Path, tmp_path: Path, recipe: str, weights: str
) -> None:
    out = tmp_path / "out"
    made = make(parent, out, recipe)
    loaded = load_decoder(out)
    assert loaded.weights == weights
    assert np.array_equal(golden_logits(loaded.decoder, PROMPTS), golden_logits(made.decoder, PROMPTS))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["int4-channel", "int2-channel-asym", "int8-g64-asym", "int8-channel-asym"])
def test_channels_and_zero_points_come_back_and_are_served(parent: Path, tmp_path: Path, name: str) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(f'[[pass]]\nname = "rtn"\nformats = ["{name}", "int8-channel-asym"]\nhead = "{name}"\n')
    out = tmp_path / "out"
    made = make(parent, out, str(recipe))
    loaded = load_decoder(out)
    assert loaded.weights == name
    assert np.array_equal(golden_logits(loaded.decoder, PROMPTS), golden_logits(made.decoder, PROMPTS))
    assert all(check.passed for check in verify(open_plan(out)))


def test_rounded_inputs_go_with_zero_points_in_bytes(parent: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('activations = "int8"\n[[pass]]\nname = "rtn"\nformats = ["int8-channel-asym"]\n')
    write_variant(parent, tmp_path / "out", str(recipe), lambda *_: None)
    ours = golden_logits(load_decoder(tmp_path / "out").decoder, PROMPTS)
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert "int-quantized" in {group["format"] for group in config["config_groups"].values()}
    found = by_transformers(tmp_path / "out", rounds_inputs=False)
    np.testing.assert_allclose(found, ours, atol=1e-3 * ours.std())


def test_the_manifest_tells_the_story(parent: Path, tmp_path: Path) -> None:
    make(parent, tmp_path / "out", "int4")
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    assert (manifest.recipe, manifest.weights) == ("int4", "int4-g128")
    assert (manifest.parent.name, manifest.parent.sha256) == ("parent", content_hash(parent))
    assert {record.format for record in manifest.records} == {"int4-g128", "int4-g64", "int4-g32", "int8"}
    assert check_files(tmp_path / "out", manifest) == ()
    size = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors"))
    kept = sum(record.bytes_before // 2 - record.bytes_after for record in manifest.records)  # // 2: bfloat16
    assert size == pytest.approx((parent / "model.safetensors").stat().st_size - kept, abs=8192)


def test_a_taken_place_stays_as_it_was(parent: Path) -> None:
    before = {path.name: path.read_bytes() for path in parent.iterdir()}
    with pytest.raises(BadSettings, match="is not an empty folder"):
        make(parent, parent, "int8")
    assert {path.name: path.read_bytes() for path in parent.iterdir()} == before


def test_the_golden_check_passes_and_notices_one_byte(parent: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(parent, out, "int8")
    manifest = read_manifest(out)
    assert manifest is not None
    golden = manifest.golden
    assert deviations(golden, golden_logits(load_decoder(out).decoder, golden.prompts)) == []
    weights = out / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[_last_byte_of(data, "model.layers.0.self_attn.v_proj.weight_scale")] ^= 2
    weights.write_bytes(data)
    assert check_files(out, manifest) == ("model.safetensors",)
    assert deviations(golden, golden_logits(load_decoder(out).decoder, golden.prompts))
    with pytest.raises(VerificationFailed, match="does not reproduce its golden outputs"):
        load_checked(out)


def _last_byte_of(data: bytearray, tensor: str) -> int:
    """The exponent's byte of a tensor's last float in a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    end: int = json.loads(data[8 : 8 + length])[tensor]["data_offsets"][1]
    return 8 + length + end - 1


def by_transformers(
    folder: Path, *, rounds_inputs: bool = True, prompts: tuple[tuple[int, ...], ...] = PROMPTS
) -> NDArray[np.float32]:
    """Logits after each prompt as transformers computes them; inputs are rounded where the file says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the oracle, not ours
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        for module in model.modules():
            module.quantization_enabled = rounds_inputs
        with torch.inference_mode():
            rows = [model(torch.tensor([prompt])).logits[0, -1].numpy() for prompt in prompts]
    return np.stack(rows)


@pytest.mark.parametrize("recipe", ["int8", "int4"])
def test_transformers_opens_a_tied_artifact_and_agrees(tmp_path: Path, recipe: str) -> None:
    parent = locate("builtin")
    make(parent, tmp_path / "out", recipe)
    ours = golden_logits(load_decoder(tmp_path / "out").decoder, PROMPTS)
    np.testing.assert_allclose(by_transformers(tmp_path / "out"), ours, atol=1e-3 * ours.std())


@pytest.mark.parametrize("recipe", ["int8", "int4"])  # int4: three group sizes in one model
def test_transformers_opens_the_artifact_and_agrees(parent: Path, tmp_path: Path, recipe: str) -> None:
    make(parent, tmp_path / "out", recipe)
    ours = golden_logits(load_decoder(tmp_path / "out").decoder, PROMPTS)
    np.testing.assert_allclose(by_transformers(tmp_path / "out"), ours, atol=1e-3 * ours.std())


def by_token(_: object, inputs: tuple[Tensor, ...]) -> Tensor:
    """Rows as engines on GPUs round them: the largest of a row to the largest code."""
    [rows] = inputs
    scales = rows.abs().amax(-1, keepdim=True) / 448
    return (rows / scales).to(torch.float8_e4m3fn).float() * scales


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_opens_eight_bit_floats_and_rounds_inputs_by_token(
    parent: Path, tmp_path: Path, tied: bool
) -> None:
    made = make(locate("builtin") if tied else parent, tmp_path / "out", "fp8-dynamic")
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    QuantizationConfig.model_validate(config)
    assert config["ignore"] == ["lm_head"]
    layers = decoder_chain(made.decoder).layers
    plain = golden_logits(made.decoder, PROMPTS)
    hooks = [layer.register_forward_pre_hook(by_token) for name, layer in layers.items() if name != "lm_head"]
    rounded = golden_logits(made.decoder, PROMPTS)
    for hook in hooks:
        hook.remove()
    found = by_transformers(tmp_path / "out", rounds_inputs=False)
    np.testing.assert_allclose(found, plain, atol=1e-3 * plain.std())
    # float32's last bits push an input over the edge between two codes now and then: that row differs, less than by
    # rounding itself, and the others do not
    apart, moved = np.abs(by_transformers(tmp_path / "out") - rounded).max(1), np.abs(rounded - plain).max(1)
    assert moved.min() > 0.01 * plain.std()
    assert apart.min() < 1e-3 * plain.std()
    assert (apart < moved).all()


def test_eight_bit_floats_are_served_as_bfloat16_and_verified(parent: Path, tmp_path: Path) -> None:
    made = make(parent, tmp_path / "out", "fp8-dynamic")
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    assert manifest.weights == "fp8"
    assert {record.format for record in manifest.records} == {"fp8"}
    plan = open_plan(tmp_path / "out")
    linears = [op for op in plan.operations if isinstance(op, Linear)]
    assert {op.weight.kind for op in linears} == {"bf16"}
    assert {op.activations for op in linears} == {"f32"}
    down = decoder_chain(made.decoder).layers["layers.1.mlp.down_proj"].dense_weight()
    assert np.array_equal(unpack(linears[-2].weight), down)
    assert plan.weights == "fp8"
    assert all(check.passed for check in verify(plan))


def test_layers_that_keep_float_inputs_are_told_and_obeyed(parent: Path, tmp_path: Path) -> None:
    made = write_variant(parent, tmp_path / "out", "int8", lambda *_: None, Asked(float_activations=["layers.1.mlp.*"]))
    manifest = read_manifest(made.path)
    assert manifest is not None
    assert manifest.float_activations == tuple(f"layers.1.mlp.{name}_proj" for name in ("gate", "up", "down"))
    taken = [op.activations for op in open_plan(made.path).operations if isinstance(op, Linear)]
    plain = write_variant(parent, tmp_path / "plain", "int8", lambda *_: None).path
    before = [op.activations for op in open_plan(plain).operations if isinstance(op, Linear)]
    assert taken.count("f32") == before.count("f32") + 2  # gate and up are one operation
    with pytest.raises(BadSettings, match=r"no layer is called 'layers.9.mlp.gate'\. Did you mean"):
        write_variant(parent, tmp_path / "x", "int8", lambda *_: None, Asked(float_activations=["layers.9.mlp.gate"]))
