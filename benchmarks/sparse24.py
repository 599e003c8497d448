"""What 2:4 sparse weights of eight bits gain at decode: compiles and runs ``sparse24.cpp``, prints its tables.

    python -m benchmarks.sparse24 [LAYERS REPEATS]

A layer is that of a 1.1B Llama, q/k/v and gate/up fused as the kernels run them; a decode step is 22 of them and a
head. Others on the machine make single passes slower, never faster: the fastest pass stands beside the median.
"""

import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.environments import run
from benchmarks.peers import ROOT

SOURCE = ROOT / "sparse24.cpp"
KERNELS = ROOT.parent / "src" / "burnish" / "kernels" / "cpu"
FLAGS = ("-std=c++20", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-mavx2", "-mfma", "-mf16c")
LAYERS, REPEATS = 8, 40
DENSE, HEAD, NUM_LAYERS = "int8", "head", 22


class Line(NamedTuple):
    """One figure: a way, where its weights come from, and the seconds of one product."""

    way: str
    place: str
    threads: int
    shape: str
    weights: int
    num_bytes: int
    seconds: float  # the median of all passes
    least: float  # the fastest pass


class Column(NamedTuple):
    """What stands above a column, and the figures of it, by way."""

    place: str
    threads: int
    shape: str


class Total(NamedTuple):
    """Bytes read and the seconds that took."""

    num_bytes: int
    seconds: float
    least: float

    def plus(self, line: Line, times: int) -> "Total":
        """The same and so many products more."""
        num_bytes = self.num_bytes + times * line.num_bytes
        return Total(num_bytes, self.seconds + times * line.seconds, self.least + times * line.least)


NOTHING = Total(0, 0.0, 0.0)


def measure(layers: int, repeats: int) -> list[Line]:
    """Compile and run the study. Raises ``Unavailable`` without a compiler, ``CalledProcessError`` when sums differ."""
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "sparse24")
        run(["c++", *FLAGS, "-pthread", f"-I{KERNELS}", "-o", program, str(SOURCE), str(KERNELS / "pool.cpp")])
        found = subprocess.run([program, str(layers), str(repeats)], check=True, stdout=subprocess.PIPE, text=True)
    return [_read(line) for line in found.stdout.splitlines()]


def _read(line: str) -> Line:
    way, place, threads, shape, weights, num_bytes, seconds, least = line.split()
    return Line(way, place, int(threads), shape, int(weights), int(num_bytes), float(seconds), float(least))


def table(lines: Iterable[Line]) -> Iterator[str]:
    """GB/s and how many times as fast as dense eight bits, by the median and by the fastest pass."""
    found: dict[Column, dict[str, Total]] = defaultdict(dict)
    for line in lines:
        found[Column(line.place, line.threads, line.shape)][line.way] = NOTHING.plus(line, 1)
        if line.place == "memory":
            step = found[Column(line.place, line.threads, "decode step")]
            step[line.way] = step.get(line.way, NOTHING).plus(line, 1 if line.shape == HEAD else NUM_LAYERS)
    ways = list(next(iter(found.values())))
    yield f"| GB/s: times int8, median / fastest | {' | '.join(ways)} |"
    yield f"|---|{'---:|' * len(ways)}"
    for column, totals in found.items():
        cells = (_cell(totals[way], totals[DENSE]) for way in ways)
        yield f"| {column.place}, {column.threads} threads: {column.shape} | {' | '.join(cells)} |"


def _cell(one: Total, dense: Total) -> str:
    rate = one.num_bytes / one.least / 1e9
    return f"{rate:.1f}: {dense.seconds / one.seconds:.2f} / {dense.least / one.least:.2f}"


def main() -> None:
    """Measure and print."""
    layers, repeats = map(int, sys.argv[1:3]) if len(sys.argv) > 2 else (LAYERS, REPEATS)
    sys.stdout.write("".join(f"{line}\n" for line in table(measure(layers, repeats))))


if __name__ == "__main__":
    main()
