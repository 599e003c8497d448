"""What burnish compress takes of memory: said before, refused above the limit, kept."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from burnish.cli.compress import Asked, write_variant
from burnish.models.checkpoint import save_checkpoint
from tests.cli.conftest import Run
from tests.conftest import write_byte_tokenizer
from tests.tiny import tiny_decoder

SHRINK = '[[pass]]\nname = "shrink"\ninner = 0.25\nlayers = 0.3\n'
STEPS = "steps = 3\nbatch = 4\nlength = 128\nlook_every = 1\n"
OWN = {
    "learned.toml": '[[pass]]\nname = "autoround"\nformats = ["int4-g32"]\nsteps = 2\nbatch = 2\n',
    "rotated.toml": '[[pass]]\nname = "rotate"\n[[pass]]\nname = "gptq"\nformats = ["int4-g32"]\n',
    "mixed.toml": 'average_bits = 6\n[[pass]]\nname = "gptq"\nformats = ["int4-g128", "int8"]\n',
    "shrunk.toml": SHRINK,
    "gradient.toml": f'{SHRINK}by = "gradient"\n',
    "distilled.toml": f'{SHRINK}[[pass]]\nname = "distill"\n{STEPS}',
    "all.toml": f'{SHRINK}[[pass]]\nname = "distill"\n{STEPS}[[pass]]\nname = "gptq"\nformats = ["int4-g32"]\n',
    "qat.toml": f'[[pass]]\nname = "qat"\nformats = ["int4-g32"]\n{STEPS}',
}


def test_the_command_refuses_and_leaves_nothing(burnish: Run, tiny_folder: Path, tmp_path: Path) -> None:
    refused = burnish("compress", tiny_folder, tmp_path / "out", "--memory", "1MB")
    assert "more than the 1 allowed. Allow more with --memory" in refused.complaint
    assert (
        "is no size. Write it as 8GiB" in burnish("compress", tiny_folder, tmp_path / "out", "--memory", "x").complaint
    )
    assert list(tmp_path.iterdir()) == []


def test_what_it_takes_is_told_before_it_starts(burnish: Run, tiny_folder: Path, tmp_path: Path) -> None:
    happened: list[object] = []
    asked = Asked(announce=lambda planned: happened.append((planned, [*tmp_path.iterdir()])))
    made = write_variant(tiny_folder, tmp_path / "out", "int8", lambda *_: happened.append("moved"), asked)
    assert happened[0] == (made.planned_bytes, [])
    assert happened[1:] == ["moved"] * made.num_layers
    lines = burnish("compress", tiny_folder, tmp_path / "told").err.splitlines()
    assert re.fullmatch(r"This takes at most [\d.]+ [KMG]iB of memory\.", lines[0])
    assert lines[1].startswith("Wrote ")
    assert burnish("compress", tiny_folder, tmp_path / "quiet", "--json").err == ""


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["int4-g32", "int4-gptq-g32", "int4-awq-gptq-g32", *OWN])
def test_no_run_takes_more_than_planned(burnish: Run, tmp_path: Path, recipe: str) -> None:
    """A model of 12 million weights; memory watched from outside, twenty times a second."""
    sizes = {"hidden_size": 512, "inner_size": 2048, "num_layers": 3, "num_heads": 8, "num_kv_heads": 2, "head_dim": 64}
    decoder = tiny_decoder(**sizes, vocab_size=2048)
    save_checkpoint(decoder, tmp_path / "model", family="llama", dtype=torch.bfloat16)
    write_byte_tokenizer(tmp_path / "model")
    text = tmp_path / "text.txt"
    text.write_text("".join(f"Line {i} has {i * i % 97} foxes and {i * 7 % 31} hens.\n" for i in range(4000)))
    if recipe in OWN:
        (tmp_path / recipe).write_text(OWN[recipe])
    words = ["--recipe", str(tmp_path / recipe) if recipe in OWN else recipe, "--json"]
    words += ["--calibration", str(text), "--samples", "16", "--length", "256"] if recipe != "int4-g32" else []
    command = [sys.executable, "-m", "burnish.cli.main", "compress", str(tmp_path / "model"), str(tmp_path / "out")]
    with subprocess.Popen([*command, *words], stdout=subprocess.PIPE, text=True) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, _anonymous(process.pid))
            time.sleep(0.05)
        assert process.stdout is not None
        planned = int(process.stdout.read().partition('"planned_bytes": ')[2].rstrip("}\n"))
    assert process.returncode == 0
    assert 0.3 * planned < peak < planned


def _anonymous(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024 if "RssAnon" in status else 0
