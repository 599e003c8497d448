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
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from burnish.core.errors import BadSettings
from burnish.core.records import LatencyRecord, ProductCost
from burnish.kernels.native import best_body, native
from burnish.kernels.tiles import ALIGNMENT, PANEL, Tiles, pack_codes, pack_floats, tile_bytes
from burnish.models.formats.base import WeightFormat
from burnish.models.formats.integer import IntegerFormat

ROUNDS = 31
LEAST_ROUNDS, SECONDS = 5, 4.0  # of a product: on a busy machine fewer rounds, but no fewer than these
WORKING_BYTES = 128 << 20  # beyond the caches
MAX_COPIES = 512
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
            likes[name]: _Program(product, one, num_weights, module, threads=threads, body=body)
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
    packed = weight_format.random(PANEL, product.inputs, torch.Generator().manual_seed(0))
    if not isinstance(weight_format, IntegerFormat):
        return pack_floats(packed["weight"].numpy(), "bf16")
    codes, scales, zeros = weight_format.restore(packed)
    return pack_codes(
        codes.numpy(), scales.float().numpy(), None if zeros is None else zeros.numpy(), weight_format.kind
    )


class _Program:
    """A row is embedded and normed, then multiplied by copies of one weight."""

    def __init__(
        self, product: Product, panel: Tiles, num_weights: int, module: ModuleType, *, threads: int, body: str
    ) -> None:
        outputs, inputs = product
        self._program = module.Program(
            buffers=[inputs, inputs, -(-outputs // PANEL) * PANEL],
            max_rows=1,
            vocab_size=PANEL,
            keys="f32",
            num_layers=1,
            num_blocks=1,
            block_size=PANEL,
            num_kv_heads=1,
            head_dim=2,
            threads=threads,
            body=body,
        )
        is_integer = panel.scales is not None or panel.group > 0
        table = pack_floats(np.random.default_rng(0).standard_normal((PANEL, inputs), np.float32), "f32")
        self._program.embed(table=_held(table, table.data, PANEL, module), positions=None, scale=1.0, out=0)
        self._program.norm(
            is_rms=True,
            weight=np.ones(inputs, np.float32),
            bias=None,
            eps=1e-6,
            source=0,
            out=1,
            add=False,
            quantized=is_integer,
        )
        self._copies = _copies(product, panel, num_weights)
        for copy in self._copies:
            self._program.linear(
                weight=_held(panel, copy, outputs, module),
                bias=None,
                int8_activations=is_integer,
                source=1,
                out=2,
                column=0,
                add=False,
            )
        self.run()  # threads that sleep, pages that were never touched

    def run(self) -> float:
        """Seconds of one product."""
        zero, one = np.zeros(1, np.int32), np.ones(1, np.int32)
        self._program.profile(True)
        self._program.run(
            tokens=zero,
            positions=zero,
            slots=zero,
            query_lens=one,
            context_lens=one,
            block_tables=np.zeros((1, 1), np.int32),
            last_rows=zero,
        )
        seconds: list[float] = self._program.seconds
        return sum(seconds[2:]) / len(self._copies)  # behind those of embedding and norm


def _copies(product: Product, panel: Tiles, num_weights: int) -> list[NDArray[np.uint8]]:
    """The bytes of whole weights, each its own: as many as the model has, but no more than no cache holds."""
    panels = -(-product.outputs // PANEL)
    size = panels * tile_bytes(panel.kind, PANEL, product.inputs, panel.group, panel.asymmetric)
    of_model = -(-num_weights // (product.outputs * product.inputs))
    count = max(1, min(of_model, -(-WORKING_BYTES // size), MAX_COPIES))
    room = np.empty(count * _up(size) + ALIGNMENT, np.uint8)  # in one piece, which numpy asks large pages for
    start = -room.ctypes.data % ALIGNMENT
    copies = [room[start + at * _up(size) :][:size] for at in range(count)]
    for copy in copies:
        copy.reshape(panels, -1)[:] = panel.data
    return copies


def _up(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _held(like: Tiles, data: NDArray[np.uint8], outputs: int, module: ModuleType) -> Any:
    panels = -(-outputs // PANEL)
    return module.Weight(
        kind=like.kind,
        outputs=outputs,
        inputs=like.inputs,
        group=like.group,
        asymmetric=like.asymmetric,
        data=data,
        scales=None if like.scales is None else np.tile(like.scales, panels),
    )
