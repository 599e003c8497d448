"""burnish profile URL against a real server under load, and what it says when it cannot."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest

from tests.cli.conftest import Run
from tests.cli.conftest import burnish as run_here
from tests.e2e.processes import Running, burnish

__all__ = ["run_here"]
KEY = {"Authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def keyed(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    log = tmp_path_factory.mktemp("server") / "log.txt"
    settings = log.with_name("settings.toml")
    settings.write_text("[service]\nprofile_s = 5.0\n")
    words = ("serve", tiny_folder, "--port", 0, "--threads", 1, "--api-key", "secret", "--settings", settings)
    with burnish(log, *words) as running:
        yield running


def generate(url: str, num_tokens: int) -> None:
    body = {"model": "tiny", "prompt": [1, 2, 3, 4], "max_tokens": num_tokens, "ignore_eos": True, "temperature": 0}
    model = httpx.get(f"{url}/v1/models", headers=KEY).json()["data"][0]["id"]
    httpx.post(f"{url}/v1/completions", json=body | {"model": model}, headers=KEY, timeout=60).raise_for_status()


def test_a_running_server_is_recorded(keyed: Running, run_here: Run, tmp_path: Path) -> None:
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            generate(keyed.url, 50)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        file = tmp_path / "trace.json"
        found = run_here("profile", keyed.url, "--steps", 20, "--api-key", "secret", "--trace", file, "--json").json
    finally:
        stop.set()
        thread.join()
    assert found["summary"]["num_steps"] == 20
    trace = json.loads(file.read_text())
    assert sum(event.get("cat") == "step" for event in trace["traceEvents"]) == 20
    assert {"attend", "sample", "decode"} <= {event["name"] for event in trace["traceEvents"]}


def test_the_server_says_what_is_wrong(keyed: Running, run_here: Run, tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    assert "missing or wrong API key" in run_here("profile", keyed.url, "--trace", file).complaint
    wrong = run_here("profile", keyed.url, "--api-key", "wrong", "--trace", file)
    assert "missing or wrong API key" in wrong.complaint
    much = run_here("profile", keyed.url, "--api-key", "secret", "--steps", 10_000, "--trace", file)
    assert "Use 1 to 256" in much.complaint
    idle = run_here("profile", keyed.url, "--api-key", "secret", "--trace", file)
    assert (idle.code, idle.out) == (1, "")
    assert "nothing to do for 5 s. Send requests" in idle.err
    assert not file.exists()


def test_nobody_profiles_a_server_without_keys(server: Running, run_here: Run, tmp_path: Path) -> None:
    done = run_here("profile", server.url, "--trace", tmp_path / "trace.json")
    assert "a server without API keys cannot be profiled. Start it with --api-key KEY" in done.complaint


class Stranger(BaseHTTPRequestHandler):
    """Some other server."""

    def do_POST(self) -> None:
        status, body = (200, b"<html>") if self.path.startswith("/page") else (418, b"teapot")
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_what_is_no_burnish_server_is_told_apart(run_here: Run, tmp_path: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), Stranger) as stranger:
        threading.Thread(target=stranger.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{stranger.server_port}"
        for path, told in (("/page", "answered with no profile"), ("", "answered with status 418")):
            done = run_here("profile", url + path, "--trace", tmp_path / "trace.json")
            assert (done.code, done.err.count("\n")) == (1, 1)
            assert told in done.err
        stranger.shutdown()
    gone = run_here("profile", url, "--trace", tmp_path / "trace.json")
    assert "cannot be reached" in gone.err
    assert gone.err.count("\n") == 1
