"""Requests made ready before they are due: a long prompt takes milliseconds to write."""

import time
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

_MOST_READY = 128
_MARGIN_S = 0.01  # nothing is made ready so shortly before a request is due


class Ready(NamedTuple):
    """A request that only waits to be due."""

    number: int
    at_s: float
    body: bytes


class Ahead:
    """The first requests are ready at once, later ones as there is time."""

    def __init__(self, ready: Iterator[Ready]) -> None:
        self._later = ready
        self._ready = deque(islice(ready, _MOST_READY))

    def next(self) -> Ready | None:
        """The next request; None when there are no more."""
        return self._ready.popleft() if self._ready else next(self._later, None)

    def fill(self, *, until_s: float) -> None:
        """Make requests ready as long as an instant of the monotonic clock is not near."""
        while len(self._ready) < _MOST_READY and time.monotonic() < until_s - _MARGIN_S:
            found = next(self._later, None)
            if found is None:
                return
            self._ready.append(found)
