"""burnish quality of a network for images: accuracy where classes are known, and how much it agrees with another."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from burnish.assemble import load_checked_vision
from burnish.cli.output import add_intervals, progress
from burnish.core.errors import BadSettings
from burnish.core.images import Images, read_images
from burnish.measure.intervals import Interval
from burnish.measure.quality.choices import accuracy, contest
from burnish.measure.quality.classes import MIN_IMAGES, likeness, right_answers
from burnish.models.locate import locate

BATCH = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagesReport:
    """What a network makes of images, with 95 % intervals."""

    num_images: int
    data_sha256: str  # of the file
    accuracy: Interval | None = None  # where the images have labels
    parent_accuracy: Interval | None = None
    accuracy_difference: Interval | None = None  # the network's minus the parent's
    flip_rate: Interval | None = None  # share of images that exactly one of the two gets right
    num_won: int | None = None  # images only the network gets right
    num_lost: int | None = None  # images only the parent gets right
    p_value: float | None = None  # McNemar's exact test that won and lost are equally likely
    kl: Interval | None = None  # KL(parent | network), nats per image
    agreement: Interval | None = None  # share of images both find to be of the same class


def assess_images(model: str, data: Path, *, against: str | None, max_items: int | None, quiet: bool) -> ImagesReport:
    """Classify images by one network, or the same by two.

    Raises ``BadSettings`` for too few images, or images without labels when there is nothing to compare with.
    """
    images = _spread(read_images(data), max_items)
    if images.labels is None and against is None:
        raise BadSettings(f"images {str(data)!r} have no labels", remedy="Give them labels, or --against a network")
    ours = _logits(model, images, quiet=quiet)
    report = partial(ImagesReport, num_images=len(images.pixels), data_sha256=images.sha256)
    if images.labels is not None:
        report = partial(report, accuracy=accuracy(right_answers(ours, images.labels)))
    if against is None:
        return report()
    theirs = _logits(against, images, quiet=quiet)
    if ours.shape != theirs.shape:
        raise BadSettings(
            f"{model!r} knows {ours.shape[1]} classes, {against!r} {theirs.shape[1]}",
            remedy="Compare a network with its parent",
        )
    alike = likeness(ours, theirs)
    report = partial(report, kl=alike.kl, agreement=alike.agreement)
    if images.labels is None:
        return report()
    compared = contest(right_answers(ours, images.labels), right_answers(theirs, images.labels))
    return report(
        parent_accuracy=accuracy(right_answers(theirs, images.labels)),
        accuracy_difference=compared.difference,
        flip_rate=compared.flip_rate,
        num_won=compared.num_won,
        num_lost=compared.num_lost,
        p_value=compared.p_value,
    )


def _spread(images: Images, at_most: int | None) -> Images:
    """At most so many images, evenly over the file."""
    total = len(images.pixels)
    count = min(total, at_most or total)
    if count < MIN_IMAGES:
        raise BadSettings(f"{count} images are too few to judge by", remedy=f"Give {MIN_IMAGES} or more")
    chosen = np.arange(count) * total // count
    labels = None if images.labels is None else images.labels[chosen]
    return Images(images.pixels[chosen], labels, images.sha256)


@torch.inference_mode()
def _logits(name: str, images: Images, *, quiet: bool) -> NDArray[np.float32]:
    vision = load_checked_vision(locate(name)).vision
    if images.pixels.shape[1] != vision.config.channels:
        raise BadSettings(
            f"the images have {images.pixels.shape[1]} channels, {name!r} takes {vision.config.channels}",
            remedy="Give images like those it was trained on",
        )
    # one array: small results kept between large tensors pin the heap, which then grew by 0.4 MB a batch of tiny images
    logits = np.empty((len(images.pixels), vision.config.num_classes), np.float32)
    with progress(f"Classifying {len(images.pixels):,} images with {name}", quiet=quiet) as moved:
        for first in range(0, len(logits), BATCH):
            batch = torch.from_numpy(images.pixels[first : first + BATCH])
            logits[first : first + BATCH] = vision(vision.prepare(batch)).numpy()
            moved(first + len(batch), len(logits))
    return logits


def images_table(model: str, against: str | None, report: ImagesReport) -> Table:
    """The report for a terminal."""
    table = Table("", "value", "95 % interval", title=escape(f"{model}: {report.num_images:,} images"))
    table.title_justify = "left"
    rows = (
        ("accuracy", report.accuracy),
        (escape(f"accuracy of {against}"), report.parent_accuracy),
        ("difference", report.accuracy_difference),
        ("right for one of the two only", report.flip_rate),
        ("same likeliest class", report.agreement),
        ("KL, nats per image", report.kl),
    )
    add_intervals(table, rows)
    if report.p_value is not None:
        table.caption = f"won {report.num_won}, lost {report.num_lost}; McNemar's p {report.p_value:.3g}"
    return table
