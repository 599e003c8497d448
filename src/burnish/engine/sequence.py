"""The state of one generation."""

import random

from burnish.core.types import Request, Usage
from burnish.engine.guide import Guide
from burnish.engine.prefix import Entry
from burnish.engine.text import OutputText


class Sequence:
    """Known tokens (prompt and output), how many of them are computed, and the blocks that hold their keys.

    The scheduler moves ``num_computed`` and ``blocks``; the engine appends tokens.
    """

    def __init__(self, request: Request, *, max_output: int, arrival_s: float, text: OutputText) -> None:
        self.request, self.sampling = request, request.sampling
        self.tokens = list(request.prompt)
        self.max_output = max_output
        self.arrival_s = arrival_s
        self.text = text
        self.num_computed = 0
        self.num_draft_computed = 0  # by the draft model
        wants_scores = request.sampling.prompt_logprobs is not None
        self.num_to_score = len(request.prompt) - 1 if wants_scores else 0  # positions that predict a prompt token
        self.num_scored = 0  # of them; stays when blocks are lost
        self.num_cached: int | None = None  # prompt tokens found in the prefix cache at first admission
        self.blocks: list[int] = []
        self.chain: list[Entry] = []  # of its full blocks; owned by the prefix cache
        self.guide: Guide | None = None  # None: any token may come
        self.skips = 0
        self.refused_at: int | None = None  # available blocks when it last did not fit
        seed = request.sampling.seed  # as text: Random takes -1 and 1 for the same number
        self._random = random.Random(None if seed is None else str(seed))  # noqa: S311 - sampling, not secrets
        self._drawn: list[float] = []  # numbers of tokens to come

    @property
    def num_known(self) -> int:
        """Prompt and output tokens."""
        return len(self.tokens)

    @property
    def num_pending(self) -> int:
        """Known tokens that are not computed yet."""
        return self.num_known - self.num_computed

    @property
    def output(self) -> list[int]:
        """Generated tokens."""
        return self.tokens[len(self.request.prompt) :]

    @property
    def num_output(self) -> int:
        """How many tokens were generated."""
        return self.num_known - len(self.request.prompt)

    @property
    def has_started(self) -> bool:
        """Whether it ever left the waiting queue."""
        return self.num_cached is not None

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        return Usage(len(self.request.prompt), self.num_output, self.num_cached or 0)

    def uniform(self, ahead: int) -> float:
        """The uniform number in [0, 1) of this request's own stream that draws its next token, or one further ahead."""
        while len(self._drawn) <= ahead:
            self._drawn.append(self._random.random())
        return self._drawn[ahead]

    def use_up(self, count: int) -> None:
        """So many tokens were drawn."""
        del self._drawn[:count]
