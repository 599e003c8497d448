"""Multiple choice by log-likelihood: a model picks the choice it finds likeliest; it generates nothing.

Shapes: I items, B texts of a batch, L tokens of a text.
"""

import gzip
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from burnish.core.errors import BadSettings, NotFound
from burnish.core.types import TextCodec
from burnish.engine.engine import Model
from burnish.measure.intervals import Interval
from burnish.measure.quality.bootstrap import bootstrap_interval
from burnish.measure.quality.logits import DEFAULT_KEYS, Score, losses_of, scorer

_Z = 1.959964  # two-sided 95 % of the normal distribution
_FORM = '{"context": "...", "choices": ["...", "..."], "answer": 0}'

Progress = Callable[[int, int], None]
"""(choices scored, choices to score)"""


class Item(NamedTuple):
    """A question: the choices are continuations of the context, which may be empty."""

    context: str
    choices: tuple[str, ...]
    answer: int  # index of the right choice
    group: str  # the phenomenon it tests; "" where the data names none


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """Which items a model gets right, (I,) of 0 or 1 each."""

    right: NDArray[np.float64]  # by the log-likelihood of a whole choice
    right_normalized: NDArray[np.float64]  # by the log-likelihood per byte of a choice


class Contest(NamedTuple):
    """Two models on the same items."""

    difference: Interval  # of the accuracies, first minus second
    flip_rate: Interval  # share of items that exactly one of the two gets right
    num_lost: int  # right for the second only
    num_won: int  # right for the first only
    p_value: float  # McNemar's exact test that lost and won are equally likely


def read_items(path: Path) -> list[Item]:
    """Items of JSON lines, gzipped or not: context, choices, answer (and group), or minimal pairs as BLiMP has them.

    Raises ``NotFound`` or ``BadSettings`` (which line is wrong).
    """
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    except FileNotFoundError:
        raise NotFound(f"choices {str(path)!r} do not exist", remedy="Check the path") from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise BadSettings(f"choices {str(path)!r} cannot be read: {error}", remedy="Give JSON lines") from None
    items = [_item(line, number, path) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not items:
        raise BadSettings(f"choices {str(path)!r} hold no item", remedy=f"Write {_FORM} per line")
    return items


def _item(line: str, number: int, path: Path) -> Item:
    try:
        found = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        found = None
    item = _parsed(found) if isinstance(found, dict) else None
    if item is None:
        raise BadSettings(f"line {number} of {str(path)!r} is no multiple choice", remedy=f"Write {_FORM} per line")
    return item


def _parsed(found: dict[str, Any]) -> Item | None:
    pair = found.get("sentence_good"), found.get("sentence_bad")
    if all(isinstance(sentence, str) and sentence for sentence in pair):
        return Item("", (str(pair[0]), str(pair[1])), 0, str(found.get("UID", "")))
    context, choices, answer = found.get("context", ""), found.get("choices"), found.get("answer")
    if not isinstance(context, str) or not isinstance(choices, list) or len(choices) < 2:
        return None
    if not all(isinstance(choice, str) and choice for choice in choices):
        return None
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
        return None
    return Item(context, tuple(choices), answer, str(found.get("group", "")))


def spread(items: Sequence[Item], at_most: int | None) -> list[Item]:
    """At most so many items, evenly over the file, so that every group keeps its share."""
    if at_most is None or at_most >= len(items):
        return list(items)
    if at_most < 1:
        raise BadSettings(f"max_items {at_most} is too small", remedy="Use 1 or more")
    return [items[i * len(items) // at_most] for i in range(at_most)]


class _Text(NamedTuple):
    """A choice after its context, tokenized."""

    tokens: tuple[int, ...]  # with what stands before the text
    num_scored: int  # the last tokens, which are the choice's


@torch.inference_mode()
def answer(model: Model, codec: TextCodec, items: Sequence[Item], *, context: int, progress: Progress) -> Answers:
    """Score every choice of every item. ``context`` is what the model sees at most, in tokens.

    Texts of one length are fed together, so that nothing is padded. Raises ``BadSettings`` for an item that is too
    long, or that leaves nothing to score or nothing to predict from.
    """
    texts = [_tokenized(codec, item, choice, context) for item in items for choice in item.choices]
    likelihoods = _log_likelihoods(model, texts, progress)
    right, normalized, first = [], [], 0
    for item in items:
        found = likelihoods[first : first + len(item.choices)]
        sizes = [len(choice.encode()) for choice in item.choices]
        right.append(_is_right(found, item.answer))
        normalized.append(_is_right(found / np.array(sizes), item.answer))
        first += len(item.choices)
    return Answers(right=np.array(right), right_normalized=np.array(normalized))


def _is_right(found: NDArray[np.float64], right: int) -> float:
    """1 when the right choice is likelier than every other; a tie or what is no number is a miss."""
    return float(bool(np.all(found[right] > np.delete(found, right))))


def _tokenized(codec: TextCodec, item: Item, choice: str, context: int) -> _Text:
    """The tokens of context and choice together; the choice's are those behind as many as the context alone has."""
    lead = [] if codec.bos_token_id is None else [codec.bos_token_id]
    whole = [*lead, *codec.encode(item.context + choice, add_special_tokens=False)]
    before = len(lead) + (len(codec.encode(item.context, add_special_tokens=False)) if item.context else 0)
    if len(whole) > context:
        raise BadSettings(f"a choice has {len(whole)} tokens, the model sees {context}", remedy="Shorten the items")
    if not 1 <= before < len(whole):
        raise BadSettings(f"the choice {choice[:60]!r} has nothing to score", remedy="Give every item a context")
    return _Text(tuple(whole), len(whole) - before)


def _log_likelihoods(model: Model, texts: Sequence[_Text], progress: Progress) -> NDArray[np.float64]:
    """Of every text, in nats."""
    longest = max(len(text.tokens) for text in texts)
    score, at_once = scorer(model, longest, DEFAULT_KEYS)
    found, done = np.empty(len(texts)), 0
    order = sorted(range(len(texts)), key=lambda i: len(texts[i].tokens))
    for _, alike in groupby(order, key=lambda i: len(texts[i].tokens)):
        same = list(alike)
        for first in range(0, len(same), at_once):
            batch = same[first : first + at_once]
            found[batch] = _batch(score, [texts[i] for i in batch])
            done += len(batch)
            progress(done, len(texts))
    return found


def _batch(score: Score, texts: Sequence[_Text]) -> list[float]:
    """Log-likelihoods of texts of one length."""
    fed = torch.tensor([text.tokens for text in texts])
    length = fed.shape[1]
    ends = [(i + 1) * length - 1 for i in range(len(texts))]
    rows = torch.cat([torch.arange(end - t.num_scored, end) for end, t in zip(ends, texts, strict=True)])
    losses = losses_of(torch.cat(list(score(fed, rows))), fed.flatten()[rows + 1])
    parts = np.split(losses, np.cumsum([text.num_scored for text in texts])[:-1])
    return [-float(part.sum()) for part in parts]


def accuracy(right: NDArray[np.float64]) -> Interval:
    """The share of right answers with Wilson's 95 % interval, which holds near 0 and 1 and for few items."""
    count, share = len(right), float(right.mean())
    middle = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def contest(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> Contest:
    """Two models' right answers on the same items, (I,) each; intervals by bootstrap over items."""
    lost, won = int(((ours == 0) & (theirs == 1)).sum()), int(((ours == 1) & (theirs == 0)).sum())
    each = np.arange(len(ours))
    return Contest(
        difference=bootstrap_interval(ours - theirs, each),
        flip_rate=bootstrap_interval(np.abs(ours - theirs), each),
        num_lost=lost,
        num_won=won,
        p_value=_mcnemar(lost, won),
    )


def _mcnemar(lost: int, won: int) -> float:
    """McNemar 1947, exact and two-sided: as many flips as these, fair, would fall at least as unevenly."""
    flips, fewer = lost + won, min(lost, won)
    tail = sum(math.comb(flips, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / (1 << flips))
