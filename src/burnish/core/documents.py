"""Texts, chats and token ids that a user hands over: a plain text file, or JSON lines."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from burnish.core.errors import BadSettings, NotFound
from burnish.core.types import Message


class Text(NamedTuple):
    """What is to be tokenized as it is."""

    text: str


class Chat(NamedTuple):
    """What the chat template renders."""

    messages: tuple[Message, ...]


class Tokens(NamedTuple):
    """What is tokenized already."""

    ids: tuple[int, ...]


Document = Text | Chat | Tokens


def read_documents(path: Path) -> Iterator[Document]:
    """A text file as one document; of a .jsonl file one per line: ``text``, ``messages`` or ``tokens``.

    Raises ``NotFound`` or ``BadSettings`` (which line is wrong).
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFound(f"text {str(path)!r} does not exist", remedy="Check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings(f"text {str(path)!r} cannot be read: {error}", remedy="Give a UTF-8 text file") from None
    if path.suffix != ".jsonl":
        yield Text(text)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            document = _document(line)
            if document is None:
                raise BadSettings(
                    f"line {number} of {str(path)!r} is no JSON object with a text, messages or tokens",
                    remedy='Write {"text": "..."}, {"messages": [{"role": "user", "content": "..."}]} or '
                    '{"tokens": [1, 2]} per line',
                )
            yield document


def _document(line: str) -> Document | None:
    try:
        found = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    text, messages, tokens = found.get("text"), found.get("messages"), found.get("tokens")
    if isinstance(text, str):
        return Text(text)
    if isinstance(messages, list) and messages and all(_is_message(message) for message in messages):
        return Chat(tuple(Message(role=message["role"], content=message["content"]) for message in messages))
    if isinstance(tokens, list) and all(isinstance(t, int) and not isinstance(t, bool) and t >= 0 for t in tokens):
        return Tokens(tuple(tokens))
    return None


def _is_message(found: Any) -> bool:
    return isinstance(found, dict) and all(isinstance(found.get(key), str) for key in ("role", "content"))
