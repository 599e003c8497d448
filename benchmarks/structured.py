"""Structured output on the schemas of MaskBench: which are accepted, whether what may be written is what should be,
what masks take, what they cost; writes docs/benchmarks/structured.md.

    python -m benchmarks.structured [--data FOLDER] [--every N]

``--every N`` looks at one of so many schemas. Nothing else should run meanwhile.
"""

import argparse
import gzip
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import numpy as np

from burnish.assemble import open_plan
from burnish.core.errors import BadRequest
from burnish.core.types import FinishEvent, Grammar, Request, Sampling, TokenEvent
from burnish.engine.config import EngineConfig
from burnish.engine.engine import Engine
from burnish.engine.guide import Asked, Guides
from burnish.measure.intervals import Interval, t_interval
from burnish.measure.machine import this_machine
from burnish.models.locate import locate
from burnish.models.tokenizer import Tokenizer, load_tokenizer

DOCS = Path(__file__).resolve().parents[1] / "docs" / "benchmarks"
SCHEMAS = Path(__file__).resolve().parents[2] / "shared" / "data" / "eval" / "maskbench"
WRITTEN, OUTPUT_TOKENS = 200, 400  # schemas an answer is written for, and its longest
BATCH, ROUNDS, TIMED_TOKENS = 8, 15, 200
STORY = {"type": "object", "properties": {"story": {"type": "string"}}, "required": ["story"]}
HEAD = """# Structured output

Written by `benchmarks/structured.py` on {machine}: schemas of MaskBench, compiled for the vocabulary of the built-in
model (4,096 tokens). Accepted: schemas that compile; the others are refused by name of what is not supported. Valid:
documents that a schema's author calls valid and that could be written, token by token; invalid: those called invalid
that could not. Masks are timed before every token of the valid documents.

| kind | schemas | accepted | valid written | invalid kept out | compiling p50 / p99 | mask p50 / p99 |
|---|---:|---:|---:|---:|---:|---:|
"""
ANSWERS = """
## Answers of the built-in model

One answer, drawn at temperature 1, to each of {all} of the accepted schemas, evenly over all: {written.ended} ended,
{written.cut} were cut at {most} tokens, {written.failed} ended at the library's limits. Of those that ended, {wrong}
are not valid by jsonschema. {names}
"""
COSTS = """
## What it costs

{batch} requests at a time, {tokens} tokens each, a story in a JSON string against any text: {cost:.3f} ± {half:.3f}
times as many tokens per second ({rounds} rounds in turn).
"""


@dataclass
class Found:
    """What came of one kind of schemas."""

    accepted: list[bool] = field(default_factory=list)
    valid: list[bool] = field(default_factory=list)
    invalid: list[bool] = field(default_factory=list)
    compile_s: list[float] = field(default_factory=list)
    mask_s: list[float] = field(default_factory=list)
    refusals: dict[str, int] = field(default_factory=dict)

    def add(self, other: "Found") -> None:
        """All kinds together."""
        for name in ("accepted", "valid", "invalid", "compile_s", "mask_s"):
            getattr(self, name).extend(getattr(other, name))


class Written(NamedTuple):
    """Answers of the built-in model for schemas."""

    ended: int
    cut: int  # by their length
    failed: int  # ended with an error: the library's limits
    wrong: list[str]  # names of schemas that an answer does not keep


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SCHEMAS)
    parser.add_argument("--every", type=int, default=1)
    asked = parser.parse_args()
    tokenizer = load_tokenizer(locate("builtin"))
    plan = open_plan(locate("builtin"))
    page, everything, keepable = HEAD.format(machine=this_machine().cpu), Found(), list[Mapping[str, Any]]()
    for file in sorted(asked.data.glob("*.jsonl.gz")):
        cases = list(_cases(file))[:: asked.every]
        found = _judged(cases, tokenizer, plan.shape.vocab_size)
        keepable += [case for case, accepted in zip(cases, found.accepted, strict=True) if accepted]
        everything.add(found)
        page += _line(file.name.partition(".")[0], found)
        print(_line(file.name, found), found.refusals, flush=True)
    page += _line("all", everything)
    engine = Engine(plan, tokenizer, EngineConfig())
    written = _write(engine, keepable[:: max(1, len(keepable) // WRITTEN)][:WRITTEN])
    page += ANSWERS.format(
        all=written.ended + written.cut + written.failed,
        written=written,
        most=OUTPUT_TOKENS,
        wrong=len(written.wrong),
        names=" ".join(written.wrong),
    )
    cost = _cost(engine)
    half = (cost.high - cost.low) / 2
    page += COSTS.format(batch=BATCH, tokens=TIMED_TOKENS, cost=cost.value, half=half, rounds=ROUNDS)
    print(page)
    if asked.every == 1:
        (DOCS / "structured.md").write_text(page, encoding="utf-8")


def _cases(file: Path) -> Iterator[Mapping[str, Any]]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _judged(cases: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, vocab_size: int) -> Found:
    found, guides = Found(), Guides(tokenizer, vocab_size)
    for case in cases:
        grammar, begun_s = Grammar("json_schema", json.dumps(case["schema"])), time.perf_counter()
        try:
            guides.compile(grammar)
        except BadRequest as error:
            found.accepted.append(False)
            reason = error.message.partition(": ")[2][:60]
            found.refusals[reason] = found.refusals.get(reason, 0) + 1
            continue
        found.compile_s.append(time.perf_counter() - begun_s)
        found.accepted.append(True)
        for test in case["tests"]:
            tokens = tokenizer.encode(json.dumps(test["data"], ensure_ascii=False), add_special_tokens=False)
            times = found.mask_s if test["valid"] else []
            could = _could_be_written(guides, grammar, tokens, times)
            (found.valid if test["valid"] else found.invalid).append(could == test["valid"])
    return found


def _could_be_written(guides: Guides, grammar: Grammar, tokens: Sequence[int], times: list[float]) -> bool:
    """Whether every token is allowed, and the end behind them."""
    guide = guides.compile(grammar)
    for token in tokens:
        begun_s = time.perf_counter()
        [allowed] = guides.allowed([Asked(guide, ())])
        times.append(time.perf_counter() - begun_s)
        if not allowed[token]:
            return False
        guide.take(token)
    return guide.matcher.is_accepting()


def _write(engine: Engine, cases: Sequence[Mapping[str, Any]]) -> Written:
    """Answers to every schema, all together."""
    said: dict[str, str] = {}
    ends: dict[str, FinishEvent] = {}
    for number, case in enumerate(cases):
        grammar = Grammar("json_schema", json.dumps(case["schema"]))
        sampling = Sampling(max_tokens=OUTPUT_TOKENS, seed=number, grammar=grammar)
        engine.add(Request(request_id=str(number), prompt=(1, 2, 3), sampling=sampling))
    while engine.has_work:
        for event in engine.step():
            if isinstance(event, TokenEvent):
                said[event.request_id] = said.get(event.request_id, "") + event.text
            elif isinstance(event, FinishEvent):
                ends[event.request_id] = event
    wrong = [
        str(case["name"])
        for number, case in enumerate(cases)
        if ends[str(number)].reason == "stop" and not _is_valid(said.get(str(number), ""), case["schema"])
    ]
    reasons = [end.reason for end in ends.values()]
    return Written(reasons.count("stop"), reasons.count("length"), reasons.count("error"), wrong)


def _is_valid(text: str, schema: Any) -> bool:
    try:
        document = json.loads(text)
        jsonschema.validators.validator_for(schema)(schema).validate(document)
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


def _cost(engine: Engine) -> Interval:
    """Tokens per second with a schema over those without."""
    ratios = []
    for number in range(ROUNDS + 1):
        speeds = [_speed(engine, grammar, number) for grammar in (None, Grammar("json_schema", json.dumps(STORY)))]
        if number:
            ratios.append(speeds[1] / speeds[0])
    return t_interval(np.log(ratios)).exp()


def _speed(engine: Engine, grammar: Grammar | None, seed: int) -> float:
    for number in range(BATCH):
        sampling = Sampling(max_tokens=TIMED_TOKENS, seed=seed + number, ignore_eos=True, grammar=grammar)
        engine.add(Request(request_id=str(number), prompt=(1, 2, 3 + seed), sampling=sampling))
    tokens, seconds, waiting = 0, 0.0, {str(number) for number in range(BATCH)}
    while engine.has_work:
        is_full, begun_s = not waiting, time.perf_counter()
        events = engine.step()
        took_s = time.perf_counter() - begun_s
        written = [event for event in events if isinstance(event, TokenEvent)]
        waiting -= {event.request_id for event in written}
        if is_full and len(written) == BATCH:  # a string may end
            tokens += len(written)
            seconds += took_s
    return tokens / seconds


def _line(name: str, found: Found) -> str:
    shares = [f"{sum(ones):,} of {len(ones):,}" for ones in (found.accepted, found.valid, found.invalid)]
    times = [_quantiles(found.compile_s, 1e3, "ms"), _quantiles(found.mask_s, 1e6, "us")]
    return f"| {name} | {len(found.accepted):,} | {' | '.join([*shares, *times])} |\n"


def _quantiles(seconds: Sequence[float], factor: float, unit: str) -> str:
    if not seconds:
        return ""
    half, most = (factor * float(np.percentile(seconds, share)) for share in (50, 99))
    return f"{half:.3g} / {most:.3g} {unit}"


if __name__ == "__main__":
    main()
