"""burnish quality of an encoder: how much its embeddings resemble another's."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from burnish.assemble import load_checked_encoder
from burnish.cli.output import progress
from burnish.core.documents import Text, read_documents
from burnish.core.errors import BadSettings
from burnish.measure.intervals import Interval
from burnish.measure.quality.embeddings import MIN_TEXTS, resemblance
from burnish.models.golden import embeddings_of
from burnish.models.locate import locate
from burnish.models.tokenizer import load_tokenizer

BATCH = 16  # texts embedded at once
MAX_TEXTS = 512  # whose every pair is compared
MIN_WORDS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingsReport:
    """What ``Resemblance`` says, and of what."""

    cosine: Interval
    worst_cosine: float
    rank_correlation: Interval
    num_texts: int
    data_sha256: str  # of the file


def assess_embeddings(model: str, data: Path, *, against: str, max_items: int | None, quiet: bool) -> EmbeddingsReport:
    """Embed the same texts by two encoders: the documents of a .jsonl file, or the lines of a text file.

    Lines of fewer than three words say nothing and are left out; long texts are cut to what the model sees. Raises
    ``BadSettings`` for too few texts.
    """
    texts = _texts(data, max_items or MAX_TEXTS)
    ours, theirs = (_embeddings(name, texts, quiet=quiet) for name in (model, against))
    if ours.shape != theirs.shape:
        raise BadSettings(
            f"{model!r} makes embeddings of {ours.shape[1]}, {against!r} of {theirs.shape[1]} numbers",
            remedy="Compare an encoder with its parent",
        )
    found = resemblance(ours, theirs)
    return EmbeddingsReport(
        cosine=found.cosine,
        worst_cosine=found.worst_cosine,
        rank_correlation=found.rank_correlation,
        num_texts=len(texts),
        data_sha256=hashlib.sha256(data.read_bytes()).hexdigest(),
    )


def _texts(data: Path, at_most: int) -> list[str]:
    """Different texts, evenly over the file."""
    documents = [document.text for document in read_documents(data) if isinstance(document, Text)]
    lines = documents if data.suffix == ".jsonl" else [line.strip() for text in documents for line in text.split("\n")]
    texts = [text for text in dict.fromkeys(lines) if len(text.split()) >= MIN_WORDS]
    if len(texts) < MIN_TEXTS or at_most < MIN_TEXTS:
        raise BadSettings(
            f"{min(len(texts), at_most)} texts are too few to compare by", remedy=f"Give {MIN_TEXTS} or more"
        )
    count = min(len(texts), at_most)
    return [texts[i * len(texts) // count] for i in range(count)]


def _embeddings(name: str, texts: list[str], *, quiet: bool) -> NDArray[np.float32]:
    path = locate(name)
    encoder, tokenizer = load_checked_encoder(path).encoder, load_tokenizer(path)
    before, behind = tokenizer.frame()
    room = encoder.config.max_positions - len(before) - len(behind)
    fed = [[*before, *tokenizer.encode(text, add_special_tokens=False)[:room], *behind] for text in texts]
    parts = []
    with progress(f"Embedding {len(texts):,} texts with {name}", quiet=quiet) as moved:
        for first in range(0, len(fed), BATCH):
            parts.append(embeddings_of(encoder, fed[first : first + BATCH]))
            moved(min(first + BATCH, len(fed)), len(fed))
    return np.concatenate(parts)


def embeddings_table(model: str, against: str, report: EmbeddingsReport) -> Table:
    """The report for a terminal."""
    title = f"{model} against {against}: {report.num_texts:,} texts"
    table = Table("", "value", "95 % interval", title=escape(title), title_justify="left")
    table.add_row("cosine", *_cells(report.cosine))
    table.add_row("worst cosine", f"{report.worst_cosine:.5f}", "")
    table.add_row("rank correlation", *_cells(report.rank_correlation))
    return table


def _cells(interval: Interval) -> tuple[str, str]:
    return f"{interval.value:.5f}", f"{interval.low:.5f} - {interval.high:.5f}"
