"""What is asked of every peer, and what the times of the tokens say."""

import random
from collections.abc import Sequence
from typing import Literal, NamedTuple

from benchmarks.protocol import Generate, Prompts

FIRST_ID = 3  # ids below are special


class Workload(NamedTuple):
    """Prompts that arrive together; "prefill" counts their tokens, "decode" those written once all have begun."""

    name: str
    title: str
    measures: Literal["prefill", "decode"]
    num_prompts: int
    prompt_tokens: int
    new_tokens: int


WORKLOADS = (
    Workload("prefill-128", "prefill 128", "prefill", 1, 128, 1),
    Workload("prefill-512", "prefill 512", "prefill", 1, 512, 1),
    Workload("decode-1", "decode", "decode", 1, 128, 64),
    Workload("decode-16", "decode, 16 together", "decode", 16, 64, 24),
)


def order(workload: Workload, vocab_size: int, source: random.Random) -> Generate:
    """Random prompts, never the same again."""
    prompts: Prompts = [
        [source.randrange(FIRST_ID, vocab_size) for _ in range(workload.prompt_tokens)]
        for _ in range(workload.num_prompts)
    ]
    return Generate(prompts=prompts, new_tokens=workload.new_tokens)


def tokens_per_s(workload: Workload, token_s: Sequence[Sequence[float]]) -> float:
    """The figure of one run.

    Prefill lasts from the order to the last of the first tokens, decode from there to the last token of all. What an
    early prompt writes while a late one is read is in neither count.
    """
    begun = max(times[0] for times in token_s)
    if workload.measures == "prefill":
        return workload.num_prompts * workload.prompt_tokens / begun
    written = sum(time > begun for times in token_s for time in times)
    return written / (max(times[-1] for times in token_s) - begun)
