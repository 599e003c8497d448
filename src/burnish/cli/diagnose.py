"""burnish diagnose: which bottleneck holds, by what figures, and what would help by how much."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from burnish.assemble import RANDOM, open_measured
from burnish.cli.options import SettingsFile, Threads, server_settings
from burnish.cli.output import AsJson, as_plain, out, print_json, progress
from burnish.cli.situations import Described, situation_of
from burnish.core.errors import BadSettings
from burnish.measure.diagnose.diagnosis import Diagnosis, diagnose_plan
from burnish.measure.diagnose.pictures import write_pictures
from burnish.measure.diagnose.scene import OperationTime, by_stage

app = typer.Typer(add_completion=False)


@app.command()
def diagnose(
    model: Annotated[str, typer.Argument(help="A model folder, [bold]builtin[/], or random:CONFIG.json.")] = "builtin",
    traffic: Annotated[
        Path | None, typer.Option(help="Lengths of prompts and outputs: a trace that burnish load reads.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Requests at a time; 8 with a traffic file.  \\[default: 1]")
    ] = None,
    requests: Annotated[int | None, typer.Option(help="Requests in all; 4 for each at a time by default.")] = None,
    prompt_tokens: Annotated[int | None, typer.Option(help="Tokens of each prompt.  \\[default: 128]")] = None,
    output_tokens: Annotated[int | None, typer.Option(help="Tokens of each output.  \\[default: 32]")] = None,
    weights: Annotated[str | None, typer.Option(help="Of random:CONFIG.json: dense, int8 or int4.")] = None,
    threads: Threads = None,
    settings: SettingsFile = None,
    again: Annotated[
        bool, typer.Option("--again", help="Measure the machine's limits again: it was busy the first time.")
    ] = False,
    out_folder: Annotated[Path | None, typer.Option("--out", help="Write the pictures there, as SVG and PNG.")] = None,
    json: AsJson = False,
) -> None:
    """Say what bounds a model as it would be served here, and what would help by how much."""
    if weights is not None and not model.startswith(RANDOM):
        raise BadSettings("--weights is for random:CONFIG.json", remedy="Name the variant's folder instead")
    config = server_settings(settings, api_keys=None, threads=threads).engine
    with progress("Loading", quiet=json):
        plan = open_measured(model, weights)
    said = Described(traffic, concurrency, requests, prompt_tokens, output_tokens)
    fitted = situation_of(said, plan.shape.max_positions)
    with progress("Observing", quiet=json) as moved:
        found = diagnose_plan(plan, config, fitted.situation, again=again, progress=moved)
    pictures = [] if out_folder is None else write_pictures(found, plan.num_bytes, out_folder)
    if json:
        print_json(_plain(found) | {"pictures": pictures})
        return
    _tell(model, found, cut=fitted.num_cut)
    for path in pictures:
        out.print(f"[dim]{escape(str(path))}[/]", highlight=False, soft_wrap=True)


def _plain(found: Diagnosis) -> dict[str, Any]:
    plain: dict[str, Any] = as_plain(found)
    return plain | {"bottleneck": found.bottleneck}


def _tell(model: str, found: Diagnosis, *, cut: int) -> None:
    requests = found.situation.requests
    told = [
        f"{found.tokens_per_s:,.1f} tokens/s",
        f"{len(requests)} requests, {found.situation.concurrency} at a time",
        f"{found.mean_running:.1f} decoded together",
        f"{found.python_share:.0%} Python",
    ]
    table = Table(
        *("gain", "bottleneck", "evidence", "of limit", "what would help"),
        title=escape(f"{Path(model).name} ({found.weights}): {', '.join(told)}"),
        title_justify="left",
        caption_justify="left",
        caption="gain: predicted tokens/s over today's" + (f"; {cut} requests cut to the context" if cut else ""),
    )
    for finding in found.findings:
        limit = "" if finding.limit_share is None else f"{finding.limit_share:.0%}"
        gain = f"{'at most ' if finding.is_bound else ''}+{finding.gain:.0%}" if finding.gain else ""
        table.add_row(gain, finding.bottleneck, escape(finding.evidence), limit, escape(finding.remedy))
    out.print(table)
    out.print(_operations(found.operations, found.seconds))
    first = found.bottleneck
    out.print("Nothing here would gain more." if first is None else f"Bottleneck: {first}.", highlight=False)


def _operations(operations: tuple[OperationTime, ...], seconds: float) -> Table:
    table = Table(*("operation", "stage", "time", "of limit", "per byte"), title="Where the time goes")
    table.title_justify = "left"
    for time in sorted(by_stage(operations).values(), key=lambda time: -time.seconds):
        if time.seconds > 0:
            table.add_row(
                time.place.role,
                time.stage,
                f"{time.seconds / seconds:.1%}",
                f"{time.limit_s / time.seconds:.0%}",
                f"{time.work.intensity:,.1f}",
            )
    return table
