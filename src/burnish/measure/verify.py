"""The engine's promise, checked on the user's own model: a row's result never depends on its batch.

Each check runs the same greedy requests in two ways and compares tokens and log-probabilities bit for bit. Every
check also shows that what it is about did happen: a prefix hit, a preemption, more than one chunk.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, get_args

from burnish.core.admission import Limits
from burnish.core.errors import BadRequest
from burnish.core.types import FinishEvent, KeyKind, Load, Request, Sampling, TokenEvent, TokenLogprobs
from burnish.engine.config import EngineConfig
from burnish.engine.engine import Engine, Model, plan_of

OUTPUT_TOKENS = 16
PROMPT_TOKENS = (5, 37, 64, 90) * 4
SHARED_TOKENS = 32  # of the longer prompts, so that the prefix cache has something to find
BATCHES = (7, len(PROMPT_TOKENS))  # requests together, against one at a time
CHUNKS = (1, 16, 512)  # prompt tokens of a step
KEYS: tuple[KeyKind, ...] = get_args(KeyKind)
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


class _Case(NamedTuple):
    """What every check of one kind of keys starts from."""

    model: Model
    plain: EngineConfig  # one thread, no prefix cache, whole prompts
    requests: list[Request]
    alone: _Outcome  # every request in an engine of its own


def verify(model: Model, *, keys: Sequence[KeyKind] = KEYS, progress: Progress | None = None) -> tuple[Check, ...]:
    """Run every check for every kind of keys.

    Raises ``BadRequest`` when the model's context is too short for anything to happen.
    """
    plan = plan_of(model)
    limits = Limits(plan.shape.vocab_size, plan.shape.max_positions)
    if limits.max_tokens < _SHORTEST:
        remedy = f"It takes {_SHORTEST} positions"
        raise BadRequest(f"a context of {limits.max_tokens} is too short to verify anything", remedy=remedy)
    checks: list[Check] = []
    total = len(keys) * (len(BATCHES) + len(CHUNKS) + 3)
    for kind in keys:
        for check in _checks(_case(plan, limits, kind)):
            checks.append(check._replace(name=f"{check.name}, {kind} keys"))
            if progress is not None:
                progress(len(checks), total)
    return tuple(checks)


def _case(model: Model, limits: Limits, keys: KeyKind) -> _Case:
    requests, positions = _requests(limits), limits.max_tokens
    size = EngineConfig().block_size if positions >= _SHORT else positions // 8
    plain = EngineConfig(
        block_size=size,
        num_blocks=_blocks(requests, size),
        prefix_cache=False,
        step_tokens=max(map(_length, requests)) * len(requests),
        prefill_share=max(map(_length, requests)) * len(requests),
        threads=1,
        keys=keys,
    )
    alone = {k: v for request in requests for k, v in _run(model, plain, [request]).tokens.items()}
    return _Case(model, plain, requests, _Outcome(alone, Load()))


def _checks(case: _Case) -> Iterator[Check]:
    for count in BATCHES:
        yield _batched(case, count)
    for size in CHUNKS:
        yield _chunked(case, size)
    yield from (_cached(case), _threaded(case), _preempted(case))


def _batched(case: _Case, count: int) -> Check:
    together = _Outcome({}, Load())
    for first in range(0, len(case.requests), count):
        together.tokens.update(_run(case.model, case.plain, case.requests[first : first + count]).tokens)
    return _compare(f"batch of 1 or {count}", case, together, f"{count} requests together", happened=True)


def _chunked(case: _Case, size: int) -> Check:
    running = min(size, len(case.requests))
    config = replace(case.plain, step_tokens=size, prefill_share=size, prefill_floor=1, max_running=running)
    chunked = _run(case.model, config, case.requests)
    num_tokens = sum(len(request.prompt) for request in case.requests)
    num_output = case.requests[0].sampling.max_tokens or 0
    least = -(-num_tokens // size) + num_output - 1  # the last prompt's first token comes with its last chunk
    evidence = f"{num_tokens} prompt tokens, at most {size} of them in a step, {chunked.load.steps} steps"
    return _compare(f"whole prompts or chunks of {size}", case, chunked, evidence, happened=chunked.load.steps >= least)


def _cached(case: _Case) -> Check:
    engine = Engine(case.model, None, replace(case.plain, prefix_cache=True))
    _drive(engine, case.requests)
    again = _drive(engine, case.requests)
    evidence = f"{again.load.prefix_hit_tokens} prompt tokens came from the cache"
    return _compare("prefix cache on or off", case, again, evidence, happened=again.load.prefix_hit_tokens > 0)


def _threaded(case: _Case) -> Check:
    engine = Engine(case.model, None, replace(case.plain, threads=2))
    both = _drive(engine, case.requests)
    return _compare("1 or 2 threads", case, both, "2 threads", happened=engine.config.threads == 2)


def _preempted(case: _Case) -> Check:
    """Every prompt fits at once, no output does: the first to need one more block takes it from the youngest."""
    size = case.plain.block_size
    prompts_only = sum(len(request.prompt) // size + 1 for request in case.requests)
    longest = _blocks([max(case.requests, key=_length)], size)
    preempted = _run(case.model, replace(case.plain, num_blocks=max(prompts_only, longest)), case.requests)
    evidence = f"{preempted.load.preemptions} preemptions"
    return _compare("preempted or not", case, preempted, evidence, happened=preempted.load.preemptions > 0)


def _compare(name: str, case: _Case, other: _Outcome, evidence: str, *, happened: bool) -> Check:
    pairs = [pair for key, tokens in case.alone.tokens.items() for pair in zip(tokens, other.tokens[key], strict=True)]
    different = sum(ours != theirs for ours, theirs in pairs)
    verdict = "all bit-identical" if not different else f"{different} differ"
    if not happened:
        verdict = "but what it is about never happened"
    return Check(name, happened and not different, f"{len(pairs)} tokens with log-probabilities, {evidence}: {verdict}")


def _requests(limits: Limits) -> list[Request]:
    """Prompts spread over the vocabulary; the longer ones begin alike and fit the context."""
    vocab_size, positions = limits.vocab_size, limits.max_tokens
    num_output = OUTPUT_TOKENS if positions >= _SHORT else positions // 2
    longest = positions - num_output
    sampling = Sampling(max_tokens=num_output, temperature=0.0, ignore_eos=True, logprobs=5)
    ids = [(index + 1) * 2654435761 % 2**32 * vocab_size >> 32 for index in range(3000)]
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


def _run(model: Model, config: EngineConfig, requests: list[Request]) -> _Outcome:
    return _drive(Engine(model, None, config), requests)


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
