"""Variants of a model, made once and kept in the user's cache."""

import hashlib
import os
import shutil
from pathlib import Path

from burnish.cli.compress import write_variant
from burnish.cli.output import progress
from burnish.core.errors import BadSettings
from burnish.core.folders import cache_folder
from burnish.models import llama2c, tok_bin
from burnish.models.checkpoint import raw_config
from burnish.models.gguf import location as gguf_location
from burnish.models.tokenizer import FILES as TOKENIZER_FILES
from burnish.registry.artifact import content_hash, is_whole


def variants_folder(model: Path) -> Path:
    """Where the variants of this very model are kept: one with other weights or another tokenizer has its own."""
    digest = hashlib.sha256(content_hash(model).encode())
    for file in _tokenizer_files(model):
        digest.update(file.read_bytes() if file.is_file() else b"")
    return cache_folder() / "variants" / digest.hexdigest()[:16]


def _tokenizer_files(model: Path) -> list[Path]:
    if gguf_location.find(model) is not None:
        return []  # it is in the file
    single = llama2c.find(model)
    return [model / name for name in TOKENIZER_FILES] if single is None else [tok_bin.find(single)]


def find_variant(model: Path, weights: str, *, quiet: bool = False) -> Path:
    """The model itself if it is dense and ``weights`` is "dense", else its variant, made if it is not there yet.

    Raises ``BadSettings`` for an unknown recipe, or a model that is compressed already.
    """
    stored = raw_config(model).get("quantization_config")
    if weights == "dense" and stored is None:
        return model
    if stored is not None:
        raise BadSettings(f"{str(model)!r} is compressed already", remedy="Leave --weights out, or name its parent")
    with progress(f"Checking {weights}", quiet=quiet):
        out = variants_folder(model) / weights
        found = is_whole(out)
    if not found:
        make_cache(out.parent)
        shutil.rmtree(out, ignore_errors=True)
        _make(model, out, weights, quiet=quiet)
    return out


def _make(model: Path, out: Path, weights: str, *, quiet: bool) -> None:
    """Write a variant, or take what another process wrote meanwhile."""
    try:
        with progress(f"Making {weights}", quiet=quiet) as moved:
            write_variant(model, out, weights, moved)
    except BadSettings:
        if not is_whole(out):
            raise


def make_cache(folder: Path) -> None:
    """Make a folder of the cache. Raises ``BadSettings`` when nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(folder, os.W_OK) else "no right to write"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise BadSettings(
            f"cache {str(folder)!r} cannot be written: {reason}", remedy="Name another folder with XDG_CACHE_HOME"
        )
