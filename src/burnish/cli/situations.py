"""Situations as users describe them on the command line: a trace, or so many requests of one length at a time."""

from itertools import islice
from pathlib import Path
from typing import NamedTuple

from burnish.core.errors import BadSettings
from burnish.measure.diagnose.observe import Lengths, Situation
from burnish.measure.load.arrivals import read_traffic

REQUESTS_PER_USER = 4
FROM_TRACE = 32  # requests of a trace, unless told otherwise
BUSY = 8  # requests of a trace at a time, where its times do not count
PROMPT_TOKENS, OUTPUT_TOKENS = 128, 32


class Described(NamedTuple):
    """What a user said; None: nothing."""

    traffic: Path | None = None
    concurrency: int | None = None
    requests: int | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None


class Fitted(NamedTuple):
    """A situation, and how many of its requests were cut to what the model can see."""

    situation: Situation
    num_cut: int


def situation_of(
    said: Described, max_positions: int, *, timed: bool = False, speed: float = 1.0, temperature: float = 0.0
) -> Fitted:
    """The situation for a model of that context. ``timed``: the requests of a trace come at its times, over ``speed``.

    Raises ``BadSettings`` for words that contradict each other or mean nothing, and for a trace that cannot be read.
    """
    if said.traffic is not None and (said.prompt_tokens is not None or said.output_tokens is not None):
        raise BadSettings("--traffic already says how long requests are", remedy="Leave one of them out")
    if timed and said.traffic is not None and said.concurrency is not None:
        raise BadSettings("--traffic already says when requests come", remedy="Leave --concurrency out")
    for name in ("requests", "prompt_tokens", "output_tokens"):
        value = getattr(said, name)
        if value is not None and value < 1:
            raise BadSettings(f"--{name.replace('_', '-')} {value} is wrong", remedy="Use 1 or more")
    if not speed > 0:
        raise BadSettings(f"--speed {speed} is wrong", remedy="Use more than 0")
    users = said.concurrency if said.concurrency is not None else (1 if said.traffic is None else BUSY)
    at_s: tuple[float, ...] | None = None
    if said.traffic is None:
        wanted = Lengths(said.prompt_tokens or PROMPT_TOKENS, said.output_tokens or OUTPUT_TOKENS)
        lengths = (wanted,) * (said.requests or max(1, users) * REQUESTS_PER_USER)
    else:
        arrivals = list(islice(read_traffic(said.traffic), said.requests or FROM_TRACE))
        lengths = tuple(Lengths(arrival.prompt_tokens, arrival.output_tokens) for arrival in arrivals)
        at_s = tuple((arrival.at_s - arrivals[0].at_s) / speed for arrival in arrivals) if timed else None
    fitted = tuple(_fitted(one, max_positions) for one in lengths)
    num_cut = sum(a != b for a, b in zip(lengths, fitted, strict=True))
    situation = Situation(requests=fitted, concurrency=users, at_s=at_s, temperature=temperature)
    return Fitted(situation, num_cut)


def _fitted(wanted: Lengths, max_positions: int) -> Lengths:
    """Lengths that the context holds, both cut in proportion."""
    total = sum(wanted)
    if total <= max_positions:
        return wanted
    output = max(1, wanted.output_tokens * max_positions // total)
    return Lengths(max(1, min(wanted.prompt_tokens, max_positions - output)), output)
