"""Speed: the arithmetic on a clock that ticks by the step, and what the requests are."""

from typing import Any

import pytest

from burnish.core.errors import BadRequest, BadSettings
from burnish.core.types import Event, Request
from burnish.engine.engine import Engine
from burnish.measure.speed import Spread, Workload, engine_config, joined, measure_speed, warm_up
from tests.tiny import VOCAB_SIZE, FakeClock, tiny_decoder


class Watched(Engine):
    """An engine whose every step takes one second, and that remembers what it was asked."""

    def __init__(self, workload: Workload, **more: Any) -> None:
        self.clock, self.asked = FakeClock(), list[Request]()
        super().__init__(tiny_decoder(), None, engine_config(workload, threads=None), **more)

    def add(self, request: Request) -> None:
        self.asked.append(request)
        super().add(request)

    def step(self) -> list[Event]:
        self.clock.advance(1.0)
        return super().step()


@pytest.mark.parametrize(
    ("workload", "prefill", "decode"),
    [
        # one step reads 40 tokens and writes one; 4 more steps write 4
        (Workload(prompt_tokens=40, output_tokens=5, repeat=3), 40.0, 1.0),
        # 3 together: one step reads all
        (Workload(prompt_tokens=40, output_tokens=5, concurrency=3, repeat=2), 120.0, 3.0),
        # 400 tokens each, 512 in a first step, then 256 beside a decode: the third step completes the second prompt
        (Workload(prompt_tokens=400, output_tokens=9, concurrency=2, repeat=1), 800 / 3, (8 + 8 - 2) / 8),
    ],
)
def test_rates_follow_from_the_events(workload: Workload, prefill: float, decode: float) -> None:
    engine = Watched(workload)
    speed = measure_speed(engine, VOCAB_SIZE, workload, clock=engine.clock)
    assert speed.prefill_tokens_per_s == pytest.approx((prefill,) * 3)
    assert speed.decode_tokens_per_s == pytest.approx((decode,) * 3)


def test_every_prompt_is_new_and_nothing_stops_early() -> None:
    workload = Workload(prompt_tokens=48, output_tokens=3, concurrency=2, repeat=3)
    engine = Watched(workload)
    seen: list[tuple[int, int]] = []
    measure_speed(engine, VOCAB_SIZE, workload, progress=lambda done, total: seen.append((done, total)))
    assert len(engine.asked) == len({request.prompt for request in engine.asked}) == 2 * 4
    assert all(request.sampling.ignore_eos and request.sampling.temperature == 0 for request in engine.asked)
    assert engine.load().prefix_hit_tokens == 0
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_prompts_are_the_same_for_every_model() -> None:
    workload = Workload(prompt_tokens=20, output_tokens=2, repeat=1)
    first, second = Watched(workload), Watched(workload)
    for engine in (first, second):
        measure_speed(engine, VOCAB_SIZE, workload)
    assert [request.prompt for request in first.asked] == [request.prompt for request in second.asked]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_the_engine_has_just_enough_room(concurrency: int) -> None:
    workload = Workload(prompt_tokens=33, output_tokens=16, concurrency=concurrency, repeat=1)
    engine = Watched(workload)
    measure_speed(engine, VOCAB_SIZE, workload)
    assert engine.load().preemptions == 0
    assert engine.load().total_blocks == 4 * concurrency


def test_a_thousand_together_fit_a_step() -> None:
    assert engine_config(Workload(concurrency=2000), threads=None).max_running == 2000


def test_warm_up_leaves_nothing_behind() -> None:
    engine = Watched(Workload(prompt_tokens=8))
    warm_up(engine, VOCAB_SIZE)
    assert not engine.has_work
    assert engine.load().used_blocks == 0


@pytest.mark.parametrize("wrong", [{"prompt_tokens": 0}, {"output_tokens": 1}, {"concurrency": 0}, {"repeat": 0}])
def test_a_workload_that_measures_nothing_is_refused(wrong: dict[str, int]) -> None:
    (name,) = wrong
    with pytest.raises(BadSettings, match=f"{name} .* is too small"):
        Workload(**wrong)


def test_a_workload_beyond_the_context_is_refused() -> None:
    workload = Workload(prompt_tokens=500, output_tokens=50)
    with pytest.raises(BadRequest, match="limit of 512"):
        measure_speed(Watched(workload), VOCAB_SIZE, workload)


def test_rounds_become_one_figure() -> None:
    assert joined([Spread(10.0, 8.0, 11.0), Spread(12.0, 9.0, 20.0)]) == Spread(11.0, 8.0, 20.0)
