"""Prompt lookup: what a text says next, it may have said before (Saxena 2023, "Prompt Lookup Decoding")."""

from collections.abc import Callable, Sequence

SAME = 2  # tokens that must have been seen before in the same order
MOST_INDEXED = 4096  # tokens of a text that are indexed at once: a step must not wait for a long prompt

Note = Callable[[int, bool], None]
"""(tokens in a row that were as expected, whether the next was)"""


class Lookup:
    """Runs along a growing text at the place where it said the same before.

    What comes next there is expected to come next here. Whether it does is noted of every token, drafted or not.
    """

    def __init__(self) -> None:
        self._next: dict[tuple[int, int], int] = {}  # tokens -> the position behind their last occurrence
        self._num_seen = 0
        self._at = 0  # position of the token that is expected next; 0: none is
        self.run = 0  # tokens before it that are the same here as there, as far as known; 0: nothing is expected

    def follow(self, tokens: Sequence[int], note: Note) -> None:
        """Look at what is new of the text."""
        until = min(len(tokens), self._num_seen + MOST_INDEXED)
        for position in range(self._num_seen, until):
            if self.run:
                self._compare(tokens, position, note)
            if position >= SAME:
                self._next[tokens[position - 2], tokens[position - 1]] = position
        self._num_seen = until
        if not self.run and until == len(tokens) > SAME:
            self._at = self._next.get((tokens[-2], tokens[-1]), 0)
            self.run = SAME if self._at else 0

    def expected(self, tokens: Sequence[int], count: int) -> tuple[int, ...]:
        """So many tokens that are expected next. Those beyond the text's own end are what it would say then."""
        if not self.run:
            return ()
        period = len(tokens) - self._at
        return tuple(tokens[self._at + step % period] for step in range(count))

    def _compare(self, tokens: Sequence[int], position: int, note: Note) -> None:
        is_right = tokens[self._at] == tokens[position]
        note(self.run, is_right)
        if is_right:
            self._at += 1
            self.run += 1
        else:
            self._at = self.run = 0
