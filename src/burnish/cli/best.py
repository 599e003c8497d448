"""A search for the best variant of a model, from what a user asked for to the folder that is written."""

import hashlib
import json as json_format
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.markup import escape

from burnish import __version__
from burnish.assemble import open_plan
from burnish.cli.compress import model_bytes
from burnish.cli.foreseen import foreseen
from burnish.cli.output import err
from burnish.cli.quality import passage_of
from burnish.cli.situations import Fitted
from burnish.cli.tried import TRIED
from burnish.compress.recipes import find_recipe
from burnish.core.errors import BadSettings, BurnishError
from burnish.engine.config import EngineConfig
from burnish.kernels.native import native
from burnish.measure.diagnose.diagnosis import look
from burnish.measure.diagnose.scene import Scene
from burnish.measure.machine import this_machine
from burnish.measure.quality.corpus import read_corpus
from burnish.measure.quality.perplexity import Passage, QualityConfig
from burnish.models.checkpoint import raw_config
from burnish.models.families import read_config
from burnish.models.locate import locate
from burnish.optimize.candidates import Candidate, Drafting, fastest_first, is_own, weights
from burnish.optimize.deliver import PAGE, REPORT, deliver
from burnish.optimize.lab import BLOCK, Bench, Half, ProcessLab
from burnish.optimize.report import page, plain
from burnish.optimize.search import Asked, Outcome, Search, Steps
from burnish.optimize.shapes import shapes
from burnish.registry.artifact import content_hash, is_whole

LEAST_CONTEXTS = 2  # of text: one half is searched on, the other confirms
LEAST_TOKENS = 4 * BLOCK
DELIVERY_S = 3.0  # of the time, for writing what was found
CHANGING = ("limits of the search", "it took")  # conditions that no figure depends on


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """A search as it was asked for."""

    model: str
    out: Path
    asked: Asked
    text: Path
    max_tokens: int
    calibration: Path | None
    fitted: Fitted
    traffic: str  # where the situation comes from, for people
    config: EngineConfig
    price_per_hour: float
    machine: str | None
    time_limit_s: float
    memory_bytes: int
    seed: int
    copies_parent: bool = True  # where the model itself is best; else only the report is written


def earlier(order: Order) -> dict[str, Any] | None:
    """The report of a search that asked the same under the same conditions, if its result is still whole."""
    try:
        report: dict[str, Any] = json_format.loads((order.out / REPORT).read_text(encoding="utf-8"))
        kept = {name: value for name, value in report["conditions"].items() if name not in CHANGING}
        asked = (report["objective"], report["max_loss"], report["limits"])
    except (OSError, ValueError, KeyError):
        return None
    wanted = (order.asked.objective, order.asked.max_loss, list(map(str, order.asked.limits)))
    path = locate(order.model)
    is_same = asked == wanted and kept == _conditions(order, path, _passage(order.model, order.text, order.max_tokens))
    return report if is_same and (is_own(report["chosen"]) or is_whole(order.out)) else None


def find_best(order: Order, *, quiet: bool, predicted: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Search, and write ``order.out`` when something keeps the limits; the report.

    ``predicted``: times of recipes over the model's own, where the situation was looked at already. Raises
    ``BadSettings`` for a text that is too short, and what measuring the model itself raises.
    """
    begun_s, path = time.monotonic(), locate(order.model)
    passage = _passage(order.model, order.text, order.max_tokens)
    conditions = _conditions(order, path, passage)
    work = unfinished(order.out)
    candidates = _candidates(order, path)
    if predicted is None:
        predicted = predictions(order, path, looked_at(order, path))
    left_s = order.time_limit_s - DELIVERY_S - (time.monotonic() - begun_s)
    lab = ProcessLab(_bench(order, path, passage), work, conditions, time_limit_s=left_s)
    halves = (Half(passage, seed=order.seed, is_first=True), Half(passage, seed=order.seed, is_first=False))
    known = shapes(read_config(raw_config(path))) if candidates and order.calibration is not None else []
    try:
        search = Search(lab, order.asked, halves, partial(_tell, lab, quiet))
        found = search.run(fastest_first(candidates, predicted), known, predicted)
    except BurnishError:
        if not lab.has_figures:  # of the model itself: there is nothing to go on with
            shutil.rmtree(work)
        raise
    bounds = f"{order.time_limit_s:.0f} s, {order.memory_bytes / 2**20:.0f} MiB"
    took = {"limits of the search": bounds, "it took": f"{time.monotonic() - begun_s:.0f} s"}
    report = plain(found, order.asked, conditions | took)
    if found.chosen is not None:
        _deliver(order, found, lab, report)
        shutil.rmtree(work)
    else:  # figures stay, for a search that allows more
        (work / REPORT).write_text(_written(report), encoding="utf-8")
        (work / PAGE).write_text(page(report), encoding="utf-8")
    return report


def unfinished(out: Path) -> Path:
    """Where what is found for a folder lies until something is chosen."""
    return out.with_name(f"{out.name}.unfinished")


def check_text(order: Order) -> None:
    """Raise ``BadSettings`` for a text that cannot be judged by."""
    _passage(order.model, order.text, order.max_tokens)


def looked_at(order: Order, model: Path, *, again: bool = False) -> Scene | None:
    """The model in its situation, step by step; None where nothing native runs it. ``again``: the machine anew, too."""
    return None if native() is None else look(open_plan(model), order.config, order.fitted.situation, again=again)


def predictions(order: Order, model: Path, scene: Scene | None) -> Mapping[str, float]:
    """Times of recipes over the model's own; of none without a scene."""
    return foreseen(scene, _candidates(order, model))


def _candidates(order: Order, model: Path) -> list[Candidate]:
    """None for a model that is compressed already: it is only served otherwise."""
    is_compressed = raw_config(model).get("quantization_config") is not None
    return weights(has_data=order.calibration is not None, is_compressed=is_compressed)


def _deliver(order: Order, found: Outcome, lab: ProcessLab, report: dict[str, Any]) -> None:
    chosen = next(one for one in found.tried if one.name == found.chosen)
    is_left_out = chosen.candidate.recipe is None and not order.copies_parent
    deliver(
        found,
        order.asked,
        None if is_left_out else lab.path(chosen.candidate),
        order.out,
        config=order.config,
        report=_written(report),
        page=page(report),
        seed=order.seed,
        data_sha256=_text_hash(order.text),
    )


def _passage(model: str, text: Path, max_tokens: int) -> Passage:
    passage = passage_of(model, read_corpus(text), QualityConfig(max_tokens=max_tokens))
    least = max(LEAST_CONTEXTS * passage.config.context, LEAST_TOKENS)
    if len(passage.tokens) < least:
        raise BadSettings(
            f"text {str(text)!r} has {len(passage.tokens)} tokens, too few for a context of {passage.config.context}",
            remedy=f"Give {least} or more: one half is searched on, the other confirms",
        )
    return passage


def _bench(order: Order, path: Path, passage: Passage) -> Bench:
    return Bench(
        model=path,
        model_mb=model_bytes(path) / 1e6,
        text=order.text,
        tokens=passage.tokens,
        situation=order.fitted.situation,
        config=order.config,
        compress=partial(_compress, path, order.calibration, order.memory_bytes),
        tried_module=TRIED,
        price_per_hour=order.price_per_hour,
        memory_bytes=order.memory_bytes,
    )


def _compress(model: Path, calibration: Path | None, memory_bytes: int, recipe: str, made: Path) -> Sequence[str]:
    words = [sys.executable, "-m", "burnish.cli.main", "compress", str(model), str(made), "--recipe", recipe, "--json"]
    words += ["--memory", str(memory_bytes)]
    return [*words, "--calibration", str(calibration)] if find_recipe(recipe).needs.data else words


def _conditions(order: Order, path: Path, passage: Passage) -> dict[str, Any]:
    """All that figures depend on, in words that are read on the report too."""
    requests, machine = order.fitted.situation.requests, this_machine()
    lengths = sorted({f"{one.prompt_tokens} in, {one.output_tokens} out" for one in requests})
    more = f" and {len(lengths) - 4} more" if len(lengths) > 4 else ""
    calibration = order.calibration
    return {
        "burnish": __version__,
        "model": f"sha256 {content_hash(path)[:16]}",
        "text": f"{order.text.name}, {len(passage.tokens):,} tokens, sha256 {_text_hash(order.text)[:16]}",
        "calibration": "none" if calibration is None else f"{calibration.name}, sha256 {file_hash(calibration)[:16]}",
        "traffic": order.traffic,
        "lengths": ", ".join(lengths[:4]) + more,
        "temperature": order.fitted.situation.temperature,
        "drafts tried": _drafts(order.asked.drafting),
        "machine": f"{machine.cpu}, {order.config.threads or len(os.sched_getaffinity(0))} threads",
        "price": "none" if order.machine is None else f"{order.machine}, {order.price_per_hour:g} an hour",
        "engine": ", ".join(f"{name} {value}" for name, value in asdict(order.config).items() if value is not None),
        "seed": order.seed,
    }


def _written(report: dict[str, Any]) -> str:
    return json_format.dumps(report, indent=1) + "\n"


def _drafts(tried: Drafting) -> str:
    told = "" if tried.model is None else f", sha256 {content_hash(locate(tried.model))[:16]}"
    return f"{tried.name or 'none'}{told}"


def _text_hash(text: Path) -> str:
    return hashlib.sha256(read_corpus(text).text.encode()).hexdigest()


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes, or of all files of a folder."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _tell(lab: ProcessLab, quiet: bool, what: str, ahead: Steps) -> None:
    if not quiet:
        expected, most = lab.expected_s(ahead), max(0.0, lab.seconds_left)
        about = f"about {expected:.0f} s left, " if expected else ""
        err.print(f"[dim]{escape(what)}; {about}{most:.0f} s at most[/]", highlight=False)
