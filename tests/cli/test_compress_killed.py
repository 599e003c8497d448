"""A compression that is killed for real goes on where it was and writes the same artifact."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from burnish.models.checkpoint import save_checkpoint
from tests.cli.conftest import Run
from tests.conftest import write_byte_tokenizer
from tests.tiny import tiny_decoder

RECIPE = ("--recipe", "int4-autoround-g32", "--samples", "32", "--length", "64")


def text(folder: Path) -> Path:
    file = folder / "text.txt"
    file.write_text("".join(f"Line {i} has {i * i % 97} foxes and {i * 7 % 31} hens.\n" for i in range(200)))
    return file


def model(folder: Path) -> Path:
    decoder = tiny_decoder(num_layers=6, tied_embeddings=False)
    save_checkpoint(decoder, folder / "model", family="llama", dtype=torch.bfloat16)
    write_byte_tokenizer(folder / "model")
    return folder / "model"


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(burnish: Run, tmp_path: Path) -> None:
    parent, data = model(tmp_path), text(tmp_path)
    whole = burnish("compress", parent, tmp_path / "whole", "--calibration", data, *RECIPE, "--json").json
    assert whole["num_layers"] == 43
    out = tmp_path / "out"
    command = [sys.executable, "-m", "burnish.cli.main", "compress", str(parent), str(out), "--calibration", str(data)]
    process = subprocess.Popen([*command, *RECIPE], stderr=subprocess.DEVNULL)
    journal = tmp_path / "out.unfinished"
    deadline = time.monotonic() + 60
    while not list(journal.glob("part-0001*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not out.exists()
    finished = {path: path.stat().st_mtime_ns for path in journal.glob("part-*")}
    assert 2 <= len(finished) < 7
    refused = burnish("compress", parent, out, "--calibration", data, *RECIPE, "--seed", "1")
    assert "unfinished run with another calibration" in refused.complaint
    made = burnish("compress", parent, out, "--calibration", data, *RECIPE, "--json").json
    assert made["num_layers"] == 43
    for name in ("model.safetensors", "config.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not journal.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"model", "text.txt", "whole", "out"}
