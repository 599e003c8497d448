"""Makes candidates and measures them, each in a process of its own, within limits of time and memory.

Everything found is kept in a folder, so that a search that was killed goes on where it was.
"""

import json
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burnish.core.errors import OutOfTime
from burnish.engine.config import EngineConfig
from burnish.measure.diagnose.observe import Situation
from burnish.measure.intervals import Interval
from burnish.measure.quality.perplexity import Passage
from burnish.optimize.candidates import Candidate
from burnish.optimize.search import Reach, Steps
from burnish.optimize.trial import Reading, Serving, read, run_watched, serve
from burnish.optimize.weigh import Figures
from burnish.registry.artifact import is_whole

BLOCK = 256  # tokens that fall into the same half
LEAST_READ = 8 * BLOCK  # tokens: less of a text says nothing
CONDITIONS, ROUNDS_FILE, TOKENS_FILE = "conditions.json", "rounds.json", "tokens.npy"
SLOWER = 1.3  # of what a round took: the machine may be slower in the next


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What candidates are measured with."""

    model: Path
    model_mb: float
    text: Path
    tokens: Sequence[int]  # of it
    situation: Situation
    config: EngineConfig
    compress: Callable[[str, Path], Sequence[str]]  # (recipe, out) -> the command that makes it
    tried_module: str
    price_per_hour: float
    memory_bytes: int


class ProcessLab:
    """A lab whose every step is a process. ``conditions``: all that its figures depend on."""

    def __init__(
        self,
        bench: Bench,
        folder: Path,
        conditions: dict[str, Any],
        *,
        time_limit_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bench, self._folder, self._clock = bench, folder, clock
        self._begun_s, self._limit_s = clock(), time_limit_s
        self._share = 1.0
        self._step_s = 0.0  # the longest of what was served
        self._took: dict[str, list[float]] = {"makes": [], "reads": [], "serves": []}
        self._forget_others(conditions)
        self._rounds: dict[str, dict[str, Figures]] = self._read_rounds()
        np.save(folder / TOKENS_FILE, np.array(bench.tokens, np.int32))

    def _forget_others(self, conditions: dict[str, Any]) -> None:
        """Begin anew where the folder holds figures of other conditions."""
        kept = self._folder / CONDITIONS
        wanted = json.dumps(conditions, sort_keys=True)
        if not kept.exists() or kept.read_text(encoding="utf-8") != wanted:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
            kept.write_text(wanted, encoding="utf-8")

    def _read_rounds(self) -> dict[str, dict[str, Figures]]:
        file = self._folder / ROUNDS_FILE
        found: dict[str, dict[str, Figures]] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        return found

    @property
    def has_figures(self) -> bool:
        """Whether anything was served, in this life of the search or an earlier one."""
        return any(self._rounds.values())

    @property
    def seconds_left(self) -> float:
        """Until the time limit."""
        return self._begun_s + self._limit_s - self._clock()

    def expected_s(self, steps: Steps) -> float:
        """Seconds that so many steps take if they take as long as those so far, at most what is left."""
        means = {kind: statistics.fmean(took) for kind, took in self._took.items() if took}
        ahead = {"makes": steps.makes, "reads": steps.reads, "serves": steps.serves}
        return min(self.seconds_left, sum(count * means.get(kind, 0.0) for kind, count in ahead.items()))

    def until(self, share: float) -> None:
        """What is made or read from now on must be done by this share of the time."""
        self._share = share

    def has_time(self) -> bool:
        """Whether a step as long as any so far can be done by then."""
        return self._stage_left_s > self._step_s * SLOWER

    def path(self, candidate: Candidate) -> Path:
        """Where its weights are."""
        return self._bench.model if candidate.recipe is None else self._folder / "made" / candidate.recipe

    def make(self, candidate: Candidate) -> float:
        """Make the weights, unless they are there and whole."""
        path = self.path(candidate)
        if candidate.recipe is None:
            return self._bench.model_mb
        if not is_whole(path):
            shutil.rmtree(path, ignore_errors=True)
            path.parent.mkdir(exist_ok=True)
            begun_s = self._clock()
            self._run(self._bench.compress(self._recipe(candidate), path))
            self._took["makes"].append(self._clock() - begun_s)
        return sum(file.stat().st_size for file in path.glob("*.safetensors")) / 1e6

    def _recipe(self, candidate: Candidate) -> str:
        """What ``burnish compress`` takes: a name, or the file that the search wrote."""
        assert candidate.recipe is not None
        if candidate.text is None:
            return candidate.recipe
        file = self._folder / f"{candidate.recipe}.toml"
        file.write_text(candidate.text, encoding="utf-8")
        return str(file)

    def losses(self, candidate: Candidate, reach: Reach) -> NDArray[np.float64]:
        """Losses of so many of the text's tokens; what was read is not read again."""
        most = len(self._bench.tokens)
        count = min(most, max(LEAST_READ, most // reach))
        keys = candidate.config(self._bench.config).keys
        name = f"{candidate.recipe or 'own'}-{keys}-{count}.npy".replace(":", "_")
        file = self._folder / name
        if not file.exists():
            fresh, begun_s = file.with_name(f".{name}"), self._clock()
            order = Reading(
                model=str(self.path(candidate)),
                text=str(self._bench.text),
                max_tokens=count,
                out=str(fresh),
                keys=keys,
            )
            read(order, self._bench.tried_module, timeout_s=self._timeout_s, memory_bytes=self._bench.memory_bytes)
            fresh.replace(file)
            self._took["reads"].append(self._clock() - begun_s)
        found: NDArray[np.float64] = np.load(file)
        return found

    def serve(self, candidate: Candidate, number: int) -> Figures:
        """Serve the situation once, for the round of that number."""
        known = self._rounds.setdefault(candidate.name, {})
        if str(number) not in known:
            begun_s = self._clock()
            order = Serving(
                model=str(self.path(candidate)),
                situation=self._bench.situation,
                text=str(self._folder / TOKENS_FILE),
                config=candidate.config(self._bench.config),
            )
            found = serve(
                order,
                self._bench.tried_module,
                timeout_s=self._timeout_s,
                memory_bytes=self._bench.memory_bytes,
            )
            self._took["serves"].append(self._clock() - begun_s)
            self._step_s = max(self._step_s, self._took["serves"][-1])
            figures = found.figures()
            figures["cost_per_million"] = self._bench.price_per_hour / 3600 / figures["tokens_per_s"] * 1e6
            known[str(number)] = figures
            fresh = self._folder / f".{ROUNDS_FILE}"
            fresh.write_text(json.dumps(self._rounds), encoding="utf-8")
            fresh.replace(self._folder / ROUNDS_FILE)
        return known[str(number)]

    @property
    def _stage_left_s(self) -> float:
        return self.seconds_left - (1 - self._share) * self._limit_s

    @property
    def _timeout_s(self) -> float:
        if self._stage_left_s <= 0:
            raise OutOfTime("no time was left", remedy="Allow more time")
        return self._stage_left_s

    def _run(self, command: Sequence[str]) -> None:
        run_watched(command, timeout_s=self._timeout_s, memory_bytes=self._bench.memory_bytes)


class Half:
    """Compares losses on one half of a text: of every two blocks of tokens one, drawn by a seed."""

    def __init__(self, passage: Passage, *, seed: int, is_first: bool) -> None:
        count = len(passage.tokens) - (passage.bos is None)
        blocks = np.arange(count) // BLOCK
        drawn = np.random.default_rng(seed).integers(0, 2, blocks[-1] // 2 + 1)
        self.is_in = ((blocks + drawn[blocks // 2]) % 2 == 0) == is_first
        self._passage = passage

    def __call__(self, losses: NDArray[np.float64], own: NDArray[np.float64]) -> Interval:
        """Perplexity over the model's own, minus 1; of the first tokens alone where only those were read."""
        where = self.is_in[: len(losses)]
        documents = np.array(self._passage.documents, np.int64)[: len(losses)]
        part = self._passage._replace(documents=tuple(documents[where].tolist()) if len(documents) else ())
        return part.mean((losses - own)[where]).exp().shifted(-1)
