"""Profiling a workload: what it hands on, and that recording costs little."""

import pytest

from burnish.core.errors import BadSettings
from burnish.core.profile_summary import summarize
from burnish.engine.engine import Engine
from burnish.measure.energy import EnergyMeter
from burnish.measure.profile import EngineProfile, profile_engine
from burnish.measure.speed import Workload, engine_config
from tests.tiny import VOCAB_SIZE, tiny_decoder

WORK = Workload(prompt_tokens=40, output_tokens=9, concurrency=2, repeat=3)


def profiled(workload: Workload = WORK, *, num_steps: int = 100) -> EngineProfile:
    engine = Engine(tiny_decoder(), None, engine_config(workload, threads=1))
    meter = EnergyMeter(lambda: ())
    return profile_engine(engine, VOCAB_SIZE, workload, num_steps=num_steps, watts_per_core=10.0, meter=meter)


def test_one_run_is_recorded_whole() -> None:
    found = profiled()
    summary = summarize(found.profile)
    assert found.is_whole
    assert (summary.num_steps, summary.prefill_tokens, summary.decode_tokens) == (9, 80, 16)
    assert summary.output_tokens == 18
    assert sum(share.share for share in summary.shares) == pytest.approx(1)
    assert sum(share.of_prefill for share in summary.shares) == pytest.approx(1)
    assert sum(share.of_decode for share in summary.shares) == pytest.approx(1)


def test_steps_beyond_the_limit_are_told_to_be_missing() -> None:
    found = profiled(num_steps=4)
    assert not found.is_whole
    assert len(found.profile.steps) == 4
    assert profiled(num_steps=9).is_whole


def test_work_and_energy_are_those_of_all_runs() -> None:
    found = profiled()
    assert (found.work.input_tokens, found.work.output_tokens) == (6 * 80, 6 * 18)
    assert 0.5 < found.work.busy_share <= 1
    assert found.energy.is_estimated
    assert 0 < found.energy.joules < 10.0 * found.work.seconds * 4


def test_no_step_is_no_profile() -> None:
    with pytest.raises(BadSettings, match="steps 0 is too small"):
        profiled(num_steps=0)


def test_recording_costs_a_bounded_share_of_a_step() -> None:
    """The quickest of many runs each, in turns: a step of a tiny model, of which any constant is the largest share."""
    work = Workload(prompt_tokens=8, output_tokens=60, repeat=15)
    found = profiled(work)
    slowdown = 1 - found.recorded_speed.decode_tokens_per_s.max / found.speed.decode_tokens_per_s.max
    assert slowdown < 0.5


def test_a_recorder_that_was_left_is_told_nothing_more() -> None:
    engine = Engine(tiny_decoder(), None, engine_config(WORK, threads=1))
    profile_engine(engine, VOCAB_SIZE, WORK, num_steps=100, meter=EnergyMeter(lambda: ()))
    assert engine._recorder is None
