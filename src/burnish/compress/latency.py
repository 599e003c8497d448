"""What a product costs at decode: nanoseconds of one row through the native kernels, measured on this machine.

Every product is measured once, as part of a program of the plan executor: as many copies of its weight as a model has
bytes, or as no cache holds, one after the other, so that weights come from where a decode step finds them. The formats
of one shape take turns, round by round, and the median of the rounds counts.
"""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from types import ModuleType
from typing import NamedTuple

from burnish.core.errors import BadSettings
from burnish.core.records import LatencyRecord, ProductCost
from burnish.kernels.native import best_body, native
from burnish.kernels.tiles import Tiles
from burnish.kernels.timing import TimedProduct, random_panel
from burnish.models.formats.base import WeightFormat
from burnish.models.formats.integer import IntegerFormat

ROUNDS = 31
LEAST_ROUNDS, SECONDS = 5, 4.0  # of a product: on a busy machine fewer rounds, but no fewer than these
REFERENCE = "int8"  # whose time a budget is a share of


class Product(NamedTuple):
    """Layers that are one product: their outputs together, and their inputs."""

    outputs: int
    inputs: int


class Costs:
    """Nanoseconds of products, by format."""

    def __init__(self, measured: Mapping[tuple[Product, str], int], *, threads: int, body: str) -> None:
        self._measured, self._threads, self._body = measured, threads, body

    def of(self, product: Product, weight_format: WeightFormat) -> int:
        """What one row costs."""
        return self._measured[product, weight_format.name]

    def record(self, share: float, products: Sequence[tuple[Product, str]]) -> LatencyRecord:
        """What was measured, and what it comes to for products in the formats chosen; ``share`` was allowed."""
        reference = sum(self._measured[product, REFERENCE] for product, _ in products)
        reached = sum(self._measured[chosen] for chosen in products)
        costs = (
            ProductCost(outputs=product.outputs, inputs=product.inputs, format=name, nanoseconds=found)
            for (product, name), found in self._measured.items()
        )
        return LatencyRecord(
            allowed_share=share,
            reached_share=reached / reference,
            threads=self._threads,
            kernels=self._body,
            costs=tuple(costs),
        )


def need_native(recipe_name: str) -> ModuleType:
    """The native kernels. Raises ``BadSettings`` where there are none."""
    module = native()
    if module is None:
        raise BadSettings(
            f"recipe {recipe_name!r} has latency_share, which is measured on the native kernels, and there are none",
            remedy="Install again with a C++ compiler, or use average_bits",
        )
    return module


def measure_costs(
    wanted: Iterable[tuple[Product, WeightFormat]], num_weights: int, module: ModuleType, *, rounds: int = ROUNDS
) -> Costs:
    """Measure every product in every format wanted of it. ``num_weights``: of the whole model."""
    threads, body = len(os.sched_getaffinity(0)), best_body(module)
    by_product: dict[Product, dict[str, WeightFormat]] = {}
    for product, weight_format in wanted:
        by_product.setdefault(product, {})[weight_format.name] = weight_format
    found = dict[tuple[Product, str], int]()
    for product, formats in by_product.items():
        tiles = {name: _panel(product, one) for name, one in formats.items()}
        likes = {name: _Like(one.kind, one.group, one.asymmetric) for name, one in tiles.items()}
        programs = {
            likes[name]: TimedProduct(product.outputs, one, num_weights, module, threads=threads, body=body)
            for name, one in tiles.items()
        }
        times = list[dict[_Like, float]]()
        begun = time.perf_counter()
        while len(times) < rounds and (len(times) < LEAST_ROUNDS or time.perf_counter() - begun < SECONDS):
            times.append({like: program.run() for like, program in programs.items()})
        for name, like in likes.items():
            found[product, name] = max(1, round(median(one[like] for one in times) * 1e9))
    return Costs(found, threads=threads, body=body)


class _Like(NamedTuple):
    """What makes two formats one to the kernels: those of fewer than four bits run as four."""

    kind: str
    group: int
    asymmetric: bool


def _panel(product: Product, weight_format: WeightFormat) -> Tiles:
    """One panel of a random weight."""
    if not isinstance(weight_format, IntegerFormat):
        return random_panel("bf16", product.inputs)
    group = weight_format.group_size or 0
    return random_panel(weight_format.kind, product.inputs, group, asymmetric=weight_format.asymmetric)
