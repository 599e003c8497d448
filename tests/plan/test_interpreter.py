"""The reference interpreter against the decoder it was lowered from: every family, every way weights and keys live.

It is the oracle of the native executor, so it is held to the decoder's own forward pass, which never saw a plan.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from burnish.core.types import KeyKind
from burnish.kernels import reference
from burnish.models.checkpoint import load_decoder
from burnish.models.decoder import Decoder
from burnish.plan.lower import lower, lowered
from burnish.plan.ops import Plan
from burnish.plan.tile_file import read_plan, write_plan
from tests.models import oracle
from tests.models.paged import whole_logits
from tests.plan.paged import Paged, deviation, equal
from tests.plan.rounded import linear_names, round_layers
from tests.tiny import tiny_decoder

TOLERANCE = 1e-4  # of the largest logit: float32 in another order of additions
SEQUENCES = oracle.SEQUENCES
KINDS: list[KeyKind] = ["f32", "f16", "int8"]


def difference(decoder: Decoder, plan: Plan, **paged: Any) -> float:
    """Largest difference from the decoder's own logits, relative to the largest of them, over all sequences."""
    found = Paged(plan, SEQUENCES, **paged).chunked(13)
    truth = [whole_logits(decoder, tokens) for tokens in SEQUENCES]
    pairs = zip(found, truth, strict=True)
    return max(oracle.difference(torch.from_numpy(ours), theirs) for ours, theirs in pairs)


# --- the decoder's own logits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", oracle.VARIANTS)
def test_every_family_gives_the_decoders_own_logits(name: str, root: Path) -> None:
    decoder = load_decoder(oracle.saved(name, root)).decoder
    assert difference(decoder, lower(decoder)) < TOLERANCE


@pytest.mark.parametrize("weights", ["int8", "int4-g32"])
@pytest.mark.parametrize("name", oracle.VARIANTS)
def test_every_family_with_integer_weights_and_float_activations(name: str, weights: str, root: Path) -> None:
    decoder = load_decoder(oracle.saved(name, root)).decoder
    if weights != "int8" and decoder.config.inner_size % 32:
        round_layers(decoder, weights, part="attn.")
        round_layers(decoder, weights, part="up_proj")
    else:
        round_layers(decoder, weights)
    assert difference(decoder, lower(decoder, float_activations=linear_names(decoder))) < TOLERANCE


@pytest.mark.parametrize(
    "overrides",
    [
        {"attention_softcap": 2.0, "logit_softcap": 3.0},
        {"norm": "layer", "gated_mlp": False, "activation": "relu", "qkv_bias": True, "mlp_bias": True},
        {"head_dim": 6, "num_kv_heads": 1, "inner_size": 50, "hidden_size": 40, "activation": "gelu"},
        {"norm_outputs": True, "qk_norm": True, "windows": (3, None), "attention_scale": 0.5},
        {"tied_embeddings": False, "vocab_size": 97, "embedding_scale": 8.0, "activation": "gelu_tanh"},
    ],
    ids=str,
)
def test_mechanisms_and_sizes_no_family_has(overrides: dict[str, Any]) -> None:
    decoder = tiny_decoder(**overrides)
    assert difference(decoder, lower(decoder)) < TOLERANCE


@pytest.mark.parametrize("weights", ["int3-channel", "int4-channel-asym", "int8-g32-asym", "int8-channel-asym"])
def test_channels_and_zero_points_with_float_activations(weights: str) -> None:
    decoder = round_layers(tiny_decoder(), weights)
    assert difference(decoder, lower(decoder, float_activations=linear_names(decoder))) < TOLERANCE


def test_layers_stored_in_different_formats() -> None:
    decoder = round_layers(tiny_decoder(), "int4-g32", part="v_proj")
    round_layers(decoder, "int8", part="gate_proj")
    assert difference(decoder, lower(decoder)) < TOLERANCE


# --- int8 activations ----------------------------------------------------------------------------------------------


def test_quantized_rows_are_within_half_a_step_of_the_rows() -> None:
    x = torch.randn(9, 100, generator=torch.Generator().manual_seed(0)) * torch.logspace(-20, 20, 9).unsqueeze(1)
    rows = reference.quantize_blocks(x)
    back = rows.dequantize(100)
    half = rows.scales.repeat_interleave(32, 1)[:, :100] / 2
    assert ((back - x).abs() <= half * (1 + 1e-5)).all()
    assert rows.codes.abs().amax() == 127


class Quantizing:
    """Linear layers of a decoder that see their inputs rounded to int8 blocks, as the plan's do."""

    def __init__(self, decoder: Decoder, names: Sequence[str]) -> None:
        self.hooks = [decoder.get_submodule(name).register_forward_pre_hook(self.round) for name in names]

    @staticmethod
    def round(_: Any, inputs: tuple[Tensor, ...]) -> Tensor:
        x = inputs[0]
        return reference.quantize_blocks(x).dequantize(x.shape[1])

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()


@pytest.mark.parametrize("weights", ["int8", "int4-g32", "int4-channel", "int4-channel-asym"])
def test_int8_activations_are_what_a_decoder_with_rounded_inputs_computes(weights: str) -> None:
    """The same arithmetic in another order: apart from float32's last bits, a row differs where they push an input
    over the edge between two codes. That moves one of 64 inputs by one step, where rounding moves all of them by a
    third of one: a 20th of rounding's own deviation leaves room for a row with several such inputs.
    """
    decoder = round_layers(tiny_decoder(), weights)
    found = Paged(lower(decoder), SEQUENCES).chunked(13)
    names = [name for name in linear_names(decoder) if name.startswith("layers.")]
    for ours, tokens in zip(found, SEQUENCES, strict=True):
        with Quantizing(decoder, names):
            rounded = whole_logits(decoder, tokens)
        plain = whole_logits(decoder, tokens)
        assert deviation(ours, rounded) < 0.05 * deviation(rounded.numpy(), plain)
        assert deviation(ours, plain) > 0.9 * deviation(rounded.numpy(), plain), "nothing was rounded"


@pytest.mark.parametrize("name", oracle.VARIANTS)
def test_every_family_with_int8_activations_is_close(name: str, root: Path) -> None:
    """Rounding a block to 255 levels leaves noise of 1/sqrt(12) of a step of max / 127; the maximum of 32 normal
    values is near 2.1 deviations, so the noise is 2.1 / 127 / sqrt(12) = 0.5 % of each input, and of each output.
    Four such linears in each of three layers, all errors independent: sqrt(12) * 0.5 % = 1.7 %. What lies between
    them (norms of small rows, sharp attention) amplifies it somewhat; three times that is the bound.
    """
    decoder = round_layers(load_decoder(oracle.saved(name, root)).decoder, "int8")
    found = Paged(lower(decoder), SEQUENCES).chunked(13)
    truth = torch.cat([whole_logits(decoder, tokens) for tokens in SEQUENCES])
    noise, num_linears = 2.1 / 127 / math.sqrt(12), 4 * 3
    bound = 3 * math.sqrt(num_linears) * noise
    assert 1e-4 < deviation(np.concatenate(found), truth) < bound


def test_what_is_no_number_reaches_the_logits() -> None:
    plan = lower(round_layers(tiny_decoder(), "int8"))
    first: Any = plan.operations[1]
    first.weight[5] = np.nan
    assert np.isnan(Paged(plan, [[1, 2, 3], [4, 5]]).step({0: range(3), 1: range(2)})).all()


# --- rows do not depend on each other ------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", KINDS)
@pytest.mark.parametrize("weights", ["dense", "int8", "int4-g32"])
def test_a_row_is_the_same_to_the_bit_in_any_batch_and_chunking(weights: str, keys: KeyKind) -> None:
    decoder = tiny_decoder(windows=(None, 20))
    plan = lower(decoder if weights == "dense" else round_layers(decoder, weights))
    together = Paged(plan, SEQUENCES, keys=keys).chunked(100)
    for chunk in (1, 7, 16):
        assert equal(Paged(plan, SEQUENCES, keys=keys, seed=chunk).chunked(chunk), together)
    alone = [Paged(plan, [tokens], keys=keys).chunked(100)[0] for tokens in SEQUENCES]
    assert equal(alone, together)
    reversed_ = Paged(plan, SEQUENCES[::-1], keys=keys).chunked(33)[::-1]
    assert equal(reversed_, together)


def test_only_the_wanted_rows_come_back() -> None:
    plan = lower(tiny_decoder(logit_softcap=5.0))
    spans = {s: range(len(tokens)) for s, tokens in enumerate(SEQUENCES)}
    every = Paged(plan, SEQUENCES).step(spans)
    for wanted in ([0, 7, 137], [3], []):
        found = Paged(plan, SEQUENCES).step(spans, wanted)
        assert found.dtype == np.float32
        assert np.array_equal(found, every[wanted])


# --- keys ----------------------------------------------------------------------------------------------------------


def test_keys_are_kept_as_their_kind_holds_them() -> None:
    rows = torch.randn(50, 2, 16, generator=torch.Generator().manual_seed(1)) * 3
    assert torch.equal(reference.stored_keys(rows, "f32"), rows)
    half = reference.stored_keys(rows, "f16")
    assert torch.equal(half, half.half().float())
    assert ((half - rows).abs() <= rows.abs() * 2**-11).all()
    step = rows.abs().amax(-1, keepdim=True) / 127
    stored = reference.stored_keys(rows, "int8")
    assert ((stored - rows).abs() <= step * 0.5001).all()
    codes = stored / step
    assert ((codes - codes.round()).abs() < 1e-4).all(), "whole steps of the head's own scale"
    assert torch.equal(reference.stored_keys(rows[3:4, 1:], "int8"), stored[3:4, 1:])


@pytest.mark.parametrize(("keys", "bound"), [("f16", 2**-11), ("int8", 1 / 127)])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "gpt2"])
def test_narrow_keys_move_the_logits_little(name: str, keys: KeyKind, bound: float, root: Path) -> None:
    """Rounding moves each key and value by at most ``bound`` / 2 of its head's largest (f16: of itself).

    Scores and mixed values move in proportion, in three layers: three times the bound, and as much again for what
    lies between them.
    """
    decoder = load_decoder(oracle.saved(name, root)).decoder
    plan = lower(decoder)
    exact, narrow = Paged(plan, SEQUENCES).chunked(13), Paged(plan, SEQUENCES, keys=keys).chunked(13)
    moved = deviation(np.concatenate(narrow), torch.from_numpy(np.concatenate(exact)))
    assert 0 < moved < 6 * bound


# --- plans from disk -----------------------------------------------------------------------------------------------


def test_a_plan_from_disk_computes_the_same(tmp_path: Path) -> None:
    decoder = round_layers(tiny_decoder(qkv_bias=True), "int4-g64")
    write_plan(lowered(decoder), tmp_path / "x.plan", "key")
    mapped = Paged(read_plan(tmp_path / "x.plan", "key"), SEQUENCES).chunked(50)
    assert equal(mapped, Paged(lower(decoder), SEQUENCES).chunked(50))
