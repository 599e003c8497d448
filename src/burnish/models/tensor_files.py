"""Safetensors folders: one file or shards with an index, memory-mapped on reading, atomic on writing."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from burnish.core.errors import BadCheckpoint, NotFound
from burnish.models.raw_config import read_json

_FLOATS = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
_CODES = {
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float8_e4m3fn: "F8_E4M3",
}
SHARD_BYTES = 5 * 10**9  # of a file, at most
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


class Stored(NamedTuple):
    """What the header of a file says of a tensor."""

    shape: tuple[int, ...]
    dtype: str  # safetensors' word: F32, BF16, I8, ...


class TensorFolder:
    """The tensors of a checkpoint folder. Headers are read at once, a tensor's bytes only by ``read``."""

    def __init__(self, folder: Path) -> None:
        self._stack, self._files = ExitStack(), dict[str, Any]()
        self.tensors: dict[str, Stored] = {}
        for path in shards(folder):
            self._open(path)

    def __enter__(self) -> "TensorFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open(self, path: Path) -> None:
        try:
            file = self._stack.enter_context(safe_open(path, framework="pt"))
            for name in file.keys():  # noqa: SIM118 - the handle is no mapping
                header = file.get_slice(name)
                self._files[name] = file
                self.tensors[name] = Stored(tuple(header.get_shape()), header.get_dtype())
        except FileNotFoundError:
            raise NotFound(f"{str(path)!r} does not exist", remedy="Fetch the missing file") from None
        except (SafetensorError, OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise BadCheckpoint(f"{str(path)!r} is truncated or broken: {reason}", remedy="Fetch it again") from None

    def read(self, name: str) -> Tensor:
        """A view of the mapped file; copy what must outlive this folder. Raises ``BadCheckpoint``."""
        try:
            tensor: Tensor = self._files[name].get_tensor(name)
        except (SafetensorError, OSError, RuntimeError, ValueError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise BadCheckpoint(f"tensor {name!r} cannot be read: {reason}", remedy="Fetch it again") from None
        return tensor


def shards(folder: Path) -> list[Path]:
    """The files that hold a folder's tensors. Raises ``NotFound``, or ``BadCheckpoint`` for a broken index."""
    if not (folder / INDEX).is_file():
        if not (folder / SINGLE).is_file():
            alone = sorted(folder.glob("*.safetensors"))
            if len(alone) == 1:  # tools of GPTQ and AWQ name the file after its settings
                return alone
            others = sorted(path.name for path in folder.glob("*.bin")) + sorted(p.name for p in folder.glob("*.pt*"))
            known = f"; found {', '.join(others[:4])}" if others else ""
            raise NotFound(
                f"{str(folder)!r} holds neither {SINGLE} nor {INDEX}{known}", remedy="Convert it to safetensors"
            )
        return [folder / SINGLE]
    names = read_json(folder / INDEX).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(n, str) and _is_plain(n) for n in names.values()):
        raise BadCheckpoint(f"{str(folder / INDEX)!r} has no usable weight_map", remedy="Fetch it again")
    return [folder / name for name in sorted(set(names.values()))]


def _is_plain(name: str) -> bool:
    return bool(name) and "\0" not in name and Path(name).name == name


def main_float(stored: Mapping[str, Stored]) -> torch.dtype:
    """The floating type most numbers are stored in, scales of packed weights aside; float32 where there is none."""
    counts: Counter[torch.dtype] = Counter()
    for name, (shape, word) in stored.items():
        if word in _FLOATS and not name.endswith("_scale"):
            counts[_FLOATS[word]] += math.prod(shape)
    return max(counts, key=counts.__getitem__, default=torch.float32)


def write_tensors(tensors: Iterable[tuple[str, Tensor]], folder: Path, max_shard_bytes: int) -> None:
    """Write named tensors as one file, or as shards with an index when they exceed ``max_shard_bytes``."""
    total_bytes, shards = 0, list[list[str]]()
    for shard in _cut(tensors, max_shard_bytes):
        save_file(shard, folder / f"{len(shards)}.part", metadata={"format": "pt"})
        shards.append(list(shard))
        total_bytes += sum(t.numel() * t.element_size() for t in shard.values())
    names = [SINGLE] if len(shards) == 1 else [_shard_name(i, len(shards)) for i in range(len(shards))]
    for index, name in enumerate(names):
        (folder / f"{index}.part").chmod(0o644)  # the library writes 0600: nobody else could read the model
        (folder / f"{index}.part").rename(folder / name)
    if len(shards) > 1:
        weight_map = {tensor: name for name, members in zip(names, shards, strict=True) for tensor in members}
        index_json = {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / INDEX).write_text(json.dumps(index_json, indent=2) + "\n", encoding="utf-8")


def _cut(tensors: Iterable[tuple[str, Tensor]], max_shard_bytes: int) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    held_bytes = 0
    for name, tensor in tensors:
        tensor_bytes = tensor.numel() * tensor.element_size()
        if shard and held_bytes + tensor_bytes > max_shard_bytes:
            yield shard
            shard, held_bytes = {}, 0
        shard[name] = tensor
        held_bytes += tensor_bytes
    yield shard


def _shard_name(index: int, count: int) -> str:
    return f"model-{index + 1:05d}-of-{count:05d}.safetensors"


def same_kind(stored: str, wanted: torch.dtype) -> bool:
    """Whether a stored type can be loaded as ``wanted``: codes exactly, any float but those of a byte as float."""
    return stored == _CODES[wanted] if wanted in _CODES else stored in _FLOATS
