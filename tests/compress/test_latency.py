"""A budget of time: products are measured on the native kernels, and what was measured is kept and told."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from burnish.cli.compress import Asked, write_variant
from burnish.compress import latency, run
from burnish.compress.calibration import CalibrationConfig
from burnish.compress.chain import decoder_chain
from burnish.compress.journal import Journal
from burnish.compress.latency import Costs, Product, measure_costs
from burnish.compress.passes.choice import EIGHT_BITS, FormatChoice
from burnish.compress.passes.imatrix import ImportanceRounding
from burnish.compress.recipe import Recipe
from burnish.compress.recipes import find_recipe
from burnish.compress.run import apply, check
from burnish.core.errors import BadSettings
from burnish.kernels.native import native
from burnish.models.checkpoint import save_checkpoint
from burnish.models.decoder import Decoder
from burnish.models.formats.base import WeightFormat
from burnish.models.formats.table import get, integer_format
from burnish.registry.artifact import read_manifest
from tests.compress.test_journal import KEY, Killed
from tests.compress.test_mixed import data
from tests.conftest import write_byte_tokenizer
from tests.tiny import tiny_decoder

if native() is None:
    pytest.skip("installed without native kernels", allow_module_level=True)

CHOICE = FormatChoice(tuple(integer_format(name) for name in ("int2-g32", "int4-g32", "int8")))
PRICES = {"int2-g32": 30, "int4-g32": 60, "int8": 100, "dense": 200}
Wanted = Iterable[tuple[Product, WeightFormat]]
Told = Callable[[Mapping[str, int]], None]


def recipe(share: float, **more: Any) -> Recipe:
    return Recipe("timed", "", (ImportanceRounding(CHOICE),), latency_share=share, **more)


@pytest.fixture
def priced(monkeypatch: pytest.MonkeyPatch) -> Told:
    """Says what a weight costs in each format, instead of measuring."""

    def told(prices: Mapping[str, int]) -> None:
        def costs(wanted: Wanted, num_weights: int, module: ModuleType) -> Costs:
            found = {(product, one.name): product.outputs * prices[one.name] for product, one in wanted}
            return Costs(found, threads=1, body="none")

        monkeypatch.setattr(run, "measure_costs", costs)

    return told


def formats(decoder: Decoder) -> dict[str, str]:
    return {name: layer.format.name for name, layer in decoder_chain(decoder).layers.items()}


def test_products_are_measured_once_for_every_kernel() -> None:
    module = native()
    assert module is not None
    small, large = Product(64, 64), Product(1024, 512)
    names = ["int8", "int4-g32", "int3-g32", "int4-g32-asym", "int8-2:4", "dense"]
    names += ["int4-channel", "int4-channel-asym", "int8-channel-asym"]
    costs = measure_costs([(p, get(n)) for p in (small, large) for n in names], 1 << 20, module, rounds=3)
    assert all(costs.of(p, get(n)) > 0 for p in (small, large) for n in names)
    for product in (small, large):
        assert costs.of(product, get("int3-g32")) == costs.of(product, get("int4-g32")), "they run as four bits"
    record = costs.record(0.5, [(small, "int4-g32"), (large, "int8")])
    assert len(record.costs) == 2 * len(names)
    whole = costs.of(small, EIGHT_BITS) + costs.of(large, EIGHT_BITS)
    assert record.reached_share == (costs.of(small, get("int4-g32")) + costs.of(large, EIGHT_BITS)) / whole


@pytest.mark.parametrize("share", [0.31, 0.5, 0.8, 1.0])
def test_the_share_is_kept_and_more_time_loses_less(priced: Told, share: float) -> None:
    priced(PRICES)
    decoder = tiny_decoder(tied_embeddings=False)
    made = apply(decoder, recipe(share), data())
    assert made.latency is not None
    assert made.latency.reached_share <= share
    assert made.latency.allowed_share == share
    products = {(cost.outputs, cost.inputs) for cost in made.latency.costs}
    assert products == {(128, 64), (64, 64), (256, 64), (64, 128), (259, 64)}, "q, k, v are one, gate and up too"
    if share == 1.0:
        assert set(formats(decoder).values()) == {"int8"}


def test_a_share_that_no_format_reaches_is_told_in_one_line(priced: Told) -> None:
    priced(PRICES)
    with pytest.raises(BadSettings) as fault:
        apply(tiny_decoder(), recipe(0.2), data())
    assert "latency_share = 0.2 cannot be reached, the fastest formats take 0.300 of int8 here" in str(fault.value)
    assert "\n" not in str(fault.value)


def test_without_native_kernels_it_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "native", lambda: None)
    with pytest.raises(BadSettings, match=r"there are none\. Install again with a C\+\+ compiler") as fault:
        check(tiny_decoder(), recipe(0.7), has_data=True)
    assert "\n" not in str(fault.value)


def test_a_killed_run_keeps_the_formats_it_had_settled(priced: Told, tmp_path: Path) -> None:
    """Measured again, times would be others, and so would be the formats."""

    def killed(done: int, total: int) -> None:
        if (done, total) == (9, 15):
            raise Killed

    priced(PRICES)
    whole = tiny_decoder(tied_embeddings=False)
    expected = apply(whole, recipe(0.6), data())
    with pytest.raises(Killed):
        apply(
            tiny_decoder(tied_embeddings=False),
            recipe(0.6),
            data(),
            journal=Journal(tmp_path / "j", KEY),
            progress=killed,
        )
    priced({**PRICES, "int2-g32": 59, "int4-g32": 1000})
    again = tiny_decoder(tied_embeddings=False)
    made = apply(again, recipe(0.6), data(), journal=Journal(tmp_path / "j", KEY))
    assert formats(again) == formats(whole)
    assert (made.latency, made.records) == (expected.latency, expected.records)


def test_kept_layers_are_part_of_the_time(priced: Told) -> None:
    priced(PRICES)
    decoder = tiny_decoder(tied_embeddings=False)
    kept = recipe(0.9, keep=("lm_head", "layers.0.attn.q_proj"), keep_format="dense")
    made = apply(decoder, kept, data())
    found = formats(decoder)
    assert (found["lm_head"], found["layers.0.attn.q_proj"]) == ("dense", "dense")
    assert found["layers.0.attn.k_proj"] == found["layers.0.attn.v_proj"] != "dense"
    assert made.latency is not None
    assert made.latency.reached_share <= 0.9


def test_the_manifest_tells_what_was_measured(tmp_path: Path) -> None:
    save_checkpoint(tiny_decoder(hidden_size=128, tied_embeddings=False), tmp_path / "model", family="llama")
    write_byte_tokenizer(tmp_path / "model")
    (tmp_path / "mine.toml").write_text(
        'latency_share = 5\n[[pass]]\nname = "gptq"\nformats = ["int4-g32", "int8"]\n'  # of so small a model
    )
    text = tmp_path / "text.txt"
    text.write_text("".join(f"Line {i} has {i * i % 97} foxes.\n" for i in range(200)))
    asked = Asked(calibration=text, sampling=CalibrationConfig(samples=40, length=64))
    write_variant(tmp_path / "model", tmp_path / "out", str(tmp_path / "mine.toml"), lambda *_: None, asked)
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    assert manifest.latency is not None
    assert manifest.latency.allowed_share == 5
    assert {cost.format for cost in manifest.latency.costs} == {"int4-g32", "int8"}
    assert {record.format for record in manifest.records} == {"int8"}


def test_the_named_recipe_says_its_share() -> None:
    assert find_recipe("mixed-latency70-gptq").latency_share == 0.7
