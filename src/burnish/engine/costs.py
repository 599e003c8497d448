"""What a step costs: seconds by the number of its rows, measured, and measured again while it serves."""

import time
from bisect import bisect_left

import numpy as np

from burnish.plan.executor import Executor
from burnish.plan.ops import Arena, StepInputs

ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
RUNS = 3
FRESH = 0.1  # weight of a new measurement
FASTEST_S = 1e-7  # of a clock that does not move


class StepCosts:
    """Seconds of a step by its rows: those measured, and between them straight lines."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self._rows = sorted(seconds)
        self._seconds = [max(seconds[rows], FASTEST_S) for rows in self._rows]

    def seconds(self, rows: int) -> float:
        """Of a step of that many rows; beyond the largest in proportion."""
        at = bisect_left(self._rows, rows)
        if at == len(self._rows):
            return self._seconds[-1] * rows / self._rows[-1]
        if at == 0 or self._rows[at] == rows:
            return self._seconds[at]
        share = (rows - self._rows[at - 1]) / (self._rows[at] - self._rows[at - 1])
        return self._seconds[at - 1] + share * (self._seconds[at] - self._seconds[at - 1])

    def learn(self, rows: int, seconds: float) -> None:
        """A step of that many rows took so long; the nearest measured number of rows takes note."""
        if rows > self._rows[-1] or seconds <= 0:
            return
        at = min(bisect_left(self._rows, rows), len(self._rows) - 1)
        scaled = seconds * self._seconds[at] / self.seconds(rows)
        self._seconds[at] += FRESH * (scaled - self._seconds[at])


def measure_costs(executor: Executor, arena: Arena) -> StepCosts:
    """Time steps of single sequences, the fastest of a few each. Nothing may be served yet: blocks are written."""
    most = min(arena.max_rows, arena.num_blocks * arena.block_size)
    found = {}
    for rows in (count for count in ROWS if count <= most):
        inputs = _inputs(rows, arena.block_size)
        times = []
        for _ in range(RUNS):
            begun_s = time.perf_counter()
            executor(inputs)
            times.append(time.perf_counter() - begun_s)
        found[rows] = min(times)
    return StepCosts(found)


def _inputs(rows: int, block_size: int) -> StepInputs:
    """So many tokens of one sequence, logits of all of them."""
    counted = np.arange(rows, dtype=np.int32)
    return StepInputs(
        tokens=np.zeros(rows, np.int32),
        positions=counted,
        slots=counted,
        query_lens=np.array([rows], np.int32),
        context_lens=np.array([rows], np.int32),
        block_tables=np.arange(-(-rows // block_size), dtype=np.int32)[np.newaxis],
        last_rows=counted,
    )
