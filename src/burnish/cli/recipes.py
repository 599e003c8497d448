"""burnish recipes: what can be done to a model."""

from dataclasses import dataclass

import typer
from rich.table import Table

from burnish.cli.output import AsJson, out, print_json
from burnish.compress.recipes import RECIPES

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """A recipe as it is listed."""

    name: str
    about: str
    needs_calibration: bool


@app.command()
def recipes(json: AsJson = False) -> None:
    """List the recipes of [bold]burnish compress[/], and which of them need calibration data."""
    listed = [Listed(name=r.name, about=r.about, needs_calibration=r.needs.data) for r in RECIPES.values()]
    if json:
        print_json({"recipes": listed})
        return
    table = Table("recipe", "calibration", "what it does")
    table.columns[0].no_wrap = True
    for one in listed:
        table.add_row(one.name, "needed" if one.needs_calibration else "", one.about)
    out.print(table)
