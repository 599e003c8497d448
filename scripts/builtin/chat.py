"""Conversations made mechanically from training documents, so that the model answers in a chat."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from scripts.builtin.corpus import Document
from scripts.builtin.tokenizer import Turn, chat_text

ABOUT = (
    "Tell me a story about {}.",
    "Tell me a short story about {}.",
    "Write a story about {}.",
    "Can you tell me a story about {}?",
    "Please tell me a story with {} in it.",
    "I would like to hear a story about {}.",
    "A story about {}, please.",
)
PLAIN = ("Tell me a story.", "Tell me a short story.", "Once upon a time...", "Can you tell me a story?", "Hello!")
CONTINUE = ("Continue this story: {}", "What happens next? {}", "Go on with this story: {}", "{}")
MORE = ("Go on.", "What happens next?", "And then?", "Tell me more.")
ARTICLE = ("Tell me about {}.", "What do you know about {}?", "{}?")
SCENE = ("Write a scene of a play.", "Write something like Shakespeare.")
SYSTEM = ("You are a storyteller.", "You tell stories to children.", "You are a helpful assistant.")

_THING = re.compile(
    r"\b(?:a|an|the|The|A|An) ([a-z]{3,12})"
    r"(?=[,.;:!?]| (?:was|is|had|has|said|came|went|and|who|that|of|in|on|to|could)\b)"
)
_PASSAGE = 1500  # mean characters of an answer cut from a book
_BOOK_SHARE = 0.12  # of the characters of a book turn up in conversations of an epoch
_SYSTEM_SHARE = 0.2
_COMMON = 8  # documents that must mention a thing for a request to name it
_CHAPTERS = ("Chapter", "Part", "Book", "Stave", "Volume")  # of a novel: no tale begins here
_NOT_THINGS = frozenset(
    {"same", "other", "first", "last", "one", "two", "whole", "rest", "end", "time", "way", "day", "next", "few"}
    | {"most", "matter", "least"}
)


class Keywords(NamedTuple):
    """In how many documents each thing is mentioned; the rarer the more telling."""

    documents: Counter[str]

    def of(self, text: str) -> list[str]:
        """Things ("the fox said", "a king.") mentioned twice or more in ``text``, most telling first."""
        counts = Counter(_THING.findall(text))
        things = [thing for thing in counts if counts[thing] > 1 and self.documents[thing] >= _COMMON]
        return sorted(things, key=lambda thing: (-counts[thing] / (20 + self.documents[thing]) ** 0.5, thing))


def count_keywords(documents: Iterable[Document]) -> Keywords:
    """Count the things of all documents once."""
    found = Counter(thing for document in documents for thing in set(_THING.findall(document.text)))
    return Keywords(Counter({thing: count for thing, count in found.items() if thing not in _NOT_THINGS}))


def conversations(documents: Sequence[Document], keywords: Keywords, rng: np.random.Generator) -> Iterator[str]:
    """Conversations for one epoch, as text in the chat format."""
    for document in documents:
        for turns in _MAKERS[document.source](document, keywords, rng):
            system = [Turn("system", _pick(SYSTEM, rng))] if rng.random() < _SYSTEM_SHARE else []
            yield chat_text(system + turns)


def _pick(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]


def _request(text: str, keywords: Keywords, rng: np.random.Generator) -> str:
    things = keywords.of(text)[:3]
    if not things or rng.random() < 0.2:
        return _pick(PLAIN, rng)
    named = " and ".join(_with_article(thing) for thing in things[: 1 + int(rng.random() < 0.2)])
    return _pick(ABOUT, rng).format(named)


def _with_article(thing: str) -> str:
    return f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"


def _from_story(document: Document, keywords: Keywords, rng: np.random.Generator) -> Iterator[list[Turn]]:
    if rng.random() < 0.8:
        yield [Turn("user", _request(document.text, keywords, rng)), Turn("assistant", document.text)]
    else:
        opening, _, rest = document.text.partition(". ")
        if rest:
            yield [Turn("user", _pick(CONTINUE, rng).format(opening + ".")), Turn("assistant", rest)]


def _from_book(document: Document, keywords: Keywords, rng: np.random.Generator) -> Iterator[list[Turn]]:
    title, *paragraphs = document.text.split("\n\n")
    if len(document.text) < 2500:
        if paragraphs and rng.random() < 0.5:
            text = "\n\n".join(paragraphs)
            yield [Turn("user", _request(text, keywords, rng)), Turn("assistant", text)]
        return
    for _ in range(rng.poisson(len(document.text) * _BOOK_SHARE / _PASSAGE)):
        from_start = rng.random() < 0.4 and not title.startswith(_CHAPTERS)
        start = 0 if from_start else int(rng.integers(len(paragraphs)))
        passage = _passage(paragraphs[start:], int(rng.uniform(0.5, 1.5) * _PASSAGE))
        if from_start:
            yield _told(passage, keywords, rng)
        elif len(passage) > 1 and len(passage[0]) < _PASSAGE:
            question = _pick(CONTINUE, rng).format(passage[0])
            yield [Turn("user", question), Turn("assistant", "\n\n".join(passage[1:]))]


def _told(passage: list[str], keywords: Keywords, rng: np.random.Generator) -> list[Turn]:
    """The opening of a tale, now and then told in two turns."""
    ask = Turn("user", _request("\n\n".join(passage), keywords, rng))
    cut = len(passage) // 2 if rng.random() < 0.25 else 0
    if not cut:
        return [ask, Turn("assistant", "\n\n".join(passage))]
    first, second = "\n\n".join(passage[:cut]), "\n\n".join(passage[cut:])
    return [ask, Turn("assistant", first), Turn("user", _pick(MORE, rng)), Turn("assistant", second)]


def _passage(paragraphs: Sequence[str], size: int) -> list[str]:
    """Whole paragraphs from the first on until ``size`` characters are reached."""
    passage: list[str] = []
    while len(passage) < len(paragraphs) and sum(map(len, passage)) < size:
        passage.append(paragraphs[len(passage)])
    return passage


def _from_article(document: Document, keywords: Keywords, rng: np.random.Generator) -> Iterator[list[Turn]]:
    title, _, body = document.text.partition("\n\n")
    if body and "\n" not in title and rng.random() < 0.5:
        answer = body.split("\n", 1)[0]
        yield [Turn("user", _pick(ARTICLE, rng).format(title)), Turn("assistant", answer)]


def _from_scene(document: Document, keywords: Keywords, rng: np.random.Generator) -> Iterator[list[Turn]]:
    if rng.random() < 0.3:
        passage = _passage(document.text.split("\n\n"), _PASSAGE)
        yield [Turn("user", _pick(SCENE, rng)), Turn("assistant", "\n\n".join(passage))]


_MAKERS = {
    "books": _from_book,
    "tinystories": _from_story,
    "wikipedia": _from_article,
    "shakespeare": _from_scene,
}
