"""Variants of a model, made once and kept in the user's cache."""

import hashlib
import os
import shutil
from pathlib import Path

from burnish.cli.compress import write_variant
from burnish.cli.output import progress
from burnish.core.errors import BadCheckpoint, BadSettings
from burnish.models.checkpoint import raw_config
from burnish.models.tokenizer import FILES as TOKENIZER_FILES
from burnish.registry.artifact import check_files, content_hash, read_manifest


def cache_folder() -> Path:
    """Where burnish keeps what it can make again: $XDG_CACHE_HOME/burnish, ~/.cache/burnish by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "burnish"


def variants_folder(model: Path) -> Path:
    """Where the variants of this very model are kept: one with other weights or another tokenizer has its own."""
    digest = hashlib.sha256(content_hash(model).encode())
    for file in (model / name for name in TOKENIZER_FILES):
        digest.update(file.read_bytes() if file.is_file() else b"")
    return cache_folder() / "variants" / digest.hexdigest()[:16]


def find_variant(model: Path, weights: str, *, quiet: bool = False) -> Path:
    """The model itself if it is dense and ``weights`` is "dense", else its variant, made if it is not there yet.

    Raises ``BadSettings`` for an unknown recipe, or a model that is compressed already.
    """
    stored = raw_config(model).get("quantization_config")
    if weights == "dense" and stored is None:
        return model
    if stored is not None:
        raise BadSettings(f"{str(model)!r} is compressed already", remedy="Leave --weights out, or name its parent")
    out = variants_folder(model) / weights
    if not is_whole(out):
        shutil.rmtree(out, ignore_errors=True)
        with progress(f"Making {weights}", quiet=quiet) as moved:
            write_variant(model, out, weights, moved)
    return out


def is_whole(folder: Path) -> bool:
    """Whether an artifact is there with all its files unchanged."""
    try:
        manifest = read_manifest(folder)
    except BadCheckpoint:
        return False
    return manifest is not None and not check_files(folder, manifest)
