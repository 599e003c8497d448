"""Quantization-aware training: what it trains is what is stored, and at few bits it beats rounding afterwards."""

import copy

import pytest
import torch

from burnish.compress.chain import decoder_chain
from burnish.compress.distill import Distillation, DistillConfig, divergence, split, write
from burnish.compress.passes.choice import FormatChoice
from burnish.compress.passes.rtn import RoundToNearest
from burnish.compress.qat import FakeQuantized, Student
from burnish.compress.recipe import Recipe
from burnish.compress.walk import compress
from burnish.core.errors import BadSettings
from burnish.models.decoder import Decoder
from burnish.models.formats.integer import IntegerFormat
from burnish.models.formats.table import FORMATS
from burnish.models.golden import golden_logits
from burnish.models.layers.attention import causal_attend
from tests.tiny import tiny_decoder

PROMPTS = ((1, 2, 3, 4, 5), (250, 9), (77,))


def choice(name: str) -> FormatChoice:
    found = FORMATS[name]
    assert isinstance(found, IntegerFormat)
    return FormatChoice((found,))


@pytest.mark.parametrize("name", ["int8", "int4-g32", "int2-g32", "int3-g64-asym", "int4-channel-asym"])
def test_before_training_the_student_is_what_would_be_stored(name: str) -> None:
    decoder = tiny_decoder(tied_embeddings=False)
    student = Student(decoder, choice(name))
    before = golden_logits(decoder, PROMPTS)
    records = student.finish()
    after = golden_logits(decoder, PROMPTS)
    assert abs(before - after).max() < 1e-4 * abs(before).max()
    assert {record.format for record in records} == {name, "int8"}
    assert decoder.lm_head.format.name == "int8"


def test_gradients_reach_weights_and_scales() -> None:
    found = FORMATS["int4-g32"]
    assert isinstance(found, IntegerFormat)
    weight = torch.nn.Parameter(torch.empty(8, 64).normal_(generator=torch.Generator().manual_seed(0)))
    fake = FakeQuantized(weight.detach(), found)
    (fake.unpack({"weight": weight}) * torch.arange(64.0)).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert fake.scales.grad is not None
    assert bool((weight.grad != 0).any())
    assert bool((fake.scales.grad != 0).all())
    raw = weight.detach() / fake.scales.detach().repeat_interleave(32, 1)
    within = (raw > found.lowest) & (raw < found.highest)
    assert torch.allclose(weight.grad[within], torch.arange(64.0).expand(8, -1)[within])  # straight through


@pytest.mark.parametrize("name", ["int2-g32", "int3-g32"])
def test_at_few_bits_training_beats_rounding(name: str) -> None:
    teacher = tiny_decoder(seed=1)
    generator = torch.Generator().manual_seed(0)
    text = split(write(teacher, torch.randint(0, 256, (40, 1), generator=generator), 65, generator).flatten(), 32)

    def apart(model: Decoder) -> float:
        rows, places = text.held_out[:96], torch.arange(32).repeat(3)
        ours, theirs = (one.logits(one(rows, places, causal_attend(3, 32))).detach() for one in (model, teacher))
        return float(divergence(ours, theirs))

    rounded = copy.deepcopy(teacher)
    compress(decoder_chain(rounded), Recipe("x", "", (RoundToNearest(choice(name)),)))
    trained = copy.deepcopy(teacher)
    student = Student(trained, choice(name))
    looks = Distillation(
        student, trained, teacher, text, DistillConfig(steps=60, batch=8, length=32, rate=1e-3, look_every=60)
    ).run()
    student.finish()
    assert looks[-1].divergence < 0.8 * looks[0].divergence
    assert apart(trained) < apart(rounded)


def test_a_packed_layer_is_refused() -> None:
    decoder = tiny_decoder()
    Student(decoder, choice("int8")).finish()
    with pytest.raises(BadSettings, match="stored as int8 already"):
        Student(decoder, choice("int8"))
