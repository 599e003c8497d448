"""Calls of functions found in an answer's text while it comes."""

import json
import re
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple
from uuid import uuid4

from burnish.core.tools import ToolStyle

LONGEST_HEAD = 4096  # characters in which a call must have told its name
_WHITE = " \t\r\n"


class Said(NamedTuple):
    """Text that is no call."""

    text: str


class Began(NamedTuple):
    """A call, the ``number``-th of the answer from 0 on."""

    number: int
    call_id: str
    name: str


class Argued(NamedTuple):
    """More of a call's arguments."""

    number: int
    text: str


Piece = Said | Began | Argued


class CallParser:
    """Parts an answer into text and calls. What cannot be a call after all is text.

    Where calls are not marked but the whole answer, only an object that names one of the ``names`` on offer is one.
    """

    def __init__(self, style: ToolStyle, names: Collection[str] = ()) -> None:
        self._style, self._names = style, frozenset(names)
        self._head = re.compile(
            rf'\s*\{{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"{style.arguments}"\s*:\s*(?=\{{)', re.DOTALL
        )
        self._state = self._at_the_beginning if style.is_whole_answer else self._in_text
        self._waiting = ""
        self._object, self._num_scanned = _Object(), 0  # the object that waits, and how far it was looked at
        self.num_calls = 0

    def push(self, text: str) -> list[Piece]:
        """What became certain with more of the answer."""
        self._waiting += text
        return self._run(is_over=False)

    def finish(self) -> list[Piece]:
        """What still waited when the answer ended."""
        return self._run(is_over=True)

    def _run(self, *, is_over: bool) -> list[Piece]:
        found, before = list[Piece](), None
        while before != (self._state, len(self._waiting)):
            before = (self._state, len(self._waiting))
            found += self._state(is_over)
        return found

    def _in_text(self, is_over: bool) -> Iterator[Piece]:
        marker = self._style.before
        at = self._waiting.find(marker)
        if at >= 0:
            yield from self._say(at)
            self._waiting = self._waiting[len(marker) :]
            self._expect_call()
            return
        kept = 0 if is_over else next(n for n in range(len(marker), -1, -1) if self._waiting.endswith(marker[:n]))
        yield from self._say(len(self._waiting) - kept)

    def _at_the_beginning(self, is_over: bool) -> Iterator[Piece]:
        """Of an answer that is a call as a whole, or none."""
        text, marker = self._waiting.lstrip(_WHITE), self._style.before
        begins = text.removeprefix(marker).lstrip(_WHITE)
        if not is_over and (not begins or (len(text) < len(marker) and marker.startswith(text))):
            return
        if begins.startswith("[" if self._style.is_list else "{"):
            self._waiting = begins[1:] if self._style.is_list else begins
            self._expect_call()
        else:
            self._state = self._in_plain_text
        yield from ()

    def _in_plain_text(self, is_over: bool) -> Iterator[Piece]:
        del is_over
        yield from self._say(len(self._waiting))

    def _expect_call(self) -> None:
        self._object, self._num_scanned = _Object(), 0
        self._state = self._in_head

    def _in_head(self, is_over: bool) -> Iterator[Piece]:
        """Up to a call's arguments."""
        begins = self._waiting.lstrip(_WHITE)[:1]
        if begins and begins != "{":
            yield from self._no_call()
            return
        match = self._head.match(self._waiting)
        if match is not None and (name := _name(match[1])) is not None and self._is_known(name):
            yield self._begin(name)
            self._waiting = self._waiting[match.end() :]
            self._object, self._state = _Object(), self._in_arguments
            return
        end = self._object.end(self._waiting[self._num_scanned :])
        whole, self._num_scanned = self._num_scanned + (end or 0), len(self._waiting)
        if end is not None:
            yield from self._unusual(whole)
        elif is_over or len(self._waiting) > LONGEST_HEAD:
            yield from self._no_call()

    def _unusual(self, whole: int) -> Iterator[Piece]:
        """A call whose keys come in another order; else text."""
        call = _call(self._waiting[:whole], self._style.arguments)
        if call is None or not self._is_known(call[0]):
            yield from self._no_call()
            return
        name, arguments = call
        yield self._begin(name)
        yield Argued(self.num_calls - 1, arguments)
        self._waiting, self._state = self._waiting[whole:], self._behind_call

    def _no_call(self) -> Iterator[Piece]:
        """What looked like one is text: all of it where calls are the whole answer, else its mark."""
        if not self._style.is_whole_answer:
            yield Said(self._style.before)
            self._state = self._in_text
            return
        if self._style.is_list and not self.num_calls:
            self._waiting = "[" + self._waiting
        self._state = self._in_plain_text

    def _is_known(self, name: str) -> bool:
        return name in self._names or not self._style.is_whole_answer

    def _in_arguments(self, is_over: bool) -> Iterator[Piece]:
        del is_over
        end = self._object.end(self._waiting)
        taken = len(self._waiting) if end is None else end
        if taken:
            yield Argued(self.num_calls - 1, self._waiting[:taken])
        self._waiting = self._waiting[taken:]
        if end is not None:
            self._state = self._at_call_end

    def _at_call_end(self, is_over: bool) -> Iterator[Piece]:
        """The brace that closes the call; some models forget it."""
        rest = self._waiting.lstrip(_WHITE)
        if rest or is_over:
            self._waiting, self._state = rest.removeprefix("}"), self._behind_call
        yield from ()

    def _behind_call(self, is_over: bool) -> Iterator[Piece]:
        """What parts a call from the next."""
        rest = self._waiting.lstrip(_WHITE)
        if self._style.after:
            if rest.startswith(self._style.after):
                self._waiting, self._state = rest[len(self._style.after) :].lstrip(_WHITE), self._between_calls
            elif is_over or not self._style.after.startswith(rest):
                self._state = self._in_text
        elif rest:
            self._waiting = rest[1:] if rest[0] in ",;]" else rest
            if rest[0] in ",;{":
                self._expect_call()
            else:
                self._state = self._in_plain_text
        yield from ()

    def _between_calls(self, is_over: bool) -> Iterator[Piece]:
        """White space between two calls says nothing."""
        self._waiting = self._waiting.lstrip(_WHITE)
        if self._waiting or is_over:
            self._state = self._in_text
        yield from ()

    def _begin(self, name: str) -> Began:
        self.num_calls += 1
        return Began(self.num_calls - 1, f"call_{uuid4().hex[:24]}", name)

    def _say(self, count: int) -> Iterator[Piece]:
        if count:
            yield Said(self._waiting[:count])
            self._waiting = self._waiting[count:]


class _Object:
    """Finds where a JSON object ends that comes in pieces."""

    def __init__(self) -> None:
        self._depth, self._in_string, self._is_escaped = 0, False, False

    def end(self, text: str) -> int | None:
        """Characters of this piece up to the end; None: it goes on."""
        for at, character in enumerate(text, 1):
            if self._is_escaped:
                self._is_escaped = False
            elif self._in_string:
                self._is_escaped, self._in_string = character == "\\", character != '"'
            elif character == '"':
                self._in_string = True
            else:
                self._depth += (character in "{[") - (character in "}]")
                if not self._depth and character in "}]":
                    return at
        return None


def _call(text: str, key: str) -> tuple[str, str] | None:
    """Name and arguments of a call; None where a text is none."""
    try:
        call: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str) or key not in call:
        return None
    arguments = call[key]
    return call["name"], arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _name(quoted: str) -> str | None:
    try:
        name: Any = json.loads(quoted)
    except ValueError:
        return None
    return name if isinstance(name, str) else None
