"""The promise holds on sound models of every kind, and a broken one is caught."""

from typing import Any

import pytest
from torch import Tensor

from burnish.compress.recipe import find_recipe
from burnish.compress.walk import compress
from burnish.core.errors import BadRequest
from burnish.measure import verify as room
from burnish.measure.verify import verify
from burnish.models.decoder import Decoder
from tests.tiny import tiny_decoder

NAMES = ["batch of 1 or N", "chunked or whole prefill", "prefix cache on or off", "preempted or not"]


@pytest.mark.parametrize(
    "shape", [{}, {"windows": (8, None)}, {"norm": "layer", "learned_positions": True}, {"max_positions": 40}]
)
def test_sound_models_pass_and_say_what_happened(shape: dict[str, Any]) -> None:
    seen: list[tuple[int, int]] = []
    checks = verify(tiny_decoder(**shape), progress=lambda done, total: seen.append((done, total)))
    assert [check.name for check in checks] == NAMES
    assert all(check.passed for check in checks), checks
    assert all("64 tokens" in check.evidence and "bit-identical" in check.evidence for check in checks)
    assert seen == [(i, 4) for i in (1, 2, 3, 4)]


@pytest.mark.parametrize("recipe", ["int8", "int4"])
def test_compressed_models_pass(recipe: str) -> None:
    decoder = tiny_decoder()
    compress(decoder, find_recipe(recipe))
    assert all(check.passed for check in verify(decoder))


class Leaky(Decoder):
    """Rows see a trace of how many others there are."""

    def logits(self, hidden: Tensor) -> Tensor:
        return super().logits(hidden) * (1 + len(hidden) * 2.0**-22)


def test_a_row_that_depends_on_its_batch_is_caught() -> None:
    sound = tiny_decoder()
    leaky = Leaky(sound.config)
    leaky.load_state_dict(sound.state_dict())
    checks = {check.name: check for check in verify(leaky.requires_grad_(False))}
    assert not checks["batch of 1 or N"].passed
    assert "differ" in checks["batch of 1 or N"].evidence


def test_a_check_that_tested_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "replace", lambda config, **_: config)  # no run differs from the plain one any more
    checks = verify(tiny_decoder())
    assert [check.passed for check in checks] == [True, False, False, False]
    assert all("never happened" in check.evidence for check in checks[1:])


@pytest.mark.parametrize("max_positions", range(8, 40, 3))
def test_everything_happens_in_a_short_context(max_positions: int) -> None:
    checks = verify(tiny_decoder(max_positions=max_positions))
    assert all(check.passed for check in checks), checks


def test_a_context_too_short_for_anything_is_refused() -> None:
    with pytest.raises(BadRequest, match=r"a context of 7 is too short .* It takes 8 positions"):
        verify(tiny_decoder(max_positions=7))
