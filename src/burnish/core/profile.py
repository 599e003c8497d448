"""What an engine did, step by step: recorded there, told here as figures. Crosses process borders; no torch.

All times are seconds of the engine's clock. The phases of a step follow each other without gaps, so they sum to it;
operations lie within the phase ``FORWARD``, one after the other. ``RECORD`` is what recording itself takes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

SCHEDULE, RECORD, BATCH, FORWARD, SAMPLE, UPDATE = "schedule", "record", "batch", "forward", "sample", "update"
CALL = "call"  # the part of a forward phase that no operation accounts for: arguments, checks, copied logits


class Phase(NamedTuple):
    """A part of a step."""

    name: str
    begin_s: float
    end_s: float


class Part(NamedTuple):
    """A request's share of a step."""

    request: int  # numbered from 1 as they appear: neither texts nor ids are recorded
    num_tokens: int  # that were computed
    context: int  # tokens the last of them sees, itself included
    is_prefill: bool  # tokens of a prompt, or computed again after a preemption
    num_written: int
    arrival_s: float | None  # of a request that is computed for the first time


class StepRecord(NamedTuple):
    """One step of the engine."""

    phases: tuple[Phase, ...]
    parts: tuple[Part, ...]
    operations_s: tuple[float, ...]  # of each operation of the plan

    @property
    def begin_s(self) -> float:
        """When it began."""
        return self.phases[0].begin_s

    @property
    def end_s(self) -> float:
        """When it ended."""
        return self.phases[-1].end_s

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end_s - self.begin_s

    @property
    def prefill_tokens(self) -> int:
        """Tokens of prompts it computed."""
        return sum(part.num_tokens for part in self.parts if part.is_prefill)

    @property
    def decode_tokens(self) -> int:
        """Other tokens it computed."""
        return sum(part.num_tokens for part in self.parts if not part.is_prefill)

    @property
    def prefill_share(self) -> float:
        """Of its time, by the tokens it computed."""
        return self.prefill_tokens / max(1, self.prefill_tokens + self.decode_tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """Steps that followed each other, and the names of the plan's operations."""

    operations: tuple[str, ...]
    steps: tuple[StepRecord, ...]


class Profiled(Protocol):
    """What can be told to record itself: a client of an engine."""

    async def profile(self, num_steps: int, *, limit_s: float) -> Profile:
        """The next steps, or as many of them as were computed within the limit.

        Raises ``Conflict`` while another profile is recorded, ``Unavailable`` when the engine is down.
        """
        ...


class Share(NamedTuple):
    """What takes time in a step; all shares sum to 1."""

    name: str
    num_times: int
    seconds: float
    share: float  # of the time of all steps


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
        shares=_shares(profile, steps_s),
    )


def _shares(profile: Profile, steps_s: float) -> tuple[Share, ...]:
    counts, seconds = dict[str, int](), dict[str, float]()
    for name, spent in _spent(profile):
        counts[name] = counts.get(name, 0) + 1
        seconds[name] = seconds.get(name, 0.0) + spent
    rows = (Share(name, counts[name], spent, spent / steps_s) for name, spent in seconds.items())
    return tuple(sorted(rows, key=lambda row: -row.seconds))


def _spent(profile: Profile) -> Iterable[tuple[str, float]]:
    for step in profile.steps:
        yield from ((phase.name, phase.end_s - phase.begin_s) for phase in step.phases if phase.name != FORWARD)
        yield from (pair for pair in zip(profile.operations, step.operations_s, strict=True) if pair[1])
        yield CALL, _seconds(step, FORWARD) - sum(step.operations_s)


def _seconds(step: StepRecord, name: str) -> float:
    return sum(phase.end_s - phase.begin_s for phase in step.phases if phase.name == name)
