"""Where a trace is written."""

from pathlib import Path

from burnish.core.errors import BadSettings


def refuse_unwritable(file: Path) -> None:
    """Raise ``BadSettings`` before anything is measured that could not be kept."""
    if file.is_dir() or not file.absolute().parent.is_dir():
        raise BadSettings(f"a trace cannot be written to {str(file)!r}", remedy="Name a file in a folder that exists")


def write_trace(file: Path, text: str) -> None:
    """Write it, over what lay there. Raises ``BadSettings``."""
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        remedy = "Name another file with --trace"
        raise BadSettings(f"a trace cannot be written to {str(file)!r}: {error.strerror}", remedy=remedy) from None
