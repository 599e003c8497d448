"""The machine during a run: how fast it reads memory, and whether others used it."""

import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.environments import Unavailable, run
from benchmarks.peers import ROOT
from benchmarks.worker import TICKS_PER_S

SOURCE = ROOT / "read_bandwidth.c"
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def read_bandwidth(threads: tuple[int, ...]) -> dict[int, float]:
    """Bytes per second read from memory, by the number of threads; empty when there is no C compiler."""
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "read_bandwidth")
        try:
            run(["cc", "-O3", "-march=native", "-pthread", "-o", program, str(SOURCE)])
        except (Unavailable, FileNotFoundError):
            return {}
        return {count: _measure(program, count) for count in threads}


def _measure(program: str, threads: int) -> float:
    return float(subprocess.run([program, str(threads)], check=True, stdout=subprocess.PIPE, text=True).stdout)


def cache_bytes() -> int:
    """Size of the largest cache of the first core; 0 when the system does not tell."""
    sizes = [path.read_text(encoding="ascii").strip() for path in CACHES.glob("index*/size")]
    return max((int(size.removesuffix("K")) * 1024 for size in sizes), default=0)


class Clock(NamedTuple):
    """Seconds of CPU time used by everybody since the machine started, and the time."""

    busy_s: float
    now: float


def clock() -> Clock:
    """Read the system's account of CPU time; what a hypervisor took away counts as used."""
    fields = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0].split()[1:]
    user, nice, system, _, _, irq, soft_irq, steal = map(int, fields[:8])
    return Clock((user + nice + system + irq + soft_irq + steal) / TICKS_PER_S, time.monotonic())


def cores_of_others(before: Clock, after: Clock, own_s: float) -> float:
    """Cores that other processes used meanwhile, on average."""
    return max(0.0, (after.busy_s - before.busy_s - own_s) / (after.now - before.now))
