"""Exports: what other engines' files hold is what the model is, read back by us and by libraries of others."""

import errno
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize

from burnish.cli.compress import Asked, write_variant
from burnish.cli.export import write_export
from burnish.compress.calibration import CalibrationConfig
from burnish.compress.chain import decoder_chain
from burnish.core.errors import BadCheckpoint, BadSettings, BurnishError, UnknownFamily, VerificationFailed
from burnish.models.checkpoint import load_decoder, save_checkpoint
from burnish.models.golden import golden_logits
from burnish.models.locate import held_out_text, locate
from burnish.models.tokenizer import load_tokenizer
from tests.conftest import write_byte_tokenizer
from tests.tiny import tiny_decoder

PROMPTS = [[1, 5, 9, 200, 3], [7] * 20, list(range(40))]
TEXTS = ["Once upon a time, there was a fox.", "  two spaces, \n\n new lines\t", "Ünïcödé 🦊 日本", "1234567 I'll"]


def silent(*_: object) -> None:
    """Nobody watches."""


def exported(model: Path, out: Path, to: str = "gguf", **options: Any) -> Path:
    write_export(model, out, to, silent, **options)
    return out


@pytest.fixture(params=["llama", "qwen2", "qwen3"])
def family_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A tiny random model of a family that llama.cpp knows."""
    family = str(request.param)
    every: dict[str, dict[str, Any]] = {
        "llama": {"tied_embeddings": False},
        "qwen2": {"qkv_bias": True},
        "qwen3": {"qk_norm": True},
    }
    changes = every[family]
    decoder = tiny_decoder(**changes)
    save_checkpoint(decoder, tmp_path / family, family=family, dtype=torch.float32)
    write_byte_tokenizer(tmp_path / family)
    return tmp_path / family


def test_a_float16_file_computes_what_the_model_does(family_folder: Path, tmp_path: Path) -> None:
    file = exported(family_folder, tmp_path / "out.gguf")
    ours = golden_logits(load_decoder(family_folder).decoder, PROMPTS)
    again = golden_logits(load_decoder(file).decoder, PROMPTS)
    np.testing.assert_allclose(again, ours, atol=4e-3 * np.abs(ours).max())  # float16 weights


@pytest.mark.parametrize("recipe", ["int8", "int4-g32", "int4-g64"])
@pytest.mark.parametrize("tied", [True, False])
def test_integers_move_over_exactly(tmp_path: Path, recipe: str, tied: bool) -> None:
    decoder = tiny_decoder(tied_embeddings=tied)
    save_checkpoint(decoder, tmp_path / "model", family="llama", dtype=torch.bfloat16)
    write_byte_tokenizer(tmp_path / "model")
    write_variant(tmp_path / "model", tmp_path / "small", recipe, silent)
    file = exported(tmp_path / "small", tmp_path / "out.gguf")
    stored = {name: layer.dense_weight() for name, layer in decoder_chain(load_decoder(file).decoder).layers.items()}
    for name, layer in decoder_chain(load_decoder(tmp_path / "small").decoder).layers.items():
        assert torch.equal(stored[name], layer.dense_weight()), name


def test_a_library_of_others_reads_the_same_numbers(tmp_path: Path) -> None:
    """gguf's own reader and dequantizer, on the built-in model in four bits."""
    write_variant(locate("builtin"), tmp_path / "small", "int4-g32", silent)
    reader = gguf.GGUFReader(exported(tmp_path / "small", tmp_path / "out.gguf"))
    layers = decoder_chain(load_decoder(tmp_path / "small").decoder).layers
    names = {
        "ffn_down": "mlp.down_proj",
        "ffn_up": "mlp.up_proj",
        "attn_output": "attn.o_proj",
        "attn_v": "attn.v_proj",
    }
    seen = 0
    for tensor in reader.tensors:
        _, _, rest = tensor.name.partition(".")
        number, _, kind = rest.partition(".")
        if tensor.name.startswith("blk.") and (kind := kind.removesuffix(".weight")) in names:
            assert tensor.tensor_type.name == "Q4_0"
            dense = layers[f"layers.{number}.{names[kind]}"].dense_weight().numpy()
            np.testing.assert_array_equal(dequantize(tensor.data, tensor.tensor_type), dense)
            seen += 1
    assert seen == 4 * load_decoder(locate("builtin")).decoder.config.num_layers


@pytest.mark.parametrize("type", ["q8_0", "q4_0", "q4_1"])
def test_a_type_asked_for_is_what_lies_there_and_its_cost_is_told(tmp_path: Path, type: str) -> None:
    made = write_export(locate("builtin"), tmp_path / "out.gguf", "gguf", silent, type=type)
    assert made.types[type.upper()] > 40
    assert made.num_rounded > 0
    assert {"q8_0": 0.002, "q4_0": 0.05, "q4_1": 0.05}[type] < made.worst_relative_error < 0.12
    assert made.bytes == (tmp_path / "out.gguf").stat().st_size
    ours, again = (load_decoder(path).decoder for path in (locate("builtin"), tmp_path / "out.gguf"))
    layers = decoder_chain(ours).layers
    errors = [
        float((layer.dense_weight() - layers[name].dense_weight()).norm() / layers[name].dense_weight().norm())
        for name, layer in decoder_chain(again).layers.items()
    ]
    assert max(errors) == pytest.approx(made.worst_relative_error, rel=0.02)


def test_zero_points_move_over_as_minima(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('about = "x"\n[[pass]]\nname = "rtn"\nformats = ["int4-g32-asym"]\nhead = "int4-g32-asym"\n')
    write_variant(locate("builtin"), tmp_path / "small", str(recipe), silent)
    made = write_export(tmp_path / "small", tmp_path / "out.gguf", "gguf", silent)
    assert made.types["Q4_1"] == 42
    assert made.worst_relative_error < 3e-3, "a product of scale and zero point is rounded to float16"


@pytest.mark.parametrize(
    ("name", "types", "most"),
    [
        ("int4-channel", {"Q4_0"}, 2**-11),  # a scale of a channel is rounded to float16
        ("int4-channel-asym", {"Q4_1"}, 3e-3),
        ("int8-g32-asym", {"Q8_0"}, 0.01),  # what is too far from its zero point is rounded anew
        ("int8-channel-asym", {"Q8_0"}, 0.01),
    ],
)
def test_channels_and_zero_points_become_blocks_and_what_that_costs_is_told(
    tmp_path: Path, name: str, types: set[str], most: float
) -> None:
    save_checkpoint(tiny_decoder(), tmp_path / "model", family="llama", dtype=torch.bfloat16)
    write_byte_tokenizer(tmp_path / "model")
    (tmp_path / "mine.toml").write_text(f'[[pass]]\nname = "rtn"\nformats = ["{name}"]\n')
    write_variant(tmp_path / "model", tmp_path / "small", str(tmp_path / "mine.toml"), silent)
    made = write_export(tmp_path / "small", tmp_path / "out.gguf", "gguf", silent)
    assert types < made.types.keys()
    assert 0 < made.worst_relative_error < most
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    layers = decoder_chain(load_decoder(tmp_path / "small").decoder).layers
    for number in range(2):
        found, dense = stored[f"blk.{number}.ffn_down.weight"], layers[f"layers.{number}.mlp.down_proj"].dense_weight()
        error = np.linalg.norm(dequantize(found.data, found.tensor_type) - dense.numpy())
        assert error <= made.worst_relative_error * float(dense.norm()) * 1.001


@pytest.mark.parametrize("model", ["builtin", "tiny"])
def test_the_tokenizer_is_the_same(model: str, tiny_folder: Path, tmp_path: Path) -> None:
    folder = tiny_folder if model == "tiny" else locate(model)
    ours = load_tokenizer(folder)
    theirs = load_tokenizer(exported(folder, tmp_path / "out.gguf"))
    for text in TEXTS:
        assert theirs.encode(text) == ours.encode(text)
        assert theirs.decode(theirs.encode(text)) == ours.decode(ours.encode(text))
    assert (theirs.bos_token_id, theirs.eos_token_ids) == (ours.bos_token_id, ours.eos_token_ids)


@pytest.mark.parametrize("type", [None, "f32", "f16", "bf16"])
def test_transformers_opens_a_folder(tmp_path: Path, type: str | None) -> None:
    write_variant(locate("builtin"), tmp_path / "small", "int4", silent)
    folder = exported(tmp_path / "small", tmp_path / "out", "hf", type=type)
    assert not (folder / "burnish.json").exists()
    assert ("quantization_config" in json.loads((folder / "config.json").read_text())) == (type is None)
    ours = golden_logits(load_decoder(tmp_path / "small").decoder, PROMPTS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the oracle, not ours
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        with torch.inference_mode():
            rows = [model(torch.tensor([prompt])).logits[0, -1].numpy() for prompt in PROMPTS]
    np.testing.assert_allclose(np.stack(rows), ours, atol=(0.02 if type == "bf16" else 3e-3) * ours.std())


def test_what_llama_cpp_cannot_express_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tiny_decoder(qkv_bias=True, windows=(8, None)), tmp_path / "m", family="qwen2", dtype=torch.float32)
    write_byte_tokenizer(tmp_path / "m")
    file = exported(tmp_path / "m", tmp_path / "cut.gguf")
    assert load_decoder(file).decoder.config.max_positions == 8, "within a window nothing changes"
    biases = {"qkv_bias": True, "out_bias": True, "mlp_bias": True}
    gpt2 = tiny_decoder(
        norm="layer", learned_positions=True, gated_mlp=False, activation="gelu_tanh", num_kv_heads=4, **biases
    )
    save_checkpoint(gpt2, tmp_path / "g", family="gpt2", dtype=torch.float32)
    write_byte_tokenizer(tmp_path / "g")
    with pytest.raises(UnknownFamily, match="family 'gpt2' are not exported to GGUF"):
        exported(tmp_path / "g", tmp_path / "out.gguf")


def test_numbers_without_room_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    decoder = tiny_decoder()
    with torch.no_grad():
        decoder.embed_tokens.weight[3, 3] = 1e6
    save_checkpoint(decoder, tmp_path / "model", family="llama", dtype=torch.float32)
    write_byte_tokenizer(tmp_path / "model")
    with pytest.raises(BadCheckpoint, match=r"token_embd.weight holds numbers float16 has no room for"):
        exported(tmp_path / "model", tmp_path / "out.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("to", ["gguf", "hf"])
def test_a_full_disk_leaves_nothing(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", full)
    if to == "hf":
        monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(BadSettings, match=r"cannot be written: No space left on device\. Free the disk"):
        exported(tiny_folder, tmp_path / "out", to)
    assert list(tmp_path.iterdir()) == []


def test_an_artifact_that_changed_is_not_exported(tmp_path: Path) -> None:
    write_variant(locate("builtin"), tmp_path / "small", "int8", silent)
    file = tmp_path / "small" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-90000:-80000] = bytes(10000)
    file.write_bytes(data)
    with pytest.raises(VerificationFailed, match="does not reproduce"):
        exported(tmp_path / "small", tmp_path / "out.gguf")


def test_a_taken_place_stays_as_it_was(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out.gguf").write_text("mine")
    with pytest.raises(BurnishError, match="exists"):
        exported(tiny_folder, tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_text() == "mine"


def test_pieces_of_calibration_do_not_matter_to_an_export(tmp_path: Path) -> None:
    """A compensated model moves over as exactly as a rounded one."""
    asked = Asked(calibration=_story(tmp_path), sampling=CalibrationConfig(samples=20, length=128))
    write_variant(locate("builtin"), tmp_path / "small", "int4-gptq-g32", silent, asked)
    file = exported(tmp_path / "small", tmp_path / "out.gguf")
    ours, again = (golden_logits(load_decoder(path).decoder, PROMPTS) for path in (tmp_path / "small", file))
    np.testing.assert_allclose(again, ours, atol=1e-4 * ours.std())


def _story(folder: Path) -> Path:
    shutil.copyfile(held_out_text(), folder / "story.txt")
    return folder / "story.txt"
