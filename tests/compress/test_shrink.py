"""Shrinking: what is never used goes without a trace, what is left is a smaller model of the same kind."""

import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from burnish.compress.calibration import Calibration, CalibrationConfig, draw
from burnish.compress.importance import Importance, by_activations, by_gradient
from burnish.compress.shrink import Shrinkage, choose, shrunk_config, take
from burnish.core.errors import BadSettings
from burnish.models.checkpoint import load_decoder, save_checkpoint
from burnish.models.decoder import Decoder
from burnish.models.golden import golden_logits
from tests.compress.parts import blocks
from tests.tiny import tiny_config, tiny_decoder

PROMPTS = ((1, 2, 3, 4, 5), (250, 9), (77,))
KINDS: dict[str, dict[str, Any]] = {
    "llama": {"tied_embeddings": False},
    "tied, values per head": {"num_kv_heads": 4},
    "qk norms": {"qk_norm": True, "norm_outputs": True},
    "gpt2": {"norm": "layer", "learned_positions": True, "gated_mlp": False, "activation": "gelu_tanh"}
    | {"qkv_bias": True, "out_bias": True, "mlp_bias": True, "num_kv_heads": 4},
}


def data() -> Calibration:
    tokens = torch.randint(0, 256, (4096,), generator=torch.Generator().manual_seed(0))
    return draw(tokens, 64, CalibrationConfig(samples=40, length=64))


def shrunk(decoder: Decoder, by: Shrinkage) -> Decoder:
    target = shrunk_config(decoder.config, by)
    return take(decoder, target, choose(by_activations(decoder, data().tokens), decoder.config, target))


def difference(ours: Decoder, theirs: Decoder) -> float:
    first, second = golden_logits(ours, PROMPTS), golden_logits(theirs, PROMPTS)
    return float(abs(first - second).max() / abs(second).max())


@pytest.mark.parametrize("kind", KINDS)
def test_neurons_that_give_nothing_go_without_a_trace(kind: str) -> None:
    decoder = tiny_decoder(seed=1, **KINDS[kind])
    with torch.no_grad():
        for layer, block in enumerate(blocks(decoder)):
            idle = torch.randperm(128, generator=torch.Generator().manual_seed(layer))[:64]
            block.mlp.up_proj.weight[idle] = 0
            if block.mlp.up_proj.bias is not None:
                block.mlp.up_proj.bias[idle] = 0
    made = shrunk(decoder, Shrinkage(inner=0.5))
    assert made.config.inner_size == 64
    assert blocks(made)[0].mlp.down_proj.weight.shape == (64, 64)
    assert difference(made, decoder) < 1e-5


@pytest.mark.parametrize("kind", ["llama", "qk norms"])
def test_heads_that_give_nothing_go_from_every_group(kind: str) -> None:
    decoder = tiny_decoder(seed=2, num_heads=8, num_kv_heads=2, **KINDS[kind])
    with torch.no_grad():
        for block in blocks(decoder):  # of each group of four, two whose outputs nobody reads
            for head in (0, 3, 5, 6):
                block.attn.o_proj.weight[:, 16 * head : 16 * (head + 1)] = 0
    made = shrunk(decoder, Shrinkage(heads=0.5))
    # the mixture's size is what counts, and these heads mix as well as others: their choice is not a trace-free one
    assert (made.config.num_heads, made.config.num_kv_heads) == (4, 2)
    assert blocks(made)[0].attn.o_proj.weight.shape == (64, 64)
    kept = _kept_heads(decoder, made)
    assert all(sum(head // 4 == group for head in heads) == 2 for heads in kept for group in (0, 1))


def _kept_heads(decoder: Decoder, made: Decoder) -> list[list[int]]:
    """Which of the decoder's heads the shrunk one has, by their rows of q."""
    found = []
    for old, new in zip(blocks(decoder), blocks(made), strict=True):
        theirs = old.attn.q_proj.weight.view(-1, 16, 64)
        ours = new.attn.q_proj.weight.view(-1, 16, 64)
        found.append([next(i for i, head in enumerate(theirs) if torch.equal(head, mine)) for mine in ours])
    return found


def test_silent_heads_go_first() -> None:
    decoder = tiny_decoder(seed=2, num_heads=4, num_kv_heads=2)
    with torch.no_grad():
        for block in blocks(decoder):
            block.attn.v_proj.weight.zero_()  # every mixture is nothing: any head may go
            block.attn.o_proj.weight.zero_()
    assert difference(shrunk(decoder, Shrinkage(heads=0.5)), decoder) < 1e-6


def test_channels_that_carry_nothing_go_with_no_more_than_the_norms_change() -> None:
    """An RMS norm of half the channels sees twice the mean square: epsilon aside, a factor that its weight takes."""
    decoder = tiny_decoder(seed=3, tied_embeddings=False)
    idle = torch.randperm(64, generator=torch.Generator().manual_seed(0))[:32]
    with torch.no_grad():
        decoder.embed_tokens.weight[:, idle] = 0
        for block in blocks(decoder):
            block.attn.o_proj.weight[idle] = 0
            block.mlp.down_proj.weight[idle] = 0
    made = shrunk(decoder, Shrinkage(hidden=0.5))
    assert made.config.hidden_size == 32
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "norm" in name:
                parameter.mul_(2**0.5)
    assert difference(made, decoder) < 1e-3


def test_a_layer_that_does_nothing_goes_first() -> None:
    decoder = tiny_decoder(seed=4, num_layers=4)
    with torch.no_grad():
        blocks(decoder)[2].attn.o_proj.weight.zero_()
        blocks(decoder)[2].mlp.down_proj.weight.zero_()
    made = shrunk(decoder, Shrinkage(layers=0.25))
    assert made.config.num_layers == 3
    assert difference(made, decoder) < 1e-6


def test_windows_stay_with_their_layers() -> None:
    decoder = tiny_decoder(seed=5, num_layers=3, windows=(4, None, 8))
    with torch.no_grad():
        blocks(decoder)[0].attn.o_proj.weight.zero_()
        blocks(decoder)[0].mlp.down_proj.weight.zero_()
    made = shrunk(decoder, Shrinkage(layers=0.3))
    assert made.config.windows == (None, 8)
    assert blocks(made)[1].attn.rule.layer == 1
    assert difference(made, decoder) < 1e-6


@pytest.mark.parametrize("kind", ["llama", "tied, values per head"])
def test_all_at_once_is_a_model_that_is_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    decoder = tiny_decoder(seed=6, num_layers=4, num_heads=8, hidden_size=96, **KINDS[kind])
    made = shrunk(decoder, Shrinkage(inner=0.25, heads=0.5, hidden=0.3, layers=0.25))
    sizes = ("num_layers", "num_heads", "hidden_size", "inner_size", "num_kv_heads")
    assert [getattr(made.config, name) for name in sizes] == [3, 4, 64, 96, decoder.config.num_kv_heads]
    save_checkpoint(made, tmp_path / "x", family="llama")
    again = load_decoder(tmp_path / "x").decoder
    assert all(getattr(again.config, f.name) == getattr(made.config, f.name) for f in fields(made.config))
    assert difference(again, made) == 0.0
    assert golden_logits(made, PROMPTS).std() > 0


def test_nothing_asked_is_the_same_model() -> None:
    decoder = tiny_decoder(seed=7)
    made = shrunk(decoder, Shrinkage())
    ours, theirs = made.state_dict(), decoder.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_at_least_one_of_each_is_left() -> None:
    config = shrunk_config(tiny_decoder().config, Shrinkage(inner=0.99, heads=0.99, hidden=0.99, layers=0.99))
    assert (config.num_layers, config.num_heads, config.hidden_size, config.inner_size) == (1, 2, 32, 32)


MEASURES = [by_activations, by_gradient]


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("num_kv_heads", [8, 2, 1], ids=["mha", "gqa", "mqa"])
def test_heads_without_values_go_first_whatever_is_shared(
    num_kv_heads: int, measure: Callable[[Decoder, Tensor], Importance]
) -> None:
    """Half of the heads give nothing: silent for their values (a pair each), or for who reads their mixture."""
    decoder = tiny_decoder(seed=9, num_heads=8, num_kv_heads=num_kv_heads, tied_embeddings=False)
    idle = [1, 2, 5, 7]  # two of each group of four
    with torch.no_grad():
        for block in blocks(decoder):
            for head in idle:
                rows = slice(16 * head, 16 * (head + 1))
                block.attn.o_proj.weight[:, rows] = 0
                if num_kv_heads == 8:
                    block.attn.v_proj.weight[rows] = 0
    importance = measure(decoder, data().tokens[:4])
    target = shrunk_config(decoder.config, Shrinkage(heads=0.5))
    assert (target.num_heads, target.num_kv_heads) == (4, 4 if num_kv_heads == 8 else num_kv_heads)
    kept = choose(importance, decoder.config, target)
    made = take(decoder, target, kept)
    assert blocks(made)[0].attn.k_proj.weight.shape == (16 * target.num_kv_heads, 64)
    if num_kv_heads == 8 or measure is by_gradient:  # who reads a mixture only the gradient knows
        assert _kept_heads(decoder, made) == [[0, 3, 4, 6]] * 2
        assert difference(made, decoder) < 1e-5
    else:
        assert all(len(heads) == 4 for heads in _kept_heads(decoder, made))


def test_a_pair_of_multi_head_attention_stays_together() -> None:
    decoder = tiny_decoder(seed=10, num_heads=4, num_kv_heads=4, qk_norm=True, qkv_bias=True)
    target = shrunk_config(decoder.config, Shrinkage(heads=0.25))
    assert (target.num_heads, target.num_kv_heads, target.head_dim) == (3, 3, 16)
    kept = choose(by_activations(decoder, data().tokens[:4]), decoder.config, target)
    made = take(decoder, target, kept)
    for layer, (old, new) in enumerate(zip(blocks(decoder), blocks(made), strict=True)):
        rows = torch.cat([torch.arange(16 * head, 16 * (head + 1)) for head in kept.heads[layer].tolist()])
        for name in ("q_proj", "k_proj", "v_proj"):
            ours, theirs = getattr(new.attn, name), getattr(old.attn, name)
            assert torch.equal(ours.weight, theirs.weight[rows])
            assert torch.equal(ours.bias, theirs.bias[rows])
        assert torch.equal(new.attn.o_proj.weight, old.attn.o_proj.weight[:, rows])


@pytest.mark.parametrize("measure", MEASURES)
def test_idle_channels_of_the_stream_go_first(measure: Callable[[Decoder, Tensor], Importance]) -> None:
    decoder = tiny_decoder(seed=3, tied_embeddings=False)
    idle = torch.randperm(64, generator=torch.Generator().manual_seed(1))[:32]
    with torch.no_grad():
        decoder.embed_tokens.weight[:, idle] = 0
        for block in blocks(decoder):
            block.attn.o_proj.weight[idle] = 0
            block.mlp.down_proj.weight[idle] = 0
    target = shrunk_config(decoder.config, Shrinkage(hidden=0.5))
    kept = choose(measure(decoder, data().tokens[:4]), decoder.config, target)
    assert not set(kept.channels.tolist()) & set(idle.tolist())


@pytest.mark.parametrize(
    ("changes", "by", "line"),
    [
        (
            {"num_heads": 4, "num_kv_heads": 2},
            {"heads": 0.25},
            "shrink heads by 0.25 takes nothing of 2, kept in multiples of 1. Use 0.251 or more, or leave heads out",
        ),
        (
            {"inner_size": 184},
            {"inner": 0.01},
            "shrink inner by 0.01 takes nothing of 184, kept in multiples of 32. Use 0.044 or more, or leave inner out",
        ),
        (
            {"num_heads": 1, "num_kv_heads": 1},
            {"heads": 0.9},
            "shrink heads by 0.9 takes nothing of 1, kept in multiples of 1. Leave heads out",
        ),
        (
            {"hidden_size": 24, "num_heads": 4},
            {"hidden": 0.5},
            "shrink hidden by 0.5 takes nothing of 24, kept in multiples of 32. Leave hidden out",
        ),
        (
            {"num_layers": 3},
            {"layers": 0.1},
            "shrink layers by 0.1 takes nothing of 3, kept in multiples of 1. Use 0.167 or more, or leave layers out",
        ),
    ],
    ids=str,
)
def test_a_share_that_takes_nothing_is_refused_and_says_which_does(
    changes: dict[str, Any], by: dict[str, float], line: str
) -> None:
    with pytest.raises(BadSettings) as refused:
        shrunk_config(tiny_decoder(**changes).config, Shrinkage(**by))
    assert str(refused.value) == line


@given(count=st.integers(1, 5000), kind=st.sampled_from(["layers", "inner"]))
def test_the_share_that_is_told_is_the_smallest_that_works(count: int, kind: str) -> None:
    multiple = 1 if kind == "layers" else 32
    config = tiny_config(**{"num_layers" if kind == "layers" else "inner_size": count})
    try:
        shrunk_config(config, Shrinkage(**{kind: 1e-9}))
    except BadSettings as refused:
        told = re.search(r"Use ([\d.]+) or more", refused.remedy)
        assert (told is None) == (count <= multiple)
        if told is None:
            return
        shrunk_config(config, Shrinkage(**{kind: float(told[1])}))
        with pytest.raises(BadSettings, match="takes nothing"):
            shrunk_config(config, Shrinkage(**{kind: max(float(told[1]) - 0.00101, 1e-9)}))


@pytest.mark.parametrize("share", [-0.1, 1.0, 2.0, float("nan")])
def test_a_share_that_leaves_nothing_is_refused(share: float) -> None:
    with pytest.raises(BadSettings, match=r"Use a share of 0 to below 1"):
        Shrinkage(heads=share)


def test_importance_sees_what_the_data_uses() -> None:
    decoder = tiny_decoder(seed=8)
    with torch.no_grad():
        blocks(decoder)[0].mlp.up_proj.weight[5] *= 50
    found = by_activations(decoder, data().tokens)
    assert int(found.neurons[0].argmax()) == 5
    assert int(found.neurons[1].argmax()) != 5 or bool(found.neurons[1].max() < found.neurons[0].max())
    assert isinstance(found.layers, Tensor)
    assert found.layers.shape == (2,)
    assert bool((found.layers > 0).all())
