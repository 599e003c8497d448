"""A profile as a Chrome trace, which Perfetto opens (ui.perfetto.dev, "Open trace file").

Trace Event Format: complete events ("X") with ``ts`` and ``dur`` in microseconds, and metadata ("M") that names the
tracks. One track holds the engine's steps, in each its phases, in the forward phase the plan's operations; every
request has one, with its time in the queue, reading its prompt, and writing. Where operations begin is not measured,
only how long each took: they are drawn one after the other from the beginning of the forward phase.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import accumulate
from typing import Any, NamedTuple

from burnish.core.profile import FORWARD, Phase, Profile, StepRecord
from burnish.core.profile_summary import summarize

PID, ENGINE_TID = 1, 1
_PARTS = 128  # of a microsecond
Args = Mapping[str, int | str]
Event = dict[str, Any]


class Span(NamedTuple):
    """A named stretch of a track."""

    tid: int
    category: str  # step, phase, operation or request
    name: str
    begin_s: float
    end_s: float
    args: Args | None = None


def chrome_trace(profile: Profile, title: str) -> dict[str, Any]:
    """The trace, with the ``Summary`` of a profile that has steps in ``otherData``; nothing in it but JSON."""
    spans = [*_engine(profile), *_requests(profile)]
    start_s = min((span.begin_s for span in spans), default=0.0)
    events = [_complete(span, start_s) for span in sorted(spans, key=lambda span: (span.tid, span.begin_s))]
    summary = asdict(summarize(profile)) if profile.steps else {}
    shares = [share._asdict() for share in summary.pop("shares", ())]
    return {
        "displayTimeUnit": "ms",
        "otherData": {"model": title, "summary": summary | {"shares": shares}},
        "traceEvents": [*_names(title, sorted({span.tid for span in spans})), *events],
    }


def _engine(profile: Profile) -> Iterator[Span]:
    for step in profile.steps:
        args = {"prefill_tokens": step.prefill_tokens, "decode_tokens": step.decode_tokens, "requests": len(step.parts)}
        yield Span(ENGINE_TID, "step", _kind(step), step.begin_s, step.end_s, args)
        for phase in step.phases:
            yield Span(ENGINE_TID, "phase", *phase)
            if phase.name == FORWARD:
                yield from _operations(profile.operations, step, phase)


def _operations(names: tuple[str, ...], step: StepRecord, forward: Phase) -> Iterator[Span]:
    ends = [min(end, forward.end_s) for end in accumulate(step.operations_s, initial=forward.begin_s)]
    for name, begin_s, end_s in zip(names, ends, ends[1:], strict=False):
        if end_s > begin_s:  # else it was left out: no row's logits were wanted
            yield Span(ENGINE_TID, "operation", name, begin_s, end_s)


def _kind(step: StepRecord) -> str:
    if not step.decode_tokens:
        return "prefill step"
    return "mixed step" if step.prefill_tokens else "decode step"


def _requests(profile: Profile) -> Iterator[Span]:
    """Neighbouring steps in which a request did the same are one span."""
    open_spans: dict[int, Span] = {}
    for step in profile.steps:
        for part in step.parts:
            name, tid = "prefill" if part.is_prefill else "decode", ENGINE_TID + part.request
            if part.arrival_s is not None:
                yield Span(tid, "request", "queue", min(part.arrival_s, step.begin_s), step.begin_s)
            before = open_spans.get(tid)
            if before is not None and before.name == name:
                open_spans[tid] = before._replace(end_s=step.end_s)
                continue
            if before is not None:
                yield before._replace(end_s=step.begin_s)
            open_spans[tid] = Span(tid, "request", name, step.begin_s, step.end_s)
    yield from open_spans.values()


def _complete(span: Span, start_s: float) -> Event:
    # Both ends are rounded alike, to what binary fractions hold exactly: neighbours meet, parts stay within the whole,
    # also where a reader cuts nanoseconds off.
    begin, end = (round((at - start_s) * 1e6 * _PARTS) for at in (span.begin_s, span.end_s))
    event = {"ph": "X", "pid": PID, "tid": span.tid, "cat": span.category, "name": span.name}
    return event | {"ts": begin / _PARTS, "dur": (end - begin) / _PARTS, "args": dict(span.args or {})}


def _names(title: str, tids: list[int]) -> Iterator[Event]:
    yield {"ph": "M", "pid": PID, "name": "process_name", "args": {"name": f"burnish {title}"}}
    for tid in tids:
        name = "engine" if tid == ENGINE_TID else f"request {tid - ENGINE_TID}"
        yield {"ph": "M", "pid": PID, "tid": tid, "name": "thread_name", "args": {"name": name}}
        yield {"ph": "M", "pid": PID, "tid": tid, "name": "thread_sort_index", "args": {"sort_index": tid}}
