"""SIGTERM and SIGINT on a real process: not ready at once, answers finish up to the deadline, exit 0."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from burnish.core.errors import BadSettings
from burnish.service.server import bind
from tests.service.double import TEXT, Double, serving

ROOT = Path(__file__).parents[2]
CHAT = {"model": "double", "messages": [{"role": "user", "content": "hi"}], "stream": True}


@contextmanager
def process(pause_s: float, drain_s: float) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "tests.service.slow_server", str(pause_s), str(drain_s), "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout
            running.stdout.readline()  # the port
            yield running, running.stdout.readline().strip()
        finally:
            running.kill()


def until_draining(url: str) -> httpx.Response:
    end = time.monotonic() + 2
    while (answer := httpx.get(f"{url}/health/ready")).status_code == 200:
        assert time.monotonic() < end
    return answer


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_streams_finish_then_exit_0(sent: signal.Signals) -> None:
    with process(0.01, 10) as (running, url), httpx.stream("POST", f"{url}/v1/chat/completions", json=CHAT) as answer:
        lines = answer.iter_lines()
        next(lines)
        running.send_signal(sent)
        not_ready = until_draining(url)
        assert (not_ready.status_code, not_ready.json()["error"]["code"]) == (503, "draining")
        refused = httpx.post(f"{url}/v1/chat/completions", json=CHAT)
        assert (refused.status_code, refused.headers["connection"]) == (503, "close")
        assert "retry-after" in refused.headers
        assert httpx.get(f"{url}/health/live").status_code == 200
        assert httpx.get(f"{url}/metrics").status_code == 200
        rest = "\n".join(lines)
        assert rest.count('"content"') == len(TEXT)  # nothing was lost
        assert rest.rstrip().endswith("data: [DONE]")
        assert running.wait(5) == 0
        assert running.stdout
        assert running.stdout.read() == "left\n"


def test_streams_past_the_deadline_end_with_an_error() -> None:
    with process(1.0, 0.2) as (running, url), httpx.stream("POST", f"{url}/v1/chat/completions", json=CHAT) as answer:
        lines = answer.iter_lines()
        next(lines)
        running.terminate()
        rest = [line for line in lines if line]
        assert '"error"' in rest[-1]
        assert "shutting down" in rest[-1]
        assert running.wait(5) == 0


def test_idle_server_leaves_at_once() -> None:
    with process(1.0, 30) as (running, _):
        before = time.monotonic()
        running.terminate()
        assert running.wait(5) == 0
        assert time.monotonic() - before < 2


def test_second_interrupt_does_not_wait() -> None:
    with process(1.0, 60) as (running, url), httpx.stream("POST", f"{url}/v1/chat/completions", json=CHAT) as answer:
        lines = answer.iter_lines()
        next(lines)
        running.send_signal(signal.SIGINT)
        until_draining(url)
        before = time.monotonic()
        running.send_signal(signal.SIGINT)
        running.wait(8)
        assert time.monotonic() - before < 5


def test_not_ready_while_the_engine_is_down(double: Double) -> None:
    with serving(double) as url:
        assert httpx.get(f"{url}/health/ready").json() == {"status": "ready"}
        double.ready = False
        down = httpx.get(f"{url}/health/ready")
        assert (down.status_code, down.json()["error"]["code"]) == (503, "engine_unavailable")
        assert httpx.get(f"{url}/health/live").json() == {"status": "live"}


def test_port_in_use_is_one_clear_line() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadSettings, match=f"port {port} on 127.0.0.1 is in use. Choose another with --port"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize(("host", "port"), [("no.such.host.invalid", 0), ("127.0.0.1", 70_000), ("203.0.113.7", 0)])
def test_addresses_that_cannot_be_had(host: str, port: int) -> None:
    with pytest.raises(BadSettings):
        bind(host, port)


def test_ipv6_where_there_is_one() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        listener = bind("::1", 0)
    except BadSettings:
        pytest.skip("no IPv6 loopback here")
    with listener:
        assert listener.family == socket.AF_INET6
