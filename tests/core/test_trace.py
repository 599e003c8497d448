"""The trace: what the format demands, parts within the whole, nothing overlapping within a track."""

import json
from itertools import pairwise
from typing import Any

import pytest

from burnish.core.profile import BATCH, FORWARD, SCHEDULE, Part, Phase, Profile, StepRecord
from burnish.core.profile_summary import summarize
from burnish.core.trace import chrome_trace

THIRD = 1 / 3  # seconds that no microsecond holds exactly


def step(begin_s: float, parts: list[Part], operations_s: tuple[float, ...] = (THIRD, 0.0, THIRD)) -> StepRecord:
    names = (SCHEDULE, BATCH, FORWARD)
    marks = [begin_s, begin_s + 0.1, begin_s + 0.2, begin_s + 0.2 + sum(operations_s) + 0.05]
    phases = tuple(Phase(name, *ends) for name, ends in zip(names, pairwise(marks), strict=True))
    return StepRecord(phases, tuple(parts), operations_s)


PROFILE = Profile(
    operations=("norm", "softcap", "linear 2x3 int8"),
    steps=(
        step(10.0, [Part(1, 8, 8, True, 0, 9.5)]),
        step(11.0, [Part(1, 2, 10, True, 1, None), Part(2, 3, 3, True, 1, 11.0)]),
        step(12.5, [Part(1, 1, 11, False, 1, None)]),
        step(13.5, [Part(1, 1, 12, False, 1, None), Part(2, 4, 4, True, 1, None)]),
        step(14.5, [Part(1, 1, 13, False, 1, None), Part(2, 1, 5, False, 1, None)], (0.0, 0.0, THIRD)),
    ),
)


def spans(trace: dict[str, Any], tid: int) -> list[tuple[str, float, float]]:
    found = [event for event in trace["traceEvents"] if event["ph"] == "X" and event["tid"] == tid]
    return [(event["name"], event["ts"], event["ts"] + event["dur"]) for event in found]


def check_nesting(found: list[tuple[str, float, float]]) -> None:
    """Every span lies within the one it begins in; the larger comes first where two begin together."""
    open_spans: list[tuple[str, float, float]] = []
    for span in found:
        while open_spans and open_spans[-1][2] <= span[1]:
            open_spans.pop()
        if open_spans:
            assert open_spans[-1][1] <= span[1] <= span[2] <= open_spans[-1][2], (open_spans[-1], span)
        open_spans.append(span)


def test_readers_that_cut_to_nanoseconds_see_no_overlap() -> None:
    found = [event for event in chrome_trace(PROFILE, "tiny")["traceEvents"] if event.get("cat") == "operation"]
    ends = [(int(event["ts"] * 1000), int(event["ts"] * 1000) + int(event["dur"] * 1000)) for event in found]
    assert all(one[1] <= other[0] for one, other in pairwise(ends))


def test_events_are_what_the_format_demands() -> None:
    trace = json.loads(json.dumps(chrome_trace(PROFILE, "tiny"), allow_nan=False))
    names = [event for event in trace["traceEvents"] if event["ph"] == "M"]
    assert {event["args"]["name"] for event in names if event["name"] == "thread_name"} == {
        "engine",
        "request 1",
        "request 2",
    }
    assert names[0] == {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "burnish tiny"}}
    for event in trace["traceEvents"][len(names) :]:
        assert event["ph"] == "X"
        assert set(event) == {"ph", "pid", "tid", "cat", "name", "ts", "dur", "args"}
        assert event["ts"] >= 0
        assert event["dur"] >= 0


def test_phases_lie_in_steps_and_operations_in_the_forward_phase() -> None:
    trace = chrome_trace(PROFILE, "tiny")
    engine = spans(trace, 1)
    check_nesting(engine)
    kinds = [event["name"] for event in trace["traceEvents"] if event.get("cat") == "step"]
    assert kinds == ["prefill step", "prefill step", "decode step", "mixed step", "decode step"]
    for category, count in (("phase", 15), ("operation", 9)):
        of_category = [event for event in trace["traceEvents"] if event.get("cat") == category]
        assert len(of_category) == count
        ends = [(event["ts"], event["ts"] + event["dur"]) for event in of_category]
        assert all(left[1] <= right[0] + 1e-6 for left, right in pairwise(ends))


def test_a_request_waits_reads_and_writes() -> None:
    trace = chrome_trace(PROFILE, "tiny")
    first, second = spans(trace, 2), spans(trace, 3)
    at = {step.begin_s: round((step.begin_s - 9.5) * 1e6 * 128) / 128 for step in PROFILE.steps}
    last = round((PROFILE.steps[-1].end_s - 9.5) * 1e6 * 128) / 128
    assert first == [("queue", 0.0, at[10.0]), ("prefill", at[10.0], at[12.5]), ("decode", at[12.5], last)]
    assert [name for name, *_ in second] == ["queue", "prefill", "decode"]
    for track in (first, second):
        check_nesting(track)


def test_the_summary_travels_with_the_trace() -> None:
    other = chrome_trace(PROFILE, "tiny")["otherData"]
    summary = summarize(PROFILE)
    assert other["model"] == "tiny"
    assert other["summary"]["num_steps"] == 5
    assert other["summary"]["shares"][0] == summary.shares[0]._asdict()


def test_mixed_steps_count_by_their_tokens() -> None:
    summary = summarize(PROFILE)
    lasts = [step.seconds for step in PROFILE.steps]
    assert summary.prefill_s == pytest.approx(lasts[0] + lasts[1] + lasts[3] * 4 / 5)
    assert summary.prefill_s + summary.decode_s == pytest.approx(summary.steps_s)
    assert (summary.prefill_tokens, summary.decode_tokens, summary.output_tokens) == (17, 4, 7)
    assert summary.python_share == pytest.approx(1 - (sum(lasts) - 5 * 0.2) / sum(lasts))


def test_a_profile_without_steps_is_an_empty_trace() -> None:
    trace = chrome_trace(Profile(operations=("norm",), steps=()), "tiny")
    assert trace["otherData"]["summary"] == {"shares": []}
    assert [event["name"] for event in trace["traceEvents"]] == ["process_name"]
