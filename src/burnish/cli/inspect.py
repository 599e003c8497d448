"""burnish inspect: what a model is made of and what it costs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import typer
from rich.markup import escape
from rich.table import Table

from burnish.cli.output import AsJson, Model, human_bytes, human_count, out, print_json
from burnish.core.errors import NotFound
from burnish.measure.account import Account, account
from burnish.models import llama2c
from burnish.models.checkpoint import empty_decoder, main_format, open_tensors, raw_config
from burnish.models.families import find_family
from burnish.models.locate import locate
from burnish.models.tensor_files import main_float
from burnish.registry.artifact import Manifest, read_manifest

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What ``burnish inspect`` finds, without reading a weight."""

    path: Path
    family: str
    max_positions: int
    vocab_size: int
    weights: str  # format most weights are stored in, as "dense", "int4-g128"
    dense_type: str  # of what is not packed, as stored: "bfloat16", "float32"
    account: Account
    manifest: Manifest | None


@app.command()
def inspect(model: Model = "builtin", json: AsJson = False) -> None:
    """Show family, parameters, bytes per format, KV bytes and FLOPs per token."""
    path = locate(model)
    raw = raw_config(path)
    decoder, dense = empty_decoder(raw), _dense_type(path, raw)
    shape = decoder.config
    found = Inspection(
        path=path,
        family=find_family(raw).model_type,
        max_positions=shape.max_positions,
        vocab_size=shape.vocab_size,
        weights=main_format(decoder),
        dense_type=str(dense).removeprefix("torch."),
        account=account(shape, dense_itemsize=dense.itemsize),
        manifest=read_manifest(path),
    )
    if json:
        print_json(found)
    else:
        out.print(_table(model, found))


def _dense_type(path: Path, raw: Mapping[str, Any]) -> torch.dtype:
    """How numbers that are not packed are stored; without weights, what the configuration announces."""
    if llama2c.find(path) is not None:
        return torch.float32
    try:
        with open_tensors(path) as folder:
            return main_float(folder.tensors)
    except NotFound:
        announced = getattr(torch, str(raw.get("dtype") or raw.get("torch_dtype")), None)
        return announced if isinstance(announced, torch.dtype) else torch.float32


def _table(model: str, found: Inspection) -> Table:
    costs = found.account
    table = Table(title=escape(model), show_header=False, title_justify="left")
    table.add_row("family", found.family)
    table.add_row("parameters", f"{human_count(costs.num_parameters)}  ({costs.num_parameters:,})")
    table.add_row("vocabulary", f"{found.vocab_size:,}")
    table.add_row("context", f"{found.max_positions:,} tokens")
    packed = "" if found.weights == "dense" else f"{found.weights}, the rest "
    table.add_row("stored as", f"{packed}{found.dense_type}")
    for size in costs.sizes:
        name = found.dense_type if size.format == "dense" else size.format
        table.add_row(f"weights in {name}", human_bytes(size.weight_bytes))
    table.add_row("KV cache", f"{human_bytes(costs.kv_bytes_per_token)} per token ({costs.keys})")
    table.add_row("FLOPs per token", f"{human_count(costs.flops_per_token)} empty context")
    table.add_row("", f"{human_count(costs.flops_per_token_full)} full context")
    if found.manifest is not None:
        table.add_row("made from", f"{escape(found.manifest.parent.name)}, recipe {escape(found.manifest.recipe)}")
    return table
