"""Traces of every format: read, refused line by line, and drawn anew by a seed."""

import json
import statistics
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest

from burnish.core.errors import BadSettings, NotFound
from burnish.measure.load.arrivals import read_traffic
from burnish.measure.load.traffic import Arrival
from tests.conftest import shared

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
AZURE = f"{HEADER}\r\n2023-11-16 18:15:46.6805900,374,44\r\n2023-11-16 18:15:47.1805901,396,109\r\n"
MOONCAKE = [
    {"timestamp": 1000, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]},
    {"timestamp": 1250, "input_length": 512, "output_length": 6, "hash_ids": [0]},
]
WINDOWS = "0,2,1.0,Gamma,1.0,0.5\n600,0,0,,0,0\n1200,5,3.0,Weibull,0.5,0.1\n"
LENGTHS = {
    "0": {"input_tokens": "{10: 0.25, 20: 0.75}", "output_tokens": "{3: 1.0}"},
    "600": {"input_tokens": "{}", "output_tokens": "{}"},
    "1200": {"input_tokens": "{7: 1.0}", "output_tokens": "{1: 0.5, 2: 0.5}"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "azure.csv").write_bytes(AZURE.encode())
    (tmp_path / "mooncake.jsonl").write_text("\n".join(map(json.dumps, MOONCAKE)) + "\n")
    client(tmp_path / "clients" / "chunk-1-trace.csv")
    return tmp_path


def client(file: Path, windows: str = WINDOWS, lengths: Any = LENGTHS) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text(windows)
    file.with_name(file.name.replace("-trace.csv", "-dataset.json")).write_text(json.dumps(lengths))
    return file


def test_azure(folder: Path) -> None:
    first, second = read_traffic(folder / "azure.csv")
    assert first == Arrival(at_s=0.0, prompt_tokens=374, output_tokens=44)
    assert second.at_s == pytest.approx(0.5, abs=1e-6)
    assert (second.prompt_tokens, second.output_tokens) == (396, 109)


def test_mooncake(folder: Path) -> None:
    assert list(read_traffic(folder / "mooncake.jsonl")) == [
        Arrival(at_s=0.0, prompt_tokens=600, output_tokens=5, prefix_ids=(0, 1)),
        Arrival(at_s=0.25, prompt_tokens=512, output_tokens=6, prefix_ids=(0,)),
    ]


def test_a_trace_is_begun_later(folder: Path) -> None:
    [later] = read_traffic(folder / "mooncake.jsonl", start_s=0.2)
    assert later.at_s == pytest.approx(0.05)
    assert later.prompt_tokens == 512
    with pytest.raises(BadSettings, match=r"ends after 0.25 s, before 9 s. Begin earlier"):
        next(read_traffic(folder / "mooncake.jsonl", start_s=9))


def test_servegen_draws_rates_shapes_and_lengths(folder: Path) -> None:
    found = list(read_traffic(folder / "clients" / "chunk-1-trace.csv", seed=1))
    early = [arrival for arrival in found if arrival.at_s < 600]
    late = [arrival for arrival in found if arrival.at_s >= 600]
    assert [arrival.at_s for arrival in found] == sorted(arrival.at_s for arrival in found)
    assert len(early) == pytest.approx(1200, abs=120)  # 2 a second; 3.5 standard deviations of a Poisson count
    assert all(1200 <= arrival.at_s < 1800 for arrival in late), "the quiet window is quiet"
    assert len(late) == pytest.approx(3000, rel=0.25)  # bursts vary more
    prompts = Counter(arrival.prompt_tokens for arrival in early)
    assert set(prompts) == {10, 20}
    assert prompts[20] / len(early) == pytest.approx(0.75, abs=0.05)
    assert {(a.prompt_tokens, a.output_tokens) for a in late} == {(7, 1), (7, 2)}
    gaps = [b.at_s - a.at_s for a, b in pairwise(late)]
    assert statistics.stdev(gaps) / statistics.mean(gaps) == pytest.approx(5**0.5, rel=0.25)  # Weibull of shape 1/2


def test_servegen_is_reproduced_by_its_seed_and_begun_anywhere(folder: Path) -> None:
    file = folder / "clients" / "chunk-1-trace.csv"
    assert list(read_traffic(file, seed=1)) == list(read_traffic(file, seed=1))
    assert list(read_traffic(file, seed=1)) != list(read_traffic(file, seed=2))
    later = list(read_traffic(file, seed=1, start_s=1500))
    assert 0 <= later[0].at_s < 10
    assert later[-1].at_s < 300
    with pytest.raises(BadSettings, match="no requests after 1800 s"):
        next(read_traffic(file, start_s=1800))


def test_clients_of_a_folder_are_merged(folder: Path) -> None:
    client(folder / "clients" / "chunk-2-trace.csv", "0,8,1,Gamma,1,1\n")
    both = [arrival for arrival in read_traffic(folder / "clients") if arrival.at_s < 600]
    assert len(both) == pytest.approx(6000, rel=0.05)
    assert [arrival.at_s for arrival in both] == sorted(arrival.at_s for arrival in both)
    empty = folder / "empty"
    empty.mkdir()
    with pytest.raises(BadSettings, match=r"holds no \*-trace.csv"):
        next(read_traffic(empty))


GOOD = json.dumps(MOONCAKE[0])
BROKEN = {
    "azure row": ("t.csv", f"{HEADER}\n2023-11-16 18:15:46,374,44\n2023-11-16 18:15:47,many,4\n", "line 3 of"),
    "azure time": ("t.csv", f"{HEADER}\nyesterday,374,44\n", "line 2 of"),
    "azure fields": ("t.csv", f"{HEADER}\n2023-11-16 18:15:46,374\n", "line 2 of"),
    "azure no tokens": ("t.csv", f"{HEADER}\n2023-11-16 18:15:46,0,4\n", "line 2 of"),
    "azure header": ("t.csv", "time,in,out\n", "is broken: 'time,in,out'. It should be the header TIMESTAMP"),
    "azure order": (
        "t.csv",
        f"{HEADER}\n2023-11-16 18:15:46,3,4\n2023-11-16 18:15:45,3,4\n",
        "request 2 of",
    ),
    "azure empty": ("t.csv", f"{HEADER}\n", "has no requests"),
    "nothing at all": ("t.csv", "", "has no requests"),
    "mooncake JSON": ("t.jsonl", f"{GOOD}\n\n{{'timestamp'\n", "line 3 of"),
    "mooncake field": ("t.jsonl", '{"timestamp": 1, "input_length": 5, "output_length": 1}', "line 1 of"),
    "mooncake ids": ("t.jsonl", GOOD.replace("[0, 1]", "[0]"), "one of hash_ids per 512 tokens"),
    "mooncake list": ("t.jsonl", "[1, 2]", "line 1 of"),
    "mooncake time": ("t.jsonl", GOOD.replace("1000", "NaN"), "line 1 of"),
    "mooncake empty": ("t.jsonl", "\n", "has no requests"),
    "servegen row": ("a-trace.csv", "0,1,1,Gamma,1,1\n600,fast,1,Gamma,1,1\n", "line 2 of"),
    "servegen family": ("a-trace.csv", "0,1,1,Pareto,1,1\n", "Gamma or Weibull"),
    "servegen fields": ("a-trace.csv", "0,1\n", "line 1 of"),
    "servegen negative": ("a-trace.csv", "0,-1,1,Gamma,1,1\n", "line 1 of"),
    "servegen empty": ("a-trace.csv", "", "has no requests"),
    "unknown kind": ("t.txt", "a", "is of no known kind"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_named(tmp_path: Path, name: str) -> None:
    file, text, fault = BROKEN[name]
    (tmp_path / file).write_text(text)
    (tmp_path / "a-dataset.json").write_text(json.dumps(LENGTHS))
    with pytest.raises(BadSettings) as refused:
        list(read_traffic(tmp_path / file))
    assert fault in str(refused.value)
    assert file in str(refused.value)


@pytest.mark.parametrize("lengths", [[], {}, {"0": {"input_tokens": "{1: 1}"}}, {"0": 3}, {"x": {}}])
def test_profiles_without_lengths(tmp_path: Path, lengths: Any) -> None:
    with pytest.raises(BadSettings, match=r"a-dataset\.json' is no JSON object of windows"):
        next(read_traffic(client(tmp_path / "a-trace.csv", lengths=lengths)))


@pytest.mark.parametrize("lengths", ["{1: 0.0}", "{1: -1}", "{'a': 1}", "[1, 2]", "{1: 1", "1 + 1", "{1: None}"])
def test_profiles_with_broken_lengths(tmp_path: Path, lengths: str) -> None:
    broken = {"0": {"input_tokens": lengths, "output_tokens": "{1: 1}"}}
    with pytest.raises(BadSettings, match=r"a-dataset\.json' has lengths at 0 s that are no"):
        next(read_traffic(client(tmp_path / "a-trace.csv", lengths=broken)))


def test_what_is_missing(tmp_path: Path) -> None:
    for name in ("t.csv", "t.jsonl", "a-trace.csv"):
        with pytest.raises(NotFound, match=f"{name}' does not exist"):
            next(read_traffic(tmp_path / name))
    (tmp_path / "a-trace.csv").write_text(WINDOWS)
    with pytest.raises(NotFound, match=r"a-dataset\.json' does not exist"):
        next(read_traffic(tmp_path / "a-trace.csv"))
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(BadSettings, match="Give a UTF-8 text file"):
        next(read_traffic(tmp_path / "t.csv"))


@pytest.mark.parametrize(
    ("path", "count"),
    [
        ("azure-llm-2023/AzureLLMInferenceTrace_code.first-two-thirds.csv", 5879),
        ("azure-llm-2023/AzureLLMInferenceTrace_conv.first-two-thirds.csv", 12_910),
        ("mooncake/conversation_trace.first-two-thirds.jsonl", 8020),
        ("mooncake/synthetic_trace.first-two-thirds.jsonl", 2662),
    ],
)
def test_the_shared_traces_are_read_whole(path: str, count: int) -> None:
    found = list(read_traffic(shared(f"traces/{path}")))
    assert (len(found), found[0].at_s) == (count, 0.0)
    assert 600 < found[-1].at_s < 3600


@pytest.mark.parametrize("name", ["m-small", "deepseek-r1", "mm-image"])
def test_the_shared_clients_come_at_their_rate(name: str) -> None:
    """All clients together, over their first ten minutes, within a tenth: bursts are long."""
    folder = shared(f"traces/servegen/{name}")
    rates = [float(file.read_text().split(",", 2)[1]) for file in folder.glob("*-trace.csv")]
    found = list(islice(read_traffic(folder), 20_000))
    within = [arrival for arrival in found if arrival.at_s < 600]
    assert len(within) / min(600.0, found[-1].at_s) == pytest.approx(sum(rates), rel=0.1)
