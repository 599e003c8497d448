"""Memory: what is planned covers what is taken, and too much is refused before anything starts."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from burnish.compress.chain import decoder_chain
from burnish.compress.memory import MemoryPlan, plan_memory, refuse_too_much, text_size
from burnish.compress.passes.shrink import Shrink
from burnish.compress.recipes import find_recipe
from burnish.core.errors import BadSettings
from burnish.core.memory import free_bytes, parse_bytes
from burnish.models.checkpoint import load_decoder, save_checkpoint
from tests.tiny import tiny_decoder

TAKEN = """
import sys
from pathlib import Path
from burnish.core.memory import own_bytes
from burnish.models.checkpoint import load_decoder
load_decoder(Path(sys.argv[1]) / "small")  # what libraries take when they are first used
before = own_bytes()
kept = load_decoder(Path(sys.argv[1]) / "large", mapped=sys.argv[2] == "mapped")
print(own_bytes() - before)
"""


def taken_by(folder: Path, how: str) -> int:
    """Bytes that a fresh process takes for the large model: one that has freed much takes that again, unseen."""
    words = [sys.executable, "-c", TAKEN, str(folder), how]
    return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def test_weights_in_their_file_take_nothing_until_they_are_used(tmp_path: Path) -> None:
    decoder = tiny_decoder(hidden_size=512, inner_size=2048, num_layers=4)
    save_checkpoint(tiny_decoder(), tmp_path / "small", family="llama", dtype=torch.bfloat16)
    save_checkpoint(decoder, tmp_path / "large", family="llama", dtype=torch.bfloat16)
    weights = sum(layer.weight.numel() for layer in decoder_chain(decoder).layers.values())
    assert taken_by(tmp_path, "mapped") < 4 * decoder.embed_tokens.weight.numel() + 2**20
    assert taken_by(tmp_path, "copied") > 3 * weights
    mapped, copied = (load_decoder(tmp_path / "large", mapped=is_mapped).decoder for is_mapped in (True, False))
    for name, layer in decoder_chain(mapped).layers.items():
        assert layer.weight.dtype == torch.bfloat16
        assert torch.equal(layer.dense_weight(), decoder_chain(copied).layers[name].dense_weight())


def test_the_parts_of_a_plan() -> None:
    decoder = tiny_decoder()
    chain = decoder_chain(decoder)
    plain, calibrated, learned = (
        plan_memory(chain, decoder, find_recipe(name), text_size(chain, 10_000))
        for name in ("int8", "int4-gptq-g32", "int4-autoround-g32")
    )
    assert plain.tables == 4 * (259 * 64 + 5 * 64)
    assert (plain.data, plain.statistics) == (0, 0)
    layers = chain.layers.values()
    stored = sum(layer.in_features * layer.out_features + 4 * layer.out_features for layer in layers)
    assert plain.finished == stored + 16 * len(layers)  # the shape of each
    assert plain.proof == plain.tables + plain.finished
    assert calibrated.data == 2 * 10_000 * 64 * 4
    assert learned.data == 2 * calibrated.data
    assert calibrated.statistics == 4 * (3 * 64**2 + 128**2) + 5 * 4 * 128**2
    assert learned.statistics == 0
    assert plain.total == sum(plain)


def test_probes_and_the_way_back_of_a_gradient_are_planned() -> None:
    decoder = tiny_decoder()
    chain = decoder_chain(decoder)
    mixed, plain = (
        plan_memory(chain, decoder, find_recipe(name), text_size(chain, 10_000, 128))
        for name in ("mixed-6bit-gptq", "int4-gptq-g32")
    )
    weights = sum(layer.in_features * layer.out_features for layer in chain.layers.values())
    assert (mixed.probes, plain.probes) == (4 * (8 * 16 * 128 * 259 + weights), 0)
    floats = sum(parameter.numel() for parameter in decoder.parameters())
    assert Shrink(inner=0.5).memory_bytes(decoder, 128) == 4 * floats
    of_row = 8 * 259 + 2 * (12 * 64 + 6 * 128)
    assert Shrink(inner=0.5, by="gradient").memory_bytes(decoder, 128) == 4 * (floats + 128 * of_row)


def test_eight_bit_floats_and_a_head_that_stays_dense_are_planned() -> None:
    decoder = tiny_decoder(tied_embeddings=False)
    chain = decoder_chain(decoder)
    plan = plan_memory(chain, decoder, find_recipe("fp8-dynamic"), text_size(chain, 0))
    layers = {name: layer for name, layer in decoder_chain(decoder).layers.items() if name != "lm_head"}
    stored = sum(layer.in_features * layer.out_features + 4 * layer.out_features for layer in layers.values())
    assert plan.finished == stored + 2 * 259 * 64


def test_too_much_is_refused_with_the_figures() -> None:
    plan = MemoryPlan(
        tables=2**20, finished=2**20, data=0, statistics=0, working=2**22, training=0, proof=2**20, libraries=0
    )
    refuse_too_much(plan, 2**20, 2**23)
    with pytest.raises(
        BadSettings, match=r"takes 8 MiB of memory \(tables 1, finished 1, working 4, proof 1, the program 1\), more"
    ):
        refuse_too_much(plan, 2**20, 2**23 - 1)


@pytest.mark.parametrize(("text", "size"), [("8GiB", 2**33), ("500 MB", 500_000_000), ("123", 123)])
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_bytes(text) == size
    assert free_bytes() > 2**20
