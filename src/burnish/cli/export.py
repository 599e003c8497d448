"""burnish export: a model in the files of other engines."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from safetensors import SafetensorError

from burnish.assemble import load_any
from burnish.cli.output import AsJson, Model, Moved, err, human_bytes, print_json, progress
from burnish.compress.export.table import TARGETS, find_target
from burnish.core.errors import BadSettings
from burnish.models.locate import locate
from burnish.registry.artifact import read_manifest, refuse_used

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What ``burnish export`` made."""

    path: Path
    target: str
    type: str
    bytes: int
    types: Mapping[str, int]  # stored type -> number of tensors
    num_rounded: int  # tensors that are not exactly the model's
    worst_relative_error: float  # of one of those


@app.command()
def export(
    model: Model,
    out: Annotated[Path, typer.Argument(help="A new folder, or for [bold]gguf[/] and [bold]onnx[/] a new file.")],
    to: Annotated[str, typer.Option(help=f"What to write: {', '.join(TARGETS)}.")] = "hf",
    type: Annotated[
        str | None,
        typer.Option(
            help="How weights are stored; none: as they are. "
            + "; ".join(f"{name}: {', '.join(target.types)}" for name, target in TARGETS.items())
            + "."
        ),
    ] = None,
    embeddings: Annotated[
        str | None, typer.Option(help="For [bold]gguf[/]: how embeddings and head are stored, f16 or q8_0.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Write a model in the files of another engine; what that engine cannot express is refused."""
    with progress(f"Exporting to {to}", quiet=json) as moved:
        made = write_export(locate(model), out, to, moved, type=type, embeddings=embeddings)
    if json:
        print_json(made)
        return
    stored = ", ".join(f"{count} as {kind}" for kind, count in made.types.items())
    lost = (
        f"{made.num_rounded} rounded, by at most {made.worst_relative_error:.1e} of itself"
        if made.num_rounded
        else "exact"
    )
    err.print(
        f"Wrote [bold]{escape(str(out))}[/], {human_bytes(made.bytes)}: {stored}; {lost}.",
        highlight=False,
        soft_wrap=True,
    )


def write_export(
    model: Path, out: Path, to: str, moved: Moved, *, type: str | None = None, embeddings: str | None = None
) -> Exported:
    """Check, then write aside and rename: ``out`` appears whole or not at all.

    Raises ``BadSettings`` for an unknown target or type, an output that exists or cannot be written, and whatever the
    target refuses; ``VerificationFailed`` for an artifact that is not what its manifest says.
    """
    target = find_target(to)
    asked = target.asked(to, type, embeddings)
    refuse_used(out)
    if read_manifest(model) is not None:
        load_any(model, mapped=True)
    prepared = target.prepare(model, asked)
    with _aside(out) as staged:
        written = prepared.write(staged, moved)
        num_bytes = sum(file.stat().st_size for file in (staged, *staged.rglob("*")) if file.is_file())
    return Exported(
        path=out,
        target=to,
        type=asked.type,
        bytes=num_bytes,
        types=written.types,
        num_rounded=written.num_rounded,
        worst_relative_error=written.worst_relative_error,
    )


@contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """A free path in a hidden folder beside ``out``; what is made there becomes ``out`` when the block ends well.

    Raises ``BadSettings`` when the disk is full or the place cannot be written.
    """
    staging = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
        staged = staging / out.name
        yield staged
        refuse_used(out)
        staged.replace(out)
    except (OSError, SafetensorError) as error:
        reason = " ".join((getattr(error, "strerror", None) or str(error)).split())
        raise BadSettings(
            f"output {str(out)!r} cannot be written: {reason}", remedy="Free the disk, or name another"
        ) from None
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
