"""Load, held against a server in a process of its own that logs what it did and when.

Instants of both processes are of one clock. Medians are compared: on a busy machine the scheduler delays single ones.
"""

import json
import socket
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from burnish.core.errors import BadRequest, BadSettings, BurnishError, NotFound, Unauthorized, Unavailable
from burnish.measure.limits import parse_limits
from burnish.measure.load.arrivals import Traffic, schedule
from burnish.measure.load.completions import Dialect
from burnish.measure.load.latency import REQUEST_FIGURES, Record, summarise
from burnish.measure.load.probe import find_target
from burnish.measure.load.prompts import PromptWriter
from burnish.measure.load.run import Run, Target, run_load
from tests.measure.load.fake_server import Fake, Served, fake


class Both(NamedTuple):
    """What the client noted of a request, and what the server did."""

    record: Record
    served: Served


def measured(server: Fake, traffic: Traffic, **options: Any) -> tuple[Run, list[Both]]:
    """Run the load and pair its records with the log, by their prompts."""
    target = find_target(server.url, **options)
    run = run_load(target, traffic)
    served = {line.body.get("prompt", line.body.get("messages", [{}])[0].get("content")): line for line in server.log()}
    prompts = [
        target.writer.write(a, n, seed=traffic.seed)
        for n, (a, _) in enumerate(zip(schedule(traffic), run.records, strict=False))
    ]
    return run, [Both(record, served[prompt]) for record, prompt in zip(run.records, prompts, strict=True)]


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("traffic", [{"users": 1, "requests": 8}, {"rate": 12.0, "requests": 24}])
def test_latencies_are_those_the_server_had(traffic: dict[str, Any], chat: bool) -> None:
    """Every figure is within 2 ms or 2 % of the server's own in one of eight runs: an error of ours would be in all."""
    left = set(FIGURES)
    with fake(ttft_s=0.05, gap_s=0.02) as server:
        for seed in range(8):
            asked = Traffic(prompt_tokens=51, output_tokens=12, seed=seed, **traffic)
            run, both = measured(server, asked, chat=chat)
            check_counts(run, both)
            left -= {name for name in left if is_right(name, both)}
            if not left:
                return
    pytest.fail(f"wrong in every run: {left}")


FIGURES = ("text", "gaps", "ttft_ms", "e2e_ms", "tpot_ms")


def is_right(name: str, both: list[Both]) -> bool:
    """Whether half is right: on a busy machine the scheduler delays the client, or the server, at will."""
    pairs = [pair for one in both for pair in told(name, one)]
    wrong = [abs(ours - theirs) / max(2.0, 0.02 * theirs) for ours, theirs in pairs]
    return statistics.median(wrong) < 1


def told(name: str, both: Both) -> list[tuple[float, float]]:
    """Figures of a request in ms: (as the client noted, as the server did). Of its texts, how late they were noted."""
    record, done = both.record, replace(both.record, text_s=tuple(both.served.sent_s))
    if name == "text":
        return [(1e3 * (noted - sent), 0.0) for noted, sent in zip(record.text_s, done.text_s, strict=True)]
    if name == "gaps":
        return list(zip(record.gaps_ms(), done.gaps_ms(), strict=True))
    ours, theirs = record.figures()[name], done.figures()[name]
    assert ours is not None
    assert theirs is not None
    return [(ours, theirs)]


def check_counts(run: Run, both: list[Both]) -> None:
    report = summarise(run.records)
    assert (report.num_answered, report.counted_by, report.output_tokens) == (len(both), "usage", 12 * len(both))
    assert report.prompt_tokens == 51 * len(both)
    for record, served in both:
        assert len(record.text_s) == len(served.sent_s) == 12


def test_an_open_loop_sends_when_due() -> None:
    traffic = Traffic(rate=40.0, requests=60, output_tokens=2, seed=5)
    with fake(ttft_s=0.3) as server:  # far longer than the gaps between requests
        run, both = measured(server, traffic)
    due_s = [record.due_s - run.records[0].due_s for record in run.records]
    planned = [arrival.at_s for arrival in schedule(traffic)]
    assert due_s == pytest.approx([at_s - planned[0] for at_s in planned])
    assert all(record.sent_s >= record.due_s for record in run.records)
    assert statistics.median(record.sent_s - record.due_s for record in run.records) < 0.01
    assert statistics.median(served.came_s - record.due_s for record, served in both) < 0.02


@pytest.mark.parametrize("max_in_flight", [512, 1])
def test_a_stall_is_paid_by_all_whom_it_kept_waiting(max_in_flight: int) -> None:
    """Coordinated omission: whether they waited in the server or had not even been sent."""
    traffic = Traffic(rate=20.0, requests=20, output_tokens=1, seed=2)
    with fake(stalls_s=1.0) as server:
        run, both = measured(server, traffic, max_in_flight=max_in_flight)
    report = summarise(run.records)
    stall_end_s = min(served.sent_s[0] for _, served in both)
    assert sum(record.due_s < stall_end_s for record in run.records) >= 12
    for record, served in both:
        found = record.figures()["ttft_ms"]
        assert found is not None
        assert found >= 1e3 * (served.sent_s[0] - record.due_s)
        assert found >= 1e3 * (stall_end_s - record.due_s)
    assert report.ttft_ms is not None
    assert report.queue_ms is not None
    assert report.ttft_ms.p50 > 250
    since_sent = statistics.median(record.text_s[0] - record.sent_s for record in run.records)
    if max_in_flight == 1:  # what counting from the sending would have hidden
        assert report.queue_ms.p50 > 250
        assert since_sent < 0.1
    else:
        assert report.queue_ms.p50 < 50


def test_users_wait_for_their_answers() -> None:
    with fake(ttft_s=0.03) as server:
        run, _ = measured(server, Traffic(users=3, requests=12, output_tokens=2))
    assert most_at_once(run.records) == 3
    ordered = sorted(run.records, key=lambda record: record.sent_s)
    assert [record.sent_s for record in ordered[:3]] == pytest.approx([ordered[0].sent_s] * 3, abs=0.05)
    ends = sorted(record.ended_s for record in run.records)
    assert all(record.sent_s >= ends[n] for n, record in enumerate(ordered[3:]))


def test_an_open_loop_keeps_to_its_most_in_flight() -> None:
    with fake(ttft_s=0.1) as server:
        run, _ = measured(server, Traffic(rate=500.0, requests=12, output_tokens=1), max_in_flight=4)
    assert most_at_once(run.records) == 4


def most_at_once(records: tuple[Record, ...]) -> int:
    return max(sum(r.sent_s <= record.sent_s < r.ended_s for r in records) for record in records)


def test_users_stop_after_their_seconds() -> None:
    with fake(ttft_s=0.05) as server:
        run, _ = measured(server, Traffic(users=2, seconds=0.5, output_tokens=1))
    assert 4 <= len(run.records) <= 20
    start_s = run.records[0].sent_s
    assert all(record.sent_s < start_s + 0.5 and record.error is None for record in run.records)


def test_goodput_counts_those_within_every_limit() -> None:
    """The first of ten requests meets a stall of a second."""
    with fake(stalls_s=1.0) as server:
        run, _ = measured(server, Traffic(users=1, requests=10, output_tokens=2))
    report = summarise(run.records, parse_limits(["ttft_ms<=700"], REQUEST_FIGURES))
    assert report.goodput_share == pytest.approx(0.9)
    assert report.goodput_per_s == pytest.approx(0.9 * report.requests_per_s)


def test_errors_are_counted_by_their_kind() -> None:
    with fake(fail_from=2 + 4) as server:  # two are the probe's
        run, _ = measured(server, Traffic(users=4, requests=16, output_tokens=3), timeout_s=1.0)
    report = summarise(run.records)
    assert (report.num_answered, report.error_share) == (4, 0.75)
    assert {(error.kind, error.num_requests, error.example) for error in report.errors} == {
        ("http 429", 3, "too many"),
        ("error event", 3, "the engine died"),
        ("cut off", 3, "the stream ended without its end"),
        ("timeout", 3, "no end after 1 s"),
    }
    assert report.output_tokens == 4 * 3, "what broke off is not counted"


def test_a_server_that_is_gone() -> None:
    with socket.socket() as taken:  # bound, not listening
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        run = run_load(Target(url, Dialect(model="m"), PromptWriter()), Traffic(rate=100.0, requests=5))
        with pytest.raises(BadSettings, match=r"does not answer: .*Start it, or correct the address"):
            find_target(url)
    assert [(error.kind, error.num_requests) for error in summarise(run.records).errors] == [("no connection", 5)]


def test_a_server_that_closes_idle_connections() -> None:
    with fake(closes=True) as server:
        run, _ = measured(server, Traffic(users=2, requests=10, output_tokens=2))
    assert summarise(run.records).num_answered == 10


@pytest.mark.parametrize("refused", [(), ("ignore_eos",), ("stream_options",), ("ignore_eos", "stream_options")])
def test_a_server_is_asked_what_it_takes(refused: tuple[str, ...]) -> None:
    with fake(refuses=refused) as server:
        target = find_target(server.url)
        run = run_load(target, Traffic(users=1, requests=2, output_tokens=4))
    assert target.dialect.model == "fake"
    assert target.dialect.takes_ignore_eos == ("ignore_eos" not in refused)
    assert target.dialect.takes_usage == ("stream_options" not in refused)
    report = summarise(run.records)
    assert report.output_tokens == 8
    assert report.counted_by == ("usage" if target.dialect.takes_usage else "pieces")
    assert (report.prompt_tokens is None) == ("stream_options" in refused)


def test_a_server_without_usage_is_counted_by_its_pieces() -> None:
    with fake(usage=False) as server:
        target = find_target(server.url)
        run = run_load(target, Traffic(users=1, requests=2, output_tokens=4))
    assert target.writer == PromptWriter()
    assert (summarise(run.records).counted_by, summarise(run.records).output_tokens) == ("pieces", 8)


@pytest.mark.parametrize(
    ("manner", "kind", "fault"),
    [
        ({"models_status": 401}, Unauthorized, "status 401: .*Give its key with --api-key"),
        ({"models_status": 404}, BadSettings, "lists no models. Name one with --model"),
        ({"models_status": 503}, Unavailable, "status 503"),
        ({"refuses": ("max_tokens",)}, BadRequest, "status 400: unknown parameter max_tokens"),
        ({"fail_from": 0}, Unavailable, "the engine died"),
    ],
)
def test_a_server_that_cannot_be_measured(manner: dict[str, Any], kind: type[BurnishError], fault: str) -> None:
    with fake(**manner) as server, pytest.raises(kind, match=fault):
        find_target(server.url)


def test_a_server_without_the_endpoint() -> None:
    with fake() as server, pytest.raises(NotFound, match="status 404: no /nowhere/v1/completions"):
        find_target(f"{server.url}/nowhere", model="m")


def test_shared_prefixes_reach_the_server(tmp_path: Path) -> None:
    rows = [
        {"timestamp": 0, "input_length": 1400, "output_length": 1, "hash_ids": [1, 2, 3]},
        {"timestamp": 50, "input_length": 1500, "output_length": 2, "hash_ids": [1, 2, 4]},
        {"timestamp": 90, "input_length": 1500, "output_length": 3, "hash_ids": [5, 6, 7]},
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with fake() as server:
        run, both = measured(server, Traffic(trace=tmp_path / "t.jsonl", speed=2.0))
    one, two, other = (served.body["prompt"].split() for _, served in both)
    assert one[:512] == two[:512], "two blocks of 512 tokens, two tokens a word"
    assert one[512:520] != two[512:520]
    assert one[:8] != other[:8]
    assert [served.body["max_tokens"] for _, served in both] == [1, 2, 3]
    assert [record.prompt_tokens for record in run.records] == pytest.approx([1400, 1500, 1500], abs=1)
    assert run.records[2].due_s - run.records[0].due_s == pytest.approx(0.045)


def test_progress_is_told_in_requests_or_in_seconds() -> None:
    told: list[tuple[int, int]] = []
    with fake(ttft_s=0.02) as server:
        target = find_target(server.url)
        run_load(target, Traffic(users=1, requests=3, output_tokens=1), progress=lambda *moved: told.append(moved))
        assert told == [(1, 3), (2, 3), (3, 3)]
        told.clear()
        run_load(target, Traffic(users=1, seconds=1.2, output_tokens=1), progress=lambda *moved: told.append(moved))
    assert {total for _, total in told} == {1}
    assert [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.mark.parametrize("loop", [{}, {"users": 2}])
def test_a_trace_that_turns_out_broken_on_the_way(tmp_path: Path, loop: dict[str, Any]) -> None:
    """ServeGen's lengths are read when their window comes."""
    (tmp_path / "a-trace.csv").write_text("0,50,1,Gamma,1,1\n600,50,1,Gamma,1,1\n")
    good, broken = ({"input_tokens": "{9: 1}", "output_tokens": lengths} for lengths in ("{1: 1}", "{1: -1}"))
    (tmp_path / "a-dataset.json").write_text(json.dumps({"0": good, "600": broken}))
    with fake() as server:
        target = find_target(server.url)
        with pytest.raises(BadSettings, match="has lengths at 600 s that are no"):
            run_load(target, Traffic(trace=tmp_path / "a-trace.csv", start_s=599.5, **loop))


def test_a_time_in_which_nothing_is_due() -> None:
    target = Target("http://127.0.0.1:9", Dialect(model="m"), PromptWriter())
    with pytest.raises(BadSettings, match=r"no request is due within 1e-06 s"):
        run_load(target, Traffic(rate=1.0, seconds=1e-6))
    with pytest.raises(BadSettings, match="timeout_s 0 is out of range"):
        find_target("http://127.0.0.1:9", timeout_s=0)
