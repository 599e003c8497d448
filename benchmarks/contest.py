"""Peers in turn: only one computes at a time, and all see the machine's weather of the same hour."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.environments import Unavailable, folder_bytes, python, tell
from benchmarks.machine import clock, cores_of_others
from benchmarks.models import FOLDER, model
from benchmarks.peers import Line, Shape
from benchmarks.protocol import Generate
from benchmarks.results import Measured
from benchmarks.worker import Worker, process_cpu_s
from benchmarks.workloads import Workload, order, tokens_per_s

FOOTPRINT = 2.2  # most bytes resident, at times, per byte of weights on disk: twice for float32 made of bfloat16
SHARE_OF_MEMORY = 0.8  # the rest is for keys, values and everybody else


class Turn(NamedTuple):
    """One run."""

    line: Line
    workload: Workload
    round: int


class _Run(NamedTuple):
    tokens_per_s: float
    cores_of_others: float


def turns(lines: Sequence[Line], workloads: Sequence[Workload], rounds: int, *, all_fit: bool) -> Iterator[Turn]:
    """A B A B for every workload; if not all fit in memory at once, a loaded peer runs each workload once."""
    if all_fit:
        yield from (Turn(line, work, number) for work in workloads for number in range(rounds) for line in lines)
    else:
        yield from (Turn(line, work, number) for number in range(rounds) for line in lines for work in workloads)


class Contest:
    """The lines of one shape and format."""

    def __init__(self, shape: Shape, lines: Sequence[Line], *, vocab_size: int, threads: int, seed: int) -> None:
        self._shape, self._threads, self._vocab_size = shape, threads, vocab_size
        self._source = random.Random(seed)
        self._loaded: dict[Line, Worker] = {}
        self._models: dict[Line, str] = {}
        self.found = {
            line: Measured(shape=shape.name, format=line.format, peer=line.peer, variant=line.variant, label=line.label)
            for line in lines
        }

    def run(self, workloads: Sequence[Workload], rounds: int) -> list[Measured]:
        """Everything; what fails is noted and left out from there on."""
        for line, found in self.found.items():
            try:
                python(line.peer)
                self._models[line] = model(self._shape, line)
            except Unavailable as reason:
                found.reason = str(reason)
        lines = list(self._models)
        all_fit = sum(map(self._need, lines)) < SHARE_OF_MEMORY * _memory("MemAvailable")
        try:
            for turn in turns(lines, workloads, rounds, all_fit=all_fit):
                if self.found[turn.line].reason is None:
                    self._take(turn)
        finally:
            for worker in self._loaded.values():
                worker.close()
        return list(self.found.values())

    def _take(self, turn: Turn) -> None:
        found = self.found[turn.line]
        try:
            run = self._measure(self._worker(turn.line), turn)
        except Unavailable as reason:
            found.reason = str(reason)
            if turn.line in self._loaded:
                self._loaded.pop(turn.line).close()
            tell(f"{self._shape.name} {turn.line.label}: {reason}")
            return
        found.runs.setdefault(turn.workload.name, []).append(run.tokens_per_s)
        found.others.setdefault(turn.workload.name, []).append(run.cores_of_others)
        what = f"{self._shape.name} {turn.workload.name} round {turn.round + 1} {turn.line.label}"
        tell(f"{what}: {run.tokens_per_s:.1f} tokens/s, others used {run.cores_of_others:.2f} cores")

    def _measure(self, worker: Worker, turn: Turn) -> _Run:
        asked = order(turn.workload, self._vocab_size, self._source)
        worker.generate(Generate(prompts=[prompt[:8] for prompt in asked.prompts], new_tokens=2))  # awake again
        asked = order(turn.workload, self._vocab_size, self._source)
        before, own_before = clock(), worker.cpu_s() + process_cpu_s("self")
        told = worker.generate(asked)
        after, own_after = clock(), worker.cpu_s() + process_cpu_s("self")
        self.found[turn.line].peak_rss_bytes = told.peak_rss_bytes
        others = cores_of_others(before, after, own_after - own_before)
        return _Run(tokens_per_s(turn.workload, told.token_s), others)

    def _worker(self, line: Line) -> Worker:
        """The line's worker, loaded in place of those not asked for longest when memory demands it."""
        if line in self._loaded:
            self._loaded[line] = self._loaded.pop(line)
            return self._loaded[line]
        while self._loaded and self._need(line) > SHARE_OF_MEMORY * _memory("MemAvailable"):
            self._loaded.pop(next(iter(self._loaded))).close()
        worker = Worker(python(line.peer), line.peer, self._models[line], line.variant, self._threads)
        self._loaded[line] = worker
        found = self.found[line]
        if found.ready_s is None:
            found.ready_s, found.read_bytes = worker.ready.ready_s, worker.ready.read_bytes
        return worker

    def _need(self, line: Line) -> int:
        """Bytes the line may take; random weights at most those of the checkpoint, if others need one."""
        stored = Path(self._models[line])
        return int(FOOTPRINT * folder_bytes(stored if stored.is_dir() else FOLDER / self._shape.name / "checkpoint"))


def _memory(field: str) -> int:
    """A line of /proc/meminfo, in bytes."""
    for text in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        name, _, value = text.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise Unavailable(f"/proc/meminfo has no {field}")
