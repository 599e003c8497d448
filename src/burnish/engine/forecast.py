"""When a request's first token would come, by how fast the engine reads prompts and how often a place gets free."""

from typing import NamedTuple

FRESH = 0.1  # weight of a new measurement


class Ahead(NamedTuple):
    """What would be served before a request's first token."""

    tokens: int  # of prompts, its own included
    requests: int  # that wait, itself included
    places: int  # in which one could run at once


class Forecast:
    """Learns from steps and ends; says nothing before it has seen both."""

    def __init__(self) -> None:
        self._read_per_s = self._end_s = 0.0  # tokens; seconds between two ends
        self._last_end_s: float | None = None

    def read(self, tokens_per_s: float) -> None:
        """A step that read prompts did so at that speed."""
        if tokens_per_s > 0:
            self._read_per_s += (tokens_per_s - self._read_per_s) * (FRESH if self._read_per_s else 1.0)

    def ended(self, now_s: float, *, was_full: bool) -> None:
        """A request ended; ``was_full``: others waited for its place."""
        if was_full and self._last_end_s is not None:
            self._end_s += (now_s - self._last_end_s - self._end_s) * (FRESH if self._end_s else 1.0)
        self._last_end_s = now_s if was_full else None

    def first_token_s(self, ahead: Ahead) -> float:
        """Seconds until the first token: until what is ahead is read, or until a place is free, whichever is later.

        0 where nothing is known yet.
        """
        reading = ahead.tokens / self._read_per_s if self._read_per_s else 0.0
        return max(reading, max(0, ahead.requests - ahead.places) * self._end_s)
