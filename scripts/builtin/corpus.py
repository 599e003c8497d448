"""The training and held-out documents of the built-in model.

A document is a tale, a chapter, a short story, an article or a scene. Whole books and the last 5 % of every other
text are held out, and training documents that share a run of twelve words with them are dropped; WikiText-2 is read
only to keep articles that quote it out of training.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

HELD_OUT_BOOKS = (
    "anna-sewell_black-beauty",
    "kenneth-grahame_the-wind-in-the-willows",
    "oscar-wilde_childrens-stories",
)
HELD_OUT_SHARE = 0.05
SOURCES = ("books", "tinystories", "wikipedia", "shakespeare")
SHINGLE_WORDS = 12
_ARTICLE = re.compile(r'<doc id="\d+" url="[^"]*" title="([^"]*)">\n(.*?)</doc>', re.DOTALL)
_MIN_TALE = 400  # characters; a shorter piece belongs to the one after it
_MIN_ARTICLE = 200
_SCENE = 4000


@dataclass(frozen=True, kw_only=True)
class Document:
    """One text that begins and ends by itself."""

    source: str  # one of SOURCES
    name: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Documents for training and documents no training step ever sees."""

    train: tuple[Document, ...]
    held_out: tuple[Document, ...]


def read_corpus(folder: Path) -> Corpus:
    """Read every text under ``folder`` (the layout of shared/data/text) and split it."""
    benchmark = shingles(path.read_text(encoding="utf-8") for path in sorted(folder.glob("wikitext-2/*.txt")))
    train: list[Document] = []
    held_out: list[Document] = []
    for document in _books(folder / "public-domain-stories"):
        (held_out if document.name.split("/")[0] in HELD_OUT_BOOKS else train).append(document)
    for documents in (_tinystories(folder), _articles(folder, benchmark), _scenes(folder)):
        kept = list(documents)
        first_held = len(kept) - round(len(kept) * HELD_OUT_SHARE)
        train += kept[:first_held]
        held_out += kept[first_held:]
    return Corpus(train=tuple(_without_shared_passages(train, held_out)), held_out=tuple(held_out))


def _without_shared_passages(train: list[Document], held_out: list[Document]) -> Iterator[Document]:
    """Drop training documents (mostly articles of one mould) that quote a held-out one."""
    hidden = shingles(document.text for document in held_out)
    return (document for document in train if hidden.isdisjoint(shingles([document.text])))


def shingles(texts: Iterable[str]) -> frozenset[int]:
    """Hashes of all runs of ``SHINGLE_WORDS`` lower-case words, for finding shared passages."""
    found: set[int] = set()
    for text in texts:
        words = re.findall(r"[a-z]+", text.replace("<unk>", " ").lower())
        found.update(hash(tuple(words[i : i + SHINGLE_WORDS])) for i in range(len(words) - SHINGLE_WORDS + 1))
    return frozenset(found)


def tales(text: str) -> Iterator[str]:
    """Cut a book before its titles and chapter headings; pieces under 400 characters join the next."""
    piece: list[str] = []
    size = 0
    for paragraph in text.strip().split("\n\n"):
        if size >= _MIN_TALE and _is_title(paragraph):
            yield "\n\n".join(piece)
            piece, size = [], 0
        piece.append(paragraph)
        size += len(paragraph)
    yield "\n\n".join(piece)


def _is_title(paragraph: str) -> bool:
    return (
        3 <= len(paragraph) < 80
        and "\n" not in paragraph
        and (paragraph[0].isupper() or paragraph[0].isdigit())
        and paragraph[-1] not in ".,;:-!\"')]"
    )


def _books(folder: Path) -> Iterator[Document]:
    for path in sorted(folder.glob("*.txt")):
        if path.name == "README.txt":
            continue
        for number, tale in enumerate(tales(path.read_text(encoding="utf-8"))):
            yield Document(source="books", name=f"{path.stem}/{number}", text=tale)


def _tinystories(folder: Path) -> Iterator[Document]:
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("tinystories/*.txt")))
    stories = dict.fromkeys(story.strip() for story in text.split("<|endoftext|>"))
    for number, story in enumerate(story for story in stories if story):
        yield Document(source="tinystories", name=f"tinystories/{number}", text=story)


def _articles(folder: Path, benchmark: frozenset[int]) -> Iterator[Document]:
    for path in sorted(folder.glob("wikipedia-excerpt/*.utf8")):
        for title, text in _ARTICLE.findall(path.read_text(encoding="utf-8")):
            article = text.strip()
            if len(article) >= _MIN_ARTICLE and benchmark.isdisjoint(shingles([article])):
                yield Document(source="wikipedia", name=f"wikipedia/{title}", text=article)


def _scenes(folder: Path) -> Iterator[Document]:
    """Shakespeare in pieces of about 4,000 characters, cut between speeches."""
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("tinyshakespeare/*.txt")))
    piece, number = "", 0
    for speech in text.strip().split("\n\n"):
        piece = f"{piece}\n\n{speech}" if piece else speech
        if len(piece) >= _SCENE:
            yield Document(source="shakespeare", name=f"shakespeare/{number}", text=piece)
            piece, number = "", number + 1
    if piece:
        yield Document(source="shakespeare", name=f"shakespeare/{number}", text=piece)
