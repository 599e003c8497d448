"""How likely a prompt was: the same bits as if it had been generated, whatever the engine does on the way."""

import pytest

from burnish.core.types import Event, PromptEvent, TokenLogprobs
from burnish.engine.sequence import Sequence
from burnish.models.decoder import Decoder
from tests.engine.conftest import MakeEngine, end, request, run, tokens
from tests.engine.test_equalities import Answers, answers, prompts, requests

PROMPT = list(b"once upon a time")


def scores(events: list[Event]) -> list[tuple[int, TokenLogprobs]]:
    """The prompt's tokens with their exact log-probabilities."""
    found = [event for event in events if isinstance(event, PromptEvent)]
    return [pair for event in found for pair in zip(event.token_ids, event.logprobs, strict=True)]


def all_scores(events: dict[str, list[Event]]) -> Answers:
    return {name: scores(own) for name, own in events.items()}


@pytest.fixture
def whole(make_engine: MakeEngine) -> Answers:
    """Each prompt in one step of an engine without a cache."""
    return all_scores(run(make_engine(prefix_cache=False), requests(prompt_logprobs=3)))


def test_what_was_generated_scores_as_it_was_chosen(make_engine: MakeEngine) -> None:
    made = run(make_engine(), [request("r", PROMPT, logprobs=3)])["r"]
    again = run(make_engine(), [request("r", PROMPT + tokens(made), prompt_logprobs=3, max_tokens=1)])["r"]
    assert scores(again)[len(PROMPT) - 1 :] == answers({"r": made})["r"]


@pytest.mark.parametrize(
    "settings",
    [
        {"prefix_cache": True},
        {"step_tokens": 10, "max_running": 10, "prefill_share": 3, "prefill_floor": 1},
        {"max_running": 3, "step_tokens": 17, "prefill_share": 16},
        {"threads": 2},
    ],
    ids=str,
)
def test_chunks_cache_and_company_change_nothing(
    make_engine: MakeEngine, whole: Answers, settings: dict[str, object]
) -> None:
    engine = make_engine(**settings)
    run(engine, requests())  # what the cache holds has no logits
    events = run(engine, requests(prompt_logprobs=3))
    assert all_scores(events) == whole
    assert answers(events) == answers(run(engine, requests())), "and the output is what it is without scoring"
    assert {name: [token for token, _ in own] for name, own in all_scores(events).items()} == {
        str(i): prompt[1:] for i, prompt in enumerate(prompts())
    }


def test_preempted_prompts_are_scored_once(make_engine: MakeEngine, whole: Answers) -> None:
    engine = make_engine(num_blocks=18, max_running=10, step_tokens=24, prefill_share=20, prefill_floor=1)
    preempt, half_scored = engine._scheduler._preempt, []

    def watched(sequence: Sequence) -> None:
        half_scored.append(0 < sequence.num_scored < sequence.num_to_score)
        preempt(sequence)

    engine._scheduler._preempt = watched  # type: ignore[method-assign]
    crowded = all_scores(run(engine, requests(prompt_logprobs=3)))
    assert True in half_scored
    assert False in half_scored
    assert crowded == whole


def test_scores_come_before_the_first_token_and_zero_alternatives_are_none(make_engine: MakeEngine) -> None:
    events = run(make_engine(), [request("r", PROMPT, prompt_logprobs=0, max_tokens=2)])["r"]
    assert [type(event).__name__ for event in events] == [
        *("StartEvent", "PromptEvent", "TokenEvent", "TokenEvent", "FinishEvent")
    ]
    assert all(found.top == () for _, found in scores(events))


def test_nothing_need_be_generated(make_engine: MakeEngine) -> None:
    events = run(make_engine(), [request("r", PROMPT, prompt_logprobs=0, max_tokens=0)])["r"]
    assert len(scores(events)) == len(PROMPT) - 1
    assert (end(events).reason, end(events).usage[:2], tokens(events)) == ("length", (len(PROMPT), 0), [])


def test_a_prompt_of_one_token_has_nothing_to_score(make_engine: MakeEngine) -> None:
    assert scores(run(make_engine(), [request("r", PROMPT[:1], prompt_logprobs=2)])["r"]) == []


def test_scores_that_are_no_numbers_fail_the_request(make_engine: MakeEngine, decoder: Decoder) -> None:
    weight = decoder.embed_tokens.weight
    kept = weight[200].clone()
    try:
        weight[200] = 3e38
        broken = run(make_engine(), [request("r", PROMPT, prompt_logprobs=1)])["r"]
    finally:
        weight[200] = kept
    assert end(broken).reason == "error"
