"""burnish profile of a model: the table, the object, the trace, and what it refuses."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from tests.cli.conftest import Run

SHORT = ("--prompt-tokens", 8, "--output-tokens", 4, "--repeat", 1, "--threads", 1)


def test_a_model_leaves_a_trace_and_figures_that_agree(burnish: Run, tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    found = burnish("profile", "builtin", *SHORT, "--trace", file, "--machine", "aws-c7a.xlarge", "--json").json
    trace = json.loads(file.read_text())
    assert found["trace"] == str(file)
    summary = found["summary"]
    assert summary == trace["otherData"]["summary"]
    steps = [event for event in trace["traceEvents"] if event.get("cat") == "step"]
    assert len(steps) == summary["num_steps"] == 4
    assert sum(step["dur"] for step in steps) / 1e6 == pytest.approx(summary["steps_s"], rel=1e-3)
    assert all(left["ts"] + left["dur"] <= right["ts"] for left, right in pairwise(steps))
    names = {event["name"] for event in trace["traceEvents"] if event["ph"] == "X"}
    assert names >= {"queue", "prefill", "decode", "schedule", "batch", "forward", "sample", "update", "attend"}
    assert (found["cost"]["machine"], found["cost"]["currency"]) == ("aws-c7a.xlarge", "USD")
    assert found["energy"]["energy"]["parts"]
    assert found["is_whole"]


def test_a_model_is_told_in_a_table(burnish: Run, tmp_path: Path) -> None:
    done = burnish("profile", "builtin", *SHORT, "--steps", 2, "--trace", tmp_path / "t.json")
    assert done.code == 0
    for words in ("attend", "Python's share", "decode tokens/s", "Energy (", "the first 2 steps only"):
        assert words in done.out


def test_random_weights_are_profiled_without_a_tokenizer(burnish: Run, tiny_folder: Path, tmp_path: Path) -> None:
    config = tiny_folder / "config.json"
    found = burnish("profile", f"random:{config}", *SHORT, "--trace", tmp_path / "t.json", "--json").json
    assert found["summary"]["output_tokens"] == 4


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--steps", 0), "steps 0 is too small. Use 1 or more"),
        (("--output-tokens", 1), "output_tokens 1 is too small. Use at least 2"),
        (("--trace", "/nowhere/at/all.json"), "a trace cannot be written to '/nowhere/at/all.json'"),
        (("--machine", "aws-c7a.xlrge"), "Did you mean 'aws-c7a.xlarge'?"),
        (("--prices", "mine.toml"), "--prices 'mine.toml' needs a machine"),
        (("--api-key", "k"), "--api-key is for servers"),
        (("--trace", "/dev/full", "--output-tokens", 2, "--repeat", 1, "--threads", 1), "No space left on device"),
        (("--machine", "a", "--prices", "none.toml"), "settings file 'none.toml' does not exist"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    burnish: Run, tmp_path: Path, words: tuple[object, ...], complaint: str
) -> None:
    given = words if "--trace" in words else (*words, "--trace", tmp_path / "t.json")
    assert complaint in burnish("profile", "builtin", *given).complaint
    assert not (tmp_path / "t.json").exists()


def test_a_key_in_the_environment_is_for_other_commands(
    burnish: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_API_KEY", "k")
    assert burnish("profile", "builtin", *SHORT, "--trace", tmp_path / "t.json").code == 0


@pytest.mark.parametrize(
    ("url", "key", "complaint"),
    [
        ("http://", "k", "address 'http://' names no server"),
        ("http://127.0.0.1:9", "a\nsecret", "the API key cannot be sent in a header"),
        ("http://127.0.0.1:9", "secret\u20ac", "the API key cannot be sent in a header"),
    ],
)
def test_what_cannot_be_asked_is_told_without_the_key(
    burnish: Run, tmp_path: Path, url: str, key: str, complaint: str
) -> None:
    told = burnish("profile", url, "--api-key", key, "--trace", tmp_path / "t.json").complaint
    assert complaint in told
    assert "secret" not in told


@pytest.mark.parametrize("words", [("--prompt-tokens", 4), ("--threads", 1), ("--machine", "aws-c7a.xlarge")])
def test_a_server_takes_no_workload(burnish: Run, tmp_path: Path, words: tuple[object, ...]) -> None:
    done = burnish("profile", "http://127.0.0.1:9", *words, "--trace", tmp_path / "t.json")
    assert f"{words[0]} is for models" in done.complaint
