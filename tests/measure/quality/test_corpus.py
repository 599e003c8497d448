"""Where documents begin, by the marks of the formats they come in, and which tokens are theirs."""

import json
from pathlib import Path

import pytest

from burnish.measure.quality.corpus import Corpus, document_of, read_corpus


@pytest.mark.parametrize(
    ("text", "beginnings"),
    [
        ("One day.\n<|endoftext|>\nTwo days.\n<|endoftext|>\nThree.", ["One", "Two", "Three"]),
        ("One day.\n<|endoftext|>\n", ["One"]),
        ('<doc id="1">\nA\n</doc>\n<doc id="2">\nB\n</doc>\n', ["<doc id", "<doc id"]),
        (" \n = First = \n \n text \n = = Section = = \n text \n = Second = \n more", [" \n = First", " = Second"]),
        ("A paragraph.\n\nAnother.\n\n\nA third.", ["A para"]),
        ("", [""]),
    ],
)
def test_documents_of_a_text_file(tmp_path: Path, text: str, beginnings: list[str]) -> None:
    path = tmp_path / "text.txt"
    path.write_text(text)
    corpus = read_corpus(path)
    assert corpus.text == text
    assert len(corpus.starts) == len(beginnings)
    assert all(text[at:].startswith(words) for at, words in zip(corpus.starts, beginnings, strict=True))


def test_documents_of_json_lines(tmp_path: Path) -> None:
    path, texts = tmp_path / "a.jsonl", ["first", "sécond", "third"]
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    corpus = read_corpus(path)
    assert [corpus.text[at:].split("\n")[0] for at in corpus.starts] == texts


def test_tokens_belong_where_their_first_byte_lies() -> None:
    corpus = Corpus("aébbcc", (0, 2, 4))  # 3, 2 and 2 bytes
    assert document_of(corpus, [1, 2, 2, 1, 1], lambda size: size) == (0, 0, 1, 2, 2)
    assert document_of(corpus, [2, 4, 4, 2, 2], lambda size: size) == (0, 0, 1, 2, 2), "in proportion"
    assert document_of(Corpus("abc"), [1, 1, 1], lambda size: size) == (0, 0, 0)
