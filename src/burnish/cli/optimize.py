"""burnish optimize: from a model and a budget to the best variant for this machine."""

import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from burnish.cli.best import Order, file_hash, find_best, unfinished
from burnish.cli.options import SettingsFile, Temperature, Threads, TriedDrafts, drafting, server_settings
from burnish.cli.output import AsJson, Model, err, print_json
from burnish.cli.output import out as screen
from burnish.cli.situations import Described, situation_of
from burnish.core.errors import BadSettings, VerificationFailed
from burnish.core.memory import free_bytes, parse_bytes
from burnish.core.settings import make_config
from burnish.engine.config import EngineConfig
from burnish.measure.limits import Limit, parse_limits
from burnish.measure.prices import read_prices
from burnish.models.checkpoint import raw_config
from burnish.models.families import read_config
from burnish.models.locate import held_out_text, locate, rooted
from burnish.optimize.candidates import Drafting
from burnish.optimize.deliver import PAGE
from burnish.optimize.search import Asked
from burnish.optimize.weigh import FIGURE_OF, NAMES, Objective
from burnish.registry.artifact import refuse_used

app = typer.Typer(add_completion=False)

COST = "cost_per_million"
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*([smh]?)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


@app.command()
def optimize(
    model: Model,
    out: Annotated[Path, typer.Argument(help="A new folder for the chosen variant and the report.")],
    objective: Annotated[str, typer.Option(help=f"What is to be best: {', '.join(FIGURE_OF)}.")] = "latency",
    max_loss: Annotated[float, typer.Option(help="Perplexity that may be lost, as a share: 0.01 is 1 %.")] = 0.01,
    limit: Annotated[
        list[str] | None,
        typer.Option(help="What must hold, as [bold]p95_ttft_ms<=200[/] or [bold]memory_mb<=500[/]; may be repeated."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Text to judge by; by default one of ours, held out.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Read at most this many tokens of the text.")] = 131_072,
    calibration: Annotated[
        Path | None, typer.Option(help="Text for recipes that need data; without one they are not tried.")
    ] = None,
    traffic: Annotated[Path | None, typer.Option(help="A trace: requests of its lengths come at its times.")] = None,
    speed: Annotated[float, typer.Option(help="Replay the trace so many times as fast.")] = 1.0,
    concurrency: Annotated[
        int | None, typer.Option(help="Requests at a time, without a trace.  \\[default: 1]")
    ] = None,
    requests: Annotated[
        int | None, typer.Option(help="Requests of a round; 4 for each at a time, 32 of a trace by default.")
    ] = None,
    prompt_tokens: Annotated[int | None, typer.Option(help="Tokens of each prompt.  \\[default: 128]")] = None,
    output_tokens: Annotated[int | None, typer.Option(help="Tokens of each output.  \\[default: 32]")] = None,
    temperature: Temperature = 1.0,
    draft: TriedDrafts = "auto",
    time_limit: Annotated[str, typer.Option(help="Most time to take, as [bold]20m[/].")] = "20m",
    memory: Annotated[
        str | None, typer.Option(help="Most memory of a step, as [bold]8GiB[/]; none: what is free.")
    ] = None,
    machine: Annotated[str | None, typer.Option(help="Machine of the price book, for the cost of tokens.")] = None,
    prices: Annotated[Path | None, typer.Option(help="A price book of your own, TOML.")] = None,
    seed: Annotated[int, typer.Option(help="Parts the text into the half that is searched and the other.")] = 0,
    threads: Threads = None,
    settings: SettingsFile = None,
    json: AsJson = False,
) -> None:
    """Search recipes and settings for the best variant, all of it measured here, and write it with its report."""
    refuse_used(out)
    if not max_loss >= 0:
        raise BadSettings(f"--max-loss {max_loss} is no share", remedy="Use 0 or more: 0.01 is 1 %")
    wanted, limits = parse_objective(objective), parse_limits(limit or [], NAMES)
    said = Described(traffic, concurrency, requests, prompt_tokens, output_tokens)
    context = read_config(raw_config(locate(model))).max_positions
    fitted = situation_of(said, context, timed=True, speed=speed, temperature=temperature)
    if fitted.num_cut:
        err.print(f"[dim]{fitted.num_cut} requests are cut to the context of the model.[/]", highlight=False)
    config = server_settings(settings, api_keys=None, threads=threads).engine
    users, count = fitted.situation.concurrency, len(fitted.situation.requests)
    trace = "" if traffic is None else f"{traffic.name}, sha256 {file_hash(traffic)[:16]}, {speed:g} times as fast"
    order = Order(
        model=model,
        out=out,
        asked=Asked(
            objective=wanted,
            max_loss=max_loss,
            limits=limits,
            concurrency=users,
            cores=1 if config.threads is not None else len(os.sched_getaffinity(0)),
            drafting=tried_drafts(draft, model),
        ),
        text=data or held_out_text(),
        max_tokens=max_tokens,
        calibration=calibration,
        fitted=fitted,
        traffic=f"{count} requests of {trace}" if trace else f"{count} requests, {users} at a time",
        config=config,
        price_per_hour=_price(machine, prices, wanted, limits),
        machine=machine,
        time_limit_s=parse_seconds(time_limit),
        memory_bytes=free_bytes() if memory is None else parse_bytes(memory),
        seed=seed,
    )
    report = find_best(order, quiet=json)
    if json:
        print_json(report)
    else:
        _show(report, out)
    if report["chosen"] is None:
        raise VerificationFailed(report["reason"], remedy="Allow more, or give --calibration for more recipes")


def parse_seconds(text: str) -> float:
    """A time as "20m", "90s" or "1.5h". Raises ``BadSettings``."""
    match = _TIME.fullmatch(text.strip())
    if match is None or not float(match[1]):
        raise BadSettings(f"time {text!r} is none", remedy="Write it as 20m, 90s or 1h")
    return float(match[1]) * _UNITS[match[2]]


def tried_drafts(word: str, model: str) -> Drafting:
    """What a word behind --draft stands for. Raises ``NotFound`` for a model that is not there."""
    asked = make_config(EngineConfig, drafting(word, model), section="engine")
    return Drafting(lookup=asked.lookup, model=None if asked.draft is None else rooted(asked.draft))


def parse_objective(name: str) -> Objective:
    """An objective by its name. Raises ``BadSettings``."""
    for known in FIGURE_OF:
        if name == known:
            return known
    raise BadSettings(f"objective {name!r} is unknown", remedy=f"Use {', '.join(FIGURE_OF)}")


def _price(machine: str | None, prices: Path | None, objective: Objective, limits: tuple[Limit, ...]) -> float:
    """An hour of the machine; 0 where nobody asks for costs. Raises ``BadSettings``."""
    is_asked = COST in (FIGURE_OF[objective], *(one.name for one in limits))
    if machine is not None:
        price = read_prices(prices).of(machine).price_per_hour
        if is_asked and not price:
            raise BadSettings(f"machine {machine!r} costs nothing", remedy="Give its price, or another objective")
        return price
    if prices is not None:
        raise BadSettings("--prices is a book of many machines", remedy="Name one of them with --machine")
    if is_asked:
        raise BadSettings("cost needs the price of a machine", remedy="Name one of the price book with --machine")
    return 0.0


def _show(report: dict[str, Any], out: Path) -> None:
    screen.print(report_table(report))
    screen.print(escape(f"{report['reason']}."), highlight=False)
    if report["chosen"] is None:
        screen.print(escape(f"All figures: {unfinished(out) / PAGE}"), highlight=False, soft_wrap=True)
    else:
        told = f"Wrote {out} with report.html. Serve it: burnish serve {out} --settings {out / 'engine.toml'}"
        screen.print(escape(told), highlight=False, soft_wrap=True)


def report_table(report: dict[str, Any]) -> Table:
    """All that was tried."""
    columns = ("candidate", "loss", f"{report['told_as']} over own", "files", "memory", "what became of it")
    table = Table(*columns, title="Tried", title_justify="left")
    for one in report["candidates"]:
        figures, is_chosen = one.get("figures"), one["name"] == report["chosen"]
        table.add_row(
            f"[bold]{escape(one['name'])}[/]" if is_chosen else escape(one["name"]),
            _spread(one["loss"], 100, "{:+.2f}", " %"),
            _spread(one.get("ratio"), 1, "{:.3f}", ""),
            f"{one['size_mb']:.1f} MB" if one["size_mb"] else "",
            f"{figures['memory_mb']:.0f} MB" if figures else "",
            escape(one["reason"] or ("chosen" if is_chosen else "")),
        )
    return table


def _spread(interval: dict[str, float] | None, factor: float, form: str, unit: str) -> str:
    """A figure with half of its interval, where it has one."""
    if interval is None:
        return ""
    told = form.format(factor * interval["value"])
    if interval["low"] is None:
        return told + unit
    half = factor * (interval["high"] - interval["low"]) / 2
    return f"{told} ± {form.replace('+', '').format(half)}{unit}"
