"""What burnish load prints and writes, and when it fails."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rich.markup import escape
from rich.table import Table

from burnish.cli.output import as_plain, err
from burnish.core.errors import BadSettings, Unavailable, VerificationFailed
from burnish.measure.limits import Limit, is_kept
from burnish.measure.load.arrivals import Traffic
from burnish.measure.load.completions import Dialect
from burnish.measure.load.latency import SPREADS, LoadReport, Record

BUSY_SHARE = 0.5  # a client that computes more than this of the time is late itself


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


def refuse_unwritable(file: Path | None) -> None:
    """Before anything is measured. Raises ``BadSettings``."""
    if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
        told = "is a folder" if file.is_dir() else "lies in no folder that exists"
        raise BadSettings(f"output {str(file)!r} {told}", remedy="Name a file in a folder that exists")


def judge(report: LoadReport, limits: Sequence[Limit]) -> tuple[Kept, ...]:
    """Whether the run kept limits that name ``RUN_FIGURES``."""
    figures = report.figures()
    return tuple(Kept(str(limit), figures[limit.name], is_kept([limit], figures)) for limit in limits)


def write_result(file: Path, result: LoadResult, records: Sequence[Record]) -> None:
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
        file.write_text(json.dumps(whole, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise BadSettings(
            f"output {str(file)!r} cannot be written: {error.strerror}", remedy="Name another file"
        ) from None


def load_table(result: LoadResult) -> Table:
    """Percentiles, rates, goodput, limits and errors, for people."""
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


def fail(result: LoadResult) -> None:
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
