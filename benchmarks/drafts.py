"""What drafts do to the speed of the built-in model, task by task and batch by batch; writes docs/benchmarks/drafts.md.

    python -m benchmarks.drafts [--rounds N] [--data FOLDER] [--only TASK]

Prompts are those of Spec-Bench, its first turns, and two of ours: stories the model goes on with, and texts that say
the same again and again, as code and lists do. Timed is decoding: from the step in which the last of a batch has its
first token to the end, without drafts, with lookup and with lookup and the built-in draft model, in slices of time in
turn. Nothing else should run meanwhile.
"""

import argparse
import json
import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from burnish.assemble import open_plan
from burnish.core.types import Request, Sampling, TokenEvent
from burnish.engine.config import EngineConfig
from burnish.engine.engine import Engine
from burnish.measure.intervals import Interval, t_interval
from burnish.measure.machine import this_machine
from burnish.models.locate import held_out_text, locate
from burnish.models.tokenizer import Tokenizer, load_tokenizer

DOCS = Path(__file__).resolve().parents[1] / "docs" / "benchmarks"
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
QUESTIONS = Path("eval") / "spec-bench" / "question.jsonl"
MT_BENCH = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")  # one task here
PROMPT_TOKENS, OUTPUT_TOKENS = 512, 128
BATCHES, TEMPERATURES = (1, 2, 4, 8, 16), (0.0, 0.7)
PER_ROUND = 8  # requests at least
SLICE_S = 0.01  # of steps of one engine before it is the next one's turn
NONE, LOOKUP, BOTH = "none", "lookup", "lookup and model"
CODE = "def add_{0}(first, second):\n    total = first + second\n    print(total)\n    return total\n\n"
HEAD = """# What drafts do to decoding

Written by `benchmarks/drafts.py` on {machine}, {threads} threads: the built-in model, answers of {output} tokens to
prompts of at most {prompt}, decoding alone. Tokens per second over those without drafts, the mean of {rounds} rounds in
turn with its 95 % interval; answers are the same to the last bit. Aim: at least 1.5 on tasks that repeat themselves at
batch 1, nowhere below 0.97.
"""


class Setting(NamedTuple):
    """A column of the table."""

    batch: int
    temperature: float


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--only", default=None, help="one task; nothing is written then")
    asked = parser.parse_args()
    tokenizer = load_tokenizer(locate("builtin"))
    tasks = _tasks(asked.data / QUESTIONS, tokenizer)
    tasks = {name: prompts for name, prompts in tasks.items() if asked.only in (None, name)}
    engines = _engines(tokenizer)
    found: dict[str, dict[str, dict[Setting, Interval]]] = {kind: defaultdict(dict) for kind in engines}
    for name, prompts in tasks.items():
        for batch in BATCHES:
            for temperature in TEMPERATURES:
                setting = Setting(batch, temperature)
                speeds = _measured(engines, prompts, setting, asked.rounds)
                for kind in (LOOKUP, BOTH):
                    ratio = t_interval(np.log(speeds[kind]) - np.log(speeds[NONE])).exp()
                    found[kind][name][setting] = ratio
                    print(f"{name}, {batch} at {temperature}, {kind}: {_told(ratio)}", flush=True)
    if asked.only is not None:
        return
    threads = engines[NONE].config.threads or len(os.sched_getaffinity(0))
    head = HEAD.format(
        machine=this_machine().cpu, threads=threads, output=OUTPUT_TOKENS, prompt=PROMPT_TOKENS, rounds=asked.rounds
    )
    (DOCS / "drafts.md").write_text(
        head + "".join(_table(kind, found[kind]) for kind in (LOOKUP, BOTH)), encoding="utf-8"
    )


def _engines(tokenizer: Tokenizer) -> dict[str, Engine]:
    plan, draft = open_plan(locate("builtin")), open_plan(locate("builtin-draft"))
    plain, looking = EngineConfig(prefix_cache=False), EngineConfig(prefix_cache=False, lookup=True)
    return {
        NONE: Engine(plan, tokenizer, plain),
        LOOKUP: Engine(plan, tokenizer, looking),
        BOTH: Engine(plan, tokenizer, looking, draft=draft),
    }


def _tasks(questions: Path, tokenizer: Tokenizer) -> dict[str, list[tuple[int, ...]]]:
    """Prompts by task."""
    tasks: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    text = tokenizer.encode(held_out_text().read_text(encoding="utf-8"), add_special_tokens=False)
    tasks["stories"] = [tuple(text[at : at + 64]) for at in range(0, 16 * 1024, 1024)]
    for number in range(16):
        said = "".join(CODE.format(f"{number}_{again}") for again in range(6))
        tasks["code that repeats itself"].append(tuple(tokenizer.encode(said)[-PROMPT_TOKENS:]))
    for line in questions.read_text(encoding="utf-8").splitlines():
        question = json.loads(line)
        name = "dialogue" if question["category"] in MT_BENCH else question["category"].replace("_", " ")
        tasks[name].append(tuple(tokenizer.encode(question["turns"][0])[:PROMPT_TOKENS]))
    return tasks


def _measured(
    engines: Mapping[str, Engine], prompts: Sequence[tuple[int, ...]], setting: Setting, rounds: int
) -> dict[str, list[float]]:
    """Tokens per second of every round; a first round is not counted."""
    speeds: dict[str, list[float]] = {kind: [] for kind in engines}
    drawn = cycle(prompts)
    for number in range(rounds + 1):
        clocks = {kind: _Clock(engine) for kind, engine in engines.items()}
        chosen = list(islice(drawn, max(PER_ROUND, setting.batch)))
        for first in range(0, len(chosen), setting.batch):
            _decode(list(clocks.values()), chosen[first : first + setting.batch], setting)
        for kind, clock in clocks.items():
            if number:
                speeds[kind].append(clock.tokens / clock.seconds)
    return speeds


class _Clock:
    """An engine, and the tokens and seconds of its steps in which nothing but decoding was done."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._waiting = engine, set[str]()
        self.tokens, self.seconds = 0, 0.0

    @property
    def is_busy(self) -> bool:
        """Whether something is left to write."""
        return self._engine.has_work

    def add(self, request: Request) -> None:
        """Begin a request."""
        self._waiting.add(request.request_id)
        self._engine.add(request)

    def run(self, seconds: float) -> None:
        """Take steps for so long."""
        until_s = time.perf_counter() + seconds
        while self._engine.has_work and time.perf_counter() < until_s:
            is_decoding, begun_s = not self._waiting, time.perf_counter()
            events = self._engine.step()
            took_s = time.perf_counter() - begun_s
            written = [event for event in events if isinstance(event, TokenEvent)]
            self._waiting -= {event.request_id for event in written}
            if is_decoding:
                self.tokens += sum(len(event.token_ids) for event in written)
                self.seconds += took_s


def _decode(clocks: Sequence[_Clock], prompts: Sequence[tuple[int, ...]], setting: Setting) -> None:
    """The same requests by every engine, in slices of time in turn, so that a slow moment meets them all."""
    for clock in clocks:
        for number, prompt in enumerate(prompts):
            sampling = Sampling(max_tokens=OUTPUT_TOKENS, temperature=setting.temperature, seed=number, ignore_eos=True)
            clock.add(Request(request_id=str(number), prompt=prompt, sampling=sampling))
    order = list(clocks)
    while any(clock.is_busy for clock in clocks):
        for clock in order:
            clock.run(SLICE_S)
        order = [*order[1:], order[0]]  # who follows whom matters to caches


def _table(kind: str, found: Mapping[str, Mapping[Setting, Interval]]) -> str:
    settings = [Setting(batch, temperature) for temperature in TEMPERATURES for batch in BATCHES]
    named = [f"{'greedy' if not one.temperature else f'at {one.temperature}'}, {one.batch}" for one in settings]
    lines = [f"\n## By {kind}\n", f"| task | {' | '.join(named)} |", f"|---|{'---:|' * len(named)}"]
    lines += [f"| {task} | {' | '.join(_told(by[one]) for one in settings)} |" for task, by in found.items()]
    lowest = min((ratio.value, task, one) for task, by in found.items() for one, ratio in by.items())
    lines.append(f"\nLowest: {lowest[0]:.3f} ({lowest[1]}, {lowest[2].batch} at {lowest[2].temperature}).\n")
    return "\n".join(lines)


def _told(ratio: Interval) -> str:
    return f"{ratio.value:.2f} ± {(ratio.high - ratio.low) / 2:.2f}"


if __name__ == "__main__":
    main()
