"""Weights pruned 2:4 in eight bits: stored by five, computed to the same bits, refused where they are not pruned so."""

from pathlib import Path

import numpy as np
import pytest
import torch

from burnish.assemble import open_plan
from burnish.cli.compress import write_variant
from burnish.compress.chain import decoder_chain
from burnish.compress.passes.choice import EIGHT_BITS, FormatChoice
from burnish.compress.passes.gptq import Gptq
from burnish.compress.passes.magnitude import MagnitudePruning
from burnish.compress.passes.rtn import RoundToNearest
from burnish.compress.passes.wanda import Wanda
from burnish.compress.recipe import Recipe
from burnish.compress.run import apply
from burnish.core.errors import BadSettings
from burnish.models.checkpoint import load_decoder, save_checkpoint
from burnish.models.formats.integer import IntegerFormat
from burnish.models.formats.table import integer_format
from burnish.models.golden import golden_logits
from burnish.plan.lower import lower
from burnish.plan.ops import Linear
from tests.compress.test_mixed import data
from tests.conftest import write_byte_tokenizer
from tests.tiny import tiny_decoder

SPARSE = integer_format("int8-2:4")
CHOICE = FormatChoice((SPARSE, EIGHT_BITS))


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "parent"
    save_checkpoint(tiny_decoder(tied_embeddings=False), folder, family="llama", dtype=torch.bfloat16)
    write_byte_tokenizer(folder)
    return folder


def test_an_artifact_of_sparse_weights(parent: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = write_variant(parent, out, "int8-magnitude-2:4", lambda *_: None)
    assert made.weights == "int8-2:4"
    decoder = load_decoder(out).decoder
    layers = decoder_chain(decoder).layers
    assert {layer.format.name for name, layer in layers.items() if name != "lm_head"} == {"int8-2:4"}
    assert layers["lm_head"].format.name == "int8"
    for name, layer in layers.items():
        if name != "lm_head":
            assert ((layer.dense_weight().view(-1, 4) != 0).sum(-1) <= 2).all()
    assert "sparse8" in {op.weight.kind for op in open_plan(out, None).operations if isinstance(op, Linear)}


def test_it_computes_what_the_same_weights_in_int8_do() -> None:
    sparse, dense = (tiny_decoder(tied_embeddings=False) for _ in range(2))
    for decoder, choice in ((sparse, CHOICE), (dense, FormatChoice((EIGHT_BITS,)))):
        apply(decoder, Recipe("x", "", (MagnitudePruning("2:4"), RoundToNearest(choice))))
    prompts = ((1, 2, 3, 4, 5), (250, 9), (77,))
    assert np.array_equal(golden_logits(sparse, prompts), golden_logits(dense, prompts))
    ours, theirs = (decoder_chain(decoder).layers for decoder in (sparse, dense))
    for name, layer in ours.items():
        assert isinstance(layer.format, IntegerFormat)
        other = theirs[name].format
        assert isinstance(other, IntegerFormat)
        assert torch.equal(layer.format.restore(layer.packed()).codes, other.restore(theirs[name].packed()).codes)
    bytes_of = [
        sum(op.weight.data.nbytes for op in lower(d).operations if isinstance(op, Linear)) for d in (sparse, dense)
    ]
    assert bytes_of[0] < 0.75 * bytes_of[1]  # five eighths, but for the head


@pytest.mark.parametrize("method", [Wanda("2:4"), MagnitudePruning("1:4"), MagnitudePruning("1:2")])
def test_gptq_rounds_what_was_pruned(method: Wanda | MagnitudePruning) -> None:
    decoder = tiny_decoder()
    apply(decoder, Recipe("x", "", (method, Gptq(CHOICE))), data())
    assert {layer.format.name for layer in decoder_chain(decoder).layers.values()} == {"int8-2:4"}


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Recipe("x", "", (RoundToNearest(CHOICE),)), 'Put a pruning pass of sparsity = "2:4" before it'),
        (lambda: Recipe("x", "", (MagnitudePruning(0.5), RoundToNearest(CHOICE))), "leaves two of four weights"),
        (lambda: Recipe("x", "", (MagnitudePruning("3:4"), RoundToNearest(CHOICE))), "leaves two of four weights"),
        (
            lambda: Recipe("x", "", (MagnitudePruning("2:4"), RoundToNearest(FormatChoice((SPARSE,), SPARSE)))),
            'for the head, which is not pruned. Use head = "int8"',
        ),
        (
            lambda: Recipe("x", "", (Wanda("2:4"), Gptq(CHOICE)), average_bits=5.0),
            "which measures the model unpruned. Drop one",
        ),
    ],
)
def test_what_is_not_pruned_so_is_refused(make: object, complaint: str) -> None:
    assert callable(make)
    with pytest.raises(BadSettings) as fault:
        make()
    assert complaint in str(fault.value)
