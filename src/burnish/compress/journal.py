"""The finished parts of a walk, on disk, so that one that was killed goes on where it was.

A folder holds the key of the run, the formats it settled, what was learned, a file per finished part (tensors, formats,
records) and the calibration data behind the last of them. Every file is written aside and renamed; data is written
before the part that it lies behind, and the data before that is deleted after it, so that at every moment the finished
parts have theirs.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from burnish.compress.chain import Part
from burnish.compress.statistics import Flow
from burnish.core.errors import BadSettings
from burnish.core.records import LatencyRecord, LayerRecord
from burnish.models.formats.table import get

KEY, SETTLED, NETWORK = "key.json", "settled.json", "network.safetensors"


class _File(NamedTuple):
    """Tensors and what was noted with them."""

    tensors: dict[str, Tensor]
    about: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Settled:
    """The format of each layer, by name, and the times it was chosen by, where it was."""

    formats: dict[str, str]
    latency: LatencyRecord | None = None


_SETTLED = TypeAdapter(Settled)


class Finished(NamedTuple):
    """What an earlier life of a run has done."""

    num_parts: int
    records: list[LayerRecord]
    flow: Flow | None  # the data behind these parts, where there is any


class Journal:
    """What the run with this key has finished. ``key``: all that its result depends on."""

    def __init__(self, folder: Path, key: dict[str, str]) -> None:
        """Raise ``BadSettings`` when the folder belongs to another run or cannot be written."""
        self._folder = folder
        text, aside = json.dumps(key, sort_keys=True, indent=1), folder / f"{KEY}.part"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / KEY).exists():
                aside.write_text(text, encoding="utf-8")
                aside.replace(folder / KEY)
            found = (folder / KEY).read_text(encoding="utf-8")
        except OSError as error:
            if folder.is_dir():
                aside.unlink(missing_ok=True)
            raise BadSettings(f"{str(folder)!r} cannot be written: {error.strerror}", remedy="Name another") from None
        if found != text:
            raise BadSettings(
                f"{str(folder)!r} holds an unfinished run with another {_differences(found, key)}",
                remedy="Give the same settings to go on with it, or delete it",
            )

    def restore(self, parts: Sequence[Part], flow: Flow | None) -> Finished:
        """Give the parts that are finished their state. ``flow`` is the data at the door of the first.

        What cannot be read is not finished.
        """
        files: list[_File] = []
        while len(files) < len(parts) and (file := _read(self._part(len(files)))) is not None:
            files.append(file)
        if flow is not None and 0 < len(files) < len(parts):
            behind = _read(self._flow(len(files)))
            if behind is None:
                return Finished(0, [], flow)  # it takes the dense model to make it again
            flow = Flow(hidden=behind.tensors["hidden"], original=behind.tensors.get("original"))
        for part, file in zip(parts, files, strict=False):
            _restore(part, file)
        return Finished(len(files), [LayerRecord(**one) for file in files for one in file.about["records"]], flow)

    def save(self, number: int, part: Part, records: Sequence[LayerRecord], behind: Flow | None) -> None:
        """Note a finished part, and the data behind it where another part waits for it."""
        if behind is not None:
            tensors = {"hidden": behind.hidden.contiguous()}
            if behind.original is not None:
                tensors["original"] = behind.original.clone(memory_format=torch.contiguous_format)  # can be the same
            _write(self._flow(number + 1), _File(tensors, {}))
        about = {
            "formats": {name: layer.format.name for name, layer in part.layers.items()},
            "records": [asdict(record) for record in records],
        }
        _write(self._part(number), _File(_tensors(part.module), about))
        self._flow(number).unlink(missing_ok=True)

    def close(self) -> None:
        """Forget everything: the result is where it belongs."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def settled(self, settle: Callable[[], Settled]) -> Settled:
        """The formats that were settled, the first time by ``settle``: what is measured may come out otherwise."""
        try:
            return _SETTLED.validate_json((self._folder / SETTLED).read_bytes())
        except (OSError, ValidationError):
            found = settle()
        aside = self._folder / f"{SETTLED}.part"
        try:
            aside.write_bytes(_SETTLED.dump_json(found))
            aside.replace(self._folder / SETTLED)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise BadSettings(f"{str(aside)!r} cannot be written: {error.strerror}", remedy="Make room") from None
        return found

    def training(self, number: int) -> Path:
        """Where the pass of that number keeps what it has learned so far."""
        return self._folder / f"training-{number}.pt"

    def network(self) -> dict[str, Tensor] | None:
        """The state of the network that passes over the whole have made; None before they are done."""
        found = _read(self._folder / NETWORK)
        return None if found is None else found.tensors

    def keep_network(self, network: nn.Module) -> None:
        """Note what passes over the whole network have made."""
        _write(self._folder / NETWORK, _File(_tensors(network), {}))

    def _part(self, number: int) -> Path:
        return self._folder / f"part-{number:04d}.safetensors"

    def _flow(self, number: int) -> Path:
        return self._folder / f"flow-{number:04d}.safetensors"


def _restore(part: Part, file: _File) -> None:
    """Give a part its finished state."""
    left = dict(file.tensors)
    names: dict[nn.Module, str] = {module: name for name, module in part.module.named_modules()}
    for name, format_name in file.about["formats"].items():
        layer = part.layers[name]
        stored = get(format_name)
        layout = stored.layout(layer.out_features, layer.in_features)
        prefix = f"{names[layer]}." if names[layer] else ""  # a part can be a layer itself
        layer.store(stored, {key: left.pop(f"{prefix}{key}") for key in layout})
    for name, tensor in left.items():
        path, _, key = name.rpartition(".")
        owner = part.module.get_submodule(path)
        is_buffer = key in owner._buffers
        setattr(owner, key, tensor if is_buffer else nn.Parameter(tensor, requires_grad=False))


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    found = dict(module.named_parameters()) | dict(module.named_buffers())
    return {name: tensor.detach().contiguous() for name, tensor in found.items()}


def _differences(found: str, key: dict[str, str]) -> str:
    try:
        other: dict[str, str] = json.loads(found)
    except ValueError:
        return "version"
    return ", ".join(name for name in sorted(key) if other.get(name) != key[name]) or "version"


def _read(path: Path) -> _File | None:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - no mapping
            return _File(tensors, json.loads(file.metadata()["about"]))
    except (OSError, SafetensorError):
        return None


def _write(path: Path, file: _File) -> None:
    aside = path.with_suffix(".part")
    try:
        save_file(file.tensors, aside, metadata={"about": json.dumps(file.about)})
        aside.replace(path)
    except (OSError, SafetensorError) as error:
        aside.unlink(missing_ok=True)
        reason = " ".join(str(error).split())
        raise BadSettings(f"{str(path)!r} cannot be written: {reason}", remedy="Make room, then start again") from None
