"""Cached variants are made once, mend themselves, and are never mistaken for those of another model."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from burnish.cli import variants
from burnish.cli.compress import model_bytes, write_variant
from burnish.cli.output import Moved
from burnish.cli.variants import find_variant, variants_folder
from burnish.core.errors import BadSettings
from burnish.registry.artifact import MANIFEST, is_whole


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path: Path, tiny_folder: Path) -> Path:
    return shutil.copytree(tiny_folder, tmp_path / "model")


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def test_a_variant_is_made_once(model: Path) -> None:
    first = find_variant(model, "int8", quiet=True)
    made = (first / "model.safetensors").stat().st_mtime_ns
    assert find_variant(model, "int8", quiet=True) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == made
    assert find_variant(model, "dense", quiet=True) == model


def test_a_changed_byte_is_mended(model: Path) -> None:
    weights = find_variant(model, "int8", quiet=True) / "model.safetensors"
    sound = weights.read_bytes()
    flip(weights, -1)
    assert not is_whole(weights.parent)
    find_variant(model, "int8", quiet=True)
    assert weights.read_bytes() == sound


@pytest.mark.parametrize("manifest", ['{"schema', "", "{}"])
def test_a_half_written_manifest_is_mended(model: Path, manifest: str) -> None:
    out = find_variant(model, "int8", quiet=True)
    (out / MANIFEST).write_text(manifest)
    assert is_whole(find_variant(model, "int8", quiet=True))


def test_a_folder_without_its_manifest_is_mended(model: Path) -> None:
    out = find_variant(model, "int8", quiet=True)
    (out / MANIFEST).unlink()
    assert is_whole(find_variant(model, "int8", quiet=True))


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_another_tokenizer_is_another_model(model: Path, file: str) -> None:
    before = variants_folder(model)
    with (model / file).open("a") as opened:
        opened.write(" ")
    assert variants_folder(model) != before


def test_another_process_may_be_faster(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overtaken(parent: Path, out: Path, recipe: str, moved: Moved) -> None:
        write_variant(parent, out, recipe, moved)  # the other's
        write_variant(parent, out, recipe, moved)

    monkeypatch.setattr(variants, "write_variant", overtaken)
    assert is_whole(find_variant(model, "int8", quiet=True))


def test_two_processes_make_one_variant(model: Path) -> None:
    code = (
        "import sys, pathlib; from burnish.cli import variants\n"
        "print(variants.find_variant(pathlib.Path(sys.argv[1]), 'int8', quiet=True))"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(model)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    told = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert told[0] == told[1]
    assert is_whole(Path(told[0][0].strip()))
    assert [path.name for path in variants_folder(model).iterdir()] == ["int8"]


def test_a_cache_that_cannot_be_written_names_the_remedy(model: Path, cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(BadSettings, match=r"cannot be written: Not a directory\. .*XDG_CACHE_HOME"):
        find_variant(model, "int8", quiet=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_cache_names_the_remedy(model: Path, cache: Path) -> None:
    variants_folder(model).mkdir(parents=True)
    variants_folder(model).chmod(0o500)
    with pytest.raises(BadSettings, match=r"no right to write.*XDG_CACHE_HOME"):
        find_variant(model, "int8", quiet=True)


def test_only_what_is_loaded_counts(model: Path) -> None:
    size = (model / "model.safetensors").stat().st_size
    (model / "pytorch_model.bin").write_bytes(bytes(1000))
    (model / "adapter.safetensors").write_bytes(bytes(1000))
    assert model_bytes(model) == size
