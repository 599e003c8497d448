"""Predict what would help a model, do it, measure it, and write docs/diagnosis.md.

    python -m scripts.write_diagnosis [--rounds N] [--threads N]

Every case is a situation whose diagnosis names a remedy. Before and after are served in turn, so that a slow moment of
the machine meets both. Nothing else should run meanwhile.
"""

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from burnish.assemble import RANDOM, open_measured
from burnish.cli.variants import find_variant
from burnish.engine.config import EngineConfig
from burnish.measure.diagnose.diagnosis import Diagnosis, diagnose_plan
from burnish.measure.diagnose.observe import Lengths, Situation, observe
from burnish.measure.diagnose.rules import Finding
from burnish.measure.machine import this_machine
from burnish.models.locate import locate
from burnish.plan.ops import Plan
from scripts.measured import DOCS, ROOT

WIDE = ROOT / "benchmarks" / "shapes" / "143m.json"
AIM = 0.25  # of the median error

HEAD = """# What a diagnosis predicts, and what then happens

Written by `scripts/write_diagnosis.py` on {machine}, {threads} threads: each situation was diagnosed, the remedy
applied, and before and after served {rounds} times in turn; the gain is in tokens per second, the median of the ratios
minus 1. Error of speed: how far the predicted tokens per second lie from the measured, as a share of those; of gain:
how far the predicted gain lies from the measured, as a share of that. The model of 143 million parameters has random
weights.

| model | situation | bottleneck found | remedy | predicted | measured | error of speed | of gain |
|---|---|---|---|---:|---:|---:|---:|
"""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A situation before and after a remedy."""

    model: str
    about: str
    plan: Plan
    situation: Situation
    config: EngineConfig
    remedy: str  # a part of the finding's words
    plan_after: Plan
    config_after: EngineConfig


def main() -> None:
    """Measure every case, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=this_machine().num_cores)
    asked = parser.parse_args()
    rows, errors = list[str](), list[Errors]()
    for case in cases(EngineConfig(threads=asked.threads)):
        found = diagnose_plan(case.plan, case.config, case.situation)
        finding = next((one for one in found.findings if case.remedy in one.remedy), None)
        row, error = _row(case, found, finding, measure(case, asked.rounds))
        print(row, flush=True)
        rows.append(row)
        errors += [] if error is None else [error]
    head = HEAD.format(machine=this_machine().cpu, threads=asked.threads, rounds=asked.rounds)
    told = [
        f"of {what} {statistics.median(found):.1%}, {'met' if statistics.median(found) <= AIM else 'missed'}"
        for what, found in (("speed", [one.speed for one in errors]), ("gain", [one.gain for one in errors]))
    ]
    end = f"\nMedian errors of {len(errors)}, aim {AIM:.0%}: {'; '.join(told)}.\n"
    (DOCS / "diagnosis.md").write_text(head + "\n".join(rows) + "\n" + end, encoding="utf-8")


def cases(config: EngineConfig) -> Iterator[Case]:
    """Two models, six kinds of remedy."""
    for model in ("built-in", "143M"):
        plans = {weights: _open(model, weights) for weights in ("dense", "int8", "int4")}
        for weights, words in (("int8", "store weights as int8"), ("int4", "store weights as int4-g128")):
            for about, situation in (
                ("one writes", _alike(4, 16, 48, 1)),
                ("eight write", _alike(16, 16, 48, 8)),
                ("one reads", _alike(6, 384, 2, 1)),
            ):
                yield Case(
                    model=model,
                    about=f"{about}, dense",
                    plan=plans["dense"],
                    situation=situation,
                    config=config,
                    remedy=words,
                    plan_after=plans[weights],
                    config_after=config,
                )
        int4 = {"model": model, "plan": plans["int4"], "plan_after": plans["int4"]}
        eight, one = _alike(16, 16, 48, 8), _alike(4, 16, 48, 1)
        for about, situation, before, remedy, after in (
            ("eight want to write, one may, int4", eight, replace(config, max_running=1), "max_running", config),
            (
                "eight write, keys of two fit, int4",
                eight,
                replace(config, num_blocks=8),
                "num_blocks",
                replace(config, num_blocks=32),
            ),
            ("one writes on one core, int4", one, replace(config, threads=1), "--threads", config),
        ):
            yield Case(
                about=about,
                situation=situation,
                config=before,
                remedy=remedy,
                config_after=after,
                **int4,  # type: ignore[arg-type]
            )


def _open(model: str, weights: str) -> Plan:
    if model == "built-in":
        return open_measured(str(find_variant(locate("builtin"), weights)), None)
    return open_measured(f"{RANDOM}{WIDE}", weights)


def _alike(count: int, prompt: int, output: int, concurrency: int) -> Situation:
    return Situation(requests=(Lengths(prompt, output),) * count, concurrency=concurrency)


def measure(case: Case, rounds: int) -> float:
    """The median over rounds of tokens per second after over before, minus 1."""
    ratios = []
    for _ in range(rounds):
        before = observe(case.plan, case.config, case.situation).tokens_per_s
        ratios.append(observe(case.plan_after, case.config_after, case.situation).tokens_per_s / before)
    return statistics.median(ratios) - 1


class Errors(NamedTuple):
    """Of a prediction, as shares of what was measured."""

    speed: float
    gain: float


def _row(case: Case, found: Diagnosis, finding: Finding | None, measured: float) -> tuple[str, Errors | None]:
    if finding is None:
        cells = (case.model, case.about, str(found.bottleneck), case.remedy, "none", f"{measured:+.0%}", "", "")
        return f"| {' | '.join(cells)} |", None
    errors = Errors(abs((1 + finding.gain) / (1 + measured) - 1), abs(finding.gain / measured - 1))
    remedy = finding.remedy.partition(":")[0].partition(",")[0]
    told = (f"{finding.gain:+.0%}", f"{measured:+.0%}", f"{errors.speed:.0%}", f"{errors.gain:.0%}")
    return f"| {' | '.join((case.model, case.about, str(found.bottleneck), remedy, *told))} |", errors


if __name__ == "__main__":
    main()
