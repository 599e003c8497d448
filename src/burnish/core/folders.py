"""Where burnish keeps files of its own."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """What burnish can make again: $XDG_CACHE_HOME/burnish, ~/.cache/burnish by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "burnish"
