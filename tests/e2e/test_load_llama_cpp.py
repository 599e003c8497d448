"""Load on a server that is not ours: llama.cpp's, where $LLAMA_SERVER names its binary."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from burnish.measure.load.arrivals import Traffic
from burnish.measure.load.latency import LoadReport, summarise
from burnish.measure.load.probe import find_target
from burnish.measure.load.run import run_load
from tests.e2e.processes import until

BINARY = os.environ.get("LLAMA_SERVER")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BINARY is None, reason="LLAMA_SERVER names no binary")]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """llama-server with the built-in model."""
    assert BINARY is not None
    model = tmp_path_factory.mktemp("gguf") / "builtin.gguf"
    words = [sys.executable, "-m", "burnish.cli.main", "export", "builtin", str(model), "--to", "gguf"]
    subprocess.run(words, check=True, capture_output=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--host", "127.0.0.1", "--port", str(port), "--threads", "1", "--parallel", "4", "--ctx-size", "2048"]
    with subprocess.Popen(
        [BINARY, "--model", str(model), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            until(lambda: is_healthy(port), "llama-server")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def is_healthy(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/health") as answer:
            return bool(answer.status == 200)
    except (URLError, ConnectionError):
        return False


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("traffic", [{"rate": 5.0}, {"users": 3}])
def test_llama_cpp_is_measured(url: str, chat: bool, traffic: dict[str, float]) -> None:
    target = find_target(url, chat=chat)
    asked = Traffic(requests=15, prompt_tokens=100, output_tokens=16, seed=int(chat), **traffic)  # type: ignore[arg-type]
    report: LoadReport = summarise(run_load(target, asked).records)
    assert (report.num_answered, report.errors, report.counted_by) == (15, (), "usage")
    assert target.dialect.takes_ignore_eos
    assert report.output_tokens == 15 * 16
    assert report.prompt_tokens == pytest.approx(1500, rel=0.1)
    assert report.ttft_ms is not None
    assert report.e2e_ms is not None
    assert 0 < report.ttft_ms.p50 < report.e2e_ms.p50
