"""burnish bench: the speed of the engine."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from burnish.assemble import RANDOM
from burnish.cli.measured import MEASURED
from burnish.cli.output import AsJson, human_bytes, out, print_json, progress
from burnish.cli.variants import find_variant
from burnish.core.errors import BadSettings
from burnish.measure.bench import BenchResult, BenchSpec, bench_engine
from burnish.measure.speed import Workload
from burnish.models.locate import locate

app = typer.Typer(add_completion=False, help="Measure speed.")


@app.callback(invoke_without_command=True)
def bench(context: typer.Context) -> None:
    """Measure the speed of the engine."""
    if context.invoked_subcommand is None:
        raise BadSettings("what to measure is missing", remedy="Use: burnish bench engine")


@app.command()
def engine(
    model: Annotated[str, typer.Argument(help="A model folder, [bold]builtin[/], or random:CONFIG.json.")] = "builtin",
    weights: Annotated[str | None, typer.Option(help="dense, int8 or int4; the model's own by default.")] = None,
    prompt_tokens: Annotated[int, typer.Option(help="Tokens of each prompt.")] = 128,
    output_tokens: Annotated[int, typer.Option(help="Tokens of each output.")] = 32,
    concurrency: Annotated[int, typer.Option(help="Requests at a time.")] = 1,
    repeat: Annotated[int, typer.Option(help="Measured runs.")] = 5,
    threads: Annotated[int | None, typer.Option(help="Threads; all cores by default.")] = None,
    json: AsJson = False,
) -> None:
    """Measure prefill and decode tokens/s, time to ready and peak memory in a fresh process."""
    workload = Workload(
        prompt_tokens=prompt_tokens, output_tokens=output_tokens, concurrency=concurrency, repeat=repeat
    )
    if weights is not None and not model.startswith(RANDOM):
        model = str(find_variant(locate(model), weights, quiet=json))
    spec = BenchSpec(
        model=model, weights=weights if model.startswith(RANDOM) else None, threads=threads, workload=workload
    )
    with progress("Measuring", quiet=json) as moved:
        result = bench_engine(spec, MEASURED, progress=moved)
    if json:
        print_json(result)
    else:
        out.print(_table(result))


def _table(result: BenchResult) -> Table:
    work = result.spec.workload
    about = f"{work.prompt_tokens} in, {work.output_tokens} out, {work.concurrency} at a time, {result.threads} threads"
    name = Path(result.spec.model).name
    table = Table("", "median", "min", "max", title=escape(f"{name} ({result.weights}): {about}"), title_justify="left")
    for label, spread in (
        ("prefill tokens/s", result.prefill_tokens_per_s),
        ("decode tokens/s", result.decode_tokens_per_s),
    ):
        table.add_row(label, *(f"{value:,.1f}" for value in spread))
    table.add_row("python share of decoding", *(f"{value:.1%}" for value in result.python_share))
    table.add_row("ready", f"{result.ready_s:.2f} s")
    table.add_row("peak memory", human_bytes(result.peak_rss_bytes))
    return table
