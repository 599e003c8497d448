"""The page on compression is computed from what was measured: its order, its verdicts, what is not there yet."""

from typing import Any

import pytest

from burnish.compress.recipes import RECIPES as KNOWN
from scripts.compression_page import AIMS, KEYS, RECIPES, page
from scripts.measured import TEXTS, Kept

ABOUT: dict[str, Any] = {"model": "builtin", "max_tokens": 20_000} | dict.fromkeys(TEXTS, "0" * 64)


def loss(value: float, half: float, kl: float) -> dict[str, Any]:
    """What ``burnish quality --json`` prints, as far as the page reads it."""
    return {
        "loss_ratio": {"value": value, "low": value - half, "high": value + half},
        "kl": {"value": kl},
        "top1_agreement": {"value": 0.9},
    }


def measured(value: float, half: float, kl: float) -> dict[str, Any]:
    found: dict[str, Any] = {"bytes": 2**20, "parent_bytes": 2**21, "seconds": 5.0, "peak_bytes": 2**28}
    return found | {text: loss(value, half, kl) for text in TEXTS}


def test_every_recipe_of_the_page_is_one_of_ours() -> None:
    assert set(RECIPES) <= set(KNOWN)
    assert len(set(RECIPES)) == len(RECIPES)
    assert {name for aim in AIMS for name in aim.recipes} - {KEYS} <= set(RECIPES)


def test_rows_are_ordered_and_what_is_missing_is_said() -> None:
    found = {"int4-gptq-g128": measured(0.01, 0.002, 0.01), "int8": measured(0.0001, 0.0001, 0.0001)}
    written = page(ABOUT, found, {})
    assert written.index("| `int8` |") < written.index("| `int4-gptq-g128` |")
    assert "five bits on average, mixed, at most 1.5 %: not measured" in written
    assert f"| {KEYS} |" not in written


@pytest.mark.parametrize(
    ("value", "half", "said"), [(0.01, 0.002, "met"), (0.05, 0.002, "missed"), (0.03, 0.002, "open: the interval")]
)
def test_verdicts_come_from_intervals(value: float, half: float, said: str) -> None:
    written = page(ABOUT, {"int4-gptq-g128": measured(value, half, 0.01)}, {})
    told = f"{100 * value:+.2f} ± {100 * half:.2f} %, {said}"
    assert written.count(told) == len(TEXTS)


def test_the_pass_is_judged_that_loses_least_where_it_loses_most() -> None:
    uneven = measured(0.001, 0.0001, 0.01) | {"WikiText-2": loss(0.031, 0.0001, 0.01)}
    found = {"int4-autoround-g128": uneven, "int4-gptq-g128": measured(0.02, 0.001, 0.02)}
    written = page(ABOUT, found, {text: loss(0.0, 0.0001, 0.0) for text in TEXTS})
    assert "by the best pass, at most 3.0 % (`int4-gptq-g128`): stories +2.00 ± 0.10 %, met" in written
    assert f"- {KEYS}, at most 0.2 %: stories +0.00 ± 0.01 %, met" in written


def test_laws_that_do_not_hold_are_told() -> None:
    found = {"int4-g128": measured(0.02, 0.002, 0.02), "int4-gptq-g128": measured(0.01, 0.002, 0.01)}
    found |= {"int4-awq-g128": measured(0.03, 0.002, 0.03)}
    written = page(ABOUT, found, {})
    assert "| `int4-gptq-g128` | `int4-g128` | 0.0100, 0.0200 | 0.0100, 0.0200 |" in written
    assert "| `int4-awq-g128` | `int4-g128` | 0.0300, 0.0200: no | 0.0300, 0.0200: no |" in written
    assert "wanda" not in written


def test_results_are_forgotten_when_what_they_depend_on_changes(tmp_path: Any) -> None:
    Kept(tmp_path / "kept.json", {"model": "a"}).put("recipes", "int8", {"bytes": 1})
    Kept(tmp_path / "kept.json", {"model": "a"}).put("keys", "stories", {"kl": 0})
    assert Kept(tmp_path / "kept.json", {"model": "a"}).section("recipes") == {"int8": {"bytes": 1}}
    assert Kept(tmp_path / "kept.json", {"model": "a"}).section("keys") == {"stories": {"kl": 0}}
    assert Kept(tmp_path / "kept.json", {"model": "b"}).section("recipes") == {}
