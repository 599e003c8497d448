"""burnish up: the main job. See what bounds a model, find its best variant for this machine, serve that."""

import os
import shutil
import sys
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from json import dumps, loads
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.markup import escape

from burnish.cli.best import Order, check_text, earlier, find_best, looked_at, predictions
from burnish.cli.optimize import parse_objective, parse_seconds, report_table, tried_drafts
from burnish.cli.options import ApiKeys, Host, Port, SettingsFile, Temperature, Threads, TriedDrafts, server_settings
from burnish.cli.output import AsJson, Model, as_plain, err, out, print_json, progress
from burnish.cli.serve import served_name
from burnish.cli.situations import Described, situation_of
from burnish.cli.variants import make_cache, variants_folder
from burnish.core.errors import BadSettings
from burnish.core.memory import free_bytes
from burnish.measure.diagnose.diagnosis import diagnose
from burnish.models.checkpoint import raw_config
from burnish.models.families import read_config
from burnish.models.locate import held_out_text, locate
from burnish.optimize.candidates import is_own
from burnish.optimize.deliver import ENGINE, PAGE
from burnish.optimize.search import Asked
from burnish.service.server import bind

app = typer.Typer(add_completion=False)

MAX_TOKENS = 65_536  # of the text
BEST, FINDINGS = "best", "findings.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What was found, and where what is to be served lies."""

    report: dict[str, Any]
    findings: list[dict[str, Any]]  # of the diagnosis of the model as it is, the greatest gain first
    folder: Path  # with the settings of the engine
    served: Path


@app.command()
def up(
    model: Model = "builtin",
    max_loss: Annotated[float, typer.Option(help="Perplexity that may be lost, as a share: 0.01 is 1 %.")] = 0.01,
    objective: Annotated[str, typer.Option(help="What is to be best: latency, throughput or memory.")] = "latency",
    data: Annotated[Path | None, typer.Option(help="Text to judge by; by default one of ours, held out.")] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Text for recipes that need data; without one they are not tried.")
    ] = None,
    temperature: Temperature = 1.0,
    draft: TriedDrafts = "auto",
    time_limit: Annotated[str, typer.Option(help="Most time to search, as [bold]20m[/].")] = "3m",
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key: ApiKeys = None,
    threads: Threads = None,
    settings: SettingsFile = None,
    again: Annotated[bool, typer.Option("--again", help="Search again, even if nothing has changed.")] = False,
    only_measure: Annotated[bool, typer.Option("--only-measure", help="Do not serve.")] = False,
    json: AsJson = False,
) -> None:
    """Diagnose a model, search for its best variant on this machine, and serve that."""
    if not max_loss >= 0:
        raise BadSettings(f"--max-loss {max_loss} is no share", remedy="Use 0 or more: 0.01 is 1 %")
    if objective == "cost":
        raise BadSettings("cost needs the price of a machine", remedy="Use burnish optimize with --machine")
    path = locate(model)
    configured = server_settings(settings, api_keys=api_key, threads=threads)
    if not only_measure:
        bind(host, port).close()  # tell of a port in use before measuring for a minute
    with progress("Reading the model", quiet=json):
        folder = variants_folder(path)
    context = read_config(raw_config(path)).max_positions
    fitted = situation_of(Described(), context, temperature=temperature)
    order = Order(
        model=str(path),
        out=folder / BEST,
        asked=Asked(
            objective=parse_objective(objective),
            max_loss=max_loss,
            cores=1 if configured.engine.threads is not None else len(os.sched_getaffinity(0)),
            drafting=tried_drafts(draft, model),
        ),
        text=data or held_out_text(),
        max_tokens=MAX_TOKENS,
        calibration=calibration,
        fitted=fitted,
        traffic="requests one after the other",
        config=configured.engine,
        price_per_hour=0.0,
        machine=None,
        time_limit_s=parse_seconds(time_limit),
        memory_bytes=free_bytes(),
        seed=0,
        copies_parent=False,
    )
    found = find(order, path, again=again, quiet=json)
    _tell(found, json=json)
    if not only_measure:
        options = [f"--name={served_name(model, path)}", f"--host={host}", f"--port={port}"]
        given = {"--threads": threads, "--settings": settings}
        options += [f"{flag}={value}" for flag, value in given.items() if value is not None]
        _become_server(found, options, configured.service.api_keys)


def find(order: Order, model: Path, *, again: bool, quiet: bool) -> Found:
    """The best variant, of an earlier search if it asked the same under the same conditions."""
    report = None if again or not (order.out / FINDINGS).is_file() else earlier(order)
    if report is None:
        make_cache(order.out.parent)
        begun_s = time.monotonic()
        check_text(order)
        with progress("Diagnosing", quiet=quiet):
            findings, predicted = _look(order, model, again=again)
        left_s = max(1.0, order.time_limit_s - (time.monotonic() - begun_s))
        fresh = replace(order, out=order.out.with_name(f"{BEST}.new"), time_limit_s=left_s)
        shutil.rmtree(fresh.out, ignore_errors=True)
        report = find_best(fresh, quiet=quiet, predicted=predicted)
        (fresh.out / FINDINGS).write_text(dumps(findings), encoding="utf-8")
        shutil.rmtree(order.out, ignore_errors=True)
        fresh.out.replace(order.out)
    else:
        findings = loads((order.out / FINDINGS).read_text(encoding="utf-8"))
        err.print("[dim]Figures of an earlier search on this machine; --again searches anew.[/]")
    served = model if is_own(report["chosen"]) else order.out
    return Found(report=report, findings=findings, folder=order.out, served=served)


def _look(order: Order, model: Path, *, again: bool) -> tuple[list[dict[str, Any]], Mapping[str, float]]:
    """What bounds the model, and what recipes would do to its times.

    The model is closed again behind it: its memory is needed for the search.
    """
    scene = looked_at(order, model, again=again)
    findings = [] if scene is None else [as_plain(one) for one in diagnose(scene).findings if one.gain > 0]
    return findings, predictions(order, model, scene)


def _tell(found: Found, *, json: bool) -> None:
    report = found.report
    if json:
        best = {"best": report["chosen"], "reason": report["reason"]}
        print_json(best | {"report": report, "findings": found.findings})
        return
    out.print(report_table(report))
    for finding in found.findings[:1]:
        told = f"As it is, {finding['bottleneck']} bounds it: {finding['evidence']}."
        out.print(escape(told), highlight=False)
    out.print(escape(f"Best: {report['reason']}."), highlight=False)
    out.print(escape(f"All figures: {found.folder / PAGE}"), highlight=False, soft_wrap=True)


def _become_server(found: Found, options: list[str], api_keys: tuple[str, ...]) -> NoReturn:
    """Replace this process, which measured with torch, by ``burnish serve``, which never loads it.

    Keys travel in the environment: everybody may read a command line. So do the settings that were found.
    """
    environment = {name: value for name, value in os.environ.items() if name != "BURNISH_API_KEY"}
    if api_keys:
        environment["BURNISH_SERVICE__API_KEYS"] = dumps(api_keys)
    chosen = tomllib.loads((found.folder / ENGINE).read_text(encoding="utf-8"))["engine"]
    environment |= {f"BURNISH_ENGINE__{name.upper()}": str(value) for name, value in chosen.items()}
    sys.stdout.flush()
    command = [sys.executable, "-m", "burnish.cli.main", "serve", str(found.served.resolve()), *options]
    os.execve(sys.executable, command, environment)  # noqa: S606 - our own interpreter and module
