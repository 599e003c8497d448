"""Where an engine's time goes: a workload in turns without and with a recorder, so that its price is known too."""

import random
import time
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from burnish.core.errors import BadSettings
from burnish.core.profile import Profile
from burnish.engine.engine import Engine
from burnish.measure.cost import Work
from burnish.measure.energy import WATTS_PER_CORE, Energy, EnergyMeter
from burnish.measure.speed import Progress, Run, Speed, Workload, run_once, speed_of, warm_up


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineProfile:
    """What was recorded in the run of median length, and what was measured of all runs."""

    profile: Profile
    is_whole: bool  # whether every step of the run was recorded
    speed: Speed  # of the runs that were not recorded
    recorded_speed: Speed
    work: Work  # of all runs, as ``energy``
    energy: Energy

    @property
    def slowdown(self) -> float:
        """The share of the decoding speed that recording takes."""
        return 1 - self.recorded_speed.decode_tokens_per_s.median / self.speed.decode_tokens_per_s.median


class _Recorded(NamedTuple):
    run: Run
    profile: Profile
    is_whole: bool


def profile_engine(
    engine: Engine,
    vocab_size: int,
    workload: Workload,
    *,
    num_steps: int,
    watts_per_core: float = WATTS_PER_CORE,
    meter: EnergyMeter | None = None,
    progress: Progress | None = None,
) -> EngineProfile:
    """Run the workload ``repeat`` times in turns without and with a recorder of at most ``num_steps`` steps.

    ``watts_per_core``: for the estimate of energy where no counter can be read. Raises ``BadSettings`` for fewer than
    one step, ``BadRequest`` when the requests do not fit the model's context.
    """
    if num_steps < 1:
        raise BadSettings(f"steps {num_steps} is too small", remedy="Use 1 or more")
    source = random.Random(workload.seed)  # noqa: S311 - prompts, not secrets
    warm_up(engine, vocab_size)
    run_once(engine, source, vocab_size, workload, time.perf_counter)
    plain, recorded = list[Run](), list[_Recorded]()
    meter, cpu_s, begun_s = meter or EnergyMeter(), time.process_time(), time.perf_counter()
    meter.start()
    for number in range(1, workload.repeat + 1):
        plain.append(run_once(engine, source, vocab_size, workload, time.perf_counter))
        recorded.append(_record(engine, source, vocab_size, workload, num_steps))
        meter.sample()
        if progress is not None:
            progress(number, workload.repeat)
    seconds = time.perf_counter() - begun_s
    energy = meter.stop(cpu_s=time.process_time() - cpu_s, watts_per_core=watts_per_core)
    middle = _of_median_length(recorded)
    return EngineProfile(
        profile=middle.profile,
        is_whole=middle.is_whole,
        speed=speed_of(plain),
        recorded_speed=speed_of([one.run for one in recorded]),
        work=_work([*plain, *(one.run for one in recorded)], workload, seconds),
        energy=energy,
    )


def _record(engine: Engine, source: random.Random, vocab_size: int, workload: Workload, num_steps: int) -> _Recorded:
    recorder, before = engine.record(num_steps), engine.load().steps
    try:
        run = run_once(engine, source, vocab_size, workload, time.perf_counter)
    finally:
        engine.stop_recording()
    return _Recorded(run, recorder.profile(), engine.load().steps - before <= num_steps)


def _of_median_length(recorded: list[_Recorded]) -> _Recorded:
    lengths = [one.run.prefill_s + one.run.decode_s for one in recorded]
    wanted = median(lengths)
    return min(zip(lengths, recorded, strict=True), key=lambda pair: abs(pair[0] - wanted))[1]


def _work(runs: list[Run], workload: Workload, seconds: float) -> Work:
    return Work(
        seconds=seconds,
        prefill_s=sum(run.prefill_s for run in runs),
        decode_s=sum(run.decode_s for run in runs),
        input_tokens=sum(run.num_read for run in runs),
        output_tokens=len(runs) * workload.concurrency * workload.output_tokens,
    )
