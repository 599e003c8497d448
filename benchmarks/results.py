"""What a run found, as it is kept in JSON. Knows only the standard library: the picture is drawn elsewhere."""

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple


class Spread(NamedTuple):
    """A figure over the rounds."""

    median: float
    min: float
    max: float


@dataclass(kw_only=True, slots=True)
class Measured:
    """One line of one shape. ``reason``: why it could not be measured, or not to the end."""

    shape: str
    format: str
    peer: str
    variant: str
    label: str
    reason: str | None = None
    ready_s: float | None = None  # from the start of its process to a first token
    peak_rss_bytes: int | None = None
    read_bytes: int | None = None  # weights that one decoded token reads
    runs: dict[str, list[float]] = field(default_factory=dict)  # workload -> tokens per second of each round
    others: dict[str, list[float]] = field(default_factory=dict)  # cores that other processes used meanwhile

    def spread(self, workload: str) -> Spread | None:
        """Of one workload; None when it was never run."""
        values = self.runs.get(workload)
        return Spread(statistics.median(values), min(values), max(values)) if values else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """burnish's start from an artifact on disk, to a first token: with an empty cache of its own, then again."""

    shape: str
    weights: str
    cold_s: float
    warm_s: list[float]
    artifact_bytes: int
    peak_rss_bytes: int  # of the last warm start


@dataclass(kw_only=True, slots=True)
class Results:
    """A whole run, filled as it goes."""

    date: str
    commit: str
    machine: dict[str, Any]
    threads: int
    rounds: int
    bandwidth_before: dict[str, float]  # threads -> bytes per second
    bandwidth_after: dict[str, float]
    cache_bytes: int  # of the processor: a model that fits it is not bound by memory
    parameters: dict[str, int]  # shape -> weights that one decoded token reads
    versions: dict[str, str]
    lines: list[Measured]
    start: Start | None
    start_reason: str | None = None
    is_whole: bool = False  # not stopped before its end

    @property
    def bandwidth(self) -> float | None:
        """The best that all threads reached, before or after."""
        known = [found[str(self.threads)] for found in (self.bandwidth_before, self.bandwidth_after) if found]
        return max(known) if known else None

    @property
    def cores_of_others(self) -> list[float]:
        """What other processes used during each run, in no order."""
        return [cores for line in self.lines for each in line.others.values() for cores in each]

    def write(self, path: Path) -> None:
        """Write JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> Results:
    """What ``Results.write`` wrote."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    stored["lines"] = [Measured(**line) for line in stored["lines"]]
    stored["start"] = Start(**stored["start"]) if stored["start"] else None
    return Results(**stored)
