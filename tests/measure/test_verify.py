"""The promise holds on sound models of every kind, and a broken one is caught."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from burnish.compress.chain import decoder_chain
from burnish.compress.recipes import find_recipe
from burnish.compress.walk import compress
from burnish.core.errors import BadRequest
from burnish.engine import engine
from burnish.measure import verify as room
from burnish.measure.verify import verify
from burnish.plan.executor import Backend, make_executor
from burnish.plan.ops import Arena, Floats, Plan, StepInputs
from tests.tiny import tiny_decoder

NAMES = [
    *("batch of 1 or 7", "batch of 1 or 16"),
    *(f"whole prompts or chunks of {size}" for size in (1, 16, 512)),
    *("prefix cache on or off", "1 or 2 threads", "preempted or not"),
]
ALL_NAMES = [f"{name}, {keys} keys" for keys in ("f32", "f16", "int8") for name in NAMES]


@pytest.mark.parametrize(
    "shape", [{}, {"windows": (8, None)}, {"norm": "layer", "learned_positions": True}, {"max_positions": 40}]
)
def test_sound_models_pass_and_say_what_happened(shape: dict[str, Any]) -> None:
    seen: list[tuple[int, int]] = []
    checks = verify(tiny_decoder(**shape), progress=lambda done, total: seen.append((done, total)))
    assert [check.name for check in checks] == ALL_NAMES
    assert all(check.passed for check in checks), checks
    assert all("256 tokens" in check.evidence and "bit-identical" in check.evidence for check in checks)
    assert seen == [(i, 24) for i in range(1, 25)]


@pytest.mark.parametrize("recipe", ["int8", "int4"])
def test_compressed_models_pass(recipe: str) -> None:
    decoder = tiny_decoder()
    compress(decoder_chain(decoder), find_recipe(recipe))
    assert all(check.passed for check in verify(decoder))


def leaky_executor(plan: Plan, arena: Arena, backend: Backend) -> Callable[[StepInputs], Floats]:
    """Rows see a trace of how many others there are."""
    sound = make_executor(plan, arena, backend)
    return lambda inputs: sound(inputs) * np.float32(1 + len(inputs.tokens) * 2.0**-22)


def test_a_row_that_depends_on_its_batch_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "make_executor", leaky_executor)
    checks = {check.name: check for check in verify(tiny_decoder(), keys=("f16",))}
    found = checks["batch of 1 or 7, f16 keys"]
    assert not found.passed
    assert "differ" in found.evidence


def test_a_check_that_tested_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "replace", lambda config, **_: config)  # no run differs from the plain one any more
    checks = verify(tiny_decoder(), keys=("f32",))
    assert [check.passed for check in checks] == [True, True, *[False] * 6]
    assert all("never happened" in check.evidence for check in checks[2:])


@pytest.mark.parametrize("max_positions", range(8, 40, 3))
def test_everything_happens_in_a_short_context(max_positions: int) -> None:
    checks = verify(tiny_decoder(max_positions=max_positions), keys=("f16",))
    assert all(check.passed for check in checks), checks


def test_a_context_too_short_for_anything_is_refused() -> None:
    with pytest.raises(BadRequest, match=r"a context of 7 is too short .* It takes 8 positions"):
        verify(tiny_decoder(max_positions=7))
