"""How likely the prompts' own tokens were: logits of a step that no token is chosen from.

R rows (wanted of the step), V vocabulary.
"""

from collections.abc import Sequence as Items
from typing import NamedTuple

import numpy as np

from burnish.core.types import PromptEvent
from burnish.engine.sampling import log_probabilities
from burnish.engine.scheduler import Chunk
from burnish.kernels.sampling import Floats


class Scored(NamedTuple):
    """What a step's prompts were found to be, and the logits of the rows that are left: of tokens to choose."""

    events: list[PromptEvent]
    rest: Floats


def take_scores(chunks: Items[Chunk], logits: Floats) -> Scored:
    """Score the prompt tokens of chunks that ask for it. ``logits`` (R, V) are in the order of ``make_batch``."""
    if not any(chunk.scored for chunk in chunks):
        return Scored([], logits)
    events: list[PromptEvent] = []
    rest: list[int] = []
    row = 0
    for chunk in chunks:
        count = len(chunk.scored)
        if count:
            events.append(_event(chunk, logits[row : row + count]))
        row += count
        if chunk.is_last:
            rest += range(row, row + 1 + len(chunk.draft))
            row += 1 + len(chunk.draft)
    return Scored(events, logits[rest])


def _event(chunk: Chunk, logits: Floats) -> PromptEvent:
    request, wanted = chunk.sequence.request, chunk.sequence.sampling.prompt_logprobs
    assert wanted is not None, "otherwise nothing is scored"
    tokens = tuple(request.prompt[position + 1] for position in chunk.scored)
    with np.errstate(invalid="ignore"):  # logits that are no numbers are found by the engine
        logprobs = tuple(log_probabilities(row, token, wanted) for row, token in zip(logits, tokens, strict=True))
    return PromptEvent(request_id=request.request_id, token_ids=tokens, logprobs=logprobs)
