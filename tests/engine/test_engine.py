"""How generations begin, stop and end."""

import pytest
import torch

from burnish.core.errors import BadRequest, BadSettings, Overloaded, PromptTooLong
from burnish.core.types import FinishEvent, StartEvent
from burnish.engine.config import EngineConfig
from burnish.engine.engine import Engine
from burnish.engine.sampling import Chosen
from burnish.engine.sequence import Sequence
from burnish.models.decoder import Decoder
from tests.engine.conftest import MakeEngine, end, finish, request, run, text, tokens
from tests.tiny import EOS, ByteTokenizer, FakeClock

PROMPT = list(b"once upon a time")


def greedy(make_engine: MakeEngine, count: int = 12) -> list[int]:
    return tokens(run(make_engine(), [request("r", PROMPT, max_tokens=count)])["r"])


def test_events_come_in_order(make_engine: MakeEngine) -> None:
    events = run(make_engine(), [request("r", PROMPT)])["r"]
    assert isinstance(events[0], StartEvent)
    assert end(events).reason == "length"
    assert end(events).usage[:2] == (len(PROMPT), 12)
    assert len(tokens(events)) == 12


def test_queue_time_ends_when_computation_begins(decoder: Decoder, make_engine: MakeEngine) -> None:
    clock = FakeClock()
    engine = Engine(decoder, ByteTokenizer(), make_engine(max_running=1).config, clock=clock)
    engine.add(request("first", PROMPT, max_tokens=2))
    engine.add(request("second", PROMPT, max_tokens=2))
    queued: dict[str, float] = {}
    while engine.has_work:
        clock.advance(1.0)
        queued |= {e.request_id: e.queue_s for e in engine.step() if isinstance(e, StartEvent)}
    assert queued == {"first": 1.0, "second": 3.0}


def test_text_is_that_of_the_tokens(make_engine: MakeEngine) -> None:
    events = run(make_engine(), [request("r", PROMPT, max_tokens=40)])["r"]
    assert text(events) == bytes(t for t in tokens(events) if t < 256).decode(errors="replace")


def test_stop_token_ids_end_without_showing(make_engine: MakeEngine) -> None:
    expected = greedy(make_engine)
    stop = expected[4]
    events = run(make_engine(), [request("r", PROMPT, stop_token_ids=(stop,))])["r"]
    assert end(events).reason == "stop"
    assert tokens(events) == expected[: expected.index(stop) + 1]
    assert text(events) == bytes(t for t in tokens(events)[:-1] if t < 256).decode(errors="replace")


def test_eos_ends_unless_ignored(make_engine: MakeEngine) -> None:
    bias = ((EOS, 100.0),)
    stopped = run(make_engine(), [request("r", PROMPT, logit_bias=bias, ignore_eos=False)])["r"]
    ignored = run(make_engine(), [request("r", PROMPT, logit_bias=bias)])["r"]
    assert (end(stopped).reason, tokens(stopped), text(stopped)) == ("stop", [EOS], "")
    assert (end(ignored).reason, tokens(ignored)) == ("length", [EOS] * 12)


def test_stop_strings_cut_the_text(make_engine: MakeEngine) -> None:
    letters = tuple((token, 60.0) for token in b"ab")
    plain = text(run(make_engine(), [request("r", PROMPT, logit_bias=letters, max_tokens=30)])["r"])
    assert set(plain) <= set("ab")
    stop = plain[9:12]
    events = run(make_engine(), [request("r", PROMPT, logit_bias=letters, max_tokens=30, stop=(stop,))])["r"]
    assert end(events).reason == "stop"
    assert text(events) == plain[: plain.index(stop)]


def test_abort_frees_at_once(make_engine: MakeEngine) -> None:
    engine = make_engine()
    engine.add(request("a", PROMPT, max_tokens=50))
    engine.add(request("b", PROMPT, max_tokens=50))
    engine.step()
    [aborted] = engine.abort("a")
    assert isinstance(aborted, FinishEvent)
    assert aborted.reason == "abort"
    assert engine.abort("a") == []
    assert engine.abort("nobody") == []
    engine.abort("b")
    assert not engine.has_work
    assert engine.load().used_blocks == 0


def test_logits_that_are_no_numbers_fail_one_request_only(make_engine: MakeEngine, decoder: Decoder) -> None:
    weight = decoder.embed_tokens.weight
    kept = weight[200].clone()
    try:
        weight[200] = 3e38  # the embedding is the head too: every row's logit of token 200 overflows
        engine = make_engine()
        broken = run(engine, [request("r", PROMPT)])["r"]
    finally:
        weight[200] = kept
    assert engine.load().not_numbers == 1
    assert end(broken).reason == "error"
    assert end(broken).error
    assert end(run(make_engine(), [request("again", PROMPT)])["again"]).reason == "length"


def test_a_failed_step_ends_what_runs_and_the_engine_goes_on(make_engine: MakeEngine) -> None:
    engine = make_engine()
    engine.add(request("r", PROMPT))
    engine.step()
    [event] = engine.fail("broken")
    assert isinstance(event, FinishEvent)
    assert event.error == "broken"
    assert len(tokens(run(engine, [request("next", PROMPT)])["next"])) == 12


def test_a_step_that_raises_half_way_loses_no_event(
    make_engine: MakeEngine, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()
    for name in ("first", "second"):
        engine.add(request(name, PROMPT, max_tokens=1))
    append = engine._append

    def broken(sequence: Sequence, choice: Chosen) -> None:
        if sequence.request.request_id == "second":
            raise RuntimeError("half-way")
        append(sequence, choice)

    monkeypatch.setattr(engine, "_append", broken)
    with pytest.raises(RuntimeError):
        engine.step()
    ends = {e.request_id: e.reason for e in engine.fail("broken") if isinstance(e, FinishEvent)}
    assert ends == {"first": "length", "second": "error"}
    assert engine.load().used_blocks == 0


def test_more_blocks_than_memory_are_refused(make_engine: MakeEngine) -> None:
    with pytest.raises(BadSettings, match="GiB"):
        make_engine(num_blocks=10**9)


def test_a_pool_smaller_than_the_context_is_told(decoder: Decoder, caplog: pytest.LogCaptureFixture) -> None:
    config = EngineConfig(block_size=8, kv_bytes=8 * 8 * 512, threads=1, keys="f32")
    engine = Engine(decoder, ByteTokenizer(), config)
    assert "holds 64 tokens of a context of 512" in caplog.text
    assert engine.limits.max_tokens == 64


def test_what_never_fits_is_refused_and_what_just_fits_runs(make_engine: MakeEngine) -> None:
    engine = make_engine(num_blocks=4)
    with pytest.raises(PromptTooLong):
        engine.add(request("r", PROMPT, max_tokens=17))
    assert len(tokens(run(engine, [request("r", PROMPT, max_tokens=16)])["r"])) == 16
    assert len(tokens(run(engine, [request("s", PROMPT, max_tokens=None)])["s"])) == 16


def test_a_full_queue_refuses(make_engine: MakeEngine) -> None:
    engine = make_engine(max_waiting=2)
    for name in ("a", "b"):
        engine.add(request(name, PROMPT))
    with pytest.raises(Overloaded):
        engine.add(request("c", PROMPT))
    assert set(finish(engine)) == {"a", "b"}


def test_an_id_in_use_is_refused(make_engine: MakeEngine) -> None:
    engine = make_engine()
    engine.add(request("a", PROMPT))
    with pytest.raises(BadRequest, match="in use"):
        engine.add(request("a", PROMPT))


def test_decode_is_served_while_a_long_prompt_is_prefilled(make_engine: MakeEngine) -> None:
    engine = make_engine(step_tokens=16, max_running=4, prefill_share=8, prefill_floor=4)
    engine.add(request("short", PROMPT[:4], max_tokens=40))
    engine.step()
    engine.add(request("long", list(range(200)), max_tokens=2))
    first_long = None
    for step in range(1, 40):
        names = {event.request_id for event in engine.step() if not isinstance(event, StartEvent)}
        assert "short" in names, "every step serves the decode"
        if "long" in names:
            first_long = step
            break
    assert first_long == 25  # 200 tokens, 8 a step


def test_the_model_is_not_changed_by_serving(make_engine: MakeEngine, decoder: Decoder) -> None:
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    greedy(make_engine)
    assert all(torch.equal(before[name], value) for name, value in decoder.state_dict().items())


def test_engine_without_tokenizer_counts_tokens_only(decoder: Decoder, make_engine: MakeEngine) -> None:
    engine = Engine(decoder, None, make_engine().config)
    events = run(engine, [request("r", PROMPT)])["r"]
    assert len(tokens(events)) == 12
    assert text(events) == ""
