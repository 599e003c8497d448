"""What is broken must fail the quality gate that the same model passes unbroken."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from burnish.cli.compress import Asked, write_variant
from burnish.compress.calibration import CalibrationConfig, read_calibration
from burnish.compress.recipes import find_recipe
from burnish.compress.run import apply
from burnish.core.errors import BadSettings
from burnish.measure.quality.corpus import read_corpus
from burnish.measure.quality.gate import judge_loss
from burnish.measure.quality.perplexity import Passage, QualityConfig, compare, prepare, token_losses
from burnish.models.checkpoint import load_decoder
from burnish.models.decoder import Decoder
from burnish.models.formats.integer import IntegerFormat
from burnish.models.layers.linear import Linear
from burnish.models.locate import held_out_text, locate
from burnish.models.tokenizer import load_tokenizer
from burnish.plan.lower import lower
from burnish.plan.ops import Plan

MAX_LOSS = 0.06  # of perplexity, kept by what is not broken
RECIPE = """
about = "four bits with zero points"
[[pass]]
name = "rtn"
formats = ["int4-g32-asym"]
"""


def passage_of(text: Path) -> Passage:
    """The beginning of a text."""
    path = locate("builtin")
    config = QualityConfig(context=256, stride=128, max_tokens=4000)
    return prepare(read_corpus(text), load_tokenizer(path), load_decoder(path).decoder.config, config)


@pytest.fixture(scope="module")
def passage() -> Passage:
    return passage_of(held_out_text())


@pytest.fixture(scope="module")
def parent_losses(passage: Passage) -> NDArray[np.float64]:
    return token_losses(lower(load_decoder(locate("builtin")).decoder), passage)


@pytest.fixture
def decoder(tmp_path: Path) -> Decoder:
    """The built-in model in four bits with zero points."""
    (tmp_path / "mine.toml").write_text(RECIPE)
    return apply(load_decoder(locate("builtin")).decoder, find_recipe(str(tmp_path / "mine.toml"))).decoder


def shuffle_scales(layer: Linear) -> None:
    packed = dict(layer.packed())
    scales = packed["weight_scale"].flatten()
    order = torch.randperm(len(scales), generator=torch.Generator().manual_seed(0))
    layer.store(layer.format, packed | {"weight_scale": scales[order].view_as(packed["weight_scale"])})


def zero(layer: Linear) -> None:
    packed = dict(layer.packed())
    layer.store(layer.format, packed | {"weight_scale": torch.zeros_like(packed["weight_scale"])})


def shift_zero_points(layer: Linear) -> None:
    """Off by one, as when a file's convention is mistaken."""
    assert isinstance(layer.format, IntegerFormat)
    found = layer.format.restore(layer.packed())
    assert found.zeros is not None
    moved = found._replace(zeros=(found.zeros + 1).clamp(max=layer.format.highest))
    layer.store(layer.format, layer.format.pack(moved))


def nothing(_: Linear) -> None:
    pass


def linears_of(decoder: Decoder, word: str) -> list[Linear]:
    return [m for name, m in decoder.named_modules() if isinstance(m, Linear) and word in name]


@pytest.mark.parametrize(
    ("damage", "where", "verdict"),
    [
        (nothing, "layers.", "pass"),
        (shuffle_scales, "layers.", "fail"),
        (zero, "layers.1.mlp.down", "fail"),
        (shift_zero_points, "layers.", "fail"),
    ],
)
def test_what_is_broken_fails(
    decoder: Decoder,
    passage: Passage,
    parent_losses: NDArray[np.float64],
    damage: Callable[[Linear], None],
    where: str,
    verdict: str,
) -> None:
    layers = linears_of(decoder, where)
    assert layers
    for layer in layers:
        damage(layer)
    losses = token_losses(lower(decoder), passage)
    assert judge_loss(compare(losses, parent_losses, passage).loss_ratio, MAX_LOSS) == verdict


class Texts(NamedTuple):
    """Three pieces of a book that share nothing."""

    calibration: Path  # its second half
    budget: Passage  # of its second quarter
    judged: Passage  # of its first


@pytest.fixture(scope="module")
def texts(passage: Passage, tmp_path_factory: pytest.TempPathFactory) -> Texts:
    text, folder = held_out_text().read_text(), tmp_path_factory.mktemp("texts")
    quarter = len(text) // 4
    assert len(load_tokenizer(locate("builtin")).encode(text[:quarter])) > len(passage.tokens)
    (folder / "second.txt").write_text(text[quarter : 2 * quarter])
    (folder / "half.txt").write_text(text[2 * quarter :])
    return Texts(folder / "half.txt", passage_of(folder / "second.txt"), passage)


def calibrated(text: Path, recipe: str, *, strange: bool) -> Plan:
    """The built-in model compressed with a text, or with its tokens as another tokenizer numbers them."""
    decoder = load_decoder(locate("builtin")).decoder
    data = read_calibration(
        text,
        load_tokenizer(locate("builtin")),
        CalibrationConfig(samples=16, length=128),
        vocab_size=decoder.config.vocab_size,
        max_positions=decoder.config.max_positions,
    )
    if strange:
        order = torch.randperm(decoder.config.vocab_size, generator=torch.Generator().manual_seed(0))
        data = replace(data, tokens=order[data.tokens])
    return lower(apply(decoder, find_recipe(recipe), data).decoder)


def test_calibration_of_another_tokenizer_fails(texts: Texts, parent_losses: NDArray[np.float64]) -> None:
    """What the right calibration costs on one text is the budget on another, and neither is calibrated with."""
    parent = lower(load_decoder(locate("builtin")).decoder)
    right, wrong = (calibrated(texts.calibration, "int2-gptq-g64", strange=strange) for strange in (False, True))
    budget = compare(token_losses(right, texts.budget), token_losses(parent, texts.budget), texts.budget)
    for model, verdict in ((right, "pass"), (wrong, "fail")):
        found = compare(token_losses(model, texts.judged), parent_losses, texts.judged)
        assert judge_loss(found.loss_ratio, budget.loss_ratio.high) == verdict


def test_calibration_of_a_greater_vocabulary_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"tokens": [' + ", ".join(str(i * 41 % 5000) for i in range(9000)) + "]}")
    asked = Asked(calibration=tmp_path / "a.jsonl")
    with pytest.raises(BadSettings, match="the model knows"):
        write_variant(tiny_folder, tmp_path / "out", "int4-gptq", lambda *_: None, asked)
    assert not (tmp_path / "out").exists()
