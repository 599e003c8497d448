"""burnish quality: perplexity, alone or against another model."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.markup import escape
from rich.table import Table

from burnish.assemble import load_checked, open_plan
from burnish.cli.output import AsJson, Model, add_intervals, out, print_json, progress
from burnish.cli.quality_choices import ChoicesReport, assess_choices, choices_table
from burnish.cli.quality_embeddings import EmbeddingsReport, assess_embeddings, embeddings_table
from burnish.cli.quality_images import ImagesReport, assess_images, images_table
from burnish.core.errors import BadSettings, VerificationFailed
from burnish.core.types import KeyKind
from burnish.measure.intervals import Interval
from burnish.measure.quality.corpus import Corpus, read_corpus
from burnish.measure.quality.gate import Verdict, judge_loss
from burnish.measure.quality.logits import DEFAULT_KEYS
from burnish.measure.quality.perplexity import (
    Comparison,
    Likeness,
    Passage,
    Quality,
    QualityConfig,
    compare,
    likeness,
    pair,
    prepare,
    token_losses,
)
from burnish.measure.quality.perplexity import quality as judge
from burnish.models.decoder import Decoder
from burnish.models.encoder_checkpoint import is_encoder
from burnish.models.locate import locate
from burnish.models.tokenizer import load_tokenizer
from burnish.models.vision_checkpoint import is_vision
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
    interval: str  # how the intervals are made: "bootstrap over N documents" or "batch means"
    parent_perplexity: Interval | None = None
    loss_ratio: Interval | None = None
    kl: Interval | None = None  # KL(parent | model), nats per token
    top1_agreement: Interval | None = None
    flip_rate: Interval | None = None  # share of tokens that exactly one of the two finds likeliest
    verdict: Verdict | None = None  # on the loss budget


@app.command()
def quality(
    model: Model = "builtin",
    data: Annotated[
        Path | None,
        typer.Option(
            help="Perplexity: a text file, or .jsonl with the field [bold]text[/]. Images: .npz, or IDX files."
        ),
    ] = None,
    choices: Annotated[
        Path | None, typer.Option(help="Accuracy: .jsonl of multiple choices or minimal pairs, gzipped or not.")
    ] = None,
    against: Annotated[str | None, typer.Option(help="Compare with this model on the same data.")] = None,
    context: Annotated[int, typer.Option(help="Tokens of a window.")] = 512,
    stride: Annotated[int, typer.Option(help="Tokens by which windows move.")] = 256,
    max_tokens: Annotated[int | None, typer.Option(help="Read at most this many tokens of the text.")] = None,
    max_items: Annotated[
        int | None, typer.Option(help="Use at most this many of the choices, of an encoder's texts, or of images.")
    ] = None,
    max_loss: Annotated[
        float | None, typer.Option(help="Fail unless the loss ratio is shown to be at most this: [bold]0.01[/] is 1 %.")
    ] = None,
    keys: Annotated[
        KeyKind | None, typer.Option(help="How the model's KV cache is stored; the other's is [bold]f16[/].")
    ] = None,
    reference: Annotated[bool, typer.Option("--reference", help="Score with torch in float32, not as served.")] = False,
    json: AsJson = False,
) -> None:
    """Measure perplexity or multiple choice, as served; how an encoder's embeddings resemble another's; accuracy."""
    if max_loss is not None and (against is None or data is None):
        raise BadSettings("--max-loss compares two models on a text", remedy="Give --against and --data")
    if reference and keys is not None:
        raise BadSettings("--reference computes without a KV cache, --keys chooses one", remedy="Give one of them")
    if (data is None) == (choices is None):
        raise BadSettings("quality is measured on --data or on --choices", remedy="Give one of them")
    of_texts = {"--reference": reference or None, "--keys": keys, "--max-tokens": max_tokens, "--max-loss": max_loss}
    if choices is not None:
        _refuse_given(of_texts, "--choices takes no")
        answers = assess_choices(model, choices, against=against, max_items=max_items, quiet=json)
        _show(answers, choices_table(model, against, answers), json=json)
        return
    assert data is not None, "one of the two is given"
    if is_vision(locate(model)):
        _refuse_given(of_texts, "a network for images takes no")
        seen = assess_images(model, data, against=against, max_items=max_items, quiet=json)
        _show(seen, images_table(model, against, seen), json=json)
        return
    if is_encoder(locate(model)):
        if against is None:
            raise BadSettings("an encoder's quality is its likeness to another", remedy="Give --against")
        _refuse_given(of_texts, "an encoder takes no")
        alike = assess_embeddings(model, data, against=against, max_items=max_items, quiet=json)
        _show(alike, embeddings_table(model, against, alike), json=json)
        return
    if max_items is not None:
        raise BadSettings("--max-items belongs to --choices, encoders and images", remedy="Use --max-tokens")
    config = QualityConfig(context=context, stride=stride, max_tokens=max_tokens)
    served_as = ServedAs(reference=reference, keys=keys or DEFAULT_KEYS)
    report = assess(model, read_corpus(data), config, against=against, quiet=json, served_as=served_as)
    if max_loss is not None and report.loss_ratio is not None:
        report = replace(report, verdict=judge_loss(report.loss_ratio, max_loss))
    _show(report, _table(model, against, report), json=json)
    if max_loss is not None and report.loss_ratio is not None:
        refuse_loss(report.loss_ratio, max_loss)


def _refuse_given(options: Mapping[str, object], what: str) -> None:
    """Raise ``BadSettings`` for the first option that was given."""
    for option, value in options.items():
        if value is not None:
            raise BadSettings(f"{what} {option}", remedy="Leave it out; --max-items says how much is looked at")


def _show(report: QualityReport | ChoicesReport | EmbeddingsReport | ImagesReport, table: Table, *, json: bool) -> None:
    if json:
        print_json({f.name: value for f in fields(report) if (value := getattr(report, f.name)) is not None})
    else:
        out.print(table)


def refuse_loss(loss_ratio: Interval, max_loss: float) -> None:
    """Raises ``VerificationFailed`` for a budget that is missed or not shown to be kept."""
    verdict = judge_loss(loss_ratio, max_loss)
    if verdict == "pass":
        return
    found = f"the loss is {100 * loss_ratio.low:+.2f} to {100 * loss_ratio.high:+.2f} % of perplexity"
    if verdict == "fail":
        raise VerificationFailed(f"{found}, above {100 * max_loss:g} %", remedy="Use a recipe that keeps more")
    raise VerificationFailed(
        f"{found}: {100 * max_loss:g} % is not shown", remedy="Measure on more text, without --max-tokens"
    )


class ServedAs(NamedTuple):
    """How a model is run while it is scored."""

    reference: bool = False  # by torch in float32
    keys: KeyKind = DEFAULT_KEYS


AS_SERVED = ServedAs()


def assess(
    model: str,
    corpus: Corpus,
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
        passage = passage_of(model, corpus, config)
        other = passage if against is None else passage_of(against, corpus, config)
    if other != passage:
        raise BadSettings(
            f"{model!r} and {against!r} read the text differently", remedy="Compare models of one tokenizer and context"
        )
    path = locate(model)
    opened, keys = _open(path, served_as.reference), served_as.keys
    report = partial(_report, passage=passage, data_sha256=hashlib.sha256(corpus.text.encode()).hexdigest())
    windows = f"{passage.config.context}-token windows"
    if against is None:
        with progress(f"Scoring {windows} with {model}", quiet=quiet) as moved:
            return report(judge(token_losses(opened, passage, keys=keys, progress=moved), passage))
    with progress(f"Scoring {windows} with {model} and {against}", quiet=quiet) as moved:
        both = pair(opened, _open(locate(against), served_as.reference), passage, keys=keys, progress=moved)
    compared = compare(both.losses, both.parent_losses, passage)
    return report(compared.quality, compared=compared, alike=likeness(both, passage))


def _open(path: Path, reference: bool) -> Decoder | Plan:
    return load_checked(path).decoder if reference else open_plan(path)


def _report(
    found: Quality,
    *,
    passage: Passage,
    data_sha256: str,
    compared: Comparison | None = None,
    alike: Likeness | None = None,
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
        interval=found.interval,
        kl=None if alike is None else alike.kl,
        top1_agreement=None if alike is None else alike.top1_agreement,
        flip_rate=None if alike is None else alike.flip_rate,
    )


def passage_of(model: str, corpus: Corpus, config: QualityConfig) -> Passage:
    """A text as a model reads it. Raises as ``prepare``."""
    from burnish.models.checkpoint import empty_decoder, raw_config

    path = locate(model)
    return prepare(corpus, load_tokenizer(path), empty_decoder(raw_config(path)).config, config)


def _table(model: str, against: str | None, report: QualityReport) -> Table:
    about = f"{report.num_tokens:,} tokens, windows of {report.context}, stride {report.stride}"
    table = Table("", "value", "95 % interval", title=escape(f"{model}: {about}"), title_justify="left")
    table.caption = f"intervals: {report.interval}"
    rows = (
        ("perplexity", report.perplexity),
        ("bits per byte", report.bits_per_byte),
        (escape(f"perplexity of {against}"), report.parent_perplexity),
        ("loss ratio", report.loss_ratio),
        ("KL, nats per token", report.kl),
        ("same likeliest token", report.top1_agreement),
        ("right for one of the two only", report.flip_rate),
    )
    add_intervals(table, rows)
    return table
