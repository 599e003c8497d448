"""Turns, and a contest with burnish's own worker as it is."""

import json
import sys
from itertools import groupby
from pathlib import Path

import pytest

from benchmarks import models
from benchmarks.contest import Contest, turns
from benchmarks.environments import Unavailable
from benchmarks.peers import LINES, Line, Shape
from benchmarks.protocol import Generate
from benchmarks.worker import Worker
from benchmarks.workloads import WORKLOADS, Workload

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WORK = (
    Workload("prefill", "prefill", "prefill", 1, 16, 1),
    Workload("decode", "decode", "decode", 3, 8, 4),
)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shape:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = tmp_path / "config.json"
    config.write_text(json.dumps(CONFIG), encoding="utf-8")
    return Shape("tiny", "tiny", config)


def test_peers_alternate_when_all_fit() -> None:
    taken = list(turns(LINES[:2], WORKLOADS[:2], 3, all_fit=True))
    assert [turn.line for turn in taken] == [*LINES[:2]] * 6
    assert [turn.workload for turn in taken] == [WORKLOADS[0]] * 6 + [WORKLOADS[1]] * 6


def test_nobody_is_loaded_twice_a_round_when_not_all_fit() -> None:
    fit, do_not_fit = (list(turns(LINES[:3], WORKLOADS, 2, all_fit=all_fit)) for all_fit in (True, False))
    assert [line for line, _ in groupby(do_not_fit, key=lambda turn: turn.line)] == [*LINES[:3]] * 2
    assert set(do_not_fit) == set(fit)
    assert len(do_not_fit) == len(fit)


def test_a_contest_measures_what_runs_and_says_why_the_rest_does_not(tiny: Shape) -> None:
    good, bad = Line("burnish", "int4", "int4-g32", "ours"), Line("burnish", "int4", "int3", "none")
    contest = Contest(tiny, [good, bad], vocab_size=CONFIG["vocab_size"], threads=1, seed=0)  # type: ignore[arg-type]
    measured, refused = contest.run(WORK, 2)
    assert measured.reason is None
    assert {name: len(rates) for name, rates in measured.runs.items()} == {"prefill": 2, "decode": 2}
    assert {name: len(cores) for name, cores in measured.others.items()} == {"prefill": 2, "decode": 2}
    assert all(rate > 0 for rates in measured.runs.values() for rate in rates)
    # four matrices of attention, three of the MLP, the head: 4 bits and a share of a 16-bit scale
    linear = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128) + 256 * 64
    assert measured.read_bytes == linear * 4.5 / 8
    assert refused.reason is not None
    assert "int3" in refused.reason
    assert refused.runs == {}


def test_a_worker_answers_order_after_order_and_stops_in_between(tiny: Shape) -> None:
    worker = Worker(sys.executable, "burnish", f"random:{tiny.config}", "int8", 1)
    try:
        for count in (1, 3):
            told = worker.generate(Generate(prompts=[[3, 4, 5]] * count, new_tokens=4))
            assert [len(times) for times in told.token_s] == [4] * count
            assert all(times == sorted(times) and times[0] > 0 for times in told.token_s)
        with pytest.raises(Unavailable, match="the limit is 512"):
            worker.generate(Generate(prompts=[[3] * 600], new_tokens=4))
    finally:
        worker.close()


def test_a_worker_that_dies_tells_its_last_words(tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho first >&2\necho no such peer >&2\nexit 3\n", encoding="utf-8")
    script.chmod(0o755)
    with pytest.raises(Unavailable, match="died: no such peer"):
        Worker(str(script), "burnish", "x", "y", 1)


def test_a_model_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "FOLDER", tmp_path)
    target = tmp_path / "a" / "b"

    def fail(part: Path) -> None:
        part.mkdir()
        raise Unavailable("half-way")

    with pytest.raises(Unavailable, match="half-way"):
        models._made(target, fail)
    assert not target.exists()
    assert models._made(target, Path.mkdir) == str(target)  # what was half-made is gone
    assert models._made(target, fail) == str(target)  # made once
