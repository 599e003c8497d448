"""burnish up: the main job. Measure a model, slim it, measure again, serve the best variant."""

import hashlib
import os
import sys
from dataclasses import dataclass, replace
from json import dumps
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import TypeAdapter, ValidationError
from rich.markup import escape
from rich.table import Table

from burnish import __version__
from burnish.assemble import open_plan
from burnish.cli.compress import model_bytes
from burnish.cli.measured import MEASURED
from burnish.cli.options import ApiKeys, Host, Port, SettingsFile, Threads, server_settings
from burnish.cli.output import AsJson, Model, err, human_bytes, out, print_json, progress
from burnish.cli.serve import served_name
from burnish.cli.variants import find_variant, make_cache, variants_folder
from burnish.core.errors import BadSettings
from burnish.measure.bench import BenchResult, BenchSpec, bench_engine
from burnish.measure.corpus import read_corpus
from burnish.measure.machine import Machine, this_machine
from burnish.measure.quality import QualityConfig, compare, prepare, quality, token_losses
from burnish.measure.speed import Workload, joined
from burnish.models.checkpoint import raw_config
from burnish.models.families import read_config
from burnish.models.locate import held_out_text, locate
from burnish.models.tokenizer import load_tokenizer
from burnish.optimize.choice import Variant, choose
from burnish.service.server import bind

app = typer.Typer(add_completion=False)

ROUNDS = 2  # of speed measurements
RECIPES = ("int8", "int4")
FIGURES = 3  # since intervals are over documents where there are some
QUALITY = QualityConfig(context=512, stride=256, max_tokens=16_384)
WORKLOAD = Workload(prompt_tokens=128, output_tokens=32, concurrency=1, repeat=5)


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """What the figures depend on beside the model; when it is the same, earlier figures still hold."""

    version: str
    figures: int  # what the figures mean: ``FIGURES`` of the code that measured them
    machine: Machine
    text: str
    text_sha256: str
    threads: int | None
    quality: QualityConfig
    workload: Workload


@dataclass(frozen=True, kw_only=True, slots=True)
class UpReport:
    """What ``burnish up`` measured."""

    conditions: Conditions
    variants: tuple[Variant, ...]


_REPORT = TypeAdapter(UpReport)


@app.command()
def up(
    model: Model = "builtin",
    max_loss: Annotated[float, typer.Option(help="Perplexity a variant may lose, as a share: 0.01 is 1 %.")] = 0.01,
    data: Annotated[Path | None, typer.Option(help="Text to judge by; by default one of ours, held out.")] = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key: ApiKeys = None,
    threads: Threads = None,
    settings: SettingsFile = None,
    again: Annotated[bool, typer.Option("--again", help="Measure again, even if nothing has changed.")] = False,
    only_measure: Annotated[bool, typer.Option("--only-measure", help="Do not serve.")] = False,
    json: AsJson = False,
) -> None:
    """Measure a model, make int8 and int4 variants, measure each, and serve the best one."""
    if not max_loss >= 0:
        raise BadSettings(f"--max-loss {max_loss} is no share", remedy="Use 0 or more: 0.01 is 1 %")
    path = locate(model)
    configured = server_settings(settings, api_keys=api_key, threads=threads)
    if not only_measure:
        bind(host, port).close()  # tell of a port in use before measuring for a minute
    report = measure(path, data or held_out_text(), configured.engine.threads, again=again, quiet=json)
    choice = choose(report.variants, max_loss)
    if json:
        print_json({"best": choice.name, "reason": choice.reason, "report": report})
    else:
        out.print(_table(model, report))
        out.print(f"Best: {choice.reason}", highlight=False)
    if not only_measure:
        best = next(variant for variant in report.variants if variant.name == choice.name)
        folder = whole(path, best, quiet=json)
        options = [f"--name={served_name(model, path)}", f"--host={host}", f"--port={port}"]
        given = {"--threads": threads, "--settings": settings}
        options += [f"{flag}={value}" for flag, value in given.items() if value is not None]
        _become_server(folder, options, configured.service.api_keys)


def whole(model: Path, variant: Variant, *, quiet: bool) -> Path:
    """Where a variant lies; one of ours is made again if it is damaged, for its figures may be of an earlier run."""
    return variant.path if variant.loss_ratio is None else find_variant(model, variant.name, quiet=quiet)


def _become_server(path: Path, options: list[str], api_keys: tuple[str, ...]) -> NoReturn:
    """Replace this process, which measured with torch, by ``burnish serve``, which never loads it.

    Keys travel in the environment: everybody may read a command line.
    """
    environment = {name: value for name, value in os.environ.items() if name != "BURNISH_API_KEY"}
    if api_keys:
        environment["BURNISH_SERVICE__API_KEYS"] = dumps(api_keys)
    sys.stdout.flush()
    command = [sys.executable, "-m", "burnish.cli.main", "serve", str(path.resolve()), *options]
    os.execve(sys.executable, command, environment)  # noqa: S606 - our own interpreter and module


def measure(path: Path, text: Path, threads: int | None, *, again: bool, quiet: bool) -> UpReport:
    """Make and measure the variants, or read what an earlier run under the same conditions measured."""
    max_positions = read_config(raw_config(path)).max_positions
    conditions = Conditions(
        version=__version__,
        figures=FIGURES,
        machine=this_machine(),
        text=str(text.resolve()),
        text_sha256=hashlib.sha256(read_corpus(text).text.encode()).hexdigest(),
        threads=threads,
        quality=QUALITY,
        workload=_fitting(max_positions),
    )
    with progress("Reading the model", quiet=quiet):
        kept = variants_folder(path) / "up.json"
    earlier = None if again else _read(kept, path)
    if earlier is not None and earlier.conditions == conditions:
        err.print("[dim]Figures of an earlier run on this machine; --again measures anew.[/]")
        return earlier
    make_cache(kept.parent)
    report = UpReport(conditions=conditions, variants=tuple(_measure(path, conditions, quiet=quiet)))
    kept.write_bytes(_REPORT.dump_json(report))
    return report


def _fitting(max_positions: int) -> Workload:
    """The workload, shrunk to what a short context holds."""
    output_tokens = min(WORKLOAD.output_tokens, max(2, max_positions // 5))
    prompt_tokens = min(WORKLOAD.prompt_tokens, max(1, max_positions - output_tokens))
    return replace(WORKLOAD, prompt_tokens=prompt_tokens, output_tokens=output_tokens)


def _read(kept: Path, model: Path) -> UpReport | None:
    """An earlier report, if it is there, can be read and its artifacts still exist."""
    try:
        report = _REPORT.validate_json(kept.read_bytes())
    except (OSError, ValidationError):
        return None
    original, *made = report.variants  # the same model may lie elsewhere by now
    variants = (replace(original, path=model), *made)
    return replace(report, variants=variants) if all(variant.path.exists() for variant in made) else None


def _measure(path: Path, conditions: Conditions, *, quiet: bool) -> list[Variant]:
    """The model itself, then its variants, all on the same tokens; their speeds in turn."""
    raw, corpus = raw_config(path), read_corpus(Path(conditions.text))
    with progress("Loading", quiet=quiet):
        passage = prepare(corpus, load_tokenizer(path), read_config(raw), conditions.quality)
        own = open_plan(path).weights
    folders = {own: path}
    for recipe in RECIPES if raw.get("quantization_config") is None else ():
        folders[recipe] = find_variant(path, recipe, quiet=quiet)
    losses = {}
    for name, folder in folders.items():
        with progress(f"Perplexity, {name}", quiet=quiet) as moved:
            losses[name] = token_losses(open_plan(folder), passage, progress=moved)
    speeds = _speeds(folders, conditions, quiet=quiet)
    return [
        Variant(
            name=name,
            path=folder,
            file_bytes=model_bytes(folder),
            peak_rss_bytes=max(result.peak_rss_bytes for result in speeds[name]),
            prefill_tokens_per_s=joined([result.prefill_tokens_per_s for result in speeds[name]]),
            decode_tokens_per_s=joined([result.decode_tokens_per_s for result in speeds[name]]),
            perplexity=quality(losses[name], passage).perplexity,
            loss_ratio=None if name == own else compare(losses[name], losses[own], passage).loss_ratio,
        )
        for name, folder in folders.items()
    ]


def _speeds(folders: dict[str, Path], conditions: Conditions, *, quiet: bool) -> dict[str, list[BenchResult]]:
    """Every variant in turn, ``ROUNDS`` times over, so that a slow moment of the machine meets them all."""
    results: dict[str, list[BenchResult]] = {name: [] for name in folders}
    for number in range(1, ROUNDS + 1):
        for name, folder in folders.items():
            spec = BenchSpec(model=str(folder), threads=conditions.threads, workload=conditions.workload)
            with progress(f"Speed, {name}, round {number} of {ROUNDS}", quiet=quiet) as moved:
                results[name].append(bench_engine(spec, MEASURED, progress=moved))
    return results


def _table(model: str, report: UpReport) -> Table:
    table = Table(
        *("variant", "size", "memory", "prefill/s", "decode/s", "perpl.", "change"),
        title=escape(model),
        title_justify="left",
        caption=_caption(report.conditions),
        caption_justify="left",
    )
    for variant in report.variants:
        ratio = variant.loss_ratio
        table.add_row(
            variant.name,
            human_bytes(variant.file_bytes),
            human_bytes(variant.peak_rss_bytes),
            f"{variant.prefill_tokens_per_s.median:,.0f}",
            f"{variant.decode_tokens_per_s.median:,.1f}",
            f"{variant.perplexity.value:.3f}",
            "" if ratio is None else f"{100 * ratio.value:+.2f}±{50 * (ratio.high - ratio.low):.2f}%",
        )
    return table


def _caption(conditions: Conditions) -> str:
    """How the figures were measured."""
    machine, work, read = conditions.machine, conditions.workload, conditions.quality
    return escape(
        f"{machine.cpu}, {conditions.threads or machine.num_cores} threads; tokens/s with {work.prompt_tokens} in and "
        f"{work.output_tokens} out, {ROUNDS} rounds of {work.repeat}; perplexity on {Path(conditions.text).name} in "
        f"windows of {read.context} tokens, stride {read.stride}; change with its 95 % interval"
    )
