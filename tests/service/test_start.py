"""A server is live at once, ready when its model is loaded, and leaves at once when it is told to in between."""

import shutil
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

ROOT = Path(__file__).parents[2]
CHAT = {"model": "double", "messages": [{"role": "user", "content": "hi"}]}


@contextmanager
def started(*command: str) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


@contextmanager
def loading(load_s: float) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with started("-m", "tests.service.slow_server", "0", "1", str(load_s)) as running:
        assert running.stdout
        yield running, f"http://127.0.0.1:{running.stdout.readline().strip()}"


@contextmanager
def serve_command(model: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with started("-m", "burnish.cli.main", "serve", str(model), "--port", str(port)) as running:
        yield running, f"http://127.0.0.1:{port}"


def until_ok(url: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            if httpx.get(url, timeout=seconds).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < end
        time.sleep(0.05)


def check_is_starting(url: str) -> None:
    assert httpx.get(f"{url}/health/live").json() == {"status": "live"}
    for refused in (httpx.get(f"{url}/health/ready"), httpx.post(f"{url}/v1/chat/completions", json=CHAT)):
        error = refused.json()["error"]
        assert (refused.status_code, error["code"]) == (503, "engine_unavailable")
        assert error["type"] == "service_unavailable_error"
        assert error["message"] == "the engine is starting. Try again in a moment"
        assert int(refused.headers["retry-after"]) >= 1


def test_live_while_loading_then_ready() -> None:
    with loading(2) as (running, url):
        check_is_starting(url)
        assert running.stdout
        assert running.stdout.readline().strip() == url  # announced when, and not before
        assert httpx.get(f"{url}/health/ready").json() == {"status": "ready"}
        assert httpx.post(f"{url}/v1/chat/completions", json=CHAT).status_code == 200
        running.terminate()
        assert running.wait(5) == 0


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_loading_ends_it_at_once(sent: signal.Signals) -> None:
    with loading(3600) as (running, url):
        check_is_starting(url)
        running.send_signal(sent)
        assert running.communicate(timeout=5) == ("left\n", "")
        assert running.returncode == 0


def test_a_model_that_cannot_be_loaded_closes_the_port_and_says_why() -> None:
    with loading(-0.5) as (running, url):
        until_ok(f"{url}/health/live", 5)
        assert running.communicate(timeout=5) == ("no such model\nleft\n", "")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health/live")


def test_the_serve_command_is_live_before_it_is_ready(tiny_folder: Path) -> None:
    with serve_command(tiny_folder) as (running, url):
        until_ok(f"{url}/health/live")
        check_is_starting(url)  # the engine's process needs longer than this to load torch
        until_ok(f"{url}/health/ready")
        running.terminate()
        assert running.wait(20) == 0


def test_the_serve_command_leaves_while_loading(tiny_folder: Path) -> None:
    with serve_command(tiny_folder) as (running, url):
        until_ok(f"{url}/health/live")
        running.terminate()
        assert running.wait(5) == 0


def test_the_serve_command_tells_of_a_broken_model_in_one_line(tiny_folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(tiny_folder, tmp_path / "broken")
    next(broken.glob("*.safetensors")).write_bytes(b"no tensors")
    with serve_command(broken) as (running, _):
        said = running.communicate(timeout=60)[1]
    assert running.returncode == 2
    assert said.startswith("burnish: ")
    assert said.count("\n") == 1
