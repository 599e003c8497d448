"""Requests drawn from ServeGen's profiles of clients (arXiv 2505.09999): bursty, drifting, many tenants together.

A profile tells, per window of time, a client's rate and the family and parameters of its gaps, and how often each
length occurred. Gaps keep the fitted shape and are scaled to the measured rate, which the fitted scale alone misses
where bursts are long. Lengths in and out are drawn independently: only their own frequencies are published. Of prompts
with images only the text is told.
"""

import heapq
import json
import math
import random
from ast import literal_eval
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from burnish.core.errors import BadSettings
from burnish.measure.load.traffic import Arrival, broken_line, read_text

_WINDOW_S = 600.0
_LINE = "window start, requests/s, coefficient of variation, Gamma or Weibull, shape, scale"


class _Window(NamedTuple):
    start_s: float
    rate: float
    family: str
    shape: float


class _Lengths(NamedTuple):
    """Lengths with the running sums of their frequencies."""

    values: tuple[int, ...]
    sums: tuple[float, ...]

    def draw(self, chance: random.Random) -> int:
        at = bisect_right(self.sums, chance.random() * self.sums[-1])
        return max(1, self.values[min(at, len(self.values) - 1)])


def draw_clients(path: Path, *, seed: int, start_s: float) -> Iterator[Arrival]:
    """The requests of a client, or of all clients of a folder, from ``start_s`` of their profiles on.

    Raises ``NotFound``, and ``BadSettings`` for a broken profile or one without requests from there on.
    """
    files = sorted(path.glob("*-trace.csv")) if path.is_dir() else [path]
    if not files:
        raise BadSettings(f"folder {str(path)!r} holds no *-trace.csv", remedy="Give a folder of ServeGen clients")
    clients = [_client(file, random.Random(f"{seed}:{file.name}"), start_s) for file in files]  # noqa: S311 - traffic
    drawn = heapq.merge(*clients, key=lambda arrival: arrival.at_s)
    first = next(drawn, None)
    if first is None:
        raise BadSettings(f"trace {str(path)!r} has no requests after {start_s:g} s", remedy="Begin earlier")
    yield first
    yield from drawn


def _client(file: Path, chance: random.Random, start_s: float) -> Iterator[Arrival]:
    busy = [w for w in _windows(file) if w.rate > 0 and w.start_s + _WINDOW_S > start_s]
    lengths = _Menu(file.with_name(file.name.replace("-trace.csv", "-dataset.json"))) if busy else None
    for window in busy:
        assert lengths is not None, "there are lengths where there are windows"
        prompts, outputs = lengths.at(window.start_s)
        gap = _gaps(window, chance)
        now = max(window.start_s, start_s) + gap() * chance.random()  # a window begins amid a gap
        while now < window.start_s + _WINDOW_S:
            yield Arrival(at_s=now - start_s, prompt_tokens=prompts.draw(chance), output_tokens=outputs.draw(chance))
            now += gap()


def _gaps(window: _Window, chance: random.Random) -> Callable[[], float]:
    """Draws gaps in seconds of the window's shape and rate."""
    shape, rate = window.shape, window.rate
    if window.family == "Gamma":
        return lambda: chance.gammavariate(shape, 1 / (shape * rate))
    scale = 1 / (rate * math.gamma(1 + 1 / shape))
    return lambda: chance.weibullvariate(scale, shape)


def _windows(file: Path) -> list[_Window]:
    found: list[_Window] = []
    for number, line in enumerate(read_text(file).splitlines(), 1):
        try:
            found.append(_window(line))
        except ValueError:
            raise broken_line(file, number, line, _LINE) from None
    return found


def _window(line: str) -> _Window:
    start, rate, variation, family, shape, scale = line.split(",")
    window = _Window(float(start), float(rate), family, float(shape))
    is_quiet = window.rate == 0
    figures = (window.start_s, window.rate, window.shape, float(variation), float(scale))
    if not all(0 <= figure < math.inf for figure in figures):
        raise ValueError
    if not (is_quiet or (family in ("Gamma", "Weibull") and window.shape > 0)):
        raise ValueError
    return window


class _Menu:
    """The lengths of a client, read when they are asked for: they are large."""

    def __init__(self, file: Path) -> None:
        self._file = file
        with self._refusing("is no JSON object of windows"):
            windows: dict[str, dict[str, str]] = json.loads(read_text(file))
            filled = {float(start): fields for start, fields in windows.items() if _is_filled(fields)}
            self._windows = sorted(filled.items())
            if not self._windows:
                raise ValueError

    def at(self, now: float) -> tuple[_Lengths, _Lengths]:
        """Lengths in and out, of the last window before an instant that has any, else of the first that has."""
        starts = [start for start, _ in self._windows]
        start, fields = self._windows[max(0, bisect_right(starts, now) - 1)]
        with self._refusing(f"has lengths at {start:g} s that are no {{length: frequency}}"):
            return _lengths(_prompts(fields)), _lengths(fields["output_tokens"])

    @contextmanager
    def _refusing(self, what: str) -> Iterator[None]:
        try:
            yield
        except (ValueError, TypeError, AttributeError, KeyError, SyntaxError, RecursionError):
            raise BadSettings(f"profile {str(self._file)!r} {what}", remedy="Fetch it again") from None


def _prompts(fields: Mapping[str, str]) -> str:
    return fields.get("input_tokens", fields.get("text_tokens", "{}"))


def _is_filled(fields: Mapping[str, str]) -> bool:
    return len(_prompts(fields)) > 2 and len(fields.get("output_tokens", "{}")) > 2


def _lengths(text: str) -> _Lengths:
    """Raises ``ValueError``, ``TypeError``, ``AttributeError`` or ``SyntaxError``."""
    found = {int(length): float(share) for length, share in literal_eval(text).items()}
    sums = tuple(accumulate(found.values()))
    if not (min(found.values()) >= 0 and 0 < sums[-1] < math.inf):
        raise ValueError
    return _Lengths(tuple(found), sums)
