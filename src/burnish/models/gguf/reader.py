"""A GGUF file mapped into memory: its metadata and its tensors as stored. Loads no torch.

Source: ggml-org/ggml, docs/gguf.md, read by the library of the same project.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from gguf.constants import GGUFValueType
from gguf.gguf_reader import GGUFReader, ReaderField
from numpy.typing import NDArray

from burnish.core.errors import BadCheckpoint

T = TypeVar("T")
_FAULTS = (ValueError, IndexError, KeyError, TypeError, ArithmeticError, OSError)  # what the library says of bad bytes


class StoredTensor(NamedTuple):
    """A tensor of the file; blocks of quantized types are bytes (..., bytes of a row)."""

    type: str  # ggml's word: F32, Q4_0, ...
    shape: tuple[int, ...]  # of the values, outputs first
    data: NDArray[Any]


class Metadata:
    """The keys of a file with their values checked."""

    def __init__(self, fields: Mapping[str, ReaderField], file: str) -> None:
        self._fields, self._file = fields, file

    def __contains__(self, key: str) -> bool:
        return key in self._fields

    def get(self, key: str, kind: type[T], default: T | None = None) -> T | None:
        """The value of a key; an integer may stand for a float. Raises ``BadCheckpoint`` for another kind."""
        if key not in self._fields:
            return default
        try:
            value = _value(self._fields[key])
        except _FAULTS as error:
            raise self.fault(f"{key} cannot be read: {_line(error)}") from None
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.fault(f"{key} = {repr(value)[:80]} is no {kind.__name__}")
        return value

    def need(self, key: str, kind: type[T]) -> T:
        """The value of a key that must be there. Raises ``BadCheckpoint``."""
        value = self.get(key, kind)
        if value is None:
            raise self.fault(f"the metadata lacks {key}")
        return value

    def fault(self, reason: str, remedy: str = "Fetch the file again, or convert the model again") -> BadCheckpoint:
        """The error for metadata that cannot be used."""
        return BadCheckpoint(f"{self._file!r}: {reason}", remedy=remedy)


class GgufFile(NamedTuple):
    """A mapped file."""

    path: Path
    metadata: Metadata
    tensors: dict[str, StoredTensor]


def open_file(path: Path) -> GgufFile:
    """Map a file. Raises ``BadCheckpoint`` when it is truncated, in parts or no GGUF."""
    try:
        with np.errstate(over="raise"):  # sums of offsets that are none
            reader = _Reader(path, "c")
    except _FAULTS as error:
        raise BadCheckpoint(
            f"{str(path)!r} is truncated or no GGUF file: {_line(error)}", remedy="Fetch it again"
        ) from None
    metadata = Metadata(reader.fields, str(path))
    parts = metadata.get("split.count", int, 1)
    if parts != 1:
        raise metadata.fault(f"this is one of {parts} parts", "Join them: llama-gguf-split --merge FIRST_PART OUT.gguf")
    if reader.byte_order != "I":
        raise metadata.fault("its bytes are in the other order", "Convert it: gguf-convert-endian FILE little")
    tensors = {t.name: StoredTensor(t.tensor_type.name, tuple(t.shape.tolist()[::-1]), t.data) for t in reader.tensors}
    return GgufFile(path, metadata, tensors)


class _Reader(GGUFReader):
    """The library's reader with arrays taken whole.

    Its own way makes two objects of every element: a vocabulary of 128k with its merges takes it 16 s and 600 MB.
    """

    def _get_field_parts(
        self, orig_offs: int, raw_type: int
    ) -> tuple[int, list[NDArray[Any]], list[int], list[GGUFValueType]]:
        if raw_type != GGUFValueType.ARRAY:
            parts: tuple[int, list[NDArray[Any]], list[int], list[GGUFValueType]] = super()._get_field_parts(
                orig_offs, raw_type
            )
            return parts
        kind = GGUFValueType(int(self._get(orig_offs, np.uint32)[0]))
        count, start = int(self._get(orig_offs + 4, np.uint64)[0]), orig_offs + 12
        if kind == GGUFValueType.STRING:
            lengths = sum(8 + length for length in _string_lengths(self.data[start:].data, count))
            part: NDArray[Any] = self.data[start : start + lengths]
        else:
            part = self._get(start, self.gguf_scalar_to_np[kind], count)
            if len(part) != count:
                raise ValueError(f"array of {count} values ends after {len(part)}")
        return 12 + part.nbytes, [part], [0], [GGUFValueType.ARRAY, kind]


def _string_lengths(data: memoryview, count: int) -> Iterator[int]:
    """Bytes of each of so many strings, every one led by its length."""
    offset = 0
    for _ in range(count):
        length = int.from_bytes(data[offset : offset + 8], "little")
        offset += 8 + length
        if offset > len(data):
            raise ValueError("a string ends behind the file")
        yield length


def _value(field: ReaderField) -> Any:
    if field.types[0] != GGUFValueType.ARRAY:
        return field.contents()
    part = field.parts[field.data[0]]
    return _strings(part.tobytes()) if field.types[1] == GGUFValueType.STRING else part.tolist()


def _strings(data: bytes) -> list[str]:
    found, offset = [], 0
    while offset < len(data):
        end = offset + 8 + int.from_bytes(data[offset : offset + 8], "little")
        found.append(data[offset + 8 : end].decode())
        offset = end
    return found


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
