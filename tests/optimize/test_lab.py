"""Processes that are watched, and a lab that goes on where it was."""

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from burnish.cli.tried import TRIED
from burnish.core.errors import BadRequest, BurnishError, OutOfMemory, OutOfTime
from burnish.engine.config import EngineConfig
from burnish.measure.diagnose.observe import Lengths, Situation
from burnish.models.locate import held_out_text, locate
from burnish.optimize.candidates import Candidate
from burnish.optimize.lab import Bench, ProcessLab
from burnish.optimize.search import Reach
from burnish.optimize.trial import LEAST_S, Serving, run_watched, serve

PLENTY = 4 << 30
SHORT = Situation(requests=(Lengths(8, 4),) * 2, concurrency=2)


def python(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_what_a_command_prints_is_told() -> None:
    assert run_watched(python("print('x')"), timeout_s=60, memory_bytes=PLENTY) == "x\n"


def test_a_command_that_takes_too_long_is_ended() -> None:
    begun = time.monotonic()
    with pytest.raises(OutOfTime, match=r"longer than 1 s\. Allow more time"):
        run_watched(python("import time; time.sleep(60)"), timeout_s=1, memory_bytes=PLENTY)
    assert time.monotonic() - begun < 10


def test_a_command_that_takes_too_much_memory_is_ended() -> None:
    greedy = "import time; held = [bytes(10**7) + bytes([1]) for _ in range(60)]; time.sleep(60)"
    with pytest.raises(OutOfMemory, match="more than 100 MiB"):
        run_watched(python(greedy), timeout_s=60, memory_bytes=100 << 20)


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(BurnishError, match=r"^no such thing$"):
        run_watched(python("raise SystemExit('burnish: no such thing')"), timeout_s=60, memory_bytes=PLENTY)


def test_a_model_is_served_in_a_process_of_its_own() -> None:
    found = serve(Serving(model="builtin", situation=SHORT), TRIED, timeout_s=120, memory_bytes=PLENTY)
    times = len(found.ttft_s) // 2
    assert times > 1, "a situation this short is served again"
    assert found.seconds >= LEAST_S
    assert (found.input_tokens, found.output_tokens) == (16 * times, 8 * times)
    assert len(found.ttft_s) == len(found.tpot_s) == len(found.e2e_s) == 2 * times
    assert all(first <= whole for first, whole in zip(found.ttft_s, found.e2e_s, strict=True))
    assert found.prefill_s + found.decode_s <= found.seconds
    assert found.peak_rss_bytes > 20e6
    figures = found.figures()
    assert figures["p50_ttft_ms"] <= figures["p95_ttft_ms"]
    assert figures["tokens_per_s"] == pytest.approx(8 * times / (found.prefill_s + found.decode_s))


def test_a_draft_model_is_opened_too(tmp_path: Path) -> None:
    np.save(tmp_path / "text.npy", np.arange(40, 60))
    plain = Serving(model="builtin", situation=SHORT, text=str(tmp_path / "text.npy"))
    drafted = replace(plain, config=EngineConfig(draft="builtin-draft"))
    alone, both = (serve(order, TRIED, timeout_s=120, memory_bytes=PLENTY) for order in (plain, drafted))
    assert both.peak_rss_bytes > alone.peak_rss_bytes + 2e6
    missing = replace(plain, config=EngineConfig(draft="elsewhere"))
    with pytest.raises(BurnishError, match="elsewhere"):
        serve(missing, TRIED, timeout_s=120, memory_bytes=PLENTY)


def test_a_fault_crosses_the_border() -> None:
    far = Situation(requests=(Lengths(5000, 4),))
    with pytest.raises(BadRequest, match="5000"):
        serve(Serving(model="builtin", situation=far), TRIED, timeout_s=120, memory_bytes=PLENTY)


def lab(folder: Path, **conditions: Any) -> ProcessLab:
    bench = Bench(
        model=locate("builtin"),
        model_mb=11.5,
        text=held_out_text(),
        tokens=range(1024),
        situation=SHORT,
        config=EngineConfig(threads=1),
        compress=lambda recipe, out: [
            *(sys.executable, "-m", "burnish.cli.main", "compress", "builtin", str(out), "--recipe", recipe)
        ],
        tried_module=TRIED,
        price_per_hour=3.6,
        memory_bytes=PLENTY,
    )
    return ProcessLab(bench, folder, {"seed": 0} | conditions, time_limit_s=300)


def test_what_was_found_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, int8 = Candidate(recipe=None), Candidate(recipe="int8")
    first = lab(tmp_path / "work")
    size = first.make(int8)
    losses = {one.name: first.losses(one, Reach.LITTLE) for one in (own, int8)}
    figures = first.serve(int8, 1)
    assert 5 < size < 9
    assert len(losses["int8"]) == 1024, "a text this short is read as a whole"
    assert 0 < float(np.abs(losses["int8"] - losses["as it is"]).mean()) < 0.1
    assert figures["cost_per_million"] == pytest.approx(1e3 / figures["tokens_per_s"])

    monkeypatch.setattr("burnish.optimize.lab.run_watched", lambda *_, **__: pytest.fail("made again"))
    monkeypatch.setattr("burnish.optimize.trial.run_watched", lambda *_, **__: pytest.fail("measured again"))
    again = lab(tmp_path / "work")
    assert again.make(int8) == size
    assert (again.losses(int8, Reach.ALL) == losses["int8"]).all()
    assert again.serve(int8, 1) == figures
    with pytest.raises(pytest.fail.Exception):
        again.serve(int8, 2)


def test_figures_of_other_conditions_are_forgotten(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "conditions.json").write_text('{"seed": 0}')
    (tmp_path / "work" / "rounds.json").write_text("{}")
    lab(tmp_path / "work")
    assert (tmp_path / "work" / "rounds.json").exists()
    lab(tmp_path / "work", text="another")
    assert not (tmp_path / "work" / "rounds.json").exists()


@pytest.mark.slow
def test_a_damaged_artifact_is_made_again(tmp_path: Path) -> None:
    first = lab(tmp_path / "work")
    first.make(Candidate(recipe="int8"))
    weights = first.path(Candidate(recipe="int8")) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    lab(tmp_path / "work").make(Candidate(recipe="int8"))
    assert weights.read_bytes() == whole


def test_stages_leave_time_for_what_comes_after(tmp_path: Path) -> None:
    now = [0.0]
    found = ProcessLab(lab(tmp_path / "a")._bench, tmp_path / "work", {}, time_limit_s=100, clock=lambda: now[0])
    found.until(0.5)
    assert found.has_time()
    now[0] = 51.0
    assert not found.has_time()
    assert found.seconds_left == 49.0
    with pytest.raises(OutOfTime, match="no time was left"):
        found.losses(Candidate(recipe=None), Reach.ALL)
    found.until(1.0)
    assert found.has_time()
