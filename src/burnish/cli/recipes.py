"""burnish recipes: what can be done to a model."""

from dataclasses import dataclass

import typer
from rich.table import Table

from burnish.cli.output import AsJson, out, print_json
from burnish.compress.recipes import RECIPES
from burnish.compress.runtimes import RUNTIMES, runtimes_of

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """A recipe as it is listed."""

    name: str
    about: str
    needs_calibration: bool
    targets: tuple[str, ...]  # that run whatever it may store


@app.command()
def recipes(json: AsJson = False) -> None:
    """List the recipes of [bold]burnish compress[/], which need calibration data, and what their results run on.

    A recipe of your own is a TOML file with a table [bold]\\[\\[pass]][/] for each pass: its name, its settings.
    With [bold]name = "distill"[/] and [bold]student = "config.json"[/] a new, smaller model learns from yours.
    """
    listed = [
        Listed(name=r.name, about=r.about, needs_calibration=r.needs.data, targets=runtimes_of(r))
        for r in RECIPES.values()
    ]
    if json:
        print_json({"recipes": listed})
        return
    about = "; ".join(f"{name}: {runtime.about}" for name, runtime in RUNTIMES.items())
    table = Table(caption=about, caption_justify="left")
    for column in ("recipe", "calibration", "runs on", "what it does"):
        table.add_column(column, no_wrap=column == "recipe")
    for one in listed:
        table.add_row(one.name, "needed" if one.needs_calibration else "", ", ".join(one.targets), one.about)
    out.print(table)
