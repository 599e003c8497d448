"""What an engine did, step by step: recorded there, told here as figures. Crosses process borders; no torch.

All times are seconds of the engine's clock. The phases of a step follow each other without gaps, so they sum to it;
operations lie within the phase ``FORWARD``, one after the other. ``RECORD`` is what recording itself takes.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

SCHEDULE, RECORD, BATCH, FORWARD, SAMPLE, UPDATE = "schedule", "record", "batch", "forward", "sample", "update"


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
