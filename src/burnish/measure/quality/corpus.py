"""A text to measure by, and where its documents begin."""

import re
from collections.abc import Callable
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple

from burnish.core.documents import Text, read_documents
from burnish.core.errors import BadSettings

_GAP = "\n\n"  # between the documents of a .jsonl file
# where a document begins in a plain text file; the first mark a text has is the one it uses
_MARKS = (
    re.compile(r"<\|endoftext\|>\s*"),  # TinyStories: behind its separator
    re.compile(r"^(?=<doc )", re.MULTILINE),  # Wikipedia extracts
    re.compile(r"^(?= ?= [^=\n]+ = ?$)", re.MULTILINE),  # WikiText: titles of articles, not of their sections
)


class Corpus(NamedTuple):
    """A text and the indices of the characters at which its documents begin, the first of them 0."""

    text: str
    starts: tuple[int, ...] = (0,)


def read_corpus(path: Path) -> Corpus:
    """A text file, or the ``text`` fields of a .jsonl file with a blank line between documents.

    Documents of a text file are told by a separator ``<|endoftext|>``, lines ``<doc ...>`` or titles ``= Title =``;
    blank lines part paragraphs and do not count. Raises as ``read_documents``, and ``BadSettings`` for documents that
    are no texts.
    """
    texts = []
    for document in read_documents(path):
        if not isinstance(document, Text):
            raise BadSettings(f"{str(path)!r} holds chats or token ids", remedy='Give {"text": "..."} per line')
        texts.append(document.text)
    if path.suffix != ".jsonl":
        return Corpus(texts[0], _marked(texts[0]))
    lengths = [len(text) + len(_GAP) for text in texts]
    return Corpus(_GAP.join(texts), tuple(accumulate(lengths[:-1], initial=0)))


def document_of(corpus: Corpus, tokens: list[int], length: Callable[[int], int]) -> tuple[int, ...]:
    """The document of every token: the one its first byte lies in. ``length`` of a token is that of its piece, bytes.

    Where a tokenizer changes the text (a space put before it, Unicode normalized) its pieces are longer or shorter
    than the text by a little, and the borders move in proportion.
    """
    if len(corpus.starts) == 1:
        return (0,) * len(tokens)
    borders = [0, *corpus.starts[1:], len(corpus.text)]
    sizes = [len(corpus.text[a:b].encode()) for a, b in pairwise(borders)]
    *places, total = accumulate(map(length, tokens), initial=0)
    scale = total / max(sum(sizes), 1)
    ends = [end * scale for end in accumulate(sizes)]
    found, document = [], 0
    for place in places:
        while place >= ends[document] and document < len(ends) - 1:
            document += 1
        found.append(document)
    return tuple(found)


def _marked(text: str) -> tuple[int, ...]:
    for mark in _MARKS:
        starts = {found.end() for found in mark.finditer(text) if text[: found.end()].strip()} - {len(text)}
        if starts:
            return (0, *sorted(starts))
    return (0,)
