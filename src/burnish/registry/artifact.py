"""The artifact: a model folder in Hugging Face layout with a manifest, ``burnish.json``, beside the weights."""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError

from burnish.core.errors import BadCheckpoint, BadSettings
from burnish.core.records import CalibrationRecord, LatencyRecord, LayerRecord, QualityRecord, SearchRecord
from burnish.registry.golden import Golden

MANIFEST = "burnish.json"
SCHEMA = 1
_TOOLS = ("burnish", "torch", "numpy", "safetensors")
_CONTENT = ("config.json", "quant*_config.json", "*.safetensors", "*.safetensors.index.json", "*.bin", "*.gguf")


@dataclass(frozen=True, kw_only=True, slots=True)
class Parent:
    """The model an artifact was made from."""

    name: str  # its folder or file name, without the path
    sha256: str  # ``content_hash``


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Where an artifact comes from, what is in it, and what it must compute."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    schema_version: int
    parent: Parent
    recipe: str
    weights: str  # format of the weights, as "int8", "int4-g128"
    tools: dict[str, str]  # distribution -> version
    created: int  # seconds since 1970
    files: dict[str, str]  # file name -> sha256
    records: tuple[LayerRecord, ...]
    golden: Golden
    float_activations: tuple[str, ...] = ()  # linear layers whose inputs are not quantized when they are computed
    calibration: CalibrationRecord | None = None  # None: the recipe needed none
    latency: LatencyRecord | None = None  # None: formats were not chosen by time
    quality: tuple[QualityRecord, ...] = ()  # of every text it was measured on when it was made
    search: SearchRecord | None = None  # None: nobody looked for the best
    recipe_text: str | None = None  # the recipe as TOML, every setting of every pass; None: made before it was kept


_READER = TypeAdapter(Manifest)


def content_hash(model: Path) -> str:
    """sha256 over the names and bytes of a model's weights and configuration; of a single file, over its bytes."""
    if model.is_file():
        return _file_hash(model)
    lines = "".join(f"{_file_hash(file)}  {file.name}\n" for file in _content(model))
    return hashlib.sha256(lines.encode()).hexdigest()


def content_stamp(model: Path) -> str:
    """sha256 over the names, sizes, times and inodes of a model's files: equal stamps, equal contents."""
    files = [model] if model.is_file() else [*_content(model), *model.glob(MANIFEST)]
    stats = ((file, file.stat()) for file in files)
    lines = "".join(f"{file.resolve()} {s.st_size} {s.st_mtime_ns} {s.st_ino}\n" for file, s in stats)
    return hashlib.sha256(lines.encode()).hexdigest()


def _content(model: Path) -> list[Path]:
    """The weights and configuration of a folder, by name."""
    return [model / name for name in sorted({path.name for pattern in _CONTENT for path in model.glob(pattern)})]


def describe(
    folder: Path,
    *,
    parent: Path,
    recipe: str,
    weights: str,
    records: Sequence[LayerRecord],
    golden: Golden,
    float_activations: Sequence[str] = (),
    calibration: CalibrationRecord | None = None,
    latency: LatencyRecord | None = None,
    recipe_text: str | None = None,
) -> Manifest:
    """The manifest of the files that lie in ``folder`` now."""
    return Manifest(
        schema_version=SCHEMA,
        parent=Parent(name=parent.name, sha256=content_hash(parent)),
        recipe=recipe,
        weights=weights,
        tools={name: version(name) for name in _TOOLS},
        created=int(time.time()),
        files={path.name: _file_hash(path) for path in sorted(folder.iterdir()) if _is_listed(path)},
        records=tuple(records),
        golden=golden,
        float_activations=tuple(float_activations),
        calibration=calibration,
        latency=latency,
        recipe_text=recipe_text,
    )


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder; None where there is none.

    Raises ``BadCheckpoint`` for one that is broken, has a missing or an unknown key, or is of another schema.
    """
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        manifest = _READER.validate_json(data)
    except ValidationError as error:
        raise BadCheckpoint(f"{path} is no manifest: {_first_fault(error)}", remedy="Make the artifact again") from None
    if manifest.schema_version != SCHEMA:
        raise BadCheckpoint(
            f"{path} has schema version {manifest.schema_version}, this burnish reads {SCHEMA}",
            remedy="Make the artifact again, or use the burnish that made it",
        )
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``burnish.json`` in one canonical form (sorted keys), all of it or nothing."""
    text = json.dumps(asdict(manifest), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=f".{MANIFEST}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(folder / MANIFEST)
    finally:
        Path(temporary).unlink(missing_ok=True)


def check_files(folder: Path, manifest: Manifest) -> tuple[str, ...]:
    """Names of the listed files that are missing or whose bytes have changed."""
    return tuple(
        name
        for name, expected in manifest.files.items()
        if not (folder / name).is_file() or _file_hash(folder / name) != expected
    )


def is_whole(folder: Path) -> bool:
    """Whether an artifact is there with all its files unchanged."""
    try:
        manifest = read_manifest(folder)
        return manifest is not None and not check_files(folder, manifest)
    except BadCheckpoint:
        return False


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A hidden folder beside ``out`` to fill; it becomes ``out`` when the block ends well and vanishes otherwise.

    Raises ``BadSettings`` when ``out`` exists and is not an empty folder, cannot be made, or the disk is full.
    """
    refuse_used(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    except OSError as error:
        raise BadSettings(f"output {str(out)!r} cannot be made: {error.strerror}", remedy="Name another") from None
    try:
        yield staging
        staging.chmod(0o755)
        _publish(staging, out)
    except (OSError, SafetensorError) as error:
        reason = " ".join((getattr(error, "strerror", None) or str(error)).split())
        remedy = "Free the disk, or name another"
        raise BadSettings(f"output {str(out)!r} cannot be written: {reason}", remedy=remedy) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def refuse_used(out: Path) -> None:
    """Raise ``BadSettings`` unless ``out`` is free: not there and below a folder, or an empty folder."""
    try:
        if any(parent.is_file() for parent in out.parents):
            raise BadSettings(f"output {str(out)!r} cannot be made: it is below a file", remedy="Name another")
        is_free = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    except OSError as error:
        raise BadSettings(f"output {str(out)!r} cannot be read: {error.strerror}", remedy="Name another") from None
    if not is_free:
        raise BadSettings(f"output {str(out)!r} exists and is not an empty folder", remedy="Name a new folder")


def _publish(staging: Path, out: Path) -> None:
    try:
        staging.replace(out)
    except OSError:  # somebody else was faster
        refuse_used(out)
        raise


def _file_hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> BadCheckpoint:
    return BadCheckpoint(f"{str(path)!r} cannot be read: {error.strerror}", remedy="Check the file and its rights")


def _is_listed(path: Path) -> bool:
    return path.is_file() and path.name != MANIFEST and not path.name.startswith(".")


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"])
    return f"{where}: {fault['msg']}" if where else fault["msg"].splitlines()[0]
