"""Recording: what a step is made of, on a clock that is told and on the real one; answers do not change."""

import time
from pathlib import Path
from statistics import median

import pytest

from burnish.core.profile import BATCH, FORWARD, RECORD, SAMPLE, SCHEDULE, UPDATE, Part
from burnish.core.profile_summary import CALL, summarize
from burnish.core.types import Event
from burnish.engine.config import EngineConfig
from burnish.engine.engine import Engine
from burnish.engine.recorder import Recorder, card_ranges
from burnish.models.decoder import Decoder
from tests.engine.conftest import MakeEngine, finish, request, run, tokens
from tests.tiny import ByteTokenizer, FakeClock, tiny_decoder

PHASES = [SCHEDULE, RECORD, BATCH, FORWARD, SAMPLE, UPDATE]


class Ranges:
    """A card's time line, written down."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.depth = 0

    def range_push(self, msg: str) -> None:
        self.said.append(f"{' ' * self.depth}{msg}")
        self.depth += 1

    def range_pop(self) -> None:
        self.depth -= 1
        assert self.depth >= 0


def test_parts_tell_what_was_computed_and_for_whom(make_engine: MakeEngine) -> None:
    engine = make_engine(max_running=4, step_tokens=16, prefill_share=8, prefill_floor=8)
    recorder = engine.record(100)
    run(engine, [request("a", [1] * 20, max_tokens=3), request("b", [2] * 4, max_tokens=2)])
    parts = [step.parts for step in recorder.profile().steps]
    a_arrived, b_arrived = parts[0][0].arrival_s, parts[1][1].arrival_s
    assert parts == [
        (Part(1, 16, 16, True, 0, a_arrived),),
        (Part(1, 4, 20, True, 1, None), Part(2, 4, 4, True, 1, b_arrived)),
        (Part(1, 1, 21, False, 1, None), Part(2, 1, 5, False, 1, None)),
        (Part(1, 1, 22, False, 1, None),),
    ]
    assert a_arrived is not None
    assert b_arrived is not None


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_phases_and_operations_sum_to_the_steps_on_the_wall_clock(backend: str) -> None:
    decoder = tiny_decoder(seed=3, hidden_size=256, inner_size=768, num_layers=4)
    engine = Engine(
        decoder,
        ByteTokenizer(),
        EngineConfig(num_blocks=64, block_size=8, threads=1, backend=backend),  # type: ignore[arg-type]
    )
    run(engine, [request("warm", [1, 2])])
    engine.add(request("a", list(range(64)), max_tokens=30))
    recorder, walls = engine.record(100), list[float]()
    while engine.has_work:
        begun_s = time.perf_counter()
        engine.step()
        walls.append(time.perf_counter() - begun_s)
    profile = recorder.profile()
    assert len(profile.steps) == len(walls) == 30
    outside = [1 - step.seconds / wall for step, wall in zip(profile.steps, walls, strict=True)]
    assert 0 <= median(outside) < 0.05
    for step in profile.steps:
        assert [phase.name for phase in step.phases] == PHASES
        assert all(left.end_s == right.begin_s for left, right in zip(step.phases, step.phases[1:], strict=False))
        forward = step.phases[PHASES.index(FORWARD)]
        assert 0 < sum(step.operations_s) <= forward.end_s - forward.begin_s
    summary = summarize(profile)
    assert sum(share.seconds for share in summary.shares) == pytest.approx(summary.steps_s)
    assert sum(share.share for share in summary.shares) == pytest.approx(1)
    [call] = [share for share in summary.shares if share.name == CALL]
    assert call.share < 0.2
    assert (summary.prefill_tokens, summary.decode_tokens, summary.output_tokens) == (64, 29, 30)


def test_answers_are_the_same_while_recorded(make_engine: MakeEngine) -> None:
    prompts = [[1, 2, 3] * 9, [7] * 40, [9, 8]]
    engines = [make_engine(max_running=4, step_tokens=24, prefill_share=16) for _ in range(2)]
    engines[1].record(7)  # fills up on the way
    plain, recorded = (
        run(engine, [request(str(i), prompt, logprobs=2) for i, prompt in enumerate(prompts)]) for engine in engines
    )
    assert {name: tokens(events) for name, events in plain.items()} == {
        name: tokens(events) for name, events in recorded.items()
    }
    assert _without_times(plain) == _without_times(recorded)


def _without_times(events: dict[str, list[Event]]) -> dict[str, list[str]]:
    return {name: [str(event) for event in found if "queue_s" not in str(event)] for name, found in events.items()}


def test_no_more_steps_than_asked_for_and_none_once_stopped(make_engine: MakeEngine) -> None:
    engine = make_engine()
    recorder = engine.record(3)
    run(engine, [request("a", [1, 2, 3])])
    assert recorder.is_full
    assert len(recorder.profile().steps) == 3
    recorder = engine.record(100)
    engine.add(request("b", [1, 2, 3]))
    engine.step()
    engine.stop_recording()
    finish(engine)
    assert len(recorder.profile().steps) == 1


def test_a_step_that_raises_leaves_nothing_behind(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(decoder, ByteTokenizer(), EngineConfig(num_blocks=64, block_size=8, threads=1))
    recorder = engine.record(100)
    engine.add(request("a", [1, 2, 3]))
    with monkeypatch.context() as broken:
        broken.setattr("burnish.engine.engine.sample", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.step()
    engine.fail("broken")
    run(engine, [request("b", [1, 2, 3], max_tokens=2)])
    assert [[phase.name for phase in step.phases] for step in recorder.profile().steps] == [PHASES, PHASES]


def test_a_card_is_told_the_same_names_in_the_same_order(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    ranges = Ranges()
    monkeypatch.setattr("burnish.engine.engine.card_ranges", lambda: ranges)
    engine = Engine(decoder, ByteTokenizer(), EngineConfig(num_blocks=64, block_size=8, threads=1))
    recorder = engine.record(2)
    run(engine, [request("a", [1, 2, 3])])
    told = ["step", *(f" {phase.name}" for phase in recorder.profile().steps[0].phases)]
    assert ranges.said == told * 2
    assert ranges.depth == 0


def test_ranges_of_a_step_that_raised_are_closed_by_the_next() -> None:
    ranges, clock = Ranges(), FakeClock()
    recorder = Recorder((), 2, clock=clock, ranges=ranges)
    for phase in (SCHEDULE, BATCH, SCHEDULE, BATCH):
        recorder.begin(phase)
    recorder.end([], [])
    assert ranges.said == ["step", " schedule", " batch"] * 2
    assert ranges.depth == 0


def test_without_a_driver_there_are_no_ranges(tmp_path: Path) -> None:
    assert card_ranges(tmp_path / "nvidiactl") is None


def test_the_clock_is_the_engines(decoder: Decoder) -> None:
    clock = FakeClock(100.0)
    engine = Engine(decoder, None, EngineConfig(num_blocks=64, block_size=8, threads=1), clock=clock)
    engine.add(request("a", [1, 2, 3], max_tokens=1))
    clock.advance(2.0)
    recorder = engine.record(1)
    engine.step()
    [step] = recorder.profile().steps
    assert (step.begin_s, step.end_s, step.parts[0].arrival_s) == (102.0, 102.0, 100.0)
