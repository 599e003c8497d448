"""Speed, start and memory of an engine, measured in a process of its own.

A fresh process makes the peak of resident memory mean this model and nothing else, and the start comparable.
The process gets its specification as an argument and writes lines of JSON: progress, then a result or an error.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import TypeAdapter

from burnish.core import errors
from burnish.core.errors import BurnishError
from burnish.engine.engine import Engine, Plan
from burnish.measure.machine import Machine, this_machine
from burnish.measure.memory import peak_rss_bytes
from burnish.measure.speed import Progress, Spread, Workload, engine_config, measure_speed, warm_up

Open = Callable[[str, str | None], Plan]
"""(model, wanted format of its weights) -> its plan; raises what loading it raises"""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchSpec:
    """What to measure. ``model`` is what ``locate`` understands, or "random:CONFIG.json" for random weights."""

    model: str
    weights: str | None = None  # random: the format to make (default dense); else the format the model must have
    threads: int | None = None  # None: all cores
    workload: Workload = field(default_factory=Workload)


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchResult:
    """What was measured. ``ready_s`` lasts from the start of the process to the first token of a tiny request."""

    spec: BenchSpec
    weights: str
    tensor_bytes: int
    prefill_tokens_per_s: Spread
    decode_tokens_per_s: Spread
    python_share: Spread
    ready_s: float
    peak_rss_bytes: int
    threads: int
    machine: Machine


_SPEC, _RESULT = TypeAdapter(BenchSpec), TypeAdapter(BenchResult)


def bench_engine(spec: BenchSpec, module: str, *, progress: Progress | None = None) -> BenchResult:
    """Measure an engine in a fresh process, which runs ``module``: it knows how models are opened.

    Raises what loading or running the model raises there, and ``BurnishError`` when the process dies.
    """
    environment = os.environ | ({} if spec.threads is None else {"OMP_NUM_THREADS": str(spec.threads)})
    order = json.dumps({"started": time.monotonic(), "spec": asdict(spec)})
    with (
        tempfile.TemporaryFile("w+") as complaints,
        subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", module, order],
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            env=environment,
        ) as child,
    ):
        assert child.stdout is not None
        try:
            result = _follow(child.stdout, progress)
        except BaseException:
            child.kill()
            raise
        if result is None:
            status = child.wait()
            complaints.seek(0)
            last = complaints.read().strip().splitlines()[-1:] or [f"exit status {status}"]
            raise BurnishError(f"the measured process died: {last[0]}", remedy="It may need more memory")
        return result


def _follow(lines: Iterable[str], progress: Progress | None) -> BenchResult | None:
    for line in lines:
        told: dict[str, Any] = json.loads(line)
        if "result" in told:
            return _RESULT.validate_python(told["result"])
        if "error" in told:
            raise getattr(errors, told["error"])(told["message"], remedy=told["remedy"])
        if progress is not None:
            progress(told["done"], told["total"])
    return None


def _measure(spec: BenchSpec, started: float, open_model: Open, progress: Progress) -> BenchResult:
    plan = open_model(spec.model, spec.weights)
    vocab_size = plan.shape.vocab_size
    engine = Engine(plan, None, engine_config(spec.workload, threads=spec.threads))
    warm_up(engine, vocab_size)
    ready_s = time.monotonic() - started
    speed = measure_speed(engine, vocab_size, spec.workload, progress=progress)
    return BenchResult(
        spec=spec,
        weights=plan.weights,
        tensor_bytes=plan.num_bytes,
        prefill_tokens_per_s=speed.prefill_tokens_per_s,
        decode_tokens_per_s=speed.decode_tokens_per_s,
        python_share=speed.python_share,
        ready_s=ready_s,
        peak_rss_bytes=peak_rss_bytes(),
        threads=engine.config.threads or 1,
        machine=this_machine(),
    )


def run_child(open_model: Open) -> None:
    """The measuring process: its own edge, where every known fault becomes a line."""
    order = json.loads(sys.argv[1])

    def tell(**words: Any) -> None:
        sys.stdout.write(json.dumps(words) + "\n")
        sys.stdout.flush()

    try:
        spec = _SPEC.validate_python(order["spec"])
        result = _measure(spec, order["started"], open_model, lambda done, total: tell(done=done, total=total))
        tell(result=_RESULT.dump_python(result, mode="json"))
    except BurnishError as error:
        tell(error=type(error).__name__, message=error.message, remedy=error.remedy)
