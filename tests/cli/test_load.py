"""burnish load: the figures it prints, the file it writes, how it fails."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.measure.load.fake_server import Fake, fake

QUICK = ("--users", 2, "--requests", 6, "--output-tokens", 3)


@pytest.fixture(scope="module")
def server() -> Iterator[Fake]:
    """Serves in no time."""
    with fake() as running:
        yield running


def test_figures_as_json_and_as_a_table(burnish: Run, server: Fake) -> None:
    words = ("load", server.url, *QUICK, "--limit", "ttft_ms<=60000", "--limit", "p99_e2e_ms<=60000")
    found = burnish(*words, "--json").json
    assert found["dialect"]["model"] == "fake"
    assert (found["traffic"]["users"], found["traffic"]["requests"]) == (2, 6)
    report = found["report"]
    assert (report["num_answered"], report["output_tokens"], report["counted_by"]) == (6, 18, "usage")
    assert report["prompt_tokens"] == pytest.approx(6 * 128, abs=6)
    assert 0 < report["ttft_ms"]["p50"] <= report["ttft_ms"]["p99"] <= report["e2e_ms"]["max"]
    assert report["gap_ms"]["num_values"] == 12
    assert report["goodput_share"] == 1
    assert found["request_limits"] == ["ttft_ms<=60000"]
    [kept] = found["run_limits"]
    assert (kept["limit"], kept["kept"], kept["measured"]) == ("p99_e2e_ms<=60000", True, report["e2e_ms"]["p99"])
    shown = burnish(*words).out
    for word in ("6 of 6 requests answered", "ttft_ms", "queue_ms", "goodput/s", "kept", "the server's"):
        assert word in shown.replace("\n", "")


def test_every_request_is_written_to_a_file(burnish: Run, server: Fake, tmp_path: Path) -> None:
    burnish("load", server.url, "--rate", 50, "--requests", 5, "--output-tokens", 4, "--out", tmp_path / "run.json")
    written = json.loads((tmp_path / "run.json").read_text())
    assert written["traffic"]["rate"] == 50
    assert len(written["requests"]) == written["report"]["num_requests"] == 5
    first = written["requests"][0]
    assert first["due_s"] == 0 <= first["sent_s"] < first["text_s"][0] <= first["text_s"][-1] <= first["ended_s"]
    assert len(first["text_s"]) == first["output_tokens"] == 4


def test_a_missed_limit_on_the_run_fails_it(burnish: Run, server: Fake) -> None:
    missed = burnish("load", server.url, *QUICK, "--limit", "p50_ttft_ms<0", "--json")
    assert missed.code == 3
    assert json.loads(missed.out)["run_limits"][0]["kept"] is False
    assert "limits missed: p50_ttft_ms<0 (it is " in missed.err
    none = burnish("load", server.url, *QUICK, "--limit", "ttft_ms<0", "--json")
    assert none.json["report"]["goodput_share"] == 0


def test_errors_are_shown_and_a_run_of_nothing_else_fails(burnish: Run) -> None:
    with fake(fail_from=2) as broken:  # two are the probe's
        failed = burnish("load", broken.url, *QUICK, "--timeout", 0.5)
    assert failed.code == 1
    assert "none of 6 requests was answered, 2 by " in failed.err
    assert "failed: timeout" in failed.out


def test_a_chat_is_asked_for(burnish: Run, server: Fake) -> None:
    before = len(server.log())
    found = burnish("load", f"{server.url}/v1", *QUICK, "--chat", "--model", "mine", "--json").json
    assert found["report"]["num_answered"] == 6
    asked = server.log()[before:]
    assert {line.path for line in asked} == {"/v1/chat/completions"}
    assert {line.body["model"] for line in asked} == {"mine"}


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ((), "how requests come is missing. Give a rate, a number of users or a trace"),
        (("--rate", 0), "rate 0 is out of range. Use a number above 0"),
        (("--rate", 1, "--users", 1), "users and rate contradict each other. Leave one of them out"),
        (("--rate", 1, "--limit", "ttft<=1"), "unknown name 'ttft'. Did you mean 'ttft_ms'?"),
        (("--rate", 1, "--limit", "p95_tfft_ms<=1"), "Did you mean 'p95_ttft_ms'?"),
        (("--rate", 1, "--limit", "ttft_ms<=1", "--limit", "ttft_ms>=2"), "contradict each other"),
        (("--trace", "nowhere.csv"), "trace 'nowhere.csv' does not exist. Check the path"),
        (("--rate", 1, "--out", "no/where.json"), "output 'no/where.json' lies in no folder that exists"),
        (("--rate", 1, "--timeout", 0), "timeout_s 0 is out of range"),
        (("--rate", "fast"), "'fast'"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(burnish: Run, server: Fake, words: tuple[object, ...], fault: str) -> None:
    assert fault in burnish("load", server.url, *words).complaint


def test_a_broken_line_is_named(burnish: Run, server: Fake, tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,3,4\n2023-11-16 18:15:47,3\n")
    complaint = burnish("load", server.url, "--trace", file).complaint
    assert f"line 3 of '{file}' is broken: '2023-11-16 18:15:47,3'" in complaint


def test_a_server_that_is_not_there(burnish: Run) -> None:
    assert "server 'http://127.0.0.1:9' does not answer" in burnish("load", "http://127.0.0.1:9", "--rate", 1).complaint
    assert "'127.0.0.1' is no URL of a server. Write http://HOST:PORT" in (
        burnish("load", "127.0.0.1", "--rate", 1).complaint
    )
