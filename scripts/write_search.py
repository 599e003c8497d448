"""Search the built-in model on many splits of a text, hold every choice against what it could have been, and write
docs/search.md.

    python -m scripts.write_search [--splits N] [--max-tokens N] [--rounds N] [--work FOLDER] [--data FOLDER]

Recipes of every format are made, but for those that take many minutes, and read all of the text; what may keep a loss,
and what the search may ask for, serves in turn with the model itself. Then the search of ``burnish optimize`` runs once
per split and allowed loss on those figures. A split keeps an eighth of the text from its search, by which the choice is
judged. What lies in the folder ``--work`` is not made or measured again. Nothing else should run while it serves.
"""

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from burnish.cli.compress import model_bytes
from burnish.cli.quality import passage_of
from burnish.cli.situations import Described, situation_of
from burnish.cli.tried import TRIED
from burnish.compress.passes.autoround import AutoRound
from burnish.compress.passes.whole import WholePass
from burnish.compress.recipe import Recipe
from burnish.compress.recipes import find_recipe
from burnish.core.memory import free_bytes
from burnish.engine.config import EngineConfig
from burnish.measure.intervals import Interval
from burnish.measure.machine import this_machine
from burnish.measure.quality.corpus import read_corpus
from burnish.measure.quality.gate import judge_loss
from burnish.measure.quality.perplexity import Passage, QualityConfig
from burnish.models.checkpoint import raw_config
from burnish.models.families import read_config
from burnish.models.locate import locate
from burnish.optimize.candidates import Candidate, settings, weights
from burnish.optimize.lab import BLOCK, LEAST_READ, Bench, Half, ProcessLab
from burnish.optimize.search import ROUNDS, Asked, Outcome, Reach, Search
from burnish.optimize.weigh import FIGURE_OF, Figures, Objective, is_gain, ratio
from scripts.measured import CALIBRATION, DOCS, SHARED, TEXTS

TEXT = TEXTS["stories"]
ALLOWED = (0.01, 0.02)  # losses
KEPT_BACK = 8  # of the text, one part of so many is kept from a search
OBJECTIVE: Objective = "latency"
METHODS = (
    "",
    "-gptq",
    "-awq-gptq",
)  # recipes that store alike serve alike: the plainest and the best that do not learn
NAMED = (
    *("int8", "int8-gptq", "int8-w8a8-smoothquant"),
    *(f"int4{method}-{group}" for group in ("g128", "g64", "g32") for method in METHODS),
    *("int4-rotate-gptq-g128", "int3-gptq-g32"),
)
TOGETHER = 16  # requests at a time, beside one
HOURS = 6 * 3600.0  # no limit for what has to be made once

HEAD = """# What searches choose, and what they could have chosen

Written by `scripts/write_search.py` on {machine}: the built-in model, requests of 128 tokens in and 32 out one after
the other, judged by {tokens:,} tokens of
`{text}`. {splits} times an eighth of the text, drawn by blocks of {block} tokens,
was kept from the search; what it chose was then judged there. Losses are read once and parted anew in every
split; times are those of one series of rounds in turn, in which all that a search may ask for took part.

## Choices on text that the search did not see

Loss: perplexity over the model's own, minus 1, with its 95 % interval, on the eighth that was kept back.

| allowed | chosen | splits | loss on the eighth kept back, least to most | at most the loss allowed |
|---:|---|---:|---:|---:|
"""
NAMED_HEAD = """
## Against every named recipe

Recipes that store weights alike serve alike, so of each format the plain recipe and the best that need no learning
were made; mixtures of formats, which take ten minutes each, lie between those. Listed are those that are not shown to
lose more than {most:.0%} on all of this text. Times: median time of a request over the model's own, the mean of
{rounds} rounds in turn with its 95 % interval, none of them seen by a search. A recipe keeps a loss where the interval
on all of the text lies below it; a search looks at a half of what it is shown, and chooses only what that half shows to
keep the loss and the other half confirms: what keeps it by a little may not be shown to.

| recipe | loss | time | keeps |
|---|---:|---:|---|
"""

COULD = """Of the recipes that both halves of what a search was shown show to keep the loss, one is shown to be faster
than its choice in {missed} of {splits} searches. Against those that all of the text shows to keep it:
"""
TOGETHER_HEAD = """
## One request at a time, and {together}

The same recipes under both: the median time of a request and tokens per second of all of them over the model's own,
{rounds} rounds in turn. What is best depends on both traffic and objective, which is why a search serves what it was
told to expect.

| recipe | time, one | time, {together} | tokens/s, one | tokens/s, {together} |
|---|---:|---:|---:|---:|
"""


class Row(NamedTuple):
    """One search and how its choice did on what was kept back."""

    allowed: float
    seed: int
    chosen: Candidate
    kept_back: Interval
    could: tuple[str, ...]  # named recipes that what was shown shows to keep the loss, half by half as a search looks


class SplitLab:
    """A lab that shows one split's part of the text. Everything was measured beforehand. Wears Lab."""

    def __init__(self, lab: ProcessLab, is_shown: NDArray[np.bool_]) -> None:
        self._lab, self._is_shown = lab, is_shown

    def make(self, candidate: Candidate) -> float:
        """As the lab it wraps."""
        return self._lab.make(candidate)

    def losses(self, candidate: Candidate, reach: Reach) -> NDArray[np.float64]:
        """Of so many of the tokens that are shown."""
        shown = self._lab.losses(candidate, Reach.ALL)[self._is_shown]
        return shown[: max(LEAST_READ, len(shown) // reach)]

    def serve(self, candidate: Candidate, number: int) -> Figures:
        """As the lab it wraps."""
        return self._lab.serve(candidate, number)

    def until(self, share: float) -> None:
        """There is time."""

    def has_time(self) -> bool:
        """There is."""
        return True


def main() -> None:
    """Measure what is missing, search, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--max-tokens", type=int, default=131_072)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument("--data", type=Path, default=SHARED)
    parser.add_argument("--only-read", action="store_true", help="make and read, which bears a busy machine")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        passage = passage_of("builtin", read_corpus(asked.data / TEXT), QualityConfig(max_tokens=asked.max_tokens))
        work = asked.work or Path(name) / "work"
        lab = _lab(work, passage, asked.data)
        searched = [
            one
            for one in weights(has_data=True, is_compressed=False)
            if one.recipe is None or not _takes_long(find_recipe(one.recipe))
        ]
        own = Candidate(recipe=None)
        every = _once([own, *searched, *(Candidate(recipe=name) for name in NAMED)])
        for one in every:
            lab.make(one)
            lab.losses(one, Reach.ALL)
            print(f"read {one.name}", flush=True)
        keeping = [one for one in every if judge_loss(_loss(lab, passage, one), max(ALLOWED)) != "fail"]
        cores = len(os.sched_getaffinity(0))
        around = [other for one in keeping if one in searched for other in settings(one, cores=cores, concurrency=1)]
        for one in around:
            lab.losses(one, Reach.ALL)
        if asked.only_read:
            return
        _serve(lab, _once([own, *searched, *around]), range(asked.rounds + 1))
        splits = [(allowed, seed) for allowed in ALLOWED for seed in range(asked.splits)]
        rows = [_searched(lab, passage, searched, keeping, allowed=allowed, seed=seed) for allowed, seed in splits]
        judged = _once([own, *keeping, *(row.chosen for row in rows)])
        again = range(asked.rounds + 1, 2 * asked.rounds + 1)
        _serve(lab, judged, again)
        crowded = _lab(work, passage, asked.data, concurrency=TOGETHER)
        _share_made(work)
        _serve(crowded, judged, again)
        head = HEAD.format(
            machine=this_machine().cpu,
            tokens=len(passage.tokens),
            text=Path(TEXT).name,
            splits=asked.splits,
            block=BLOCK,
        )
        written = head + _choices(rows) + _verdict(rows) + _against(lab, passage, judged, again, rows)
        written += _together(lab, crowded, judged, again)
    (DOCS / "search.md").write_text(written, encoding="utf-8")
    print(written)


def _serve(lab: ProcessLab, candidates: Sequence[Candidate], rounds: range) -> None:
    for number in rounds:
        for one in candidates:
            lab.serve(one, number)
        print(f"served round {number}", flush=True)


def _takes_long(recipe: Recipe) -> bool:
    """Whether it learns, or measures the model again and again."""
    learns = any(isinstance(step, AutoRound) or (isinstance(step, WholePass) and step.learns) for step in recipe.passes)
    return learns or recipe.budget is not None


def _once(candidates: Sequence[Candidate]) -> list[Candidate]:
    return list({one.name: one for one in candidates}.values())


def _lab(folder: Path, passage: Passage, data: Path, *, concurrency: int = 1) -> ProcessLab:
    def compress(recipe: str, out: Path) -> Sequence[str]:
        words = [
            sys.executable,
            "-m",
            "burnish.cli.main",
            "compress",
            "builtin",
            str(out),
            "--recipe",
            recipe,
            "--json",
        ]
        needs = find_recipe(recipe).needs.data
        return [*words, "--calibration", str(data / CALIBRATION)] if needs else words

    path = locate("builtin")
    situation = situation_of(
        Described(concurrency=concurrency), read_config(raw_config(path)).max_positions, temperature=1.0
    ).situation
    bench = Bench(
        model=path,
        model_mb=model_bytes(path) / 1e6,
        text=data / TEXT,
        tokens=passage.tokens,
        situation=situation,
        config=EngineConfig(),
        compress=compress,
        tried_module=TRIED,
        price_per_hour=1.0,
        memory_bytes=free_bytes(),
    )
    conditions = {"tokens": len(passage.tokens), "concurrency": concurrency}
    return ProcessLab(bench, folder / str(concurrency), conditions, time_limit_s=HOURS)


def _could(lab: ProcessLab, judged: Sequence[Candidate], rounds: range, rows: Sequence[Row]) -> str:
    """In how many splits a recipe is shown to be faster that the search could know to keep the loss."""
    by_name = {one.name: one for one in judged}
    missed = [
        row
        for row in rows
        for name in row.could
        if name != row.chosen.name and is_gain(_time(lab, by_name[name], by_name[row.chosen.name], rounds), OBJECTIVE)
    ]
    seeds = {(row.allowed, row.seed) for row in missed}
    return COULD.format(missed=len(seeds), splits=len(rows))


def _share_made(work: Path) -> None:
    """Let what was made for one request at a time be served to many."""
    shared = work / str(TOGETHER) / "made"
    if not shared.exists():
        shared.symlink_to((work / "1" / "made").resolve())


def _searched(
    lab: ProcessLab,
    passage: Passage,
    candidates: Sequence[Candidate],
    named: Sequence[Candidate],
    *,
    allowed: float,
    seed: int,
) -> Row:
    """One search on what is not kept back."""
    assert passage.num_documents == 1, "a single book"
    count = len(passage.tokens) - (passage.bos is None)
    blocks = np.arange(count) // BLOCK
    drawn = np.random.default_rng([seed, 7]).permutation(blocks[-1] + 1)
    is_shown = drawn[blocks] % KEPT_BACK > 0
    tokens = passage.tokens[: int(is_shown.sum()) + (passage.bos is None)]  # their number counts
    part = passage._replace(tokens=tokens, documents=())
    halves = (Half(part, seed=seed, is_first=True), Half(part, seed=seed, is_first=False))
    asked = Asked(objective=OBJECTIVE, max_loss=allowed, cores=len(os.sched_getaffinity(0)))
    shown = SplitLab(lab, is_shown)
    found: Outcome = Search(shown, asked, halves).run(candidates)
    assert found.chosen is not None
    chosen = next(one.candidate for one in found.tried if one.name == found.chosen)
    change = lab.losses(chosen, Reach.ALL) - lab.losses(Candidate(recipe=None), Reach.ALL)
    own = shown.losses(Candidate(recipe=None), Reach.ALL)
    could = [
        one.name for one in named if all(_keeps(half(shown.losses(one, Reach.ALL), own), allowed) for half in halves)
    ]
    return Row(allowed, seed, chosen, passage.mean(change[~is_shown]).exp().shifted(-1), tuple(could))


def _choices(rows: Sequence[Row]) -> str:
    """What was chosen how often, and what it lost where no search had looked."""
    written = ""
    for allowed in ALLOWED:
        of_it = [row for row in rows if row.allowed == allowed]
        for name, count in Counter(row.chosen.name for row in of_it).most_common():
            losses = sorted((row.kept_back for row in of_it if row.chosen.name == name), key=lambda one: one.value)
            within = sum(one.value <= allowed for one in losses)
            cells = (f"{allowed:.0%}", name, str(count), f"{_told(losses[0])} to {_told(losses[-1])}")
            written += f"| {' | '.join(cells)} | {within} of {count} |\n"
    return written


def _verdict(rows: Sequence[Row]) -> str:
    kept = sum(row.kept_back.value <= row.allowed for row in rows)
    return f"\n{kept} of {len(rows)} searches chose what kept the loss where they had not looked.\n"


def _loss(lab: ProcessLab, passage: Passage, one: Candidate) -> Interval:
    """On all of the text: perplexity over the model's own, minus 1."""
    change = lab.losses(one, Reach.ALL) - lab.losses(Candidate(recipe=None), Reach.ALL)
    return passage.mean(change).exp().shifted(-1)


def _against(lab: ProcessLab, passage: Passage, judged: Sequence[Candidate], rounds: range, rows: Sequence[Row]) -> str:
    """Every recipe in fresh rounds, and whether one of them is shown to be better than a choice."""
    losses = {one.name: _loss(lab, passage, one) for one in judged[1:]}
    times = {one.name: _time(lab, one, judged[0], rounds) for one in judged[1:]}
    written = NAMED_HEAD.format(most=max(ALLOWED), rounds=len(rounds))
    for name in sorted(times, key=lambda name: times[name].value):
        keeps = ", ".join(f"{allowed:.0%}" for allowed in ALLOWED if _keeps(losses[name], allowed))
        written += f"| {name} | {_told(losses[name])} | {_times(times[name])} | {keeps} |\n"
    written += "\n" + _could(lab, judged, rounds, rows) + "\n"
    for allowed, name in sorted({(row.allowed, row.chosen.name) for row in rows}):
        chosen = next(one for one in judged if one.name == name)
        others = [one for one in judged[1:] if one.name != name and _keeps(losses[one.name], allowed)]
        ratios = {one.name: _time(lab, one, chosen, rounds) for one in others}
        if not ratios:
            continue
        fastest = min(ratios, key=lambda other: ratios[other].value)
        better = [other for other, found in ratios.items() if is_gain(found, OBJECTIVE)]
        told = f"shown to be faster: {', '.join(better)}" if better else "none is shown to be faster"
        written += f"- {allowed:.0%} allowed, `{name}` against the {len(others)} others that keep it: {told}; "
        written += f"the fastest of them, `{fastest}`, takes {_times(ratios[fastest])} of its time.\n"
    return written


def _together(lab: ProcessLab, crowded: ProcessLab, judged: Sequence[Candidate], rounds: range) -> str:
    """The same recipes for one request at a time and for many."""
    written = TOGETHER_HEAD.format(together=TOGETHER, rounds=len(rounds))
    objectives: tuple[Objective, ...] = ("latency", "throughput")
    columns = [(one, objective) for objective in objectives for one in (lab, crowded)]
    plain = [one for one in judged[1:] if one == Candidate(recipe=one.recipe)]
    ratios = {one.name: [_ratio(each, one, judged[0], rounds, goal) for each, goal in columns] for one in plain}
    for name in sorted(ratios, key=lambda name: ratios[name][0].value):
        written += f"| {name} | {' | '.join(_times(found) for found in ratios[name])} |\n"
    best = [min(ratios, key=lambda name: ratios[name][at].value) for at in (0, 1)]
    best += [max(ratios, key=lambda name: ratios[name][at].value) for at in (2, 3)]
    told = (f"`{name}`" for name in best)
    return written + f"\nBest in each column: {', '.join(told)}.\n"


def _times(found: Interval) -> str:
    return f"{found.value:.3f} ± {(found.high - found.low) / 2:.3f}"


def _keeps(loss: Interval, allowed: float) -> bool:
    return judge_loss(loss, allowed) == "pass"


def _time(lab: ProcessLab, one: Candidate, other: Candidate, rounds: range) -> Interval:
    """The median time of a request over another's, in the same rounds."""
    return _ratio(lab, one, other, rounds, OBJECTIVE)


def _ratio(lab: ProcessLab, one: Candidate, other: Candidate, rounds: range, objective: Objective) -> Interval:
    """What the objective looks at over another's, in the same rounds."""
    ours, theirs = ([lab.serve(each, number) for number in rounds] for each in (one, other))
    return ratio(ours, theirs, FIGURE_OF[objective])


def _told(loss: Interval) -> str:
    return f"{100 * loss.value:+.2f} ± {50 * (loss.high - loss.low):.2f} %"


if __name__ == "__main__":
    main()
