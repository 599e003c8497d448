"""What a product costs on this machine, its weights coming from where a model's come from.

A product is timed inside a program of the plan executor: as many copies of its weight as a model has bytes, or as no
cache holds, one after the other. Shapes: O outputs, I inputs.
"""

from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burnish.kernels.tiles import ALIGNMENT, PANEL, Kind, Tiles, pack_codes, pack_floats, tile_bytes

WORKING_BYTES = 128 << 20  # beyond the caches
MAX_COPIES = 512


class TimedProduct:
    """Rows are embedded and normed, then multiplied by copies of one weight of so many outputs, as ``panel`` is stored.

    ``num_weights``: of the whole model, whose bytes are where the copies' are. Integer weights take rounded rows.
    """

    def __init__(
        self,
        outputs: int,
        panel: Tiles,
        num_weights: int,
        module: ModuleType,
        *,
        threads: int,
        body: str,
        max_rows: int = 1,
    ) -> None:
        inputs = panel.inputs
        self._program = module.Program(
            buffers=[inputs, inputs, -(-outputs // PANEL) * PANEL],
            max_rows=max_rows,
            vocab_size=PANEL,
            keys="f32",
            num_layers=1,
            num_blocks=-(-max_rows // PANEL),
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
        self._copies = _copies(outputs, panel, num_weights)
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

    def run(self, rows: int = 1) -> float:
        """Seconds of one product of so many rows, the mean over the copies."""
        zeros, length = np.zeros(rows, np.int32), np.full(1, rows, np.int32)
        self._program.profile(True)
        self._program.run(
            tokens=zeros,
            positions=zeros,
            slots=zeros,
            query_lens=length,
            context_lens=length,
            block_tables=np.zeros((1, -(-rows // PANEL)), np.int32),
            last_rows=zeros[:1],
        )
        seconds: list[float] = self._program.seconds
        return sum(seconds[2:]) / len(self._copies)  # behind those of embedding and norm


def random_panel(kind: Kind, inputs: int, group: int = 0, *, asymmetric: bool = False) -> Tiles:
    """A panel of a weight as the kernels take it; ``group`` 0: one scale per output."""
    random = np.random.default_rng(0)
    if kind in ("f32", "f16", "bf16"):
        values = random.integers(-64, 64, (PANEL, inputs)).astype(np.float32) / np.float32(64)  # exact in every kind
        return pack_floats(values, kind)
    highest = 128 if kind != "int4" else 8
    codes = random.integers(-highest, highest, (PANEL, inputs)).astype(np.int8)
    if kind == "sparse8":
        codes[:, ::2] = 0
    num_groups = -(-inputs // (group or inputs))
    zeros = np.full((PANEL, num_groups), 8, np.int8) if asymmetric else None
    scales = np.full((PANEL, num_groups), 1 / 64, np.float32)
    return pack_codes(codes + np.int8(8) if asymmetric else codes, scales, zeros, kind)


def _copies(outputs: int, panel: Tiles, num_weights: int) -> list[NDArray[np.uint8]]:
    """The bytes of whole weights, each its own: as many as the model has, but no more than no cache holds."""
    panels = -(-outputs // PANEL)
    size = panels * tile_bytes(panel.kind, PANEL, panel.inputs, panel.group, panel.asymmetric)
    of_model = -(-num_weights // (outputs * panel.inputs))
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
