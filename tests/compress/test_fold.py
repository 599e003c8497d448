"""Folding: whatever scale is moved, the model stays the same function, to the last digits of float64."""

from typing import Any

import pytest
import torch
from torch import Tensor

from burnish.compress.chain import SharedInput, decoder_chain
from burnish.compress.fold import fold
from burnish.compress.passes.awq import ActivationAwareScaling
from burnish.compress.passes.choice import FormatChoice
from burnish.compress.passes.smoothquant import Smoothing
from burnish.compress.statistics import Flow, through
from burnish.models.decoder import Decoder
from burnish.models.formats.integer import IntegerFormat
from burnish.models.layers.attention import causal_attend
from burnish.models.layers.norm import LayerNorm
from tests.compress.parts import blocks
from tests.tiny import tiny_decoder

KINDS: dict[str, dict[str, Any]] = {
    "llama": {"tied_embeddings": False},
    "every head its own values": {"num_kv_heads": 4},
    "norms that store weight - 1": {"norm_offset": 1.0, "norm_outputs": True, "qk_norm": True},
    "layer norms and relu": {"norm": "layer", "gated_mlp": False, "activation": "relu", "mlp_bias": True}
    | {"qkv_bias": True, "out_bias": True},
    "gelu": {"norm": "layer", "gated_mlp": False, "activation": "gelu"},
}
TOKENS = torch.arange(64)


def made(kind: str) -> Decoder:
    return tiny_decoder(seed=11, **KINDS[kind])


def logits(decoder: Decoder) -> Tensor:
    return decoder.logits(decoder(TOKENS, torch.arange(64), causal_attend(1, 64)))


def foldable(decoder: Decoder) -> list[tuple[SharedInput, dict[str, Any]]]:
    chain = decoder_chain(decoder)
    return [(shared, dict(part.layers)) for part in chain.parts for shared in part.inputs if shared.source is not None]


@pytest.mark.parametrize("kind", KINDS)
def test_the_outputs_stay_in_float64(kind: str) -> None:
    decoder = made(kind).double()
    before = logits(decoder)
    generator = torch.Generator().manual_seed(0)
    for shared, layers in foldable(decoder):
        chosen = [layers[name] for name in shared.layers]
        scales = torch.empty(chosen[0].in_features, dtype=torch.float64).log_normal_(0, 1, generator=generator)
        assert shared.source is not None
        weight = chosen[0].weight.clone()
        assert torch.equal(fold(shared.source, chosen, scales), scales)
        assert not torch.allclose(chosen[0].weight, weight)
    assert float((logits(decoder) - before).abs().max() / before.abs().max()) < 1e-10


def test_every_place_that_can_take_a_scale_is_known() -> None:
    counts = {kind: len(foldable(made(kind))) for kind in KINDS}
    # two layers: q/k/v, gate/up and down each; o where values are not shared; a head of its own; down after no gelu
    assert counts == {
        "llama": 7,
        "every head its own values": 8,
        "norms that store weight - 1": 6,
        "layer norms and relu": 6,
        "gelu": 4,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_stored_in_bfloat16_makes_up_for_exactly_what_was_scaled(kind: str) -> None:
    """The norm's weight loses nothing when it is stored, although the scales were no numbers of bfloat16."""
    decoder = made(kind)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.copy_(parameter.bfloat16())
    before = logits(decoder)
    generator = torch.Generator().manual_seed(0)
    for shared, layers in foldable(decoder):
        chosen = [layers[name] for name in shared.layers]
        scales = torch.empty(chosen[0].in_features).log_normal_(0, 1, generator=generator)
        assert shared.source is not None
        fold(shared.source, chosen, scales, stored=torch.bfloat16)
        if hasattr(shared.source, "eps"):
            weight = shared.source.weight
            assert isinstance(weight, Tensor)
            assert torch.equal(weight, weight.bfloat16().float())
    assert float((logits(decoder) - before).abs().max() / before.abs().max()) < 1e-4


def test_a_norm_that_lets_nothing_through_is_left_alone() -> None:
    decoder = tiny_decoder(norm="layer", gated_mlp=False)
    norm = blocks(decoder)[0].attn_norm
    assert isinstance(norm, LayerNorm)
    with torch.no_grad():
        norm.weight[5] = 0.0
    before = logits(decoder)
    shared, layers = foldable(decoder)[0]
    used = fold(norm, [layers[name] for name in shared.layers], torch.full((64,), 4.0), stored=torch.bfloat16)
    assert used[5] == 1.0
    assert norm.weight[5] == 0.0
    assert float((logits(decoder) - before).abs().max() / before.abs().max()) < 1e-4


@pytest.mark.parametrize("made_pass", [Smoothing(), ActivationAwareScaling(FormatChoice((IntegerFormat("x", 4, 32),)))])
@pytest.mark.parametrize("kind", KINDS)
def test_the_passes_that_fold_change_weights_and_not_outputs(
    kind: str, made_pass: Smoothing | ActivationAwareScaling
) -> None:
    decoder = made(kind).double()
    before, weights = logits(decoder), blocks(decoder)[0].attn.q_proj.weight.clone()
    chain = decoder_chain(decoder)
    flow = Flow(hidden=chain.begin(torch.randint(0, 256, (4, 64), generator=torch.Generator().manual_seed(1))))
    for part in chain.parts:
        assert list(made_pass.apply(part, flow)) == []
        flow = flow if part is chain.parts[-1] else Flow(hidden=through(part, flow.hidden))
    assert not torch.equal(blocks(decoder)[0].attn.q_proj.weight, weights)
    # although norms were bent to bfloat16: the scales were bent with them
    assert float((logits(decoder) - before).abs().max() / before.abs().max()) < 1e-10
