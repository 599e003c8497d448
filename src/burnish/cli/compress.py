"""burnish compress: write a slimmer variant of a model."""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from burnish.assemble import Origin, load_checked, write_artifact
from burnish.cli.output import AsJson, Model, Moved, err, human_bytes, print_json, progress
from burnish.compress.recipe import find_recipe
from burnish.compress.walk import compress as compress_decoder
from burnish.compress.walk import compressible
from burnish.core.errors import BadSettings, nearest
from burnish.models import llama2c
from burnish.models.gguf import location as gguf_location
from burnish.models.locate import locate
from burnish.models.tensor_files import shards
from burnish.registry.artifact import refuse_used

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Compressed:
    """What ``burnish compress`` made."""

    path: Path
    recipe: str
    weights: str
    num_layers: int
    bytes_before: int  # of all files of the model
    bytes_after: int
    worst_relative_error: float  # of one layer's weight


@app.command()
def compress(
    model: Model,
    out: Annotated[Path, typer.Argument(help="A new folder for the result.")],
    recipe: Annotated[str, typer.Option(help="int8, int4, or int4 with a group size: int4-g32, -g64, -g128.")] = "int8",
    float_activations: Annotated[
        list[str] | None,
        typer.Option(help="Layers whose inputs are not quantized, as 'layers.*.mlp.down_proj'; may be repeated."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Write a slimmer variant: a Hugging Face folder that other engines open too, with its manifest."""
    with progress(f"Compressing to {recipe}", quiet=json) as moved:
        made = write_variant(locate(model), out, recipe, moved, float_activations=float_activations or ())
    if json:
        print_json(made)
    else:
        change = f"{human_bytes(made.bytes_before)} -> {human_bytes(made.bytes_after)}"
        err.print(
            f"Wrote [bold]{escape(str(out))}[/]: {made.num_layers} layers in {made.weights}, {change}.",
            highlight=False,
            soft_wrap=True,
        )


def write_variant(
    parent: Path, out: Path, recipe_name: str, moved: Moved, *, float_activations: Sequence[str] = ()
) -> Compressed:
    """Load, compress, write.

    Raises ``BadSettings`` for an unknown recipe, an output that exists, or a pattern that no layer matches.
    """
    recipe = find_recipe(recipe_name)
    refuse_used(out)
    loaded = load_checked(parent)
    kept = _matching([name for name, _ in compressible(loaded.decoder)], float_activations)
    records = compress_decoder(loaded.decoder, recipe, progress=moved)
    manifest = write_artifact(loaded, Origin(parent, recipe.name, records, kept), out)
    return Compressed(
        path=out,
        recipe=recipe.name,
        weights=manifest.weights,
        num_layers=len(records),
        bytes_before=model_bytes(parent),
        bytes_after=model_bytes(out),
        worst_relative_error=max(record.relative_error for record in records),
    )


def _matching(layers: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The layers any pattern matches, in their order."""
    for pattern in patterns:
        if not fnmatch.filter(layers, pattern):
            raise BadSettings(f"no layer is called {pattern!r}", remedy=nearest(pattern, list(layers)))
    return [name for name in layers if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def model_bytes(path: Path) -> int:
    """Bytes of the files a model is loaded from."""
    single = gguf_location.find(path) or llama2c.find(path)
    return sum(file.stat().st_size for file in (shards(path) if single is None else [single]))
