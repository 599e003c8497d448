"""The proof that a request fits, before it is queued: the front and the engine ask the same question."""

from collections.abc import Iterable
from typing import NamedTuple

from burnish.core.errors import BadRequest, PromptTooLong
from burnish.core.types import Request


class Limits(NamedTuple):
    """What one request may ask of a model: its vocabulary, and tokens in context and in an empty block pool."""

    vocab_size: int
    max_tokens: int


def admit(request: Request, limits: Limits) -> int:
    """Output tokens the request may produce, so that it runs to its end in an otherwise empty engine.

    Raises ``BadRequest`` (``PromptTooLong``) when it never could.
    """
    sampling, length = request.sampling, len(request.prompt)
    assert sampling.n == 1, "choices are separate requests"
    if length == 0:
        raise BadRequest("the prompt is empty", remedy="Send at least one token", param="prompt")
    check_ids(request.prompt, limits.vocab_size, "prompt")
    check_ids(sampling.stop_token_ids, limits.vocab_size, "stop_token_ids")
    check_ids((token_id for token_id, _ in sampling.logit_bias), limits.vocab_size, "logit_bias")
    if length >= limits.max_tokens:
        raise PromptTooLong(
            f"the prompt has {length} tokens, the limit is {limits.max_tokens} with at least one of output",
            remedy="Shorten the prompt",
            param="prompt",
        )
    if sampling.max_tokens is not None and length + sampling.max_tokens > limits.max_tokens:
        raise PromptTooLong(
            f"{length} prompt tokens and max_tokens {sampling.max_tokens} exceed the limit of {limits.max_tokens}",
            remedy=f"Use max_tokens of at most {limits.max_tokens - length}",
            param="max_tokens",
        )
    return limits.max_tokens - length if sampling.max_tokens is None else sampling.max_tokens


def check_ids(ids: Iterable[int], vocab_size: int, param: str) -> None:
    """Raise ``BadRequest`` for an id outside the vocabulary; ``param`` says where it stood."""
    wrong = next((i for i in ids if not 0 <= i < vocab_size), None)
    if wrong is not None:
        remedy = f"Use ids 0 to {vocab_size - 1}"
        raise BadRequest(f"token id {wrong} is not in the vocabulary", remedy=remedy, param=param)
