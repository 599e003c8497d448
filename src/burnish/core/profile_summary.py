"""A profile as figures."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from burnish.core.profile import FORWARD, RECORD, Profile, StepRecord

CALL = "call"  # the part of a forward phase that no operation accounts for: arguments, checks, copied logits


class Share(NamedTuple):
    """What takes time in a step; each of the shares sums to 1, or to 0 where there was nothing of the kind."""

    name: str
    num_times: int
    seconds: float
    share: float  # of the time of all steps
    of_prefill: float  # of the time that went into prompts
    of_decode: float  # of the time that went into outputs


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """A profile as figures. A step that computed prompts and outputs counts for each by the tokens of it."""

    num_steps: int
    seconds: float  # from the first step's begin to the last one's end
    steps_s: float  # in steps; the rest the engine waited
    prefill_s: float  # of ``steps_s``
    decode_s: float
    prefill_tokens: int
    decode_tokens: int
    output_tokens: int  # written, the last of a prompt's steps among the writers
    python_share: float  # of ``steps_s``, outside the executor; recording is on neither side
    shares: tuple[Share, ...]  # the largest first


def summarize(profile: Profile) -> Summary:
    """The figures of a profile with a step or more."""
    steps = profile.steps
    steps_s = sum(step.seconds for step in steps)
    prefill_s = sum(step.seconds * step.prefill_share for step in steps)
    forward_s, record_s = (sum(_seconds(step, name) for step in steps) for name in (FORWARD, RECORD))
    return Summary(
        num_steps=len(steps),
        seconds=steps[-1].end_s - steps[0].begin_s,
        steps_s=steps_s,
        prefill_s=prefill_s,
        decode_s=steps_s - prefill_s,
        prefill_tokens=sum(step.prefill_tokens for step in steps),
        decode_tokens=sum(step.decode_tokens for step in steps),
        output_tokens=sum(part.num_written for step in steps for part in step.parts),
        python_share=1 - forward_s / (steps_s - record_s),
        shares=_shares(profile, steps_s, prefill_s),
    )


class _Spent(NamedTuple):
    name: str
    seconds: float
    prefill_s: float


def _shares(profile: Profile, steps_s: float, prefill_s: float) -> tuple[Share, ...]:
    found: dict[str, list[_Spent]] = {}
    for spent in _spent(profile):
        found.setdefault(spent.name, []).append(spent)
    rows = []
    for name, times in found.items():
        seconds, of_prefill = sum(one.seconds for one in times), sum(one.prefill_s for one in times)
        shares = seconds / steps_s, _part(of_prefill, prefill_s), _part(seconds - of_prefill, steps_s - prefill_s)
        rows.append(Share(name, len(times), seconds, *shares))
    return tuple(sorted(rows, key=lambda row: -row.seconds))


def _part(seconds: float, whole_s: float) -> float:
    return seconds / whole_s if whole_s > 0 else 0.0


def _spent(profile: Profile) -> Iterable[_Spent]:
    for step in profile.steps:
        phases = [(phase.name, phase.end_s - phase.begin_s) for phase in step.phases if phase.name != FORWARD]
        operations = [pair for pair in zip(profile.operations, step.operations_s, strict=True) if pair[1]]
        call = (CALL, _seconds(step, FORWARD) - sum(step.operations_s))
        for name, seconds in (*phases, *operations, call):
            yield _Spent(name, seconds, seconds * step.prefill_share)


def _seconds(step: StepRecord, name: str) -> float:
    return sum(phase.end_s - phase.begin_s for phase in step.phases if phase.name == name)
