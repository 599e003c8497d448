"""What only a real process shows: its start, its streams, its end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "burnish.cli.main"]


def run(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env=os.environ | environment
    )


@pytest.mark.parametrize("words", ["--help", "--version", "generate --help", "up --nonsense", "genrate"])
def test_help_and_refusals_load_no_torch(words: str) -> None:
    code = (
        "import sys\n"
        "from burnish.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as left: code = left.code or 0\n"
        "print('torch' in sys.modules, code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words.split()], capture_output=True, text=True, check=True, timeout=120
    )
    expects_torch = words.startswith("up")  # its options name rooms that load it
    assert done.stdout.splitlines()[-1] == f"{expects_torch} {0 if 'help' in words or 'version' in words else 2}"


def test_json_is_all_there_is_on_stdout(tiny_folder: Path) -> None:
    done = run("generate", tiny_folder, "--max-tokens", 5, "--temperature", 0, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads(done.stdout)["token_ids"]) == 5


def test_a_model_that_cannot_be_served_is_one_line(tiny_folder: Path, tmp_path: Path) -> None:
    """The fault happens in the engine's process, and is told once."""
    for file in tiny_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[: 50_000 if file.suffix == ".safetensors" else None])
    done = run("serve", tmp_path, "--port", 0)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("burnish: ")
    assert "is truncated or broken" in line


def test_a_reader_that_leaves_is_no_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*COMMAND, "--version"], stdout=writing, stderr=subprocess.PIPE, text=True, check=False, timeout=120
        )
    finally:
        os.close(writing)
    assert (done.returncode != 0, done.stderr) == (True, "")
