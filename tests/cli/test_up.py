"""burnish up --only-measure: three variants on the same tokens, kept, and measured anew when asked or when due."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run

WORDS = ("--only-measure", "--threads", 1)


def figures(report: Any) -> list[Any]:
    """What no second measurement would give again."""
    return [(v["name"], v["peak_rss_bytes"], v["decode_tokens_per_s"]) for v in report["report"]["variants"]]


def test_up_measures_once_and_again_when_told(burnish: Run, tiny_folder: Path, prose: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_folder, tmp_path / "model")
    first = burnish("up", model, "--data", prose, *WORDS, "--json").json
    dense, *made = first["report"]["variants"]
    assert [dense["name"], *(variant["name"] for variant in made)] == ["dense", "int8", "int4"]
    assert (dense["path"], dense["loss_ratio"]) == (str(model), None)
    assert dense["file_bytes"] > made[0]["file_bytes"] > made[1]["file_bytes"]
    for variant in (dense, *made):
        assert Path(variant["path"], "config.json").is_file()
        assert 0 < variant["decode_tokens_per_s"]["min"] <= variant["decode_tokens_per_s"]["median"]
        assert variant["perplexity"]["low"] < variant["perplexity"]["value"] < variant["perplexity"]["high"]
        assert variant["peak_rss_bytes"] > 2**25
    for variant in made:
        ratio = variant["perplexity"]["value"] / dense["perplexity"]["value"]
        assert abs(variant["loss_ratio"]["value"] - (ratio - 1)) < 1e-9
    best = next(variant for variant in (dense, *made) if variant["name"] == first["best"])
    assert first["best"] in first["reason"]
    assert burnish("verify", best["path"], "--json").json["passed"]  # what would be served is there and sound

    second = burnish("up", model, "--data", prose, *WORDS, "--json")
    assert second.json == first
    assert "Figures of an earlier run" in second.err

    moved = tmp_path / "moved"
    model.rename(moved)
    third = burnish("up", moved, "--data", prose, *WORDS, "--json").json
    assert third["report"]["variants"][0]["path"] == str(moved)
    assert figures(third) == figures(first)

    shown = burnish("up", moved, "--data", prose, *WORDS, "--max-loss", 1e9)
    assert all(name in shown.out for name in ("dense", "int8", "int4", "Best: "))

    again = burnish("up", moved, "--data", prose, *WORDS, "--again", "--json").json
    assert figures(again) != figures(first)
    assert [v["perplexity"] for v in again["report"]["variants"]] == [
        v["perplexity"] for v in first["report"]["variants"]
    ]


@pytest.mark.slow
def test_a_changed_text_is_measured_anew(burnish: Run, tiny_folder: Path, prose: Path, tmp_path: Path) -> None:
    """Of a model that is slim already there is nothing to make, only itself to measure."""
    slim, text = tmp_path / "slim", tmp_path / "text.txt"
    assert burnish("compress", tiny_folder, slim, "--recipe", "int4").code == 0
    text.write_text(prose.read_text())
    first = burnish("up", slim, "--data", text, *WORDS, "--json").json
    assert [(variant["name"], variant["loss_ratio"]) for variant in first["report"]["variants"]] == [("int4-g64", None)]
    text.write_text(prose.read_text().replace("foxes", "boxes"))  # as long as before
    second = burnish("up", slim, "--data", text, *WORDS, "--json")
    assert "Figures of an earlier run" not in second.err
    assert second.json["report"]["variants"][0]["perplexity"] != first["report"]["variants"][0]["perplexity"]
