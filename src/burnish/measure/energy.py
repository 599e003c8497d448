"""Joules a machine took: counted by RAPL and NVML where they can be read, else estimated, and then labelled so.

RAPL counts whole processor packages and their memory, NVML whole cards: what else runs there counts too.
"""

import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Literal, NamedTuple

Source = Literal["rapl", "nvml", "estimated"]
POWERCAP = Path("/sys/class/powercap")
COUNTED = ("package", "dram")  # core and uncore lie within a package, psys holds everything once more
MOST_WATTS = 1000.0  # of one counter; between two readings at less, it turns at most once
WATTS_PER_CORE = 6.0  # where no machine is named: about that of server processors (EPYC 9554: 360 W, 64 cores)


class EnergyPart(NamedTuple):
    """Joules of one kind of device, and how they were found."""

    source: Source
    joules: float
    formula: str


class Energy(NamedTuple):
    """What was taken in a time, device by device."""

    parts: tuple[EnergyPart, ...]

    @property
    def joules(self) -> float:
        """All devices together."""
        return sum(part.joules for part in self.parts)

    @property
    def is_estimated(self) -> bool:
        """Whether anything in it was not counted."""
        return any(part.source == "estimated" for part in self.parts)


class Reading(NamedTuple):
    """A counter at one moment; it goes on at 0 once it has reached ``turn_joules`` (0: it never turns)."""

    source: Source
    name: str
    joules: float
    turn_joules: float = 0.0


def read_counters(powercap: Path = POWERCAP) -> tuple[Reading, ...]:
    """Every counter of this machine that this process may read."""
    return (*_rapl(powercap), *_nvml())


def turned(before: Reading, after: Reading) -> float:
    """Joules between two readings of one counter, which has turned once at most."""
    grown = after.joules - before.joules
    return grown if grown >= 0 else grown + after.turn_joules


def estimate(cpu_s: float, watts_per_core: float = WATTS_PER_CORE) -> EnergyPart:
    """What busy cores take at their share of the processor's rated power; idle power and memory are not in it."""
    formula = f"{watts_per_core:g} W per core * {cpu_s:.3g} s of busy cores"
    return EnergyPart("estimated", watts_per_core * cpu_s, formula)


class EnergyMeter:
    """Counts from ``start`` to ``stop``; a long measurement calls ``sample`` every minute or so, lest a turn is missed.

    Where a turn may have been missed, or the processor has no counter to read, its part is estimated.
    """

    def __init__(
        self,
        read: Callable[[], tuple[Reading, ...]] = read_counters,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read, self._clock = read, clock
        self.start()

    def start(self) -> None:
        """Begin anew."""
        self._joules: dict[Source, float] = {}
        self._missed: set[Source] = set()
        self._last, self._last_s = self._named(), self._clock()

    def sample(self) -> None:
        """Add what was taken since the last call."""
        now, now_s = self._named(), self._clock()
        for name, before in self._last.items():
            after = now.get(name)
            if after is None or 0 < after.turn_joules < MOST_WATTS * (now_s - self._last_s):
                self._missed.add(before.source)
            else:
                self._joules[before.source] = self._joules.get(before.source, 0.0) + turned(before, after)
        self._last, self._last_s = now, now_s

    def stop(self, *, cpu_s: float, watts_per_core: float = WATTS_PER_CORE) -> Energy:
        """All since ``start``. ``cpu_s``: processor seconds of the work, for the estimate where one is needed."""
        self.sample()
        counted = [
            EnergyPart(source, joules, f"difference of two readings of {source.upper()}, the whole device's")
            for source, joules in self._joules.items()
            if source not in self._missed
        ]
        if not any(part.source == "rapl" for part in counted):
            counted.append(estimate(cpu_s, watts_per_core))
        return Energy(tuple(counted))

    def _named(self) -> dict[tuple[Source, str], Reading]:
        return {(reading.source, reading.name): reading for reading in self._read()}


def _rapl(powercap: Path) -> list[Reading]:
    found: list[Reading] = []
    for zone in sorted(powercap.glob("intel-rapl:*")):  # AMD's counters bear this name too
        try:
            name = (zone / "name").read_text().strip()
            if name.startswith(COUNTED):
                joules, turn = (int((zone / file).read_text()) / 1e6 for file in ("energy_uj", "max_energy_range_uj"))
                found.append(Reading("rapl", zone.name, joules, turn))
        except (OSError, ValueError):  # only root may read them on most systems
            continue
    return found


def _nvml() -> list[Reading]:
    """Cards from Volta on, where nvidia-ml-py is installed."""
    try:
        nvml = import_module("pynvml")
    except ImportError:
        return []
    try:
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        counts = [nvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles]
    except nvml.NVMLError:
        return []
    return [Reading("nvml", str(index), millijoules / 1e3) for index, millijoules in enumerate(counts)]
