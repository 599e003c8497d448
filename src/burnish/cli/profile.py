"""burnish profile: where the time of a model, or of a running server, goes."""

from pathlib import Path
from typing import Annotated

import typer

from burnish.cli.output import AsJson
from burnish.cli.profile_model import Priced, profile_model, show_model
from burnish.cli.profile_server import is_url, profile_server, show_server
from burnish.cli.trace_file import refuse_unwritable
from burnish.core.errors import BadSettings
from burnish.measure.prices import read_prices
from burnish.measure.speed import Workload

app = typer.Typer(add_completion=False)
STEPS, SERVER_STEPS = 2000, 64


@app.command()
def profile(
    context: typer.Context,
    target: Annotated[
        str, typer.Argument(help="A model as elsewhere, random:CONFIG.json, or the URL of a burnish server.")
    ] = "builtin",
    trace: Annotated[Path, typer.Option(help="Where the Chrome trace goes, which ui.perfetto.dev opens.")] = Path(
        "trace.json"
    ),
    steps: Annotated[
        int | None, typer.Option(help=f"Steps to record at most; {STEPS}, or {SERVER_STEPS} of a server.")
    ] = None,
    prompt_tokens: Annotated[int | None, typer.Option(help="Tokens of each prompt; 128. Models only.")] = None,
    output_tokens: Annotated[int | None, typer.Option(help="Tokens of each output; 32. Models only.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Requests at a time; 1. Models only.")] = None,
    repeat: Annotated[int | None, typer.Option(help="Runs, each without and with recording; 5. Models only.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads; all cores by default. Models only.")] = None,
    machine: Annotated[
        str | None, typer.Option(help="A machine of the price book, to tell what tokens cost on it. Models only.")
    ] = None,
    prices: Annotated[Path | None, typer.Option(help="A price book of your own (TOML); examples by default.")] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="BURNISH_API_KEY", help="A key of the server. Servers only.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Show where the time of every step goes, and write it as a trace.

    A model runs a workload of random prompts; a server is recorded under the requests it gets meanwhile.
    """
    refuse_unwritable(trace)
    sizes = {"prompt_tokens": prompt_tokens, "output_tokens": output_tokens}
    counts = {"concurrency": concurrency, "repeat": repeat}
    work = {name: value for name, value in (sizes | counts).items() if value is not None}
    if is_url(target):
        others = {"threads": threads, "machine": machine, "prices": prices}
        _refuse_local([*work, *(name for name, value in others.items() if value is not None)])
        show_server(profile_server(target, SERVER_STEPS if steps is None else steps, api_key, trace), json=json)
    else:
        _refuse_key(context)
        found = profile_model(
            target,
            Workload(**work),
            threads=threads,
            num_steps=STEPS if steps is None else steps,
            priced=_price(machine, prices),
            trace=trace,
            quiet=json,
        )
        show_model(found, json=json)


def _refuse_local(given: list[str]) -> None:
    if given:
        raise BadSettings(
            f"--{given[0].replace('_', '-')} is for models: a server is recorded under the requests it gets",
            remedy="Leave it out",
        )


def _refuse_key(context: typer.Context) -> None:
    """The environment may hold one for other commands; one that was typed was meant for something."""
    source = context.get_parameter_source("api_key")
    if source is not None and source.name == "COMMANDLINE":
        raise BadSettings("--api-key is for servers, and a model was named", remedy="Leave it out, or name a URL")


def _price(machine: str | None, prices: Path | None) -> Priced | None:
    if machine is not None:
        return Priced(machine, read_prices(prices).of(machine))
    if prices is not None:
        raise BadSettings(f"--prices {str(prices)!r} needs a machine", remedy="Name one of the book with --machine")
    return None
