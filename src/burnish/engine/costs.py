"""What a step costs: its forward pass by rows, measured before and while it serves, and what surrounds it in Python."""

import time
from bisect import bisect_left

import numpy as np

from burnish.plan.executor import Executor
from burnish.plan.ops import Arena, StepInputs

ROWS = (*range(1, 11), 12, 16, 24, 32, 48, 64)
RUNS = 3
FRESH = 0.05  # of itself that a cost moves by at most with a new measurement: a step that was held up says little
FASTEST_S = 1e-7  # of a clock that does not move
REMEMBERED = 0.99  # of what surrounded earlier steps, with each step
LATE = 2.0  # times what is usual: a step that something else held up says nothing
STEADY = 10  # steps after which it is known what is usual
DRAFT_SHARE = 0.25  # of what surrounds a sequence, for each of its drafts, before it is measured
ANY_DRAFT = 2  # drafts' worth of time that a step with any takes more


class StepCosts:
    """Seconds of a step.

    ``forward``: of the forward pass by its rows, as measured; between these rows lie straight lines. What surrounds it
    is a line in the number of sequences, and so much for every draft. All of it is measured on.
    """

    def __init__(self, forward: dict[int, float]) -> None:
        self._rows = sorted(forward)
        self._forward_s = [max(forward[rows], FASTEST_S) for rows in self._rows]
        self._around = _Line()
        self._draft_s: float | None = None

    def forward_s(self, rows: int) -> float:
        """Of a forward pass with that many rows; beyond the largest in proportion."""
        at = bisect_left(self._rows, rows)
        if at == len(self._rows):
            return self._forward_s[-1] * rows / self._rows[-1]
        if at == 0 or self._rows[at] == rows:
            return self._forward_s[at]
        share = (rows - self._rows[at - 1]) / (self._rows[at] - self._rows[at - 1])
        return self._forward_s[at - 1] + share * (self._forward_s[at] - self._forward_s[at - 1])

    def plain_s(self, rows: int, sequences: int) -> float:
        """Of a step without drafts."""
        return self.forward_s(rows) + self._around.value(sequences)

    def drafts_s(self, rows: int, drafts: int) -> float:
        """What so many drafts add to a step of that many rows, their writing aside."""
        return self.forward_s(rows + drafts) - self.forward_s(rows) + self._each_s * (drafts + ANY_DRAFT)

    def learn(self, sequences: int, drafts: int, forward_s: float, step_s: float) -> None:
        """A step of that many sequences, a row each, and so many drafts took so long, their writing aside."""
        self._learn_forward(sequences + drafts, forward_s)
        around_s = step_s - forward_s
        if not drafts:
            self._around.learn(sequences, around_s)
            return
        each = max(0.0, around_s - self._around.value(sequences)) / (drafts + ANY_DRAFT)
        self._draft_s = _moved(self._each_s, each)

    @property
    def _each_s(self) -> float:
        """What Python does for a draft."""
        return self._around.value(1) * DRAFT_SHARE if self._draft_s is None else self._draft_s

    def _learn_forward(self, rows: int, seconds: float) -> None:
        """The nearest measured number of rows takes note."""
        if rows > self._rows[-1] or seconds <= 0:
            return
        at = min(bisect_left(self._rows, rows), len(self._rows) - 1)
        scaled = seconds * self._forward_s[at] / self.forward_s(rows)
        self._forward_s[at] = _moved(self._forward_s[at], scaled)


def _moved(known: float, new: float) -> float:
    """A cost after one more measurement."""
    most = FRESH * max(known, FASTEST_S)
    return known + min(max(new - known, -most), most)


class _Line:
    """A line through points, the latest counting most."""

    def __init__(self) -> None:
        self._num_seen = 0
        self._weight = self._x = self._y = self._xx = self._xy = 0.0

    def value(self, x: float) -> float:
        """At ``x``, never below nothing; 0 before anything is known."""
        if not self._weight:
            return 0.0
        mean_x, mean_y = self._x / self._weight, self._y / self._weight
        spread = self._xx / self._weight - mean_x**2
        slope = max(0.0, self._xy / self._weight - mean_x * mean_y) / (spread + 0.01) if spread > 0 else 0.0
        return max(0.0, mean_y + slope * (x - mean_x))

    def learn(self, x: float, y: float) -> None:
        """A point; one far above the line is left out."""
        if self._num_seen > STEADY and y > LATE * self.value(x):
            return
        self._num_seen += 1
        self._weight = self._weight * REMEMBERED + 1
        self._x = self._x * REMEMBERED + x
        self._y = self._y * REMEMBERED + y
        self._xx = self._xx * REMEMBERED + x * x
        self._xy = self._xy * REMEMBERED + x * y


def measure_costs(executor: Executor, arena: Arena) -> StepCosts:
    """Time forward passes of single sequences, the fastest of a few each.

    Nothing may be served yet: blocks are written.
    """
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
