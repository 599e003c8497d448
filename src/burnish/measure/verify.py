"""The engine's promise, checked on the user's own model: a row's result never depends on its batch.

Each check runs the same greedy requests in two ways and compares tokens and log-probabilities bit for bit. Every
check also shows that what it is about did happen: a prefix hit, a preemption, more than one chunk.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from burnish.core.errors import BadRequest
from burnish.core.types import FinishEvent, Load, Request, Sampling, TokenEvent, TokenLogprobs
from burnish.engine.config import EngineConfig
from burnish.engine.engine import Engine
from burnish.models.decoder import Decoder

OUTPUT_TOKENS = 16
PROMPT_TOKENS = (5, 37, 64, 90)
SHARED_TOKENS = 32  # of the longer prompts, so that the prefix cache has something to find
_CHUNK = 7  # tokens: no divisor of a block
_SHORT = 40  # positions: below, outputs and blocks are smaller, so that everything still happens
_SHORTEST = 8

Progress = Callable[[int, int], None]
"""(checks done, checks in all)"""


class Check(NamedTuple):
    """One equality."""

    name: str
    passed: bool
    evidence: str


class _Token(NamedTuple):
    token_id: int
    logprobs: TokenLogprobs | None


class _Outcome(NamedTuple):
    tokens: dict[str, list[_Token]]
    load: Load


def verify(decoder: Decoder, *, progress: Progress | None = None) -> tuple[Check, ...]:
    """Run every check.

    Raises ``BadRequest`` when the model's context is too short for anything to happen.
    """
    positions = decoder.config.max_positions
    if positions < _SHORTEST:
        remedy = f"It takes {_SHORTEST} positions"
        raise BadRequest(f"a context of {positions} is too short to verify anything", remedy=remedy)
    requests = _requests(decoder)
    size = EngineConfig().block_size if positions >= _SHORT else positions // 8
    num_blocks = _blocks(requests, size)
    plain = EngineConfig(
        block_size=size, num_blocks=num_blocks, prefix_cache=False, step_tokens=max(map(_length, requests)) * 8
    )
    alone = _Outcome({k: v for request in requests for k, v in _run(decoder, plain, [request]).tokens.items()}, Load())
    checks = []
    for number, check in enumerate((_batched, _chunked, _cached, _preempted), 1):
        checks.append(check(decoder, plain, requests, alone))
        if progress is not None:
            progress(number, 4)
    return tuple(checks)


def _batched(decoder: Decoder, plain: EngineConfig, requests: list[Request], alone: _Outcome) -> Check:
    together = _run(decoder, plain, requests)
    return _compare("batch of 1 or N", alone, together, f"{len(requests)} requests together", happened=True)


def _chunked(decoder: Decoder, plain: EngineConfig, requests: list[Request], alone: _Outcome) -> Check:
    config = replace(plain, step_tokens=_CHUNK, prefill_share=_CHUNK, prefill_floor=1, max_running=len(requests))
    chunked = _run(decoder, config, requests)
    num_tokens = sum(len(request.prompt) for request in requests)
    least = -(-num_tokens // _CHUNK)
    evidence = f"{num_tokens} prompt tokens in chunks of at most {_CHUNK}, {chunked.load.steps} steps"
    return _compare("chunked or whole prefill", alone, chunked, evidence, happened=chunked.load.steps >= least > 1)


def _cached(decoder: Decoder, plain: EngineConfig, requests: list[Request], alone: _Outcome) -> Check:
    engine = Engine(decoder, None, replace(plain, prefix_cache=True))
    _drive(engine, requests)
    again = _drive(engine, requests)
    evidence = f"{again.load.prefix_hit_tokens} prompt tokens came from the cache"
    return _compare("prefix cache on or off", alone, again, evidence, happened=again.load.prefix_hit_tokens > 0)


def _preempted(decoder: Decoder, plain: EngineConfig, requests: list[Request], alone: _Outcome) -> Check:
    """Every prompt fits at once, no output does: the first to need one more block takes it from the youngest."""
    prompts_only = sum(len(request.prompt) // plain.block_size + 1 for request in requests)
    longest = _blocks([max(requests, key=_length)], plain.block_size)
    preempted = _run(decoder, replace(plain, num_blocks=max(prompts_only, longest)), requests)
    evidence = f"{preempted.load.preemptions} preemptions"
    return _compare("preempted or not", alone, preempted, evidence, happened=preempted.load.preemptions > 0)


def _compare(name: str, alone: _Outcome, other: _Outcome, evidence: str, *, happened: bool) -> Check:
    pairs = [pair for key, tokens in alone.tokens.items() for pair in zip(tokens, other.tokens[key], strict=True)]
    different = sum(ours != theirs for ours, theirs in pairs)
    verdict = "all bit-identical" if not different else f"{different} differ"
    if not happened:
        verdict = "but what it is about never happened"
    return Check(name, happened and not different, f"{len(pairs)} tokens with log-probabilities, {evidence}: {verdict}")


def _requests(decoder: Decoder) -> list[Request]:
    """Prompts spread over the vocabulary; the longer ones begin alike and fit the context."""
    vocab_size, positions = decoder.config.vocab_size, decoder.config.max_positions
    num_output = OUTPUT_TOKENS if positions >= _SHORT else positions // 2
    longest = positions - num_output
    sampling = Sampling(max_tokens=num_output, temperature=0.0, ignore_eos=True, logprobs=5)
    ids = [(index + 1) * 2654435761 % 2**32 * vocab_size >> 32 for index in range(1000)]
    prompts = []
    for number, length in enumerate(min(length, longest) for length in PROMPT_TOKENS):
        own = ids[100 * (number + 1) :]
        prompts.append((ids[:SHARED_TOKENS] + own if length > SHARED_TOKENS else own)[:length])
    return [Request(request_id=str(i), prompt=tuple(p), sampling=sampling) for i, p in enumerate(prompts)]


def _length(request: Request) -> int:
    """Tokens at the end."""
    return len(request.prompt) + (request.sampling.max_tokens or 0)


def _blocks(requests: list[Request], size: int) -> int:
    """Blocks of ``size`` tokens that hold all of the requests, to their ends, at once."""
    return sum(-(-_length(request) // size) for request in requests)


def _run(decoder: Decoder, config: EngineConfig, requests: list[Request]) -> _Outcome:
    return _drive(Engine(decoder, None, config), requests)


def _drive(engine: Engine, requests: list[Request]) -> _Outcome:
    tokens: dict[str, list[_Token]] = {request.request_id: [] for request in requests}
    for request in requests:
        engine.add(request)
    while engine.has_work:
        for event in engine.step():
            if isinstance(event, TokenEvent):
                logprobs = event.logprobs or (None,) * len(event.token_ids)
                tokens[event.request_id] += map(_Token, event.token_ids, logprobs)
            elif isinstance(event, FinishEvent) and event.error is not None:
                tokens[event.request_id].append(_Token(-1, None))
    return _Outcome(tokens, engine.load())
