"""A disk that is full in the middle of a file: one line, exit code 2, nothing left that could be loaded."""

import os
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from burnish.models.checkpoint import save_checkpoint
from tests.conftest import write_byte_tokenizer
from tests.tiny import tiny_decoder

LIMIT = 100_000  # bytes of a file: config and tokenizer fit, weights and training states do not
RECIPES = {
    "int8": "",  # the artifact does not fit
    "gptq": '[[pass]]\nname = "gptq"\nformats = ["int8"]\n',  # nor the data behind a part
    "distilled": (
        '[[pass]]\nname = "shrink"\ninner = 0.25\n[[pass]]\nname = "distill"\nsteps = 1\nbatch = 1\nlength = 16\n'
    ),  # nor what was learned
}
BROKEN = {"int8": "/out' ", "gptq": "/out.unfinished/flow-0001.safetensors' ", "distilled": "/training-1.pt' "}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "model"
    save_checkpoint(tiny_decoder(inner_size=512), folder, family="llama", dtype=torch.float32)
    write_byte_tokenizer(folder)
    return folder


def starved(*words: object) -> subprocess.CompletedProcess[str]:
    """A command whose every file ends at the limit, as if the disk did."""
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (LIMIT, LIMIT))
    command = [sys.executable, "-m", "burnish.cli.main", *map(str, words)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, check=False, env=environment)


def complaint(ended: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("This takes at most")]
    assert (ended.returncode, ended.stdout, len(lines)) == (2, "", 1), ended
    return lines[0]


@pytest.mark.parametrize("recipe", RECIPES)
def test_compressing(model: Path, tmp_path: Path, recipe: str) -> None:
    words: tuple[object, ...] = ("compress", model, tmp_path / "out")
    if RECIPES[recipe]:
        (tmp_path / "recipe.toml").write_text(RECIPES[recipe])
        (tmp_path / "text.txt").write_text("".join(f"Line {i} has {i * i % 97} foxes.\n" for i in range(300)))
        words += ("--recipe", tmp_path / "recipe.toml", "--calibration", tmp_path / "text.txt")
        words += ("--samples", 32, "--length", 64)
    told = complaint(starved(*words))
    assert f"{BROKEN[recipe]}cannot be written: " in told
    assert "File too large" in told
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left <= {"recipe.toml", "text.txt", "key.json"}
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["gguf", "onnx", "hf"])
def test_exporting(model: Path, tmp_path: Path, kind: str) -> None:
    pytest.importorskip("onnx" if kind == "onnx" else "gguf")
    out = tmp_path / {"gguf": "model.gguf", "onnx": "model.onnx", "hf": "folder"}[kind]
    assert f"{str(out)!r} cannot be written: " in complaint(starved("export", model, out, "--to", kind))
    assert list(tmp_path.iterdir()) == []
