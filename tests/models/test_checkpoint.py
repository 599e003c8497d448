"""Checkpoint folders in and out: shards, types, ties, base models, llama2.c files, and every way to be broken."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from burnish.core.errors import BadCheckpoint, BurnishError, NotFound
from burnish.models import llama2c
from burnish.models.checkpoint import load_decoder, random_decoder, save_checkpoint
from burnish.models.decoder import Decoder
from burnish.models.layers.linear import Linear
from burnish.models.locate import locate
from burnish.models.tokenizer import load_tokenizer
from tests.models import oracle
from tests.models.paged import PagedCache, whole_logits
from tests.tiny import tiny_decoder

SINGLE = "model.safetensors"


def equal(one: Decoder, other: Decoder) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved tiny Llama with an output head of its own."""
    save_checkpoint(tiny_decoder(tied_embeddings=False), tmp_path / "model", family="llama")
    return tmp_path / "model"


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = dict(load_file(folder / SINGLE))
    change(tensors)
    save_file(tensors, folder / SINGLE)


def reconfigure(folder: Path, **changes: Any) -> None:
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | changes))


def complaint(path: Path) -> str:
    """The one line a broken model gives."""
    with pytest.raises(BurnishError) as caught:
        load_decoder(path)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    assert caught.value.remedy
    return message


# --- sound checkpoints --------------------------------------------------------------------------------------------


def test_shards_by_transformers_load_as_one_file_does(root: Path, tmp_path: Path) -> None:
    oracle.make(oracle.VARIANTS["qwen3"]).save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    assert equal(load_decoder(tmp_path).decoder, load_decoder(oracle.saved("qwen3", root)).decoder)


def test_our_shards_load_back_and_replace_what_stood_there(tmp_path: Path) -> None:
    first, second = tiny_decoder(seed=1), tiny_decoder(seed=2)
    (tmp_path / "notes.txt").write_text("mine")
    save_checkpoint(first, tmp_path, family="llama", max_shard_bytes=50_000)
    assert (tmp_path / "model.safetensors.index.json").is_file()
    assert max(path.stat().st_size for path in tmp_path.glob("*.safetensors")) < 80_000
    assert equal(load_decoder(tmp_path).decoder, first)
    save_checkpoint(second, tmp_path, family="llama")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", SINGLE, "notes.txt"]
    assert equal(load_decoder(tmp_path).decoder, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_any_float_type_loads_as_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    decoder = tiny_decoder()
    save_checkpoint(decoder, tmp_path / "x", family="llama", dtype=dtype)
    with safe_open(tmp_path / "x" / SINGLE, framework="pt") as file:
        assert all(file.get_tensor(name).dtype == dtype for name in file.keys())  # noqa: SIM118
    loaded = load_decoder(tmp_path / "x")
    assert loaded.weights == "dense"
    for name, tensor in loaded.decoder.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, decoder.state_dict()[name].to(dtype).float())


def test_a_model_saved_from_the_bare_base_class_loads(root: Path, tmp_path: Path) -> None:
    model = oracle.make(oracle.VARIANTS["gpt2"])
    model.base_model.save_pretrained(tmp_path)
    names = load_file(tmp_path / SINGLE)
    assert "wte.weight" in names
    assert equal(load_decoder(tmp_path).decoder, load_decoder(oracle.saved("gpt2", root)).decoder)


def test_a_tied_head_may_be_stored_if_it_equals_the_embedding(tmp_path: Path) -> None:
    decoder = tiny_decoder()
    save_checkpoint(decoder, tmp_path, family="llama")
    rewrite(tmp_path, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    assert equal(load_decoder(tmp_path).decoder, decoder)
    rewrite(tmp_path, lambda t: t.update({"lm_head.weight": t["lm_head.weight"] + 1}))
    assert "ties the embeddings, yet lm_head.weight differs" in complaint(tmp_path)


def test_constants_some_versions_stored_are_ignored(folder: Path) -> None:
    before = load_decoder(folder).decoder
    rewrite(folder, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}))
    assert equal(load_decoder(folder).decoder, before)


def test_loaded_parameters_own_aligned_memory(folder: Path) -> None:
    loaded = load_decoder(folder)
    expected = whole_logits(loaded.decoder, [1, 2, 3])
    (folder / SINGLE).write_bytes(b"\0" * (folder / SINGLE).stat().st_size)  # would show through a mapping
    assert torch.equal(whole_logits(loaded.decoder, [1, 2, 3]), expected)
    assert all(p.is_contiguous() and p.data_ptr() % 16 == 0 for p in loaded.decoder.parameters())


def test_what_load_reports(folder: Path) -> None:
    loaded = load_decoder(folder)
    assert (loaded.family, loaded.weights) == ("llama", "dense")
    assert loaded.tensor_bytes == 4 * sum(p.numel() for p in loaded.decoder.parameters())
    assert loaded.raw_config["model_type"] == "llama"
    assert not any(p.requires_grad for p in loaded.decoder.parameters())


def test_saving_keeps_the_words_of_the_given_configuration(folder: Path, tmp_path: Path) -> None:
    loaded = load_decoder(folder)
    raw = loaded.raw_config | {"eos_token_id": [7, 8], "dtype": "float16"}
    save_checkpoint(loaded.decoder, tmp_path / "x", family="llama", dtype=torch.bfloat16, raw_config=raw)
    written = json.loads((tmp_path / "x" / "config.json").read_text())
    assert (written["eos_token_id"], written["torch_dtype"]) == ([7, 8], "bfloat16")
    assert "dtype" not in written
    with pytest.raises(BadCheckpoint, match="does not describe this decoder"):
        save_checkpoint(loaded.decoder, tmp_path / "y", family="llama", raw_config=raw | {"rope_theta": 7.0})
    assert not (tmp_path / "y").exists()


def test_a_save_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("burnish.models.checkpoint.write_tensors", full)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(tiny_decoder(), tmp_path / "x", family="llama")
    assert list(tmp_path.iterdir()) == []


# --- broken ones --------------------------------------------------------------------------------------------------


def test_all_tensor_faults_are_listed_in_one_error(folder: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["model.norm.weight"], tensors["lm_head.weight"]
        tensors["model.layers.9.surprise"] = torch.ones(1)
        tensors["model.layers.0.mlp.up_proj.weight"] = torch.ones(3, 4)
        tensors["model.layers.1.input_layernorm.weight"] = torch.ones(64, dtype=torch.int32)

    rewrite(folder, spoil)
    message = complaint(folder)
    assert "5 tensors do not fit" in message
    for words in (
        "missing model.norm.weight",
        "missing lm_head.weight",
        "unexpected model.layers.9.surprise",
        "model.layers.0.mlp.up_proj.weight has shape [3, 4], expected [128, 64]",
        "model.layers.1.input_layernorm.weight has type I32, expected float32",
    ):
        assert words in message


def test_a_long_list_of_faults_is_shortened(folder: Path) -> None:
    reconfigure(folder, hidden_size=32, head_dim=16, num_hidden_layers=4)
    message = complaint(folder)
    assert message.count(";") == 19
    assert "39 tensors do not fit" in message
    assert "and 19 more" in message


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 100, 3000, -1])
def test_truncated_safetensors(folder: Path, kept: int) -> None:
    data = (folder / SINGLE).read_bytes()
    (folder / SINGLE).write_bytes(data[:kept])
    assert "truncated or broken" in complaint(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"model_type": "llama"', "\ud800"])
def test_broken_configurations(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode(errors="surrogatepass"))
    complaint(folder)


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    assert "nowhere" in complaint(tmp_path / "nowhere")
    (folder / SINGLE).rename(folder / "pytorch_model.bin")
    assert "found pytorch_model.bin" in complaint(folder)
    assert "Convert it to safetensors" in complaint(folder)
    (folder / "config.json").unlink()
    assert "config.json" in complaint(folder)


def test_broken_shards(tmp_path: Path) -> None:
    save_checkpoint(tiny_decoder(), tmp_path, family="llama", max_shard_bytes=100_000)
    index = tmp_path / "model.safetensors.index.json"
    shards = json.loads(index.read_text())["weight_map"]
    values: tuple[Any, ...] = ({}, [], {"a": 3}, {"a": "../config.json"}, {"a": ""}, {"a": "x\0y"})
    for value in values:
        index.write_text(json.dumps({"weight_map": value}))
        assert "weight_map" in complaint(tmp_path)
    index.write_text(json.dumps({"weight_map": shards}))
    (tmp_path / shards["model.norm.weight"]).unlink()
    assert shards["model.norm.weight"] in complaint(tmp_path)


FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(st.sampled_from(["config.json", SINGLE]), st.data())
def test_damaged_files_give_nothing_but_a_burnish_error(folder: Path, name: str, data: st.DataObject) -> None:
    original = (folder / name).read_bytes()
    reach = min(len(original), 4000)  # the headers
    damaged = bytearray(original)
    for at in data.draw(st.lists(st.integers(0, reach - 1), max_size=4)):
        damaged[at] = data.draw(st.integers(0, 255))
    try:
        (folder / name).write_bytes(bytes(damaged[: data.draw(st.sampled_from([len(original), reach, reach // 3]))]))
        try:
            load_decoder(folder)
        except BurnishError as error:
            assert "\n" not in str(error)  # noqa: PT017 - some damage is harmless
    finally:
        (folder / name).write_bytes(original)


# --- llama2.c -----------------------------------------------------------------------------------------------------


def test_stories260k_tells_its_story(stories: Path) -> None:
    decoder, tokenizer = load_decoder(stories).decoder, load_tokenizer(stories)
    cache, tokens = PagedCache(decoder, 1, 257), [llama2c.MARK]
    while len(tokens) <= 256:
        tokens.append(int(cache.extend([tokens[-1:]])[0].argmax()))
    assert tokenizer.decode(tokens) == (stories / "expected_greedy.txt").read_text()


def test_both_llama2c_formats_and_the_folder_hold_the_same_weights(stories: Path) -> None:
    legacy = load_decoder(stories / "stories260K.bin")
    assert legacy.tensor_bytes == 4 * 260_032
    assert equal(legacy.decoder, load_decoder(stories / "stories260K_v1.bin").decoder)
    assert equal(legacy.decoder, load_decoder(stories).decoder)


def test_stories260k_agrees_with_transformers_after_a_save(stories: Path, tmp_path: Path) -> None:
    import transformers

    loaded = load_decoder(stories)
    save_checkpoint(loaded.decoder, tmp_path / "x", family="llama", raw_config=loaded.raw_config)
    assert equal(load_decoder(tmp_path / "x").decoder, loaded.decoder)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "x").eval()
    tokens = [1, 403, 407, 261, 378, 432, 383, 286]
    assert oracle.difference(whole_logits(loaded.decoder, tokens), oracle.logits(model, tokens)) < 1e-4


def test_an_untied_llama2c_head_is_read(stories: Path, tmp_path: Path) -> None:
    legacy = (stories / "stories260K.bin").read_bytes()
    sizes = np.frombuffer(legacy[:28], "<i4").copy()
    sizes[5] *= -1
    head = np.arange(512 * 64, dtype="<f4")
    (tmp_path / "model.bin").write_bytes(sizes.tobytes() + legacy[28:] + head.tobytes())
    decoder = load_decoder(tmp_path / "model.bin").decoder
    assert decoder.lm_head.weight.flatten().tolist() == head.tolist()


@pytest.mark.parametrize(("kept", "words"), [(0, "no llama2.c"), (20, "no llama2.c"), (5000, "has 5000 bytes")])
@pytest.mark.parametrize("name", ["stories260K.bin", "stories260K_v1.bin"])
def test_truncated_llama2c_files(stories: Path, tmp_path: Path, name: str, kept: int, words: str) -> None:
    (tmp_path / "model.bin").write_bytes((stories / name).read_bytes()[:kept])
    assert words in complaint(tmp_path / "model.bin")


@FUZZ
@given(st.binary(max_size=300))
def test_random_bytes_are_no_llama2c_checkpoint(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.bin").write_bytes(data)
    complaint(tmp_path / "model.bin")


# --- random weights, locating -------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["dense", "int8", "int4-g32"])
def test_random_decoders_are_seeded_and_in_the_wanted_format(folder: Path, weights: str) -> None:
    one, two, other = (random_decoder(folder / "config.json", weights=weights, seed=seed) for seed in (1, 1, 2))
    assert one.weights == weights
    assert equal(one.decoder, two.decoder)
    assert not equal(one.decoder, other.decoder)
    assert {m.format.name for m in one.decoder.layers.modules() if isinstance(m, Linear)} == {weights}
    assert one.decoder.lm_head.format.name == weights
    rows = whole_logits(one.decoder, [1, 2, 3])
    assert torch.isfinite(rows).all()
    assert rows.std() > 0.01


def test_random_decoders_refuse_groups_that_do_not_fit(folder: Path) -> None:
    with pytest.raises(BurnishError, match=r"64 inputs .* groups of 128. Take a smaller group"):
        random_decoder(folder / "config.json", weights="int4-g128")
    with pytest.raises(BurnishError, match="Did you mean 'int4-g32'"):
        random_decoder(folder / "config.json", weights="int4-g3")


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["dense", "int8", "int4-g128"])
def test_a_random_model_of_a_billion_weights_is_made_in_place(weights: str) -> None:
    import resource

    config = Path(__file__).resolve().parents[3] / "shared/shapes/1.1b.json"
    if not config.exists():
        pytest.skip("shared/shapes is absent")
    loaded = random_decoder(config, weights=weights)
    assert sum(m.in_features * m.out_features for m in loaded.decoder.modules() if isinstance(m, Linear)) > 1e9
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < 12e9


def test_locate(folder: Path, tmp_path: Path) -> None:
    assert locate(str(folder)) == folder
    for name in ("", str(tmp_path / "nowhere"), "a\0b", "x" * 9999):
        with pytest.raises(NotFound) as caught:
            locate(name)
        assert "builtin" in str(caught.value)
    shutil.rmtree(folder)
    with pytest.raises(NotFound):
        locate(str(folder))
