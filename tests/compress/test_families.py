"""Calibrated passes over every family: a chain of parts is the decoder, and what it lets flow serves GPTQ."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from burnish.compress.calibration import Calibration, CalibrationConfig, draw
from burnish.compress.chain import decoder_chain
from burnish.compress.passes.choice import FormatChoice
from burnish.compress.passes.gptq import Gptq
from burnish.compress.passes.rtn import RoundToNearest
from burnish.compress.passes.smoothquant import Smoothing
from burnish.compress.recipe import Recipe
from burnish.compress.statistics import through
from burnish.compress.walk import compress
from burnish.models.checkpoint import load_decoder
from burnish.models.decoder import Decoder
from burnish.models.formats.table import integer_format
from burnish.models.layers.attention import causal_attend
from tests.models import oracle

SAMPLES, LENGTH = 24, 90  # longer than every window
NAMES = list(oracle.VARIANTS)
CHOICE = FormatChoice((integer_format("int3-g32"), integer_format("int8")))  # inner widths take the second


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("oracle")


def model(name: str, root: Path) -> Decoder:
    torch.manual_seed(0)
    return load_decoder(oracle.saved(name, root)).decoder


def tokens(seed: int) -> Tensor:
    return torch.randint(0, 96, (SAMPLES, LENGTH), generator=torch.Generator().manual_seed(seed))


def data() -> Calibration:
    return draw(tokens(1).flatten(), LENGTH, CalibrationConfig(samples=SAMPLES, length=LENGTH))


def logits(decoder: Decoder, samples: Tensor) -> Tensor:
    """Of samples (S, T) -> (S * T, V)."""
    places = torch.arange(LENGTH).repeat(len(samples))
    return decoder.logits(decoder(samples.flatten(), places, causal_attend(len(samples), LENGTH)))


def apart(ours: Tensor, theirs: Tensor) -> float:
    """The outputs' change, as a share of them."""
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("name", NAMES)
def test_the_parts_of_a_chain_are_the_decoder(name: str, root: Path) -> None:
    """Windows, rotations of local layers, learned positions and scaled embeddings included."""
    decoder, samples = model(name, root), tokens(2)
    chain = decoder_chain(decoder)
    hidden = chain.begin(samples)
    for part in chain.parts:
        hidden = through(part, hidden)
    rows = hidden.flatten(0, 1)
    ours = decoder.logits(decoder.norm(rows)) if decoder.config.tied_embeddings else rows
    torch.testing.assert_close(ours, logits(decoder, samples), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_gptq_loses_less_than_rounding_in_every_family(name: str, root: Path) -> None:
    """On text that it was not calibrated with."""
    parent = logits(model(name, root), tokens(2))
    lost = {}
    for recipe in (Recipe("rtn", "", (RoundToNearest(CHOICE),)), Recipe("gptq", "", (Gptq(CHOICE),))):
        decoder = model(name, root)
        records = compress(decoder_chain(decoder), recipe, data() if recipe.needs.data else None)
        assert {record.format for record in records} >= {"int3-g32"}
        lost[recipe.name] = apart(logits(decoder, tokens(2)), parent)
    assert lost["gptq"] < 0.9 * lost["rtn"]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_scaled_is_made_up_for_in_every_family(name: str, root: Path) -> None:
    """Eight bits change little: a scale that went astray would change much."""
    eight = FormatChoice((integer_format("int8"),))
    decoder = model(name, root)
    parent = logits(decoder, tokens(2))
    compress(decoder_chain(decoder), Recipe("x", "", (Smoothing(), RoundToNearest(eight))), data())
    assert apart(logits(decoder, tokens(2)), parent) < 0.05
