"""Accounts by arithmetic against the real module, counted."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from burnish.compress.chain import decoder_chain
from burnish.compress.recipes import find_recipe
from burnish.compress.walk import compress
from burnish.measure.account import account, flops_per_token, kv_bytes_per_token, num_parameters
from burnish.models.decoder import Decoder, DecoderConfig
from burnish.models.layers.attention import AttentionRule
from tests.tiny import tiny_config, tiny_decoder

SHAPES: dict[str, dict[str, Any]] = {
    "llama": {},
    "untied": {"tied_embeddings": False},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True, "head_dim": 24},
    "gemma3": {"norm_outputs": True, "qk_norm": True, "windows": (8, None)},
    "gpt2": {
        **{"norm": "layer", "learned_positions": True, "gated_mlp": False, "num_kv_heads": 4},
        **{"mlp_bias": True, "qkv_bias": True, "out_bias": True, "activation": "gelu_tanh"},
    },
    "biased gate": {"mlp_bias": True},
}


@pytest.fixture(params=list(SHAPES))
def config(request: pytest.FixtureRequest) -> DecoderConfig:
    return tiny_config(**SHAPES[request.param])


def test_parameters_are_those_of_the_module(config: DecoderConfig) -> None:
    assert num_parameters(config) == sum(parameter.numel() for parameter in Decoder(config).parameters())


def test_the_linear_layers_of_the_blocks_are_counted(config: DecoderConfig) -> None:
    layers = [layer for name, layer in decoder_chain(Decoder(config)).layers.items() if name != "lm_head"]
    assert account(config).num_layer_parameters == sum(layer.in_features * layer.out_features for layer in layers)


def test_flops_are_those_that_are_computed(config: DecoderConfig) -> None:
    decoder, context = Decoder(config), 20

    def attend(rule: AttentionRule, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """One query over a context of random keys, as far as the layer sees."""
        seen, (heads, width) = min(context, rule.window or context), q.shape[1:]
        keys, values = torch.randn(heads, width, seen), torch.randn(heads, seen, width)
        return ((q.transpose(0, 1) @ keys) @ values).transpose(0, 1)

    rows = 16  # a whole tile: nothing is padded
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        decoder.logits(decoder(torch.zeros(rows, dtype=torch.long), torch.arange(rows), attend))
    assert counter.get_total_flops() == rows * flops_per_token(config, context=context)


def test_an_empty_context_costs_the_weights_only() -> None:
    config = tiny_config()
    weights = account(config).num_layer_parameters + 259 * 64
    assert account(config).flops_per_token == 2 * weights
    assert account(config).flops_per_token_full == 2 * weights + 2 * 2 * 4 * 16 * 512 * 2


@pytest.mark.parametrize("recipe", ["int8", "int4-g64", "int4-g32"])
@pytest.mark.parametrize("is_tied", [True, False])
def test_sizes_are_those_of_the_compressed_module(recipe: str, is_tied: bool) -> None:
    decoder = tiny_decoder(tied_embeddings=is_tied)
    sizes = {size.format: size.weight_bytes for size in account(decoder.config).sizes}
    assert sizes["dense"] == 4 * num_parameters(decoder.config)
    compress(decoder_chain(decoder), find_recipe(recipe))
    assert sizes[recipe] == sum(t.nbytes for t in [*decoder.parameters(), *decoder.buffers()])


def test_a_format_that_does_not_fit_is_left_out() -> None:
    assert {size.format for size in account(tiny_config(inner_size=100)).sizes} == {"dense", "int8"}


def test_keys_and_values() -> None:
    assert kv_bytes_per_token(tiny_config(), "f32") == 2 * 2 * 2 * 16 * 4
    assert kv_bytes_per_token(tiny_config(), "f16") == 2 * 2 * 2 * 16 * 2
    assert kv_bytes_per_token(tiny_config(), "int8") == 2 * 2 * 2 * (16 + 4)
    assert account(tiny_config()).kv_bytes_per_token == 2 * 2 * 2 * 16 * 2, "as an engine stores them"


def test_bfloat16_halves_what_stays_dense() -> None:
    config = tiny_config()
    wide, narrow = account(config), account(config, dense_itemsize=2)
    assert narrow.sizes[0].weight_bytes * 2 == wide.sizes[0].weight_bytes
    rest = num_parameters(config) - wide.num_layer_parameters
    assert wide.sizes[1].weight_bytes - narrow.sizes[1].weight_bytes == 2 * rest
