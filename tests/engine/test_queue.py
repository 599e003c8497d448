"""Tenants take turns, whatever one of them asks for; of a tenant's own requests the urgent and the old come first."""

from collections.abc import Sequence as Items

import pytest

from burnish.core.errors import BadSettings, Overloaded
from burnish.core.types import Request, Sampling, StartEvent
from burnish.engine.config import EngineConfig
from burnish.engine.engine import Engine
from burnish.engine.queue import AGE_S, FairQueue
from burnish.engine.sequence import Sequence
from burnish.engine.text import NoText, OutputText
from burnish.models.decoder import Decoder
from tests.engine.conftest import finish, tokens
from tests.tiny import ByteTokenizer


def waiting(name: str, tenant: str = "", *, arrival_s: float = 0.0, priority: int = 0) -> Sequence:
    sampling = Sampling(max_tokens=4, temperature=0, ignore_eos=True)
    asked = Request(request_id=name, prompt=(1, 2, 3), sampling=sampling, tenant=tenant, priority=priority)
    return Sequence(asked, max_output=4, arrival_s=arrival_s, text=OutputText(NoText(), ()))


def names(sequences: Items[Sequence]) -> list[str]:
    return [one.request.request_id for one in sequences]


def serve(queue: FairQueue, num_read: int) -> str:
    """Take the first away and charge it."""
    [first] = queue.first(1)
    queue.remove(first)
    queue.charge(first, num_read)
    return first.request.request_id


def test_one_tenant_is_served_in_order() -> None:
    queue = FairQueue()
    for number in range(4):
        queue.add(waiting(str(number), arrival_s=number))
    assert [serve(queue, 100) for _ in range(4)] == ["0", "1", "2", "3"]
    assert len(queue) == 0


def test_tenants_take_turns_by_tokens_not_by_requests() -> None:
    queue = FairQueue()
    for number in range(9):
        queue.add(waiting(f"flood {number}", "flood", arrival_s=number))
    for number in range(3):
        queue.add(waiting(f"other {number}", "other", arrival_s=100 + number))
    served = [serve(queue, 10 if queue.first(1)[0].request.tenant == "flood" else 30) for _ in range(9)]
    assert served[0] == "flood 0"
    assert served[1] == "other 0", "before eight that came earlier"
    assert [name.split()[0] for name in served[2:9]] == ["flood", "flood", "flood", "other", "flood", "flood", "flood"]


def test_who_comes_late_gets_no_credit_for_the_time_before() -> None:
    queue = FairQueue()
    for number in range(20):
        queue.add(waiting(f"a {number}", "a", arrival_s=number))
    for _ in range(10):
        serve(queue, 100)
    for number in range(10):
        queue.add(waiting(f"b {number}", "b", arrival_s=100 + number))
    served = [serve(queue, 100)[0] for _ in range(10)]
    assert served.count("a") == served.count("b") == 5


def test_a_debt_is_not_forgotten_by_leaving() -> None:
    queue = FairQueue()
    first, other = waiting("a", "a"), waiting("b", "b")
    queue.add(first)
    queue.add(other)
    queue.charge(first, 1000)
    queue.remove(first)
    queue.close(first)
    queue.add(waiting("a again", "a", arrival_s=-5.0))
    assert names(queue.first(2)) == ["b", "a again"]


def test_priorities_count_within_a_tenant_and_age() -> None:
    queue = FairQueue()
    queue.add(waiting("plain", arrival_s=0.0))
    queue.add(waiting("urgent", arrival_s=5.0, priority=-1))
    queue.add(waiting("whenever", arrival_s=0.0, priority=2))
    queue.add(waiting("later", arrival_s=2.5 * AGE_S))
    assert names(list(queue)) == ["urgent", "plain", "whenever", "later"]


def test_what_was_preempted_goes_on_first() -> None:
    queue = FairQueue()
    ran = waiting("ran", "greedy")
    queue.add(ran)
    queue.remove(ran)
    queue.charge(ran, 1000)
    queue.add(waiting("new", "other"))
    queue.add_preempted(ran)
    assert names(list(queue)) == ["ran", "new"]
    assert len(queue) == 2
    queue.remove(ran)
    assert names(list(queue)) == ["new"]
    with pytest.raises(ValueError, match="not in list"):
        queue.remove(ran)


def asked(name: str, tenant: str, prompt_tokens: int, max_tokens: int = 4) -> Request:
    prompt = tuple((ord(name[0]) + 7 * at) % 250 for at in range(prompt_tokens))
    sampling = Sampling(max_tokens=max_tokens, temperature=0, ignore_eos=True)
    return Request(request_id=name, prompt=prompt, sampling=sampling, tenant=tenant)


def test_a_flood_delays_another_tenant_by_steps_not_by_its_length(decoder: Decoder) -> None:
    """Forty long prompts came first; a short one of somebody else starts within two steps, in the midst of a prompt."""
    config = EngineConfig(
        num_blocks=400, threads=1, prefill_share=32, step_tokens=64, max_running=8, prefix_cache=False
    )
    engine = Engine(decoder, ByteTokenizer(), config)
    for number in range(40):
        engine.add(asked(f"{number} flood", "flood", 100))
    for _ in range(2):
        engine.step()
    engine.add(asked("short", "other", 20))
    started = [event.request_id for _ in range(2) for event in engine.step() if isinstance(event, StartEvent)]
    assert "short" in started
    events = finish(engine)
    assert len(events) == 41
    assert engine.load().used_blocks == 0


def test_a_tenant_may_hold_only_so_much_of_the_queue(decoder: Decoder) -> None:
    engine = Engine(decoder, ByteTokenizer(), EngineConfig(num_blocks=64, threads=1, max_queued=3))
    for number in range(3):
        engine.add(asked(f"{number}", "flood", 8))
    with pytest.raises(Overloaded, match="3 requests of this tenant"):
        engine.add(asked("one more", "flood", 8))
    engine.add(asked("other", "other", 8))
    finish(engine)
    engine.add(asked("again", "flood", 8))
    finish(engine)
    with pytest.raises(BadSettings, match="max_queued 0"):
        EngineConfig(max_queued=0)


def test_a_tenant_without_a_place_gets_one_where_another_has_all(decoder: Decoder) -> None:
    """Long answers of one tenant hold every place; whoever gives up his goes on where he was, with the same answer."""
    config = EngineConfig(num_blocks=400, threads=1, max_running=3)
    alone: dict[str, list[int]] = {}
    for number in range(3):
        engine = Engine(decoder, ByteTokenizer(), config)
        engine.add(asked(f"{number}", "flood", 20, max_tokens=100))
        alone |= {name: tokens(events) for name, events in finish(engine).items()}
    engine = Engine(decoder, ByteTokenizer(), config)
    for number in range(3):
        engine.add(asked(f"{number}", "flood", 20, max_tokens=100))
    for _ in range(20):
        engine.step()
    engine.add(asked("other", "other", 20))
    started = [event.request_id for _ in range(2) for event in engine.step() if isinstance(event, StartEvent)]
    assert started == ["other"]
    assert engine.load().preemptions == 1
    engine.add(asked("another", "other", 20))
    events = finish(engine)
    assert all(tokens(events[name]) == alone[name][-len(tokens(events[name])) :] for name in alone)


def test_time_alone_is_no_debt() -> None:
    queue = FairQueue()
    first = waiting("night", "a")
    queue.add(first)
    queue.remove(first)
    queue.charge(first, 1_000_000)
    queue.close(first)
    queue.add(waiting("b 1", "b", arrival_s=1.0))
    queue.add(waiting("b 2", "b", arrival_s=2.0))
    queue.add(waiting("a", "a", arrival_s=3.0))
    assert [serve(queue, 10) for _ in range(3)] == ["b 1", "a", "b 2"]
