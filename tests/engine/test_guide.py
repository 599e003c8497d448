"""Answers that follow a grammar: always, whatever the model wants, whoever else is served, drafted or not."""

import json
import re
import threading
from typing import Any

import jsonschema
import pytest

from burnish.core.errors import BadRequest
from burnish.core.types import FinishEvent, Grammar, Request, Sampling, TokenEvent
from burnish.engine.config import EngineConfig
from burnish.engine.engine import Engine
from burnish.engine.guide import Guide, Guides
from burnish.models.decoder import Decoder
from tests.engine.conftest import end, finish, request, run, text, tokens
from tests.engine.test_speculative import FREE
from tests.tiny import VOCAB_SIZE, ByteTokenizer

SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["cat", "dog"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 40},
        "toys": {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 2},
    },
    "required": ["kind", "age", "toys"],
    "additionalProperties": False,
}
PET = Grammar("json_schema", json.dumps(SCHEMA))
CHOICE = Grammar("choice", json.dumps(["yes", "no", 'a "b" \\c.*', "no more"]))
WORD = Grammar("regex", "[a-c]{3}-[0-9]{2,5}")
SUM = Grammar("lark", 'start: NUMBER ("+" NUMBER)~1..3 "."\nNUMBER: /[0-9]{1,2}/')


def engine(decoder: Decoder, **settings: Any) -> Engine:
    return Engine(decoder, ByteTokenizer(), EngineConfig(**({"num_blocks": 128, "threads": 1} | settings)))


def asked(name: str, grammar: Grammar | None, seed: int, **more: Any) -> Request:
    words: dict[str, Any] = {"max_tokens": 200, "temperature": 1.5, "seed": seed, "grammar": grammar}
    prompt = tuple(b"Tell: " + name.encode())
    return Request(request_id=name, prompt=prompt, sampling=Sampling(**(words | more)))


def is_right(grammar: Grammar, answer: str) -> bool:
    if grammar == PET:
        jsonschema.validate(json.loads(answer), SCHEMA)
        return True
    if grammar == CHOICE:
        return answer in json.loads(CHOICE.text)
    pattern = WORD.text if grammar == WORD else r"[0-9]{1,2}(\+[0-9]{1,2}){1,3}\."
    return re.fullmatch(pattern, answer) is not None


MANY = [
    asked(f"{number}", grammar, number, temperature=0.0 if number % 5 == 0 else 1.5)
    for number, grammar in enumerate([PET, CHOICE, WORD, SUM] * 6)
]


def test_every_answer_is_what_was_asked_for(decoder: Decoder) -> None:
    """A model that knows nothing, at a high temperature."""
    found = run(engine(decoder), MANY)
    for one in MANY:
        events, grammar = found[one.request_id], one.sampling.grammar
        assert grammar is not None
        assert end(events).reason == "stop"
        assert is_right(grammar, text(events)), text(events)


def test_white_space_between_the_parts_of_json_does_not_go_on_for_ever(decoder: Decoder) -> None:
    """A model that wants nothing else."""
    white = tuple((ord(space), 100.0) for space in " \n\t\r")
    wanted = asked("a", PET, 0, temperature=0.0, logit_bias=white, max_tokens=500)
    events = run(engine(decoder), [wanted])["a"]
    assert end(events).reason == "stop"
    assert is_right(PET, text(events))
    assert "\n" in text(events), "pretty JSON may be written"


def test_answers_do_not_depend_on_who_else_is_served(decoder: Decoder) -> None:
    free = [asked(f"free {number}", None, number, max_tokens=40) for number in range(4)]
    together = run(engine(decoder, max_running=7), [*MANY, *free])
    for one in [*MANY, *free]:
        alone = run(engine(decoder), [one])[one.request_id]
        assert tokens(together[one.request_id]) == tokens(alone)


def test_drafts_change_nothing(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = run(engine(decoder), MANY)
    monkeypatch.setattr("burnish.engine.engine.measure_costs", lambda *_: FREE)
    for draft in (None, decoder):
        config = EngineConfig(num_blocks=128, threads=1, lookup=True)
        drafting = Engine(decoder, ByteTokenizer(), config, draft=draft)
        found = run(drafting, MANY)
        assert {name: tokens(events) for name, events in found.items()} == {
            name: tokens(events) for name, events in plain.items()
        }
        assert drafting.drafted.drafts > 0


def test_penalties_and_bias_count_among_what_is_allowed(decoder: Decoder) -> None:
    wanted = asked(
        "a", Grammar("regex", "[ab]{8}"), 0, temperature=0.0, logit_bias=((ord("b"), 50.0), (ord("c"), 100.0))
    )
    assert text(run(engine(decoder), [wanted])["a"]) == "bbbbbbbb"


def test_log_probabilities_are_the_models_own(decoder: Decoder) -> None:
    wanted = asked("a", Grammar("choice", '["q"]'), 0, temperature=0.0, logprobs=2)
    events = run(engine(decoder), [wanted])["a"]
    [token] = [event for event in events if isinstance(event, TokenEvent)]
    assert token.logprobs is not None
    assert token.logprobs[0].logprob < -0.1, "not certain, although nothing else was allowed"
    assert len(token.logprobs[0].top) == 2


@pytest.mark.parametrize(
    ("grammar", "complaint"),
    [
        (Grammar("json_schema", '{"type": "objet"}'), "objet"),
        (Grammar("json_schema", "{"), "json schema"),
        (Grammar("json_schema", "7"), "object schema"),
        (Grammar("regex", "(a"), "unclosed group"),
        (Grammar("lark", "start: nowhere"), "nowhere"),
        (Grammar("regex", "(a{900}){900}"), "too many"),
    ],
    ids=str,
)
def test_a_grammar_that_is_none_fails_its_own_request(decoder: Decoder, grammar: Grammar, complaint: str) -> None:
    busy = engine(decoder)
    found = run(busy, [asked("bad", grammar, 0), asked("good", CHOICE, 1), request("free", [1, 2], max_tokens=5)])
    last = end(found["bad"])
    assert (last.reason, last.is_refused) == ("error", True)
    assert last.error is not None
    assert complaint in last.error
    assert "\n" not in last.error
    assert is_right(CHOICE, text(found["good"]))
    assert len(tokens(found["free"])) == 5
    assert not busy.has_work
    assert busy.load().used_blocks == 0


def test_a_grammar_that_takes_long_holds_nobody_up(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    ready, compiled = threading.Event(), Guides.compile

    def slowly(guides: Guides, grammar: Grammar) -> Guide:
        assert ready.wait(30)
        return compiled(guides, grammar)

    monkeypatch.setattr(Guides, "compile", slowly)
    busy = engine(decoder)
    for one in (asked("slow", CHOICE, 0), asked("gone", CHOICE, 0), request("free", [1, 2], max_tokens=5)):
        busy.add(one)
    events = [event for _ in range(12) for event in busy.step()]
    assert [event.request_id for event in events if isinstance(event, FinishEvent)] == ["free"]
    [left] = busy.abort("gone")
    assert isinstance(left, FinishEvent)
    assert left.reason == "abort"
    ready.set()
    assert is_right(CHOICE, text(finish(busy)["slow"]))


def test_a_grammar_that_takes_too_long_is_refused(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = threading.Event()
    monkeypatch.setattr(Guides, "compile", lambda *_: ready.wait(30))
    monkeypatch.setattr("burnish.engine.guide.LIMIT_S", 0.05)
    busy = engine(decoder)
    busy.add(asked("slow", CHOICE, 0))
    last = end(finish(busy)["slow"])
    ready.set()
    assert last.is_refused
    assert last.error is not None
    assert "took longer than" in last.error


def test_what_was_compiled_is_kept_and_never_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    guides = Guides(ByteTokenizer(), VOCAB_SIZE)
    first = guides.compile(WORD)
    for byte in b"abc":
        first.take(byte)
    monkeypatch.setattr("burnish.engine.guide._compiled", lambda *_: pytest.fail("compiled again"))
    second = guides.compile(WORD)
    [mask] = guides.allowed([_asked(second)])
    assert {int(token) for token in mask.nonzero()[0]} == set(b"abc")
    [mask] = guides.allowed([_asked(first)])
    assert {int(token) for token in mask.nonzero()[0]} == set(b"-")


def _asked(guide: Guide, *draft: int) -> Any:
    from burnish.engine.guide import Asked

    return Asked(guide, draft)


def test_masks_behind_drafts_are_those_of_the_text_with_them() -> None:
    guides = Guides(ByteTokenizer(), VOCAB_SIZE)
    guide = guides.compile(WORD)
    masks = guides.allowed([_asked(guide, *b"ab"), _asked(guides.compile(CHOICE))])
    allowed = [{int(token) for token in mask.nonzero()[0]} for mask in masks]
    assert allowed == [set(b"abc")] * 3 + [set(b"yna")]
    [again] = guides.allowed([_asked(guide)])
    assert {int(token) for token in again.nonzero()[0]} == set(b"abc"), "drafts left no trace"


def test_without_a_tokenizer_a_grammar_is_refused(decoder: Decoder) -> None:
    bare = Engine(decoder, None, EngineConfig(num_blocks=8, threads=1))
    with pytest.raises(BadRequest, match="no tokenizer"):
        bare.add(asked("a", CHOICE, 0, max_tokens=8))
    assert not bare.has_work


def test_a_grammar_too_long_is_refused() -> None:
    with pytest.raises(BadRequest, match="too long"):
        Sampling(grammar=Grammar("regex", "a" * 2**19))
