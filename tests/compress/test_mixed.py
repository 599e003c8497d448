"""Mixed precision: sensitivities are measured, the model is left alone, the budget goes where it counts."""

import copy

import pytest
import torch

from burnish.compress.calibration import Calibration, CalibrationConfig, draw
from burnish.compress.chain import decoder_chain
from burnish.compress.mixed import choose, measure
from burnish.compress.passes.choice import FormatChoice
from burnish.compress.passes.grid import quantize
from burnish.core.errors import BadSettings
from burnish.models.decoder import Decoder
from burnish.models.formats.base import stored_bytes
from burnish.models.formats.integer import IntegerFormat
from burnish.models.formats.table import FORMATS
from tests.compress.parts import blocks
from tests.tiny import tiny_decoder


def integers(*names: str) -> list[IntegerFormat]:
    found = [FORMATS[name] for name in names]
    assert all(isinstance(one, IntegerFormat) for one in found)
    return found  # type: ignore[return-value]


def data() -> Calibration:
    tokens = torch.randint(0, 256, (4096,), generator=torch.Generator().manual_seed(0))
    return draw(tokens, 64, CalibrationConfig(samples=40, length=64))


def num_weights(decoder: Decoder) -> int:
    return sum(layer.weight.numel() for layer in decoder_chain(decoder).layers.values())


CANDIDATES = FormatChoice(tuple(integers("int2-g32", "int4-g32", "int8")))


def test_the_model_is_left_as_it_was_and_fewer_bits_lose_more() -> None:
    decoder = tiny_decoder(tied_embeddings=False)
    before = copy.deepcopy(decoder.state_dict())
    found = measure(decoder, data(), CANDIDATES)
    assert all(torch.equal(before[name], tensor) for name, tensor in decoder.state_dict().items())
    assert [one.layers for one in found[:2]] == [
        tuple(f"layers.0.attn.{x}_proj" for x in "qkv"),
        ("layers.0.attn.o_proj",),
    ]
    assert found[-1].layers == ("lm_head",)
    for one in found:
        assert [option.format for option in one.options] == ["int2-g32", "int4-g32", "int8"]
        losses = [option.loss for option in one.options]
        assert losses[0] > losses[1] > losses[2] > 0
        assert [option.cost for option in one.options] == sorted(option.cost for option in one.options)


def test_a_layer_made_sensitive_is_given_more_bits() -> None:
    decoder = tiny_decoder()
    with torch.no_grad():
        for layer in (blocks(decoder)[0].mlp.down_proj, blocks(decoder)[1].attn.o_proj):
            layer.weight.mul_(0.01)  # what is written here hardly counts
    found = measure(decoder, data(), CANDIDATES)
    formats = choose(found, 4.5, num_weights(decoder))
    assert formats["layers.0.mlp.down_proj"] == "int2-g32"
    assert formats["layers.1.attn.o_proj"] == "int2-g32"
    assert "int8" in formats.values()
    for first, second in [
        ("attn.q_proj", "attn.k_proj"),
        ("attn.k_proj", "attn.v_proj"),
        ("mlp.gate_proj", "mlp.up_proj"),
    ]:
        assert formats[f"layers.0.{first}"] == formats[f"layers.0.{second}"]


@pytest.mark.parametrize("bits", [3.1, 4.0, 5.5, 9.0])
def test_the_average_is_kept(bits: float) -> None:
    decoder = tiny_decoder()
    formats = choose(measure(decoder, data(), CANDIDATES), bits, num_weights(decoder))
    stored = sum(
        stored_bytes(integers(formats[name])[0], layer.out_features, layer.in_features)
        for name, layer in decoder_chain(decoder).layers.items()
    )
    assert 8 * stored / num_weights(decoder) <= bits


def test_too_few_bits_and_formats_that_fit_nothing_are_refused() -> None:
    decoder = tiny_decoder()
    with pytest.raises(BadSettings, match="The cheapest takes"):
        choose(measure(decoder, data(), CANDIDATES), 1.0, num_weights(decoder))
    with pytest.raises(BadSettings, match=r"q_proj.* fit none of the formats\. Add int8"):
        measure(decoder, data(), FormatChoice(tuple(integers("int4-g128"))))


def test_a_packed_layer_is_refused() -> None:
    decoder = tiny_decoder()
    target = integers("int4-g32")[0]
    layer = blocks(decoder)[0].attn.q_proj
    layer.store(target, target.pack(quantize(layer.dense_weight(), target)))
    with pytest.raises(BadSettings, match="stored as int4-g32 already"):
        measure(decoder, data(), CANDIDATES)
