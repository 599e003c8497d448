"""The report as a browser shows it: nothing from elsewhere, its picture drawn, its figures those of the data."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from burnish.optimize.candidates import Candidate
from burnish.optimize.report import page, plain
from burnish.optimize.search import Asked, Search
from tests.optimize.test_search import FAST, KnownLab, halves

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)"),
]


@pytest.fixture
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


def test_the_page_shows_what_the_data_says(browser: Any, tmp_path: Path) -> None:
    asked = Asked(objective="latency", max_loss=0.01, concurrency=4)
    found = Search(KnownLab(FAST), asked, halves()).run([Candidate(recipe=name) for name in FAST])
    report = plain(found, asked, {"model": "known", "seed": 0})
    (tmp_path / "report.html").write_text(page(report), encoding="utf-8")
    shown = browser.new_page(viewport={"width": 1000, "height": 1400})
    asked_for = []
    shown.on("request", lambda request: asked_for.append(request.url))
    shown.goto((tmp_path / "report.html").as_uri())
    assert [url for url in asked_for if not url.startswith(("file:", "data:"))] == []
    assert shown.eval_on_selector("img", "image => image.complete && image.naturalWidth > 300")
    assert shown.inner_text("h1") == report["chosen"]
    timed = [one for one in report["candidates"] if "figures" in one]
    rows = shown.locator("table").nth(0).locator("tr").all()[1:]
    assert len(rows) == len(timed)
    for row, one in zip(rows, timed, strict=True):
        text = row.inner_text()
        assert text.startswith(one["name"])
        assert f"{one['ratio']['value']:.3f}" in text
        assert f"{100 * one['loss']['value']:+.2f}" in text
        assert f"{one['figures']['tokens_per_s']:.1f}" in text
    assert len(shown.locator("table").nth(1).locator("tr").all()) == len(report["candidates"]) + 1
    assert shown.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    shown.screenshot(path=tmp_path / "report.png", full_page=True)
    assert (tmp_path / "report.png").stat().st_size > 20_000
