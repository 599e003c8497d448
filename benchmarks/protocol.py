"""What the driver and a worker say to each other: a JSON object a line, one answer to every order.

Runs in every peer's environment, so it knows only the standard library.

    driver  {"load": {"model": "PATH", "variant": "q4_0", "threads": 2, "started": 12.5}}
    worker  {"ready_s": 1.9, "peak_rss_bytes": 731000000, "read_bytes": 618000000}
    driver  {"generate": {"prompts": [[5, 17, ...], ...], "new_tokens": 24}}
    worker  {"token_s": [[0.9, 0.95, ...], ...], "peak_rss_bytes": 731000000}
    worker  {"error": "why not"}
"""

import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

Prompts = list[list[int]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """Load a model; ``started`` is when the process was asked for, on the clock of ``time.monotonic``."""

    model: str
    variant: str
    threads: int
    started: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Generate:
    """Continue all prompts together, greedily, by exactly ``new_tokens`` tokens each."""

    prompts: Prompts
    new_tokens: int


class Ready(NamedTuple):
    """A loaded model. ``read_bytes`` are the weights that one decoded token reads, None where nobody knows."""

    ready_s: float  # from the start of the process to the first token of a tiny request
    peak_rss_bytes: int
    read_bytes: int | None


class Generated(NamedTuple):
    """Seconds from the order to each token, per prompt."""

    token_s: list[list[float]]
    peak_rss_bytes: int


class Generator(Protocol):
    """A peer with a model loaded."""

    def generate(self, prompts: Prompts, new_tokens: int, arrived: "Arrivals") -> None:
        """Continue the prompts and note every token as it comes."""
        ...

    def read_bytes(self) -> int | None:
        """Bytes of weights that one decoded token reads."""
        ...


class Arrivals:
    """When the tokens of each prompt came, in seconds since this was made or restarted."""

    def __init__(self, num_prompts: int) -> None:
        self.token_s: list[list[float]] = [[] for _ in range(num_prompts)]
        self._start = time.monotonic()

    def restart(self) -> None:
        """Whatever was done until now was not part of the order, such as making an empty cache."""
        self._start = time.monotonic()

    def note(self, prompt: int, num_tokens: int = 1) -> None:
        """Tokens of one prompt came now."""
        self.token_s[prompt] += [time.monotonic() - self._start] * num_tokens

    def note_all(self) -> None:
        """One token of every prompt came now."""
        now = time.monotonic() - self._start
        for times in self.token_s:
            times.append(now)


def write_order(pipe: IO[str], order: Load | Generate) -> None:
    """Send an order."""
    word = "load" if isinstance(order, Load) else "generate"
    pipe.write(json.dumps({word: asdict(order)}) + "\n")
    pipe.flush()


def serve(load: Callable[[Load], Generator]) -> None:
    """Answer orders from stdin until it closes. What the peer's library prints goes to stderr."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        generator: Generator | None = None
        for line in sys.stdin:
            order = json.loads(line)
            try:
                if "load" in order:
                    generator, reply = _loaded(load, Load(**order["load"]))
                else:
                    assert generator is not None, "a model is loaded first"
                    reply = _generated(generator, Generate(**order["generate"]))
            except Exception as error:
                reply = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
            answers.write(json.dumps(reply) + "\n")
            answers.flush()


def _loaded(load: Callable[[Load], Generator], order: Load) -> tuple[Generator, dict[str, Any]]:
    generator = load(order)
    generator.generate([[3, 4]], 1, Arrivals(1))
    ready = Ready(time.monotonic() - order.started, peak_rss_bytes(), generator.read_bytes())
    return generator, ready._asdict()


def _generated(generator: Generator, order: Generate) -> dict[str, Any]:
    arrivals = Arrivals(len(order.prompts))
    generator.generate(order.prompts, order.new_tokens, arrivals)
    check(arrivals.token_s, order)
    return Generated(arrivals.token_s, peak_rss_bytes())._asdict()


def check(token_s: Sequence[Sequence[float]], order: Generate) -> None:
    """Raise ``ValueError`` when a prompt was not continued by exactly as much as was ordered."""
    counts = sorted({len(times) for times in token_s})
    if len(token_s) != len(order.prompts) or counts != [order.new_tokens]:
        raise ValueError(f"{len(token_s)} prompts got {counts} tokens, not {order.new_tokens} each")


def peak_rss_bytes() -> int:
    """The most memory this process has had resident, from VmHWM."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None, "Linux writes VmHWM"
    return int(found[1]) * 1024
