"""The page says what the figures say."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.report import memory_share, page, ratio
from benchmarks.results import Measured, Results, Start, read


def measured(peer: str, weights: str, decode: list[float], **more: object) -> Measured:
    line = Measured(shape="143m", format=weights, peer=peer, variant="x", label=f"{peer} {weights}")
    line.runs = {"decode-1": decode}
    line.others = {"decode-1": [0.0] * len(decode)}
    for name, value in more.items():
        setattr(line, name, value)
    return line


@pytest.fixture
def results() -> Results:
    return Results(
        date="2026-01-02 03:04 UTC",
        commit="abc",
        machine={"cpu": "Some CPU", "num_cores": 2, "memory_bytes": 2**34, "features": ["avx2"], "system": "Linux"},
        threads=2,
        rounds=3,
        bandwidth_before={"1": 15e9, "2": 20e9},
        bandwidth_after={"1": 15e9, "2": 25e9},
        cache_bytes=10**7,
        parameters={"143m": 10**8},
        versions={"llama-cpp-python": "1.0"},
        lines=[
            measured("burnish", "int4", [200.0, 150.0, 100.0], read_bytes=10**8, ready_s=1.25, peak_rss_bytes=10**8),
            measured("llama_cpp", "int4", [50.0, 60.0, 40.0]),
            measured("openvino", "int4", [100.0, 75.0, 20.0], reason="it stopped | half-way"),
            measured("burnish", "int8", [80.0, 90.0, 100.0]),
        ],
        start=None,
        is_whole=True,
    )


def test_ratios_are_of_medians_to_the_best_other(results: Results) -> None:
    lines = results.lines[:3]
    assert ratio(lines[0], lines, "decode-1") == 2.0
    assert ratio(lines[0], lines, "decode-1", ["llama_cpp"]) == 3.0
    assert ratio(lines[0], lines, "prefill-128") is None
    assert ratio(results.lines[3], results.lines[3:], "decode-1") is None


def test_the_share_of_memory_is_of_the_best_bandwidth(results: Results) -> None:
    assert results.bandwidth == 25e9
    assert memory_share(results.lines[0], results) == 150 * 1e8 / 25e9
    assert memory_share(results.lines[1], results) is None
    assert memory_share(results.lines[0], replace(results, cache_bytes=10**8)) is None
    assert memory_share(results.lines[0], replace(results, bandwidth_before={}, bandwidth_after={})) is None


def test_the_page_tells_figures_ratios_and_reasons(results: Results) -> None:
    text = page(results)
    assert "| 143M, int4 | - | - | 2.00x | - | 3.00x | 60% |" in text
    assert "| **burnish int4** | - | - | **150** (100 - 200) | - | 60% | 1.2 s | 100 MB |" in text
    assert "| openvino int4: it stopped / half-way | - | - | 75.0 (20.0 - 100) |" in text
    assert "2 threads 20.0 GB/s before the run, 25.0 after" in text
    assert "1.1B" not in text


def test_a_loaded_machine_is_said(results: Results) -> None:
    assert "during 0 of 12 runs" in page(results)
    assert "loaded" not in page(results)
    results.lines[0].others["decode-1"] = [0.0, 0.9, 0.8]
    assert "during 2 of 12 runs, 0.00 in the median. **The machine was loaded" in page(results)


def test_a_run_that_was_stopped_says_so(results: Results) -> None:
    assert "stopped before its end" not in page(results)
    results.is_whole = False
    results.lines.append(Measured(shape="143m", format="int8", peer="openvino", variant="x", label="OpenVINO int8"))
    text = page(results)
    assert "**The run was stopped before its end:**" in text
    assert "| OpenVINO int8 | - | - | - | - | - | - | - |" in text


def test_starts_are_told(results: Results) -> None:
    start = Start(
        shape="1.1b",
        weights="int4-g32",
        cold_s=9.0,
        warm_s=[1.5, 1.0, 2.0],
        artifact_bytes=7 * 10**8,
        peak_rss_bytes=8 * 10**8,
    )
    text = page(replace(results, start=start))
    assert (
        "700 MB: 9.00 s with an empty cache of its own, then 1.50 s\n(1.00 - 2.00). Peak resident memory 800 MB" in text
    )
    assert "not measured (no room)" in page(replace(results, start_reason="no room"))


def test_results_survive_their_file(results: Results, tmp_path: Path) -> None:
    results.write(tmp_path / "cpu.json")
    assert read(tmp_path / "cpu.json") == results
