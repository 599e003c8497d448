"""The machine during a run: how fast it reads memory, and whether others used it."""

import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.worker import TICKS_PER_S
from burnish.kernels.native import native

READ_BYTES, PASSES = 1 << 30, 12
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def read_bandwidth(threads: tuple[int, ...]) -> dict[int, float]:
    """Bytes per second read from memory, by the number of threads; empty when there are no native kernels."""
    module = native()
    if module is None:
        return {}
    return {count: module.read_rate(num_bytes=READ_BYTES, threads=count, passes=PASSES) for count in threads}


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
