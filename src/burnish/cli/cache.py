"""burnish cache: what is kept to start faster, and how to get rid of it."""

import time
from typing import Annotated

import typer
from rich.table import Table

from burnish.cli.output import AsJson, human_bytes, out, print_json
from burnish.plan.cache import Kept, PlanCache

app = typer.Typer(add_completion=False)


@app.command()
def cache(
    clear: Annotated[
        bool, typer.Option("--clear", help="Delete every plan; models are lowered again when used.")
    ] = False,
    json: AsJson = False,
) -> None:
    """List the plans kept for the next start, or delete them."""
    plans = PlanCache()
    kept = plans.list()
    freed = plans.clear() if clear else 0
    if json:
        print_json({"folder": plans.folder, "plans": kept, "max_bytes": plans.config.max_bytes, "freed_bytes": freed})
    elif clear:
        out.print(f"{len(kept)} plans deleted, {human_bytes(freed)} freed")
    else:
        out.print(_table(plans, kept))


def _table(plans: PlanCache, kept: list[Kept]) -> Table:
    total, limit = human_bytes(sum(one.size_bytes for one in kept)), human_bytes(plans.config.max_bytes)
    table = Table("plan", "size", "last used", title=f"{plans.folder}: {total} of {limit}", title_justify="left")
    for one in kept:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.used_s))
        table.add_row(one.key[:16], human_bytes(one.size_bytes), used)
    return table
