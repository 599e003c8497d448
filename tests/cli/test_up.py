"""burnish up --only-measure: a diagnosis and a search, kept, and searched anew when asked or when due."""

import shutil
from pathlib import Path

import pytest

from burnish.registry.artifact import is_whole
from tests.cli.conftest import Run

WORDS = ("--only-measure", "--threads", 1, "--max-loss", 1, "--objective", "memory", "--time-limit", "30s")


def test_up_searches_once_and_again_when_told(burnish: Run, tiny_folder: Path, prose: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_folder, tmp_path / "model")
    first = burnish("up", model, "--data", prose, *WORDS, "--json").json
    assert first["best"] == first["report"]["chosen"]
    assert first["reason"] == first["report"]["reason"]
    names = [one["name"] for one in first["report"]["candidates"]]
    assert names[0] == "as it is"
    assert set(names) >= {"int8", "int4-g32", "int4-g128"}, "whatever is tried first"
    assert first["findings"]
    kept = [folder for folder in (tmp_path / "cache").rglob("best") if folder.is_dir()]
    assert len(kept) == 1
    assert (kept[0] / "report.html").is_file()
    if not first["best"].startswith("as it is"):
        assert is_whole(kept[0])
        assert burnish("verify", kept[0], "--json").json["passed"]  # what would be served is there and sound

    second = burnish("up", model, "--data", prose, *WORDS, "--json")
    assert second.json == first
    assert "Figures of an earlier search" in second.err

    moved = tmp_path / "moved"
    model.rename(moved)
    third = burnish("up", moved, "--data", prose, *WORDS, "--json")
    assert third.json["report"] == first["report"]

    shown = burnish("up", moved, "--data", prose, *WORDS)
    assert all(words in shown.out for words in ("as it is", "int8", "Best: ", "bounds it"))

    text = tmp_path / "text.txt"
    text.write_text(prose.read_text().replace("foxes", "boxes"))
    other = burnish("up", moved, "--data", text, *WORDS, "--json")
    assert "Figures of an earlier search" not in other.err
    assert other.json["report"]["conditions"]["text"] != first["report"]["conditions"]["text"]


@pytest.mark.slow
def test_a_damaged_variant_is_found_again(burnish: Run, tiny_folder: Path, prose: Path, tmp_path: Path) -> None:
    first = burnish("up", tiny_folder, "--data", prose, *WORDS, "--json").json
    [kept] = [folder for folder in (tmp_path / "cache").rglob("best") if folder.is_dir()]
    if first["best"].startswith("as it is"):
        pytest.skip("nothing was made")
    (kept / "model.safetensors").write_bytes(b"damaged")
    second = burnish("up", tiny_folder, "--data", prose, *WORDS, "--json")
    assert "Figures of an earlier search" not in second.err
    assert is_whole(kept)


def test_what_needs_a_price_is_refused(burnish: Run, tiny_folder: Path) -> None:
    assert "cost needs the price" in burnish("up", tiny_folder, "--objective", "cost").complaint
