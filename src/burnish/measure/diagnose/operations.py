"""What each operation of a plan moves and multiplies in a step: arithmetic on its shape and the step's.

Shapes: R rows (tokens of a step), S sequences, E hidden width, H query heads, G key/value heads, D head width.
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from burnish.core.types import KeyKind
from burnish.kernels.tiles import Kind, Tiles
from burnish.plan.ops import Attend, Embed, Gather, Keys, Linear, Operation, Plan, Softcap

FLOAT = 4  # bytes
Role = Literal["qkv", "out", "up", "down", "head", "attention", "other"]


class Step(NamedTuple):
    """The shape of a batch."""

    query_lens: NDArray[np.int32]  # (S,) rows of each sequence
    context_lens: NDArray[np.int32]  # (S,) keys its last row sees, itself included
    num_last: int  # rows whose logits are wanted

    @property
    def rows(self) -> int:
        """R."""
        return int(self.query_lens.sum())

    @property
    def is_decode(self) -> bool:
        """Whether every sequence has one row."""
        return bool((self.query_lens == 1).all())


class Work(NamedTuple):
    """What an operation does. Bytes count once, whatever a cache holds."""

    weight_bytes: float = 0.0  # of weights, keys and values: beyond the caches where a model is
    row_bytes: float = 0.0  # of activations, read and written
    products: float = 0.0  # multiply-adds

    def __add__(self, other: object) -> "Work":
        """Both."""
        assert isinstance(other, Work)
        return Work(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def intensity(self) -> float:
        """Multiply-adds per byte."""
        return self.products / (self.weight_bytes + self.row_bytes)


class Place(NamedTuple):
    """Where an operation stands in the model."""

    role: Role
    layer: int | None  # None: before or behind the blocks

    @property
    def name(self) -> str:
        """As reports write it."""
        return self.role if self.layer is None else f"{self.layer}.{self.role}"


def places(plan: Plan) -> list[Place]:
    """The place of every operation: a block begins with the products that feed ``Keys`` and ends before the next."""
    found, layer, role = list[Place](), 0, "qkv"
    for operation in plan.operations:
        name: Role = "other"
        if isinstance(operation, Linear):
            name = role  # type: ignore[assignment]
        elif isinstance(operation, Keys):
            role = "out"
        elif isinstance(operation, Attend):
            name = "attention"
        elif isinstance(operation, Gather):
            role = "head"
        is_outside = isinstance(operation, Embed | Gather | Softcap) or role == "head"
        found.append(Place(name, None if is_outside else layer))
        layer, role = _behind(operation, layer, role)
    return found


def _behind(operation: Operation, layer: int, role: str) -> tuple[int, str]:
    """The block and the role of the products that come next."""
    if isinstance(operation, Linear):
        if role == "out":
            return layer, "up"
        if role == "down":
            return layer + 1, "qkv"
    elif not isinstance(operation, Keys | Attend) and role == "up" and hasattr(operation, "activation"):
        return layer, "down"
    return layer, role


def work(operation: Operation, plan: Plan, step: Step, keys: KeyKind) -> Work:
    """What one operation does in one step."""
    rows = step.rows
    match operation:
        case Linear():
            weight = operation.weight
            rows = step.num_last if operation.out < 0 else rows
            moved = FLOAT * rows * (weight.inputs + weight.outputs)
            return Work(stored_bytes(weight), moved, float(rows) * weight.inputs * weight.outputs)
        case Attend():
            seen, pairs = _seen(step, operation.window)
            head = {"f32": 4 * operation.head_dim, "f16": 2 * operation.head_dim, "int8": operation.head_dim + 4}[keys]
            width = operation.num_heads * operation.head_dim
            return Work(2.0 * seen * operation.num_kv_heads * head, 2 * FLOAT * rows * width, 2.0 * pairs * width)
        case _:
            width = max(plan.buffers)
            return Work(row_bytes=2.0 * FLOAT * rows * width)


def stored_bytes(weight: Tiles) -> int:
    """Bytes that a product reads of its weight."""
    return weight.data.nbytes + (0 if weight.scales is None else weight.scales.nbytes)


def kind_of(operation: Operation) -> Kind:
    """What the operation multiplies: the kind of its weight, floats in attention and elsewhere."""
    return operation.weight.kind if isinstance(operation, Linear) else "f32"


def _seen(step: Step, window: int | None) -> tuple[int, int]:
    """Keys that are read, every one once a sequence, and pairs of a row and a key it sees."""
    lens, contexts = step.query_lens.astype(np.int64), step.context_lens.astype(np.int64)
    limit = int(contexts.max()) if window is None else window
    read = np.minimum(contexts, limit + lens - 1).sum()
    pairs = sum(
        int(np.minimum(np.arange(context - rows + 1, context + 1), limit).sum())
        for rows, context in zip(lens.tolist(), contexts.tolist(), strict=True)
    )
    return int(read), pairs
