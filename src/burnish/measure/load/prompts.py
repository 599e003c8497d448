"""Prompts of a wanted length, made of common words; equal prefix ids give equal text."""

import random
from functools import cache
from typing import NamedTuple

from burnish.measure.load.traffic import Arrival

_TEXT = (
    "the and a to was he it she said in with they his her you on had day for that little of one is at from up very "
    "big not saw then but so all were went there house time tree dog happy good play home mother water friend old "
    "sun red away again man looked"
)
_WORDS = _TEXT.split()


_POOL_WORDS = 1 << 14
_OWN_WORDS = 8  # 56 ** 8 beginnings: no two prompts share one by chance


class PromptWriter(NamedTuple):
    """Writes prompts for a server on which ``words`` of them are ``overhead + tokens_per_word * words`` tokens."""

    tokens_per_word: float = 1.0
    overhead: float = 0.0

    def write(self, arrival: Arrival, number: int, *, seed: int) -> str:
        """The prompt of a request; what no prefix id covers is of this ``number`` and ``seed`` alone."""
        num_words = max(1, round((arrival.prompt_tokens - self.overhead) / self.tokens_per_word))
        per_block = max(1, round(arrival.block_tokens / self.tokens_per_word))
        words: list[str] = []
        for prefix_id in arrival.prefix_ids:
            words += _words(f"{seed}:block:{prefix_id}", per_block)
        if len(words) < num_words:
            words += _words(f"{seed}:own:{number}", num_words - len(words))
        return " ".join(words[:num_words])


def _words(seed: str, count: int) -> list[str]:
    """Words of a seed alone. All but the first are cut from a pool: a client that draws each would stall its clock."""
    chance = random.Random(seed)  # noqa: S311 - prompts, not secrets
    found = chance.choices(_WORDS, k=min(count, _OWN_WORDS))
    while len(found) < count:
        start = chance.randrange(_POOL_WORDS)
        found += _pool()[start : start + count - len(found)]
    return found


@cache
def _pool() -> list[str]:
    return random.Random("pool").choices(_WORDS, k=_POOL_WORDS)  # noqa: S311
