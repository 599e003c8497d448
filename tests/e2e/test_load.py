"""Load on the real server: what the client saw is what the server says it did."""

import json
from pathlib import Path

from burnish.measure.load.arrivals import Traffic
from burnish.measure.load.latency import summarise
from burnish.measure.load.probe import find_target
from burnish.measure.load.run import run_load
from tests.service.conformance import metrics


def told(base_url: str) -> dict[str, float]:
    """Counts and sums of the server's metrics that a client can know as well."""
    found = metrics(base_url)
    names = {
        "requests": 'burnish_requests_finished_total{reason="length"}',
        "prompt_tokens": "burnish_prompt_tokens_total",
        "cached_tokens": "burnish_cached_tokens_total",
        "output_tokens": "burnish_generation_tokens_total",
        "ttft_s": "burnish_time_to_first_token_seconds_sum",
        "request_s": "burnish_request_seconds_sum",
    }
    return {name: found.get(metric, 0.0) for name, metric in names.items()}


def test_client_and_server_agree(base_url: str) -> None:
    target = find_target(base_url)
    before = told(base_url)
    run = run_load(target, Traffic(rate=20.0, requests=20, prompt_tokens=60, output_tokens=12))
    after = told(base_url)
    report = summarise(run.records)
    grown = {name: after[name] - before[name] for name in after}
    assert (report.num_answered, report.counted_by) == (20, "usage")
    assert grown["requests"] == 20
    assert grown["output_tokens"] == report.output_tokens == 20 * 12
    assert grown["prompt_tokens"] == report.prompt_tokens
    assert report.ttft_ms is not None
    assert report.e2e_ms is not None
    assert 20 * report.ttft_ms.mean / 1e3 >= grown["ttft_s"], "the way to the server and back comes on top"
    assert report.ttft_ms.mean / 1e3 - grown["ttft_s"] / 20 < 0.05
    assert abs(report.e2e_ms.mean / 1e3 - grown["request_s"] / 20) < 0.05


def test_prefixes_of_a_trace_are_found_in_the_cache(base_url: str, tmp_path: Path) -> None:
    """Ten turns of one conversation, a block more each; then ten prompts that share nothing."""
    rows = [
        {"timestamp": 300 * i, "input_length": 512 * (i + 1), "output_length": 64, "hash_ids": list(range(i + 1))}
        for i in range(10)
    ]
    trace = tmp_path / "turns.jsonl"
    trace.write_text("\n".join(map(json.dumps, rows)))
    target = find_target(base_url)
    cached: list[float] = []
    for traffic in (
        Traffic(trace=trace, shrink=8, users=1),
        Traffic(users=1, requests=10, prompt_tokens=300, output_tokens=8, seed=1),
    ):
        before = told(base_url)
        run = run_load(target, traffic)
        after = told(base_url)
        assert summarise(run.records).num_answered == 10
        share = (after["cached_tokens"] - before["cached_tokens"]) / (after["prompt_tokens"] - before["prompt_tokens"])
        cached.append(share)
    assert cached[0] > 0.6
    assert cached[1] < 0.1
