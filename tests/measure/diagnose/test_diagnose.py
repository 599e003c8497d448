"""Diagnoses of situations built so that one bottleneck holds, and of what they rest on."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from burnish.core.errors import BadRequest, BadSettings
from burnish.core.types import Request
from burnish.engine.config import EngineConfig
from burnish.engine.engine import Engine
from burnish.kernels.native import native
from burnish.measure.diagnose import roofline
from burnish.measure.diagnose.diagnosis import Diagnosis, diagnose, diagnose_plan
from burnish.measure.diagnose.observe import Lengths, Situation, observe
from burnish.measure.diagnose.pictures import drawn, layers, write_pictures
from burnish.measure.diagnose.pictures import roofline as roofline_picture
from burnish.measure.diagnose.predict import Predictor, Storage, fitting
from burnish.measure.diagnose.roofline import ceilings
from burnish.measure.diagnose.scene import Scene
from burnish.models.checkpoint import random_decoder
from burnish.plan.lower import lower
from burnish.plan.ops import Plan
from tests.engine.test_speculative import FREE
from tests.tiny import tiny_decoder

module: Any = native()
if module is None:
    pytest.skip("installed without native kernels", allow_module_level=True)

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 512,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
}


@pytest.fixture(autouse=True)
def _kept_apart(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of the machine, which has one core here, are measured once for this file, not into the user's cache."""
    folder = tmp_path_factory.getbasetemp() / "limits"
    monkeypatch.setattr(roofline, "cache_folder", lambda: folder)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Plan]:
    """A plan whose weights no cache holds, in any format."""
    config = tmp_path_factory.mktemp("wide") / "config.json"
    config.write_text(json.dumps(CONFIG))
    return cache(lambda weights: lower(random_decoder(config, weights=weights).decoder))


def diagnosed(plan: Plan, situation: Situation, **settings: Any) -> Diagnosis:
    return diagnose_plan(plan, EngineConfig(threads=1, **settings), situation)


def alike(count: int, prompt: int, output: int, concurrency: int = 1) -> Situation:
    return Situation(requests=(Lengths(prompt, output),) * count, concurrency=concurrency)


def test_a_tiny_model_is_bound_by_python() -> None:
    found = diagnosed(lower(tiny_decoder()), alike(4, 8, 64))
    assert found.bottleneck == "python"
    assert found.python_share > 0.4


def test_a_wide_model_that_writes_is_bound_by_memory(wide: Callable[[str], Plan]) -> None:
    found = diagnosed(wide("dense"), alike(2, 4, 24))
    assert found.bottleneck == "memory bandwidth"
    best = found.findings[0]
    assert "int4-g128" in best.remedy
    assert best.gain > 0.8
    assert best.limit_share is not None
    assert 0.2 < best.limit_share < 1.3


def test_a_wide_model_that_reads_is_bound_by_products(wide: Callable[[str], Plan]) -> None:
    found = diagnosed(wide("dense"), alike(2, 512, 2))
    assert found.bottleneck == "compute"
    assert "G a second" in found.findings[0].evidence


def test_requests_that_wait_for_their_turn_are_seen(wide: Callable[[str], Plan]) -> None:
    found = diagnosed(wide("int4"), alike(8, 4, 24, concurrency=8), max_running=1)
    assert found.bottleneck == "batching"
    assert "max_running = 8" in found.findings[0].remedy
    assert found.mean_queue_s > 0


def test_requests_that_wait_for_blocks_are_seen(wide: Callable[[str], Plan]) -> None:
    found = diagnosed(wide("int4"), alike(8, 4, 60, concurrency=8), num_blocks=5, keys="int8")
    assert found.bottleneck == "kv memory"
    assert "num_blocks = 32" in found.findings[0].remedy


def test_what_removes_the_bottleneck_ends_it(wide: Callable[[str], Plan]) -> None:
    found = diagnosed(wide("int4"), alike(8, 4, 24, concurrency=8))
    assert found.bottleneck not in ("batching", "kv memory")


def test_idle_cores_are_seen(wide: Callable[[str], Plan]) -> None:
    plan, one = wide("int4"), ceilings(1)
    twice = replace(
        one,
        threads=2,
        reads=tuple(rate._replace(bytes_per_s=2 * rate.bytes_per_s) for rate in one.reads),
        products=tuple(rate._replace(products_per_s=2 * rate.products_per_s) for rate in one.products),
    )
    scene = Scene(
        plan=plan,
        observed=observe(plan, EngineConfig(threads=1), alike(1, 64, 4)),
        ceilings=one,
        all_cores=twice,
        predictor=Predictor(plan, module, threads=1, max_rows=512),
    )
    [idle] = [finding for finding in diagnose(scene).findings if finding.bottleneck == "parallelism"]
    assert idle.gain == pytest.approx(1.0, abs=0.3)  # Python and nothing else stays as slow as it was
    assert "1 of 2 cores" in idle.evidence


def test_times_sum_to_the_executor_and_limits_lie_below(wide: Callable[[str], Plan]) -> None:
    found = diagnosed(wide("int8"), alike(2, 32, 16))
    inside = sum(time.seconds for time in found.operations)
    assert inside == pytest.approx(found.seconds * (1 - found.python_share), rel=0.1)
    assert sum(time.limit_s for time in found.operations) < 1.5 * inside
    assert all(time.reading_s <= time.seconds for time in found.operations)
    assert {time.stage for time in found.operations} == {"prefill", "decode"}


def test_lengths_that_vary_cost_nothing_here() -> None:
    situation = Situation(requests=(Lengths(90, 2), Lengths(10, 2)), concurrency=2)
    padding = [one for one in diagnosed(lower(tiny_decoder()), situation).findings if one.bottleneck == "padding"]
    assert [one.gain for one in padding] == [0.0]
    assert "44% padding" in padding[0].evidence  # 80 of 180 rows


def test_a_preempted_request_is_counted() -> None:
    config = EngineConfig(threads=1, num_blocks=6, block_size=4)
    seen = observe(lower(tiny_decoder()), config, alike(3, 4, 12, concurrency=3))
    assert seen.num_preemptions > 0
    assert seen.peak_blocks == 6
    assert len(seen.queue_s) == 3
    assert seen.output_tokens == 36
    assert 1 < seen.mean_running <= 3


def test_prompts_are_stretches_of_a_text_and_drafts_save_steps() -> None:
    text, prompts = [5, 6, 7, 8, 9], list[tuple[int, ...]]()

    class Heard(Engine):
        def add(self, request: Request) -> None:
            prompts.append(request.prompt)
            super().add(request)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("burnish.measure.diagnose.observe.Engine", Heard)
        patch.setattr("burnish.engine.engine.measure_costs", lambda *_: FREE)
        plan = lower(tiny_decoder())
        seen = observe(plan, EngineConfig(threads=1), alike(2, 12, 100), text=text, draft=plan)
    for prompt in prompts[1:]:  # the first warms up
        assert len(prompt) == 12
        assert all(b == 5 + (a - 4) % 5 for a, b in pairwise(prompt))
    assert seen.output_tokens == 200
    assert len(seen.profile.steps) < 100, "a draft model that is the model itself is always right"


def test_answers_are_drawn_at_the_temperature_asked_for() -> None:
    with pytest.raises(BadRequest, match="temperature"):
        Situation(requests=(Lengths(1, 1),), temperature=-1.0)


def test_limits_of_the_machine_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "cache_folder", lambda: tmp_path / "new")
    first = ceilings(1)
    monkeypatch.setattr(roofline, "_measure", lambda *_: pytest.fail("measured again"))
    assert ceilings(1) == first
    (tmp_path / "new" / "ceilings-1.json").write_text("{")
    with pytest.raises(pytest.fail.Exception):
        ceilings(1)


def test_a_prediction_follows_bits_and_rows(wide: Callable[[str], Plan]) -> None:
    plan = wide("dense")
    predictor = Predictor(plan, module, threads=1, max_rows=64)
    product = next(op for op in plan.operations if getattr(op, "weight", None) is not None and hasattr(op, "column"))
    assert predictor.speed_up(product, Storage("int4", 128), 1) > 1.5  # type: ignore[arg-type]
    assert predictor.growth(product, 1, 64) > 3  # type: ignore[arg-type]
    assert fitting(Storage("int4", 128), 96) == Storage("int4", 32)
    assert fitting(Storage("int4", 128), 40) == Storage("int8")


def test_pictures_are_drawn_and_stay_the_same(wide: Callable[[str], Plan], tmp_path: Path) -> None:
    plan = wide("int8")
    found = diagnosed(plan, alike(1, 32, 8))
    written = write_pictures(found, plan.num_bytes, tmp_path / "out")
    assert sorted(path.name for path in written) == ["layers.png", "layers.svg", "roofline.png", "roofline.svg"]
    svg = drawn(roofline_picture(found, plan.num_bytes))
    assert svg == (tmp_path / "out" / "roofline.svg").read_bytes()
    for words in (b"int8", b"GB/s", b"up, decode", b"attention, prefill"):
        assert words in svg
    assert b"layer 2" in drawn(layers(found))
    assert drawn(layers(found), "png").startswith(b"\x89PNG")
    with pytest.raises(BadSettings, match=r"kind 'gif' is not drawn\. Use svg or png"):
        drawn(layers(found), "gif")
    (tmp_path / "file").write_text("")
    with pytest.raises(BadSettings, match="cannot be written"):
        write_pictures(found, plan.num_bytes, tmp_path / "file")


def test_a_situation_in_which_nothing_happens_is_refused() -> None:
    with pytest.raises(BadSettings, match="no requests"):
        Situation(requests=())
    with pytest.raises(BadSettings, match="concurrency 0"):
        alike(1, 1, 1, concurrency=0)
    with pytest.raises(BadRequest):
        observe(lower(tiny_decoder()), EngineConfig(threads=1), alike(1, 5000, 4))
