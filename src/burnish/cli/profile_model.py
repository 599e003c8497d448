"""The part of ``burnish profile`` that runs a model in this process."""

from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import NamedTuple

from rich.markup import escape

from burnish.assemble import RANDOM, open_measured
from burnish.cli.output import out, print_json, progress
from burnish.cli.profile_table import shares_table, told_cost, told_energy
from burnish.cli.trace_file import write_trace
from burnish.core.profile_summary import Summary, summarize
from burnish.core.trace import chrome_trace
from burnish.engine.engine import Engine
from burnish.measure.cost import Cost, EnergyCost, cost_of, energy_cost_of
from burnish.measure.energy import WATTS_PER_CORE
from burnish.measure.machine import Machine, this_machine
from burnish.measure.prices import Price
from burnish.measure.profile import profile_engine
from burnish.measure.speed import Speed, Workload, engine_config
from burnish.models.locate import locate
from burnish.models.tokenizer import load_tokenizer


class Priced(NamedTuple):
    """A machine of the price book."""

    name: str
    price: Price


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelProfile:
    """What was found. ``summary`` is of the recorded run of median length, ``energy`` and ``cost`` of all runs."""

    model: str
    weights: str
    threads: int
    workload: Workload
    summary: Summary
    is_whole: bool  # whether every step of that run was recorded
    speed: Speed  # not recorded
    recorded_speed: Speed
    slowdown: float  # of decoding, by being recorded
    energy: EnergyCost
    cost: Cost | None  # where a machine was named
    machine: Machine
    trace: Path


def profile_model(
    model: str,
    workload: Workload,
    *,
    threads: int | None,
    num_steps: int,
    priced: Priced | None,
    trace: Path,
    quiet: bool,
) -> ModelProfile:
    """Run the workload and write the trace. Raises as ``open_measured`` and ``profile_engine``."""
    plan = open_measured(model)
    vocabulary = None if model.startswith(RANDOM) else load_tokenizer(locate(model))
    engine = Engine(plan, vocabulary, engine_config(workload, threads=threads))
    watts = WATTS_PER_CORE if priced is None else priced.price.watts_per_core
    with progress("Measuring", quiet=quiet) as moved:
        found = profile_engine(
            engine, plan.shape.vocab_size, workload, num_steps=num_steps, watts_per_core=watts, progress=moved
        )
    write_trace(trace, dumps(chrome_trace(found.profile, Path(model).name)))
    return ModelProfile(
        model=model,
        weights=plan.weights,
        threads=engine.config.threads or 1,
        workload=workload,
        summary=summarize(found.profile),
        is_whole=found.is_whole,
        speed=found.speed,
        recorded_speed=found.recorded_speed,
        slowdown=found.slowdown,
        energy=energy_cost_of(found.work, found.energy),
        cost=None if priced is None else cost_of(found.work, *priced),
        machine=this_machine(),
        trace=trace,
    )


def show_model(found: ModelProfile, *, json: bool) -> None:
    """A JSON object, or a table and what it does not hold."""
    if json:
        print_json(found)
        return
    work, speed = found.workload, found.speed
    about = f"{work.prompt_tokens} in, {work.output_tokens} out, {work.concurrency} at a time, {found.threads} threads"
    out.print(shares_table(found.summary, f"{Path(found.model).name} ({found.weights}): {about}"))
    lines = [
        f"Not recorded: {speed.prefill_tokens_per_s.median:,.1f} prefill tokens/s, "
        f"{speed.decode_tokens_per_s.median:,.1f} decode tokens/s; recording slows decoding by {found.slowdown:.1%}.",
        told_energy(found.energy),
        *([] if found.cost is None else [told_cost(found.cost)]),
        f"Wrote {found.trace}" + ("" if found.is_whole else f": the first {found.summary.num_steps} steps only"),
    ]
    out.print("\n".join(map(escape, lines)), highlight=False, soft_wrap=True)
