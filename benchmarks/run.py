"""Measure burnish and its peers, and write docs/benchmarks: a page, a picture and every figure.

    python -m benchmarks.run [--only PEER ...] [--shapes NAME ...] [--formats NAME ...] [--workloads NAME ...]
                             [--rounds N] [--threads N] [--quick] [--out FOLDER]

Formats one after the other, each in every shape; a run that is stopped writes what it found until then.
"""

import argparse
import datetime
import json
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.contest import Contest
from benchmarks.environments import Unavailable, python, run, tell
from benchmarks.machine import cache_bytes, read_bandwidth
from benchmarks.peers import FORMATS, LINES, OURS, PEERS, ROOT, SHAPES, Format, Line, Shape
from benchmarks.report import page
from benchmarks.results import Results
from benchmarks.start import measure_start
from benchmarks.workloads import WORKLOADS
from burnish.measure.account import layer_shapes
from burnish.measure.machine import this_machine
from burnish.models.families import read_config

OUT = ROOT.parent / "docs" / "benchmarks"
START_SHAPE = "1.1b"
PICTURES = ("svg", "png")


def main(arguments: Sequence[str] | None = None) -> None:
    """The whole run."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # workers are stopped processes: they must be ended, not left
    asked = _parse(arguments)
    results = _before(asked)
    try:
        measure(results, asked)
        results.bandwidth_after = _bandwidth(asked)
        results.is_whole = True
    finally:
        write(results, asked.out)


def measure(results: Results, asked: argparse.Namespace) -> None:
    """Every group of lines that was asked for, into ``results``."""
    _measure_start(results, asked)
    for weights in asked.formats:
        for number, shape in enumerate(asked.shapes):
            lines = [line for line in LINES if _is_asked(line, shape, weights, asked.only)]
            _compete(results, shape, lines, asked, seed=number)


def write(results: Results, out: Path) -> None:
    """The three outputs; the picture is left out when it cannot be drawn."""
    out.mkdir(parents=True, exist_ok=True)
    results.write(out / "cpu.json")
    (out / "cpu.md").write_text(page(results), encoding="utf-8")
    try:
        targets = [str(out / f"cpu.{kind}") for kind in PICTURES]
        run([python("picture"), "-m", "benchmarks.picture.draw", str(out / "cpu.json"), *targets])
    except Unavailable as reason:
        tell(f"no picture: {reason}")
    tell(f"written: {out}")


def _before(asked: argparse.Namespace) -> Results:
    """Everything but the measurements."""
    return Results(
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        commit=_commit(),
        machine=asdict(this_machine()),
        threads=asked.threads,
        rounds=asked.rounds,
        bandwidth_before=_bandwidth(asked),
        bandwidth_after={},
        cache_bytes=cache_bytes(),
        parameters={shape.name: _parameters(shape) for shape in asked.shapes},
        versions=_versions(asked.only),
        lines=[],
        start=None,
    )


def _compete(results: Results, shape: Shape, lines: list[Line], asked: argparse.Namespace, *, seed: int) -> None:
    contest = Contest(shape, lines, vocab_size=_config(shape)["vocab_size"], threads=asked.threads, seed=seed)
    results.lines.extend(contest.found.values())  # filled as it goes
    contest.run(asked.workloads, asked.rounds)


def _measure_start(results: Results, asked: argparse.Namespace) -> None:
    wanted = [shape for shape in asked.shapes if shape.name == START_SHAPE]
    if not wanted or OURS not in asked.only or "int4" not in asked.formats:
        return
    try:
        results.start = measure_start(wanted[0], threads=asked.threads, repeats=asked.rounds)
    except Unavailable as reason:
        results.start_reason = str(reason)


def _is_asked(line: Line, shape: Shape, weights: Format, only: Sequence[str]) -> bool:
    return line.format == weights and line.peer in only and shape.name in line.shapes


def _config(shape: Shape) -> dict[str, Any]:
    raw: dict[str, Any] = json.loads(shape.config.read_text(encoding="utf-8"))
    return raw


def _parameters(shape: Shape) -> int:
    """Weights that one decoded token reads: all linear layers and the head."""
    config = read_config(_config(shape))
    layers = config.num_layers * sum(one.outputs * one.inputs for one in layer_shapes(config))
    return layers + config.vocab_size * config.hidden_size


def _versions(peers: Sequence[str]) -> dict[str, str]:
    """Of the first package each requirements.txt names."""
    found = {}
    for peer in peers:
        if peer != OURS:
            pinned = re.search(r"^([\w-]+)==(\S+)", (ROOT / peer / "requirements.txt").read_text("utf-8"), re.MULTILINE)
            assert pinned is not None, "requirements are pinned"
            found[pinned[1]] = pinned[2]
    return found


def _commit() -> str:
    asked = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(asked, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _bandwidth(asked: argparse.Namespace) -> dict[str, float]:
    """Bytes per second read from memory, by the number of threads."""
    return {str(threads): rate for threads, rate in read_bandwidth(tuple(sorted({1, asked.threads}))).items()}


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.run", description="Measure burnish and its peers on this CPU.")
    shapes, workloads = {shape.name: shape for shape in SHAPES}, {work.name: work for work in WORKLOADS}
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS), metavar="PEER", help=", ".join(PEERS))
    parser.add_argument("--shapes", nargs="+", choices=list(shapes), default=list(shapes))
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--workloads", nargs="+", choices=list(workloads), default=list(workloads))
    parser.add_argument("--rounds", type=_positive, default=5)
    parser.add_argument("--threads", type=_positive, default=this_machine().num_cores)
    parser.add_argument("--quick", action="store_true", help="one round, the 143M shape")
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args(arguments)
    if asked.quick:
        asked.rounds, asked.shapes = 1, ["143m"]
    asked.shapes = [shapes[name] for name in asked.shapes]
    asked.workloads = [workloads[name] for name in asked.workloads]
    return asked


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


if __name__ == "__main__":
    main()
