"""burnish quality: perplexity, alone or against another model."""

import hashlib
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.markup import escape
from rich.table import Table

from burnish.assemble import load_checked, open_plan
from burnish.cli.output import AsJson, Model, out, print_json, progress
from burnish.core.errors import BadSettings
from burnish.core.types import KeyKind
from burnish.measure.intervals import Interval
from burnish.measure.quality import (
    DEFAULT_KEYS,
    Comparison,
    Likeness,
    Passage,
    Quality,
    QualityConfig,
    compare,
    pair,
    prepare,
    read_text,
    token_losses,
)
from burnish.measure.quality import quality as judge
from burnish.models.decoder import Decoder
from burnish.models.locate import locate
from burnish.models.tokenizer import load_tokenizer
from burnish.plan.ops import Plan

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityReport:
    """Perplexity on a text, with 95 % intervals; the loss ratio is perplexity over the parent's, minus 1."""

    perplexity: Interval
    bits_per_byte: Interval
    num_tokens: int
    context: int
    stride: int
    data_sha256: str  # of the text
    parent_perplexity: Interval | None = None
    loss_ratio: Interval | None = None
    kl: Interval | None = None  # KL(parent | model), nats per token
    top1_agreement: Interval | None = None


@app.command()
def quality(
    data: Annotated[Path, typer.Option(help="A text file, or .jsonl with the field [bold]text[/].")],
    model: Model = "builtin",
    against: Annotated[str | None, typer.Option(help="Compare with this model on the same tokens.")] = None,
    context: Annotated[int, typer.Option(help="Tokens of a window.")] = 512,
    stride: Annotated[int, typer.Option(help="Tokens by which windows move.")] = 256,
    max_tokens: Annotated[int | None, typer.Option(help="Read at most this many tokens of the text.")] = None,
    keys: Annotated[
        KeyKind | None, typer.Option(help="How the model's KV cache is stored; the other's is [bold]f16[/].")
    ] = None,
    reference: Annotated[bool, typer.Option("--reference", help="Score with torch in float32, not as served.")] = False,
    json: AsJson = False,
) -> None:
    """Measure perplexity, as served, by a sliding window in which every token is scored once."""
    config = QualityConfig(context=context, stride=stride, max_tokens=max_tokens)
    if reference and keys is not None:
        raise BadSettings("--reference computes without a KV cache, --keys chooses one", remedy="Give one of them")
    served_as = ServedAs(reference=reference, keys=keys or DEFAULT_KEYS)
    report = assess(model, read_text(data), config, against=against, quiet=json, served_as=served_as)
    if json:
        print_json({f.name: value for f in fields(report) if (value := getattr(report, f.name)) is not None})
    else:
        out.print(_table(model, against, report))


class ServedAs(NamedTuple):
    """How a model is run while it is scored."""

    reference: bool = False  # by torch in float32
    keys: KeyKind = DEFAULT_KEYS


AS_SERVED = ServedAs()


def assess(
    model: str,
    text: str,
    config: QualityConfig,
    *,
    against: str | None,
    quiet: bool,
    served_as: ServedAs = AS_SERVED,
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
    path = locate(model)
    opened, keys = _open(path, served_as.reference), served_as.keys
    report = partial(_report, passage=passage, data_sha256=hashlib.sha256(text.encode()).hexdigest())
    windows = f"{passage.config.context}-token windows"
    if against is None:
        with progress(f"Scoring {windows} with {model}", quiet=quiet) as moved:
            return report(judge(token_losses(opened, passage, keys=keys, progress=moved), passage))
    with progress(f"Scoring {windows} with {model} and {against}", quiet=quiet) as moved:
        both = pair(opened, _open(locate(against), served_as.reference), passage, keys=keys, progress=moved)
    compared = compare(both.losses, both.parent_losses, passage)
    return report(compared.quality, compared=compared, likeness=both.likeness)


def _open(path: Path, reference: bool) -> Decoder | Plan:
    return load_checked(path).decoder if reference else open_plan(path)


def _report(
    found: Quality,
    *,
    passage: Passage,
    data_sha256: str,
    compared: Comparison | None = None,
    likeness: Likeness | None = None,
) -> QualityReport:
    return QualityReport(
        perplexity=found.perplexity,
        bits_per_byte=found.bits_per_byte,
        num_tokens=found.num_tokens,
        context=passage.config.context,
        stride=passage.config.stride,
        data_sha256=data_sha256,
        parent_perplexity=None if compared is None else compared.parent.perplexity,
        loss_ratio=None if compared is None else compared.loss_ratio,
        kl=None if likeness is None else likeness.kl,
        top1_agreement=None if likeness is None else likeness.top1_agreement,
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
        ("loss ratio", report.loss_ratio),
        ("KL, nats per token", report.kl),
        ("same likeliest token", report.top1_agreement),
    )
    for name, interval in rows:
        if interval is not None:
            table.add_row(name, f"{interval.value:.4f}", f"{interval.low:.4f} - {interval.high:.4f}")
    return table
