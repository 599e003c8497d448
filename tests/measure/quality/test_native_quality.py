"""What the kernels compute is what the reference computes: perplexity of the built-in model, as served and in torch."""

import math

import numpy as np
import pytest

from burnish.compress.chain import decoder_chain
from burnish.compress.recipes import find_recipe
from burnish.compress.walk import compress
from burnish.engine.score import Scorer
from burnish.measure.quality.corpus import read_corpus
from burnish.measure.quality.perplexity import QualityConfig, compare, likeness, pair, prepare, token_losses
from burnish.models.checkpoint import load_decoder
from burnish.models.locate import held_out_text, locate
from burnish.models.tokenizer import load_tokenizer
from burnish.plan.lower import lower
from tests.tiny import tiny_decoder

CONFIG = QualityConfig(max_tokens=6000)


@pytest.mark.parametrize("recipe", [None, "int8", "int4"])
def test_perplexity_is_that_of_the_reference(recipe: str | None) -> None:
    """Within 0.1 %, though the kernels quantize activations and store keys in half precision."""
    path = locate("builtin")
    decoder = load_decoder(path).decoder
    if recipe is not None:
        compress(decoder_chain(decoder), find_recipe(recipe))
    passage = prepare(read_corpus(held_out_text()), load_tokenizer(path), decoder.config, CONFIG)
    served, reference = token_losses(lower(decoder), passage), token_losses(decoder, passage)
    assert abs(math.expm1(served.mean() - reference.mean())) < 0.001
    assert not (served == reference).all(), "two ways, not one"


def test_keys_and_values_of_eight_bits_pass_the_gate_of_weights() -> None:
    """At most 0.2 % of perplexity, measured as weights are: on the same tokens, token by token."""
    path = locate("builtin")
    decoder = load_decoder(path).decoder
    plan = lower(decoder)
    passage = prepare(read_corpus(held_out_text()), load_tokenizer(path), decoder.config, CONFIG)
    found = pair(plan, plan, passage, keys="int8")
    ratio = compare(found.losses, found.parent_losses, passage).loss_ratio
    assert found.divergences.max() > 0, "they are stored otherwise"
    assert ratio.high < 0.002
    assert likeness(found, passage).top1_agreement.value > 0.98


def test_a_scorer_gives_the_rows_asked_for() -> None:
    scorer = Scorer(lower(tiny_decoder()), 40, threads=1)
    tokens = np.arange(7, 47, dtype=np.int32)
    some, every = (scorer(tokens, np.array(rows, np.int32)) for rows in ([3, 39], range(40)))
    assert np.array_equal(some, every[[3, 39]])
