"""The limits of this machine, measured: how fast it reads, by how much it reads, and how fast our kernels multiply.

A roofline (Williams, Waterman, Patterson 2009): an operation takes at least as long as its bytes take to be read, and
at least as long as its products take to be computed; the longer of the two is its limit.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
from pydantic import TypeAdapter, ValidationError

from burnish import __version__
from burnish.core.errors import BadSettings
from burnish.core.folders import cache_folder
from burnish.kernels.native import best_body, native
from burnish.kernels.tiles import Kind
from burnish.kernels.timing import TimedProduct, random_panel
from burnish.measure.diagnose.operations import Work
from burnish.measure.machine import Machine, this_machine

KINDS: tuple[Kind, ...] = ("f32", "bf16", "int8", "int4")
READ_BYTES = tuple(1 << power for power in (18, 20, 22, 23, 24, 25, 26, 28))
PASSES = 10
INT4_GROUP = 32  # inputs that share a scale
OUTPUTS, INPUTS, ROWS, RUNS = 256, 1024, 60, 25  # of a product that the caches hold


class ReadRate(NamedTuple):
    """How fast memory of a size is read."""

    num_bytes: int
    bytes_per_s: float


class ProductRate(NamedTuple):
    """How many multiply-adds of a kind of weight our kernels do, all rows and weights being at hand."""

    kind: Kind
    products_per_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Ceilings:
    """What bounds any model on this machine, all threads together."""

    version: str
    machine: Machine
    threads: int
    kernels: str
    reads: tuple[ReadRate, ...]  # from the smallest
    products: tuple[ProductRate, ...]

    def read_rate(self, num_bytes: float) -> float:
        """Bytes per second of something that is read over and over and has that size, between the sizes measured."""
        sizes = [math.log(rate.num_bytes) for rate in self.reads]
        return float(np.interp(math.log(max(1.0, num_bytes)), sizes, [rate.bytes_per_s for rate in self.reads]))

    def product_rate(self, kind: Kind) -> float:
        """Multiply-adds per second; kinds that were not measured run on the kernels of the next wider."""
        known = {rate.kind: rate.products_per_s for rate in self.products}
        return known[kind] if kind in known else known["int8" if kind == "sparse8" else "f32"]

    def limit_s(self, work: Work, kind: Kind, model_bytes: float) -> float:
        """The least time an operation can take in a model whose weights and keys have that many bytes."""
        reading = work.weight_bytes / self.read_rate(model_bytes) + work.row_bytes / self.reads[0].bytes_per_s
        return max(reading, work.products / self.product_rate(kind))

    def ridge(self, kind: Kind, model_bytes: float) -> float:
        """Multiply-adds per byte from which on reading is no longer what limits."""
        return self.product_rate(kind) / self.read_rate(model_bytes)


_CEILINGS = TypeAdapter(Ceilings)


def ceilings(threads: int, *, again: bool = False, progress: Callable[[int, int], None] | None = None) -> Ceilings:
    """The limits with that many threads, measured once and kept in the cache.

    ``progress``: (done, in all). Raises ``BadSettings`` where there are no native kernels.
    """
    module = native()
    if module is None:
        raise BadSettings("this installation has no native kernels to measure", remedy="Install with a C++ compiler")
    kept = cache_folder() / f"ceilings-{threads}.json"
    found = None if again else _read(kept)
    conditions = (__version__, this_machine(), threads, best_body(module))
    if found is not None and (found.version, found.machine, found.threads, found.kernels) == conditions:
        return found
    measured = _measure(module, conditions, progress)
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(_CEILINGS.dump_json(measured))
    return measured


def _read(kept: Path) -> Ceilings | None:
    try:
        return _CEILINGS.validate_json(kept.read_bytes())
    except (OSError, ValidationError):
        return None


def _measure(
    module: ModuleType,
    conditions: tuple[str, Machine, int, str],
    progress: Callable[[int, int], None] | None,
) -> Ceilings:
    version, machine, threads, body = conditions
    reads = partial(module.read_rate, threads=threads, passes=PASSES)
    steps: Sequence[Callable[[], ReadRate | ProductRate]] = [
        *(partial(lambda size: ReadRate(size, reads(num_bytes=size)), size) for size in READ_BYTES),
        *(partial(_product_rate, kind, module, threads, body) for kind in KINDS),
    ]
    found = list[ReadRate | ProductRate]()
    for step in steps:
        found.append(step())
        if progress is not None:
            progress(len(found), len(steps))
    return Ceilings(
        version=version,
        machine=machine,
        threads=threads,
        kernels=body,
        reads=tuple(rate for rate in found if isinstance(rate, ReadRate)),
        products=tuple(rate for rate in found if isinstance(rate, ProductRate)),
    )


def _product_rate(kind: Kind, module: ModuleType, threads: int, body: str) -> ProductRate:
    """The best of several runs: others on the machine only ever make it slower."""
    timed = TimedProduct(
        OUTPUTS,
        random_panel(kind, INPUTS, INT4_GROUP if kind == "int4" else 0),
        1,
        module,
        threads=threads,
        body=body,
        max_rows=ROWS,
    )
    return ProductRate(kind, ROWS * OUTPUTS * INPUTS / min(timed.run(ROWS) for _ in range(RUNS)))
