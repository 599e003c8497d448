"""Records the steps of an engine: when each phase began and ended, and who took part. Made when it is asked for."""

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, Protocol

from burnish.core.profile import RECORD, SCHEDULE, Part, Phase, Profile, StepRecord
from burnish.engine.scheduler import Chunk, Schedule

DRIVER = Path("/dev/nvidiactl")  # importing torch to learn that there is no card would take seconds


class Ranges(Protocol):
    """Marks on the time line of a graphics card's profiler, as ``torch.cuda.nvtx`` makes them."""

    def range_push(self, msg: str) -> object:
        """Begin a range within the one begun last."""
        ...

    def range_pop(self) -> object:
        """End the range begun last."""
        ...


def card_ranges(driver: Path = DRIVER) -> Ranges | ModuleType | None:
    """NVTX where there is a card, else None."""
    if not driver.exists():
        return None
    import torch

    return torch.cuda.nvtx if torch.cuda.is_available() else None


class _Step(NamedTuple):
    """What a step left; made into a record when nobody waits for the next one."""

    marks: list[tuple[str, float]]  # the phases and when each began, and the end
    parts: list[Part]
    operations_s: list[float]

    def record(self) -> StepRecord:
        phases = (Phase(name, begin_s, end_s) for (name, begin_s), (_, end_s) in pairwise(self.marks))
        return StepRecord(tuple(phases), tuple(self.parts), tuple(self.operations_s))


class Recorder:
    """At most ``limit`` steps; what comes after is not recorded.

    A step that raises half-way leaves nothing behind. With ``ranges``, a range is open on the card's time line for as
    long as the step or phase of its name lasts.
    """

    def __init__(
        self,
        operations: tuple[str, ...],
        limit: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        ranges: Ranges | ModuleType | None = None,
    ) -> None:
        self._operations, self._limit, self._clock, self._ranges = operations, limit, clock, ranges
        self._steps: list[_Step] = []
        self._numbers: dict[str, int] = {}
        self._marks: list[tuple[str, float]] = []  # of the step that runs
        self._parts: list[Part] = []
        self._num_open = 0  # ranges

    @property
    def is_full(self) -> bool:
        """Whether all steps asked for are recorded."""
        return len(self._steps) == self._limit

    def begin(self, phase: str) -> None:
        """A phase begins and the one before it ends; with ``SCHEDULE`` a step begins."""
        if self.is_full:
            return
        if phase == SCHEDULE:
            self._close(self._num_open)
            self._marks = []
            self._open("step")
        else:
            self._close(1)
        self._open(phase)
        self._marks.append((phase, self._clock()))

    def see(self, schedule: Schedule) -> None:
        """What the step will compute, before it is booked as computed."""
        if not self.is_full:
            self.begin(RECORD)
            started = schedule.started
            self._parts = [self._part(chunk, is_new=chunk.sequence in started) for chunk in schedule.chunks]

    def end(self, operations_s: list[float], num_written: Sequence[int]) -> None:
        """The step ends; so many tokens were written by each who took part."""
        if self.is_full:
            return
        self._parts = [part._replace(num_written=count) for part, count in zip(self._parts, num_written, strict=True)]
        self._marks.append(("", self._clock()))
        self._close(self._num_open)
        self._steps.append(_Step(self._marks, self._parts, operations_s))
        self._marks = []

    def profile(self) -> Profile:
        """The steps so far."""
        return Profile(operations=self._operations, steps=tuple(step.record() for step in self._steps))

    def _part(self, chunk: Chunk, *, is_new: bool) -> Part:
        sequence = chunk.sequence
        number = self._numbers.setdefault(sequence.request.request_id, len(self._numbers) + 1)
        is_prefill = sequence.num_computed < len(sequence.request.prompt)
        rows = chunk.num_tokens + len(chunk.draft)
        return Part(
            number,
            rows,
            sequence.num_computed + rows,
            is_prefill,
            0,  # told at the end
            sequence.arrival_s if is_new else None,
        )

    def _open(self, name: str) -> None:
        if self._ranges is not None:
            self._ranges.range_push(name)
            self._num_open += 1

    def _close(self, count: int) -> None:
        for _ in range(min(count, self._num_open)):
            assert self._ranges is not None
            self._ranges.range_pop()
            self._num_open -= 1
