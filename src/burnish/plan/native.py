"""The native executor: a plan's operations in C++, one call per batch. Loads no torch."""

from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from burnish.kernels.native import best_body
from burnish.kernels.tiles import Tiles
from burnish.plan.ops import (
    Activate,
    Arena,
    Attend,
    Embed,
    Floats,
    Gate,
    Gather,
    Keys,
    Linear,
    Norm,
    Operation,
    Plan,
    Softcap,
    StepInputs,
)


class NativeExecutor:
    """Runs a plan on the CPU. Owns the keys and values; the plan's arrays must not change."""

    def __init__(self, plan: Plan, arena: Arena, module: ModuleType, *, body: str | None = None) -> None:
        shape = plan.shape
        self._module = module
        self._weights: dict[int, object] = {}
        self._program = module.Program(
            buffers=list(plan.buffers),
            max_rows=arena.max_rows,
            vocab_size=shape.vocab_size,
            keys=arena.keys,
            num_layers=shape.num_layers,
            num_blocks=arena.num_blocks,
            block_size=arena.block_size,
            num_kv_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            threads=arena.threads,
            body=body or best_body(module),
        )
        for operation in plan.operations:
            self._append(operation)
        self._owner = plan  # whose arrays the program points into

    def __call__(self, inputs: StepInputs) -> Floats:
        """Logits of the last rows (last rows, V). Raises ``ValueError`` for inputs that point nowhere."""
        logits: NDArray[np.float32] = self._program.run(**inputs._asdict())
        return logits

    def profile(self, on: bool) -> None:
        """Count the seconds of every operation from zero, or no more."""
        self._program.profile(on)

    def seconds(self) -> list[float]:
        """Of every operation in their order, since ``profile``."""
        seconds: list[float] = self._program.seconds
        return seconds

    def _append(self, op: Operation) -> None:
        program = self._program
        match op:
            case Embed():
                table, positions = self._weight(op.table), self._weight(op.positions)
                program.embed(table=table, positions=positions, scale=op.scale, out=op.out)
            case Norm():
                program.norm(
                    is_rms=op.kind == "rms",
                    weight=op.weight,
                    bias=op.bias,
                    eps=op.eps,
                    source=op.source,
                    out=op.out,
                    add=op.add,
                    quantized=op.quantized,
                )
            case Linear():
                program.linear(
                    weight=self._weight(op.weight),
                    bias=op.bias,
                    int8_activations=op.activations == "int8",
                    source=op.source,
                    out=op.out,
                    column=op.column,
                    add=op.add,
                )
            case Keys():
                program.keys(
                    layer=op.layer,
                    num_heads=op.num_heads,
                    q_norm=op.q_norm,
                    k_norm=op.k_norm,
                    eps=op.eps,
                    cos=op.cos,
                    sin=op.sin,
                    source=op.source,
                )
            case Attend():
                program.attend(
                    layer=op.layer,
                    num_heads=op.num_heads,
                    scale=op.scale,
                    window=op.window or 0,
                    softcap=op.softcap or 0.0,
                    source=op.source,
                    out=op.out,
                    quantized=op.quantized,
                )
            case Gate() | Activate():
                program.gate(
                    activation=op.activation,
                    width=op.width,
                    gated=isinstance(op, Gate),
                    source=op.source,
                    out=op.out,
                    quantized=op.quantized,
                )
            case Gather():
                program.gather(source=op.source, out=op.out)
            case Softcap():
                program.softcap(buffer=op.buffer, cap=op.cap)

    def _weight(self, tiles: Tiles | None) -> object | None:
        """The same object for the same tiles: a tied head is stored once."""
        if tiles is None:
            return None
        if id(tiles) not in self._weights:
            self._weights[id(tiles)] = self._module.Weight(
                kind=tiles.kind,
                outputs=tiles.outputs,
                inputs=tiles.inputs,
                group=tiles.group,
                asymmetric=tiles.asymmetric,
                data=tiles.data,
                scales=tiles.scales,
            )
        return self._weights[id(tiles)]
