"""The manifest: written in one form, read strictly; folders appear whole or not at all."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from burnish.core.errors import BadCheckpoint, BadSettings
from burnish.core.records import LayerRecord
from burnish.registry.artifact import (
    MANIFEST,
    Manifest,
    check_files,
    content_hash,
    describe,
    new_folder,
    read_manifest,
    write_manifest,
)
from burnish.registry.golden import make_golden

RECORD = LayerRecord(
    name="layers.0.attn.q_proj", format="int8", bits=8.5, bytes_before=16, bytes_after=5, relative_error=0.25
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (model / "tokenizer.json").write_text("{}")
    return model


@pytest.fixture
def manifest(folder: Path) -> Manifest:
    golden = make_golden(((1, 2),), np.array([[0.5, -1.25, 3.0]], np.float32))
    return describe(folder, parent=folder, recipe="int8", weights="int8", records=[RECORD], golden=golden)


def test_what_is_written_is_read(folder: Path, manifest: Manifest) -> None:
    write_manifest(folder, manifest)
    assert read_manifest(folder) == manifest


def test_the_form_is_canonical(folder: Path, manifest: Manifest) -> None:
    write_manifest(folder, manifest)
    first = (folder / MANIFEST).read_bytes()
    again = read_manifest(folder)
    assert again is not None
    write_manifest(folder, again)
    assert (folder / MANIFEST).read_bytes() == first
    assert first.endswith(b"\n")
    assert list(json.loads(first)) == sorted(json.loads(first))
    assert sorted(path.name for path in folder.iterdir()) == sorted([*manifest.files, MANIFEST])


def test_it_says_where_the_artifact_comes_from(folder: Path, manifest: Manifest) -> None:
    assert manifest.parent.name == "model"
    assert manifest.parent.sha256 == content_hash(folder)
    assert manifest.tools["torch"].startswith("2.")
    assert set(manifest.files) == {"config.json", "model.safetensors", "tokenizer.json"}


def test_a_folder_without_manifest_has_none(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    assert read_manifest(tmp_path / "missing") is None
    (tmp_path / "model.bin").write_bytes(b"")
    assert read_manifest(tmp_path / "model.bin") is None


def _without(key: str, data: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in data.items() if k != key}


@pytest.mark.parametrize("key", ["schema_version", "parent", "recipe", "files", "records", "golden", "created"])
def test_a_missing_key_is_named(folder: Path, manifest: Manifest, key: str) -> None:
    write_manifest(folder, manifest)
    path = folder / MANIFEST
    path.write_text(json.dumps(_without(key, json.loads(path.read_text()))))
    with pytest.raises(BadCheckpoint, match=f"{key}: Field required. Make the artifact again") as fault:
        read_manifest(folder)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("key", ["recipe_text", "search", "quality", "latency"])
def test_a_manifest_from_before_a_key_was_there_is_read(folder: Path, manifest: Manifest, key: str) -> None:
    write_manifest(folder, replace(manifest, recipe_text="[[pass]]"))
    path = folder / MANIFEST
    path.write_text(json.dumps(_without(key, json.loads(path.read_text()))))
    found = read_manifest(folder)
    assert found is not None
    assert found.recipe_text == (None if key == "recipe_text" else "[[pass]]")


@pytest.mark.parametrize("where", [(), ("parent",), ("golden",), ("records", 0), ("golden", "rows", 0)])
def test_an_unknown_key_is_named_at_any_depth(folder: Path, manifest: Manifest, where: tuple[str | int, ...]) -> None:
    write_manifest(folder, manifest)
    path = folder / MANIFEST
    data = json.loads(path.read_text())
    inner = data
    for step in where:
        inner = inner[step]
    inner["colour"] = "red"
    path.write_text(json.dumps(data))
    with pytest.raises(BadCheckpoint, match="colour: Unexpected keyword argument"):
        read_manifest(folder)


def test_a_value_of_the_wrong_type_is_not_converted(folder: Path, manifest: Manifest) -> None:
    write_manifest(folder, manifest)
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"created": "7"}))
    with pytest.raises(BadCheckpoint, match="created: Input should be a valid integer"):
        read_manifest(folder)


def test_another_schema_is_refused(folder: Path, manifest: Manifest) -> None:
    write_manifest(folder, replace(manifest, schema_version=99))
    with pytest.raises(BadCheckpoint, match="schema version 99"):
        read_manifest(folder)


@given(data=st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_random_bytes_give_one_clear_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(data)
    with pytest.raises(BadCheckpoint) as fault:
        read_manifest(tmp_path)
    assert "\n" not in str(fault.value)


@given(cut=st.integers(0, 10**6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_a_truncated_manifest_is_refused(folder: Path, manifest: Manifest, cut: int) -> None:
    write_manifest(folder, manifest)
    path = folder / MANIFEST
    data = path.read_bytes()
    path.write_bytes(data[: cut % (len(data) - 2)])
    with pytest.raises(BadCheckpoint):
        read_manifest(folder)


def test_one_changed_byte_is_noticed(folder: Path, manifest: Manifest) -> None:
    assert check_files(folder, manifest) == ()
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[5000] ^= 1
    weights.write_bytes(data)
    assert check_files(folder, manifest) == ("model.safetensors",)
    assert content_hash(folder) != manifest.parent.sha256
    (folder / "config.json").unlink()
    assert check_files(folder, manifest) == ("config.json", "model.safetensors")


def test_the_content_hash_covers_weights_and_configuration_only(folder: Path) -> None:
    before = content_hash(folder)
    (folder / "README.md").write_text("words")
    (folder / "tokenizer.json").write_text("[]")
    assert content_hash(folder) == before
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    assert content_hash(folder) != before


def test_the_content_hash_of_a_file_is_its_sha256(folder: Path) -> None:
    path = folder / "model.safetensors"
    assert content_hash(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_new_folder_appears_when_it_is_full(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with new_folder(out) as staging:
        (staging / "a").write_text("1")
        assert not out.exists()
    assert [path.name for path in out.iterdir()] == ["a"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert out.stat().st_mode & 0o777 == 0o755


def fill_and_fail(out: Path) -> None:
    with new_folder(out) as staging:
        (staging / "a").write_text("1")
        raise KeyboardInterrupt


def test_a_fault_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fill_and_fail(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with new_folder(out) as staging:
        (staging / "a").write_text("1")
    assert (out / "a").exists()


def test_what_is_there_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(BadSettings, match="Name a new folder"), new_folder(taken):
            pytest.fail("the block must not run")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_place_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadSettings, match="cannot be made"), new_folder(tmp_path / "file" / "out"):
        pytest.fail("the block must not run")


def test_the_room_loads_no_torch() -> None:
    code = "import sys, burnish.registry.artifact; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
