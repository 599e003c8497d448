"""Plans of models met before, on disk by the hash of what they were made of: the next start only maps a file.

Safe for concurrent starters: one of them lowers the model, the others wait for it. A file that is damaged or belongs
to another version is made again. The least recently used plans are deleted when the cache outgrows its limit.
"""

import fcntl
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from burnish.core.errors import BadCheckpoint, BadSettings
from burnish.core.folders import cache_folder
from burnish.plan.ops import Plan
from burnish.plan.tile_file import Lowered, read_plan, write_plan

log = logging.getLogger(__name__)

SUFFIX = ".plan"


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheConfig:
    """Where plans are kept and how many bytes of them."""

    folder: Path | None = None  # None: "plans" in burnish's cache folder
    max_bytes: int = 32 * 2**30

    def __post_init__(self) -> None:
        """Raise ``BadSettings`` for a limit that is none."""
        if self.max_bytes < 0:
            raise BadSettings(f"max_bytes {self.max_bytes} is wrong", remedy="Use 0 or more")


class Kept(NamedTuple):
    """One plan in the cache."""

    key: str
    size_bytes: int
    used_s: float  # seconds since 1970


class PlanCache:
    """The plans in one folder."""

    def __init__(self, config: CacheConfig | None = None) -> None:
        self.config = config or CacheConfig()
        self.folder = self.config.folder or cache_folder() / "plans"

    def open(self, key: str, lower: Callable[[], Lowered]) -> Plan:
        """The plan of that key, lowered and kept when it is not there yet.

        Raises ``BadSettings`` when nothing can be written.
        """
        plan = self._find(key)
        if plan is None:
            with self._only_one(key):
                plan = self._find(key) or self._make(key, lower)
        return plan

    def open_stamped(self, stamp: str, key: Callable[[], str], lower: Callable[[], Lowered]) -> Plan:
        """``open``, the key asked for only when nothing of this stamp was opened before."""
        note = self.folder / f".{stamp}.key"
        try:
            known = note.read_text(encoding="ascii")
        except OSError:
            known = key()
        plan = self.open(known, lower)
        if not note.exists():
            with suppress(OSError):  # without the note the next start computes the key again
                _write_whole(note, known)
        return plan

    def list(self) -> list[Kept]:
        """What is kept, the latest used first."""
        found = [(path, path.stat()) for path in self.folder.glob(f"*{SUFFIX}")]
        kept = [Kept(path.stem, stat.st_size, stat.st_mtime) for path, stat in found]
        return sorted(kept, key=lambda one: -one.used_s)

    def clear(self) -> int:
        """Delete everything; returns the bytes freed. Plans in use stay mapped until their process ends."""
        freed = sum(one.size_bytes for one in self.list())
        for pattern in (f"*{SUFFIX}", ".*.key", ".*.part"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)
        return freed

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{SUFFIX}"

    def _find(self, key: str) -> Plan | None:
        path = self._path(key)
        try:
            plan = read_plan(path, key)
            os.utime(path)  # the time of last use
        except FileNotFoundError:
            return None
        except (BadCheckpoint, OSError) as error:
            log.warning("%s", error)
            return None
        return plan

    def _make(self, key: str, lower: Callable[[], Lowered]) -> Plan:
        descriptor, name = tempfile.mkstemp(dir=self.folder, prefix=".", suffix=".part")
        os.close(descriptor)
        staged = Path(name)
        try:
            write_plan(lower(), staged, key)
            staged.replace(self._path(key))
        except OSError as error:
            raise self._unwritable(error) from None
        finally:
            staged.unlink(missing_ok=True)
        self._trim(key)
        return read_plan(self._path(key), key)

    def _trim(self, newest: str) -> None:
        """Delete the least recently used until the limit holds; what was just made stays."""
        kept = self.list()
        excess = sum(one.size_bytes for one in kept) - self.config.max_bytes
        for one in reversed(kept):
            if excess > 0 and one.key != newest:
                self._path(one.key).unlink(missing_ok=True)
                excess -= one.size_bytes

    @contextmanager
    def _only_one(self, key: str) -> Iterator[None]:
        """Hold the key's lock; the system releases it when a process dies.

        Who waited for a lock that was deleted meanwhile may lower beside somebody else: twice the work, no harm.
        """
        path = self.folder / f".{key}.lock"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = path.open("w")
        except OSError as error:
            raise self._unwritable(error) from None
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    def _unwritable(self, error: OSError) -> BadSettings:
        reason = error.strerror or str(error)
        remedy = "Free some space, or name another folder with XDG_CACHE_HOME"
        return BadSettings(f"plan cache {str(self.folder)!r} cannot be written: {reason}", remedy=remedy)


def _write_whole(path: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
    Path(name).replace(path)
