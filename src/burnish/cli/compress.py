"""burnish compress: write a slimmer variant of a model."""

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from burnish.assemble import Origin, write_artifact
from burnish.cli.output import AsJson, Model, Moved, err, human_bytes, print_json, progress
from burnish.cli.quality import assess, refuse_loss
from burnish.cli.scalars import Scalars, open_scalars
from burnish.cli.subjects import Subject, open_subject
from burnish.compress.calibration import Calibration, CalibrationConfig
from burnish.compress.finite import refuse_not_numbers
from burnish.compress.journal import Journal
from burnish.compress.memory import DataSize, plan_memory, refuse_too_much
from burnish.compress.recipe import Recipe
from burnish.compress.recipe_file import recipe_of, recipe_text
from burnish.compress.recipes import find_recipe
from burnish.compress.runtimes import KINDS, RUNTIMES, refuse_kind, refuse_unfit
from burnish.core.errors import BadSettings, nearest
from burnish.core.memory import free_bytes, give_back, own_bytes, parse_bytes
from burnish.core.records import QualityRecord
from burnish.measure.intervals import Interval
from burnish.measure.quality.corpus import Corpus, read_corpus
from burnish.measure.quality.perplexity import QualityConfig
from burnish.models import llama2c
from burnish.models.gguf import location as gguf_location
from burnish.models.locate import locate
from burnish.models.tensor_files import shards
from burnish.registry.artifact import content_hash, refuse_used

app = typer.Typer(add_completion=False)
DEFAULT = "int8"


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
    planned_bytes: int  # of memory, at most


@app.command()
def compress(
    model: Model,
    out: Annotated[Path, typer.Argument(help="A new folder for the result.")],
    recipe: Annotated[
        str | None, typer.Option(help="What is done; [bold]burnish recipes[/] lists them; none: [bold]int8[/].")
    ] = None,
    passes: Annotated[
        list[str] | None,
        typer.Option(
            "--pass",
            help="A pass and its settings in TOML, as [bold]'gptq formats=\\[\"int4-g128\"]'[/], instead of a recipe; "
            "may be repeated: they are applied in that order.",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help=f"Refuse a recipe whose result this does not run: {', '.join(RUNTIMES)}; none: no check."),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="A text file, or .jsonl with [bold]text[/], [bold]messages[/] or [bold]tokens[/]; "
            "for networks that see images .npz or IDX."
        ),
    ] = None,
    samples: Annotated[int, typer.Option(help="Pieces, or images, of the calibration data that are used.")] = 128,
    length: Annotated[int, typer.Option(help="Tokens of a piece.")] = 512,
    seed: Annotated[int, typer.Option(help="Draws the pieces.")] = 0,
    memory: Annotated[
        str | None, typer.Option(help="Most memory to use, as [bold]8GiB[/]; none: what is free now.")
    ] = None,
    quality: Annotated[
        list[Path] | None,
        typer.Option(help="A text to measure the result on before it is kept; may be repeated."),
    ] = None,
    max_loss: Annotated[
        float | None,
        typer.Option(help="Keep nothing unless every text shows at most this loss: [bold]0.01[/] is 1 % perplexity."),
    ] = None,
    float_activations: Annotated[
        list[str] | None,
        typer.Option(help="Layers whose inputs are not quantized, as 'layers.*.mlp.down_proj'; may be repeated."),
    ] = None,
    tensorboard: Annotated[
        Path | None, typer.Option(help="A folder for TensorBoard: errors of layers, losses of what trains.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Write a slimmer variant: a Hugging Face folder that other engines open too, with its manifest."""
    if max_loss is not None and not quality:
        raise BadSettings("--max-loss needs a text to measure on", remedy="Give --quality FILE")
    if passes and recipe is not None:
        raise BadSettings("--recipe and --pass both say what is done", remedy="Give one of them")
    wanted = recipe_of(passes) if passes else find_recipe(recipe or DEFAULT)
    asked = Asked(
        target=target,
        calibration=calibration,
        texts=quality or (),
        max_loss=max_loss,
        sampling=CalibrationConfig(samples=samples, length=length, seed=seed),
        float_activations=float_activations or (),
        memory_bytes=free_bytes() if memory is None else parse_bytes(memory),
        announce=None if json else _announce,
        tensorboard=tensorboard,
    )
    with progress(f"Compressing to {wanted.name}", quiet=json) as moved:
        made = write_variant(locate(model), out, wanted, moved, asked)
    if json:
        print_json(made)
    else:
        change = f"{human_bytes(made.bytes_before)} -> {human_bytes(made.bytes_after)}"
        err.print(
            f"Wrote [bold]{escape(str(out))}[/]: {made.num_layers} layers in {made.weights}, {change}.",
            highlight=False,
            soft_wrap=True,
        )


def _announce(planned_bytes: int) -> None:
    err.print(f"This takes at most {human_bytes(planned_bytes)} of memory.", highlight=False, soft_wrap=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a compression is told beside the recipe."""

    calibration: Path | None = None
    sampling: CalibrationConfig = field(default_factory=CalibrationConfig)
    float_activations: Sequence[str] = ()
    memory_bytes: int | None = None  # the most to use; None: whatever it takes
    announce: Callable[[int], None] | None = None  # told the bytes it will use at most, before it starts
    texts: Sequence[Path] = ()  # to measure the result on
    max_loss: float | None = None  # of perplexity, on every text; more is refused
    target: str | None = None  # what the result is to run on; None: whatever it will
    tensorboard: Path | None = None  # a folder for charts of the run


def write_variant(
    parent: Path, out: Path, recipe: str | Recipe, moved: Moved, asked: Asked | None = None
) -> Compressed:
    """Load, compress by a recipe, or the one of that name, write.

    What was finished of a run with data that was killed is taken from beside ``out``.

    Raises ``BadSettings`` for an unknown recipe, one whose result the target does not run, an output that exists, a
    pattern that no layer matches, data that is missing or given in vain, or more memory than is allowed;
    ``BadRequest`` for a model that holds what is no number; ``VerificationFailed`` for a loss above the budget.
    """
    asked, found = asked or Asked(), recipe if isinstance(recipe, Recipe) else find_recipe(recipe)
    with open_scalars(asked.tensorboard) as scalars:
        return _write(parent, out, found, moved, asked, scalars)


def _write(parent: Path, out: Path, recipe: Recipe, moved: Moved, asked: Asked, scalars: Scalars | None) -> Compressed:
    if asked.target is not None:
        refuse_unfit(recipe, asked.target)
    refuse_used(out)
    corpora = {path.name: read_corpus(path) for path in asked.texts}
    subject = open_subject(parent, scalars)
    if corpora and not subject.has_perplexity:
        raise BadSettings(
            "--quality measures perplexity, which only decoders have", remedy="Use burnish quality afterwards"
        )
    if asked.target is not None:
        refuse_kind(subject.kind, asked.target)
    kept = _matching(list(subject.chain.layers), asked.float_activations)
    if kept and (recipe.is_static or subject.kind == KINDS[2]):
        raise BadSettings(
            "--float-activations keeps inputs from being rounded row by row, which is not done here",
            remedy="Leave it out",
        )
    subject.check(recipe, has_data=asked.calibration is not None)
    refuse_not_numbers(subject.model)
    data = None if asked.calibration is None else subject.read(asked.calibration, asked.sampling)
    planned = _plan(subject, recipe.for_layers(list(subject.chain.layers)), data, asked.memory_bytes)
    journal = None
    if data is not None:
        journal = Journal(out.with_name(f"{out.name}.unfinished"), _key(parent, recipe, data))
    if asked.announce is not None:
        asked.announce(planned)
    made = subject.apply(recipe, data, journal, moved)
    if scalars is not None:
        scalars.layers(made.records)
    origin = Origin(
        parent=parent,
        recipe=recipe.name,
        records=made.records,
        float_activations=kept,
        calibration=None if data is None else data.record,
        latency=made.latency,
        int8_activations=recipe.activations == "int8",
        recipe_text=recipe_text(recipe),
    )
    measure = partial(_measured, parent=parent, corpora=corpora, max_loss=asked.max_loss) if corpora else None
    manifest = write_artifact(made.loaded, origin, out, measure)
    if journal is not None:
        journal.close()
    return Compressed(
        path=out,
        recipe=recipe.name,
        weights=manifest.weights,
        num_layers=len({record.name for record in made.records}),
        bytes_before=model_bytes(parent),
        bytes_after=model_bytes(out),
        worst_relative_error=max((record.relative_error for record in made.records), default=0.0),
        planned_bytes=planned,
    )


def _measured(
    out: Path, *, parent: Path, corpora: Mapping[str, Corpus], max_loss: float | None
) -> tuple[QualityRecord, ...]:
    """The quality of an artifact on every text. Raises ``VerificationFailed`` for one with a greater loss."""
    records = []
    for name, corpus in corpora.items():
        report = assess(str(out), corpus, QualityConfig(), against=str(parent), quiet=True)
        found = {field.name: getattr(report, field.name) for field in fields(report)}
        figures = {key: (*value,) for key, value in found.items() if isinstance(value, Interval)}
        assert report.loss_ratio is not None, "it was compared"
        if max_loss is not None:
            refuse_loss(report.loss_ratio, max_loss)
        about = ("num_tokens", "context", "stride", "interval", "data_sha256")
        records.append(QualityRecord(figures=figures, data=name, **{key: found[key] for key in about}))
    return tuple(records)


def _plan(subject: Subject, recipe: Recipe, data: Calibration | None, limit_bytes: int | None) -> int:
    """Bytes of memory the whole will hold at most. Raises ``BadSettings`` when that exceeds the limit."""
    give_back()
    held, size = own_bytes(), DataSize(0, 0) if data is None else subject.data_size(data)
    plan = plan_memory(subject.chain, subject.model, recipe, size)
    if limit_bytes is not None:
        refuse_too_much(plan, held, limit_bytes)
    return held + plan.total


def _key(parent: Path, recipe: Recipe, data: Calibration) -> dict[str, str]:
    """All that the result of a run depends on."""
    return {
        "parent": content_hash(parent),
        "recipe": repr(recipe),
        "calibration": repr(data.record),
        "burnish": version("burnish"),
        "torch": version("torch"),
    }


def _matching(layers: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The layers any pattern matches, in their order."""
    for pattern in patterns:
        if not fnmatch.filter(layers, pattern):
            raise BadSettings(f"no layer is called {pattern!r}", remedy=nearest(pattern, list(layers)))
    return [name for name in layers if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def model_bytes(path: Path) -> int:
    """Bytes of the files a model is loaded from."""
    single = path if path.is_file() else gguf_location.find(path) or llama2c.find(path)
    return sum(file.stat().st_size for file in (shards(path) if single is None else [single]))
