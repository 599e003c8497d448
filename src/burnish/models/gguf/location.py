"""Which GGUF file a model path means. Loads neither torch nor the gguf library."""

from pathlib import Path

from burnish.core.errors import BadCheckpoint

MAGIC, SUFFIX = b"GGUF", ".gguf"


def find(path: Path) -> Path | None:
    """The file itself, or the only .gguf file of a folder without config.json; None for another kind of model.

    Raises ``BadCheckpoint`` for a folder that holds several.
    """
    if path.is_file():
        return path if path.suffix == SUFFIX or _begins_with_magic(path) else None
    if not path.is_dir() or (path / "config.json").exists():
        return None
    files = sorted(path.glob(f"*{SUFFIX}"))
    if len(files) > 1:
        listed = ", ".join(file.name for file in files[:4])
        raise BadCheckpoint(f"{str(path)!r} holds {len(files)} GGUF files: {listed}", remedy="Name one of them")
    return files[0] if files else None


def _begins_with_magic(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False
