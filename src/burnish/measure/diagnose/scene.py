"""What a diagnosis looks at: the time of every operation beside the least it could take."""

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from burnish.core.profile import SAMPLE, UPDATE, StepRecord
from burnish.measure.diagnose.observe import Observed, forward_s, shape_of
from burnish.measure.diagnose.operations import Place, Step, Work, kind_of, places, work
from burnish.measure.diagnose.predict import Predictor, Storage
from burnish.measure.diagnose.roofline import Ceilings
from burnish.plan.ops import Embed, Linear, Plan

Stage = Literal["prefill", "decode"]
BY_ROWS = (SAMPLE, UPDATE)  # phases of a step that take longer the more sequences there are


class OperationTime(NamedTuple):
    """An operation in all steps of a stage."""

    place: Place
    stage: Stage
    seconds: float
    limit_s: float
    reading_s: float  # of ``seconds``, in steps whose limit is what is read
    work: Work


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A model in a situation, and what bounds it."""

    plan: Plan
    observed: Observed
    ceilings: Ceilings  # of the threads that were used
    all_cores: Ceilings
    predictor: Predictor

    @cached_property
    def operations(self) -> tuple[OperationTime, ...]:
        """Every operation, prefill and decode apart."""
        where, model_bytes = places(self.plan), self.model_bytes
        found: dict[tuple[int, Stage], OperationTime] = {}
        for record, step in self.steps:
            stage: Stage = "decode" if step.is_decode else "prefill"
            for index, seconds in enumerate(record.operations_s):
                operation = self.plan.operations[index]
                done = work(operation, self.plan, step, self.observed.config.keys)
                kind = kind_of(operation)
                limit = self.ceilings.limit_s(done, kind, model_bytes)
                is_reading = done.products < limit * self.ceilings.product_rate(kind)
                before = found.get((index, stage), OperationTime(where[index], stage, 0.0, 0.0, 0.0, Work()))
                found[index, stage] = OperationTime(
                    where[index],
                    stage,
                    before.seconds + seconds,
                    before.limit_s + limit,
                    before.reading_s + seconds * is_reading,
                    before.work + done,
                )
        return tuple(found.values())

    @cached_property
    def steps(self) -> tuple[tuple[StepRecord, Step], ...]:
        """What was recorded, with the shape of each batch."""
        return tuple((record, shape_of(record)) for record in self.observed.profile.steps)

    @cached_property
    def model_bytes(self) -> float:
        """What a step reads from end to end: all weights."""
        return float(self.plan.num_bytes)

    @cached_property
    def slimmed(self) -> tuple[tuple[int, Linear], ...]:
        """The products that compressing changes: a tied head shares its weight with the embedding and stays."""
        tables = {id(operation.table) for operation in self.plan.operations if isinstance(operation, Embed)}
        numbered = enumerate(self.plan.operations)
        return tuple((at, op) for at, op in numbered if isinstance(op, Linear) and id(op.weight) not in tables)

    def seconds_stored(self, storage: Storage) -> float:
        """The time all steps would take with weights in another storage."""
        saved = 0.0
        for record, step in self.steps:
            rows = near(step.rows)
            for index, product in self.slimmed:
                faster = self.predictor.speed_up(product, storage, rows)
                saved += record.operations_s[index] * (1 - 1 / faster)
        return self.observed.seconds - saved

    def seconds_together(self, running: float) -> float:
        """The time all steps would take if so many requests were decoded together where fewer were.

        Prompts take as long as they did; decode steps take longer and become fewer.
        """
        saved = 0.0
        for record, step in self.steps:
            if step.is_decode and len(record.parts) < running:
                more = running / len(record.parts)
                saved += record.seconds - self._grown(record, step, more) / more
        return self.observed.seconds - saved

    def _grown(self, record: StepRecord, step: Step, more: float) -> float:
        """Seconds of a decode step with so many times its rows."""
        grown = record.seconds - forward_s(record)
        grown += (more - 1) * sum(p.end_s - p.begin_s for p in record.phases if p.name in BY_ROWS)
        rows = near(step.rows)
        for operation, seconds in zip(self.plan.operations, record.operations_s, strict=True):
            if isinstance(operation, Linear):
                grown += seconds * self.predictor.growth(operation, rows, near(step.rows * more))
            else:
                grown += seconds * more
        return grown + forward_s(record) - sum(record.operations_s)


ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256, 512)


def near(rows: float) -> int:
    """The nearest number of rows that products are timed with."""
    return min(ROWS, key=lambda count: abs(count - rows))


def by_stage(operations: tuple[OperationTime, ...]) -> dict[tuple[str, Stage], OperationTime]:
    """Operations of one role together, whatever their layer."""
    grouped: dict[tuple[str, Stage], list[OperationTime]] = defaultdict(list)
    for time in operations:
        grouped[time.place.role, time.stage].append(time)
    return {
        (role, stage): OperationTime(
            Place(times[0].place.role, None),
            stage,
            sum(time.seconds for time in times),
            sum(time.limit_s for time in times),
            sum(time.reading_s for time in times),
            sum((time.work for time in times), Work()),
        )
        for (role, stage), times in grouped.items()
    }
