"""burnish quality --choices: multiple choice by log-likelihood, alone or against another model."""

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from burnish.assemble import open_plan
from burnish.cli.output import add_intervals, progress
from burnish.measure.intervals import Interval
from burnish.measure.quality.choices import Answers, accuracy, answer, contest, read_items, spread
from burnish.models.checkpoint import empty_decoder, raw_config
from burnish.models.locate import locate
from burnish.models.tokenizer import load_tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoicesReport:
    """Accuracy on multiple choice, with 95 % intervals."""

    accuracy: Interval  # by the log-likelihood of a whole choice
    accuracy_normalized: Interval  # by the log-likelihood per byte of a choice
    num_items: int
    data_sha256: str  # of the file
    parent_accuracy: Interval | None = None
    accuracy_difference: Interval | None = None  # the model's minus the parent's
    flip_rate: Interval | None = None  # share of items that exactly one of the two gets right
    num_won: int | None = None  # items only the model gets right
    num_lost: int | None = None  # items only the parent gets right
    p_value: float | None = None  # McNemar's exact test that won and lost are equally likely


def assess_choices(model: str, data: Path, *, against: str | None, max_items: int | None, quiet: bool) -> ChoicesReport:
    """Answer items with one model, or the same items with two; models are run as they are served."""
    items = spread(read_items(data), max_items)

    def answered(name: str) -> Answers:
        path = locate(name)
        shape = empty_decoder(raw_config(path)).config
        with progress(f"Answering {len(items):,} items with {name}", quiet=quiet) as moved:
            return answer(open_plan(path), load_tokenizer(path), items, context=shape.max_positions, progress=moved)

    ours = answered(model)
    report = partial(
        ChoicesReport,
        accuracy=accuracy(ours.right),
        accuracy_normalized=accuracy(ours.right_normalized),
        num_items=len(items),
        data_sha256=hashlib.sha256(data.read_bytes()).hexdigest(),
    )
    if against is None:
        return report()
    theirs = answered(against)
    compared = contest(ours.right, theirs.right)
    return report(
        parent_accuracy=accuracy(theirs.right),
        accuracy_difference=compared.difference,
        flip_rate=compared.flip_rate,
        num_won=compared.num_won,
        num_lost=compared.num_lost,
        p_value=compared.p_value,
    )


def choices_table(model: str, against: str | None, report: ChoicesReport) -> Table:
    """The report for a terminal."""
    table = Table("", "value", "95 % interval", title=escape(f"{model}: {report.num_items:,} items"))
    table.title_justify = "left"
    rows = (
        ("accuracy", report.accuracy),
        ("accuracy per byte", report.accuracy_normalized),
        (escape(f"accuracy of {against}"), report.parent_accuracy),
        ("difference", report.accuracy_difference),
        ("right for one of the two only", report.flip_rate),
    )
    add_intervals(table, rows)
    if report.p_value is not None:
        table.caption = f"won {report.num_won}, lost {report.num_lost}; McNemar's p {report.p_value:.3g}"
    return table
