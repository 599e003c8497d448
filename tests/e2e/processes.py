"""Real burnish processes: started, read, looked into and ended."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

T = TypeVar("T")
PATIENCE_S = 120.0  # a loaded machine is slow, not wrong


class Running(NamedTuple):
    """A process that serves."""

    process: subprocess.Popen[bytes]
    url: str

    @property
    def engine_pid(self) -> int | None:
        """The child that computes: the one that has the native kernels."""
        return next((pid for pid in children(self.process.pid) if maps(pid, "_native")), None)


@contextmanager
def burnish(log: Path, *words: object, **environment: str) -> Iterator[Running]:
    """A process of the command line, from the moment it tells its address; what it says goes to ``log``."""
    command = [sys.executable, "-m", "burnish.cli.main", *map(str, words)]
    variables = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"} | environment
    with log.open("wb") as said, subprocess.Popen(command, stdout=said, stderr=said, env=variables) as process:
        try:
            yield Running(process, until(lambda: _address(process, log), "its address"))
        finally:
            process.kill()


def _address(process: "subprocess.Popen[bytes]", log: Path) -> str | None:
    assert process.poll() is None, log.read_text()
    found = re.search(r"Open (http://[\d.:]+)/", log.read_text())
    return found[1] if found else None


def until(look: Callable[[], T | None], what: str) -> T:
    """What ``look`` finds, as soon as it finds something."""
    end = time.monotonic() + PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < end, f"no sign of {what}"
        time.sleep(0.01)
    return found


def children(pid: int) -> list[int]:
    """The processes a process has started."""
    return [int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]


def maps(pid: int, library: str) -> bool:
    """Whether a process has a library in its memory."""
    try:
        return library in Path(f"/proc/{pid}/maps").read_text()
    except FileNotFoundError:
        return False
