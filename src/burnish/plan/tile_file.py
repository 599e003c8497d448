"""A plan on disk: arrays one after the other, as they are used in memory, then the operations that point to them.

Layout: 64 bytes of preamble (magic, offset, length and sha256 of the description), the arrays, each aligned to 64
bytes, and the description in JSON. The preamble is written last, so a file that was cut short is never mistaken for
a whole one.
"""

import hashlib
import json
import math
import mmap
import os
import struct
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from burnish.core.errors import BadCheckpoint
from burnish.kernels.tiles import ALIGNMENT, Tiles
from burnish.plan import ops
from burnish.plan.ops import Linear, Operation, Plan, PlanShape

MAGIC = b"burnish1"
VERSION = 1  # of this layout, of the tiles and of what lowering makes of a model
READERS, PIECE_BYTES = 2, 32 << 20  # reading is mostly the zeroing and filling of pages: two do it faster than one
_PREAMBLE = struct.Struct("<8sQQ32s8x")
_KINDS: dict[str, Any] = {kind.__name__: kind for kind in (*get_args(ops.Operation), Tiles)}


class Lowered(NamedTuple):
    """A plan whose operations come one at a time, so that a large model is never held twice."""

    shape: PlanShape
    buffers: tuple[int, ...]
    weights: str
    operations: Iterable[Operation]


def collect(lowered: Lowered) -> Plan:
    """All of a plan in memory."""
    operations = tuple(lowered.operations)
    return Plan(shape=lowered.shape, buffers=lowered.buffers, weights=lowered.weights, operations=operations)


def write_plan(lowered: Lowered, path: Path, key: str) -> None:
    """Write a plan; what lies at ``path`` is whole only when this returns."""
    with path.open("wb") as file:
        file.write(bytes(_PREAMBLE.size))
        writer = _Writer(file)
        operations = [writer.describe(operation) for operation in lowered.operations]
        description = {
            "version": VERSION,
            "key": key,
            "shape": lowered.shape._asdict(),
            "buffers": lowered.buffers,
            "weights": lowered.weights,
            "operations": operations,
            "objects": writer.objects,
        }
        text = json.dumps(description).encode()
        offset = file.tell()
        file.write(text)
        file.seek(0)
        file.write(_PREAMBLE.pack(MAGIC, offset, len(text), hashlib.sha256(text).digest()))


class _Writer:
    """Arrays go to the file as they are met; one that is shared (a tied head, rotary tables) is written once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.objects: list[dict[str, Any]] = []
        self._known: dict[int, tuple[int, object]] = {}  # identity -> index, and the object, so that it stays unique

    def describe(self, value: Any, *, keep: bool = True) -> Any:
        """JSON for a field; arrays become the number of an object. ``keep``: it may be met again."""
        if isinstance(value, np.ndarray):
            return {"object": self._index(value, keep, self._array)}
        if isinstance(value, Tiles):
            return {"object": self._index(value, keep, self._fields)}
        return self._fields(value) if is_dataclass(value) else value

    def _fields(self, value: Any) -> dict[str, Any]:
        described = {
            field.name: self.describe(getattr(value, field.name), keep=_may_return(value)) for field in fields(value)
        }
        return {"is": type(value).__name__, **described}

    def _index(self, value: object, keep: bool, describe: Callable[[Any], dict[str, Any]]) -> int:
        if id(value) in self._known:
            return self._known[id(value)][0]
        described = describe(value)
        self.objects.append(described)
        index = len(self.objects) - 1
        if keep:
            self._known[id(value)] = index, value
        return index

    def _array(self, array: NDArray[Any]) -> dict[str, Any]:
        self._file.write(bytes(-self._file.tell() % ALIGNMENT))
        offset = self._file.tell()
        self._file.write(np.ascontiguousarray(array).data)
        return {"is": "array", "dtype": array.dtype.str, "shape": array.shape, "offset": offset}


def _may_return(owner: object) -> bool:
    """Weights of linears come once, except a head that is the embedding, which is known by then: hold no others."""
    return not isinstance(owner, Linear | Tiles)


def read_plan(path: Path, key: str) -> Plan:
    """Read a plan; its arrays are views of one piece of memory, and the file may be deleted meanwhile.

    Raises ``BadCheckpoint`` for a file that is cut short, not ours, of another version or made of another model.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < _PREAMBLE.size:
            raise _broken(path, "it is too short")
        mapped = _large_pages(file, size)
    magic, offset, length, digest = _PREAMBLE.unpack_from(mapped)
    if magic != MAGIC or offset + length != size:
        raise _broken(path, "it is cut short or not ours")
    text = mapped[offset : offset + length]
    if hashlib.sha256(text).digest() != digest:
        raise _broken(path, "its description is damaged")
    description = json.loads(text)
    if description["version"] != VERSION or description["key"] != key:
        raise _broken(path, "it belongs to another model or version")
    objects: list[Any] = []
    for described in description["objects"]:
        objects.append(_read(described, objects, mapped))
    return Plan(
        shape=PlanShape(**description["shape"]),
        buffers=tuple(description["buffers"]),
        operations=tuple(_read(described, objects, mapped) for described in description["operations"]),
        weights=description["weights"],
        owner=mapped,
    )


def _large_pages(file: BinaryIO, size: int) -> mmap.mmap:
    """The file in memory of 2 MB pages, which the kernels stream through faster than through a mapped file."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared memory has small pages only
    with suppress(OSError):  # a kernel without large pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    with memoryview(memory) as view, ThreadPoolExecutor(READERS) as readers:
        pieces = [view[at : at + PIECE_BYTES] for at in range(0, size, PIECE_BYTES)]
        for _ in readers.map(_fill, [file.fileno()] * len(pieces), pieces, range(0, size, PIECE_BYTES)):
            pass
    return memory


def _fill(file: int, piece: memoryview, offset: int) -> None:
    with piece:
        filled = 0
        while filled < len(piece) and (count := os.preadv(file, [piece[filled:]], offset + filled)):
            filled += count


def _read(described: Any, objects: list[Any], mapped: mmap.mmap) -> Any:
    if not isinstance(described, dict):
        return described
    if "object" in described:
        return objects[described["object"]]
    if described["is"] == "array":
        count = math.prod(described["shape"])
        flat: NDArray[Any] = np.frombuffer(mapped, described["dtype"], count, described["offset"])
        return flat.reshape(described["shape"])
    values = {name: _read(value, objects, mapped) for name, value in described.items() if name != "is"}
    return _KINDS[described["is"]](**values)


def _broken(path: Path, reason: str) -> BadCheckpoint:
    return BadCheckpoint(f"tile cache {str(path)!r} cannot be used: {reason}", remedy="It is made again")
