"""Folders two want to make, and files that cannot be read: one clear line each."""

from pathlib import Path
from threading import Barrier, Thread

import pytest

from burnish.core.errors import BadCheckpoint, BadSettings
from burnish.registry.artifact import MANIFEST, content_hash, new_folder, read_manifest, refuse_used


def test_the_slower_of_two_is_told(tmp_path: Path) -> None:
    both_fill, told = Barrier(2), list[str]()

    def make(word: str) -> None:
        try:
            with new_folder(tmp_path / "out") as staging:
                (staging / "word").write_text(word)
                both_fill.wait(10)
        except BadSettings as error:
            told.append(str(error))

    threads = [Thread(target=make, args=(word,)) for word in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 1
    assert told[0].endswith("exists and is not an empty folder. Name a new folder")
    assert (tmp_path / "out" / "word").read_text() in ("one", "two")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_free_is_nothing_or_an_empty_folder(tmp_path: Path) -> None:
    refuse_used(tmp_path)
    refuse_used(tmp_path / "missing")
    (tmp_path / "file").write_text("")
    for used in (tmp_path, tmp_path / "file"):
        with pytest.raises(BadSettings, match="Name a new folder"):
            refuse_used(used)


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).mkdir()
    with pytest.raises(BadCheckpoint, match="cannot be read: Is a directory"):
        read_manifest(tmp_path)
    (tmp_path / "model.safetensors").symlink_to("nowhere")
    with pytest.raises(BadCheckpoint, match="cannot be read: No such file"):
        content_hash(tmp_path)
