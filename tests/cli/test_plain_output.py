"""What is printed is what is there: names with brackets, text with colons, and how a model is stored."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from burnish.cli import generate, inspect, output
from burnish.cli.compress import write_variant
from burnish.models.checkpoint import load_decoder, save_checkpoint
from burnish.models.tensor_files import Stored, main_float
from tests.conftest import write_byte_tokenizer
from tests.tiny import tiny_decoder

PROMPT = "A :smile: of [bold]" + "word " * 40


def test_text_is_printed_plainly(tiny_folder: Path) -> None:
    words = [str(tiny_folder), "--prompt", PROMPT, "--max-tokens", "1", "--temperature", "0"]
    result = CliRunner().invoke(generate.app, words, env={"COLUMNS": "40"})
    assert result.stdout.startswith(PROMPT)


def test_a_bar_shows_brackets(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(output, "err", Console(stderr=True, force_terminal=True, width=120))
    with output.progress("Scoring with [v2]") as moved:
        moved(1, 2)
    assert "Scoring with [v2]" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_inspect_names_the_type_as_stored(tmp_path: Path, dtype: torch.dtype) -> None:
    save_checkpoint(tiny_decoder(), tmp_path / "m", family="llama", dtype=dtype)
    name = str(dtype).removeprefix("torch.")
    assert f'"weights": "dense", "dense_type": "{name}"' in look(tmp_path / "m", "--json")
    told = look(tmp_path / "m")
    assert f"stored as │ {name} " in " ".join(told.split())
    assert f"weights in {name}" in told


def test_inspect_needs_no_weights(tmp_path: Path) -> None:
    save_checkpoint(tiny_decoder(), tmp_path / "m", family="llama", dtype=torch.float16)
    (tmp_path / "m" / "model.safetensors").unlink()
    assert '"dense_type": "float16"' in look(tmp_path / "m", "--json")


@pytest.mark.parametrize(("recipe", "stored"), [("int8", "int8"), ("int4", "int4-g64")])
def test_inspect_names_the_format(tmp_path: Path, tiny_folder: Path, recipe: str, stored: str) -> None:
    write_variant(tiny_folder, tmp_path / "slim", recipe, lambda *_: None)
    assert f'"weights": "{load_decoder(tmp_path / "slim").weights}"' in look(tmp_path / "slim", "--json")
    assert f"{stored}, the rest bfloat16" in look(tmp_path / "slim")


def test_the_main_float_is_that_of_most_numbers() -> None:
    stored = {
        "a.weight": Stored((4, 4), "F16"),
        "b.weight": Stored((2, 2), "F32"),
        "c.weight_scale": Stored((99, 99), "F32"),
        "c.weight_packed": Stored((99, 99), "I32"),
    }
    assert main_float(stored) == torch.float16
    assert main_float({}) == torch.float32


def look(model: Path, *options: str) -> str:
    result = CliRunner().invoke(inspect.app, [str(model), *options], env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.exception
    return result.stdout


def test_a_folder_with_brackets_keeps_its_name(tiny_folder: Path, tmp_path: Path) -> None:
    odd = shutil.copytree(tiny_folder, tmp_path / "[v2]")
    write_byte_tokenizer(odd)
    command = [sys.executable, "-m", "burnish.cli.main", "compress", str(odd), str(tmp_path / "[out]")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "[out]" in result.stderr
    assert "[v2]" in look(odd)
