"""What the scripts that measure compression share: texts, the command line and its costs, a file of what is known."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from burnish.compress.recipes import find_recipe

ROOT = Path(__file__).resolve().parent.parent
DOCS, SHARED = ROOT / "docs", ROOT.parent / "shared" / "data"
TEXTS = {
    "stories": "text/public-domain-stories/frances-hodgson-burnett_the-secret-garden.txt",
    "WikiText-2": "text/wikitext-2/test.txt",
    "Shakespeare": "text/tinyshakespeare/input.txt",
}
CALIBRATION = "text/tinystories/tinystories_train_head.part1.txt"
MIXTURE = (
    CALIBRATION,
    "text/wikipedia-excerpt/wiki.utf8",
    "text/public-domain-stories/robert-louis-stevenson_treasure-island.txt",
)
EACH = 360_000  # characters of each text of the mixture


class Ran(NamedTuple):
    """What a command printed and took."""

    printed: dict[str, Any]
    seconds: float
    peak_bytes: int


class Kept:
    """Figures measured before, in a JSON file; forgotten when what they depend on is not what it was."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self._path, self._about = path, about

    def section(self, name: str) -> dict[str, Any]:
        """What is known under a name, as it is in the file now."""
        found: dict[str, Any] = self._read().get(name, {})
        return found

    def put(self, section: str, name: str, found: dict[str, Any]) -> None:
        """Write one more result."""
        everything = self._read()
        everything.setdefault(section, {})[name] = found
        self._path.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")

    def _read(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._path.read_text("utf-8")) if self._path.exists() else {}
        return found if found.get("about") == self._about else {"about": self._about}


def hashes(data: Path) -> dict[str, str]:
    """SHA-256 of the calibration data and of every text."""
    paths = {"calibration": data / CALIBRATION} | {name: data / path for name, path in TEXTS.items()}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths.items()}


def mixed_text(data: Path) -> str:
    """Text of several kinds to calibrate with; none of it is measured by."""
    return "\n\n".join((data / path).read_text(encoding="utf-8")[:EACH] for path in MIXTURE)


def compressed(model: str, recipe: str, out: Path, data: Path) -> dict[str, Any]:
    """Write a variant by the command line; its size and what that took."""
    words = ["compress", model, str(out), "--recipe", recipe]
    if find_recipe(recipe).needs.data:
        words += ["--calibration", str(data / CALIBRATION)]
    made = burnish(words)
    return {
        "bytes": made.printed["bytes_after"],
        "parent_bytes": made.printed["bytes_before"],
        "seconds": made.seconds,
        "peak_bytes": made.peak_bytes,
        "planned_bytes": made.printed["planned_bytes"],
    }


def burnish(words: Sequence[str]) -> Ran:
    """Run a command; its peak of memory is the kernel's figure for that process alone."""
    begun = time.monotonic()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen([sys.executable, "-m", "burnish.cli.main", *words, "--json"], stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"burnish {' '.join(words)} failed")
        out.seek(0)
        return Ran(json.loads(out.read()), time.monotonic() - begun, usage.ru_maxrss * 1024)


def mebibytes(count: float) -> str:
    """A size for a table."""
    return f"{count / 2**20:,.1f} MiB"


def costs(found: dict[str, Any]) -> list[str]:
    """Time and memory for a table."""
    return [f"{found['seconds']:.0f} s", mebibytes(found["peak_bytes"])]


def text_list(about: dict[str, Any]) -> str:
    """The texts and their hashes."""
    return "\n".join(f"- {name}: `{path}`, sha256 `{about[name][:16]}`" for name, path in TEXTS.items())
