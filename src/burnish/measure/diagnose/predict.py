"""What a change of a model's storage or of its batch would do to a step, predicted from single products.

Only products are timed, as a model of that size would run them; what else a step does keeps the time that was observed,
or grows with its rows. So a prediction costs a fraction of a second for every shape, and no model has to be made.
"""

import time
from collections.abc import Sequence
from functools import cache, partial
from types import ModuleType
from typing import NamedTuple

from burnish.kernels.native import best_body
from burnish.kernels.tiles import Kind, Tiles
from burnish.kernels.timing import TimedProduct, random_panel
from burnish.plan.ops import Linear, Plan

RUNS = 15
LEAST_RUNS, SECONDS = 3, 0.3  # of one product
MANY_ROWS = 64


class Storage(NamedTuple):
    """How weights lie for the kernels."""

    kind: Kind
    group: int = 0  # inputs that share a scale; 0: one per output
    asymmetric: bool = False

    @property
    def name(self) -> str:
        """As users write formats."""
        words = [self.kind, *([f"g{self.group}"] if self.group else []), *(["asym"] if self.asymmetric else [])]
        return "-".join(words)


def storage_of(weight: Tiles) -> Storage:
    """How a weight lies."""
    return Storage(weight.kind, weight.group, weight.asymmetric)


class Predictor:
    """Seconds of a plan's products in any storage and with any number of rows, measured once each."""

    def __init__(self, plan: Plan, module: ModuleType, *, threads: int, max_rows: int) -> None:
        self._products = [operation for operation in plan.operations if isinstance(operation, Linear)]
        self._num_weights = sum(product.weight.outputs * product.weight.inputs for product in self._products)
        self._make = partial(TimedProduct, module=module, threads=threads, body=best_body(module), max_rows=max_rows)
        self.seconds = cache(self._seconds)

    def speed_up(self, product: Linear, storage: Storage, rows: int) -> float:
        """How many times as fast a product would be in another storage, at so many rows."""
        weight = product.weight
        own = self.seconds(weight.outputs, weight.inputs, storage_of(weight), rows)
        return own / self.seconds(weight.outputs, weight.inputs, fitting(storage, weight.inputs), rows)

    def growth(self, product: Linear, rows: int, more: int) -> float:
        """How many times as long a product takes with ``more`` rows."""
        weight, storage = product.weight, storage_of(product.weight)
        one, other = (self.seconds(weight.outputs, weight.inputs, storage, count) for count in (rows, more))
        return other / one

    def _seconds(self, outputs: int, inputs: int, storage: Storage, rows: int) -> float:
        panel = random_panel(storage.kind, inputs, storage.group, asymmetric=storage.asymmetric)
        # many rows use a weight so often that it does not matter where it came from
        timed = self._make(outputs, panel, self._num_weights if rows < MANY_ROWS else 1)
        times, begun = list[float](), time.perf_counter()
        while len(times) < RUNS and (len(times) < LEAST_RUNS or time.perf_counter() - begun < SECONDS):
            times.append(timed.run(rows))
        return min(times)  # others on the machine only ever make it slower


def fitting(storage: Storage, inputs: int) -> Storage:
    """The storage with the largest group that divides the inputs; int8 where none does."""
    if not storage.group:
        return storage
    sizes: Sequence[int] = [size for size in (128, 64, 32) if size <= storage.group and inputs % size == 0]
    return storage._replace(group=sizes[0]) if sizes else Storage("int8")
