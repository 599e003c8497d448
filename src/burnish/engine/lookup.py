"""Prompt lookup: what a text says next, it may have said before (Saxena 2023, "Prompt Lookup Decoding")."""

from collections.abc import Sequence

LONGEST, SHORTEST = 4, 2  # tokens that must have been seen before in the same order
MOST_INDEXED = 4096  # tokens of a text that are indexed at once: a step must not wait for a long prompt


class Lookup:
    """The places of short runs of tokens in a growing text."""

    def __init__(self) -> None:
        self._next: dict[tuple[int, ...], int] = {}  # a run of tokens -> the position behind its last occurrence
        self._indexed = 0  # tokens whose runs, ending there, are known

    def find(self, tokens: Sequence[int], count: int) -> tuple[int, ...]:
        """At most so many tokens that followed the longest run the text ends with, where it occurred last before."""
        self._index(tokens)
        for length in range(min(LONGEST, len(tokens) - 1), SHORTEST - 1, -1):
            at = self._next.get(tuple(tokens[-length:]))
            if at is not None:
                return tuple(tokens[at : at + count])
        return ()

    def _index(self, tokens: Sequence[int]) -> None:
        """All runs that something follows."""
        until = min(len(tokens), self._indexed + MOST_INDEXED)
        for end in range(self._indexed, until - 1):
            for length in range(SHORTEST, min(LONGEST, end + 1) + 1):
                self._next[tuple(tokens[end + 1 - length : end + 1])] = end + 1
        self._indexed = max(self._indexed, until - 1)
