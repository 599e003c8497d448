"""burnish quality: perplexity, alone or against another model."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from burnish.assemble import load_checked, open_plan
from burnish.cli.output import AsJson, Model, out, print_json, progress
from burnish.core.errors import BadSettings
from burnish.measure.intervals import Interval
from burnish.measure.quality import Passage, QualityConfig, compare, prepare, read_text, token_losses
from burnish.measure.quality import quality as judge
from burnish.models.locate import locate
from burnish.models.tokenizer import load_tokenizer

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityReport:
    """Perplexity on a text, with 95 % intervals; the ratio is perplexity over the parent's."""

    perplexity: Interval
    bits_per_byte: Interval
    num_tokens: int
    context: int
    stride: int
    parent_perplexity: Interval | None = None
    loss_ratio: Interval | None = None


@app.command()
def quality(
    data: Annotated[Path, typer.Option(help="A text file, or .jsonl with the field [bold]text[/].")],
    model: Model = "builtin",
    against: Annotated[str | None, typer.Option(help="Compare with this model on the same tokens.")] = None,
    context: Annotated[int, typer.Option(help="Tokens of a window.")] = 512,
    stride: Annotated[int, typer.Option(help="Tokens by which windows move.")] = 256,
    max_tokens: Annotated[int | None, typer.Option(help="Read at most this many tokens of the text.")] = None,
    reference: Annotated[bool, typer.Option("--reference", help="Score with torch in float32, not as served.")] = False,
    json: AsJson = False,
) -> None:
    """Measure perplexity, as served, by a sliding window in which every token is scored once."""
    config = QualityConfig(context=context, stride=stride, max_tokens=max_tokens)
    report = assess(model, read_text(data), config, against=against, quiet=json, reference=reference)
    if json:
        print_json({f.name: value for f in fields(report) if (value := getattr(report, f.name)) is not None})
    else:
        out.print(_table(model, against, report))


def assess(
    model: str, text: str, config: QualityConfig, *, against: str | None, quiet: bool, reference: bool = False
) -> QualityReport:
    """Score a text with one model, or with two on the same tokens.

    Raises ``BadSettings`` when two models read the text differently.
    """
    with progress("Reading the text", quiet=quiet):
        passage = _passage(model, text, config)
        other = passage if against is None else _passage(against, text, config)
    if other != passage:
        raise BadSettings(
            f"{model!r} and {against!r} read the text differently", remedy="Compare models of one tokenizer and context"
        )
    scores = []
    for name in (model, against) if against is not None else (model,):
        with progress(f"Scoring {passage.config.context}-token windows with {name}", quiet=quiet) as moved:
            path = locate(name)
            opened = load_checked(path).decoder if reference else open_plan(path)
            scores.append(token_losses(opened, passage, progress=moved))
    alone = judge(scores[0], passage)
    both = compare(scores[0], scores[1], passage) if against is not None else None
    return QualityReport(
        perplexity=alone.perplexity,
        bits_per_byte=alone.bits_per_byte,
        num_tokens=alone.num_tokens,
        context=alone.context,
        stride=alone.stride,
        parent_perplexity=both.parent.perplexity if both else None,
        loss_ratio=both.loss_ratio if both else None,
    )


def _passage(model: str, text: str, config: QualityConfig) -> Passage:
    from burnish.models.checkpoint import empty_decoder, raw_config

    path = locate(model)
    return prepare(text, load_tokenizer(path), empty_decoder(raw_config(path)).config, config)


def _table(model: str, against: str | None, report: QualityReport) -> Table:
    about = f"{report.num_tokens:,} tokens, windows of {report.context}, stride {report.stride}"
    table = Table("", "value", "95 % interval", title=escape(f"{model}: {about}"), title_justify="left")
    rows = (
        ("perplexity", report.perplexity),
        ("bits per byte", report.bits_per_byte),
        (escape(f"perplexity of {against}"), report.parent_perplexity),
        ("ratio", report.loss_ratio),
    )
    for name, interval in rows:
        if interval is not None:
            table.add_row(name, f"{interval.value:.4f}", f"{interval.low:.4f} - {interval.high:.4f}")
    return table
