"""The measuring process: results, progress and errors come back whole."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from burnish.assemble import open_measured
from burnish.cli.measured import MEASURED
from burnish.compress.chain import decoder_chain
from burnish.compress.recipes import find_recipe
from burnish.compress.walk import compress
from burnish.core.errors import BadCheckpoint, BadSettings, BurnishError, NotFound
from burnish.measure.bench import BenchSpec, bench_engine
from burnish.measure.machine import this_machine
from burnish.measure.memory import peak_rss_bytes
from burnish.measure.speed import Workload
from burnish.models.checkpoint import load_decoder, save_checkpoint
from tests.tiny import tiny_decoder

SMALL = Workload(prompt_tokens=16, output_tokens=4, repeat=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_checkpoint(tiny_decoder(), folder, family="llama")
    return folder


def test_a_process_of_its_own_measures(folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    spec = BenchSpec(model=str(folder), threads=1, workload=SMALL)
    start = time.monotonic()
    result = bench_engine(spec, MEASURED, progress=lambda done, total: seen.append((done, total)))
    assert result.spec == spec
    assert (result.weights, result.threads, result.machine) == ("dense", 1, this_machine())
    for rate in (result.prefill_tokens_per_s, result.decode_tokens_per_s):
        assert 0 < rate.min <= rate.median <= rate.max
    assert 0 < result.ready_s < time.monotonic() - start
    assert 20 * 2**20 < result.peak_rss_bytes < 4 * 2**30
    assert 0 <= result.python_share.median < 1
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("spec", "fault", "words"),
    [
        (BenchSpec(model="/nowhere"), NotFound, "'/nowhere' does not exist"),
        (BenchSpec(model="random:/nowhere.json"), (NotFound, BadCheckpoint), "nowhere"),
    ],
)
def test_a_fault_over_there_is_raised_here(spec: BenchSpec, fault: type[BurnishError], words: str) -> None:
    with pytest.raises(fault, match=words) as caught:
        bench_engine(spec, MEASURED)
    assert "\n" not in str(caught.value)


def test_a_process_that_dies_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(BurnishError, match="the measured process died: exit status 1"):
        bench_engine(BenchSpec(model="x"), MEASURED)


@pytest.mark.parametrize(("weights", "made"), [(None, "dense"), ("int8", "int8"), ("int4", "int4-g64")])
def test_random_weights_of_a_shape(folder: Path, weights: str | None, made: str) -> None:
    loaded = open_measured(f"random:{folder / 'config.json'}", weights)
    assert loaded.weights == made


def test_int4_takes_the_largest_groups_that_fit(tmp_path: Path) -> None:
    save_checkpoint(tiny_decoder(hidden_size=128, inner_size=96), tmp_path / "m", family="llama")
    assert open_measured(f"random:{tmp_path / 'm' / 'config.json'}", "int4").weights == "int4-g32"


def test_the_format_asked_for_must_be_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"are dense, not int8. Make them first: burnish compress .* --recipe int8"):
        open_measured(str(folder), "int8")
    loaded = load_decoder(folder)
    compress(decoder_chain(loaded.decoder), find_recipe("int4"))
    save_checkpoint(loaded.decoder, tmp_path / "out", family="llama", raw_config=loaded.raw_config)
    assert open_measured(str(tmp_path / "out"), "int4").weights == "int4-g64"


def test_peak_memory_is_that_of_the_process_not_of_its_parent() -> None:
    code = "from burnish.measure.memory import peak_rss_bytes as p; a = p(); x = b'1' * 10**8; print(a, p())"
    mine = bytearray(b"1") * (3 * 10**8)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, result.stdout.split())
    assert peak_rss_bytes() > len(mine) > before
    assert 0.9e8 < after - before < 1.2e8


def test_the_machine_is_described() -> None:
    machine = this_machine("model name\t: Test CPU 3000\nflags\t\t: fpu avx2 fma avx512_vnni sse\n")
    assert machine.cpu == "Test CPU 3000"
    assert machine.features == ("avx2", "fma", "avx512_vnni")
    assert machine.num_cores >= 1
    assert machine.memory_bytes > 2**28
    assert json.dumps(this_machine().features)
    assert this_machine("").cpu
