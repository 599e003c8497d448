"""burnish up ends as a server that never loaded torch."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from burnish.cli.compress import write_variant
from burnish.cli.up import app
from burnish.models.locate import held_out_text
from tests.tiny import tiny_decoder

MODELS = "/v1/models"


@pytest.fixture
def slim(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that is compressed already: up has one variant to measure."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_variant(tiny_folder, tmp_path / "slim", "int8", lambda *_: None)
    return tmp_path / "slim"


def ask(url: str, key: str) -> str:
    request = urllib.request.Request(url + MODELS, headers={"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(json.load(answer)["data"][0]["id"])


def test_the_server_has_no_torch_and_knows_its_keys(slim: Path, prose: Path) -> None:
    keys = ["--api-key", "one,[1]", "--api-key", "two"]
    command = [
        "up",
        str(slim),
        "--data",
        str(prose),
        "--port",
        "0",
        "--json",
        "--threads",
        "1",
        "--time-limit",
        "30s",
        *keys,
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "burnish.cli.main", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
    ) as process:
        try:
            assert process.stderr is not None
            said = ""
            while "Serving" not in said:
                said = process.stderr.readline()
                assert said, "it ended early"
            url = said.split("Open ")[1].split("/ to chat")[0]
            assert ask(url, "one,[1]") == ask(url, "two") == "slim"
            with pytest.raises(urllib.error.HTTPError, match="401"):
                ask(url, "one")
            maps = Path(f"/proc/{process.pid}/maps").read_text()
            shown = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            assert "libtorch" not in maps
            assert b"two" not in shown
            assert b"--threads=1" in shown
            process.send_signal(signal.SIGINT)
            told, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0
    assert json.loads(told)["best"].startswith("as it is")


@pytest.mark.slow
def test_a_short_context_is_measured_with_a_short_workload(
    tmp_path: Path, prose: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from burnish.models.checkpoint import save_checkpoint
    from tests.conftest import write_byte_tokenizer

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    save_checkpoint(tiny_decoder(max_positions=24), tmp_path / "short", family="llama")
    write_byte_tokenizer(tmp_path / "short")
    write_variant(tmp_path / "short", tmp_path / "slim", "int8", lambda *_: None)
    result = CliRunner().invoke(
        app, [str(tmp_path / "slim"), "--data", str(prose), "--only-measure", "--time-limit", "30s", "--json"]
    )
    assert result.exit_code == 0, result.exception
    assert json.loads(result.stdout)["report"]["conditions"]["lengths"] == "20 in, 4 out"


def test_our_own_text_needs_no_model() -> None:
    assert len(held_out_text().read_text(encoding="utf-8")) > 100_000


def test_without_tokenizer_it_is_one_line(tmp_path: Path, slim: Path, prose: Path) -> None:
    (slim / "tokenizer.json").unlink()
    command = [sys.executable, "-m", "burnish.cli.main", "up", str(slim), "--data", str(prose), "--only-measure"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    [line] = result.stderr.splitlines()
    assert "holds no tokenizer.json" in line
