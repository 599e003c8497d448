"""burnish inspect: what a model is made of and what it costs."""

from dataclasses import dataclass
from pathlib import Path

import typer
from rich.markup import escape
from rich.table import Table

from burnish.cli.output import AsJson, Model, human_bytes, human_count, out, print_json
from burnish.measure.account import Account, account
from burnish.models.checkpoint import empty_decoder, raw_config
from burnish.models.families import find_family
from burnish.models.locate import locate
from burnish.registry.artifact import Manifest, read_manifest

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What ``burnish inspect`` finds, without reading a weight."""

    path: Path
    family: str
    max_positions: int
    vocab_size: int
    account: Account
    manifest: Manifest | None


@app.command()
def inspect(model: Model = "builtin", json: AsJson = False) -> None:
    """Show family, parameters, bytes per format, KV bytes and FLOPs per token."""
    path = locate(model)
    raw = raw_config(path)
    shape = empty_decoder(raw).config
    found = Inspection(
        path=path,
        family=find_family(raw).model_type,
        max_positions=shape.max_positions,
        vocab_size=shape.vocab_size,
        account=account(shape, dense_itemsize=2),
        manifest=read_manifest(path),
    )
    if json:
        print_json(found)
    else:
        out.print(_table(model, found))


def _table(model: str, found: Inspection) -> Table:
    costs = found.account
    table = Table(title=escape(model), show_header=False, title_justify="left")
    table.add_row("family", found.family)
    table.add_row("parameters", f"{human_count(costs.num_parameters)}  ({costs.num_parameters:,})")
    table.add_row("vocabulary", f"{found.vocab_size:,}")
    table.add_row("context", f"{found.max_positions:,} tokens")
    for size in costs.sizes:
        name = "bfloat16" if size.format == "dense" else size.format
        table.add_row(f"weights in {name}", human_bytes(size.weight_bytes))
    table.add_row("KV cache", f"{human_bytes(costs.kv_bytes_per_token)} per token (float32)")
    table.add_row("FLOPs per token", f"{human_count(costs.flops_per_token)} empty context")
    table.add_row("", f"{human_count(costs.flops_per_token_full)} full context")
    if found.manifest is not None:
        table.add_row("made from", f"{escape(found.manifest.parent.name)}, recipe {found.manifest.recipe}")
    return table
