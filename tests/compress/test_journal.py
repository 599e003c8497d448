"""A walk that is interrupted goes on where it was and ends with the same bits."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from burnish.compress.calibration import Calibration, CalibrationConfig, draw
from burnish.compress.chain import decoder_chain
from burnish.compress.journal import Journal
from burnish.compress.recipes import find_recipe
from burnish.compress.walk import compress
from burnish.core.errors import BadSettings
from burnish.core.records import LayerRecord
from burnish.models.decoder import Decoder
from tests.tiny import tiny_decoder

KEY = {"parent": "a", "recipe": "b"}


class Killed(Exception):
    """What stops a run from outside."""


def model() -> Decoder:
    return tiny_decoder(num_layers=3, tied_embeddings=False, num_kv_heads=4)


def data() -> Calibration:
    tokens = torch.randint(0, 256, (4096,), generator=torch.Generator().manual_seed(0))
    return draw(tokens, 64, CalibrationConfig(samples=40, length=64))


def state(decoder: Decoder) -> dict[str, Tensor]:
    return dict(decoder.state_dict())


def run(decoder: Decoder, recipe: str, journal: Journal | None, stop_at: int = 10**9) -> list[LayerRecord]:
    def progress(done: int, total: int) -> None:
        assert total == 22
        if done == stop_at:
            raise Killed

    return compress(decoder_chain(decoder), find_recipe(recipe), data(), journal=journal, progress=progress)


@pytest.mark.parametrize("recipe", ["int4-gptq-g32", "int4-awq-g32", "int8-gptq", "int4-autoround-g32"])
@pytest.mark.parametrize("stop_at", [1, 7, 8, 15, 21, 22])
def test_what_was_finished_is_not_done_again(tmp_path: Path, recipe: str, stop_at: int) -> None:
    whole = model()
    expected = run(whole, recipe, None)
    with pytest.raises(Killed):
        run(model(), recipe, Journal(tmp_path / "j", KEY), stop_at)
    finished = len(list((tmp_path / "j").glob("part-*.safetensors")))
    assert finished == (stop_at - 1) // 7  # the part that was under way is lost, and only that
    again, steps = model(), list[int]()
    records = compress(
        decoder_chain(again),
        find_recipe(recipe),
        data(),
        journal=Journal(tmp_path / "j", KEY),
        progress=lambda done, _: steps.append(done),
    )
    assert steps[0] == 7 * finished + 1
    assert records == expected
    found, wanted = state(again), state(whole)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_data_that_was_lost_is_made_again(tmp_path: Path) -> None:
    whole = model()
    expected = run(whole, "int4-gptq-g32", None)
    with pytest.raises(Killed):
        run(model(), "int4-gptq-g32", Journal(tmp_path / "j", KEY), 16)
    (flow,) = (tmp_path / "j").glob("flow-*.safetensors")
    flow.write_bytes(b"cut short")
    assert run(model(), "int4-gptq-g32", Journal(tmp_path / "j", KEY)) == expected


def test_a_part_that_cannot_be_read_is_done_again(tmp_path: Path) -> None:
    whole = model()
    expected = run(whole, "int4-gptq-g32", None)
    with pytest.raises(Killed):
        run(model(), "int4-gptq-g32", Journal(tmp_path / "j", KEY), 16)
    (tmp_path / "j" / "part-0001.safetensors").write_bytes(b"cut short")
    assert run(model(), "int4-gptq-g32", Journal(tmp_path / "j", KEY)) == expected


def test_another_runs_journal_is_refused(tmp_path: Path) -> None:
    Journal(tmp_path / "j", KEY)
    with pytest.raises(BadSettings, match=r"unfinished run with another recipe\. Give the same settings"):
        Journal(tmp_path / "j", KEY | {"recipe": "c"})


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadSettings, match="cannot be written"):
        Journal(tmp_path / "file" / "j", KEY)


def test_nothing_is_left_when_it_is_closed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", KEY)
    run(model(), "int4-gptq-g32", journal)
    journal.close()
    assert list(tmp_path.iterdir()) == []
