"""A row's result never depends on its batch: the same tokens, bit-identical log-probabilities."""

import random

import pytest

from burnish.core.types import Event, Request, TokenEvent, TokenLogprobs
from burnish.engine.config import EngineConfig
from burnish.engine.engine import Engine
from burnish.models.decoder import Decoder
from tests.engine.conftest import MakeEngine, finish, request, run, tokens
from tests.tiny import ByteTokenizer, tiny_decoder

Answers = dict[str, list[tuple[int, TokenLogprobs]]]


def prompts() -> list[list[int]]:
    """Prompts of many lengths, some sharing long beginnings, some equal, one exactly two blocks long."""
    chosen = random.Random(5)
    shared = [chosen.randrange(256) for _ in range(40)]
    own = [[chosen.randrange(256) for _ in range(n)] for n in (1, 7, 16, 33, 90)]
    return [*own, shared + own[0], shared + own[1], shared[:32] + own[2], list(shared), list(shared)]


def requests(**sampling: object) -> list[Request]:
    return [request(str(i), prompt, logprobs=3, **sampling) for i, prompt in enumerate(prompts())]


def answers(events: dict[str, list[Event]]) -> Answers:
    """Tokens with their exact log-probabilities."""
    return {
        name: [
            pair
            for event in own
            if isinstance(event, TokenEvent)
            for pair in zip(event.token_ids, event.logprobs or (), strict=True)
        ]
        for name, own in events.items()
    }


def alone(decoder: Decoder, **sampling: object) -> Answers:
    """The obvious way: each request alone in a fresh engine, whole prompt at once, no cache."""
    config = EngineConfig(block_size=8, num_blocks=64, prefix_cache=False, step_tokens=512)
    result: Answers = {}
    for item in requests(**sampling):
        result |= answers(run(Engine(decoder, ByteTokenizer(), config), [item]))
    return result


@pytest.fixture(scope="session")
def one_by_one(decoder: Decoder) -> Answers:
    return alone(decoder)


@pytest.mark.parametrize(
    "settings",
    [
        {"prefix_cache": False},
        {"prefix_cache": True},
        {"prefix_cache": True, "block_size": 16, "num_blocks": 40},
        {"step_tokens": 10, "max_running": 10, "prefill_share": 3, "prefill_floor": 1},
        {"max_running": 1},
        {"max_running": 3, "step_tokens": 17, "prefill_share": 16},
        {"threads": 1},
        {"threads": 2},
    ],
    ids=str,
)
def test_batched_chunked_and_cached_equal_one_by_one(
    make_engine: MakeEngine, one_by_one: Answers, settings: dict[str, object]
) -> None:
    assert answers(run(make_engine(**settings), requests())) == one_by_one


def test_preempted_equals_undisturbed(make_engine: MakeEngine, one_by_one: Answers) -> None:
    engine = make_engine(num_blocks=16, max_running=10)
    crowded = answers(run(engine, requests()))
    assert engine.load().preemptions > 0
    assert crowded == one_by_one


def test_a_second_run_is_served_from_the_cache_and_equal(make_engine: MakeEngine) -> None:
    engine = make_engine()
    first = answers(run(engine, requests()))
    before = engine.load()
    second = answers(run(engine, requests()))
    after = engine.load()
    assert second == first
    hits = after.prefix_hit_tokens - before.prefix_hit_tokens
    assert hits > 0.5 * (after.prefix_queried_tokens - before.prefix_queried_tokens)


def test_arrivals_in_the_middle_and_aborts_of_others_change_nothing(
    make_engine: MakeEngine, one_by_one: Answers
) -> None:
    chosen = random.Random(1)
    engine = make_engine(num_blocks=40, max_running=4)
    waiting = requests() + [request(f"gone-{i}", [i] * 20, max_tokens=30, logprobs=0) for i in range(6)]
    chosen.shuffle(waiting)
    events: dict[str, list[Event]] = {}
    while waiting or engine.has_work:
        if waiting and chosen.random() < 0.5:
            engine.add(waiting.pop())
        if chosen.random() < 0.3:
            engine.abort(f"gone-{chosen.randrange(6)}")
        for event in engine.step():
            events.setdefault(event.request_id, []).append(event)
    assert {name: got for name, got in answers(events).items() if name in one_by_one} == one_by_one


def test_seeded_sampling_does_not_depend_on_the_batch(make_engine: MakeEngine, decoder: Decoder) -> None:
    sampling = {"temperature": 0.9, "top_p": 0.95, "seed": 11}
    assert answers(run(make_engine(num_blocks=20), requests(**sampling))) == alone(decoder, **sampling)


@pytest.mark.parametrize(
    "family",
    [
        {"windows": (12, None)},
        {"learned_positions": True, "norm": "layer", "gated_mlp": False, "activation": "gelu_tanh"},
        {"qk_norm": True, "norm_outputs": True, "norm_offset": 1.0, "activation": "gelu_tanh", "inner_size": 100},
        {"attention_softcap": 20.0, "logit_softcap": 10.0, "inner_size": 173},
    ],
    ids=str,
)
def test_equalities_hold_for_every_mechanism(family: dict[str, object]) -> None:
    decoder = tiny_decoder(seed=4, **family)
    crowded = EngineConfig(block_size=8, num_blocks=18, max_running=6, step_tokens=24, prefill_share=9, prefill_floor=4)
    assert answers(run(Engine(decoder, ByteTokenizer(), crowded), requests())) == alone(decoder)


def test_salts_do_not_share(make_engine: MakeEngine) -> None:
    engine = make_engine()
    prompt = list(range(64))
    run(engine, [request("a", prompt)])
    tenant = Request(request_id="b", prompt=tuple(prompt), sampling=request("x", prompt).sampling, salt="tenant")
    hits = engine.load().prefix_hit_tokens
    engine.add(tenant)
    events = finish(engine)
    assert engine.load().prefix_hit_tokens == hits
    assert len(tokens(events["b"])) == 12
