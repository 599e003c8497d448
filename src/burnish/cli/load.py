"""burnish load: traffic for a server, and what its users would have seen."""

import json as json_format
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.markup import escape
from rich.table import Table

from burnish.cli.output import AsJson, as_plain, err, out, print_json, progress
from burnish.core.errors import BadSettings, Unavailable, VerificationFailed
from burnish.measure.arrivals import Traffic
from burnish.measure.completions import Dialect
from burnish.measure.latency import REQUEST_FIGURES, RUN_FIGURES, SPREADS, LoadReport, Record, summarise
from burnish.measure.limits import Limit, is_kept, parse_limits
from burnish.measure.load import run_load
from burnish.measure.probe import find_target

BUSY_SHARE = 0.5  # a client that computes more than this of the time is late itself

app = typer.Typer(add_completion=False)


class Kept(NamedTuple):
    """A limit on the whole run, the figure it is about and whether it holds."""

    limit: str
    measured: float | None
    kept: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadResult:
    """A run: what was asked of which server, and what came of it."""

    url: str
    dialect: Dialect
    traffic: Traffic
    request_limits: tuple[str, ...]
    run_limits: tuple[Kept, ...]
    report: LoadReport
    client_share: float  # of the time this process computed


@app.command()
def load(
    url: Annotated[str, typer.Argument(help="An OpenAI-compatible server: [bold]http://HOST:PORT[/].")],
    rate: Annotated[float | None, typer.Option(help="Open loop: requests per second, at random.")] = None,
    burstiness: Annotated[
        float | None, typer.Option(help="Shape of the gamma gaps: 1 is Poisson, less comes in bursts.  \\[default: 1]")
    ] = None,
    users: Annotated[int | None, typer.Option(help="Closed loop: so many, each with one request at a time.")] = None,
    trace: Annotated[
        Path | None,
        typer.Option(help="Times and lengths: an Azure .csv, a Mooncake .jsonl, ServeGen's *-trace.csv or a folder."),
    ] = None,
    speed: Annotated[float | None, typer.Option(help="Replay the trace so many times as fast.  \\[default: 1]")] = None,
    start: Annotated[float, typer.Option(help="Begin so many seconds into the trace.")] = 0.0,
    prompt_tokens: Annotated[
        int | None, typer.Option(help="Tokens of each prompt, without a trace.  \\[default: 128]")
    ] = None,
    output_tokens: Annotated[
        int | None, typer.Option(help="Tokens of each output, without a trace.  \\[default: 32]")
    ] = None,
    shrink: Annotated[int, typer.Option(help="Divide lengths by this, shared prefixes included.")] = 1,
    max_prompt_tokens: Annotated[int | None, typer.Option(help="Cut longer prompts.")] = None,
    max_output_tokens: Annotated[int | None, typer.Option(help="Cut longer outputs.")] = None,
    requests: Annotated[int | None, typer.Option(help="Send so many; 100 unless --seconds are given.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Send nothing new after so many.")] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            help="[bold]ttft_ms<=200[/] on each request makes goodput; [bold]p95_ttft_ms<=200[/] on the run fails it."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="The server's first by default.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask /v1/chat/completions, not /v1/completions.")] = False,
    api_key: Annotated[str | None, typer.Option(envvar="BURNISH_API_KEY", help="Key of the server.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds a request may last.")] = 600.0,
    max_in_flight: Annotated[int, typer.Option(help="Open loop: more wait here, which counts as queue.")] = 512,
    seed: Annotated[
        int, typer.Option(help="The same one sends the same prompts again, which a prefix cache remembers.")
    ] = 0,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Write the figures and every request to this JSON file.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Put load on a server: latencies from the instant a request was due, goodput under limits, errors by kind."""
    traffic = Traffic(
        users=users,
        rate=rate,
        burstiness=burstiness,
        trace=trace,
        speed=speed,
        start_s=start,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        shrink=shrink,
        max_prompt_tokens=max_prompt_tokens,
        max_output_tokens=max_output_tokens,
        requests=requests,
        seconds=seconds,
        seed=seed,
    )
    limits = parse_limits(limit or (), (*REQUEST_FIGURES, *RUN_FIGURES))
    _refuse_unwritable(out_file)
    with progress("Asking the server", quiet=json):
        target = find_target(
            url, model=model, chat=chat, api_key=api_key, timeout_s=timeout, max_in_flight=max_in_flight
        )
    with progress(f"Load on {target.dialect.model}", quiet=json) as moved:
        run = run_load(target, traffic, progress=moved)
    on_requests = [limit for limit in limits if limit.name in REQUEST_FIGURES]
    report = summarise(run.records, on_requests)
    result = LoadResult(
        url=url,
        dialect=target.dialect,
        traffic=traffic,
        request_limits=tuple(map(str, on_requests)),
        run_limits=_judge(report, [limit for limit in limits if limit.name in RUN_FIGURES]),
        report=report,
        client_share=run.client_share,
    )
    if out_file is not None:
        _write(out_file, result, run.records)
    if json:
        print_json(result)
    else:
        out.print(_table(result))
    _fail(result)


def _refuse_unwritable(file: Path | None) -> None:
    """Before anything is measured. Raises ``BadSettings``."""
    if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
        told = "is a folder" if file.is_dir() else "lies in no folder that exists"
        raise BadSettings(f"output {str(file)!r} {told}", remedy="Name a file in a folder that exists")


def _judge(report: LoadReport, limits: Sequence[Limit]) -> tuple[Kept, ...]:
    figures = report.figures()
    return tuple(Kept(str(limit), figures[limit.name], is_kept([limit], figures)) for limit in limits)


def _write(file: Path, result: LoadResult, records: Sequence[Record]) -> None:
    """The result and its requests, their instants from when the first was due."""
    zero_s = min(record.due_s for record in records)
    rows = [
        as_plain(record)
        | {name: getattr(record, name) - zero_s for name in ("due_s", "sent_s", "ended_s")}
        | {"text_s": [at - zero_s for at in record.text_s]}
        for record in records
    ]
    whole = as_plain(result) | {"requests": rows}
    try:
        file.write_text(json_format.dumps(whole, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise BadSettings(
            f"output {str(file)!r} cannot be written: {error.strerror}", remedy="Name another file"
        ) from None


def _table(result: LoadResult) -> Table:
    report = result.report
    about = f"{report.num_answered} of {report.num_requests} requests answered in {report.duration_s:.1f} s"
    title = f"{result.dialect.model} at {result.url}: {about}"
    table = Table("", "mean", "p50", "p90", "p95", "p99", "max", title=escape(title), title_justify="left")
    for name in SPREADS:
        if (spread := getattr(report, name)) is not None:
            table.add_row(name, *(f"{value:,.1f}" for value in spread[1:]))
    rates = [("requests/s", report.requests_per_s), ("output tokens/s", report.output_tokens_per_s)]
    rates += [] if report.prompt_tokens_per_s is None else [("prompt tokens/s", report.prompt_tokens_per_s)]
    for name, rate in rates:
        table.add_row(name, f"{rate:,.2f}")
    if result.request_limits:
        goodput = f"goodput/s: {', '.join(result.request_limits)}"
        table.add_row(escape(goodput), f"{report.goodput_per_s:,.2f}", f"{report.goodput_share:.1%}")
    for kept in result.run_limits:
        table.add_row(escape(kept.limit), "kept" if kept.kept else "missed")
    for error in report.errors:
        table.add_row(f"failed: {error.kind}", str(error.num_requests))
    table.caption = escape(_caption(result))
    return table


def _caption(result: LoadResult) -> str:
    """What has to be known to read the figures."""
    traffic, report = result.traffic, result.report
    counted = {"usage": "the server's usage", "pieces": "pieces of text", "both": "usage, else pieces of text"}
    loop = "open loop, from the instant due" if traffic.is_open else f"closed loop, {traffic.users} users"
    told = f"times in ms, {loop}; output tokens counted by {counted[report.counted_by]}"
    if not result.dialect.takes_ignore_eos:
        told += "; the server ends outputs where it likes"
    return told


def _fail(result: LoadResult) -> None:
    """Raises ``Unavailable`` if nothing was answered, ``VerificationFailed`` for limits on the run that were missed."""
    report = result.report
    if result.client_share > BUSY_SHARE:
        err.print(
            f"The client itself computed {result.client_share:.0%} of the time: its delays are in these figures. "
            "Use a lower rate, or several clients."
        )
    if report.num_answered == 0:
        worst = report.errors[0]
        raise Unavailable(
            f"none of {report.num_requests} requests was answered, {worst.num_requests} by {worst.kind}: "
            f"{worst.example.rstrip('.')}",
            remedy="See the log of the server",
        )
    missed = [kept for kept in result.run_limits if not kept.kept]
    if missed:
        told = ", ".join(f"{kept.limit} (it is {_shown(kept.measured)})" for kept in missed)
        raise VerificationFailed(f"limits missed: {told}", remedy="Lower the rate, or use a faster variant")


def _shown(measured: float | None) -> str:
    return "not measured" if measured is None else f"{measured:,.4g}"
